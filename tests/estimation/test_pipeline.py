"""`estimate` on data whose mutual information is known, what may and may not change it, and what it refuses.

Compiling takes nearly all of the time, so the default tests share four programs (see `tests/quick.py`). Tests of what
`estimate` passes on look at the arguments of `cross_fitting.fit_folds`, and fit nothing.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

import mi_jax
from mi_jax import networks, tasks
from mi_jax.estimation import cross_fitting, pipeline
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.cross_fitting import Seconds
from mi_jax.estimation.splits import Split
from mi_jax.tasks import Task
from tests.estimation.same import assert_same
from tests.estimation.test_combine import check_any_p_value
from tests.estimation.test_diagnostics import FITTED
from tests.quick import INFONCE, N, closed, draw, light, quick, thorough


def padded(task):
    """A task of one column a side, and on either side one more that tells nothing."""

    def sample(key, n):
        key, *others = jax.random.split(key, 3)
        pairs = zip(task.sample(key, n), others, strict=True)
        return tuple(jnp.concatenate([rows, jax.random.normal(other, (n, 1))], axis=1) for rows, other in pairs)

    return Task(sample, task.mi, lambda x, y: task.log_ratio(x[..., :1], y[..., :1]))


def table(probabilities):
    """Two discrete variables with this joint law, and its mutual information."""
    law = np.array(probabilities)
    ratio = law / law.sum(axis=1, keepdims=True) / law.sum(axis=0)
    log_ratio = np.log(np.where(law > 0, ratio, 1.0))

    def sample(key, n):
        cells = np.random.default_rng(np.asarray(jax.random.key_data(key))).choice(law.size, n, p=law.ravel())
        return (cells // law.shape[1])[:, None], (cells % law.shape[1])[:, None]

    return Task(sample, float((law * log_ratio).sum()), lambda x, y: log_ratio[np.int64(x[..., 0]), np.int64(y[..., 0])])


class NotFittedError(Exception):
    """Raised in the place of fitting."""


@pytest.fixture
def fit_arguments(monkeypatch):
    """A function that calls `estimate` up to the fit, and returns what the fit would get."""

    def call(x, y, **options):
        seen = {}

        def stop(config, **arguments):
            seen.update(arguments, config=config)
            raise NotFittedError

        with monkeypatch.context() as patch:
            patch.setattr(cross_fitting, "fit_folds", stop)
            with pytest.raises(NotFittedError):
                mi_jax.estimate(x, y, **options)
        return seen

    return call


def assert_same_data(ours, theirs):
    """Bit for bit the same rows are fitted."""
    for our_rows, their_rows in zip(ours["rows"][:2], theirs["rows"][:2], strict=True):
        assert our_rows.dtype == their_rows.dtype == np.float32
        np.testing.assert_array_equal(our_rows, their_rows)


# Known values


# name -> the task, and how far an estimate may be from the mean log ratio of the very rows.
KNOWN = {
    "independent": (tasks.gaussian(2, 0.0), 0.01),
    "gaussian": (tasks.gaussian(2, 1.0), 0.05),
    "cubic": (tasks.cubic(2, 2.0), 0.06),
    "rotated": (tasks.rotated(tasks.gaussian(2, 1.5), jax.random.key(5)), 0.06),
    "table of bits": (padded(table([[0.4, 0.1], [0.2, 0.3]])), 0.03),
    "equal labels": (padded(table(np.eye(3) / 3)), 0.06),
}
NORMAL = ("independent", "gaussian", "cubic", "rotated")  # once the columns are ranked
# A critic of eight hidden units is too small for the edges of a support.
KNOWN_TO_THOROUGH = {
    "student": (tasks.student(2, 1.0, df=8.0), 0.1),
    "uniform noise": (padded(tasks.uniform_noise(1, 0.2)), 0.2),
}


def check_known(estimate, task, error):
    """The estimate is close to the mean log ratio of these very rows, and its interval holds the MI of the law."""
    x, y = draw(task)
    ours = estimate(x, y)
    assert ours.mi == pytest.approx(float(np.mean(task.log_ratio(x, y))), abs=error)
    assert ours.interval[0] <= task.mi <= ours.interval[1]
    assert ours.interval[1] - ours.interval[0] < 0.5
    assert not {"deterministic", "duplicated_rows"} & set(ours.warnings)


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name):
    check_known(closed if name in NORMAL else quick, *KNOWN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KNOWN, *KNOWN_TO_THOROUGH])
def test_known_values_by_a_larger_critic(name):
    check_known(thorough, *(KNOWN | KNOWN_TO_THOROUGH)[name])


def test_columns_that_are_nearly_the_same_are_two():
    """They differ by a two-hundredth, which is all that y knows of: in float64 the normal law has 1.2 nats."""
    rng = np.random.default_rng(0)
    common, own, noise = rng.standard_normal((3, N))
    x, y = np.stack([common, common + 0.005 * own], axis=1), np.stack([own + 0.3 * noise, rng.standard_normal(N)], axis=1)
    correlation = np.corrcoef(np.column_stack([x, y]).T)
    parts = correlation[:2, :2], correlation[2:, 2:], correlation
    left, right, both = (np.linalg.slogdet(part)[1] for part in parts)
    exact = 0.5 * (left + right - both)
    assert exact == pytest.approx(1.2, abs=0.1)
    assert closed(x, y, transform="standardize").mi == pytest.approx(exact, abs=0.1)


# The same data in another form


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: rows.astype(np.float64),
        jnp.asarray,
        lambda rows: rows.reshape(N, 2, 1),
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.concatenate([rows, rows[:1]])[:-1],
    ],
    ids=["float64", "jax", "another shape", "another order", "a view"],
)
def test_the_same_numbers_in_another_form(data, barely_trained, form):
    assert_same(light(*map(form, data)), barely_trained)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32, np.uint8, bool])
def test_numbers_of_any_dtype(data, fit_arguments, dtype):
    """Rounded to it, and given as float32, they are the same numbers."""
    rounded = [(rows * (1 if jnp.issubdtype(dtype, np.floating) else 2) + 100 * (dtype is np.uint8)) for rows in data]
    rounded = [rows > 0 if dtype is bool else rows.astype(dtype) for rows in rounded]
    as_floats = [np.float32(rows) for rows in rounded]
    assert_same(light(*rounded), light(*as_floats))
    assert_same_data(fit_arguments(*map(jnp.asarray, rounded)), fit_arguments(*as_floats))


def test_increasing_maps_change_no_bit(data, barely_trained):
    """Values up to 1e280 among them: ranks are all that is seen."""
    x, y = (np.float64(rows) for rows in data)
    assert np.abs(np.sinh(150 * x)).max() > 1e200
    assert_same(light(np.sinh(150 * x), np.exp(y)), barely_trained)
    assert_same(light(-np.exp(-x), 1e-300 * y + 1e-290), barely_trained)


def test_decreasing_maps_and_exchanged_sides_change_little(data, found):
    x, y = data
    assert quick(-x, y**3).mi == pytest.approx(found.mi, abs=0.02)
    assert quick(y, x).mi == pytest.approx(found.mi, abs=0.02)


def test_columns_that_tell_nothing_are_left_out(data, barely_trained):
    """Here of rows of 2 x 2 entries, which are flattened."""
    x, y = data
    with_entry = lambda entry: np.concatenate([x, np.full((N, 1), entry), x[:, :1]], axis=1).reshape(N, 2, 2)  # noqa: E731
    ours = light(with_entry(1.0), y)
    assert (ours.mi, ours.per_fold.tolist()) == (barely_trained.mi, barely_trained.per_fold.tolist())
    assert set(ours.warnings) - set(barely_trained.warnings) == {"constant_columns_x", "duplicated_columns_x"}
    expected = barely_trained.pointwise(x, y)
    assert expected.shape == (N,)
    np.testing.assert_allclose(ours.pointwise(with_entry(0.0), y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", ["standardize", "none"])
def test_other_transforms(data, transform):
    assert closed(*data, transform=transform).mi == pytest.approx(0.95, abs=0.06)


@pytest.fixture(scope="module")
def turned():
    """Cubes of normal variables, of which y is turned."""
    return draw(tasks.rotated(tasks.cubic(2, 1.5), jax.random.key(3)), seed=1)


def test_components_of_mixed_columns(turned, tmp_path):
    ours, ranked = closed(*turned), closed(*turned, transform="ranks")
    assert ranked.interval[1] < ours.interval[0] < 1.5 < ours.interval[1]
    assert [columns.unmixing is not None for columns in ours.columns] == [False, True]
    assert "GaussianCritic in closed form, components of y, 5 folds" in repr(ours)
    ours.save(tmp_path / "mi.npz")
    again = mi_jax.load(tmp_path / "mi.npz")
    assert repr(again) == repr(ours)
    np.testing.assert_array_equal(again.pointwise(*turned), ours.pointwise(*turned))


@pytest.mark.slow
def test_permuted_sets_of_mixed_columns_share_nothing(turned):
    """Each of them chooses its coordinates."""
    ours = closed(*turned, permutations=19, retrain=True)
    assert ours.independence.p_value == 0.05
    assert ours.mi > 1.35
    assert np.abs(ours.independence.statistics).max() < 0.1


ROW_SHAPES = [((), (2, 3)), ((1, 1), ())]


@pytest.mark.parametrize(("x_shape", "y_shape"), ROW_SHAPES)
def test_rows_of_any_shape_are_fitted_as_flat_ones(fit_arguments, x_shape, y_shape):
    x, y = (np.random.default_rng(side).normal(size=(N, math.prod(shape))) for side, shape in enumerate((x_shape, y_shape)))
    assert_same_data(fit_arguments(x.reshape(N, *x_shape), y.reshape(N, *y_shape)), fit_arguments(x, y))


@pytest.mark.slow
@pytest.mark.parametrize(("x_shape", "y_shape"), ROW_SHAPES)
def test_rows_of_different_shapes(x_shape, y_shape):
    """One dependent column each: whatever the shape, the same nats."""
    x, y = draw(tasks.gaussian(1, 1.0))
    rng = np.random.default_rng(0)
    wide = np.concatenate([y, rng.normal(size=(N, math.prod(y_shape) - 1))], axis=1)
    x, y = x.reshape(N, *x_shape), wide.reshape(N, *y_shape)
    critic = networks.JointCritic(hidden=(32,))
    ours = mi_jax.estimate(x, y, critic=critic, steps=750, batch_size=64, folds=2, learning_rate=5e-3)
    assert ours.interval[0] < 1.0 < ours.interval[1]
    assert ours.mi > 0.7
    assert ours.pointwise(x[:3], y[:3]).shape == (3,)


# Keys, seeds, devices


def test_a_key_decides_everything(data, found, barely_trained):
    assert_same(light(*data), barely_trained)
    assert_same(light(*data, key=jax.random.key(0)), barely_trained)
    other = quick(*data, key=jax.random.key(1))
    assert other.mi != found.mi
    assert other.mi == pytest.approx(found.mi, abs=4 * found.stderr)


def test_keys_of_another_kind_reach_the_fit(data, fit_arguments):
    """Training on them is tested in tests/training/test_runs.py."""
    given = fit_arguments(*data, key=jax.random.key(0, impl="rbg"))
    assert given["keys"].dtype == jax.random.key(0, impl="rbg").dtype
    assert (len(given["keys"]), len(given["splits"])) == (5, 5)


@pytest.mark.slow
def test_keys_of_another_kind(data):
    assert np.isfinite(light(*data, key=jax.random.key(0, impl="rbg")).mi)


@pytest.mark.parametrize("wrap", [list, tuple, iter])
def test_devices_reach_the_fit(data, fit_arguments, wrap):
    """That they change no bit is tested in tests/training/test_runs.py."""
    assert fit_arguments(*data, devices=wrap(jax.devices()[1:]))["devices"] == tuple(jax.devices()[1:])
    assert fit_arguments(*data)["devices"] is None


@pytest.mark.slow
def test_one_device_gives_the_same_bits(data):
    assert_same(light(*data, devices=jax.devices()[:1]), light(*data, devices=iter(jax.devices())))


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_the_first_repeat_has_the_rows_and_keys_that_it_has_among_more(data, fit_arguments, folds):
    """The same rows and keys give the same bits, as is tested of the fit."""
    few, many = (fit_arguments(*data, folds=folds, repeats=repeats) for repeats in (1, 2))
    assert (len(few["splits"]), len(few["keys"]), len(many["splits"])) == (folds, folds, 2 * folds)
    jax.tree.map(np.testing.assert_array_equal, few["splits"], many["splits"][:folds])
    np.testing.assert_array_equal(*(jax.random.key_data(given["keys"])[:folds] for given in (few, many)))
    assert_same_data(few, many)


def check_folds(ours, folds):
    assert ours.per_fold.shape == (folds,)
    assert ours.influence.shape == (N,)
    sampling = np.sum(ours.influence**2) / N**2
    assert 0 < sampling <= ours.stderr**2 * (1 + 1e-9)
    assert ours.mi == pytest.approx(np.mean(ours.per_fold))
    assert all(values.shape[0] == folds for values in ours.history.values())
    assert len(ours.diagnostics.best_step) == folds
    assert f"{folds} folds)" in repr(ours)


def test_five_folds(barely_trained):
    check_folds(barely_trained, 5)


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "repeats"), [(2, 1), (5, 2), (7, 1)])
def test_any_number_of_folds_and_repeats(data, folds, repeats):
    ours = light(*data, folds=folds, repeats=repeats)
    check_folds(ours, folds * repeats)
    np.testing.assert_array_equal(ours.per_fold[:folds], light(*data, folds=folds).per_fold)


def test_progress_is_told(found, reports):
    """There are ten validations, and a report after every five."""
    assert [report.done for report in reports] == [5, 10]
    assert {report.steps for report in reports} == {10}


# The standard error and the interval


def narrowest(task):
    """No mean of N log ratios has a smaller error than √(dρ² / N): half an interval of 95 % is as wide as this."""
    return 1.96 * math.sqrt(2 * -math.expm1(-task.mi) / N)


def test_an_estimate_covers_and_does_not_warn(found, task):
    """The estimate of 1,000 rows knows the least half-width to 3.5 %."""
    low, high = found.interval
    assert low <= 1.0 <= high
    assert (high - low) / 2 >= 0.9 * narrowest(task)
    assert set(found.warnings) <= {"not_converged"}


@pytest.fixture(scope="module")
def many(task):
    """60 data sets of a law with MI 1, of which each estimate is a function of nothing else."""
    return [thorough(*draw(task, seed), key=jax.random.key(seed)) for seed in range(100, 160)]


@pytest.mark.slow
def test_the_standard_error_is_that_of_many_data_sets(many):
    """60 draws give a spread to 9 %. It counts the seeds' spread as if it were common to all, and so is too large."""
    spread = np.std([one.mi for one in many], ddof=1)
    ours = np.sqrt(np.mean([one.stderr**2 for one in many]))
    assert 0.8 * spread < ours < 1.9 * spread


