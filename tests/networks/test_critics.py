import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.networks import MLP, BaselineCritic, BilinearCritic, JointCritic, SeparableCritic

CRITICS = {
    "joint": JointCritic(),
    "joint-3": JointCritic(hidden=(16, 16, 16)),
    "joint-linear": JointCritic(hidden=()),
    "separable": SeparableCritic(),
    "bilinear": BilinearCritic(),
    "baseline": BaselineCritic(SeparableCritic()),
}


def rows(x_shape=(5, 20), y_shape=(5, 20)):
    x_key, y_key = jax.random.split(jax.random.key(0))
    return jax.random.normal(x_key, x_shape), jax.random.normal(y_key, y_shape)


def on_concatenated_rows(mlp_params, hidden, x, y):
    """The joint critic the plain way: an MLP on every concatenated pair."""
    n, m = len(x), len(y)
    pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1))], axis=1)
    return MLP(hidden, 1).apply(mlp_params, pairs).reshape(n, m)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize(
    ("x_shape", "y_shape"), [((5, 20), (5, 20)), ((5,), (5, 2, 3)), ((4, 8, 8), (6, 2)), ((1, 3), (1, 3))]
)
def test_scores_every_x_against_every_y(name, x_shape, y_shape):
    critic = CRITICS[name]
    x, y = rows(x_shape, y_shape)
    params = critic.init(jax.random.key(1), x, y)
    scores = critic.apply(params, x, y)
    assert scores.shape == (len(x), len(y))
    # Row i is of x_i alone, and column j of y_j alone.
    np.testing.assert_allclose(critic.apply(params, x[-1:], y[:1])[0, 0], scores[-1, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (16,), (256, 256), (32, 16, 8)])
def test_joint_is_an_mlp_on_concatenated_rows_with_the_same_parameters(hidden):
    x, y = rows((5, 20), (5, 7))
    critic = JointCritic(hidden=hidden)
    params = critic.init(jax.random.key(1), x, y)["params"]
    first = params.pop("PairDense_0")
    # The first layer's biases are 0 at the start: give them values, so that a misplaced one shows.
    first["bias"] = jax.random.normal(jax.random.key(2), first["bias"].shape)
    later = {f"Dense_{k + 1}": params[f"Dense_{k}"] for k in range(len(hidden))}
    mlp_params = {"params": {"Dense_0": first, **later}}
    joint_params = {"params": {"PairDense_0": first, **params}}

    np.testing.assert_allclose(
        critic.apply(joint_params, x, y), on_concatenated_rows(mlp_params, hidden, x, y), rtol=1e-4, atol=1e-5
    )
    of_joint = jax.grad(lambda p: (critic.apply(p, x, y) ** 2).sum())(joint_params)["params"]["PairDense_0"]["kernel"]
    of_mlp = jax.grad(lambda p: (on_concatenated_rows(p, hidden, x, y) ** 2).sum())(mlp_params)["params"]["Dense_0"][
        "kernel"
    ]
    np.testing.assert_allclose(of_joint, of_mlp, rtol=1e-3, atol=1e-3 * float(jnp.abs(of_mlp).max()))


def test_separable_is_an_inner_product_of_32_dimensions():
    x, y = rows()
    critic = SeparableCritic()
    params = critic.init(jax.random.key(1), x, y)
    g, h = (MLP((256, 256), 32).apply({"params": params["params"][name]}, z) for name, z in (("g", x), ("h", y)))
    np.testing.assert_allclose(critic.apply(params, x, y), g @ h.T, rtol=1e-5)
    assert np.linalg.matrix_rank(critic.apply(params, *rows((100, 20), (100, 20))), rtol=1e-5) <= 32


def test_bilinear_is_linear_in_each():
    x, y = rows((5, 4), (5, 3))
    critic = BilinearCritic()
    params = critic.init(jax.random.key(1), x, y)
    np.testing.assert_allclose(critic.apply(params, x, y), x @ params["params"]["kernel"] @ y.T, rtol=1e-5)
    wide = rows((1000, 512), (1000, 512))
    assert 0.8 < critic.apply(critic.init(jax.random.key(1), *wide), *wide).std() < 1.25


def test_a_baseline_is_a_row_shift():
    x, y = rows()
    critic = BaselineCritic(SeparableCritic(), hidden=(8,))
    params = critic.init(jax.random.key(1), x, y)
    inner = SeparableCritic().apply({"params": params["params"]["critic"]}, x, y)
    shift = inner - critic.apply(params, x, y)
    np.testing.assert_allclose(shift, jnp.broadcast_to(shift[:, :1], shift.shape), atol=1e-6)
    assert jnp.abs(shift).max() > 0


@pytest.mark.parametrize("name", ["joint", "separable", "baseline"])
def test_starts_near_the_ratio_one_also_on_heavy_tails(name):
    x, y = rows((64, 20), (64, 20))
    critic = CRITICS[name]
    scores = critic.apply(critic.init(jax.random.key(1), x, y), x, y**3)
    assert jnp.abs(scores).max() < 5
