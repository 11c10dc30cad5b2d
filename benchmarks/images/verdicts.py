"""Verdicts on ratios of estimates that the same seeds gave: Fieller's interval of paired runs.

Runs of one seed in two settings start from the same key and see the same images, so that their estimates vary together. The
interval of a ratio counts that, and it does not need the estimates to be above 0.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mi_jax.consistency import Verdict

TOLERANCE = 0.1
Reads = Mapping[int, Mapping[str, Any]]  # seed -> value and standard error on the test images
MOST_SEEDS = 1_000


class Ratio(NamedTuple):
    """A ratio of two estimates, and whether it is what a property of mutual information says.

    Attributes:
      ratio: the ratio of the means over the seeds that have both; NaN if the lower one is not above 0.
      interval: 95 %, over seeds and test images; (-inf, inf) if the second estimate may be 0 or less, for then it is none.
      accepted: the ratios (low, high) that the property accepts, for which low b <= a <= high b.
      verdict: "passes" if a - low b is above 0 and a - high b below, each by its own error bar; "fails" if one of them is on
        the wrong side by as much; else "cannot tell". Where the interval is known, that is whether it lies within the
        accepted ratios or outside. One seed tells nothing.
      seeds: how many seeds have both.
      needed: about how many seeds would tell, if they varied as these do; infinite if no number up to 1,000 would, because
        the ratio is too near to an end of the accepted ones or the test images are too few; NaN with one seed.
    """

    ratio: float
    interval: tuple[float, float]
    accepted: tuple[float, float]
    verdict: Verdict
    seeds: int
    needed: float


class Moments(NamedTuple):
    """Of pairs over seeds: the means, the covariances (2, 2), and the mean squared standard errors on the test images."""

    means: np.ndarray
    covariance: np.ndarray
    sampling: np.ndarray


def judge(upper: Reads, lower: Reads, accepted: tuple[float, float]) -> Ratio:
    """Judge the ratio upper / lower of the estimates that the same seeds gave.

    Args:
      upper: the estimates above the line, by seed.
      lower: those below it.
      accepted: the ratios that the property accepts.

    Example:
      >>> read = lambda *values: {seed: {"value": value, "stderr": 0.01} for seed, value in enumerate(values)}
      >>> ratio = judge(read(4.0, 4.4, 4.8), read(2.0, 2.2, 2.4), (1.8, 2.2))
      >>> print(f"{ratio.ratio:.2f}, {ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}: {ratio.verdict}")
      2.00, 1.98 to 2.02: passes
    """
    seeds = sorted(set(upper) & set(lower))
    moments = _moments(upper, lower, seeds)
    ratio = float(moments.means[0] / moments.means[1]) if moments.means[1] > 0 else math.nan
    interval = fieller(moments, len(seeds))
    if len(seeds) < 2:
        return Ratio(ratio, interval, accepted, "cannot tell", len(seeds), math.nan)
    verdict = _verdict(moments, len(seeds), accepted)
    return Ratio(ratio, interval, accepted, verdict, len(seeds), _needed(moments, len(seeds), accepted))


def _moments(upper: Reads, lower: Reads, seeds: list[int]) -> Moments:
    pairs = np.array([[reads[seed]["value"] for reads in (upper, lower)] for seed in seeds])
    errors = np.array([[reads[seed]["stderr"] for reads in (upper, lower)] for seed in seeds])
    covariance = np.cov(pairs.T, ddof=1) if len(seeds) > 1 else np.zeros((2, 2))
    return Moments(pairs.mean(axis=0), covariance, (errors**2).mean(axis=0))


def fieller(moments: Moments, seeds: int) -> tuple[float, float]:
    """The 95 % interval of the ratio of the means of so many pairs: every ρ at which mean(a - ρ b) may be 0.

    Formula: (ā - ρ b̄)² ≤ t² var(a - ρ b) / k + 1.96² (s_a² + ρ² s_b²), with Student's t of k - 1 degrees of freedom over k
    seeds, and the standard errors s on the test images, which all seeds share. Those of a and b are counted as if they were
    independent; they are of the same images, so that the interval is rather too wide. One seed has no variance.

    Source: Fieller (1954), "Some problems in interval estimation".
    """
    (a, b), (var_a, var_b) = moments.means, moments.sampling
    student, normal = _student(seeds), 1.96**2
    # A quadratic in ρ: square ρ² - 2 product ρ + constant <= 0.
    square = b**2 - student * moments.covariance[1, 1] - normal * var_b
    product = a * b - student * moments.covariance[0, 1]
    constant = a**2 - student * moments.covariance[0, 0] - normal * var_a
    if square <= 0 or b <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(0.0, product**2 - square * constant))
    return (product - root) / square, (product + root) / square


@functools.cache
def _student(seeds: int) -> float:
    """The squared 97.5 % point of Student's law for the mean of so many seeds, over their number; 0 for one seed."""
    return float(stats.t.ppf(0.975, seeds - 1) ** 2 / seeds) if seeds > 1 else 0.0


def _verdict(moments: Moments, seeds: int, accepted: tuple[float, float]) -> Verdict:
    low, high = (_distance(moments, seeds, end) for end in accepted)
    if low > 1 and high < -1:
        return "passes"
    return "fails" if low < -1 or high > 1 else "cannot tell"


def _distance(moments: Moments, seeds: int, ratio: float) -> float:
    """The mean of a - ratio b, in units of its 95 % error bar; infinite for an end that is."""
    if math.isinf(ratio):
        return -math.copysign(math.inf, ratio)
    weights = np.array([1.0, -ratio])
    reach = _student(seeds) * float(weights @ moments.covariance @ weights) + 1.96**2 * float(weights**2 @ moments.sampling)
    difference = float(weights @ moments.means)
    return difference / math.sqrt(reach) if reach > 0 else math.copysign(math.inf, difference) if difference else 0.0


def _needed(moments: Moments, seeds: int, accepted: tuple[float, float]) -> float:
    """The fewest seeds, on a grid, that would tell if their moments were these."""
    grid = sorted({max(2, round(seeds * 1.15**power)) for power in range(-20, 60)})
    tells = (number for number in grid if _verdict(moments, number, accepted) != "cannot tell")
    return next((number for number in tells if number <= MOST_SEEDS), math.inf)
