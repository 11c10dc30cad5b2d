"""Section 6.2 of the paper: self-consistency of estimates on images."""
