import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import mi_jax
from mi_jax import consistency, tasks
from mi_jax.consistency import Measured, judge_ratio


def correlation(x, y):
    """Exact for one-dimensional normals, and wrong for what has more columns: it sees the first."""
    return -0.5 * np.log1p(-(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2))


def exact(x, y):
    """Of normals with any number of columns, from the determinants of their covariances."""
    joint = np.cov(np.hstack([x, y]).T)
    dim = x.shape[1]
    parts = joint[:dim, :dim], joint[dim:, dim:], joint
    left, right, both = (np.linalg.slogdet(part)[1] for part in parts)
    return 0.5 * (left + right - both)


@pytest.fixture(scope="module")
def normals():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16_000, 2))
    return x, 0.8 * x + 0.6 * rng.normal(size=x.shape)


def test_an_exact_estimator_passes(normals):
    linear = lambda rows: rows @ np.array([[1.0], [2.0]])  # noqa: E731
    found = mi_jax.self_consistency(
        *normals, estimator=lambda x, y: exact(x + 1e-3 * noise(x, 1), y + 1e-3 * noise(y, 2)), g=linear, h=linear
    )
    assert found.passes, found
    assert found.independence.ratio == pytest.approx(0.0, abs=0.01)
    assert found.additivity.ratio == pytest.approx(2.0, abs=0.1)
    assert found.data_processing.ratio == pytest.approx(0.5, abs=0.05)  # one of two equal, independent directions is left


def noise(rows, seed):
    return np.random.default_rng(seed).normal(size=rows.shape)


def test_what_sees_one_column_fails_additivity(normals):
    found = mi_jax.self_consistency(*normals, estimator=correlation)
    assert found.additivity.verdict == "fails"
    assert found.additivity.ratio == pytest.approx(1.0, abs=0.1)
    assert found.independence.verdict == "passes"
    assert not found.passes


def test_a_constant_fails_independence_and_additivity(normals):
    found = mi_jax.self_consistency(*normals, estimator=lambda x, y: 1.0)
    assert [row["verdict"] for row in found.table()] == ["fails", "passes", "passes", "fails"]
    assert found.independence.ratio == found.additivity.ratio == 1.0


def test_more_from_less_fails_data_processing(normals):
    def counts_columns(x, y):
        return 10.0 - x.shape[1] - 0.001 * abs(x.sum()) / len(x)

    assert mi_jax.self_consistency(*normals, estimator=counts_columns).data_processing.verdict == "fails"


def test_independent_data_say_nothing():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 400, 1))
    found = mi_jax.self_consistency(x, y, estimator=lambda x, y: np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    assert {row["verdict"] for row in found.table()} == {"cannot tell"}


@pytest.mark.slow
def test_of_estimate_itself():
    x, y = tasks.gaussian(dim=1, mi=1.0).sample(jax.random.key(0), 3_000)
    found = mi_jax.self_consistency(x, y, folds=2, steps=300, batch_size=256)
    assert found.independence.verdict == "passes", found
    assert found.additivity.ratio == pytest.approx(2.0, abs=0.3)
    assert found.data_processing.ratio < 1
    assert found.data_processing.verdict == "passes"
    assert found.data_processing_stacked.ratio == pytest.approx(1.0, abs=0.15)
    assert "independence: passes." in repr(found)
    assert set(found.independence.estimates) == {"I(X; shuffled Y)", "I(X; Y)"}


def test_a_name_is_an_estimator_of_estimate(normals, monkeypatch):
    """What `estimate` is given, and what is made of its result; an exact estimator stands in for it."""
    calls = []

    def estimate(x, y, *, estimator, key, **options):
        calls.append((x.shape, estimator, key, options))
        mi = exact(x + 1e-3 * noise(x, 1), y + 1e-3 * noise(y, 2))
        return SimpleNamespace(mi=mi, interval=(mi - 0.01, mi + 0.02))

    monkeypatch.setattr(consistency, "estimate", estimate)
    key = jax.random.key(3)
    linear = lambda rows: rows @ np.array([[1.0], [2.0]])  # noqa: E731
    found = mi_jax.self_consistency(*normals, estimator="js", g=linear, h=linear, key=key, folds=2, steps=300)
    assert found.passes, found
    assert "independence: passes." in repr(found)
    whole = found.independence.estimates["I(X; Y)"]
    assert whole == Measured(whole.mi, whole.mi - 0.01, whole.mi + 0.02)
    # The data, shuffled, processed and stacked; the halves, and their copies side by side.
    assert [shape for shape, *_ in calls] == [(16_000, columns) for columns in (2, 2, 1, 3)] + [
        (8_000, columns) for columns in (2, 2, 4)
    ]
    assert all(rest == ["js", key, {"folds": 2, "steps": 300}] for _, *rest in calls)


@pytest.mark.parametrize("target", [1.0, 2.0])
def test_the_interval_of_a_ratio_is_the_delta_method_s(target):
    """To first order: relative errors of 2 % and 1 % make one of sqrt(5) %."""
    a, b = Measured(target, target * 0.98, target * 1.02), Measured(1.0, 0.99, 1.01)
    found = judge_ratio("", "", {"a": a, "b": b}, target)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * target * 0.01 * math.sqrt(5), rel=1e-3)
    assert found.verdict == "passes"


