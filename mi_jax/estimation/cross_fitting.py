"""Cross-fitting: each fold trains on some rows, stops when others say so, and is read out on rows that it never saw.

The folds train side by side. Configurations and shapes that were met before are not compiled again.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mi_jax import _logspace, evaluation, sub_batches, training
from mi_jax.estimation.config import EVERY, FitConfig
from mi_jax.estimation.read_out import (
    HeldOut,
    Pairs,
    PermutedRows,
    ReadOutRows,
    Rows,
    read_out_fold,
    stack_pairs,
    sum_permuted,
)
from mi_jax.estimation.splits import Split
from mi_jax.models import Model, Variables
from mi_jax.training import layout, runs
from mi_jax.training.layout import Layout

CHUNK = 5  # validations between reports
VALIDATION_GROUP = 128  # pairs in a validation group; fewer if there would be less than
VALIDATION_GROUPS = 8
MOST_VALIDATION_ROWS = 32 * VALIDATION_GROUP  # more would make validation dearer than the training between


class Fitted(NamedTuple):
    """All folds of one data set, on the host, each leaf with a leading axis of folds.

    Attributes:
      held_out: `HeldOut`.
      variables: the parameters at the validation optimum, with the constants.
      history: name -> (folds, rounds): "validation_loss" and the read-outs of the training batches; NaN after the stop.
      best_round: the round of the validation optimum; 0 is the start.
      last_round: how many rounds were made.
      diverged: whether the training diverged, after that optimum.
      start_loss: the validation loss before training.
    """

    held_out: HeldOut
    variables: Variables
    history: Mapping[str, np.ndarray]
    best_round: np.ndarray
    last_round: np.ndarray
    diverged: np.ndarray
    start_loss: np.ndarray


class Seconds(NamedTuple):
    """Where the time went."""

    compile: float
    train: float
    read_out: float

    def plus(self, other: "Seconds") -> "Seconds":
        """Both together."""
        return Seconds(*(one + more for one, more in zip(self, other, strict=True)))


class TrainRows(NamedTuple):
    """The pairs that a fold trains on, and those that decide when it stops."""

    train: Pairs
    valid: Pairs


def fit_folds(
    config: FitConfig,
    rows: Rows,
    splits: Sequence[Split],
    keys: Array,
    *,
    orders: Sequence[np.ndarray] | None = None,
    tau: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[training.Report], None] | None = None,
) -> tuple[list[Fitted], Seconds]:
    """Trains and reads out every fold of every data set, side by side.

    Args:
      config: what to train, and how.
      rows: float32 rows.
      splits: the rows of each fold, the same in all data sets; folds may differ in size.
      keys: (folds,) typed keys, the same for all data sets.
      orders: one data set for each: y is taken in this order. By default one set, as the rows are paired.
      tau: where SMILE clips, instead of what the validation rows say.
      devices: by default all local ones.
      on_chunk: called between chunks of `CHUNK` validations.

    Returns:
      A `Fitted` for each data set, and the seconds that all took.
    """
    orders = [np.arange(len(rows.x))] if orders is None else orders
    places = [(split, order) for order in orders for split in splits]
    tests = [_read_out_rows(split, order, tau) for split, order in places]
    trained, seconds = _train(config, rows, places, tests, jnp.concatenate([keys] * len(orders)), devices, on_chunk)
    start, states = time.perf_counter(), trained.states
    params, best_round = layout.to_host(training.select_parameters(states))
    held_out = trained.read(params)
    variables = {"params": params, **states.train.constants}
    start_loss = np.asarray(_logspace.masked_mean(states.start.losses, states.weights))
    whole = Fitted(held_out, variables, trained.history, best_round, states.round, states.diverged, start_loss)
    each = [slice(first, first + len(splits)) for first in range(0, len(places), len(splits))]
    fitted = [jax.tree.map(lambda leaf, folds=folds: leaf[folds], whole) for folds in each]
    return fitted, seconds._replace(read_out=time.perf_counter() - start)


def sum_permuted_folds(
    config: FitConfig,
    rows: Rows,
    splits: Sequence[Split],
    keys: Array,
    orders: Sequence[Int[np.ndarray, "m tests"]],
    *,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[training.Report], None] | None = None,
) -> tuple[Float[np.ndarray, "folds m"], Seconds]:
    """Trains folds, and sums the log ratios of the test rows of each, with y in several orders; see `sum_permuted`.

    Args:
      config: what to train, and how.
      rows: float32 rows.
      splits: the rows of each fold.
      keys: (folds,) typed keys.
      orders: orders of y, for each fold: indices among its test rows.
      devices: by default all local ones.
      on_chunk: called between chunks of `CHUNK` validations.

    Returns:
      The sums, NaN for a fold that diverged, and the seconds that all took. If the parameters at the validation optimum
      score all pairs alike, the last parameters are taken instead, because any critic will do for a test.
    """
    unchanged = np.arange(len(rows.x))
    most = max(each.shape[1] for each in orders)
    tests = [
        # Padding stays where it is.
        PermutedRows(
            _number_pairs(split.test, unchanged),
            np.hstack([each, np.tile(np.arange(each.shape[1], most), (len(each), 1))]).astype(np.int32),
        )
        for split, each in zip(splits, orders, strict=True)
    ]
    places = [(split, unchanged) for split in splits]
    trained, seconds = _train(config, rows, places, tests, keys, devices, on_chunk, sum_permuted)
    start, states = time.perf_counter(), trained.states
    sums = trained.read(layout.to_host(training.select_parameters(states)[0]))
    nothing = (sums == sums[:, :1]).all(axis=1)
    if nothing.any():
        sums = np.where(nothing[:, None], trained.read(layout.to_host(states.train.params)), sums)
    sums = np.where(np.asarray(states.diverged)[:, None], np.nan, sums)
    return sums, seconds._replace(read_out=time.perf_counter() - start)


class _Trained(NamedTuple):
    """Folds that were trained, and the read-out of any of their parameters."""

    states: Any
    history: Mapping[str, np.ndarray]
    read: Callable[[Any], Any]


def _train(
    config: FitConfig,
    rows: Rows,
    places: Sequence[tuple[Split, np.ndarray]],
    tests: Sequence[Any],
    keys: Array,
    devices: Sequence[jax.Device] | None,
    on_chunk: Callable[[training.Report], None] | None,
    read: Callable[[FitConfig, Variables, training.Inputs], Any] = read_out_fold,
) -> tuple[_Trained, Seconds]:
    """Trains each split of each order; its `tests` are what the function `read` takes beside its variables."""
    inputs = training.Inputs(rows, _stack_rows([_train_rows(split, order) for split, order in places]))
    test_inputs = training.Inputs(rows, _stack_rows(tests))
    plan = layout.layout(len(places), devices)
    start = time.perf_counter()
    shapes = _Shapes(jax.ShapeDtypeStruct((), keys.dtype), _shapes_of_run(inputs), _shapes_of_run(test_inputs))
    programs = _programs(config, plan, shapes, _validation_group([split for split, _ in places]), read)
    compiled = time.perf_counter()
    trained = runs.run(programs.train, keys, on_chunk, inputs=inputs)
    seconds = Seconds(compiled - start, time.perf_counter() - compiled, 0.0)

    def read_out(params: Any) -> Any:
        variables = {"params": params, **trained.states.train.constants}
        return plan.join(programs.read_out(plan.place(variables), plan.place_inputs(test_inputs)))

    return _Trained(trained.states, trained.history, read_out), seconds


def _number_pairs(numbers: np.ndarray, order: np.ndarray) -> Pairs:
    return Pairs(numbers.astype(np.int32), order[numbers].astype(np.int32))


def _train_rows(split: Split, order: np.ndarray) -> TrainRows:
    return TrainRows(_number_pairs(split.train, order), _number_pairs(split.valid, order))


def _read_out_rows(split: Split, order: np.ndarray, tau: float | None) -> ReadOutRows:
    parts = split.test, split.valid, split.train[: len(split.test)]
    test, valid, train = (_number_pairs(part, order) for part in parts)
    return ReadOutRows(test, valid, train, np.float32(np.nan if tau is None else tau))


def _stack_rows(runs_rows: Sequence[Any]) -> Any:
    """The rows of all runs with a leading axis of runs; parts that differ in size are padded."""
    stack = lambda *each: stack_pairs(each) if isinstance(each[0], Pairs) else np.stack(each)  # noqa: E731
    return jax.tree.map(stack, *runs_rows, is_leaf=lambda node: isinstance(node, Pairs))


class _Shapes(NamedTuple):
    """The shapes of one run, hashable: its key, its inputs for training and its inputs for the read-out."""

    key: jax.ShapeDtypeStruct
    train: tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]
    tests: tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]


def _shapes_of_run(inputs: training.Inputs) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """The shapes of the inputs of one run, hashable."""
    one = training.Inputs(inputs.shared, jax.tree.map(lambda leaf: leaf[0], inputs.per_run))
    leaves, structure = jax.tree.flatten(one)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


class _Programs(NamedTuple):
    train: runs.Program
    read_out: Any


def _programs(config: FitConfig, plan: Layout, shapes: _Shapes, validation_group: int, read: Any) -> _Programs:
    """The compiled programs of a configuration on these shapes; kept, if the critic's fields can be hashed."""
    try:
        return _compiled(config, plan, shapes, validation_group, read)
    except TypeError:
        return _compiled.__wrapped__(config, plan, shapes, validation_group, read)


