"""Early stopping: train in rounds, and keep the parameters with the lowest validation loss."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mi_jax import _checks, _logspace
from mi_jax.training.trainer import NO_INPUTS, Inputs, Trainer, TrainState

AVERAGE_DECAY = 0.99
STANDARD_ERRORS = 1.0


class Validated(NamedTuple):
    """Parameters, and their losses on each of the validation batches."""

    params: Any
    losses: Float[Array, " batches"]


class EarlyStopState(NamedTuple):
    """What training with early stopping carries from round to round.

    Attributes:
      train: the state of the training that goes on.
      average: the moving average of its parameters, which is what validates.
      start: the parameters before training, with their losses.
      best: the parameters of the lowest mean loss so far, with their losses.
      best_round: after how many rounds that was; 0 for the start.
      round: rounds made.
      patience: rounds without a lower loss after which training stops.
      weights: 1 for a validation batch that counts, 0 for one of padding; None if all count.
    """

    train: TrainState
    average: Any
    start: Validated
    best: Validated
    best_round: Int[Array, ""]
    round: Int[Array, ""]
    patience: Int[Array, ""]
    weights: Float[Array, " batches"] | None = None

    @property
    def diverged(self) -> Bool[Array, ""]:
        """Whether the training diverged; `best` is from before."""
        return self.train.diverged

    @property
    def stopped(self) -> Bool[Array, ""]:
        """Whether nothing more happens: no lower loss for `patience` rounds, or diverged."""
        return (self.round - self.best_round >= self.patience) | self.train.diverged


def early_stopping(
    trainer: Trainer,
    losses: Callable[[TrainState, Inputs], Float[Array, " batches"]],
    *,
    every: int,
    patience: int,
    weights: Callable[[Inputs], Float[Array, " batches"] | None] = lambda _: None,
) -> Trainer:
    """Train in rounds, validate after each, keep the best parameters, and stop when they stay the best.

    What validates is the moving average of the parameters, with a decay of 0.99 a step: less noisy than any single step's.

    Args:
      trainer: makes the steps.
      losses: `(TrainState, inputs) -> (batches,)` losses on validation batches, the same in each round; NaN counts as
        infinite.
      every: steps in a round.
      patience: rounds without a lower mean loss after which the run stops. Under `lax.map` a stopped run costs nothing.
      weights: `inputs -> (batches,)`, 1 for a validation batch that counts and 0 for one of padding, or None if all count,
        as by default.

    Returns:
      A `Trainer` of rounds, whose state is an `EarlyStopState`. Its read-outs are the means over the round, and the
      "validation_loss" after it; NaN once it has stopped.

    Raises:
      TypeError: if `trainer` is no `Trainer`, or `every` or `patience` no integer.
      ValueError: if `every` or `patience` is less than 1.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> trainer = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> x, y = task.sample(jax.random.key(1), 64)
      >>> losses = lambda state, inputs: model.loss(state.variables, state.model_state, x, y)[0][None]
      >>> stopping = training.early_stopping(trainer, losses, every=10, patience=3)
      >>> fit = training.fit(stopping, jax.random.split(jax.random.key(0), 2), steps=20)
      >>> bool((fit.states.best_round <= fit.states.round).all())
      True

    Source: Prechelt (1998), "Early stopping, but when?"; Polyak & Juditsky (1992), for the average.
    """
    _checks.instance(trainer, Trainer, "trainer")
    every, patience = _checks.positive_int(every, "every"), _checks.positive_int(patience, "patience")

    def validate(train: TrainState, params: Any, inputs: Inputs) -> Validated:
        values = losses(train._replace(params=params), inputs)
        return Validated(params, jnp.where(jnp.isnan(values), jnp.inf, values))

    def init(key: PRNGKeyArray, inputs: Inputs = NO_INPUTS) -> EarlyStopState:
        train = trainer.init(key, inputs)
        start, zero = validate(train, train.params, inputs), jnp.zeros((), jnp.int32)
        patient = jnp.full((), patience, jnp.int32)
        return EarlyStopState(train, train.params, start, start, zero, zero, patient, weights(inputs))

    def advance(state: EarlyStopState, inputs: Inputs) -> tuple[EarlyStopState, Mapping[str, Float[Array, ""]]]:
        def step(carry: tuple[TrainState, Any], _: None) -> tuple[tuple[TrainState, Any], Mapping[str, Array]]:
            train, nats = trainer.step(carry[0], inputs)
            average = jax.tree.map(lambda old, new: old + (1 - AVERAGE_DECAY) * (new - old), carry[1], train.params)
            return (train, average), nats

        (train, average), nats = jax.lax.scan(step, (state.train, state.average), length=every)
        new, count = validate(train, average, inputs), state.round + 1
        better = _logspace.masked_mean(new.losses, state.weights) < _logspace.masked_mean(state.best.losses, state.weights)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, state.best)
        best_round = jnp.where(better, count, state.best_round)
        state = state._replace(train=train, average=average, best=best, best_round=best_round, round=count)
        return state, jax.tree.map(jnp.mean, dict(nats)) | {
            "validation_loss": _logspace.masked_mean(new.losses, state.weights)
        }

    def rest(state: EarlyStopState, inputs: Inputs) -> tuple[EarlyStopState, Mapping[str, Float[Array, ""]]]:
        read_outs = jax.eval_shape(advance, state, inputs)[1]
        return state, jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), read_outs)

    def step(state: EarlyStopState, inputs: Inputs = NO_INPUTS) -> tuple[EarlyStopState, Mapping[str, Float[Array, ""]]]:
        return jax.lax.cond(state.stopped, rest, advance, state, inputs)

    return Trainer(init, step)


def select_parameters(state: EarlyStopState) -> tuple[Any, Int[Array, ""]]:
    """The parameters to use, and the round they are from.

    The best ones, if over the validation batches they beat the start by a standard error of the paired difference. The
    best of many rounds is always a little better than the start on the rows it was chosen by, so that a start that is
    right already would otherwise be left for noise. With one batch there is no such error, and the best ones are taken.

    Args:
      state: of `early_stopping`, of one seed, or of many with a leading axis.

    Returns:
      Parameters, and a round: 0 for the start.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import training
      >>> from mi_jax.training.early_stopping import Validated
      >>> start, best = Validated(1.0, jnp.array([0.9, 0.7, 0.8])), Validated(2.0, jnp.array([0.8, 0.8, 0.7]))
      >>> state = training.EarlyStopState((), (), start, best, jnp.array(7), jnp.array(9), jnp.array(6))
      >>> params, round = training.select_parameters(state)
      >>> float(params), int(round)
      (1.0, 0)
    """
    gain = jnp.subtract(state.start.losses, state.best.losses)
    mean, batches = _logspace.masked_mean(gain, state.weights), _number(gain, state.weights)
    variance = _logspace.masked_mean((gain - jnp.expand_dims(mean, -1)) ** 2, state.weights) / jnp.maximum(batches - 1, 1)
    # Infinite losses make the gain NaN: a start that has them is never kept.
    keep = ~(mean <= STANDARD_ERRORS * jnp.sqrt(variance))

    def select(new: Array, old: Array) -> Array:
        return jnp.where(keep.reshape(keep.shape + (1,) * (jnp.ndim(new) - keep.ndim)), new, old)

    return jax.tree.map(select, state.best.params, state.start.params), jnp.where(keep, state.best_round, 0)


def _number(losses: Array, weights: Array | None) -> int | Array:
    """How many validation batches count."""
    return losses.shape[-1] if weights is None else jnp.sum(weights > 0, axis=-1)
