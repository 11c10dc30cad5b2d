import jax
import numpy as np
import pytest
from scipy import special

from mi_jax import training
from mi_jax.estimation import stacking
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.fold_trainer import TrainRows
from mi_jax.estimation.read_out import Pairs, Rows
from mi_jax.networks import BilinearCritic, SeparableCritic, StackedCritic, stacked

RHO = 0.8
ALL = np.ones(4, bool)


def draw_groups(seed=0, groups=4, size=100):
    """Correlated normal pairs in groups, and the log ratios of all pairs within each."""
    x, noise = np.random.default_rng(seed).standard_normal((2, groups, size))
    y = RHO * x + np.sqrt(1 - RHO**2) * noise
    u, v = x[:, :, None], y[:, None, :]
    ratio = -0.5 * np.log(1 - RHO**2) - (RHO**2 * (u**2 + v**2) - 2 * RHO * u * v) / (2 * (1 - RHO**2))
    return u, v, ratio


def test_the_parts_of_the_log_ratio_are_put_together():
    """A critic of the cross term and one of the squares, on other scales: about 1 over these, up to sampling."""
    u, v, ratio = draw_groups(groups=40)
    cross = RHO * u * v / (1 - RHO**2)
    squares = ratio - cross
    found = stacking.weigh(np.stack([2 * cross, 0.5 * squares + 3.0]), np.ones(40, bool))
    np.testing.assert_allclose(found.weights, [0.5, 2.0], rtol=0.1)
    np.testing.assert_allclose(found.constant + found.weights[1] * 3.0, 0.0, atol=0.1)


def test_the_weights_are_a_minimum():
    """The gradient of the penalised loss, by hand in float64, is zero in weights that are not held at zero."""
    u, v, ratio = draw_groups()
    candidates = np.stack([0.3 * ratio + 0.1 * np.sin(3 * u), RHO * u * v / (1 - RHO**2), -ratio])
    found = stacking.weigh(candidates, ALL)
    assert found.weights[2] == 0.0
    total = found.constant + np.tensordot(found.weights, candidates, 1)
    own = np.broadcast_to(np.eye(100, dtype=bool), total.shape)
    below, above = special.expit(-total[own]), special.expit(total[~own])
    for k, weight in enumerate(found.weights):
        slope = 400 * (np.mean(candidates[k][~own] * above) - np.mean(candidates[k][own] * below)) + weight - (k == 0)
        assert slope == pytest.approx(0.0, abs=0.01) if weight else slope > 0
    assert 400 * (above.mean() - below.mean()) + found.constant == pytest.approx(0.0, abs=0.01)


def test_what_gains_nothing_leaves_the_first_alone():
    _, _, ratio = draw_groups()
    noise = np.random.default_rng(1).standard_normal(ratio.shape)
    found = stacking.weigh(np.stack([ratio, noise]), ALL)
    assert found == (pytest.approx([1.0, 0.0]), 0.0)


def test_few_rows_hardly_move_the_weights():
    _, _, ratio = draw_groups(groups=1, size=4)
    found = stacking.weigh(np.stack([0.1 * ratio, ratio]), np.ones(1, bool))
    assert found.weights[1] < 0.7
    assert found.weights[0] > 0.9


def test_a_candidate_that_is_not_finite_has_no_weight():
    _, _, ratio = draw_groups()
    broken = np.where(np.arange(100) == 7, np.inf, ratio)
    assert stacking.weigh(np.stack([broken, ratio]), ALL).weights == pytest.approx([0.0, 1.0], abs=0.3)
    assert stacking.weigh(np.stack([broken, broken]), ALL) == (pytest.approx([1.0, 0.0]), 0.0)


def test_groups_of_padding_do_not_count():
    _, _, ratio = draw_groups()
    scores = np.stack([0.2 * ratio, ratio])
    padded = np.concatenate([scores, np.full((2, 2, 100, 100), np.nan)], axis=1)
    ours, theirs = stacking.weigh(scores, ALL), stacking.weigh(padded, np.arange(6) < 4)
    np.testing.assert_array_equal(theirs.weights, ours.weights)


def test_the_scorer_gives_the_scores_of_groups():
    """Of validation rows, in their order; groups with padding are marked."""
    critics = BilinearCritic(), SeparableCritic(hidden=(4,), embed=2)
    parts = [FitConfig(name, critic, 8, 8, 1, 1, 1e-3, 10) for name, critic in zip(("smile", "nwj"), critics, strict=True)]
    x, y = np.float32(np.random.default_rng(0).standard_normal((2, 40, 3)))
    variables = [critic.init(jax.random.key(1), x, y) for critic in critics]
    together = stacked.stack_variables(variables, np.ones(2, np.float32), np.float32(0.0))
    numbers = np.random.default_rng(1).permutation(40)[:22]
    valid = Pairs(numbers, numbers[::-1], np.int32(15))
    config = parts[0]._replace(critic=StackedCritic(critics), candidates=tuple(parts))
    inputs = training.Inputs(Rows(x, y), TrainRows(valid, valid))
    scores, counts = stacking.Scorer(5)(config, together, inputs)
    assert scores.shape == (2, 4, 5, 5)
    np.testing.assert_array_equal(counts, [1, 1, 1, 0])
    for group in range(4):
        places = slice(5 * group, 5 * group + 5)
        for k, critic in enumerate(critics):
            expected = critic.apply(variables[k], x[numbers[places]], y[numbers[::-1][places]]) - (k == 1)
            np.testing.assert_allclose(scores[k, group], expected, rtol=1e-4, atol=1e-5)
