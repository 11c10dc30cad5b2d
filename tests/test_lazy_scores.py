"""Bounds over blocks of scores: those of the matrix, values and gradients, in memory that does not grow with its square."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mi_jax
from mi_jax import estimators, lazy_scores, models, networks, projections
from tests.draws import draw_normal, draw_params
from tests.selection import select_default

BOUNDS = {
    "infonce": mi_jax.infonce,
    "symmetric": lambda scores: mi_jax.infonce(scores, symmetric=True),
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


def draw_batch():
    kernel, (x, noise) = draw_normal(3, 3, seed=1), draw_normal(2, 11, 3)
    return kernel, x, noise + 0.5 * x


def score_in_blocks(kernel, x, y, size):
    return lazy_scores.make(jax.tree_util.Partial(inner_products, kernel), x, y, size)


@functools.cache
def value_and_gradient(name):
    """A bound of the matrix, and its gradient: the same for all sizes of blocks."""
    return jax.jit(jax.value_and_grad(lambda batch: BOUNDS[name](inner_products(*batch))))(draw_batch())


def check_blocks(name, size):
    over_blocks = jax.jit(jax.value_and_grad(lambda batch: BOUNDS[name](score_in_blocks(*batch, size))))
    ours, theirs = over_blocks(draw_batch()), value_and_gradient(name)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6, atol=1e-6)
    for our_slope, their_slope in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(our_slope, their_slope, rtol=1e-4, atol=2e-6)


# MINE is DV and a moving average, the read-outs of JS and TUBA are TUBA at a baseline of zero: nothing new on blocks. The
# interpolated bound takes 4 s to compile.
@select_default("infonce", "nwj", "dv", "smile", "logistic", "tuba", of=BOUNDS)
def test_bounds_and_their_gradients_are_those_of_the_matrix(name):
    """11 rows in blocks of 4: the last block is padded."""
    check_blocks(name, 4)


# Single rows, all rows, and blocks larger than the batch: by default for one bound.
@pytest.mark.parametrize(
    "name", [name if name == "infonce" else pytest.param(name, marks=pytest.mark.slow) for name in BOUNDS]
)
@pytest.mark.parametrize("size", [1, 11, 50])
def test_blocks_may_have_any_size(name, size):
    check_blocks(name, size)


def test_dv_against_float64():
    kernel, x, y = (np.float64(part) for part in draw_batch())
    scores = x @ kernel @ y.T
    off = scores[~np.eye(11, dtype=bool)]
    found = jax.jit(lambda batch: mi_jax.dv(score_in_blocks(*batch, size=3)))(draw_batch())
    assert float(found) == pytest.approx(np.diag(scores).mean() - np.log(np.exp(off).mean()), rel=1e-5)


@select_default("dv", "infonce", of=["dv", "infonce", "smile", "logistic"])
def test_scores_of_hundreds_and_minus_infinity_keep_values_and_gradients_finite(name):
    """A row whose negatives are all -inf is a sum of 0, and no NaN: of the whole it is a part only."""
    hidden = np.zeros((6, 6), np.float32)
    hidden[2] = -np.inf
    hidden[2, 2] = 0.0

    def of(scale, x, y):
        return scale * 300.0 * (x == y.T) + jnp.asarray(hidden)[x[:, 0].astype(int)][:, y[:, 0].astype(int)]

    @jax.jit
    def look(scale, rows):
        over_blocks = lambda scale: BOUNDS[name](lazy_scores.make(jax.tree_util.Partial(of, scale), rows, rows, row_block=2))  # noqa: E731
        over_matrix = lambda scale: BOUNDS[name](of(scale, rows, rows))  # noqa: E731
        return jax.value_and_grad(over_blocks)(scale), jax.value_and_grad(over_matrix)(scale)

    (value, slope), (expected, of_matrix) = look(1.0, np.arange(6, dtype=np.float32)[:, None])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, of_matrix, rtol=1e-5)
    assert np.isfinite(slope)


def test_half_precision_scores_are_reduced_in_float32():
    @jax.jit
    def look(low):
        return mi_jax.dv(score_in_blocks(*low, size=4)), mi_jax.dv(inner_products(*low))

    of_blocks, of_matrix = look(tuple(part.astype(jnp.bfloat16) for part in draw_batch()))
    assert of_blocks.dtype == jnp.float32
    np.testing.assert_allclose(of_blocks, of_matrix, rtol=1e-2)


CRITICS = {
    "joint": networks.JointCritic((8, 8)),
    "separable": networks.SeparableCritic((8,), 4),
    "bilinear": networks.BilinearCritic(),
    "baseline": networks.BaselineCritic(networks.JointCritic((8,)), (8,)),
    "gaussian": networks.GaussianCritic((8,)),
    "images": networks.JointConvCritic((2, 3), (4,)),
}
# Both ways to hold scores, and critics of which x and y are encoded apart (separable) and together (joint).
FAST_TRAINING = [("joint", True), ("separable", False)]


@pytest.mark.parametrize(
    ("name", "held"),
    [*FAST_TRAINING]
    + [
        pytest.param(name, held, marks=pytest.mark.slow)
        for name in CRITICS
        for held in (True, False)
        if (name, held) not in FAST_TRAINING
    ],
)
def test_training_in_blocks_is_training_on_the_matrix(name, held, monkeypatch):
    if not held:
        monkeypatch.setattr(sys.modules["mi_jax.models.discriminative"], "HELD_PAIRS", 0)
    shape = (9, 6, 6) if name == "images" else (9, 3)
    x, noise = draw_normal(2, *shape)
    y = 0.5 * noise + x
    estimator = estimators.share_training(js=estimators.js(), smile=estimators.smile())
    plain, cut = (models.discriminative(CRITICS[name], estimator, row_block=block) for block in (None, 4))
    if name == "gaussian":  # it fits some of its parameters to the rows
        params = jax.jit(plain.init)(jax.random.key(3), x, y)
    else:
        params = draw_params(plain.init, jax.random.key(3), x, y)
    look = lambda model: jax.jit(jax.value_and_grad(lambda p: model.loss(p, (), x, y), has_aux=True))(params)  # noqa: E731
    ((loss, (_, nats)), slope), ((cut_loss, (_, cut_nats)), cut_slope) = look(plain), look(cut)
    np.testing.assert_allclose(cut_loss, loss, rtol=1e-5)
    for read_out in nats:
        np.testing.assert_allclose(cut_nats[read_out], nats[read_out], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), cut_slope, slope)


def measure_temporary_bytes(n, block, hidden):
    """The memory that a gradient takes besides its arguments and its result."""
    model = models.discriminative(networks.JointCritic(hidden), estimators.infonce(), row_block=block)
    rows = jax.ShapeDtypeStruct((n, 4), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), rows, rows)
    gradient = jax.jit(jax.grad(model.loss, has_aux=True)).lower(params, (), rows, rows).compile()
    return gradient.memory_analysis().temp_size_in_bytes


# With layers so wide, they are most of the memory.
@pytest.mark.parametrize("hidden", [(128,), pytest.param((64, 64), marks=pytest.mark.slow)])
def test_memory_grows_with_rows_times_block(hidden):
    small, large, whole = (measure_temporary_bytes(n, block, hidden) for n, block in [(128, 8), (512, 8), (512, None)])
    assert large < 6 * small
    assert large < whole / 8


def test_a_critic_that_only_scores_can_be_cut_too():
    class Plain(networks.MLP):
        def __call__(self, x, y):
            return x @ y.T

    model = models.discriminative(Plain(), estimators.infonce(), row_block=2)
    x = jnp.arange(15.0).reshape(5, 3) / 10
    loss, expected = jax.jit(lambda x: (model.loss({}, (), x, x)[0], -mi_jax.infonce(x @ x.T)))(x)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_projections_want_the_matrix():
    scores = lazy_scores.make(lambda x, y: x @ y.T, jnp.ones((4, 2)), jnp.ones((4, 2)), row_block=2)
    for project in (projections.dv, projections.infonce, projections.smile):
        with pytest.raises(TypeError, match=r"must be a score matrix here, .* got LazyScores"):
            project(scores)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ((4, 5), 2, r"x and y must hold the same number of rows, at least 2, got \[4, 5\]"),
        ((1, 1), 2, r"x and y must hold the same number of rows, at least 2, got \[1\]"),
        ((4, 4), 0, "row_block must be at least 1, got 0"),
    ],
)
def test_bad_input(rows, size, message):
    x, y = (jnp.ones((n, 2)) for n in rows)
    with pytest.raises(ValueError, match=message):
        lazy_scores.make(lambda x, y: x @ y.T, x, y, size)


@pytest.mark.parametrize(
    ("pair", "size", "message"),
    [
        (jnp.ones((4, 4)), 2, "pair must be a function of rows of x and of y, got ArrayImpl"),
        (lambda x, y: x @ y.T, 1.5, "row_block must be an integer, got float"),
    ],
)
def test_bad_kinds(pair, size, message):
    with pytest.raises(TypeError, match=message):
        lazy_scores.make(pair, jnp.ones((4, 2)), jnp.ones((4, 2)), size)


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
        lazy_scores.make(pair, jnp.ones((4, 2)), jnp.ones((4, 2)), row_block=2)


def test_blocks_and_groups_exclude_each_other():
    with pytest.raises(ValueError, match="row_block and sub_batch must not both be given"):
        models.discriminative(networks.SeparableCritic(), estimators.infonce(), sub_batch=2, row_block=2)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        models.discriminative(networks.SeparableCritic(), estimators.infonce(), row_block=0)
