"""What an estimate rests on, as means over its folds."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from mi_jax.estimation.config import EVERY, FitConfig, critic_name
from mi_jax.estimation.cross_fitting import Fitted


class Diagnostics(NamedTuple):
    """What an estimate rests on, as means over its folds; NaN where it has no meaning.

    Attributes:
      train: the same read-out of training pairs, in nats.
      log_normaliser: log E_Q[r] of the fitted ratio on held-out pairs, 0 for a valid one.
      effective_pairs: how many of the pairs that a fold scores carry E_Q[r].
      pairs: how many pairs a fold scores.
      tau: where SMILE clips.
      clipped_joint, clipped_pairs: the shares of joint and of other pairs that it clips.
      ceiling: what InfoNCE cannot exceed, in nats.
      read_outs: name -> other read-outs of the same critic on the same pairs, in nats.
      best_step: the step of each fold's validation optimum; 0 where training did not help.
      last_step: how many steps each fold made.
      diverged: whether each fold's training diverged.
      training_error: how much the folds' estimates differ beyond what their test rows explain, as a standard deviation; 0
        where chance explains it, at a level of 1 %.
      weights: critic -> its weight in each fold, where several were stacked: T is their weighted sum.
      rise: how far the lowest validation loss after the start lies above that of the start; negative if training helped.
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
    rise: float = math.nan
    weights: Mapping[str, tuple[float, ...]] = MappingProxyType({})


def diagnose(config: FitConfig, fitted: Fitted, usable: np.ndarray, training_error: float) -> Diagnostics:
    """Averages over the folds that are used; steps and divergence are those of all folds."""
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
        rise=mean(fitted.lowest_loss) - mean(fitted.start_loss),
        weights={
            critic_name(one.critic): tuple(map(float, weights))
            for one, weights in zip(config.candidates, fitted.weights.T, strict=False)
        },
    )
