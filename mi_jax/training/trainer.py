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
from mi_jax.models import Model, Variables

Batch = Callable[[PRNGKeyArray, Int[Array, ""]], tuple[Array, Array]]

# Numbers folded into a seed's key for other uses than a training step. Steps are int32 and never reach them.
READ_OUT_NUMBER, MODEL_NUMBER = 2**32 - 1, 2**32 - 2


class Inputs(NamedTuple):
    """What a trainer is given beside its state. Training reads it and never changes it.

    Attributes:
      shared: arrays that are the same for all runs, such as a data set; each device holds them once.
      per_run: arrays that each run has for itself, such as its learning rate or the numbers of its rows.
    """

    shared: Any = ()
    per_run: Any = ()


NO_INPUTS = Inputs()


class TrainState(NamedTuple):
    """Everything that training carries from one step to the next.

    Attributes:
      key: the seed's key for drawing batches; it never changes.
      step: number of updates made.
      params: the model's parameters, its collection "params"; always finite, if they were so at the start.
      opt_state: the optimiser's state.
      model_state: the model's state: for MINE, the log of its moving average.
      diverged: whether the squares of a gradient, or the parameters after its update, had no finite sum. Such a run is
        frozen: its parameters and `step` stay those before that update, and its read-outs are NaN from then on.
      constants: the model's other collections, which neither training nor the optimiser sees.
    """

    key: PRNGKeyArray
    step: Int[Array, ""]
    params: Any
    opt_state: Any
    model_state: Any
    diverged: Bool[Array, ""]
    constants: Any = ()

    @property
    def variables(self) -> Variables:
        """Parameters and constants, as the model's functions take them."""
        return {"params": self.params, **dict(self.constants)}


