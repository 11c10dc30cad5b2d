import math

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from mi_jax.estimation.combine import combine, compare_with_permuted, merge_parts
from mi_jax.estimation.cross_fitting import Fitted
from mi_jax.estimation.read_out import HeldOut
from mi_jax.estimation.splits import Split, make_growing_splits, make_splits
from mi_jax.estimation.units import make_units


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
    parts = make_splits(make_units(103), folds, repeats, rng)
    tests = len(parts[0].test)
    for spread in (0.0, 1.0):
        values, influences = 1.0 + spread * rng.normal(size=seeds), rng.normal(size=(seeds, tests))
        allowed = {"log_normaliser": np.full(seeds, -0.2), "train": values + 0.3, "clipped_joint": np.full(seeds, 0.1)}
        given = fitted(values, influences, **allowed, others={"dv": values - 0.05})
        ours = combine(given, parts, make_units(103), 0.9)
        of_row = np.zeros(103)
        for part, influence in zip(parts, influences, strict=True):
            for row, effect in zip(part.test, influence, strict=True):
                of_row[row] += effect / (tests * seeds)
        within = np.mean([np.var(influence, ddof=1) / tests for influence in influences])
        between = max(0.0, np.var(values, ddof=1) - within) if seeds > 1 else 0.0
        stderr = math.sqrt(np.sum(of_row**2) * 103 / 102 + between)
        assert ours.stderr == pytest.approx(stderr, rel=1e-9)
        np.testing.assert_allclose(ours.influence, 103 * of_row, rtol=1e-9, atol=1e-12)
        assert ours.mi == pytest.approx(np.mean(values), rel=1e-9)
        assert ours.allowance == pytest.approx((0.05, 0.5))
        reach = 1.659930 * stderr  # the 95th percentile of Student's law with 102 degrees of freedom
        assert ours.interval == pytest.approx((ours.mi - reach - 0.05, ours.mi + reach + 0.5), rel=1e-6)


def test_the_padding_of_a_smaller_fold_is_left_out():
    """Also where padding stands between the rows, as it does after each read-out group."""
    parts = [Split(np.arange(0), np.arange(0), np.array(rows)) for rows in ([5, 3, 1, 0], [2, 4])]
    influences = np.array([[0.5, -0.1, -0.6, 0.2], [0.3, 99.0, -0.3, 99.0]])
    given = fitted(np.array([1.0, 1.3]), influences, weights=np.array([[1, 1, 1, 1], [1, 0, 1, 0]]))
    ours = combine(given, parts, make_units(6), 0.95)
    assert ours.mi == pytest.approx((4 * 1.0 + 2 * 1.3) / 6)
    by_row = np.array([0.2, -0.6, 0.3, -0.1, -0.3, 0.5]) / 6
    np.testing.assert_allclose(ours.influence, 6 * by_row, rtol=1e-6)
    within = np.mean([np.var([0.5, -0.1, -0.6, 0.2], ddof=1) / 4, np.var([0.3, -0.3], ddof=1) / 2])
    between = max(0.0, np.var([1.0, 1.3], ddof=1) - within)
    assert ours.stderr == pytest.approx(math.sqrt(by_row @ by_row * 6 / 5 + between), rel=1e-6)


def test_the_standard_error_is_that_of_many_data_sets_of_known_log_ratios():
    """A critic that is exact errs by the sampling of the rows alone, by their standard deviation over √n.

    The error counts the seeds' spread as if it were common to all, and so is too large: by the root of
    1 + 5 E[max(0, χ²/4 - 1)] with 4 degrees of freedom, which is 1.534.
    """
    rng = np.random.default_rng(0)
    parts = make_splits(make_units(200), 5, 1, rng)
    errors, estimates, hits = [], [], 0
    for log_ratios in 1.0 + rng.normal(size=(1_000, 200)):
        tested = np.stack([log_ratios[part.test] for part in parts])
        values = tested.mean(axis=1)
        ours = combine(fitted(values, tested - values[:, None]), parts, make_units(200), 0.95)
        errors.append(ours.stderr)
        estimates.append(ours.mi)
        hits += ours.interval[0] <= 1.0 <= ours.interval[1]
    # 1,000 draws give a spread to 2 %.
    assert np.std(estimates) == pytest.approx(200**-0.5, rel=0.07)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1.534 * 200**-0.5, rel=0.04)
    assert hits >= 950