@pytest.mark.slow
def test_the_interval_covers(many):
    """At 95 %, fewer than 52 of 60 draws cover once in 200 times."""
    assert sum(one.interval[0] <= 1.0 <= one.interval[1] for one in many) >= 52
    assert np.mean([one.mi for one in many]) == pytest.approx(1.0, abs=0.04)


@pytest.mark.slow
def test_no_interval_is_narrower_than_its_floor(many, task):
    """The estimate of 1,000 rows knows the least half-width to 3.5 %."""
    half_widths = [(one.interval[1] - one.interval[0]) / 2 for one in many]
    assert min(half_widths) >= 0.9 * narrowest(task)
    assert np.mean(half_widths) >= narrowest(task)


@pytest.mark.slow
def test_few_warn(many):
    """But for that of 400 steps, which are few: 16 of 60 had it, and 2 another one, when this was written."""
    assert sum(bool(set(one.warnings) - {"not_converged"}) for one in many) <= 6


def test_the_interval_is_that_of_its_confidence(data, barely_trained):
    for confidence in (0.5, 0.95, 0.999):
        ours = light(*data, confidence=confidence)
        reach, (down, up) = stats.t.ppf(0.5 + confidence / 2, N - 1) * ours.stderr, ours.allowance
        assert ours.interval == pytest.approx((barely_trained.mi - reach - down, barely_trained.mi + reach + up))
        assert f", {100 * confidence:g}% interval" in repr(ours)


