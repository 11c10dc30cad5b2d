"""The rows of `as_rows` are tested through `fit_columns`, and the messages through `estimate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.estimation import inputs


def test_pairs_are_float64_matrices():
    x, y = inputs.check_pairs(np.arange(20), np.ones((20, 2, 2), np.float32))
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((20, 1), (20, 4), np.float64, np.float64)


def test_rows_that_are_no_pairs_or_too_few_are_refused():
    with pytest.raises(ValueError, match="x and y must hold the same number of rows, got 20 and 21"):
        inputs.check_pairs(np.ones(20), np.ones(21))
    with pytest.raises(ValueError, match=r"x and y must hold at least 40 rows, .* got 39"):
        inputs.check_pairs(np.ones(39), np.ones(39), least=40)


def test_a_key_seeds_numpys_generator():
    first, again, other = (inputs.generator(jax.random.key(seed)).integers(2**32) for seed in (0, 0, 1))
    assert first == again != other


def test_the_key_is_0_by_default():
    np.testing.assert_array_equal(jax.random.key_data(inputs.check_key(None)), jax.random.key_data(jax.random.key(0)))
    with pytest.raises(TypeError, match=r"key must be a typed key, .* got int32"):
        inputs.check_key(jnp.zeros((), jnp.int32))


def test_devices_of_any_iterable():
    assert inputs.check_devices(None) is None
    assert inputs.check_devices(iter(jax.devices())) == tuple(jax.devices())
