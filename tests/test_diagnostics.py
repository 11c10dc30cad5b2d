"""Each warning on a case that must raise it and on one that must not."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import cross_fitting, diagnostics, networks, preprocessing, tasks
from tests import examples
from tests.quick import INFONCE, draw, light, quick, thorough

# Of an estimate: what the diagnostics say


def recipe(estimator="smile", **changes):
    return examples.estimate().recipe._replace(estimator=estimator, rounds=10, **changes)


GOOD = examples.diagnostics(
    train=1.0, clipped_joint=0.05, best_step=(50, 0), last_step=(300, 300), diverged=(False, False), rise=-0.1
)


def codes(mi=1.0, stderr=0.05, estimator="smile", **changes):
    per_seed = np.array([mi - 0.01, mi + 0.01])
    return set(diagnostics.of_estimate(recipe(estimator), mi, stderr, per_seed, GOOD._replace(**{"train": mi} | changes)))


@pytest.mark.parametrize("estimator", ["smile", "infonce", "gm"])
def test_a_good_estimate_has_no_warning(estimator):
    assert codes(estimator=estimator) == set()


@pytest.mark.parametrize(
    ("code", "must", "must_not"),
    [
        (
            "ceiling",
            {"mi": 1.1, "ceiling": 4.0, "estimator": "infonce"},
            {"mi": 0.9, "ceiling": 4.0, "estimator": "infonce"},
        ),
        ("ceiling", {"mi": 3.9, "ceiling": 4.0, "estimator": "cpc"}, {"mi": 3.9, "ceiling": 4.0, "estimator": "smile"}),
        (
            "ceiling",
            {"mi": 0.2, "ceiling": 2.0, "estimator": "infonce"},
            {"mi": 0.09, "ceiling": 2.0, "estimator": "infonce"},
        ),
        ("normaliser", {"log_normaliser": 0.31}, {"log_normaliser": 0.29}),
        ("normaliser", {"log_normaliser": -0.31}, {"log_normaliser": -0.29}),
        ("normaliser", {"log_normaliser": 1e5}, {"log_normaliser": math.nan}),
        ("partition", {"effective_pairs": 399.0, "pairs": 1e9, "estimator": "dv"}, {"effective_pairs": 401.0, "pairs": 1e9}),
        ("partition", {"effective_pairs": 9.0, "estimator": "nwj"}, {"effective_pairs": 9.0, "estimator": "smile"}),
        # All pairs alike: their number is no sign of noise.
        (
            "partition",
            {"effective_pairs": 9.0, "estimator": "js"},
            {"effective_pairs": 90.0, "pairs": 90.0, "estimator": "js"},
        ),
        ("clipped", {"clipped_joint": 0.11}, {"clipped_joint": 0.09}),
        ("clipped", {"clipped_joint": 1.0}, {"clipped_joint": math.nan}),
        ("overfitting", {"train": 1.11}, {"train": 1.09}),
        ("overfitting", {"train": 5.6, "mi": 5.0}, {"train": 5.4, "mi": 5.0}),
        ("overfitting", {"train": 1.4, "stderr": 0.2}, {"train": 1.2, "stderr": 0.2}),
        ("seeds_disagree", {"training_error": 0.11}, {"training_error": 0.09}),
        ("diverged", {"diverged": (False, True)}, {"diverged": (False, False)}),
        ("not_converged", {"best_step": (50, 500)}, {"best_step": (50, 450)}),
        ("untrained", {"rise": 0.6}, {"rise": 0.4}),
        ("untrained", {"rise": math.inf}, {"rise": math.nan}),
        ("negative", {"mi": -0.11}, {"mi": -0.09}),
        ("negative", {"mi": -0.006, "stderr": 0.001}, {"mi": -0.004, "stderr": 0.001}),
        ("negative", {"mi": -3.0, "stderr": 9.0}, {"mi": 3.0, "stderr": 9.0}),
        ("no_estimate", {"mi": math.nan}, {"mi": 0.0}),
    ],
)
def test_of_estimate(code, must, must_not):
    assert codes(**must) == {code}
    assert codes(**must_not) == set()


def test_messages_say_how_many_pairs_and_samples_it_takes():
    """400 times 1 / 9 - 1 / 5678 of 5,678 pairs, and five times the root of so many samples."""
    told = GOOD._replace(effective_pairs=9.0)
    text = diagnostics.of_estimate(recipe("dv"), 1.0, 0.05, np.ones(2), told)["partition"]
    assert "rests on 9 of 5.7e+03 pairs" in text
    assert "at least 2.5e+05 pairs a seed, of 2.5e+03 samples" in text


def test_a_seed_without_a_finite_estimate_is_named():
    per_seed = np.array([1.0, np.nan])
    found = diagnostics.of_estimate(recipe("nwj"), 1.0, 0.05, per_seed, GOOD._replace(diverged=(False, False)))
    assert "held-out estimates of seeds 1 are not finite" in found["not_finite"]
    # One that diverged has a warning of its own.
    assert set(diagnostics.of_estimate(recipe("nwj"), 1.0, 0.05, per_seed, GOOD._replace(diverged=(False, True)))) == {
        "diverged"
    }


# Of the transform


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
        columns = preprocessing.columns(raw, "x", "none" if code == "resolution_x" else "standardize")
        return diagnostics.of_transform(columns, columns(raw), raw)

    assert set(found(must(z))) == {code}
    assert "(1)" in found(must(z))[code]
    assert found(must_not(z)) == {}


def test_of_ranks_there_is_nothing_to_say():
    x, y = normal(1.0)
    far = 1e8 + np.where(x == x.max(), 1e12, np.float64(x))
    assert not {"resolution_x", "scale_x"} & set(light(far, y).warnings)
    assert "resolution_x" in light(far, y, transform="none").warnings


# Of an estimate: from data to warning


class Fixed(nn.Module):
    """Scores of x and y that no training changes: `scale` times their products, plus `shift`."""

    scale: float = 0.0
    shift: float = 0.0
    fails: float = 0.0  # the share of keys of which the scores are 0

    @nn.compact
    def __call__(self, x, y):
        fate = self.param("fate", lambda key: jnp.float32(jax.random.uniform(key) >= self.fails))
        fate = jax.lax.stop_gradient(fate)
        return fate * (self.scale * x @ y.T + self.shift)


@functools.cache
def normal(mi):
    return draw(tasks.gaussian(2, mi))


@functools.cache
def few_rows():
    return draw(tasks.gaussian(10, 4.0), n=150)


def test_from_data_to_a_ceiling():
    """InfoNCE in groups of 40 pairs, which is too low from log 40 - 3 = 0.69 on."""
    assert "ceiling" in light(*normal(2.0), **INFONCE).warnings
    assert "ceiling" not in light(*normal(0.5), **INFONCE).warnings


def test_from_data_to_the_warnings_of_a_critic_that_is_hardly_trained():
    assert {"normaliser", "seeds_disagree", "not_converged"} <= set(light(*normal(1.0)).warnings)
    assert "negative" in light(*(3 * rows for rows in normal(0.0)), transform="none").warnings


def test_from_data_to_no_warning_of_a_critic_that_fits():
    good = quick(*normal(1.0)).warnings
    assert not {"normaliser", "overfitting", "seeds_disagree", "untrained", "negative", "clipped"} & set(good)
    assert "negative" not in quick(*normal(0.0)).warnings
    assert "clipped" in quick(*normal(1.0), tau=0.5).warnings


# Two seeds that are used, with means of 1.0, and one that is left out, with 99 or NaN.
HELD_OUT = {name: np.array([0.9, 1.1, 99.0]) for name in cross_fitting.HeldOut._fields}
FITTED = cross_fitting.Fitted(
    held_out=cross_fitting.HeldOut(**HELD_OUT | {"others": {"dv": np.array([0.9, 1.1, 99.0])}, "group": np.full(3, 20.0)}),
    params=None,
    history={"validation_loss": np.array([[0.5, -0.4, -0.2], [0.3, -0.6, np.nan], [99.0, np.nan, np.nan]])},
    best_round=np.array([2, 2, 1]),
    last_round=np.array([3, 2, 1]),
    diverged=np.array([False, False, True]),
    start_loss=np.array([-1.0, -1.6, 99.0]),
)


def test_diagnose_takes_means_of_the_seeds_that_are_used():
    ours = diagnostics.diagnose(FITTED, np.array([True, True, False]), 0.25)
    for name in ("train", "log_normaliser", "effective_pairs", "pairs", "tau", "clipped_joint", "clipped_pairs"):
        assert getattr(ours, name) == pytest.approx(1.0)
    assert ours.read_outs == {"dv": pytest.approx(1.0)}
    assert ours.ceiling == pytest.approx(math.log(20))
    assert (ours.best_step, ours.last_step, ours.diverged) == ((100, 100, 50), (150, 100, 50), (False, False, True))
    assert ours.training_error == 0.25
    # The lowest losses are -0.4 and -0.6, which is 0.8 above the start.
    assert ours.rise == pytest.approx(0.8)


def test_from_seeds_to_warnings():
    """A critic that ends above the loss that it started from is untrained; two pairs are noise; and so on."""
    usable = np.array([True, True, False])
    held = FITTED.held_out._replace(train=np.full(3, 2.0), pairs=np.full(3, 1e9))
    told = diagnostics.diagnose(FITTED._replace(held_out=held), usable, 0.25)
    found = diagnostics.of_estimate(recipe("dv"), 1.0, 0.05, np.array([0.9, 1.1, np.nan]), told)
    assert set(found) == {
        "normaliser", "partition", "clipped", "overfitting", "seeds_disagree", "diverged", "untrained"
    }  # fmt: skip


FIXED = {"steps": 50, "batch": 64}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "must", "must_not"),
    [
        (
            "ceiling",
            lambda: light(*normal(1.0), **INFONCE | {"pairs": 4_000, "learning_rate": 1e-2}),
            lambda: light(*normal(0.5), **INFONCE | {"pairs": 2**22, "learning_rate": 1e-2}),
        ),
        (
            "normaliser",
            lambda: light(*normal(1.0), estimator="nwj", critic=Fixed(0.5, shift=3.0), negatives=None, **FIXED),
            lambda: thorough(*normal(1.0)),
        ),
        ("partition", lambda: thorough(*normal(5.0), estimator="dv"), lambda: thorough(*normal(0.5), estimator="dv")),
        ("clipped", lambda: thorough(*normal(2.0), tau=0.5), lambda: thorough(*normal(2.0))),
        (
            "overfitting",
            lambda: thorough(*few_rows(), critic=networks.JointCritic(hidden=(64,)), patience=400),
            lambda: thorough(*normal(2.0)),
        ),
        (
            "seeds_disagree",
            lambda: light(*normal(1.0), critic=Fixed(0.7, fails=0.5), **FIXED),
            lambda: thorough(*normal(1.0)),
        ),
        ("not_converged", lambda: light(*normal(2.0)), lambda: thorough(*normal(2.0), steps=1_500)),
        (
            "untrained",
            lambda: thorough(*normal(1.0), critic=networks.JointCritic(hidden=(16,)), learning_rate=100.0),
            lambda: thorough(*normal(1.0)),
        ),
        ("negative", lambda: light(*normal(0.0), critic=Fixed(0.5), **FIXED), lambda: thorough(*normal(0.0))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_from_data_to_warning(code, must, must_not):
    assert code in must().warnings
    assert code not in must_not().warnings


# Of columns


def test_columns_left_out_are_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    bad = np.concatenate([x, np.ones((100, 1)), x[:, :2]], axis=1)
    found = diagnostics.of_columns(preprocessing.columns(bad, "x"), preprocessing.columns(x, "y"))
    assert set(found) == {"constant_columns_x", "duplicated_columns_x"}
    assert "x has 1 constant column without information, left out (3)" in found["constant_columns_x"]
    assert (
        "x has 2 duplicated columns without information that the others lack, left out (4, 5)"
        in (found["duplicated_columns_x"])
    )
    many = np.concatenate([x, np.ones((100, 9))], axis=1)
    assert "(3, 4, 5, 6, 7, …)" in str(
        diagnostics.of_columns(preprocessing.columns(x, "x"), preprocessing.columns(many, "y"))["constant_columns_y"]
    )
    assert diagnostics.of_columns(preprocessing.columns(x, "x"), preprocessing.columns(x, "y")) == {}


# Of rows


def ranked(rows):
    return preprocessing.columns(rows, "rows")(rows)


def of_rows(x, y):
    """As `estimate` calls it."""
    raw = tuple(np.asarray(rows, float).reshape(len(rows), -1) for rows in (x, y))
    return set(diagnostics.of_rows(*map(ranked, raw), raw))


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


def test_repeated_rows_are_seen():
    x, y = X[:1_000], NOISE[:1_000]
    assert of_rows(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0)) == {"duplicated_rows"}
    some = np.concatenate([np.arange(1_000), np.arange(30)])
    assert of_rows(x[some], y[some]) == {"duplicated_rows"}
    few = np.concatenate([np.arange(1_000), np.arange(5)])
    assert of_rows(x[few], y[few]) == set()
    # Only x is repeated: one x with several y tells as much as different ones.
    assert of_rows(np.repeat(x, 2, axis=0), NOISE) == set()


def test_counts_and_codes_repeat_by_chance():
    rng = np.random.default_rng(1)
    assert of_rows(rng.poisson(3, size=(2_000, 2)), rng.poisson(3, size=(2_000, 2))) == set()
    assert of_rows(rng.integers(0, 50, size=(2_000, 1)), rng.integers(0, 50, size=(2_000, 1))) == set()


def test_few_rows_are_not_convicted():
    """Where noise could not be seen."""
    assert of_rows(ONE[:40], ONE[:40]) == set()
    assert of_rows(X[:150], X[:150] ** 2) == set()
