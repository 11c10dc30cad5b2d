"""Checks columns and rescales each by a strictly increasing map, or unmixes them first; both leave MI unchanged."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from mi_jax.estimation.components import depend_linearly, is_continuous, unmix
from mi_jax.estimation.inputs import as_rows

Transform = Literal["ranks", "components", "standardize", "none"]


class Columns(NamedTuple):
    """A map from rows to columns of unit scale, fitted to one set of rows and applied to others.

    Attributes:
      name: what the rows are called in messages.
      shape: the shape of a row.
      kept: the numbers of the columns used, among those of a flattened row. Constant columns are left out, and so are all
        but the first of equal columns.
      constant, duplicated: the numbers of the columns left out for either reason.
      knots: for each column used, values in increasing order.
      images: for each column used, what these values become. The map is linear between them, and beyond them.
      unmixing: the matrix to which the columns used are multiplied before they are mapped; None to leave them as they are.
    """

    name: str
    shape: tuple[int, ...]
    kept: np.ndarray
    constant: np.ndarray
    duplicated: np.ndarray
    knots: tuple[np.ndarray, ...]
    images: tuple[np.ndarray, ...]
    unmixing: Float[np.ndarray, "d d"] | None = None

    def __call__(self, rows: Any) -> Float[np.ndarray, "n d"]:
        """Rows of the same shape, transformed, as float32.

        Raises:
          ValueError: if their shape is another, or a value is not finite, or not in float32 once transformed.
        """
        flat = as_rows(rows, self.name)
        if np.shape(rows)[1:] != self.shape:
            raise ValueError(f"{self.name} must have rows of shape {self.shape}, got {np.shape(rows)[1:]}")
        with np.errstate(over="ignore", invalid="ignore"):
            tables = zip(_multiply(flat[:, self.kept], self.unmixing).T, self.knots, self.images, strict=True)
            images = np.stack([_map_through(*each) for each in tables], axis=1).astype(np.float32)
        if not np.isfinite(images).all():
            largest = np.abs(flat).max()
            raise ValueError(f"{self.name} must be within float32 once transformed, got entries up to {largest:.3g}")
        return images


def fit_columns(rows: Any, name: str, transform: Transform = "ranks") -> Columns:
    """Fit the map of each column to these rows. It sees one side alone, so it cannot see how rows are paired.

    Formula: "ranks" takes a value of mid-rank r among n to the normal quantile Φ⁻¹((r - ½) / n), its normal score;
    "standardize" takes v to (v - mean) / sd; "none" leaves it. "components" takes the columns to their independent
    components, by `unmix`, and these to their normal scores; columns in which over a tenth of the values repeat others are
    only ranked.

    All are one-to-one on the values seen, so the MI of these rows is that of the transformed ones. Ranks make every marginal
    normal, so heavy tails do no harm; ties stay ties.

    Args:
      rows: (n, *shape) samples.
      name: what to call them in messages.
      transform: which map.

    Returns:
      `Columns`, to be called with rows.

    Raises:
      ValueError: if all columns are constant, there is no such transform, components are to be found in columns that
        depend on one another linearly, or as `as_rows`.
      TypeError: as `as_rows`.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.columns import fit_columns
      >>> x = np.array([1.0, 10.0, 1_000.0])
      >>> fit_columns(x, "x")(x).ravel().round(2)
      array([-0.97,  0.  ,  0.97], dtype=float32)
    """
    if not isinstance(transform, str) or transform not in get_args(Transform):
        raise ValueError(f"transform must be one of {', '.join(get_args(Transform))}, got {transform!r}")
    flat = as_rows(rows, name)
    varies = flat.min(axis=0) < flat.max(axis=0)
    if not varies.any():
        raise ValueError(f"{name} must vary, got {flat.shape[1]} constant columns: its mutual information is 0")
    (candidates,) = np.nonzero(varies)
    # Compares columns by their bytes; adding 0 makes -0 equal to 0. np.unique would sort whole columns.
    first = {(flat[:, place] + 0.0).tobytes(): place for place in candidates[::-1]}
    kept = np.array(sorted(first.values()))
    used = flat[:, kept]
    unmixing = _unmix(used, name) if transform == "components" and kept.size > 1 else None
    tables = [_table(column, transform) for column in _multiply(used, unmixing).T]
    return Columns(
        name=name,
        shape=tuple(np.shape(rows)[1:]),
        kept=kept,
        constant=np.nonzero(~varies)[0],
        duplicated=np.setdiff1d(candidates, kept),
        knots=tuple(knots for knots, _ in tables),
        images=tuple(images for _, images in tables),
        unmixing=unmixing,
    )


def _unmix(columns: Float[np.ndarray, "n d"], name: str) -> Float[np.ndarray, "d d"] | None:
    """The unmixing of the continuous columns; the others stay as they are. None if there is nothing to unmix."""
    places = np.flatnonzero(is_continuous(columns))
    if places.size < 2:
        return None
    mixed = columns[:, places]
    if depend_linearly(mixed):
        text = f"{name} must have columns of which none is a linear function of the others, and more rows than columns, with"
        got = f"got {len(mixed)} rows of {places.size} continuous columns"
        raise ValueError(f'{text} transform="components", {got}: leave a column out, or take transform="ranks"')
    unmixing = np.eye(columns.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        unmixing[np.ix_(places, places)] = unmix(mixed)
    if not np.isfinite(unmixing).all():
        raise ValueError(f'{name} must have columns of larger values for transform="components": take transform="ranks"')
    return unmixing


def _multiply(columns: Float[np.ndarray, "n d"], unmixing: Float[np.ndarray, "d d"] | None) -> Float[np.ndarray, "n d"]:
    """The columns, unmixed; each row alone, as BLAS would add up many rows in another order than one."""
    return columns if unmixing is None else np.einsum("nd,dk->nk", columns, unmixing)


def _table(column: Float[np.ndarray, " n"], transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """A column's map as knots and their images."""
    if transform in ("ranks", "components"):
        from scipy import special  # slow to import, and not needed by a call of a bound

        values, counts = np.unique(column, return_counts=True)
        mid_ranks = np.cumsum(counts) - 0.5 * counts
        return values, special.ndtri(mid_ranks / column.size)
    ends = np.array([column.min(), column.max()])
    if transform == "none":
        return ends, ends
    # In units of the largest entry, as its square could overflow.
    scale = np.abs(ends).max()
    return ends, (ends / scale - np.mean(column / scale)) / np.std(column / scale)


def _map_through(column: np.ndarray, knots: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Maps a column piecewise linearly, beyond the ends with the slope of the whole; a knot maps exactly to its image."""
    if np.array_equal(knots, images):
        return column
    right = np.clip(np.searchsorted(knots, column), 1, knots.size - 1)
    share = np.clip(_share(column, knots[right - 1], knots[right]), 0.0, 1.0)
    whole = _share(column, knots[0], knots[-1])
    inside = (1 - share) * images[right - 1] + share * images[right]
    return inside + (whole - np.clip(whole, 0.0, 1.0)) * (images[-1] - images[0])


def _share(column: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(column - low) / (high - low), low < high, for entries whose differences may overflow."""
    unit = np.where(np.maximum(-low, high) > 1e300, 0.25, 1.0)
    return (unit * column - unit * low) / (unit * high - unit * low)
