import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.networks import MLP, BaselineCritic, BilinearCritic, JointCritic, SeparableCritic, critics

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


@pytest.mark.parametrize("critic", [JointCritic, SeparableCritic])
def test_in_bfloat16_products_are_short_and_parameters_and_scores_are_not(critic):
    x, y = rows((40, 20), (40, 20))
    low, full = critic(dtype=jnp.bfloat16), critic()
    params = full.init(jax.random.key(1), x, y)
    same = low.init(jax.random.key(1), x, y)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    scores, exact = low.apply(params, x, y), full.apply(params, x, y)
    assert scores.dtype == jnp.float32
    assert "bf16" in jax.jit(low.apply).lower(params, x, y).as_text()
    # Eight bits of a number: a few thousandths of the scores' spread, and not nothing.
    error = float(jnp.abs(scores - exact).max() / exact.std())
    assert 1e-5 < error < 0.05
    slopes = [jax.grad(lambda p, one=one: (one.apply(p, x, y) ** 2).sum())(params) for one in (low, full)]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(slopes[0]))
    # Rounding to 2^-9 flips some 0.3 % of a layer's ReLUs, and a share p of flipped ones moves a gradient by √p of its norm:
    # 8 % of two layers.
    jax.tree.map(lambda a, b: np.testing.assert_array_less(jnp.linalg.norm(a - b), 0.15 * jnp.linalg.norm(b)), *slopes)


def test_in_bfloat16_gradients_are_summed_in_float32():
    """4,096 equal terms: a sum in bfloat16 would not get beyond 256 of them."""
    x, y = jnp.ones((64, 2)), jnp.ones((64, 2))
    critic = JointCritic((4,), dtype=jnp.bfloat16)
    params = jax.tree.map(jnp.ones_like, critic.init(jax.random.key(0), x, y))
    slope = jax.jit(jax.grad(lambda p: critic.apply(p, x, y).sum()))(params)
    np.testing.assert_array_equal(slope["params"]["PairDense_0"]["bias"], 64.0**2)


@pytest.mark.parametrize("n", [3, critics.MANY_ROWS - 1, critics.MANY_ROWS, 150])
def test_sums_of_all_pairs_and_both_their_derivatives(n):
    """The sum and its adjoint by hand, in both modes of differentiation, alone and under `vmap`."""
    rng = np.random.default_rng(0)
    x, slope_x = rng.standard_normal((2, n, 2, 3))
    y, slope_y = rng.standard_normal((2, 5, 2, 3))
    weights = rng.standard_normal((n * 5, 2, 3))
    found, slope = jax.jvp(critics.outer_sum, (jnp.float32(x), jnp.float32(y)), (jnp.float32(slope_x), jnp.float32(slope_y)))
    np.testing.assert_allclose(found, (x[:, None] + y[None]).reshape(-1, 2, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, (slope_x[:, None] + slope_y[None]).reshape(-1, 2, 3), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x, y: jnp.sum(critics.outer_sum(x, y) * jnp.float32(weights)), argnums=(0, 1))
    by_hand = [weights.reshape(n, 5, 2, 3).sum(axis) for axis in (1, 0)]
    for ours, batched, theirs in zip(
        gradient(jnp.float32(x), jnp.float32(y)),
        jax.vmap(gradient)(jnp.float32(np.stack([x, -x])), jnp.float32(np.stack([y, -y]))),
        by_hand,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(batched, [theirs, theirs], rtol=1e-4, atol=1e-5)
