"""From the folds to one number: the mean, its standard error, the interval, and the p-value of a permutation test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mi_jax.estimation.cross_fitting import Fitted
from mi_jax.estimation.read_out import HeldOut
from mi_jax.estimation.splits import Split
from mi_jax.estimation.units import Units


class Independence(NamedTuple):
    """A permutation test of independence.

    Attributes:
      p_value: of the whole test; NaN if the data have no estimate, or no part a p-value.
      permutations: how many, m.
      per_part: the p-value of each part of the rows: (½ + k + ½ t) / (1 + m), where k of its permutations give a higher sum
        of log ratios than the data, and t the same; NaN where training diverged. Parts are independent of one another
        where x and y are, and combined by weighted z-scores. Empty if the sets were trained anew.
      statistics: the estimates of the permuted sets, in nats, if they were trained anew; NaN where all folds diverged. Then
        the p-value is (1 + k) / (1 + m), with k the number of sets whose estimate is not below that of the data; ties are
        broken at random, and a set without an estimate counts against the data.
      least: the smallest p-value that was possible. Where few groups or blocks can be exchanged, it may be too large to show
        anything.
    """

    p_value: float
    permutations: int
    per_part: Float[np.ndarray, " parts"]
    statistics: Float[np.ndarray, " m"]
    least: float = 0.0


class Combined(NamedTuple):
    """The folds of one data set, combined; see `Estimate` for what the fields mean.

    Attributes:
      mi, stderr, interval, allowance, per_fold, influence: as in `Estimate`.
      training_error: how much the folds differ beyond what their test rows explain, as a standard deviation; 0 where chance
        explains it, at a level of 1 %.
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


def average(per_fold: Float[np.ndarray, " folds"], splits: Sequence[Split]) -> float:
    """The mean over the tested rows of the folds that can be used; NaN if there are none."""
    usable = np.isfinite(per_fold)
    weights = np.array([len(split.test) for split in splits])
    return float(np.average(per_fold[usable], weights=weights[usable])) if usable.any() else math.nan


def combine(fitted: Fitted, splits: Sequence[Split], units: Units, confidence: float, limit: float = math.nan) -> Combined:
    """The mean of the folds, and its error; the folds share rows, and so err together.

    Args:
      fitted: the folds.
      splits: their rows.
      units: which rows count as one.
      confidence: of the interval.
      limit: in nats, what the interval reaches at least; NaN if that is not known.
    """
    held, per_fold, num_rows = fitted.held_out, estimate_per_fold(fitted), len(units.of_row)
    usable = np.flatnonzero(np.isfinite(per_fold)).tolist()
    if not usable:
        undefined = math.nan, math.nan
        return Combined(math.nan, math.nan, undefined, undefined, per_fold, np.full(num_rows, math.nan), math.nan)
    by_row = np.zeros(num_rows)
    total = sum(len(splits[fold].test) for fold in usable)
    within, counts = np.zeros(len(usable)), np.zeros(len(usable))
    for place, fold in enumerate(usable):
        influence = np.asarray(held.influence[fold], float)[held.weights[fold] > 0]
        tested = splits[fold].test[: influence.size]
        by_row[tested] += influence / influence.size * (len(splits[fold].test) / total)
        within[place], counts[place] = _variance_of_mean(influence, units.of_row[tested])
    values = per_fold[usable]
    # Not divided by the number of folds: they train on mostly the same rows, and so err together.
    between = max(0.0, float(np.var(values, ddof=1) - within.mean())) if len(usable) > 1 else 0.0
    training_error = math.sqrt(between) if between + within.mean() > _largest_by_chance(within, counts) else 0.0
    mi = average(per_fold, splits)
    sampling = np.sum(units.sums(by_row) ** 2) * units.number / (units.number - 1)
    stderr = math.sqrt(float(sampling) + between)
    down, up = _allow(held, usable)
    reach = make_interval(mi, stderr, (0.0, 0.0), confidence, units.number - 1)[1]
    allowance = down, float(np.fmax(up, limit - reach))
    interval = make_interval(mi, stderr, allowance, confidence, units.number - 1)
    return Combined(mi, stderr, interval, allowance, per_fold, num_rows * by_row, training_error)


