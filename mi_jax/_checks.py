"""Bad input becomes an error that names the argument, what was expected and what came."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def floating(value: Any, name: str) -> Float[Array, "..."]:
    """`value` as an array of at least float32; integers, bools and complex numbers are refused."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating, got dtype {value.dtype}")
    return jnp.asarray(value, jnp.promote_types(jnp.asarray(value).dtype, jnp.float32))


def numeric(value: Any, name: str) -> Float[Array, "..."]:
    """As `floating`, but integers and bools are taken for the numbers that they are."""
    exact = hasattr(value, "dtype") and (jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool)
    return floating(value.astype(np.float32) if exact else value, name)


def non_negative(value: Any, name: str) -> Any:
    """The scalar `value`, at least 0."""
    value = scalar(value, name)
    return where_valid(value >= 0, value, f"{name} must not be negative")


def unit_interval(value: Any, name: str) -> Any:
    """The scalar `value`, in [0, 1]."""
    value = scalar(value, name)
    return where_valid((value >= 0) & (value <= 1), value, f"{name} must lie in [0, 1]")


def below_one(value: Any, name: str) -> Any:
    """The scalar `value`, in [0, 1)."""
    value = scalar(value, name)
    return where_valid((value >= 0) & (value < 1), value, f"{name} must lie in [0, 1)")


def scalar(value: Any, name: str) -> Any:
    """`value`, checked to be a real number and made floating: Python's or NumPy's, or an array of shape ()."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | np.ndarray | jax.Array):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {shape}")
    kind = getattr(value, "dtype", np.dtype(float))
    if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
        raise TypeError(f"{name} must be a real number, got dtype {kind}")
    # An unsigned tau would wrap around at its minus sign, and an integer alpha has no derivative.
    return value * 1.0


def where_valid(valid: Any, value: Any, message: str) -> Any:
    """`value` if `valid`; otherwise a ValueError, or NaN if `valid` is traced, where nothing can be raised."""
    if isinstance(valid, jax.core.Tracer):
        return jnp.where(valid, value, jnp.nan)
    if not valid:
        raise ValueError(f"{message}, got {value}")
    return value


def instance(value: Any, kind: type, name: str) -> None:
    """Refuse a `value` that is not of this kind, a class in place of its instance included."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__}, got {kind_of(value)}")


def kind_of(value: Any) -> str:
    """The name of a value's type, or that the value is a class itself."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def same_rows(**rows: Any) -> None:
    """Refuse arrays that do not hold the same number of rows, at least one: they would be spread over each other."""
    counts = {name: array.shape[0] if array.ndim else None for name, array in rows.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise ValueError(
            f"{' and '.join(counts)} must hold the same number of rows, at least 1, got {list(counts.values())}"
        )


def positive(value: Any, name: str) -> None:
    """Refuse a concrete number that is not finite and above 0."""
    if not (scalar(value, name) > 0 and np.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def positive_int(value: Any, name: str) -> int:
    """`value` as an int, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def is_key(value: Any) -> bool:
    """Whether `value` is a typed key, or an array of them."""
    return hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def key_vector(keys: Any, name: str) -> None:
    """Refuse all but a vector of typed keys."""
    if not is_key(keys):
        raise TypeError(not_a_key(keys, name))
    if keys.ndim != 1 or not keys.size:
        raise ValueError(f"{name} must be a vector of at least one key, one for each seed, got shape {keys.shape}")


def not_a_key(value: Any, name: str) -> str:
    """The message for something else than typed keys."""
    got = getattr(value, "dtype", type(value).__name__)
    return f"{name} must be typed keys, from jax.random.split(jax.random.key(seed), n), got {got}"
