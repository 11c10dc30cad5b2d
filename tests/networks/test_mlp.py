import jax
import numpy as np
import pytest

from mi_jax.networks import MLP
from tests.networks.test_bijections import draw_parameters


def test_value_is_that_of_numpy():
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    mlp = MLP(hidden=(4, 7), features=2)
    params = draw_parameters(mlp, np.float32(x))
    h = x.reshape(5, 6)
    for k in range(3):
        layer = params["params"][f"Dense_{k}"]
        h = (h if k == 0 else np.maximum(h, 0)) @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
    np.testing.assert_allclose(jax.jit(mlp.apply)(params, np.float32(x)), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 4, 5), (6, 3, 8, 8)])
def test_any_input_shape_is_flattened(shape):
    mlp = MLP(features=2)
    rows = np.ones(shape, np.float32)
    assert jax.eval_shape(lambda key: mlp.apply(mlp.init(key, rows), rows), jax.random.key(0)).shape == (6, 2)


def test_without_hidden_layers_it_is_linear():
    mlp = MLP(hidden=(), features=1)
    x = np.random.default_rng(0).standard_normal((4, 3), np.float32)
    apply, params = jax.jit(mlp.apply), draw_parameters(mlp, x)
    params["params"]["Dense_0"]["bias"][:] = 0
    np.testing.assert_allclose(apply(params, 2 * x), 2 * apply(params, x), rtol=1e-5)


def test_starts_small_with_zero_biases():
    params = jax.jit(MLP().init)(jax.random.key(0), np.zeros((1, 20), np.float32))["params"]
    for name, fan_in in (("Dense_0", 20), ("Dense_1", 256), ("Dense_2", 256)):
        assert np.abs(params[name]["kernel"]).max() <= fan_in**-0.5
        assert np.abs(params[name]["kernel"]).max() >= 0.9 * fan_in**-0.5
        np.testing.assert_array_equal(params[name]["bias"], 0.0)


def test_last_layer_may_start_at_zero():
    modules = [MLP(hidden=hidden, features=2, last_init=jax.nn.initializers.zeros) for hidden in ((), (4, 4))]
    x = np.ones((3, 5), np.float32)

    @jax.jit
    def start(key):
        params = [mlp.init(key, x) for mlp in modules]
        return params, [mlp.apply(own, x) for mlp, own in zip(modules, params, strict=True)]

    params, outputs = start(jax.random.key(0))
    np.testing.assert_array_equal(outputs, 0.0)
    assert all(np.abs(params[1]["params"][f"Dense_{k}"]["kernel"]).max() > 0 for k in range(2))
