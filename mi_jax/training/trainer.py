"""The trainer: training as an init and a step, scanned; a pure function of the key.

Nothing here knows of devices or of other seeds. The key of a step is folded from the seed's key and the step's number, so
the chunks that a run is cut into do not change it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mi_jax import _checks
from mi_jax.models import Model

Batch = Callable[[PRNGKeyArray, Int[Array, ""]], tuple[Array, Array]]


class TrainState(NamedTuple):
    """Everything that training carries from one step to the next.

    Attributes:
      key: the seed's key for drawing batches; it never changes.
      step: number of updates made.
      params: the model's parameters.
      opt_state: the optimiser's state.
      model_state: the model's state: for MINE, the log of its moving average.
    """

    key: PRNGKeyArray
    step: Int[Array, ""]
    params: Any
    opt_state: Any
    model_state: Any


class Trainer(NamedTuple):
    """Training as a pair of pure functions.

    Attributes:
      init: `key -> TrainState`.
      step: `TrainState -> (TrainState, {name: nats})`; the read-outs are those of the parameters *before* the update, on the
        step's fresh batch.
    """

    init: Callable[[PRNGKeyArray], TrainState]
    step: Callable[[TrainState], tuple[TrainState, Mapping[str, Float[Array, ""]]]]


def adam(learning_rate: float | Float[Array, ""] = 5e-4) -> optax.GradientTransformation:
    """Adam as in the paper: beta 0.9 and 0.999.

    Args:
      learning_rate: the paper's 5e-4 by default; may be traced, so that a sweep compiles once.

    Returns:
      An optax optimiser.

    Example:
      >>> from mi_jax import training
      >>> optimizer = training.adam(1e-3)

    Source: Song & Ermon (2020), B.1.
    """
    return optax.adam(learning_rate, b1=0.9, b2=0.999)


def trainer(model: Model, batch: Batch, optimizer: optax.GradientTransformation | None = None) -> Trainer:
    """How to train a model on a stream of batches.

    Args:
      model: what to train.
      batch: `(key, step) -> (x, y)`, a fresh batch of paired rows for the step; the step is there for a task that changes,
        as the staircase does.
      optimizer: an optax optimiser; by default the paper's `adam()`.

    Returns:
      A `Trainer`.

    Raises:
      TypeError: if `model` is no `Model` or `optimizer` no optax optimiser.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.SeparableCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state, nats = recipe.step(recipe.init(jax.random.key(0)))
      >>> int(state.step), list(nats)
      (1, ['infonce'])

    Source: Song & Ermon (2020), B.1.
    """
    _checks.instance(model, Model, "model")
    optimizer = adam() if optimizer is None else optimizer
    _checks.instance(optimizer, optax.GradientTransformation, "optimizer")

    def init(key: PRNGKeyArray) -> TrainState:
        params_key, batch_key = jax.random.split(key)
        step = jnp.zeros((), jnp.int32)
        # For the shapes alone: the compiler drops the drawing of this batch.
        x, y = batch(batch_key, step)
        params = model.init(params_key, x, y)
        return TrainState(batch_key, step, params, optimizer.init(params), model.init_state())

    def step(state: TrainState) -> tuple[TrainState, Mapping[str, Float[Array, ""]]]:
        x, y = batch(jax.random.fold_in(state.key, state.step), state.step)
        gradient = jax.grad(model.loss, has_aux=True)
        grads, (model_state, nats) = gradient(state.params, state.model_state, x, y)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.key, state.step + 1, params, opt_state, model_state), nats

    return Trainer(init, step)


def scan_steps(recipe: Trainer, state: TrainState, length: int) -> tuple[TrainState, Mapping[str, Float[Array, " length"]]]:
    """`length` steps of training as one `lax.scan`.

    Args:
      recipe: the trainer.
      state: where to start.
      length: number of steps; static.

    Returns:
      The state after them, and the read-outs of every step, each (length,), in nats.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.SeparableCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state, history = training.scan_steps(recipe, recipe.init(jax.random.key(0)), 10)
      >>> history["infonce"].shape
      (10,)
    """
    return jax.lax.scan(lambda carry, _: recipe.step(carry), state, length=length)