@pytest.mark.parametrize("estimate", ["found", "barely_trained"])
def test_the_allowance_is_what_the_fit_is_known_to_miss(estimate, request):
    ours = request.getfixturevalue(estimate)
    gap = max(0.0, ours.diagnostics.train - ours.mi)
    assert ours.allowance[1] == pytest.approx(gap + abs(ours.diagnostics.log_normaliser), abs=1e-6)
    assert 0 <= ours.allowance[0] <= -math.log1p(-ours.diagnostics.clipped_joint) + 1e-6


# What an estimate holds


def test_pointwise_is_the_log_ratio(task, data, found):
    x, y = draw(task, seed=9)
    ours, exact = found.pointwise(x, y), np.asarray(task.log_ratio(x, y))
    assert np.corrcoef(ours, exact)[0, 1] > 0.98
    assert np.mean(ours) == pytest.approx(np.mean(exact), abs=0.05)
    assert np.mean(found.pointwise(*data)) == pytest.approx(found.mi, abs=0.03)
    np.testing.assert_allclose(found.pointwise(x[:1], y[:1]), ours[:1], rtol=1e-4, atol=1e-4)


def test_pointwise_needs_rows_of_the_same_shape(data, found):
    x, y = data
    with pytest.raises(ValueError, match=r"x must have rows of shape \(2,\), got \(1,\)"):
        found.pointwise(x[:, :1], y)
    with pytest.raises(ValueError, match=r"same number of rows, at least 1, got \[5, 6\]"):
        found.pointwise(x[:5], y[:6])


