"""From the folds to one number: the mean, its standard error, the interval, and the p-value of a permutation test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mi_jax.estimation.cross_fitting import Fitted
from mi_jax.estimation.read_out import HeldOut
from mi_jax.estimation.splits import Split


class Independence(NamedTuple):
    """A permutation test of independence.

    Attributes:
      p_value: (1 + k) / (1 + m), with k the number of the m permuted data sets whose estimate is not below that of the data;
        ties, which a critic that finds nothing makes, are broken at random, and a permuted set without an estimate counts
        against the data. NaN if the data have no estimate.
      statistics: (m,) the estimates of the permuted sets, in nats; NaN where all folds diverged.
    """

    p_value: float
    statistics: Float[np.ndarray, " m"]


class Combined(NamedTuple):
    """The folds of one data set, combined; see `Estimate` for what the fields mean.

    Attributes:
      mi, stderr, interval, allowance, per_fold, influence: as in `Estimate`.
      training_error: how much the folds differ beyond what their test rows explain, as a standard deviation; 0 where chance
        explains it, at a level of 1 % for folds of equal size.
    """

    mi: float
    stderr: float
    interval: tuple[float, float]
    allowance: tuple[float, float]
    per_fold: Float[np.ndarray, " folds"]
    influence: Float[np.ndarray, " n"]
    training_error: float


def estimate_per_fold(fitted: Fitted) -> Float[np.ndarray, " folds"]:
    """The estimate of each fold; NaN where the fold cannot be used."""
    values = np.asarray(fitted.held_out.value, float)
    return np.where(fitted.diverged | ~np.isfinite(values), np.nan, values)


def average(per_fold: Float[np.ndarray, " folds"]) -> float:
    """The mean over the folds that can be used; NaN if there are none."""
    usable = per_fold[np.isfinite(per_fold)]
    return float(usable.mean()) if usable.size else math.nan


def combine(fitted: Fitted, splits: Sequence[Split], num_rows: int, confidence: float) -> Combined:
    """The mean of the folds, and its error; the folds share rows, and so err together."""
    from scipy import stats  # slow to import

    held, per_fold = fitted.held_out, estimate_per_fold(fitted)
    usable = np.flatnonzero(np.isfinite(per_fold))
    if not usable.size:
        undefined = math.nan, math.nan
        return Combined(math.nan, math.nan, undefined, undefined, per_fold, np.full(num_rows, math.nan), math.nan)
    by_row = np.zeros(num_rows)
    within = np.zeros(usable.size)
    for place, fold in enumerate(usable.tolist()):
        influence = np.asarray(held.influence[fold], float)[held.weights[fold] > 0]
        tested = splits[fold].test[: influence.size]
        by_row[tested] += influence / (influence.size * usable.size)
        within[place] = np.var(influence, ddof=1) / influence.size
    values = per_fold[usable]
    # Not divided by the number of folds: they train on mostly the same rows, and so err together.
    between = max(0.0, float(np.var(values, ddof=1) - within.mean())) if usable.size > 1 else 0.0
    freedom = max(1, usable.size - 1)
    by_chance = stats.chi2.isf(0.01, freedom) / freedom * within.mean()
    training_error = math.sqrt(between) if between + within.mean() > by_chance else 0.0
    mi, stderr = average(per_fold), math.sqrt(float(by_row @ by_row) + between)
    down, up = _allow(held, usable)
    interval = make_interval(mi, stderr, (down, up), confidence)
    return Combined(mi, stderr, interval, (down, up), per_fold, num_rows * by_row, training_error)


def make_interval(mi: float, stderr: float, allowance: tuple[float, float], confidence: float) -> tuple[float, float]:
    """The interval of an estimate, or of a difference of two: mi ∓ z stderr, widened by the allowance (down, up)."""
    from scipy import stats  # slow to import

    reach = float(stats.norm.ppf(0.5 + confidence / 2)) * stderr
    return mi - reach - allowance[0], mi + reach + allowance[1]


def _allow(held: HeldOut, usable: np.ndarray) -> tuple[float, float]:
    """How far the interval reaches further down, and up, than the standard error says; see `Estimate`."""

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values[usable], dtype=float))

    mi, unnormalised = mean(held.value), abs(mean(held.log_normaliser))
    up = max(0.0, mean(held.train) - mi) + (unnormalised if math.isfinite(unnormalised) else 0.0)
    if math.isnan(mean(held.clipped_joint)):  # not SMILE
        return 0.0, up
    clipped = -math.log1p(-min(mean(held.clipped_joint), 1 - 1e-6))
    return min(clipped, max(0.0, mi - mean(held.others["dv"]))), up


def compare_with_permuted(observed: float, statistics: Float[np.ndarray, " m"], rng: np.random.Generator) -> Independence:
    """The permutation test of an estimate against those of permuted data sets."""
    if math.isnan(observed):
        return Independence(math.nan, statistics)
    not_below = int(np.sum(~(statistics <= observed)))  # NaN among them
    ties = int(np.sum(statistics == observed))
    return Independence((1 + not_below + int(rng.integers(ties + 1))) / (1 + statistics.size), statistics)
