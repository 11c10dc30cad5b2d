"""Whether a log ratio leaves anything to learn: against loops over pairs in float64, and on laws that are known."""

import jax
import numpy as np
import pytest

from mi_jax import tasks
from mi_jax.estimation import residual
from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.residual import score_gaussian, score_residual
from mi_jax.networks import GaussianCritic
from mi_jax.networks.gaussian import gaussian_fit

fit = jax.jit(gaussian_fit)


def logistic(values):
    return 1 / (1 + np.exp(-values))


def test_the_slope_is_the_gradient_of_the_logistic_loss():
    """And the variance is that of its influence function, over the rows."""
    rng = np.random.default_rng(0)
    size, x, y = 6, rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    scores, direction = rng.normal(size=(6, 6)), rng.normal(size=(3, 2))
    shares = logistic(scores)
    np.fill_diagonal(shares, 0.0)
    group = x, y, shares, 1 - logistic(np.diagonal(scores))

    def loss(step):
        moved = scores + step * x @ direction @ y.T
        off = np.log1p(np.exp(moved))[~np.eye(size, dtype=bool)]
        return np.mean(np.log1p(np.exp(-np.diagonal(moved)))) + np.mean(off)

    slope = residual._slope(*group)
    assert np.sum(slope * direction) == pytest.approx(-(loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-6)
    influence = np.zeros(size)
    for i in range(size):
        influence[i] = group[3][i] * x[i] @ direction @ y[i]
        for j in range(size):
            influence[i] -= (shares[i, j] * x[i] @ direction @ y[j] + shares[j, i] * x[j] @ direction @ y[i]) / (size - 1)
    assert residual._variance_along(direction, *group) == pytest.approx(np.var(influence) / size)


def test_features_are_decorrelated_and_as_many_as_are_counted():
    for columns in (1, 2, 7, 50):
        rows = np.random.default_rng(0).normal(size=(3_000, columns))
        features = residual._features(rows)
        assert features.shape[1] == residual._count_features(columns)
        decorrelated = residual._decorrelated(features)
        np.testing.assert_allclose(decorrelated.mean(axis=0), 0.0, atol=1e-4)
        np.testing.assert_allclose(np.cov(decorrelated.T, bias=True), np.eye(decorrelated.shape[1]), atol=1e-2)


def draw(task, seed, n):
    x, y = (np.asarray(rows) for rows in task.sample(jax.random.key(seed), n))
    return tuple(fit_columns(rows, "rows")(rows) for rows in (x, y))


def exact(task):
    return lambda x, y: np.asarray(task.log_ratio(x[:, None], y[None]))


def test_a_right_log_ratio_leaves_nothing():
    """At 5 nats nearly all other pairs are recognised, and few of them count."""
    for mi in (0.0, 1.0, 5.0):
        task = tasks.gaussian(2, mi)
        x, y = map(np.asarray, task.sample(jax.random.key(3), 3_000))
        assert abs(score_residual(exact(task), x, y)) < 3


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "mi", "n"), [(1, 0.2, 2_000), (1, 4.0, 2_000), (3, 0.0, 4_500), (5, 2.0, 4_500)])
def test_z_is_about_standard_normal_for_a_right_log_ratio(dim, mi, n):
    """The mean of 100 is known to 0.1, and the spread to 0.07."""
    task = tasks.gaussian(dim, mi)
    z = [score_residual(exact(task), *map(np.asarray, task.sample(jax.random.key(seed), n))) for seed in range(100)]
    assert abs(np.mean(z)) < 0.4
    assert 0.75 < np.std(z) < 1.25


BENT = {
    "spiral": tasks.spiral(tasks.gaussian(2, 1.0)),
    "student": tasks.student(2, 1.0, df=3.0),
    "uniform noise": tasks.uniform_noise(2, 0.3),
    "a sine": tasks.sine(1, 0.2),
    "cubes turned": tasks.rotated(tasks.cubic(2, 1.0), jax.random.key(1)),
}


@pytest.mark.parametrize("name", BENT)
def test_what_is_not_normal_is_seen(name):
    x, y = draw(BENT[name], 0, 6_000)
    assert score_gaussian(fit(x, y), x, y) > 3


@pytest.mark.parametrize("dims", [(1, 1), (3, 2)])
def test_a_normal_law_leaves_nothing(dims):
    x, y = np.random.default_rng(1).normal(size=(2, 8_000, max(dims)))
    y = y[:, : dims[1]] + x[:, : dims[1]]
    x, y = (fit_columns(rows, "rows")(rows) for rows in (x, y))
    assert abs(score_gaussian(fit(x, y), x, y)) < 3
    few = residual.ROWS_A_FEATURE * residual._count_features(max(dims)) - 1
    assert score_gaussian(fit(x, y), x[:few], y[:few]) == np.inf


def test_folds_are_judged_together():
    assert residual.leaves_nothing([2.0, -0.5, 0.0])
    assert not residual.leaves_nothing([2.0, 1.5, 1.0])
    assert not residual.leaves_nothing([np.inf, -1.0])


def test_the_log_ratio_is_that_of_the_critic():
    """In directions that do not vary, too: the third column is the sum of the others."""
    x, noise = np.random.default_rng(2).normal(size=(2, 500, 2))
    x, y = np.float32(np.column_stack([x, x.sum(axis=1)])), np.float32(0.8 * x + 0.6 * noise)
    variables = jax.jit(GaussianCritic(hidden=()).init)(jax.random.key(0), x, y)
    ours = residual.gaussian_log_ratio(variables["gaussian"]["fit"])
    scores = ours(*residual.canonical_rows(variables["gaussian"]["fit"], x, y))
    np.testing.assert_allclose(scores, GaussianCritic(hidden=()).apply(variables, x, y), atol=2e-3)


def test_where_nothing_can_be_said_something_may_be_left():
    """Rows without variance, and more columns than the features serve."""
    x = np.random.default_rng(0).normal(size=(2_000, 1))
    assert score_residual(lambda x, y: np.zeros((len(x), len(y))), x, 0 * x) == np.inf
    assert residual.has_enough_rows(10**6, 20)
    assert not residual.has_enough_rows(10**6, 21)
