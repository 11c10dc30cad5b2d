"""Columns as a critic likes them: checked, and each brought to unit scale by a strictly increasing map, which MI ignores."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Transform = Literal["ranks", "standardize", "none"]


class Columns(NamedTuple):
    """How rows become columns of unit scale: fitted to one set of rows, applied to others.

    Attributes:
      name: what the rows are called in messages.
      shape: the shape of a row.
      kept: the columns used, of all that a flattened row has: not the constant ones, and of equal ones the first.
      constant, duplicated: the columns left out for either reason.
      knots: of each column used, values in increasing order,
      images: and what they become. Between them the map is linear, beyond them too.
    """

    name: str
    shape: tuple[int, ...]
    kept: np.ndarray
    constant: np.ndarray
    duplicated: np.ndarray
    knots: tuple[np.ndarray, ...]
    images: tuple[np.ndarray, ...]

    def __call__(self, rows: Any) -> Float[np.ndarray, "n d"]:
        """Rows of the same shape, transformed, as float32.

        Raises:
          ValueError: if their shape is another, or a value is not finite, or not in float32 once transformed.
        """
        flat = as_rows(rows, self.name)
        if np.shape(rows)[1:] != self.shape:
            raise ValueError(f"{self.name} must have rows of shape {self.shape}, got {np.shape(rows)[1:]}")
        columns = zip(self.kept, self.knots, self.images, strict=True)
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.stack([_through(flat[:, place], *table) for place, *table in columns], axis=1).astype(np.float32)
        if not np.isfinite(found).all():
            largest = np.abs(flat).max()
            raise ValueError(f"{self.name} must be within float32 once transformed, got entries up to {largest:.3g}")
        return found


def as_rows(rows: Any, name: str) -> Float[np.ndarray, "n d"]:
    """Samples as a float64 matrix, one flattened row each.

    Args:
      rows: (n,), (n, d) or (n, *shape), floats, integers or bools, of NumPy or JAX.
      name: what to call it in messages.

    Returns:
      (n, d), a column for each entry of a row.

    Raises:
      TypeError: if it is no array, or of another dtype.
      ValueError: if it has no axis of rows, no rows, no columns, or an entry that is masked or not finite.

    Example:
      >>> import numpy as np
      >>> from mi_jax import preprocessing
      >>> preprocessing.as_rows(np.arange(3), "x").shape
      (3, 1)
    """
    if not hasattr(rows, "dtype") or not hasattr(rows, "shape"):
        raise TypeError(f"{name} must be an array of NumPy or JAX, got {type(rows).__name__}")
    if isinstance(rows, jax.core.Tracer):
        raise TypeError(f"{name} must be an array with values, not traced by jit, vmap or grad, got {rows}")
    array = rows if isinstance(rows, jax.Array) else np.asanyarray(rows)  # other libraries' arrays, if they allow it
    dtype = array.dtype
    # JAX's list of dtypes, which has bfloat16 among the floating ones.
    # NumPy counts time differences among the integers, where a missing one is a number.
    numbers = any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
    if not numbers or jnp.issubdtype(dtype, np.timedelta64):
        raise TypeError(f"{name} must hold floats, integers or bools, got dtype {dtype}")
    if not array.ndim:
        raise ValueError(f"{name} must have an axis of samples, got shape ()")
    if 0 in array.shape:
        raise ValueError(f"{name} must hold at least one sample and one column, got shape {array.shape}")
    if np.ma.is_masked(array):
        raise ValueError(f"{name} must have no masked entries, got {np.ma.count_masked(array)}; leave such rows out")
    flat = np.asarray(array).reshape(len(array), -1).astype(np.float64)
    wrong = ~np.isfinite(flat)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name} must be finite, got {wrong.sum()} entries that are not, the first {flat[row, column]} in row {row}, "
            f"column {column}; leave such rows out, or fill them in"
        )
    return flat


def columns(rows: Any, name: str, transform: Transform = "ranks") -> Columns:
    """Fit the map of each column to these rows. It sees one column at a time, and so nothing of how rows are paired.

    Formula: "ranks" takes a value of mid-rank r among n to the normal quantile Φ⁻¹((r - ½) / n), its normal score;
    "standardize" takes v to (v - mean) / sd; "none" leaves it.

    All three are strictly increasing on the values seen, so the MI of these rows is that of the transformed ones. Ranks
    make every marginal normal, so heavy tails do no harm; ties stay ties.

    Args:
      rows: (n, *shape) samples.
      name: what to call them in messages.
      transform: which map.

    Returns:
      `Columns`, to be called with rows.

    Raises:
      ValueError: if all columns are constant, there is no such transform, or as `as_rows`.
      TypeError: as `as_rows`.

    Example:
      >>> import numpy as np
      >>> from mi_jax import preprocessing
      >>> x = np.array([1.0, 10.0, 1_000.0])
      >>> preprocessing.columns(x, "x")(x).ravel().round(2)
      array([-0.97,  0.  ,  0.97], dtype=float32)
    """
    if not isinstance(transform, str) or transform not in get_args(Transform):
        raise ValueError(f"transform must be one of {', '.join(get_args(Transform))}, got {transform!r}")
    flat = as_rows(rows, name)
    varies = flat.min(axis=0) < flat.max(axis=0)
    if not varies.any():
        raise ValueError(f"{name} must vary, got {flat.shape[1]} constant columns: its mutual information is 0")
    (candidates,) = np.nonzero(varies)
    # By their bytes, in which -0 is not 0, unless 0 is added; np.unique would sort whole columns.
    first = {(flat[:, place] + 0.0).tobytes(): place for place in candidates[::-1]}
    kept = np.array(sorted(first.values()))
    tables = [_table(flat[:, place], transform) for place in kept]
    return Columns(
        name=name,
        shape=tuple(np.shape(rows)[1:]),
        kept=kept,
        constant=np.nonzero(~varies)[0],
        duplicated=np.setdiff1d(candidates, kept),
        knots=tuple(knots for knots, _ in tables),
        images=tuple(images for _, images in tables),
    )


def _table(column: Float[np.ndarray, " n"], transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """A column's map as knots and their images."""
    if transform == "ranks":
        from scipy import special  # not needed by those who only call a bound

        values, counts = np.unique(column, return_counts=True)
        mid_ranks = np.cumsum(counts) - 0.5 * counts
        return values, special.ndtri(mid_ranks / column.size)
    ends = np.array([column.min(), column.max()])
    if transform == "none":
        return ends, ends
    # In units of the largest entry, whose square could overflow.
    scale = np.abs(ends).max()
    return ends, (ends / scale - np.mean(column / scale)) / np.std(column / scale)


def _through(column: np.ndarray, knots: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Piecewise linear, and linear beyond the ends with the slope of the whole; a knot goes to its very image."""
    if np.array_equal(knots, images):
        return column
    right = np.clip(np.searchsorted(knots, column), 1, knots.size - 1)
    share = np.clip(_share(column, knots[right - 1], knots[right]), 0.0, 1.0)
    whole = _share(column, knots[0], knots[-1])
    inside = (1 - share) * images[right - 1] + share * images[right]
    return inside + (whole - np.clip(whole, 0.0, 1.0)) * (images[-1] - images[0])


def _share(column: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(column - low) / (high - low), of entries whose differences may overflow."""
    unit = np.where(np.maximum(np.abs(low), np.abs(high)) > 1e300, 0.25, 1.0)
    return (unit * column - unit * low) / (unit * high - unit * low)
