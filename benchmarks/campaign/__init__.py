"""One command for all rows, pages and figures of the paper."""