@pytest.mark.parametrize(
    ("a", "target", "at_most", "verdict"),
    [
        (Measured(1.0, 0.95, 1.05), 1.0, False, "passes"),
        (Measured(1.0, 0.8, 1.3), 1.0, False, "cannot tell"),
        (Measured(1.5, 1.4, 1.6), 1.0, False, "fails"),
        (Measured(0.5, 0.4, 0.6), 1.0, False, "fails"),
        (Measured(0.5, 0.4, 0.6), 1.0, True, "passes"),
        (Measured(1.5, 1.4, 1.6), 1.0, True, "fails"),
        (Measured(0.02, -0.01, 0.05), 0.0, False, "passes"),
        (Measured(0.02, -0.3, 0.3), 0.0, False, "cannot tell"),
        (Measured(0.5, 0.4, 0.6), 0.0, False, "fails"),
        (Measured(-0.1, -0.2, 0.05), 1.0, False, "fails"),
        (Measured(math.nan, math.nan, math.nan), 1.0, False, "cannot tell"),
    ],
)
def test_verdicts(a, target, at_most, verdict):
    b = Measured(1.0, 0.99, 1.01)
    assert judge_ratio("", "", {"a": a, "b": b}, target, at_most=at_most).verdict == verdict


def test_a_reference_that_is_hardly_known_says_nothing():
    """0.04 is little beside 0.5, but 0.5 may be 0.05."""
    found = judge_ratio("", "", {"a": Measured(0.04, 0.03, 0.045), "b": Measured(0.5, 0.05, 0.95)}, 0.0)
    assert found.interval == pytest.approx((0.03 / 0.95, 0.9))
    assert found.verdict == "cannot tell"


def test_an_interval_that_holds_0_keeps_it_as_a_ratio():
    found = judge_ratio("", "", {"a": Measured(0.1, -0.1, 0.3), "b": Measured(1.0, 0.8, 1.25)}, 1.0)
    assert found.interval[0] == pytest.approx(-0.125)
    assert found.ratio < found.interval[1] < 0.3 / 0.8


def test_coarse_keeps_no_sides_and_half_of_the_columns():
    rows = np.array([[1.0, 9.0, 5.0], [2.0, 9.0, 6.0], [4.0, 9.0, 7.0]])
    np.testing.assert_array_equal(consistency.coarse(rows), [[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    balanced = np.array([0.0, 1.0, 0.0, 1.0])
    assert np.ptp(consistency.coarse(balanced)) == 1.0  # a balanced binary column still varies


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"estimator": 3}, TypeError, "estimator must be a name or a function of x and y, got int"),
        ({"estimator": "KSG"}, ValueError, "estimator must be one of smile, .* got 'KSG'"),
        ({"estimator": exact, "seeds": 3}, TypeError, "options are those of mi_jax.estimate and do not .* got seeds"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive"),
        ({"g": lambda rows: rows[:10]}, ValueError, "g must return as many rows as it gets, 100, got 10"),
        ({"h": lambda rows: rows * np.nan}, ValueError, r"h\(rows\) must be finite"),
        ({"key": 3}, TypeError, "key must be a typed key"),
        ({"x": np.zeros((30, 1)), "y": np.zeros((30, 1))}, ValueError, "at least 40 rows, .* got 30"),
        ({"x": np.zeros((90, 1))}, ValueError, "same number of rows, got 90 and 100"),
    ],
)
def test_bad_input(change, error, message):
    rng = np.random.default_rng(0)
    arguments = {"x": rng.normal(size=(100, 1)), "y": rng.normal(size=(100, 1)), "estimator": exact} | change
    with pytest.raises(error, match=message):
        mi_jax.self_consistency(arguments.pop("x"), arguments.pop("y"), **arguments)
