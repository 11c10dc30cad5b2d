import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.networks import MLP, BaselineCritic, BilinearCritic, JointCritic, SeparableCritic, critics
from tests.networks.test_bijections import draw_parameters

slow = pytest.mark.slow

CRITICS = {
    "joint": JointCritic(),
    "joint-3": JointCritic(hidden=(16, 16, 16)),
    "joint-linear": JointCritic(hidden=()),
    "separable": SeparableCritic(),
    "bilinear": BilinearCritic(),
    "baseline": BaselineCritic(SeparableCritic()),
}


def rows(x_shape=(5, 20), y_shape=(5, 20)):
    rng = np.random.default_rng(0)
    return rng.standard_normal(x_shape, np.float32), rng.standard_normal(y_shape, np.float32)


def on_concatenated_rows(mlp_params, hidden, x, y):
    """The joint critic the plain way: an MLP on every concatenated pair."""
    n, m = len(x), len(y)
    pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1))], axis=1)
    return MLP(hidden, 1).apply(mlp_params, pairs).reshape(n, m)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [
        ((5,), (5, 2, 3)),
        ((4, 8, 8), (6, 2)),
        pytest.param((5, 20), (5, 20), marks=slow),
        pytest.param((1, 3), (1, 3), marks=slow),
    ],
)
def test_scores_every_x_against_every_y(name, x_shape, y_shape):
    critic = CRITICS[name]
    x, y = rows(x_shape, y_shape)
    params = draw_parameters(critic, x, y)
    score = jax.jit(lambda params: (critic.apply(params, x, y), critic.apply(params, x[-1:], y[:1])))
    scores, last_and_first = score(params)
    assert scores.shape == (len(x), len(y))
    # Row i is of x_i alone, and column j of y_j alone.
    np.testing.assert_allclose(last_and_first[0, 0], scores[-1, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (32, 16, 8), pytest.param((16,), marks=slow), pytest.param((256, 256), marks=slow)])
def test_joint_is_an_mlp_on_concatenated_rows_with_the_same_parameters(hidden):
    x, y = rows((5, 20), (5, 7))
    critic = JointCritic(hidden=hidden)
    params = draw_parameters(critic, x, y)["params"]
    later = {f"Dense_{k + 1}": params[f"Dense_{k}"] for k in range(len(hidden))}
    mlp_params = {"params": {"Dense_0": params["PairDense_0"], **later}}

    def total(scores):
        return (scores**2).sum(), scores

    @jax.jit
    def look(joint_params, mlp_params):
        ours = jax.grad(lambda p: total(critic.apply(p, x, y)), has_aux=True)
        plain = jax.grad(lambda p: total(on_concatenated_rows(p, hidden, x, y)), has_aux=True)
        return ours(joint_params), plain(mlp_params)

    (of_joint, scores), (of_mlp, expected) = look({"params": params}, mlp_params)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    of_joint, of_mlp = of_joint["params"]["PairDense_0"]["kernel"], of_mlp["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(of_joint, of_mlp, rtol=1e-3, atol=1e-3 * float(np.abs(of_mlp).max()))


def test_separable_is_an_inner_product_of_32_dimensions():
    x, y = rows((100, 20), (100, 20))
    critic = SeparableCritic()
    params = draw_parameters(critic, x, y)

    @jax.jit
    def look(params):
        return [MLP((256, 256), 32).apply({"params": params["params"][name]}, z) for name, z in (("g", x), ("h", y))]

    g, h = map(np.asarray, look(params))
    scores = jax.jit(critic.apply)(params, x, y)
    np.testing.assert_allclose(scores, g @ h.T, rtol=1e-4, atol=1e-5 * np.abs(scores).max())
    assert np.linalg.matrix_rank(scores, rtol=1e-5) <= 32


def test_bilinear_is_linear_in_each():
    x, y = rows((5, 4), (5, 3))
    critic = BilinearCritic()
    params = draw_parameters(critic, x, y)
    np.testing.assert_allclose(
        jax.jit(critic.apply)(params, x, y), x @ params["params"]["kernel"] @ y.T, rtol=1e-5, atol=1e-6
    )
    wide = rows((1000, 512), (1000, 512))
    assert 0.8 < jax.jit(lambda key: critic.apply(critic.init(key, *wide), *wide).std())(jax.random.key(1)) < 1.25


def test_a_baseline_is_a_row_shift():
    x, y = rows()
    inner, critic = SeparableCritic(hidden=(8,)), BaselineCritic(SeparableCritic(hidden=(8,)), hidden=(8,))
    params = draw_parameters(critic, x, y)
    score = jax.jit(lambda params: (inner.apply({"params": params["params"]["critic"]}, x, y), critic.apply(params, x, y)))
    shift = np.subtract(*score(params))
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-5)
    assert np.abs(shift).max() > 0