def test_infonce_finds_what_is_there_and_knows_its_ceiling():
    """The log ratio of two bits that agree nine times of ten is bilinear, up to a constant."""
    x, y = draw(padded(table([[0.45, 0.05], [0.05, 0.45]])))
    ours = light(x, y, **INFONCE)
    agree = np.mean(x[:, 0] == y[:, 0])
    assert ours.mi == pytest.approx(math.log(2) + agree * math.log(agree) + (1 - agree) * math.log(1 - agree), abs=0.05)
    # The 208 rows of padded parts are cut into 6 groups, which 200 rows fill with 33 each.
    assert ours.diagnostics.ceiling == pytest.approx(math.log(33))
    assert ours.diagnostics.pairs == 198 * 32


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "group"), [(2**22, 200), (4_000, 20), (2, 2)])
def test_the_budget_of_pairs_sets_the_ceiling(data, pairs, group):
    ours = light(*data, estimator="infonce", max_pairs=pairs)
    assert ours.diagnostics.ceiling == pytest.approx(math.log(group))
    assert ours.diagnostics.pairs == 200 * (group - 1)
    assert ours.mi < math.log(group)


# Critics


class Own(nn.Module):
    """A user's critic; `sizes` may be a list, which cannot be hashed."""

    sizes: list | tuple

    @nn.compact
    def __call__(self, x, y):
        for size in self.sizes:
            x, y = nn.tanh(nn.Dense(size)(x)), nn.tanh(nn.Dense(size)(y))
        return x @ y.T


@pytest.mark.slow
def test_a_users_critic(data):
    hashable, unhashable = (light(*data, critic=Own(sizes), folds=2) for sizes in ((8, 8), [8, 8]))
    np.testing.assert_array_equal(hashable.per_fold, unhashable.per_fold)
    assert "Own" in repr(hashable)


class Fated(nn.Module):
    """A critic whose scores are infinite for some keys."""

    share: float

    @nn.compact
    def __call__(self, x, y):
        fate = self.param("fate", lambda key: jnp.where(jax.random.uniform(key) < self.share, jnp.inf, 0.0))
        return x @ self.param("kernel", nn.initializers.normal(), (x.shape[1], y.shape[1])) @ y.T + fate


def check_some_diverged(ours, data):
    gone = np.flatnonzero(np.isnan(ours.per_fold))
    assert 0 < gone.size < 5
    assert ours.mi == pytest.approx(np.nanmean(ours.per_fold))
    assert np.isfinite([ours.stderr, *ours.interval, ours.diagnostics.train]).all()
    assert f"the training of folds {', '.join(map(str, gone))} diverged" in ours.warnings["diverged"]
    assert np.isfinite(ours.pointwise(*data)).all()


def check_all_diverged(ours, data):
    assert np.isnan([ours.mi, ours.stderr, *ours.interval, *ours.per_fold, ours.independence.p_value]).all()
    assert set(ours.warnings) == {"diverged", "no_estimate"}
    assert np.isnan(ours.pointwise(*data)).all()
    assert "nan nats" in repr(ours)


@pytest.fixture
def lose_seeds(monkeypatch):
    """A function that makes `cross_fitting.fit_folds` return these seeds as if their training had diverged."""

    def lose(*seeds):
        fit = cross_fitting.fit_folds

        def fit_and_lose(*arguments, **options):
            whole, seconds = fit(*arguments, **options)
            lost = np.isin(np.arange(5), seeds)
            to_nan = lambda leaf: np.where(lost.reshape(-1, *[1] * (np.ndim(leaf) - 1)), np.nan, leaf)  # noqa: E731
            return [
                one._replace(diverged=lost, **jax.tree.map(to_nan, {"held_out": one.held_out, "variables": one.variables}))
                for one in whole
            ], seconds

        monkeypatch.setattr(cross_fitting, "fit_folds", fit_and_lose)

    return lose


def test_lost_seeds_are_left_out_and_named(data, barely_trained, lose_seeds):
    lose_seeds(1, 3)
    ours = light(*data)
    check_some_diverged(ours, data)
    np.testing.assert_array_equal(ours.per_fold[[0, 2, 4]], barely_trained.per_fold[[0, 2, 4]])


@pytest.mark.usefixtures("one_set_at_a_time")
def test_if_all_seeds_are_lost_there_is_no_estimate(data, lose_seeds):
    lose_seeds(*range(5))
    check_all_diverged(light(*data, permutations=2, retrain=True), data)


@pytest.mark.slow
def test_diverged_seeds_are_left_out_and_named(data):
    check_some_diverged(light(*data, critic=Fated(0.5)), data)


@pytest.mark.slow
def test_if_all_seeds_diverge_there_is_no_estimate(data):
    check_all_diverged(light(*data, critic=Fated(1.0), permutations=2), data)


# The permutation test


# Rows that depend on one another


