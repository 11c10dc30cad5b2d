"""Bounds over blocks of scores: those of the matrix, values and gradients, in memory that does not grow with its square."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mi_jax
from mi_jax import blocks, estimators, models, networks, projections, training

BOUNDS = {
    "infonce": mi_jax.infonce,
    "nwj": mi_jax.nwj,
    "dv": mi_jax.dv,
    "smile": lambda scores: mi_jax.smile(scores, 0.5),
    "logistic": mi_jax.logistic_objective,
    "tuba": lambda scores: mi_jax.tuba(scores, jnp.linspace(-1, 1, scores.shape[0])),
    "interpolated": lambda scores: mi_jax.interpolated(scores, jnp.linspace(-1, 1, scores.shape[0]), 0.3),
    "mine": lambda scores: estimators.mine(0.9).objective(scores, jnp.float32(0.3))[0],
    "js": lambda scores: estimators.js().read_out["js"](scores),
    "tuba's": lambda scores: estimators.tuba().read_out["tuba"](scores),
}


def inner_products(kernel, x, y):
    return x @ kernel @ y.T


@pytest.fixture(scope="module")
def batch():
    x, y, kernel = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate([(11, 3), (11, 3), (3, 3)]))
    return kernel, x, y + 0.5 * x


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_bounds_and_their_gradients_are_those_of_the_matrix(name, size, batch):
    bound = BOUNDS[name]
    over_matrix = jax.jit(jax.value_and_grad(lambda args: bound(inner_products(*args))))
    over_blocks = jax.jit(
        jax.value_and_grad(lambda args: bound(blocks.of(jax.tree_util.Partial(inner_products, args[0]), *args[1:], size)))
    )
    ours, theirs = over_blocks(batch), over_matrix(batch)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6, atol=1e-6)
    for our_slope, their_slope in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(our_slope, their_slope, rtol=1e-4, atol=2e-6)


def test_dv_against_float64(batch):
    kernel, x, y = (np.float64(part) for part in batch)
    scores = x @ kernel @ y.T
    off = scores[~np.eye(11, dtype=bool)]
    found = mi_jax.dv(blocks.of(jax.tree_util.Partial(inner_products, batch[0]), *batch[1:], size=3))
    assert float(found) == pytest.approx(np.diag(scores).mean() - np.log(np.exp(off).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["dv", "infonce", "smile", "logistic"])
def test_scores_of_hundreds_and_minus_infinity_keep_values_and_gradients_finite(name):
    """A row whose negatives are all -inf is a sum of 0, and no NaN: of the whole it is a part only."""
    hidden = jnp.zeros((6, 6)).at[2].set(-jnp.inf).at[2, 2].set(0.0)

    def of(scale, x, y):
        return scale * 300.0 * (x == y.T) + hidden[x[:, 0].astype(int)][:, y[:, 0].astype(int)]

    rows = jnp.arange(6.0)[:, None]
    value, slope = jax.value_and_grad(
        lambda scale: BOUNDS[name](blocks.of(jax.tree_util.Partial(of, scale), rows, rows, size=2))
    )(1.0)
    expected, of_matrix = jax.value_and_grad(lambda scale: BOUNDS[name](of(scale, rows, rows)))(1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, of_matrix, rtol=1e-5)
    assert np.isfinite(slope)


def test_half_precision_scores_are_reduced_in_float32(batch):
    low = tuple(part.astype(jnp.bfloat16) for part in batch)
    found = mi_jax.dv(blocks.of(jax.tree_util.Partial(inner_products, low[0]), *low[1:], size=4))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, mi_jax.dv(inner_products(*low)), rtol=1e-2)


CRITICS = {
    "joint": networks.JointCritic((16, 16)),
    "separable": networks.SeparableCritic((16,)),
    "bilinear": networks.BilinearCritic(),
    "baseline": networks.BaselineCritic(networks.JointCritic((8,)), (8,)),
    "gaussian": networks.GaussianCritic((8,)),
    "images": networks.JointConvCritic((2, 3), (4,)),
}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", CRITICS)
def test_training_in_blocks_is_training_on_the_matrix(name, held, monkeypatch):
    if not held:
        monkeypatch.setattr(sys.modules["mi_jax.models.discriminative"], "HELD_PAIRS", 0)
    shape = (9, 6, 6) if name == "images" else (9, 3)
    x, y = (jax.random.normal(jax.random.key(seed), shape) for seed in range(2))
    y = 0.5 * y + x
    estimator = estimators.combined(js=estimators.js(), smile=estimators.smile())
    plain, cut = (models.discriminative(CRITICS[name], estimator, block=block) for block in (None, 4))
    params = jax.jit(plain.init)(jax.random.key(3), x, y)
    of = lambda model: jax.jit(jax.value_and_grad(lambda p: model.loss(p, (), x, y), has_aux=True))(params)  # noqa: E731
    ((loss, (_, nats)), slope), ((cut_loss, (_, cut_nats)), cut_slope) = of(plain), of(cut)
    np.testing.assert_allclose(cut_loss, loss, rtol=1e-5)
    for read_out in nats:
        np.testing.assert_allclose(cut_nats[read_out], nats[read_out], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), cut_slope, slope)


def temporary_bytes(n, block):
    model = models.discriminative(networks.JointCritic((64, 64)), estimators.infonce(), block=block)
    rows = jax.random.normal(jax.random.key(0), (2, n, 4))
    recipe = training.trainer(model, lambda key, step: (rows[0], rows[1]))
    state = jax.eval_shape(recipe.init, jax.random.key(0))
    return jax.jit(recipe.step).lower(state).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_rows_times_block():
    small, large, whole = temporary_bytes(128, 8), temporary_bytes(512, 8), temporary_bytes(512, None)
    assert large < 6 * small
    assert large < whole / 8


def test_a_critic_that_only_scores_can_be_cut_too():
    class Plain(networks.MLP):
        def __call__(self, x, y):
            return x @ y.T

    model = models.discriminative(Plain(), estimators.infonce(), block=2)
    x = jnp.arange(15.0).reshape(5, 3) / 10
    loss, _ = model.loss({}, (), x, x)
    np.testing.assert_allclose(-loss, mi_jax.infonce(x @ x.T), rtol=1e-6)


def test_projections_want_the_matrix():
    scores = blocks.of(lambda x, y: x @ y.T, jnp.ones((4, 2)), jnp.ones((4, 2)), size=2)
    for project in (projections.dv, projections.infonce, projections.smile):
        with pytest.raises(TypeError, match=r"must be a score matrix here, .* got Blocks"):
            project(scores)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ((4, 5), 2, r"x and y must hold the same number of rows, at least 2, got \[4, 5\]"),
        ((1, 1), 2, r"x and y must hold the same number of rows, at least 2, got \[1\]"),
        ((4, 4), 0, "size must be at least 1, got 0"),
    ],
)
def test_bad_input(rows, size, message):
    x, y = (jnp.ones((n, 2)) for n in rows)
    with pytest.raises(ValueError, match=message):
        blocks.of(lambda x, y: x @ y.T, x, y, size)


@pytest.mark.parametrize(
    ("pair", "size", "message"),
    [
        (jnp.ones((4, 4)), 2, "pair must be a function of rows of x and of y, got ArrayImpl"),
        (lambda x, y: x @ y.T, 1.5, "size must be an integer, got float"),
    ],
)
def test_bad_kinds(pair, size, message):
    with pytest.raises(TypeError, match=message):
        blocks.of(pair, jnp.ones((4, 2)), jnp.ones((4, 2)), size)


@pytest.mark.parametrize(
    ("pair", "got"),
    [
        (lambda x, y: (x @ y.T)[:, :1], r"got float32 of \(2, 1\)"),
        (lambda x, y: jnp.ones((2, 4), int), r"got int32 of \(2, 4\)"),
    ],
)
def test_scores_of_another_kind_are_refused(pair, got):
    """One column would be spread over all pairs."""
    with pytest.raises(ValueError, match=r"pair must give floating scores of shape \(2, 4\), " + got):
        blocks.of(pair, jnp.ones((4, 2)), jnp.ones((4, 2)), size=2)


def test_blocks_and_groups_exclude_each_other():
    with pytest.raises(ValueError, match="block and group must not both be given"):
        models.discriminative(networks.SeparableCritic(), estimators.infonce(), group=2, block=2)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        models.discriminative(networks.SeparableCritic(), estimators.infonce(), block=0)
