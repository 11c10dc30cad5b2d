"""When not to believe an estimate: what its held-out rows and its columns say against it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mi_jax.cross_fitting import EVERY, Fitted, Recipe
from mi_jax.preprocessing import Columns

CEILING_DISTANCE = 3.0  # nats: at I = log m - 3, InfoNCE at the exact ratio is about a tenth too low
LEAST_EFFECTIVE_PAIRS = 400  # of so many, the partition has a relative standard error of 0.05
LARGEST_NORMALISER = 0.3
LARGEST_CLIPPED = 0.1
LARGEST_DUPLICATES = 0.01
DETERMINISTIC = 0.02


class Diagnostics(NamedTuple):
    """What an estimate rests on, as means over its seeds; NaN where it has no meaning.

    Attributes:
      train: the same read-out of training pairs, in nats.
      log_normaliser: log E_Q[r] of the fitted ratio on held-out pairs, 0 for a valid one.
      effective_pairs: how many of the pairs scored carry E_Q[r],
      pairs: of how many a seed.
      tau: where SMILE clips.
      clipped_joint, clipped_pairs: the shares of joint and of other pairs that it clips.
      ceiling: what InfoNCE cannot exceed, in nats.
      read_outs: name -> other read-outs of the same critic on the same pairs, in nats.
      best_step: of each seed, the step of its validation optimum; 0 where training did not help,
      last_step: and how many steps it made.
      diverged: of each seed, whether its training diverged.
      training_error: what the seeds' estimates differ by more than their test rows explain, as a standard deviation.
    """

    train: float
    log_normaliser: float
    effective_pairs: float
    pairs: float
    tau: float
    clipped_joint: float
    clipped_pairs: float
    ceiling: float
    read_outs: Mapping[str, float]
    best_step: tuple[int, ...]
    last_step: tuple[int, ...]
    diverged: tuple[bool, ...]
    training_error: float


def diagnose(fitted: Fitted, usable: np.ndarray, training_error: float) -> Diagnostics:
    """The diagnostics of the seeds that are used; the steps, and who diverged, of all."""
    held = fitted.held_out

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values[usable], dtype=float)) if usable.any() else math.nan

    group = mean(held.group)
    return Diagnostics(
        train=mean(held.train),
        log_normaliser=mean(held.log_normaliser),
        effective_pairs=mean(held.effective_pairs),
        pairs=mean(held.pairs),
        tau=mean(held.tau),
        clipped_joint=mean(held.clipped_joint),
        clipped_pairs=mean(held.clipped_pairs),
        ceiling=math.log(group) if group > 0 else math.nan,
        read_outs={name: mean(values) for name, values in held.others.items()},
        best_step=tuple(int(value) * EVERY for value in fitted.best_round),
        last_step=tuple(int(value) * EVERY for value in fitted.last_round),
        diverged=tuple(bool(value) for value in fitted.diverged),
        training_error=training_error,
    )


def of_columns(x: Columns, y: Columns) -> dict[str, str]:
    """Warnings of what was left out."""
    found = {}
    for columns in (x, y):
        for what, places in (("constant", columns.constant), ("duplicated", columns.duplicated)):
            if places.size:
                which = ", ".join(map(str, places[:5])) + (", …" if places.size > 5 else "")
                text = f"{columns.name} has {places.size} {what} columns, left out ({which}): they carry no information"
                found[f"{what}_columns_{columns.name}"] = text if what == "constant" else f"{text} of their own"
    return found


def of_rows(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]) -> dict[str, str]:
    """Warnings of transformed rows: repeated ones, and a relation without noise."""
    found = {}
    pairs, left, right = (_distinct(rows) for rows in (np.hstack([x, y]), x, y))
    share = 1 - pairs / len(x)
    # Of discrete variables equal pairs are to be expected; they are fewer than their values allow.
    if share > LARGEST_DUPLICATES and max(left, right) == pairs > len(x) / 10:
        found["duplicated_rows"] = (
            f"{share:.0%} of the rows repeat another: training and test rows then share pairs, and the estimate is too "
            "high; leave repetitions out"
        )
    if min(left, right) > len(x) / 2 and (_linearly_determined(x, y) or _determined(x, y) or _determined(y, x)):
        found["deterministic"] = (
            "x and y look like a relation without noise: the mutual information of such continuous variables is infinite, "
            "and any estimate is a matter of the resolution of the data"
        )
    return found


def _distinct(rows: np.ndarray) -> int:
    rows = np.ascontiguousarray(rows)
    return len(np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))))


def _linearly_determined(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether some combination of x is one of y, to 1e-6 of its variance."""
    if not 2 * (x.shape[1] + y.shape[1]) < len(x) or x.shape[1] + y.shape[1] > 1_000:
        return False
    left, right = (np.linalg.qr(rows.astype(float) - rows.mean(axis=0, dtype=float))[0] for rows in (x, y))
    return bool(np.linalg.norm(left.T @ right, ord=2) ** 2 > 1 - 1e-6)