class Trainer(NamedTuple):
    """Training as a pair of pure functions. `inputs` is `Inputs()` for a trainer that needs none, and may be left out.

    Attributes:
      init: `(key, inputs) -> TrainState`.
      step: `(TrainState, inputs) -> (TrainState, {name: nats})`; the read-outs are those of the parameters *before* the
        update, on the step's fresh batch.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Mapping[str, Float[Array, ""]]]]


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
    example: tuple[Array, ...] | None = None,
) -> Trainer:
    """How to train a model on a stream of batches.

    Args:
      model: what to train.
      batch: `(key, step) -> (x, y)`, a fresh batch of paired rows for the step; the step is there for a task that changes,
        as the staircase does.
      optimizer: an optax optimiser; by default the paper's `adam()`.
      example: (x, y), the rows that `model.init` is given, for a model that fits constants to them, or (x, y, weights) with
        0 for rows of padding; by default one batch, of which other models only want the shapes.

    Returns:
      A `Trainer`.

    Raises:
      TypeError: if `model` is no `Model` or `optimizer` no optax optimiser.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> trainer = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(trainer.init)(jax.random.key(0))
      >>> state, nats = jax.jit(trainer.step)(state)
      >>> int(state.step), list(nats)
      (1, ['infonce'])

    Source: Song & Ermon (2020), B.1.
    """
    _checks.instance(model, Model, "model")
    optimizer = adam() if optimizer is None else optimizer
    _checks.instance(optimizer, optax.GradientTransformation, "optimizer")

    def init(key: PRNGKeyArray, inputs: Inputs = NO_INPUTS) -> TrainState:
        del inputs
        params_key, batch_key = jax.random.split(key)
        step = jnp.zeros((), jnp.int32)
        # Most models only read the shapes; then the compiler drops the drawing of this batch.
        rows = batch(batch_key, step) if example is None else example
        constants = dict(model.init(params_key, *rows))
        params = constants.pop("params", {})
        model_state = model.init_state(jax.random.fold_in(batch_key, jnp.uint32(MODEL_NUMBER)))
        return TrainState(batch_key, step, params, optimizer.init(params), model_state, jnp.zeros((), bool), constants)

    def step(state: TrainState, inputs: Inputs = NO_INPUTS) -> tuple[TrainState, Mapping[str, Float[Array, ""]]]:
        del inputs
        x, y = batch(jax.random.fold_in(state.key, state.step), state.step)

        def loss(params: Any) -> Any:
            return model.loss(state._replace(params=params).variables, state.model_state, x, y)

        grads, (model_state, nats) = jax.grad(loss, has_aux=True)(state.params)
        # The gradients are read twice. Without the barrier the compiler fuses the two readings differently in different
        # programs, and the last bits change.
        grads = jax.lax.optimization_barrier(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # If a squared gradient overflows, Adam's second moment stays infinite and the parameter never moves again; so we
        # freeze the run. The second barrier keeps XLA from sharing these squares with Adam's, which would write them to
        # memory first.
        apart = jax.lax.optimization_barrier(grads)
        sums = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(apart)] + [leaf.sum() for leaf in jax.tree.leaves(params)]
        goes_on = ~state.diverged & jnp.isfinite(jnp.array(sums)).all()
        # A frozen run never uses its optimiser's state again, nor its keys, so we do not select them.
        params, model_state = jax.tree.map(
            lambda new, old: new if _checks.is_key(new) else jnp.where(goes_on, new, old),
            (params, model_state),
            (state.params, state.model_state),
        )
        nats = {name: jnp.where(state.diverged, jnp.nan, value) for name, value in nats.items()}
        state = state._replace(step=state.step + goes_on, params=params, opt_state=opt_state, model_state=model_state)
        return state._replace(diverged=~goes_on), nats

    return Trainer(init, step)


def from_inputs(make_trainer: Callable[[Inputs], Trainer]) -> Trainer:
    """The trainer of runs that differ in their inputs. The inputs are traced, so all runs share one compiled program.

    Args:
      make_trainer: `inputs -> Trainer`. The inputs may be data, an MI, a tau or a learning rate, but may not shape the
        program.

    Returns:
      A `Trainer` whose `init` and `step` need the inputs.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> def make_trainer(inputs):
      ...     task = tasks.gaussian(dim=2, mi=inputs.per_run["mi"])
      ...     return training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> trainer = training.from_inputs(make_trainer)
      >>> inputs = training.Inputs(per_run={"mi": 1.0})
      >>> state, nats = trainer.step(trainer.init(jax.random.key(0), inputs), inputs)
      >>> list(nats)
      ['infonce']
    """
    return Trainer(
        lambda key, inputs: make_trainer(inputs).init(key, inputs),
        lambda state, inputs: make_trainer(inputs).step(state, inputs),
    )


def scan_steps(
    trainer: Trainer, state: TrainState, length: int, inputs: Inputs = NO_INPUTS
) -> tuple[TrainState, Mapping[str, Float[Array, " length"]]]:
    """`length` steps of training as one `lax.scan`.

    Args:
      trainer: what makes the steps.
      state: where to start.
      length: number of steps; static.
      inputs: what the trainer is given beside the state.

    Returns:
      The state after them, and the read-outs of every step, each (length,), in nats.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> trainer = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(trainer.init)(jax.random.key(0))
      >>> state, history = training.scan_steps(trainer, state, 10)
      >>> history["infonce"].shape
      (10,)
    """
    return jax.lax.scan(lambda carry, _: trainer.step(carry, inputs), state, length=length)


def fixed_read_outs(
    trainer: Trainer, state: TrainState, batches: int, inputs: Inputs = NO_INPUTS
) -> Mapping[str, Float[Array, " batches"]]:
    """The read-outs of fresh batches while the parameters stay: their variance is the batch variance at a fixed critic.

    Args:
      trainer: what makes the steps.
      state: its parameters are read out, on batches like that of its next step, drawn with keys that training never uses.
      batches: how many; static.
      inputs: what the trainer is given beside the state.

    Returns:
      The read-outs, each (batches,), in nats; NaN if the run has diverged.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> trainer = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> state = jax.jit(trainer.init)(jax.random.key(0))
      >>> training.fixed_read_outs(trainer, state, 5)["infonce"].shape
      (5,)

    Source: Song & Ermon (2020), Theorem 2, whose variance is this one.
    """
    root = jax.random.fold_in(state.key, jnp.uint32(READ_OUT_NUMBER))

    def read_out(number: Int[Array, ""]) -> Mapping[str, Float[Array, ""]]:
        # A model that draws random numbers, such as a VAE, keeps its key in its state: each batch gets a key of its own.
        fold = lambda leaf: jax.random.fold_in(leaf, number) if _checks.is_key(leaf) else leaf  # noqa: E731
        model_state = jax.tree.map(fold, state.model_state)
        return trainer.step(state._replace(key=jax.random.fold_in(root, number), model_state=model_state), inputs)[1]

    return jax.lax.map(read_out, jnp.arange(batches))
