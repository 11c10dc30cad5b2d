import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import _checks


def test_traced_values_cannot_raise_and_give_nan():
    assert jnp.isnan(jax.jit(lambda tau: _checks.non_negative(tau, "tau"))(-1.0))
    np.testing.assert_array_equal(
        jax.vmap(lambda tau: _checks.non_negative(tau, "tau"))(jnp.array([-1.0, 2.0])), [np.nan, 2.0]
    )


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "n must be at least 1, got 0"),
        (-3, ValueError, "n must be at least 1, got -3"),
        (2.0, TypeError, "n must be an integer, got float"),
        (True, TypeError, "n must be an integer, got bool"),
        ("2", TypeError, "n must be an integer, got str"),
    ],
)
def test_positive_int(value, error, message):
    with pytest.raises(error, match=message):
        _checks.positive_int(value, "n")
