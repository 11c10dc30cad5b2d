"""Early stopping: a trainer whose step is a round of another's steps, and which keeps the best parameters by validation."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mi_jax import _checks
from mi_jax.training.trainer import Trainer, TrainState, scan_steps


class EarlyStopState(NamedTuple):
    """What training with early stopping carries from round to round.

    Attributes:
      train: the state of the training that goes on.
      best: the parameters with the lowest validation loss so far, those before any step included.
      best_loss: that loss.
      best_round: after how many rounds it was.
      round: rounds made.
      patience: rounds without a better loss after which training stops.
    """

    train: TrainState
    best: Any
    best_loss: Float[Array, ""]
    best_round: Int[Array, ""]
    round: Int[Array, ""]
    patience: Int[Array, ""]

    @property
    def diverged(self) -> Bool[Array, ""]:
        """Whether the training diverged; `best` is then from before."""
        return self.train.diverged

    @property
    def stopped(self) -> Bool[Array, ""]:
        """Whether nothing more happens: no better loss for `patience` rounds, or diverged."""
        return (self.round - self.best_round >= self.patience) | self.train.diverged


def early_stopping(recipe: Trainer, loss: Callable[[TrainState], Float[Array, ""]], *, every: int, patience: int) -> Trainer:
    """Train in rounds, validate after each, keep the best parameters, and stop when they stay the best.

    Args:
      recipe: the trainer whose steps are made.
      loss: `TrainState -> loss` on validation rows; lower is better, and NaN is never better.
      every: steps in a round.
      patience: rounds without a lower loss after which the run stops. Under `lax.map` a stopped run costs nothing.

    Returns:
      A `Trainer` of rounds, of an `EarlyStopState`. Its read-outs are the means of the recipe's over the round, and the
      "validation_loss" after it; NaN once it has stopped.

    Raises:
      TypeError: if `recipe` is no `Trainer`, or `every` or `patience` no integer.
      ValueError: if `every` or `patience` is less than 1.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.SeparableCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> x, y = task.sample(jax.random.key(1), 64)
      >>> loss = lambda state: model.loss(state.params, state.model_state, x, y)[0]
      >>> stopping = training.early_stopping(recipe, loss, every=10, patience=3)
      >>> fit = training.fit(stopping, jax.random.split(jax.random.key(0), 2), steps=20)
      >>> bool((fit.states.best_round <= fit.states.round).all())
      True

    Source: Prechelt (1998), "Early stopping, but when?"
    """
    _checks.instance(recipe, Trainer, "recipe")
    every, patience = _checks.positive_int(every, "every"), _checks.positive_int(patience, "patience")

    def init(run: Any) -> EarlyStopState:
        state = recipe.init(run)
        zero = jnp.zeros((), jnp.int32)
        return EarlyStopState(state, state.params, loss(state), zero, zero, jnp.full((), patience, jnp.int32))

    def advance(state: EarlyStopState) -> tuple[EarlyStopState, Mapping[str, Float[Array, ""]]]:
        train, nats = scan_steps(recipe, state.train, every)
        value = loss(train)
        better = (value < state.best_loss) | (jnp.isnan(state.best_loss) & ~jnp.isnan(value))
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), train.params, state.best)
        best_loss = jnp.where(better, value, state.best_loss)
        count = state.round + 1
        state = EarlyStopState(train, best, best_loss, jnp.where(better, count, state.best_round), count, state.patience)
        return state, jax.tree.map(jnp.mean, dict(nats)) | {"validation_loss": value}

    def rest(state: EarlyStopState) -> tuple[EarlyStopState, Mapping[str, Float[Array, ""]]]:
        read_outs = jax.eval_shape(advance, state)[1]
        return state, jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), read_outs)

    return Trainer(init, lambda state: jax.lax.cond(state.stopped, rest, advance, state))
