"""Paired samples as they were read, what messages call them, and the rows in which something is missing."""

from __future__ import annotations

import contextlib
import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # jaxtyping takes a tenth of a second to import
    from jaxtyping import Bool, Float, Shaped

MOST_NAMES = 12  # in a message


class Samples(NamedTuple):
    """Paired samples, and where they come from.

    Attributes:
      x: (n, *x_shape) samples; from a table, (n, columns).
      y: their n partners.
      x_names: the columns of x, or the name of the one array.
      y_names: the same for y.
      dropped: how many rows were left out because an entry was missing.
      groups: (n,) labels of the rows' groups; None if no column was named.
    """

    x: Shaped[np.ndarray, "n ..."]
    y: Shaped[np.ndarray, "n ..."]
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    dropped: int = 0
    groups: Shaped[np.ndarray, " n"] | None = None


@contextlib.contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn what the readers of the formats raise into a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8, got byte {error.object[error.start]:#x}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    # zipfile raises NotImplementedError for a compression that it lacks, and RuntimeError for an encrypted member.
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: damaged, or in a form that cannot be read ({error or type(error).__name__})") from error


def list_names(names: Sequence[str]) -> str:
    """Names separated by commas. If there are many, only the first ones and how many are left.

    Example:
      >>> from mi_jax.cli import samples
      >>> samples.list_names([f"x{number}" for number in range(20)])
      'x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11 and 8 more'
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def describe_overlap(names: Sequence[str]) -> str:
    """Why x and y must not hold the same columns."""
    return f"--x and --y must differ, both hold {list_names(names)}: the mutual information of data with itself is infinite"


def handle_missing(samples: Samples, source: str, drop: bool) -> Samples:
    """Leave out the rows with a missing entry if they are to be dropped, and refuse them otherwise."""
    if not samples.x.ndim or not samples.y.ndim:
        return samples
    missing, groups = _find_missing(samples.x) | _find_missing(samples.y), samples.groups
    if groups is not None and groups.shape == missing.shape:
        missing = missing | _find_missing(groups)
    count = int(missing.sum())
    if not count:
        return samples
    if drop:
        kept = None if groups is None else groups[~missing]
        return samples._replace(x=samples.x[~missing], y=samples.y[~missing], groups=kept, dropped=count)
    row = int(np.argmax(missing))
    others = f", and so have {count - 1} other rows" if count > 1 else ""
    raise ValueError(
        f"{source}: row {row + 1} (the first is 1) has an empty or NaN entry in {_name_missing(samples, row)}{others}; "
        "leave such rows out with --drop-missing, or fill them in"
    )


def _find_missing(rows: Shaped[np.ndarray, "n ..."]) -> Bool[np.ndarray, " n"]:
    if rows.dtype == object:
        return np.array([entry is None for entry in rows], bool)
    if rows.dtype.kind != "f" or not rows.size:
        return np.zeros(len(rows), bool)
    return np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))


def _name_missing(samples: Samples, row: int) -> str:
    """The first column in which this row is missing; if the samples are no table, the array."""
    for rows, names in ((samples.x, samples.x_names), (samples.y, samples.y_names)):
        if _find_missing(rows[row : row + 1]).any():
            entries: Float[np.ndarray, " entries"] = np.ravel(rows[row])
            return names[int(np.argmax(np.isnan(entries)))] if len(names) == entries.size else names[0]
    return "the column of --groups"
