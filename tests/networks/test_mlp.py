import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.networks import MLP


def test_value_is_that_of_numpy():
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    mlp = MLP(hidden=(4, 7), features=2)
    params = mlp.init(jax.random.key(0), jnp.float32(x))
    h = x.reshape(5, 6)
    for k in range(3):
        layer = params["params"][f"Dense_{k}"]
        h = (h if k == 0 else np.maximum(h, 0)) @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
    np.testing.assert_allclose(mlp.apply(params, jnp.float32(x)), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 4, 5), (6, 3, 8, 8)])
def test_any_input_shape_is_flattened(shape):
    mlp = MLP(features=2)
    assert mlp.apply(mlp.init(jax.random.key(0), jnp.zeros(shape)), jnp.ones(shape)).shape == (6, 2)


def test_without_hidden_layers_it_is_linear():
    mlp = MLP(hidden=(), features=1)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = mlp.init(jax.random.key(1), x)
    np.testing.assert_allclose(mlp.apply(params, 2 * x), 2 * mlp.apply(params, x), rtol=1e-5)


def test_starts_small_with_zero_biases():
    params = MLP().init(jax.random.key(0), jnp.zeros((1, 20)))["params"]
    for name, fan_in in (("Dense_0", 20), ("Dense_1", 256), ("Dense_2", 256)):
        assert jnp.abs(params[name]["kernel"]).max() <= fan_in**-0.5
        assert jnp.abs(params[name]["kernel"]).max() >= 0.9 * fan_in**-0.5
        np.testing.assert_array_equal(params[name]["bias"], 0.0)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 4)])
def test_last_layer_may_start_at_zero(hidden):
    mlp = MLP(hidden=hidden, features=2, last_init=jax.nn.initializers.zeros)
    x = jnp.ones((3, 5))
    params = mlp.init(jax.random.key(0), x)
    np.testing.assert_array_equal(mlp.apply(params, x), 0.0)
    assert all(jnp.abs(params["params"][f"Dense_{k}"]["kernel"]).max() > 0 for k in range(len(hidden)))
