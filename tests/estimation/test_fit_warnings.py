"""Each warning about the fit on a case that must raise it and on one that must not."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import networks, tasks
from mi_jax.estimation.diagnostics import diagnose
from mi_jax.estimation.fit_warnings import Outcome, warn_of_fit
from tests import examples
from tests.estimation.test_diagnostics import FITTED
from tests.quick import INFONCE, closed, draw, light, thorough


def make_config(estimator="smile", **changes):
    return examples.estimate().config._replace(estimator=estimator, rounds=10, **changes)


GOOD = examples.diagnostics(
    train=1.0, clipped_joint=0.05, best_step=(50, 0), last_step=(300, 300), diverged=(False, False), rise=-0.1
)


def codes(mi=1.0, stderr=0.05, estimator="smile", **changes):
    per_fold = np.array([mi - 0.01, mi + 0.01])
    known = GOOD._replace(**{"train": mi} | changes)
    return set(warn_of_fit(Outcome(make_config(estimator), 5, mi, stderr, per_fold, known)))


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
        ("folds_disagree", {"training_error": 0.11}, {"training_error": 0.09}),
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
def test_of_fit(code, must, must_not):
    assert codes(**must) == {code}
    assert codes(**must_not) == set()


def test_messages_say_how_many_pairs_and_samples_it_takes():
    """400 times 1 / 9 - 1 / 5678 of 5,678 pairs, and five times the root of so many samples."""
    known = GOOD._replace(effective_pairs=9.0)
    text = warn_of_fit(Outcome(make_config("dv"), 5, 1.0, 0.05, np.ones(2), known))["partition"]
    assert "about 9 of the 5.7e+03 pairs decide the partition function" in text
    assert "at least 2.5e+05 pairs a fold, that is 2.5e+03 samples" in text


def test_a_fold_without_a_finite_estimate_is_named():
    def warnings(*diverged):
        known = GOOD._replace(diverged=diverged)
        return warn_of_fit(Outcome(make_config("nwj"), 5, 1.0, 0.05, np.array([1.0, np.nan]), known))

    assert "held-out estimates of folds 1 are not finite" in warnings(False, False)["not_finite"]
    # One that diverged has a warning of its own.
    assert set(warnings(False, True)) == {"diverged"}


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
    assert {"normaliser", "folds_disagree", "not_converged"} <= set(light(*normal(1.0)).warnings)
    assert "negative" in light(*(3 * rows for rows in normal(0.0)), transform="none").warnings


def test_from_data_to_no_warning_of_a_critic_that_fits():
    good = closed(*normal(1.0)).warnings
    assert not {"normaliser", "overfitting", "folds_disagree", "untrained", "negative", "clipped"} & set(good)
    assert "negative" not in closed(*normal(0.0)).warnings
    assert "clipped" in closed(*normal(1.0), tau=0.5).warnings


def test_from_folds_to_warnings():
    """A critic that ends above the loss that it started from is untrained; two pairs are noise; and so on."""
    usable = np.array([True, True, False])
    held = FITTED.held_out._replace(train=np.full(3, 2.0), pairs=np.full(3, 1e9))
    known = diagnose(make_config("dv"), FITTED._replace(held_out=held), usable, 0.25)
    outcome = Outcome(make_config("dv"), 5, 1.0, 0.05, np.array([0.9, 1.1, np.nan]), known)
    assert set(warn_of_fit(outcome)) == {
        "normaliser", "partition", "clipped", "overfitting", "folds_disagree", "diverged", "untrained"
    }  # fmt: skip


FIXED = {"steps": 50, "batch_size": 64}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "must", "must_not"),
    [
        (
            "ceiling",
            lambda: light(*normal(1.0), **INFONCE | {"max_pairs": 4_000, "learning_rate": 1e-2}),
            lambda: light(*normal(0.5), **INFONCE | {"max_pairs": 2**22, "learning_rate": 1e-2}),
        ),
        (
            "normaliser",
            lambda: light(*normal(1.0), estimator="nwj", critic=Fixed(0.5, shift=3.0), num_negatives=None, **FIXED),
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
            "folds_disagree",
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
