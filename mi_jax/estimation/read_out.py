"""What a fold reads out of its test rows."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mi_jax import evaluation, training
from mi_jax.estimation.config import READ_OUTS, FitConfig
from mi_jax.models import Critic, Model, Variables

LEAST_TAU = 5.0
TAU_QUANTILE = 0.95

# read-out -> the other read-outs that mean something: DV leaves a constant free in the critic, InfoNCE a function of x.
OTHERS: dict[str, tuple[str, ...]] = {
    "smile": ("infonce", "dv", "nwj"),
    "nwj": ("infonce", "dv", "smile"),
    "dv": ("infonce",),
    "infonce": (),
}


class Pairs(NamedTuple):
    """Joint pairs by number: x[x_rows[i]] stands with y[y_rows[i]]."""

    x_rows: Int[np.ndarray, " n"]
    y_rows: Int[np.ndarray, " n"]

    def select(self, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        """The rows of these pairs, out of all rows."""
        return rows[0][self.x_rows], rows[1][self.y_rows]


class ReadOutRows(NamedTuple):
    """The pairs that a fold is read out on, and where SMILE clips.

    Attributes:
      test: the test pairs.
      valid: the validation pairs, which set tau and DV's constant.
      train: as many training pairs as test pairs, for comparison.
      tau: where SMILE clips; NaN if the validation pairs decide.
    """

    test: Pairs
    valid: Pairs
    train: Pairs
    tau: Any


class HeldOut(NamedTuple):
    """What one fold reads out of its test rows, for the estimate and for the diagnostics; NaN where it has no meaning.

    Attributes:
      value: the estimate, in nats.
      influence: (tests,) its influence function.
      train: the same read-out of as many training rows.
      others: name -> other read-outs of the same scores, those that mean something.
      tau: where SMILE clips: as given, or the 95th percentile of T on the validation pairs, at least 5.
      clipped_joint, clipped_pairs: the shares of joint pairs above tau, and of negatives beyond ±tau.
      log_normaliser: log E_Q[r] of the ratio on the test rows. For SMILE the ratio is clipped; DV and MINE leave a constant
        free, so for them it is normalised on the validation rows.
      effective_pairs: how many of the pairs carry E_Q[r].
      pairs: how many pairs there are off the diagonal.
      group: how many pairs each row of x stands in, its joint pair included; InfoNCE's ceiling is the log of this.
    """

    value: Any
    influence: Any
    train: Any
    others: Mapping[str, Any]
    tau: Any
    clipped_joint: Any
    clipped_pairs: Any
    log_normaliser: Any
    effective_pairs: Any
    pairs: Any
    group: Any


def read_out_fold(config: FitConfig, variables: Variables, inputs: training.Inputs) -> HeldOut:
    """Reads out one fold, given its variables; `inputs` are all rows, and the fold's `ReadOutRows`."""
    model, given = config.model(), inputs.per_run
    rows = {name: getattr(given, name).select(inputs.shared) for name in ("test", "valid", "train")}
    if model.critic is None:
        return _read_out_densities(model, variables, rows)
    return _read_out_scores(config, model, model.critic, variables, rows, given.tau)


def _read_out_scores(
    config: FitConfig, model: Model, critic: Critic, variables: Variables, rows: Mapping[str, Any], tau: Array
) -> HeldOut:
    # Whatever is not given is chosen on validation rows; the test rows are read once.
    highest = jnp.quantile(model.log_ratio(variables, *rows["valid"]), TAU_QUANTILE)
    tau = jnp.where(jnp.isnan(tau), jnp.maximum(LEAST_TAU, highest), tau)
    encode, pair = functools.partial(critic.encode, variables), functools.partial(critic.pair, variables)
    log_ratios = lambda codes_x, codes_y: pair(codes_x, codes_y) - config.offset  # noqa: E731
    sum_pairs = functools.partial(evaluation.pair_sums, log_ratios, encode=encode, tau=tau, max_pairs=config.max_pairs)
    test, valid, train = (sum_pairs(*rows[name]) for name in ("test", "valid", "train"))
    name = READ_OUTS[config.estimator]
    read_outs = evaluation.read_outs(test)
    value, influence = read_outs[name]
    free = evaluation.log_partition(valid) if name == "dv" else 0.0
    clipped = name == "smile"
    only_smile = lambda value: jnp.where(clipped, value, jnp.nan)  # noqa: E731
    log_normaliser = 0.0 if name == "infonce" else evaluation.log_partition(test, clipped=clipped) - free
    return HeldOut(
        value=value,
        influence=influence,
        train=evaluation.read_outs(train)[name].value,
        others={other: read_outs[other].value for other in OTHERS[name]},
        tau=only_smile(tau),
        clipped_joint=only_smile(jnp.mean(test.joint > tau)),
        clipped_pairs=only_smile(jnp.mean(test.clipped)),
        log_normaliser=jnp.asarray(log_normaliser, float),
        effective_pairs=evaluation.effective_pairs(test),
        pairs=jnp.asarray(test.joint.size * (test.group - 1), float),
        group=jnp.asarray(test.group, float),
    )


def _read_out_densities(model: Model, variables: Variables, rows: Mapping[str, Any]) -> HeldOut:
    values = model.log_ratio(variables, *rows["test"])
    normaliser = evaluation.normaliser(model, variables, *rows["test"])
    undefined = jnp.full((), jnp.nan)
    return HeldOut(
        value=jnp.mean(values),
        influence=values - jnp.mean(values),
        train=jnp.mean(model.log_ratio(variables, *rows["train"])),
        others={},
        tau=undefined,
        clipped_joint=undefined,
        clipped_pairs=undefined,
        log_normaliser=normaliser.log_mean,
        effective_pairs=normaliser.effective_pairs,
        pairs=jnp.asarray(values.size, float),
        group=undefined,
    )