def test_the_standard_error_of_groups_is_its_formula():
    """Influences are summed over the rows of a group before they are squared."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 25, 150)
    units = make_units(150, labels)
    parts = make_splits(units, 5, 1, rng)
    most = max(len(part.test) for part in parts)
    influences, weights = rng.normal(size=(5, most)), np.array([np.arange(most) < len(part.test) for part in parts])
    values = 1.0 + 0.5 * rng.normal(size=5)
    ours = combine(fitted(values, influences, weights=weights), parts, units, 0.95)
    of_group, within = np.zeros(25), []
    for part, influence in zip(parts, influences, strict=True):
        influence = influence[: len(part.test)]
        for row, effect in zip(part.test, influence, strict=True):
            of_group[labels[row]] += effect / 150
        sums = [np.sum((influence - influence.mean())[labels[part.test] == label]) for label in set(labels[part.test])]
        within.append(np.sum(np.square(sums)) / len(part.test) ** 2 * len(sums) / (len(sums) - 1))
    between = max(0.0, np.var(values, ddof=1) - np.mean(within))
    assert ours.mi == pytest.approx(np.average(values, weights=[len(part.test) for part in parts]))
    assert ours.stderr == pytest.approx(math.sqrt(np.sum(of_group**2) * 25 / 24 + between))
    reach = 2.063899 * ours.stderr  # the 97.5th percentile of Student's law with 24 degrees of freedom
    assert ours.interval == pytest.approx((ours.mi - reach, ours.mi + reach))


def draw_groups(rng, sizes):
    """Log ratios of mean 1 that the rows of a group share in part."""
    labels = np.repeat(np.arange(sizes.size), sizes)
    return labels, 1.0 + rng.normal(size=sizes.size)[labels] + 0.5 * rng.normal(size=labels.size)


@pytest.mark.parametrize(
    "sizes",
    [pytest.param(np.full(30, 10), marks=pytest.mark.slow), np.random.default_rng(0).integers(1, 12, 60)],
    ids=["equal", "unequal"],
)
def test_the_interval_covers_a_mean_over_groups(sizes):
    """Where each row counts as one, it does not."""
    rng, hits = np.random.default_rng(0), {"groups": 0, "rows": 0}
    for _ in range(200):
        labels, log_ratios = draw_groups(rng, sizes)
        for kind, units in (("groups", make_units(labels.size, labels)), ("rows", make_units(labels.size))):
            parts = make_splits(units, 5, 1, rng)
            most = max(len(part.test) for part in parts)
            tested = [log_ratios[part.test] for part in parts]
            values = np.array([one.mean() for one in tested])
            pad = lambda one: np.pad(one, (0, most - one.size))  # noqa: B023, E731
            given = fitted(
                values,
                np.array([pad(one - one.mean()) for one in tested]),
                weights=np.array([pad(np.ones(one.size)) for one in tested]),
            )
            low, high = combine(given, parts, units, 0.95).interval
            hits[kind] += low <= 1.0 <= high
    assert hits["groups"] >= 0.93 * 200
    assert hits["rows"] <= 0.8 * 200


@pytest.mark.parametrize(
    "sizes",
    [pytest.param(np.full(60, 10), marks=pytest.mark.slow), np.random.default_rng(0).integers(1, 12, 60)],
    ids=["equal", "unequal"],
)
def test_chance_makes_no_training_error(sizes):
    """Where only the test rows differ between folds, about 1 % of data sets show a training error, whatever the sizes."""
    rng, seen = np.random.default_rng(0), 0
    units = make_units(sizes.sum(), np.repeat(np.arange(sizes.size), sizes))
    for _ in range(300):
        _, log_ratios = draw_groups(rng, sizes)
        parts = make_splits(units, 5, 1, rng)
        most = max(len(part.test) for part in parts)
        tested = [log_ratios[part.test] for part in parts]
        weights = np.array([np.arange(most) < one.size for one in tested])
        influences = np.array([np.pad(one - one.mean(), (0, most - one.size)) for one in tested])
        given = fitted(np.array([one.mean() for one in tested]), influences, weights=weights)
        seen += combine(given, parts, units, 0.95).training_error > 0
    assert seen <= 10  # of 3 expected


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


def test_parts_are_merged_by_their_z_scores():
    sums = np.array([[3.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 1.0], [math.nan, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    ours = merge_parts(sums, np.array([1.0, 2.0, 5.0, 2.0]), np.zeros(4, int))
    np.testing.assert_allclose(ours.per_part, [1.5 / 4, 2.5 / 4, math.nan, 2.0 / 4])
    z = (stats.norm.isf(1.5 / 4) + 2 * stats.norm.isf(2.5 / 4) + 0.0) / 3
    assert ours.p_value == pytest.approx(stats.norm.sf(z))
    assert (ours.permutations, ours.statistics.size) == (3, 0)
    assert ours.least == pytest.approx(stats.norm.sf(stats.norm.isf(0.5 / 4) * 5 / 3))
    stuck = merge_parts(sums, np.array([1.0, 2.0, 5.0, 2.0]), np.array([1, 3, 0, 3]))
    assert stuck.least == pytest.approx(stats.norm.sf(stats.norm.isf(1.0 / 4) / 3))
    assert math.isnan(merge_parts(sums[2:3], np.ones(1), np.zeros(1, int)).p_value)


def correlate_in_turn(rng, x, y, units, turned_around=False):
    """The test of `estimate` with the sample correlation in place of a critic."""
    parts = make_growing_splits(units, 5, rng)
    sums = []
    for part in parts:
        tested, own = np.sort(part.test), np.arange(part.test.size)
        shifts = range(units.length, own.size - units.length)
        permuted = [np.roll(own, shift) for shift in shifts] if turned_around else units.exchange(tested, 99, rng)
        products = x[tested] * y[tested][np.vstack([own, permuted])]
        sums.append(np.mean(x[part.train] * y[part.train]) * products.sum(axis=1))
    return merge_parts(np.array(sums), np.sqrt([part.train.size for part in parts]), np.zeros(len(parts), int)).p_value


def draw_independent(rng, kind):
    if kind == "rows":
        x, y = rng.normal(size=(2, 200))
        return x, y, make_units(200)
    if kind == "groups":
        labels = rng.permutation(np.repeat(np.arange(40), 5))
        x, y, *_ = rng.normal(size=(2, 40))[:, labels] + 0.3 * rng.normal(size=(2, 200))
        return x, y, make_units(200, labels)
    x, y = lfilter([0.1], [1.0, -0.99], rng.normal(size=(2, 3_000)))[:, 1_000:]
    return x - x.mean(), y - y.mean(), make_units(2_000, blocks=100)


@pytest.mark.parametrize("kind", ["rows", "groups", "blocks"])
def test_parts_in_turn_have_any_p_value_where_nothing_is_shared(kind):
    """Exactly for rows and groups; blocks are nearly independent."""
    p_values = [correlate_in_turn(rng, *draw_independent(rng, kind)) for rng in map(np.random.default_rng, range(200))]
    for level in (0.05, 0.1, 0.5):
        low, high = stats.binom.interval(0.999, 200, level)
        assert low <= np.sum(np.array(p_values) <= level) <= high


@pytest.mark.slow
def test_stretches_that_are_turned_around_seem_dependent_too_often():
    """Why blocks are exchanged, and stretches of a series are not turned around."""
    rngs = map(np.random.default_rng, range(200))
    p_values = [correlate_in_turn(rng, *draw_independent(rng, "blocks"), turned_around=True) for rng in rngs]
    assert np.sum(np.array(p_values) <= 0.1) > 31  # of 20 expected


def test_the_interval_reaches_the_limit():
    """What the rows cannot exclude lies within, and changes nothing where the interval reaches further."""
    parts = make_splits(make_units(20), 2, 1, np.random.default_rng(0))
    nothing = fitted(np.zeros(2), np.zeros((2, 10)))
    assert combine(nothing, parts, make_units(20), 0.95).interval == (0.0, 0.0)
    assert combine(nothing, parts, make_units(20), 0.95, 0.07).interval == (0.0, 0.07)
    influences = np.random.default_rng(1).normal(size=(2, 10))
    plain, limited, far = (
        combine(fitted(np.ones(2), influences), parts, make_units(20), 0.95, limit) for limit in (math.nan, 0.07, 9.0)
    )
    assert limited.interval == plain.interval
    assert far.interval == pytest.approx((plain.interval[0], 9.0))
    assert far.allowance[1] == pytest.approx(9.0 - plain.interval[1])
