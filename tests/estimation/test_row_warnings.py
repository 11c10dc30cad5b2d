"""Each warning about rows on files that must raise it and on files that must not."""

import numpy as np
import pytest
from scipy.signal import lfilter

from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.row_warnings import warn_of_order, warn_of_repeats

RNG = np.random.default_rng(0)
X, NOISE = RNG.normal(size=(2, 2_000, 2))


def as_matrix(rows):
    return np.asarray(rows, float).reshape(len(rows), -1)


def repeated(x, y):
    return set(warn_of_repeats(as_matrix(x), as_matrix(y)))


def test_repeated_rows_are_seen():
    x, y = X[:1_000], NOISE[:1_000]
    assert repeated(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0)) == {"duplicated_rows"}
    some = np.concatenate([np.arange(1_000), np.arange(30)])
    assert repeated(x[some], y[some]) == {"duplicated_rows"}
    few = np.concatenate([np.arange(1_000), np.arange(5)])
    assert repeated(x[few], y[few]) == set()
    # Only x is repeated: one x with several y tells as much as different ones.
    assert repeated(np.repeat(x, 2, axis=0), NOISE) == set()


def test_counts_and_codes_repeat_by_chance():
    rng = np.random.default_rng(1)
    assert repeated(rng.poisson(3, size=(2_000, 2)), rng.poisson(3, size=(2_000, 2))) == set()
    assert repeated(rng.integers(0, 50, size=(2_000, 1)), rng.integers(0, 50, size=(2_000, 1))) == set()


def test_an_oversampled_minority_is_seen():
    """Also where y is a label, which coincides often."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=5_100), np.repeat([0, 1], [5_000, 100])
    rows = rng.permutation(np.r_[np.arange(5_000), np.repeat(np.arange(5_000, 5_100), 50)])
    assert repeated(x[rows], y[rows]) == {"duplicated_rows"}
    assert repeated(x, y) == set()


@pytest.mark.parametrize(
    "scale", [lambda k: k, lambda k: (k - 2_500.3) / 1_443.2, lambda k: k / 7, lambda k: np.round(k / 9, 2)]
)
def test_a_function_of_a_discrete_variable_repeats_no_rows(scale):
    """Integers, also standardised, and rounded values: they come up twice by chance, and y with them."""
    x = np.random.default_rng(0).integers(0, 5_000, 4_000)
    assert repeated(scale(x), x % 2) == set()


# The order of rows


def draw_series(rng, num_rows, phi, columns=1):
    noise = rng.normal(size=(num_rows + 1_000, columns)) * np.sqrt(1 - phi**2)
    return lfilter([1.0], [1.0, -phi], noise, axis=0)[1_000:]


def draw_windows(rng):
    return [np.convolve(noise, np.ones(50), "valid") for noise in rng.normal(size=(2, 2_049))]


def draw_subjects(rng, subjects, times):
    subject = np.repeat(np.arange(subjects), times)
    x, level = rng.normal(size=(2, subjects))
    return x[subject], level[subject] + 0.3 * rng.normal(size=subject.size)


def draw_both_in_runs(rng):
    """Ages and diagnoses of subjects, which are whole numbers."""
    subject = np.repeat(np.arange(60), 40)
    return rng.integers(20, 80, 60)[subject], rng.integers(0, 5, 60)[subject]


def draw_iid(rng, num_rows=2_000, rho=0.9, columns=1):
    x, noise = rng.normal(size=(2, num_rows, columns))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def sort(rows, by):
    order = np.argsort(by(*rows), kind="stable")
    return rows[0][order], rows[1][order]


def draw_classes(rng, classes, codes=None):
    """Rows sorted by a label, which is y, and which moves x."""
    label = np.sort(rng.integers(0, classes, 2_000))
    codes = np.arange(classes) if codes is None else codes(rng)
    return 2 * rng.normal(size=(classes, 2))[label] + rng.normal(size=(2_000, 2)), codes[label]


def ordered(x, y):
    raw = as_matrix(x), as_matrix(y)
    return set(warn_of_order(tuple(fit_columns(rows, "rows")(rows) for rows in raw), raw))


DEPENDENT = {
    "slow series": lambda rng: (draw_series(rng, 2_000, 0.99), draw_series(rng, 2_000, 0.99)),
    "fast series": lambda rng: (draw_series(rng, 1_000, 0.5, 3), draw_series(rng, 1_000, 0.5, 2)),
    "short series": lambda rng: (draw_series(rng, 200, 0.7), draw_series(rng, 200, 0.7)),
    "overlapping windows": draw_windows,
    "subjects": lambda rng: draw_subjects(rng, 60, 40),
    "many subjects": lambda rng: draw_subjects(rng, 200, 5),
    "ages and diagnoses": draw_both_in_runs,
}
INDEPENDENT = {
    "iid": draw_iid,
    "few rows": lambda rng: draw_iid(rng, 60, columns=5),
    "sorted by x": lambda rng: sort(draw_iid(rng), lambda x, y: x[:, 0]),
    "sorted down by y": lambda rng: sort(draw_iid(rng, columns=3), lambda x, y: -y[:, 1]),
    "sorted by x, rounded": lambda rng: sort(draw_iid(rng), lambda x, y: np.round(x[:, 0], 1)),
    "two classes": lambda rng: draw_classes(rng, 2),
    "ten classes": lambda rng: draw_classes(rng, 10),
    "ten classes in any order": lambda rng: draw_classes(rng, 10, lambda rng: rng.permutation(10)),
    "a series in x alone": lambda rng: (draw_series(rng, 2_000, 0.99), rng.normal(size=2_000)),
    "weak memory": lambda rng: (draw_series(rng, 2_000, 0.15), draw_series(rng, 2_000, 0.15)),
}


@pytest.mark.parametrize("draw", DEPENDENT.values(), ids=DEPENDENT)
def test_rows_that_depend_on_one_another_are_seen(draw):
    assert sum(ordered(*draw(np.random.default_rng(seed))) == {"dependent_rows"} for seed in range(10)) >= 9


@pytest.mark.parametrize("draw", INDEPENDENT.values(), ids=INDEPENDENT)
def test_order_alone_is_no_dependence(draw):
    assert sum(ordered(*draw(np.random.default_rng(seed))) == set() for seed in range(10)) >= 9


def test_the_correlations_are_those_of_the_series():
    x, y = draw_series(np.random.default_rng(0), 50_000, 0.9), draw_series(np.random.default_rng(1), 50_000, 0.8)
    text = warn_of_order((x, y), (x, y))["dependent_rows"]
    assert "(correlations 0.9" in text or "(correlations 0.89" in text
    assert " and 0.8" in text or " and 0.79" in text
    assert "give groups (rows that belong together) or blocks (for a series)" in text


def test_too_few_rows_tell_nothing():
    assert ordered(*draw_subjects(np.random.default_rng(0), 10, 4)) == set()
