"""Each warning about the data on a case that must raise it and on one that must not."""

import numpy as np
import pytest

from mi_jax import tasks
from mi_jax.estimation import data_warnings
from mi_jax.estimation.columns import fit_columns
from tests.quick import draw, light

# The transform


@pytest.mark.parametrize(
    ("code", "must", "must_not"),
    [
        ("resolution_x", lambda z: 1e8 + z, lambda z: 1e4 + z),
        ("scale_x", lambda z: np.where(z == z.max(), 1e5, z), lambda z: np.where(z == z.max(), 50.0, z)),
        ("scale_x", lambda z: np.sign(z) * np.exp(z**2), lambda z: np.float64(z > 2.5)),  # a rare event is none
    ],
)
def test_of_transform(code, must, must_not):
    z = np.random.default_rng(0).standard_normal((2_000, 1))

    def found(values):
        raw = np.hstack([np.zeros_like(z), values])  # a constant column before it, which is left out
        columns = fit_columns(raw, "x", "none" if code == "resolution_x" else "standardize")
        return data_warnings.warn_of_transform(columns, columns(raw), raw)

    assert set(found(must(z))) == {code}
    assert "(1)" in found(must(z))[code]
    assert found(must_not(z)) == {}


def test_of_ranks_there_is_nothing_to_say():
    x, y = draw(tasks.gaussian(2, 1.0))
    far = 1e8 + np.where(x == x.max(), 1e12, np.float64(x))
    assert not {"resolution_x", "scale_x"} & set(light(far, y).warnings)
    assert "resolution_x" in light(far, y, transform="none").warnings


# Columns


def test_columns_left_out_are_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    bad = np.concatenate([x, np.ones((100, 1)), x[:, :2]], axis=1)
    found = data_warnings.warn_of_columns(fit_columns(bad, "x"), fit_columns(x, "y"))
    assert set(found) == {"constant_columns_x", "duplicated_columns_x"}
    assert "x has 1 constant column without information, left out (3)" in found["constant_columns_x"]
    assert (
        "x has 2 duplicated columns without information that the others lack, left out (4, 5)"
        in (found["duplicated_columns_x"])
    )
    many = np.concatenate([x, np.ones((100, 9))], axis=1)
    assert "(3, 4, 5, 6, 7, …)" in str(
        data_warnings.warn_of_columns(fit_columns(x, "x"), fit_columns(many, "y"))["constant_columns_y"]
    )
    assert data_warnings.warn_of_columns(fit_columns(x, "x"), fit_columns(x, "y")) == {}


# Rows


def ranked(rows):
    return fit_columns(rows, "rows")(rows)


def of_rows(x, y):
    """As `estimate` calls it."""
    raw = tuple(np.asarray(rows, float).reshape(len(rows), -1) for rows in (x, y))
    return set(data_warnings.warn_of_relation(*map(ranked, raw), raw))


RNG = np.random.default_rng(0)
X, NOISE = RNG.normal(size=(2, 2_000, 2))
ONE, OTHER = X[:, :1], NOISE[:, :1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (ONE, 3 * ONE + 1),
        (ONE, ONE**2),
        (ONE**2, np.sin(3 * ONE**2)),
        (ONE, np.concatenate([OTHER, np.exp(ONE)], axis=1)),
        (X, X @ [[1.0, 2.0], [-3.0, 0.5]]),
        (X, X.sum(axis=1)),
        (X, X[:, :1] * X[:, 1:]),
        (X, np.hypot(*X.T)),
        (np.cbrt(X), np.sin(X[:, 0]) + X[:, 1] ** 2),
        (np.concatenate([X, NOISE], axis=1), X.sum(axis=1) + NOISE.sum(axis=1)),
        (ONE, ONE + 1e-6 * OTHER),
        (np.cumsum(np.ones(2_000)), np.cumsum(np.ones(2_000)) ** 2),
    ],
)
def test_relations_without_noise(x, y):
    assert of_rows(x, y) == {"deterministic"}
    assert of_rows(y, x) == {"deterministic"}


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (ONE, OTHER),
        (ONE, ONE + 0.1 * OTHER),
        (ONE, ONE**2 + 0.1 * OTHER),
        (ONE, ONE + 0.03 * OTHER),
        (X, X + 0.1 * NOISE),
        (X, X[:, :1] * X[:, 1:] + 0.2 * OTHER),
        (ONE, ONE * OTHER),  # dependent in scale only
        (ONE**9, ONE**9 + OTHER),  # a few rows far out
        (np.exp(9 * ONE), np.exp(9 * OTHER)),
        (np.tan(1.5 * np.tanh(ONE)), np.tan(1.5 * np.tanh(OTHER))),
        (np.sign(X), np.sign(X)),  # equal labels: log 4 nats
        (np.round(X), np.round(X)),
        (np.round(ONE, 1), 2 * np.round(ONE, 1)),
        (RNG.integers(0, 9, size=(2_000, 1)), RNG.integers(0, 9, size=(2_000, 1))),
    ],
)
def test_relations_with_noise_and_discrete_ones(x, y):
    assert of_rows(x, y) == set()


def test_few_rows_are_not_convicted():
    """Where noise could not be seen."""
    assert of_rows(ONE[:40], ONE[:40]) == set()
    assert of_rows(X[:150], X[:150] ** 2) == set()