@functools.lru_cache(maxsize=8)
def _compiled(config: FitConfig, plan: Layout, shapes: _Shapes, validation_group: int, read: Any) -> _Programs:
    train_inputs, test_inputs = (jax.tree.unflatten(*each) for each in (shapes.train, shapes.tests))
    trainer = make_trainer(config, validation_group)
    train = runs.compile_training(trainer, plan, steps=config.rounds, chunk=CHUNK, key=shapes.key, inputs=train_inputs)
    many = lambda leaf: jax.ShapeDtypeStruct((plan.num_seeds, *leaf.shape), leaf.dtype)  # noqa: E731
    placed = plan.placed_shapes(test_inputs._replace(per_run=jax.tree.map(many, test_inputs.per_run)))
    variables = {"params": train.states.best.params, **train.states.train.constants}
    split = jax.eval_shape(plan.split, variables)
    return _Programs(train, plan.compile(functools.partial(read, config), split, placed))


def make_trainer(config: FitConfig, validation_group: int) -> training.Trainer:
    """Training with early stopping, by the losses of groups of so many validation rows.

    All folds share the rows; each fold has the numbers of its own.
    """
    model, most = config.model(), MOST_VALIDATION_ROWS // validation_group * validation_group
    trained = _average_sub_batches(model, config.sub_batch)

    def make_fold(inputs: training.Inputs) -> training.Trainer:
        rows, pairs = inputs.shared, inputs.per_run.train

        def batch(key: PRNGKeyArray, step: Array) -> tuple[Array, Array]:
            del step
            count = len(pairs.x_rows) if pairs.count is None else pairs.count
            drawn = jax.random.randint(key, (config.batch_size,), 0, count)
            return Pairs(pairs.x_rows[drawn], pairs.y_rows[drawn]).select(rows)

        example = pairs.select(rows) if pairs.weights is None else (*pairs.select(rows), pairs.weights)
        return training.trainer(trained, batch, training.adam(config.learning_rate), example)

    def losses(state: training.TrainState, inputs: training.Inputs) -> Float[Array, " groups"]:
        valid = inputs.per_run.valid
        x, y = Pairs(valid.x_rows[:most], valid.y_rows[:most]).select(inputs.shared)
        # Not all groups at once, so that memory does not grow with their number.
        at_once = functools.partial(jax.lax.map, batch_size=max(1, evaluation.BLOCK_PAIRS // validation_group**2))
        return _group_losses(model, validation_group, state.variables, state.model_state, x, y, at_once)[0]

    def weights(inputs: training.Inputs) -> Float[Array, " groups"] | None:
        # With padding in it, a group would give a wrong loss.
        each = inputs.per_run.valid.weights
        return None if each is None else sub_batches.drop_remainder(each[:most], validation_group).min(axis=1)

    rounds = {"every": EVERY, "patience": config.patience}
    return training.early_stopping(training.from_inputs(make_fold), losses, **rounds, weights=weights)


def _validation_group(splits: Sequence[Split]) -> int:
    """The rows of a validation group, more than a training group has: a ratio that explodes on rare pairs must be seen.

    The smallest fold decides, so that it has as many groups as alone. Rows of one unit are not in one group.
    """
    fewest = min(len(split.valid) for split in splits)
    apart = min((split.apart for split in splits if split.apart is not None), default=VALIDATION_GROUP)
    return min(VALIDATION_GROUP, apart, max(2, fewest // VALIDATION_GROUPS))


def _average_sub_batches(model: Model, size: int) -> Model:
    """A model whose loss is the mean over sub-batches of `size` rows; rows beyond the last full one are left out."""

    def loss(variables: Variables, state: Any, x: Array, y: Array) -> Any:
        if len(x) < 2 * size:
            return model.loss(variables, state, x[:size], y[:size])
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), _group_losses(model, size, variables, state, x, y))

    return model._replace(loss=loss)


def _all_at_once(function: Callable[[Any], Any], cut: Any) -> Any:
    return jax.vmap(function)(cut)


def _group_losses(
    model: Model, size: int, variables: Variables, state: Any, x: Array, y: Array, mapped: Callable[..., Any] = _all_at_once
) -> Any:
    """The loss of each full group of `size` rows, and the state and read-outs beside it."""
    parts = tuple(sub_batches.drop_remainder(rows, size) for rows in (x, y))
    return mapped(lambda part: model.loss(variables, state, *part), parts)