def _variance_of_mean(influence: Float[np.ndarray, " k"], units: Int[np.ndarray, " k"]) -> tuple[float, int]:
    """The variance of the mean of rows that are alike within units, and how many units there are."""
    number = np.unique(units, return_inverse=True)[1]
    sums = np.bincount(number, influence - influence.mean())
    count = sums.size
    return float(sums @ sums) / influence.size**2 * count / (count - 1), count


def _largest_by_chance(within: Float[np.ndarray, " k"], counts: Float[np.ndarray, " k"]) -> float:
    """What the variance of the folds' estimates exceeds in 1 % of cases, if their test rows are all that they differ by.

    Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components", for both degrees of
    freedom of F: of the variance of folds that differ in precision, and of their mean precision, which is estimated.
    """
    from scipy import stats  # slow to import

    if within.size < 2 or not within.any():
        return 0.0
    centre = (np.eye(within.size) - 1 / within.size) * within
    above = np.trace(centre) ** 2 / np.sum(centre * centre.T)
    below = within.sum() ** 2 / np.sum(within**2 / (counts - 1))
    return float(stats.f.isf(0.01, above, below) * within.mean())


def make_interval(
    mi: float, stderr: float, allowance: tuple[float, float], confidence: float, freedom: int
) -> tuple[float, float]:
    """The interval of an estimate, or of a difference of two: mi ∓ t stderr, widened by the allowance (down, up).

    Here t is Student's, with one degree of freedom less than there are independent units.
    """
    from scipy import special  # slow to import

    reach = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * stderr
    return mi - reach - allowance[0], mi + reach + allowance[1]


def _allow(held: HeldOut, usable: Sequence[int]) -> tuple[float, float]:
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
    """The permutation test of an estimate against those of permuted data sets, each trained anew."""
    p_value = math.nan
    if not math.isnan(observed):
        not_below = int(np.sum(~(statistics <= observed)))  # NaN among them
        ties = int(np.sum(statistics == observed))
        p_value = (1 + not_below + int(rng.integers(ties + 1))) / (1 + statistics.size)
    return Independence(p_value, statistics.size, np.array([]), statistics, 1 / (1 + statistics.size))


def merge_parts(
    sums: Float[np.ndarray, "parts m"],
    weights: Float[np.ndarray, " parts"],
    unmoved: Int[np.ndarray, " parts"],
) -> Independence:
    """The permutation test of parts of the rows, each scored by a critic that saw neither this part nor a later one.

    Given the parts before it, a part's p-value is uniform on its m + 1 values if x and y are independent, whatever its
    critic is. So the p-values are independent of one another, and z = Σ w Φ⁻¹(1 - p) / √Σ w² is about standard normal. It is
    not exactly so, because p takes m + 1 values only.

    Args:
      sums: of log ratios, for each part: first with the data as they are, then with each permutation.
      weights: w, of each part's z-score, fixed before the data are seen.
      unmoved: how many of each part's permutations change nothing. They limit how small its p-value can be.

    Source: Stouffer et al. (1949), "The American Soldier", vol. 1, and Lipták (1958), for the combination.
    """
    from scipy import special

    observed, permuted = sums[:, :1], sums[:, 1:]
    number = permuted.shape[1]
    above, ties = np.sum(permuted > observed, axis=1), np.sum(permuted == observed, axis=1)
    per_part = np.where(np.isfinite(sums).all(axis=1), (0.5 + above + 0.5 * ties) / (1 + number), math.nan)
    usable = np.isfinite(per_part)
    if not usable.any():
        return Independence(math.nan, number, per_part, np.array([]))
    weights = weights[usable]
    lowest = (0.5 + 0.5 * unmoved) / (1 + number)
    p_value, least = (
        float(special.ndtr(-(weights @ special.ndtri(1 - values[usable])) / math.sqrt(weights @ weights)))
        for values in (per_part, lowest)
    )
    return Independence(p_value, number, per_part, np.array([]), least)