def _determined(given: np.ndarray, rows: np.ndarray, most: int = 10_000) -> bool:
    """Whether neighbours of `given` have neighbouring `rows`, the nearer the more there are: a function without noise.

    With noise the distance of neighbours' rows does not fall with the number of rows; without, as n^(-1/d).
    """
    from scipy import spatial

    dim = given.shape[1]
    if dim > 3 or len(given) < 200:
        return False
    given, rows = given[:most], rows[:most]

    def distance(count: int) -> float:
        _, near = spatial.cKDTree(given[:count]).query(given[:count], k=2)
        apart = np.linalg.norm(rows[:count] - rows[near[:, 1]], axis=1)
        return float(np.median(apart))

    scale = float(np.median(np.linalg.norm(rows - np.roll(rows, 1, axis=0), axis=1)))
    whole, quarter = distance(len(given)), distance(len(given) // 4)
    return whole < DETERMINISTIC * scale and whole < 0.5 ** (1 / dim) * quarter


def of_estimate(recipe: Recipe, mi: float, stderr: float, per_seed: np.ndarray, told: Diagnostics) -> dict[str, str]:
    """Warnings of an estimate: name -> what is wrong, and what to do."""
    found, name = {}, recipe.estimator
    large = max(0.1, 0.1 * abs(mi))
    if any(told.diverged):
        which = ", ".join(str(seed) for seed, bad in enumerate(told.diverged) if bad)
        found["diverged"] = f"the training of seeds {which} diverged, and they are left out; take a smaller learning_rate"
    if not math.isfinite(mi):
        return found | {"no_estimate": "no seed gave a finite estimate"}
    if name in ("infonce", "cpc") and told.ceiling - mi < CEILING_DISTANCE:
        found["ceiling"] = (
            f"InfoNCE cannot exceed log {math.exp(told.ceiling):.0f} = {told.ceiling:.2f} nats, and is too low already from "
            f"{told.ceiling - CEILING_DISTANCE:.2f} on: take more pairs, or another estimator"
        )
    if abs(told.log_normaliser) > LARGEST_NORMALISER:
        mean_ratio = math.exp(min(told.log_normaliser, 99.0))
        found["normaliser"] = (
            f"E_Q[r] of the fitted ratio is {mean_ratio:.2g} on held-out pairs and ought to be 1: it is no density ratio, "
            "and the estimate depends on how it is normalised"
        )
    if name in ("dv", "mine", "nwj", "js", "tuba") and told.effective_pairs < LEAST_EFFECTIVE_PAIRS:
        need = told.pairs * LEAST_EFFECTIVE_PAIRS / max(told.effective_pairs, 1.0)
        found["partition"] = (
            f"the partition function rests on {told.effective_pairs:.0f} of {told.pairs:.2g} pairs: {name} is noise at this "
            f"mutual information and n; it would take about {need:.2g} pairs, or SMILE"
        )
    if told.clipped_joint > LARGEST_CLIPPED:
        found["clipped"] = (
            f"SMILE clips {told.clipped_joint:.0%} of the joint pairs at tau = {told.tau:.3g}: it is then no lower bound, "
            f"and may be too high by up to {-math.log1p(-min(told.clipped_joint, 0.999)):.2f} nats; take a larger tau"
        )
    if told.train - mi > large:
        found["overfitting"] = (
            f"the same read-out gives {told.train:.2f} nats on training pairs and {mi:.2f} on held-out ones: there are too "
            "few samples for these dimensions, and the estimate is probably too low"
        )
    if told.training_error > large:
        values = ", ".join(f"{value:.2f}" for value in per_seed)
        found["seeds_disagree"] = f"the seeds' estimates ({values}) differ by more than their test rows explain"
    late = [seed for seed, best in enumerate(told.best_step) if best == recipe.rounds * EVERY]
    if late:
        found["not_converged"] = (
            f"the validation loss of seeds {', '.join(map(str, late))} was still falling after {max(told.last_step)} steps, "
            "and the estimate is probably too low; take more steps"
        )
    if mi < -max(0.005, 2 * stderr):
        found["negative"] = "the estimate is below 0, as no mutual information is: read it as 0, or as a failed fit"
    return found
