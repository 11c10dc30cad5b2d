import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, evaluation, models, networks, projections, tasks
from mi_jax.models import Model


def exact(task):
    """A model whose log ratio is the task's own."""
    return Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: task.log_ratio(x, y))


def test_value_is_numpys():
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.nwj())
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 7)
    params = model.init(jax.random.key(1), x, y)
    scores = np.float64(model.scores(params, x, y)) - 1.0  # NWJ's critic learns log r + 1
    ratio = np.exp([scores[i, (i + 1) % 7] for i in range(7)])
    ours = evaluation.normaliser(model, params, x, y)
    np.testing.assert_allclose(ours.log_mean, np.log(ratio.mean()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-4)


def test_the_exact_ratio_has_normaliser_one():
    """E_Q[r*] = 1, to the standard error that the law gives: Var = (e^{2I} - 1) / n."""
    task, n = tasks.gaussian(20, 0.5), 200_000
    x, y = task.sample(jax.random.key(0), n)
    ours = evaluation.normaliser(exact(task), (), x, y)
    assert abs(float(jnp.exp(ours.log_mean)) - 1) < 4 * np.sqrt(np.expm1(1.0) / n)
    # n / E_Q[r*²] = n e^{-2I}
    assert ours.effective_pairs == pytest.approx(n * np.exp(-1.0), rel=0.1)


def test_where_the_tail_is_not_seen_the_effective_pairs_say_so():
    task = tasks.gaussian(20, 10.0)
    ours = evaluation.normaliser(exact(task), (), *task.sample(jax.random.key(0), 10_000))
    assert ours.log_mean < -1.0  # though the ratio is exact
    assert ours.effective_pairs < 10


def test_it_agrees_with_the_partition_over_all_off_diagonal_pairs():
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.js())
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 2_000)
    params = model.init(jax.random.key(1), x, y)
    by_matrix = projections.log_partition(model.scores(params, x, y))
    assert evaluation.normaliser(model, params, x, y).log_mean == pytest.approx(float(by_matrix), abs=0.02)


def test_extreme_ratios_stay_finite():
    model = Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: 1e4 * x[:, 0])
    ours = evaluation.normaliser(model, (), jnp.array([[1.0], [-1.0]]), jnp.zeros((2, 1)))
    assert ours.log_mean == pytest.approx(1e4 - np.log(2), rel=1e-6)
    assert ours.effective_pairs == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: evaluation.normaliser("gm", (), x, x), TypeError, "model must be a Model, got str"),
        (lambda m, x: evaluation.normaliser(m, (), x, x[:2]), ValueError, "same number of rows, at least 2, got 3 and 2"),
        (lambda m, x: evaluation.normaliser(m, (), x[:1], x[:1]), ValueError, "at least 2, got 1 and 1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(exact(tasks.gaussian(2, 1.0)), jnp.zeros((3, 2)))
