"""Which rows count as one: each row alone, the rows of a group, or a block of neighbouring rows of a series.

Units are independent of one another; within a unit rows may depend on one another in any way. So units stay whole when the
rows are cut into folds, when errors are counted, and when data are permuted.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mi_jax import _checks

LEAST_UNITS = 10  # with fewer, nothing can be said of how they differ


class Units(NamedTuple):
    """The unit of each row.

    Attributes:
      kind: "rows", "groups" or "blocks".
      of_row: (n,) the number of each row's unit, from 0.
      length: the rows of a block, which are also the gap between what trains and what tests; 0 for other kinds.
    """

    kind: str
    of_row: Int[np.ndarray, " n"]
    length: int = 0

    @property
    def number(self) -> int:
        """How many units there are."""
        return int(self.of_row.max()) + 1

    @property
    def positions(self) -> Float[np.ndarray, " n"] | None:
        """Numbers that are less than 1 apart for rows that depend on one another; None if all rows are independent."""
        if self.kind == "rows":
            return None
        # Half a row less than the length, so that rounding does not matter.
        positions = self.of_row if self.kind == "groups" else np.arange(len(self.of_row)) / (self.length - 0.5)
        return positions.astype(np.float32)

    def sums(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " units"]:
        """The sum of each unit's values."""
        return np.bincount(self.of_row, values, self.number)

    def permute(self, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
        """An order in which y is independent of x: of rows at random, of groups of one size, or turned around."""
        num_rows = len(self.of_row)
        if self.kind == "rows":
            return rng.permutation(num_rows)
        if self.kind == "blocks":
            return np.roll(np.arange(num_rows), int(rng.integers(self.length, num_rows - self.length + 1)))
        return self.exchange(np.arange(num_rows), 1, rng)[0]

    def exchange(self, rows: Int[np.ndarray, " k"], number: int, rng: np.random.Generator) -> Int[np.ndarray, "m k"]:
        """Random orders of some rows, as indices among them. Whole groups or blocks change with others of their size.

        Args:
          rows: whole units.
          number: how many orders, m.
          rng: what draws them.
        """
        unit = np.unique(self.of_row[rows], return_inverse=True)[1]
        orders = np.tile(np.arange(rows.size), (number, 1))
        # By unit, and within it in the order of the file, so that rows of two units keep their positions.
        members = np.split(np.lexsort((rows, unit)), np.cumsum(np.bincount(unit))[:-1])
        sizes = np.array([positions.size for positions in members])
        for size in np.unique(sizes):
            alike = np.stack([members[one] for one in np.flatnonzero(sizes == size)])
            drawn = rng.permuted(np.tile(np.arange(len(alike)), (number, 1)), axis=1)
            orders[:, alike.ravel()] = alike[drawn].reshape(number, -1)
        return orders


def make_units(num_rows: int, groups: Any = None, blocks: int | None = None, folds: int = 2) -> Units:
    """The units of so many rows.

    Args:
      num_rows: n.
      groups: (n,) labels: numbers or strings. Rows of one label are one unit.
      blocks: rows in the order of a series; so many neighbours are one unit. What is left over goes to the last.
      folds: into how many test sets the units will be cut, each of 2 at least.

    Returns:
      `Units`; of single rows, if neither is given.

    Raises:
      TypeError: if `groups` is no array of labels, or `blocks` no integer.
      ValueError: if both are given, or there are too few units.

    Example:
      >>> from mi_jax.estimation.units import make_units
      >>> make_units(12, groups=[*"bacbdefghiij"]).of_row.tolist()
      [1, 0, 2, 1, 3, 4, 5, 6, 7, 8, 8, 9]
      >>> make_units(21, blocks=2).of_row.tolist()
      [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9]
    """
    if groups is not None and blocks is not None:
        raise ValueError("groups and blocks exclude one another: give one of them")
    if blocks is not None:
        return _make_blocks(num_rows, _checks.positive_int(blocks, "blocks"), folds)
    if groups is None:
        return Units("rows", np.arange(num_rows))
    labels = np.asarray(groups)
    if labels.shape != (num_rows,):
        raise ValueError(f"groups must hold a label for each of the {num_rows} rows, got shape {labels.shape}")
    if labels.dtype.kind not in "biufUSMm" and not (labels.dtype == object and all(isinstance(one, str) for one in labels)):
        raise TypeError(f"groups must hold numbers or strings, got dtype {labels.dtype}")
    if labels.dtype.kind in "fMm" and (missing := int(np.sum(labels != labels))):
        raise ValueError(f"groups must name a group for each row, got {missing} that are NaN or NaT")
    names, of_row = np.unique(labels, return_inverse=True)
    if len(names) < (least := max(LEAST_UNITS, 2 * folds)):
        raise ValueError(f"groups must be at least {least} with {folds} folds, got {len(names)}")
    return Units("groups", of_row)


def _make_blocks(num_rows: int, length: int, folds: int) -> Units:
    count, least = num_rows // length, max(LEAST_UNITS, 2 * folds)
    if count < least:
        text = f"blocks must be of at most {num_rows // least} rows, so that there are {least} of them"
        raise ValueError(f"{text}, got {length} of {num_rows} rows")
    return Units("blocks", np.minimum(np.arange(num_rows) // length, count - 1), length)


def check_exchangeable(units: Units) -> None:
    """Refuse a permutation test of groups none of which has another of its size."""
    if units.kind == "groups":
        sizes = np.bincount(units.of_row)
        if np.unique(sizes).size == sizes.size:
            raise ValueError(
                f"permutations exchange whole groups of the same size, and no two of the {sizes.size} have one; "
                "leave rows out until some do"
            )
