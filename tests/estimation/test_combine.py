import math

import numpy as np
import pytest

from mi_jax.estimation.combine import combine, compare_with_permuted
from mi_jax.estimation.cross_fitting import Fitted
from mi_jax.estimation.read_out import HeldOut
from mi_jax.estimation.splits import Split, make_splits


def fitted(values, influences, **held_out):
    """A `Fitted` of these estimates and influence functions, as of a valid ratio that fits training and test rows alike."""
    numbers = {name: np.zeros(len(values)) for name in HeldOut._fields}
    numbers |= {"value": values, "influence": influences, "weights": np.ones(np.shape(influences)), "train": values}
    numbers |= {"others": {"dv": values}} | held_out
    nothing = dict.fromkeys(Fitted._fields)
    return Fitted(**nothing | {"held_out": HeldOut(**numbers), "diverged": values > np.inf})


@pytest.mark.parametrize(("folds", "repeats"), [(2, 1), (5, 1), (3, 3)])
def test_the_standard_error_is_its_formula(folds, repeats):
    """Each row's influence, summed over the folds that test it, and the folds' spread beyond that; in plain loops."""
    rng, seeds = np.random.default_rng(folds), folds * repeats
    parts = make_splits(103, folds, repeats, rng)
    tests = len(parts[0].test)
    for spread in (0.0, 1.0):
        values, influences = 1.0 + spread * rng.normal(size=seeds), rng.normal(size=(seeds, tests))
        allowed = {"log_normaliser": np.full(seeds, -0.2), "train": values + 0.3, "clipped_joint": np.full(seeds, 0.1)}
        given = fitted(values, influences, **allowed, others={"dv": values - 0.05})
        ours = combine(given, parts, 103, 0.9)
        of_row = np.zeros(103)
        for part, influence in zip(parts, influences, strict=True):
            for row, effect in zip(part.test, influence, strict=True):
                of_row[row] += effect / (tests * seeds)
        within = np.mean([np.var(influence, ddof=1) / tests for influence in influences])
        between = max(0.0, np.var(values, ddof=1) - within) if seeds > 1 else 0.0
        stderr = math.sqrt(np.sum(of_row**2) + between)
        assert ours.stderr == pytest.approx(stderr, rel=1e-9)
        np.testing.assert_allclose(ours.influence, 103 * of_row, rtol=1e-9, atol=1e-12)
        assert ours.mi == pytest.approx(np.mean(values), rel=1e-9)
        assert ours.allowance == pytest.approx((0.05, 0.5))
        reach = 1.6448536 * stderr  # the 95th percentile of the normal law
        assert ours.interval == pytest.approx((ours.mi - reach - 0.05, ours.mi + reach + 0.5), rel=1e-6)


def test_the_padding_of_a_smaller_fold_is_left_out():
    """Also where padding stands between the rows, as it does after each read-out group."""
    parts = [Split(np.arange(0), np.arange(0), np.array(rows)) for rows in ([5, 3, 1, 0], [2, 4])]
    influences = np.array([[0.5, -0.1, -0.6, 0.2], [0.3, 99.0, -0.3, 99.0]])
    ours = combine(fitted(np.array([1.0, 1.0]), influences, weights=np.array([[1, 1, 1, 1], [1, 0, 1, 0]])), parts, 6, 0.95)
    by_row = np.array([0.2 / 4, -0.6 / 4, 0.3 / 2, -0.1 / 4, -0.3 / 2, 0.5 / 4]) / 2
    np.testing.assert_allclose(ours.influence, 6 * by_row, rtol=1e-6)
    assert ours.stderr == pytest.approx(math.sqrt(by_row @ by_row), rel=1e-6)


def test_the_standard_error_is_that_of_many_data_sets_of_known_log_ratios():
    """A critic that is exact errs by the sampling of the rows alone, by their standard deviation over √n.

    The error counts the seeds' spread as if it were common to all, and so is too large: by the root of
    1 + 5 E[max(0, χ²/4 - 1)] with 4 degrees of freedom, which is 1.534.
    """
    rng = np.random.default_rng(0)
    parts = make_splits(200, 5, 1, rng)
    errors, estimates, hits = [], [], 0
    for log_ratios in 1.0 + rng.normal(size=(1_000, 200)):
        tested = np.stack([log_ratios[part.test] for part in parts])
        values = tested.mean(axis=1)
        ours = combine(fitted(values, tested - values[:, None]), parts, 200, 0.95)
        errors.append(ours.stderr)
        estimates.append(ours.mi)
        hits += ours.interval[0] <= 1.0 <= ours.interval[1]
    # 1,000 draws give a spread to 2 %.
    assert np.std(estimates) == pytest.approx(200**-0.5, rel=0.07)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1.534 * 200**-0.5, rel=0.04)
    assert hits >= 950


def check_any_p_value(p_values):
    """Checks 20 or more uniform p-values, each a multiple of 1/20."""
    np.testing.assert_allclose(np.array(p_values) * 20, np.round(np.array(p_values) * 20))
    error = math.sqrt((20**2 - 1) / 12) / 20 / math.sqrt(len(p_values))
    assert 0.525 - 4 * error < np.mean(p_values) < 0.525 + 4 * error
    assert len(set(p_values)) > 6


def test_independent_data_have_any_p_value():
    """Here by the correlation in the place of an estimate, which is compared in the same way."""
    correlate = lambda rows: np.corrcoef(rows[0][:, 0], rows[1][:, 0])[0, 1]  # noqa: E731
    p_values = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        rows = tuple(rng.standard_normal((2, 50, 1)))
        orders = [rng.permutation(50) for _ in range(19)]
        statistics = np.array([correlate((rows[0], rows[1][order])) for order in orders])
        p_values.append(compare_with_permuted(correlate(rows), statistics, rng).p_value)
    check_any_p_value(p_values)
    assert len(set(p_values)) == 20


@pytest.mark.parametrize(
    ("observed", "statistics", "p_values"),
    [
        (1.0, [0.0, 0.5, 0.9], {0.25}),
        (0.6, [0.0, 0.5, 0.9], {0.5}),
        (-1.0, [0.0, 0.5, 0.9], {1.0}),
        (0.0, [0.0, 0.0, 0.0], {0.25, 0.5, 0.75, 1.0}),
        (0.5, [0.5, 0.9, 0.1], {0.5, 0.75}),
        (1.0, [math.nan, 0.5, 0.9], {0.5}),
        (math.nan, [0.0, 0.5, 0.9], {math.nan}),
    ],
)
def test_p_values(observed, statistics, p_values):
    """1 + k of 1 + m; sets without an estimate count against the data, and data without one have no p-value."""
    found = {
        compare_with_permuted(observed, np.array(statistics), np.random.default_rng(seed)).p_value for seed in range(50)
    }
    assert found == p_values or (math.isnan(observed) and np.isnan([*found]).all())