@pytest.mark.parametrize("name", ["joint", "baseline", pytest.param("separable", marks=slow)])  # in the baseline's as well
def test_starts_near_the_ratio_one_also_on_heavy_tails(name):
    x, y = rows((64, 20), (64, 20))
    critic = CRITICS[name]
    assert np.abs(jax.jit(lambda key: critic.apply(critic.init(key, x, y), x, y**3))(jax.random.key(1))).max() < 5


@pytest.mark.parametrize("critic", [JointCritic, pytest.param(SeparableCritic, marks=slow)])
def test_in_bfloat16_products_are_short_and_parameters_and_scores_are_not(critic):
    x, y = rows((40, 20), (40, 20))
    low, full = critic(dtype=jnp.bfloat16), critic()
    params, same = jax.jit(lambda key: [each.init(key, x, y) for each in (full, low)])(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, same)

    def total(params, one):
        scores = one.apply(params, x, y)
        return (scores**2).sum(), scores

    look = jax.jit(lambda params: [jax.grad(total, has_aux=True)(params, one) for one in (low, full)])
    (slope, scores), (exact_slope, exact) = look(params)
    assert scores.dtype == np.float32
    assert "bf16" in jax.jit(low.apply).lower(params, x, y).as_text()
    # Eight bits of a number: a few thousandths of the scores' spread, and not nothing.
    error = np.abs(scores - exact).max() / np.std(exact)
    assert 1e-5 < error < 0.05
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(slope))
    # Rounding to 2^-9 flips some 0.3 % of a layer's ReLUs, and a share p of flipped ones moves a gradient by √p of its norm:
    # 8 % of two layers.
    jax.tree.map(
        lambda a, b: np.testing.assert_array_less(np.linalg.norm(a - b), 0.15 * np.linalg.norm(b)), slope, exact_slope
    )


def test_in_bfloat16_gradients_are_summed_in_float32():
    """4,096 equal terms: a sum in bfloat16 would not get beyond 256 of them."""
    x, y = np.ones((64, 2), np.float32), np.ones((64, 2), np.float32)
    critic = JointCritic((4,), dtype=jnp.bfloat16)
    params = jax.tree.map(np.ones_like, draw_parameters(critic, x, y))
    slope = jax.jit(jax.grad(lambda p: critic.apply(p, x, y).sum()))(params)
    np.testing.assert_array_equal(slope["params"]["PairDense_0"]["bias"], 64.0**2)


@pytest.mark.parametrize(
    "n", [critics.MANY_ROWS - 1, critics.MANY_ROWS, pytest.param(3, marks=slow), pytest.param(150, marks=slow)]
)
def test_sums_of_all_pairs_and_both_their_derivatives(n):
    """The sum and its adjoint by hand, in both modes of differentiation, alone and under `vmap`."""
    rng = np.random.default_rng(0)
    x, slope_x = rng.standard_normal((2, n, 2, 3))
    y, slope_y = rng.standard_normal((2, 5, 2, 3))
    weights = rng.standard_normal((n * 5, 2, 3))
    gradient = jax.grad(lambda x, y, weights: jnp.sum(critics.outer_sum(x, y) * weights), argnums=(0, 1))

    @jax.jit
    def look(x, y, slope_x, slope_y, weights):
        both = jnp.stack([x, -x]), jnp.stack([y, -y])
        batched = jax.vmap(gradient, in_axes=(0, 0, None))(*both, weights)
        return *jax.jvp(critics.outer_sum, (x, y), (slope_x, slope_y)), gradient(x, y, weights), batched

    found, slope, alone, batched = look(*map(np.float32, (x, y, slope_x, slope_y, weights)))
    np.testing.assert_allclose(found, (x[:, None] + y[None]).reshape(-1, 2, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, (slope_x[:, None] + slope_y[None]).reshape(-1, 2, 3), rtol=1e-5, atol=1e-6)
    by_hand = [weights.reshape(n, 5, 2, 3).sum(axis) for axis in (1, 0)]
    for ours, both, theirs in zip(alone, batched, by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(both, [theirs, theirs], rtol=1e-4, atol=1e-5)
