"""How a results page is written: Markdown parts, tables and numbers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate


def table(lines: Sequence[Sequence[Any] | Mapping[str, Any]], header: Sequence[str] = ()) -> str:
    """A Markdown table; cells stand as they are written. "None." if there are no lines.

    Args:
      lines: rows of cells, or mappings from the header to a cell.
      header: the header, where the lines are rows.
    """
    if not lines:
        return "None."
    return tabulate(lines, headers=header or "keys", tablefmt="github", disable_numparse=True)


def listing(items: Iterable[str], nothing: str = "None.") -> str:
    """A Markdown list, or what to say if it is empty."""
    return "\n".join(f"- {item}" for item in items) or nothing


def minus(text: str) -> str:
    """A number with a proper minus sign."""
    return text.replace("-", "−")


def write(path: Path, parts: Iterable[str]) -> Path:
    """Write a page of these parts (headings, paragraphs, tables), an empty line between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    return path