def draw_subjects(seed, subjects=60, times=40, shared=0.0):
    """Rows of subjects. All rows of a subject have the same x, and nearly the same y."""
    rng = np.random.default_rng(seed)
    x, level = rng.normal(size=(2, subjects))
    level = shared * x + np.sqrt(1 - shared**2) * level
    subject = np.repeat(np.arange(subjects), times)
    return x[subject], level[subject] + 0.3 * rng.normal(size=subject.size), subject


def draw_series(seed, num_rows=2_000):
    """Two series with long memory, and nothing in common."""
    noise = np.random.default_rng(seed).normal(size=(2, num_rows + 1_000))
    x, y = lfilter([1.0], [1.0, -0.99], noise)[:, 1_000:]
    return x, y


def test_groups_and_blocks_reach_the_folds(fit_arguments):
    x, y, subject = draw_subjects(0)
    seen = fit_arguments(x, y, groups=subject.astype(str))
    for split in seen["splits"]:
        assert not set(subject[split.test]) & set(subject[np.concatenate(split[:2])])
    np.testing.assert_array_equal(np.unique(seen["rows"].positions, return_inverse=True)[1].size, subject.size)
    seen = fit_arguments(x, y, blocks=40, folds=4)
    assert len(seen["splits"]) == 4
    for split in seen["splits"]:
        assert np.abs(split.train[:, None] - split.test).min() > 40
    assert fit_arguments(x, y)["rows"].positions is None


def test_subjects_with_nothing_in_common():
    """With groups 0 is in the interval, and without there is a warning."""
    (x, y, subject), (other, *_) = (draw_subjects(seed, 50, N // 50) for seed in (0, 1))
    x, y = np.column_stack([x, other]), np.column_stack([y, y**2])
    ours = light(x, y, groups=subject)
    assert (ours.units.kind, ours.units.number) == ("groups", 50)
    assert ours.interval[0] <= 0 <= ours.interval[1]
    assert "dependent_rows" not in ours.warnings
    assert "dependent_rows" in light(x, y).warnings


@pytest.mark.slow
def test_what_groups_have_in_common_is_covered():
    """The interval holds 0 if subjects share nothing, and otherwise the mutual information of x and the noisy level."""
    for shared in (0.0, 0.8):
        truth = -0.5 * np.log(1 - shared**2 / 1.09)
        found = [thorough(x, y, groups=one) for x, y, one in (draw_subjects(seed, shared=shared) for seed in range(20))]
        assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 18
    found = [thorough(*draw_subjects(seed)[:2]) for seed in range(10)]
    assert sum(one.interval[0] <= 0 for one in found) <= 1
    assert all("dependent_rows" in one.warnings for one in found)


@pytest.mark.slow
def test_series_with_nothing_in_common():
    found = [thorough(*draw_series(seed), blocks=100) for seed in range(20)]
    assert sum(one.interval[0] <= 0 <= one.interval[1] for one in found) >= 18
    assert all("dependent_rows" in thorough(*draw_series(seed)).warnings for seed in range(5))


@pytest.mark.slow
def test_groups_are_permuted_whole():
    """Subjects that share much are told from chance, and those that share nothing are not told more often than it is."""
    small = {"steps": 400, "learning_rate": 3e-2, "permutations": 19, "retrain": True}
    sets = [draw_subjects(seed, 30, 5, 0.9) for seed in range(3)]
    assert all(light(x, y, groups=one, **small).independence.p_value <= 0.1 for x, y, one in sets)
    sets = [draw_subjects(seed, 30, 5) for seed in range(20)]
    check_any_p_value([light(x, y, groups=one, **small).independence.p_value for x, y, one in sets])


@pytest.fixture
def one_set_at_a_time(monkeypatch):
    """Permuted sets go through the program of the data, so that no other is compiled."""
    monkeypatch.setattr(pipeline, "ROWS_AT_ONCE", 0)


def check_dependence_is_found(ours):
    assert ours.independence.p_value == 0.05
    assert ours.independence.statistics.shape == (19,)
    assert ours.independence.statistics.max() < ours.mi


@pytest.mark.usefixtures("one_set_at_a_time")
def test_dependence_is_found(data, barely_trained):
    ours = light(*data, permutations=19, retrain=True)
    check_dependence_is_found(ours)
    assert_same(ours, barely_trained)


def test_dependence_is_found_by_critics_that_are_kept(data, barely_trained):
    """Each part by the critic of those before it; the estimate does not change a bit."""
    ours = light(*data, permutations=199)
    assert_same(ours, barely_trained)
    test = ours.independence
    assert (test.permutations, test.per_part.shape, test.statistics.shape) == (199, (4,), (0,))
    assert test.per_part.min() == 0.5 / 200
    assert test.p_value < 1e-3
    assert ours.seconds.train > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "groups", "blocks"])
