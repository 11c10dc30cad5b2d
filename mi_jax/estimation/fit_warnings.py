"""Warnings about the fit: what its held-out rows and its training say against the estimate."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mi_jax.estimation.config import EVERY, FitConfig
from mi_jax.estimation.diagnostics import Diagnostics

CEILING_DISTANCE = 3.0  # nats: at I = log m - 3, InfoNCE at the exact ratio is about a tenth too low
LEAST_EFFECTIVE_PAIRS = 400  # with so many, the partition has a relative standard error of 0.05
LARGEST_NORMALISER = 0.3
LARGEST_CLIPPED = 0.1
LARGEST_RISE = 0.5  # nats: in the first 50 steps overfitting raises the loss by less
NEGATIVE = (0.005, 0.5)  # nats: less below 0 is never worth a warning, more always is; between, two standard errors


class Outcome(NamedTuple):
    """An estimate and what it rests on, in nats."""

    config: FitConfig
    folds: int
    mi: float
    stderr: float
    per_fold: Float[np.ndarray, " folds"]
    diagnostics: Diagnostics

    @property
    def large(self) -> float:
        """A difference that matters at this mutual information."""
        return max(0.1, 0.1 * abs(self.mi))


def warn_of_fit(outcome: Outcome) -> dict[str, str]:
    """Warnings about an estimate: name -> what is wrong, and what to do."""
    warnings = _warn_of_lost_folds(outcome)
    if not math.isfinite(outcome.mi):
        return warnings | {"no_estimate": "no fold gave a finite estimate"}
    return warnings | _warn_of_ratio(outcome) | _warn_of_training(outcome)


def _warn_of_lost_folds(outcome: Outcome) -> dict[str, str]:
    warnings, diverged = {}, outcome.diagnostics.diverged
    if any(diverged):
        which = ", ".join(str(fold) for fold, bad in enumerate(diverged) if bad)
        warnings["diverged"] = f"the training of folds {which} diverged, and they are left out; take a smaller learning_rate"
    lost = [str(fold) for fold, value in enumerate(outcome.per_fold) if not math.isfinite(value) and not diverged[fold]]
    if lost and math.isfinite(outcome.mi):
        warnings["not_finite"] = (
            f"the held-out estimates of folds {', '.join(lost)} are not finite, and they are left out, which favours the "
            "others: e^T overflowed; take SMILE or InfoNCE"
        )
    return warnings


def _warn_of_ratio(outcome: Outcome) -> dict[str, str]:
    """What the held-out pairs say of the fitted ratio."""
    warnings, mi, name, known = {}, outcome.mi, outcome.config.estimator, outcome.diagnostics
    if name in ("infonce", "cpc") and known.ceiling - mi < CEILING_DISTANCE and mi > max(0.1, 2 * outcome.stderr):
        warnings["ceiling"] = (
            f"InfoNCE cannot exceed log {math.exp(known.ceiling):.0f} = {known.ceiling:.2f} nats, and is too low already "
            f"from {max(0.0, known.ceiling - CEILING_DISTANCE):.2f} on: take more pairs, or another estimator"
        )
    if abs(known.log_normaliser) > LARGEST_NORMALISER:
        mean_ratio = math.exp(min(known.log_normaliser, 99.0))
        # Even for a valid ratio, most of E_Q[r] can lie in pairs so rare that none was drawn.
        unseen = ", or most of it lies in pairs too rare to be seen" if known.log_normaliser < 0 else ""
        warnings["normaliser"] = (
            f"E_Q[r] of the fitted ratio is {mean_ratio:.2g} on held-out pairs and ought to be 1: it is no density ratio, "
            f"and the estimate depends on how it is normalised{unseen}"
        )
    # The partition's relative variance; 0 if all pairs count alike.
    variance = 1 / max(known.effective_pairs, 1.0) - 1 / known.pairs
    if name in ("dv", "mine", "nwj", "js", "tuba") and variance * LEAST_EFFECTIVE_PAIRS > 1:
        need = known.pairs * variance * LEAST_EFFECTIVE_PAIRS
        warnings["partition"] = (
            f"about {known.effective_pairs:.0f} of the {known.pairs:.2g} pairs decide the partition function, so {name} is "
            f"mostly noise at this mutual information: it would take at least {need:.2g} pairs a fold, that is "
            f"{outcome.folds * math.sqrt(need):.2g} samples; or take SMILE"
        )
    if known.clipped_joint > LARGEST_CLIPPED:
        warnings["clipped"] = (
            f"SMILE clips {known.clipped_joint:.0%} of the joint pairs at tau = {known.tau:.3g}: it is then no lower bound, "
            f"and may be too high by up to {-math.log1p(-min(known.clipped_joint, 0.999)):.2f} nats; take a larger tau"
        )
    if mi < -np.clip(2 * outcome.stderr, *NEGATIVE):
        warnings["negative"] = "the estimate is below 0, as no mutual information is: read it as 0, or as a failed fit"
    return warnings


def _warn_of_training(outcome: Outcome) -> dict[str, str]:
    warnings, mi, known = {}, outcome.mi, outcome.diagnostics
    if known.train - mi > max(outcome.large, 1.5 * outcome.stderr):
        warnings["overfitting"] = (
            f"the same read-out gives {known.train:.2f} nats on training pairs and {mi:.2f} on held-out ones: there are too "
            "few samples for these dimensions, and the estimate is probably too low"
        )
    if known.training_error > outcome.large:
        values = ", ".join(f"{value:.2f}" for value in outcome.per_fold)
        warnings["folds_disagree"] = f"the folds' estimates ({values}) differ by more than their test rows explain"
    late = [str(fold) for fold, best in enumerate(known.best_step) if best and best == outcome.config.rounds * EVERY]
    if late:
        warnings["not_converged"] = (
            f"the validation loss of folds {', '.join(late)} was still falling after {max(known.last_step)} steps, and the "
            "estimate is probably too low; take more steps"
        )
    if known.rise > LARGEST_RISE:
        warnings["untrained"] = (
            "training made the validation loss worse from its first steps on, and the estimate is that of an untrained "
            "critic; take a smaller learning_rate"
        )
    return warnings
