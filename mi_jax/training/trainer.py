"""The trainer: training as an init and a step, scanned; a pure function of the key.

Nothing here knows of devices or of other seeds. The key of a step is folded from the seed's key and the step's number, so
the chunks that a run is cut into do not change it. A run whose parameters would leave the finite numbers stays where it was.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mi_jax import _checks
from mi_jax.models import Model

Batch = Callable[[PRNGKeyArray, Int[Array, ""]], tuple[Array, Array]]
Settings = Mapping[str, Any]

# What is folded into a seed's key for other uses than a step of training: steps are int32, and none has such a number.
READ_OUT_NUMBER, MODEL_NUMBER = 2**32 - 1, 2**32 - 2


class TrainState(NamedTuple):
    """Everything that training carries from one step to the next.

    Attributes:
      key: the seed's key for drawing batches; it never changes.
      step: number of updates made.
      params: the model's parameters; always finite, if they were so at the start.
      opt_state: the optimiser's state.
      model_state: the model's state: for MINE, the log of its moving average.
      diverged: whether the squares of a gradient, or the parameters after its update, had no finite sum. Such a run is
        frozen: its parameters and `step` stay those before that update, and its read-outs are NaN from then on.
      settings: what a sweep trains under, name -> scalar; empty outside of one. See `swept`.
    """

    key: PRNGKeyArray
    step: Int[Array, ""]
    params: Any
    opt_state: Any
    model_state: Any
    diverged: Bool[Array, ""]
    settings: Settings | tuple[()] = ()


class Run(NamedTuple):
    """What a run of a sweep starts from: a seed's key, and the settings it trains under."""

    key: PRNGKeyArray
    settings: Settings


class Trainer(NamedTuple):
    """Training as a pair of pure functions.

    Attributes:
      init: `key -> TrainState`; of a sweep, `Run -> TrainState`.
      step: `TrainState -> (TrainState, {name: nats})`; the read-outs are those of the parameters *before* the update, on the
        step's fresh batch.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any], tuple[Any, Mapping[str, Float[Array, ""]]]]


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


def trainer(
    model: Model,
    batch: Batch,
    optimizer: optax.GradientTransformation | None = None,
    example: tuple[Array, Array] | None = None,
) -> Trainer:
    """How to train a model on a stream of batches.

    Args:
      model: what to train.
      batch: `(key, step) -> (x, y)`, a fresh batch of paired rows for the step; the step is there for a task that changes,
        as the staircase does.
      optimizer: an optax optimiser; by default the paper's `adam()`.
      example: (x, y), the rows that `model.init` is given, for a model that fits some of its parameters to them; by default
        one batch, of which other models only want the shapes.

    Returns:
      A `Trainer`.

    Raises:
      TypeError: if `model` is no `Model` or `optimizer` no optax optimiser.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(recipe.init)(jax.random.key(0))
      >>> state, nats = jax.jit(recipe.step)(state)
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
        # For most models for the shapes alone: the compiler drops the drawing of this batch.
        x, y = batch(batch_key, step) if example is None else example
        params = model.init(params_key, x, y)
        model_state = model.init_state(jax.random.fold_in(batch_key, jnp.uint32(MODEL_NUMBER)))
        return TrainState(batch_key, step, params, optimizer.init(params), model_state, jnp.zeros((), bool))

    def step(state: TrainState) -> tuple[TrainState, Mapping[str, Float[Array, ""]]]:
        x, y = batch(jax.random.fold_in(state.key, state.step), state.step)
        gradient = jax.grad(model.loss, has_aux=True)
        grads, (model_state, nats) = gradient(state.params, state.model_state, x, y)
        # Before they are read twice: how the compiler fuses both readings differs from program to program, and so the bits.
        grads = jax.lax.optimization_barrier(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Of a gradient whose square overflows Adam keeps infinity, and never moves again.
        # Behind a barrier of their own: Adam squares them too, and squares for both would be written to memory first.
        apart = jax.lax.optimization_barrier(grads)
        sums = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(apart)] + [leaf.sum() for leaf in jax.tree.leaves(params)]
        goes_on = ~state.diverged & jnp.isfinite(jnp.array(sums)).all()
        # A frozen run never uses its optimiser's state again, the largest part, nor its keys: they are not chosen.
        params, model_state = jax.tree.map(
            lambda new, old: new if _checks.is_key(new) else jnp.where(goes_on, new, old),
            (params, model_state),
            (state.params, state.model_state),
        )
        nats = {name: jnp.where(state.diverged, jnp.nan, value) for name, value in nats.items()}
        state = state._replace(step=state.step + goes_on, params=params, opt_state=opt_state, model_state=model_state)
        return state._replace(diverged=~goes_on), nats

    return Trainer(init, step)


def swept(recipe: Callable[[Settings], Trainer]) -> Trainer:
    """The trainer of runs that differ in their settings, which are traced, so that all of them are one program.

    Args:
      recipe: `settings -> Trainer`, with settings name -> scalar: an MI, a tau, a learning rate. What they decide may not
        shape the program.

    Returns:
      A `Trainer` whose `init` takes a `Run`; the state carries its settings.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> def recipe(settings):
      ...     task = tasks.gaussian(dim=2, mi=settings["mi"])
      ...     return training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = training.swept(recipe).init(training.Run(jax.random.key(0), {"mi": 1.0}))
      >>> state.settings
      {'mi': 1.0}
    """

    def init(run: Run) -> TrainState:
        return recipe(run.settings).init(run.key)._replace(settings=run.settings)

    return Trainer(init, lambda state: recipe(dict(state.settings)).step(state))


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
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(recipe.init)(jax.random.key(0))
      >>> state, history = training.scan_steps(recipe, state, 10)
      >>> history["infonce"].shape
      (10,)
    """
    return jax.lax.scan(lambda carry, _: recipe.step(carry), state, length=length)


def fixed_read_outs(recipe: Trainer, state: TrainState, batches: int) -> Mapping[str, Float[Array, " batches"]]:
    """The read-outs of fresh batches while the parameters stay: their variance is the batch variance at a fixed critic.

    Args:
      recipe: the trainer.
      state: whose parameters; the batches are those of its next step, drawn with keys that no step of training folds.
      batches: how many; static.

    Returns:
      The read-outs, each (batches,), in nats; NaN if the run has diverged.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(recipe.init)(jax.random.key(0))
      >>> training.fixed_read_outs(recipe, state, 5)["infonce"].shape
      (5,)

    Source: Song & Ermon (2020), Theorem 2, whose variance is this one.
    """
    root = jax.random.fold_in(state.key, jnp.uint32(READ_OUT_NUMBER))

    def one(number: Int[Array, ""]) -> Mapping[str, Float[Array, ""]]:
        # A model that draws, as a VAE does, keeps its key in its state: each batch draws its own.
        afresh = lambda leaf: jax.random.fold_in(leaf, number) if _checks.is_key(leaf) else leaf  # noqa: E731
        return recipe.step(
            state._replace(key=jax.random.fold_in(root, number), model_state=jax.tree.map(afresh, state.model_state))
        )[1]

    return jax.lax.map(one, jnp.arange(batches))