def test_independent_data_have_any_p_value_by_critics_that_are_kept(kind):
    p_values = []
    for seed in range(40):
        x, y, subject = draw_subjects(seed, 40, 8)
        options = {"groups": subject}
        if kind == "rows":
            (x, y), options = draw(tasks.gaussian(2, 0.0), seed, 320), {}
        if kind == "blocks":
            (x, y), options = draw_series(seed), {"blocks": 100}
        found = light(x, y, permutations=99, key=jax.random.key(seed), learning_rate=3e-2, **options)
        p_values.append(found.independence.p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def small(x, y, **options):
    options = {"steps": 50, "batch_size": 32, "folds": 2, "permutations": 19, "retrain": True} | options
    return thorough(x, y, learning_rate=2e-3, patience=300, **options)


@pytest.mark.slow
def test_dependence_is_found_in_few_rows():
    x, y = draw(tasks.gaussian(2, 0.5), n=200)
    ours = small(x, y)
    check_dependence_is_found(ours)
    assert_same(small(x, y), ours)


@pytest.mark.slow
def test_independent_data_have_any_p_value_of_estimates():
    estimates = [small(*draw(tasks.gaussian(2, 0.0), seed, 200), key=jax.random.key(seed)) for seed in range(20)]
    check_any_p_value([one.independence.p_value for one in estimates])


@pytest.mark.usefixtures("one_set_at_a_time")
def test_permuted_sets_go_through_the_pipeline_of_the_data(data, monkeypatch):
    """A permuted set that is the data gives the very estimate, and the ties are broken by the key."""
    monkeypatch.setattr(pipeline, "_draw_orders", lambda units, permutations, rng: iter([units.of_row] * (1 + permutations)))
    ours = [light(*data, permutations=3, retrain=True, key=jax.random.key(seed)) for seed in range(4)]
    for one in ours:
        np.testing.assert_array_equal(one.independence.statistics, one.mi)
    assert len({one.independence.p_value for one in ours}) > 1
    assert (
        light(*data, permutations=3, retrain=True, key=jax.random.key(3)).independence.p_value
        == ours[3].independence.p_value
    )


def check_sets_fitted_in_turn(data, monkeypatch, permutations, together):
    """The same bits, whether one data set is fitted at a time or so many `together`, the last of them beside padding."""
    fitted_together = []
    fit = cross_fitting.fit_folds

    def count(*arguments, orders, **options):
        fitted_together.append(len(orders))
        return fit(*arguments, orders=orders, **options)

    monkeypatch.setattr(cross_fitting, "fit_folds", count)
    found = []
    for sets in (1, together):
        monkeypatch.setattr(pipeline, "ROWS_AT_ONCE", sets * 5 * N)
        found.append(closed(*data, permutations=permutations, retrain=True))
    assert fitted_together == [1] * (1 + permutations) + [together] * math.ceil((1 + permutations) / together)
    assert_same(*found)
    np.testing.assert_array_equal(*(one.independence.statistics for one in found))
    return found[0]


def test_each_set_has_the_configuration_that_it_chooses():
    """Those of one configuration are fitted together, two at once; the last of them beside padding."""
    split = Split(np.arange(4), np.arange(4, 6), np.arange(6, 10))
    # A critic may hold a list, which cannot be hashed.
    trained, closed_form = (
        FitConfig(name, Own([8]), 8, 8, rounds, 1, 1e-3, 10) for name, rounds in (("trained", 3), ("closed form", 0))
    )
    calls, alone = [], (0, 3, 5)

    def choose(order):
        return pipeline._Choice(1, trained if order[0] in alone else closed_form), Seconds(0.0, 0.0, 1.0)

    def fit(choice, orders):
        calls.append((choice.config.estimator, [int(order[0]) for order in orders]))
        held = lambda order: FITTED.held_out._replace(value=np.array([float(order[0])]))  # noqa: E731
        fitted = [FITTED._replace(held_out=held(order), diverged=np.zeros(1, bool)) for order in orders]
        return fitted, Seconds(1.0, 0.0, 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ROWS_AT_ONCE", 2 * 10)
        sets = pipeline._fit_sets(choose, fit, [split], (np.full(10, number) for number in range(6)), 6)
    assert calls == [("closed form", [1, 2]), ("trained", [0, 3]), ("closed form", [4, 4]), ("trained", [5, 5])]
    assert sets.choice == (1, trained)
    assert sets.data.held_out.value == 0.0
    np.testing.assert_array_equal(sets.permuted, np.arange(1.0, 6.0))
    assert sets.seconds == (4.0, 0.0, 6.0)
    calls.clear()
    alone = (0,)
    pipeline._fit_sets(choose, fit, [split], (np.full(10, number) for number in range(2)), 2)
    assert calls == [("trained", [0]), ("closed form", [1])]


def test_by_default_a_normal_law_needs_no_training():
    x, y = draw(tasks.gaussian(2, 1.0), n=4_000)
    ours = mi_jax.estimate(x, y)
    assert (ours.config.rounds, ours.diagnostics.last_step) == (0, (0,) * 5)
    assert ours.interval[0] < 1.0 < ours.interval[1]
    assert ours.interval[1] - ours.interval[0] < 0.15
    assert not ours.warnings
    assert_same(ours, closed(x, y))


def test_sets_that_do_not_fit_the_memory_are_fitted_in_turn(data, monkeypatch):
    ours = check_sets_fitted_in_turn(data, monkeypatch, permutations=2, together=2)
    assert_same(ours, closed(*data))  # which permutations do not change


@pytest.mark.slow
def test_many_sets_that_do_not_fit_the_memory_are_fitted_in_turn(data, monkeypatch):
    check_sets_fitted_in_turn(data, monkeypatch, permutations=4, together=4)


# Every estimator. tests/models/test_registry.py trains each of them in seconds; here they go through `estimate`.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "critic"),
    [(name, networks.JointCritic(hidden=(32,))) for name in ("smile", "js", "infonce", "dv", "mine", "nwj", "tuba")]
    + [("gm", None), ("doe", None)],
)
def test_every_estimator_finds_a_nat(data, estimator, critic):
    """One seed tests a fifth of the rows: a standard error of 0.08, and what is lost by so small a critic."""
    options = {"learning_rate": 5e-3, "steps": 750} if critic is not None else {"steps": 250}
    ours = mi_jax.estimate(*data, estimator=estimator, critic=critic, batch_size=64, folds=2, **options)
    assert 0.7 < ours.mi < 1.2
    assert ours.interval[0] < 1.0 < ours.interval[1]
    if estimator in ("infonce", "dv", "mine"):
        with pytest.raises(ValueError, match=f"pointwise needs an estimator that learns the log ratio.*got {estimator}"):
            ours.pointwise(*data)
    else:
        assert np.mean(ours.pointwise(*data)) == pytest.approx(0.95, abs=0.25)


@pytest.mark.slow
def test_cpc_is_infonce(data):
    one, other = (light(*data, estimator=name, folds=2) for name in ("infonce", "cpc"))
    assert one.mi == other.mi


# Bad input

SOME = np.random.default_rng(0).normal(size=(50, 2))


def with_entry(value):
    return np.where(np.arange(100).reshape(50, 2) == 7, value, SOME)


class NotScores(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        return nn.Dense(1)(jnp.concatenate([x, y[: len(x)]], axis=1))


BAD = {
    "no rows": (
        {"x": np.zeros((0, 2)), "y": np.zeros((0, 2))},
        ValueError,
        r"x must hold at least one .*got shape \(0, 2\)",
    ),
    "no columns": (
        {"y": np.zeros((50, 0))},
        ValueError,
        r"y must hold at least one sample and one column, got shape \(50, 0\)",
    ),
    "one row": ({"x": SOME[:1], "y": SOME[:1]}, ValueError, "x and y must hold at least 20 rows.*got 1"),
    "19 rows": ({"x": SOME[:19], "y": SOME[:19]}, ValueError, "x and y must hold at least 20 rows.*got 19"),
    "mismatched rows": ({"y": SOME[:30]}, ValueError, "x and y must hold the same number of rows, got 50 and 30"),
    "NaN": ({"x": with_entry(np.nan)}, ValueError, "x must be finite, got 1 entries .* nan in row 3, column 1"),
    "infinity": ({"y": with_entry(-np.inf)}, ValueError, "y must be finite, got 1 entries .* -inf in row 3, column 1"),
    "masked": ({"x": np.ma.masked_greater(SOME, 2)}, ValueError, "x must have no masked entries, got"),
    "strings": ({"x": np.array(["a"] * 50)}, TypeError, "x must hold floats, integers or bools, got dtype <U1"),
    "objects": ({"y": SOME.astype(object)}, TypeError, "y must hold floats, integers or bools, got dtype object"),
    "constant": ({"x": np.ones((50, 2))}, ValueError, "x must vary, got 2 constant columns"),
    "complex": ({"x": SOME + 1j}, TypeError, "x must hold floats, integers or bools, got dtype complex128"),
    "dates": ({"x": np.arange(50).astype("M8[s]")}, TypeError, r"x must hold .*got dtype datetime64\[s\]"),
    "spans": ({"x": np.arange(50).astype("m8[s]")}, TypeError, r"x must hold .*got dtype timedelta64\[s\]"),
    "records": ({"x": np.zeros(50, [("a", float)])}, TypeError, "x must hold floats, integers or bools, got dtype"),
    "keys as data": ({"x": jax.random.split(jax.random.key(0), 50)}, TypeError, "x must hold .*got dtype key<fry>"),
    "0-d": ({"x": np.array(3.0)}, ValueError, r"x must have an axis of samples, got shape \(\)"),
    "a number": ({"x": 3.0}, TypeError, "x must be an array of NumPy or JAX, got float"),
    "a list": ({"y": SOME.tolist()}, TypeError, "y must be an array of NumPy or JAX, got list"),
    "None": ({"y": None}, TypeError, "y must be an array of NumPy or JAX, got NoneType"),
    "too large": (
        {"x": 1e60 * SOME, "transform": "none"},
        ValueError,
        "x must be within float32 once transformed, got entries",
    ),
    "transform": (
        {"transform": "rank"},
        ValueError,
        "transform must be one of ranks, components, standardize, none, got 'rank'",
    ),
    "transforms": ({"transform": np.array(["ranks", "none"])}, ValueError, "transform must be one of .*got array"),
    "estimator": ({"estimator": "knn"}, ValueError, "estimator must be one of smile, .*got 'knn'"),
    "ba": ({"estimator": "ba"}, ValueError, "estimator must be one of smile, .*got 'ba'"),
    "interpolated": ({"estimator": "interpolated"}, ValueError, "estimator must be one of smile, .*got 'interpolated'"),
    "SMILE": ({"estimator": "SMILE"}, ValueError, "estimator must be one of smile, .*got 'SMILE'"),
    "estimators": ({"estimator": ["smile"]}, ValueError, r"estimator must be one of smile, .*got \['smile'\]"),
    "critic": (
        {"critic": "concat"},
        ValueError,
        "critic must be one of stacked, .*or a Flax module, got 'concat'",
    ),
    "critic class": ({"critic": networks.JointCritic}, TypeError, "critic must be .*got the class JointCritic"),
    "critic function": ({"critic": lambda x, y: x @ y.T}, TypeError, "critic must be a name or a Flax module, got function"),
    "critic of gm": ({"critic": "joint", "estimator": "gm"}, ValueError, "critic must not be given with gm.*got 'joint'"),
    "critic of x": ({"critic": networks.MLP((8,), 1)}, TypeError, r"critic must take .*critic\(x, y\), got MLP"),
    "critic of pairs": ({"critic": NotScores()}, (TypeError, ValueError), r"critic must (take|score) .*NotScores"),
    "tau < 0": ({"tau": -1.0}, ValueError, "tau must not be negative, got -1.0"),
    "tau NaN": ({"tau": math.nan}, ValueError, "tau must not be negative, got nan"),
    "tau string": ({"tau": "5"}, TypeError, "tau must be a number, got str"),
    "tau array": ({"tau": np.ones(2)}, ValueError, r"tau must be a scalar, got shape \(2,\)"),
    "tau of infonce": ({"tau": 5.0, "estimator": "infonce"}, ValueError, "tau is SMILE's, got 5.0 with infonce"),
    "batch 0": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "batch 1": ({"batch_size": 1}, ValueError, "batch_size must be at least 2 and at most the 20 training rows, got 1"),
    "batch > n": ({"batch_size": 36}, ValueError, "batch_size must be at least 2 and at most the 20 training rows, got 36"),
    "batch float": ({"batch_size": 16.0}, TypeError, "batch_size must be an integer, got float"),
    "batch bool": ({"batch_size": True}, TypeError, "batch_size must be an integer, got bool"),
    "negatives": (
        {"batch_size": 16, "num_negatives": 16},
        ValueError,
        "num_negatives must be fewer than the 16 pairs .*got 16",
    ),
    "negatives 0": ({"num_negatives": 0}, ValueError, "num_negatives must be at least 1, got 0"),
    "negatives of mine": (
        {"estimator": "mine", "num_negatives": 3},
        ValueError,
        "num_negatives must be all 15 others .*got 3",
    ),
    "negatives of gm": (
        {"estimator": "gm", "num_negatives": 3},
        ValueError,
        "num_negatives must not be given with gm.*got 3",
    ),
    "folds 0": ({"folds": 0}, ValueError, "folds must be at least 1, got 0"),
    "folds 1": ({"folds": 1}, ValueError, "folds must be from 2 to 25, half the number of rows, got 1"),
    "folds 26": ({"folds": 26}, ValueError, "folds must be from 2 to 25, half the number of rows, got 26"),
    "repeats 0": ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
    "folds 2.5": ({"folds": 2.5}, TypeError, "folds must be an integer, got float"),
    "steps 0": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "steps 1e3": ({"steps": 1e3}, TypeError, "steps must be an integer, got float"),
    "patience 0": ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
    "learning_rate 0": ({"learning_rate": 0}, ValueError, "learning_rate must be positive and finite, got 0"),
    "learning_rate -1": ({"learning_rate": -1.0}, ValueError, "learning_rate must be positive and finite, got -1.0"),
    "learning_rate inf": ({"learning_rate": math.inf}, ValueError, "learning_rate must be positive and finite, got inf"),
    "learning_rate NaN": ({"learning_rate": math.nan}, ValueError, "learning_rate must be positive and finite, got nan"),
    "learning_rate string": ({"learning_rate": "1e-3"}, TypeError, "learning_rate must be a number, got str"),
    "pairs 0": ({"max_pairs": 0}, ValueError, "max_pairs must be at least 1, got 0"),
    "pairs 1": ({"max_pairs": 1}, ValueError, "max_pairs must be at least 2, got 1"),
    "pairs 1e6": ({"max_pairs": 1e6}, TypeError, "max_pairs must be an integer, got float"),
    "confidence 0": ({"confidence": 0}, ValueError, "confidence must lie between 0 and 1, got 0"),
    "confidence 1": ({"confidence": 1}, ValueError, "confidence must lie between 0 and 1, got 1"),
    "confidence 95": ({"confidence": 95}, ValueError, "confidence must lie between 0 and 1, got 95"),
    "confidence NaN": ({"confidence": math.nan}, ValueError, "confidence must lie between 0 and 1, got nan"),
    "retrain": ({"retrain": 1}, TypeError, "retrain must be True or False, got int"),
    "permutations -1": ({"permutations": -1}, ValueError, "permutations must not be negative, got -1"),
    "permutations 1.5": ({"permutations": 1.5}, TypeError, "permutations must be an integer, got float"),
    "permutations bool": ({"permutations": True}, TypeError, "permutations must be an integer, got bool"),
    "legacy key": ({"key": np.zeros(2, np.uint32)}, TypeError, "key must be a typed key, .*got uint32"),
    "key 0": ({"key": 0}, TypeError, "key must be a typed key, .*got int"),
    "keys": ({"key": jax.random.split(jax.random.key(0), 3)}, ValueError, r"key must be one key, got shape \(3,\)"),
    "no devices": ({"devices": []}, ValueError, "devices must name at least one device, got none"),
    "a device's name": ({"devices": "cpu"}, TypeError, "devices must be a sequence of JAX devices, got 'cpu'"),
    "a number of devices": ({"devices": 2}, TypeError, "devices must be a sequence of JAX devices, got 2"),
    "groups and blocks": ({"groups": np.arange(50), "blocks": 2}, ValueError, "groups and blocks exclude one another"),
    "too few groups": ({"groups": np.arange(50) % 5}, ValueError, "groups must be at least 10 with 2 folds, got 5"),
    "on_chunk": ({"on_chunk": "tqdm"}, TypeError, "on_chunk must be a function of a Report, got str"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        mi_jax.estimate(**{"x": SOME, "y": SOME[::-1], "steps": 50, "folds": 2} | options)


def test_traced_rows_are_refused():
    with pytest.raises(TypeError, match="x must be an array with values, not traced"):
        jax.jit(lambda x: mi_jax.estimate(x, SOME).mi)(SOME)


@pytest.mark.slow
def test_a_bent_relation_is_seen_by_the_critic_that_suits_it():
    """By default; the Gaussian critic alone misses half of it."""
    x, y = draw(tasks.spiral(tasks.gaussian(3, 1.0)), n=3_000)
    stacked, alone = (mi_jax.estimate(x, y, critic=critic) for critic in (None, "gaussian"))
    assert stacked.interval[0] < 1.0 < stacked.interval[1]
    assert stacked.mi > alone.mi + 0.2
    assert np.mean(stacked.diagnostics.weights["canonical"]) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("task", [tasks.gaussian(3, 1.0), tasks.student(3, 1.0, 5.0)], ids=["gaussian", "student"])
def test_what_needs_no_second_critic_is_as_it_was(task):
    x, y = draw(task, n=3_000)
    stacked, alone = (mi_jax.estimate(x, y, critic=critic) for critic in (None, "gaussian"))
    assert abs(stacked.mi - alone.mi) < 0.5 * alone.stderr
