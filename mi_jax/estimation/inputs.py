"""What a user gives to `estimate`, checked once: rows, key and devices."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from mi_jax import _checks

LEAST_ROWS = 20


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
      >>> from mi_jax.estimation import inputs
      >>> inputs.as_rows(np.arange(3), "x").shape
      (3, 1)
    """
    if not hasattr(rows, "dtype") or not hasattr(rows, "shape"):
        raise TypeError(f"{name} must be an array of NumPy or JAX, got {type(rows).__name__}")
    if isinstance(rows, jax.core.Tracer):
        raise TypeError(f"{name} must be an array with values, not traced by jit, vmap or grad, got {rows}")
    array = rows if isinstance(rows, jax.Array) else np.asanyarray(rows)  # also takes arrays of other libraries
    dtype = array.dtype
    # JAX's list of dtypes has bfloat16 among the floating ones. NumPy counts time differences among the integers, and a
    # missing one would pass as a number.
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


def check_pairs(x: Any, y: Any, least: int = LEAST_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of rows as float64 matrices; refuses rows that are not pairs, or too few."""
    rows = as_rows(x, "x"), as_rows(y, "y")
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"x and y must hold the same number of rows, got {len(rows[0])} and {len(rows[1])}")
    if len(rows[0]) < least:
        raise ValueError(f"x and y must hold at least {least} rows, to train on some and test on others, got {len(rows[0])}")
    return rows


def check_key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key, or key 0 if none is given."""
    if key is None:
        return jax.random.key(0)
    if not _checks.is_key(key):
        raise TypeError(
            f"key must be a typed key, from jax.random.key(seed), got {getattr(key, 'dtype', type(key).__name__)}"
        )
    if key.shape:
        raise ValueError(f"key must be one key, got shape {key.shape}")
    return key


def check_devices(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device] | None:
    """The devices as a tuple; None for the default."""
    if devices is None:
        return None
    given = tuple(devices) if isinstance(devices, Iterable) else (devices,)
    if not isinstance(devices, Iterable) or not all(isinstance(device, jax.Device) for device in given):
        raise TypeError(f"devices must be a sequence of JAX devices, got {devices!r}")
    return given


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator, seeded by a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
