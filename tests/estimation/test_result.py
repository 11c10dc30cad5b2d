import dataclasses
import math

import numpy as np
import pytest

import mi_jax
from mi_jax import networks
from mi_jax.estimation.combine import Independence
from mi_jax.estimation.units import make_units
from tests import examples


@pytest.fixture
def found():
    return examples.estimate(influence=np.array([1.0, -2.0, 0.5, 0.5]), warnings={})


def test_in_bits(found):
    bits = found.in_bits()
    for name in ("mi", "stderr", "interval", "allowance", "per_fold", "influence"):
        np.testing.assert_allclose(getattr(bits, name), np.divide(getattr(found, name), math.log(2)))
    assert "bits ±" in repr(bits)
    assert bits.in_bits().mi == bits.mi
    assert bits.history is found.history


def test_repr(found):
    low, high = found.interval
    first = (
        f"{found.mi:.3f} nats ± {found.stderr:.3f}, 95% interval {low:.3f} to {high:.3f} (smile, BilinearCritic, 2 folds)"
    )
    assert repr(dataclasses.replace(found, warnings={})) == first
    warned = dataclasses.replace(
        found, warnings={"ceiling": "near"}, independence=Independence(0.05, 19, np.array([]), np.zeros(19))
    )
    assert repr(warned).split("\n") == [first, "independence: p = 0.05 (19 permutations)", "warning, ceiling: near"]


def test_plot(found):
    left, right = found.plot().axes
    assert len(left.lines) >= 2
    assert right.get_ylabel() == "nats"


# The difference of two estimates


def pair(rng, correlation):
    """Two estimates whose influences are correlated, and the formula's variances of the rows."""
    ours, noise = rng.normal(size=(2, 400))
    theirs = correlation * ours + math.sqrt(1 - correlation**2) * noise
    make = lambda influence, training: examples.estimate(  # noqa: E731
        influence=influence,
        stderr=math.sqrt(np.mean(influence**2) / 399 + training),
        allowance=(0.1, 0.2),
        units=make_units(400),
    )
    return make(ours, 0.001), dataclasses.replace(make(theirs, 0.002), mi=0.7, allowance=(0.01, 0.04))


def test_a_difference_is_its_formula():
    a, b = pair(np.random.default_rng(0), 0.9)
    ours = mi_jax.compare(a, b)
    stderr = math.sqrt(np.sum((a.influence - b.influence) ** 2) / (400 * 399) + 0.003)
    assert ours.mi == pytest.approx(0.5)
    assert ours.stderr == pytest.approx(stderr)
    assert ours.allowance == pytest.approx((0.14, 0.21))
    assert ours.interval == pytest.approx((0.5 - 1.965927 * stderr - 0.14, 0.5 + 1.965927 * stderr + 0.21))
    assert repr(ours) == (
        f"difference 0.500 nats ± {stderr:.3f}, 95% interval {ours.interval[0]:.3f} to {ours.interval[1]:.3f}"
    )
    other = mi_jax.compare(b, a)
    assert (other.mi, other.stderr) == pytest.approx((-ours.mi, ours.stderr))
    assert other.interval == pytest.approx((-ours.interval[1], -ours.interval[0]))
    in_bits = mi_jax.compare(a.in_bits(), b.in_bits())
    assert np.multiply(in_bits.interval, math.log(2)) == pytest.approx(ours.interval)


def test_what_rows_add_to_both_cancels():
    apart = [mi_jax.compare(*pair(np.random.default_rng(0), correlation)).stderr for correlation in (0.0, 0.9)]
    assert apart[1] < 0.8 * apart[0]
    estimate = examples.estimate(influence=np.ones(400), stderr=399**-0.5, units=make_units(400))
    assert mi_jax.compare(estimate, estimate).stderr == pytest.approx(0.0, abs=1e-9)


def test_a_paired_interval_covers_the_difference_of_means():
    """Influences of means are known exactly: here of two correlated samples, 2,000 times."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2_000):
        first, noise = rng.normal(size=(2, 100))
        second = 0.3 + 0.8 * first + 0.6 * noise
        a, b = (
            examples.estimate(
                mi=values.mean(),
                influence=values - values.mean(),
                stderr=values.std(ddof=1) / 10,
                allowance=(0.0, 0.0),
                units=make_units(100),
            )
            for values in (first, second)
        )
        low, high = mi_jax.compare(a, b).interval
        hits += low <= -0.3 <= high
    assert 0.93 * 2_000 < hits < 0.965 * 2_000


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"influence": np.zeros(3)}, ValueError, "a and b must be estimates of the same rows, got 40 and 3 rows"),
        ({"units": make_units(40, blocks=4)}, ValueError, "a and b must have the same groups or blocks"),
        ({"unit": "bits"}, ValueError, "a and b must have the same unit, got nats and bits"),
        ({"confidence": 0.9}, ValueError, "a and b must have the same confidence, got 0.95 and 0.9"),
    ],
)
def test_estimates_that_cannot_be_compared(changes, error, message):
    with pytest.raises(error, match=message):
        mi_jax.compare(examples.estimate(), examples.estimate(**changes))


def test_numbers_are_no_estimates():
    with pytest.raises(TypeError, match="b must be an Estimate, got float"):
        mi_jax.compare(examples.estimate(), 1.0)


@pytest.mark.parametrize("estimator", ["infonce", "dv", "mine"])
def test_pointwise_needs_an_estimator_of_the_log_ratio(found, estimator):
    ours = dataclasses.replace(found, config=found.config._replace(estimator=estimator))
    with pytest.raises(ValueError, match=f"pointwise needs an estimator that learns the log ratio.*got {estimator}"):
        ours.pointwise(np.zeros((2, 2)), np.zeros((2, 1)))


def test_the_critic_of_a_generative_model_is_not_named(found):
    densities = dataclasses.replace(found, config=found.config._replace(estimator="gm", critic=None))
    assert "(gm, 2 folds)" in repr(densities)
    assert isinstance(found.config.critic, networks.BilinearCritic)
