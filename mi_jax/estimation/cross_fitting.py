"""Cross-fitting: each fold trains on some rows, stops when others say so, and is read out on rows that it never saw.

The folds train side by side. Configurations and shapes that were met before are not compiled again.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mi_jax import _logspace, _threads, networks, training
from mi_jax.estimation import fold_trainer, ladder, residual, stacking
from mi_jax.estimation.config import FitConfig, critic_name
from mi_jax.estimation.fold_trainer import TrainRows
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
from mi_jax.models import Variables
from mi_jax.networks.stacked import stack_variables
from mi_jax.training import layout, runs
from mi_jax.training.layout import Layout

CHUNK = 5  # validations between reports
_NOTHING: dict[str, Any] = dict.fromkeys(HeldOut._fields)
_NOT_READ_OUT = HeldOut(**_NOTHING)

_Shapes: TypeAlias = tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]  # of a tree, hashable
_NO_VARIABLES: _Shapes = (jax.tree.structure({}), ())


class Fitted(NamedTuple):
    """All folds of one data set, on the host, each leaf with a leading axis of folds.

    Attributes:
      held_out: `HeldOut`; of None before the read-out.
      variables: the parameters at the validation optimum, with the constants.
      history: name -> (folds, rounds): "validation_loss" and the read-outs of the training batches; NaN after the stop.
      best_round: the round of the validation optimum; 0 is the start.
      last_round: how many rounds were made.
      diverged: whether the training diverged, after that optimum.
      start_loss: the validation loss before training.
      lowest_loss: the lowest one after that.
      weights: those of the candidates, where several were stacked. Rounds and losses are then those of the heaviest.
    """

    held_out: HeldOut
    variables: Variables
    history: Mapping[str, np.ndarray]
    best_round: np.ndarray
    last_round: np.ndarray
    diverged: np.ndarray
    start_loss: np.ndarray
    lowest_loss: np.ndarray
    weights: Float[np.ndarray, "folds k"]


class Seconds(NamedTuple):
    """Where the time went."""

    compile: float
    train: float
    read_out: float

    def plus(self, other: "Seconds") -> "Seconds":
        """Both together."""
        return Seconds(*(one + more for one, more in zip(self, other, strict=True)))


def choose_config(
    config: FitConfig,
    rows: Rows,
    splits: Sequence[Split],
    *,
    order: Int[np.ndarray, " n"] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[FitConfig, Seconds]:
    """The configuration in closed form, if it leaves nothing to learn in the folds, and otherwise the one that trains.

    Each fold is judged without its test rows, and all of them make one choice.

    Args:
      config: with a `closed_form`, or without one: then there is no choice.
      rows: float32 rows.
      splits: the rows of each fold.
      order: y is taken in this order; by default as the rows are paired.
      devices: by default all local ones.

    Returns:
      A configuration without a choice, and the seconds it took.
    """
    closed_form, config = config.closed_form, config._replace(closed_form=None)
    fewest, columns = min(len(split.train) + len(split.valid) for split in splits), max(rows.x.shape[1], rows.y.shape[1])
    independent = rows.positions is None  # otherwise the z-scores would be too large
    if closed_form is None or not (independent and residual.has_enough_rows(fewest, columns)):
        return config, Seconds(0.0, 0.0, 0.0)
    order = np.arange(len(rows.x)) if order is None else order
    plan = layout.layout(len(splits), devices)
    number = _number_to_pad(closed_form, rows)
    inputs = training.Inputs(_pad(rows, number), _stack_rows([_train_rows(split, order) for split in splits], number))
    start = time.perf_counter()
    program = _kept(_compile_reading, closed_form, plan, _init, _NO_VARIABLES, _shapes_of_run(inputs))
    compiled = time.perf_counter()
    fits = plan.join(program({}, plan.place_inputs(inputs)))["gaussian"]["fit"]

    def score(fold: int, split: Split) -> float:
        seen = np.concatenate([split.valid, split.train])[: residual.MOST_ROWS]
        return residual.score_gaussian(jax.tree.map(lambda leaf: leaf[fold], fits), rows.x[seen], rows.y[order[seen]])

    z_scores = _threads.run_beside([functools.partial(score, *each) for each in enumerate(splits)])
    return closed_form if residual.leaves_nothing(z_scores) else config, Seconds(
        compiled - start, time.perf_counter() - compiled, 0.0
    )


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
    runs_of = [(split, order) for order in orders for split in splits]
    tests = [_read_out_rows(split, order, tau) for split, order in runs_of]
    keys = jnp.concatenate([keys] * len(orders))
    trained, _, read, seconds = _train(config, rows, runs_of, tests, keys, devices, on_chunk)
    start = time.perf_counter()
    held_out = read(trained.variables)
    whole = trained._replace(held_out=held_out)
    each = [slice(first, first + len(splits)) for first in range(0, len(runs_of), len(splits))]
    fitted = [jax.tree.map(lambda leaf, folds=folds: leaf[folds], whole) for folds in each]
    return fitted, seconds._replace(read_out=seconds.read_out + time.perf_counter() - start)


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
      config: what to train, and how. If it has candidates, the first alone is trained, as the test is valid with any critic.
      rows: float32 rows.
      splits: the rows of each fold.
      keys: (folds,) typed keys.
      orders: orders of y, for each fold: indices among its test rows.
      devices: by default all local ones.
      on_chunk: called between chunks of `CHUNK` validations.

    Returns:
      The sums, NaN for a fold that diverged, and the seconds that all took. If the parameters at the validation optimum
      score all pairs alike, the last parameters are taken instead.
    """
    unchanged = np.arange(len(rows.x))
    config = config.candidates[0] if config.candidates else config
    sizes = [each.shape[1] for each in orders]
    number = _number_to_pad(config, rows)
    most = max(sizes) if number is None else ladder.rung_of_part(sizes, number)
    tests = [
        # Padding stays where it is.
        PermutedRows(
            _number_pairs(split.test, unchanged),
            np.hstack([each, np.tile(np.arange(each.shape[1], most), (len(each), 1))]).astype(np.int32),
        )
        for split, each in zip(splits, orders, strict=True)
    ]
    runs_of = [(split, unchanged) for split in splits]
    trained, last, read, seconds = _train(config, rows, runs_of, tests, keys, devices, on_chunk, sum_permuted)
    start = time.perf_counter()
    sums = read(trained.variables)
    nothing = (sums == sums[:, :1]).all(axis=1)
    if nothing.any():
        sums = np.where(nothing[:, None], read(last), sums)
    sums = np.where(trained.diverged[:, None], np.nan, sums)
    return sums, seconds._replace(read_out=seconds.read_out + time.perf_counter() - start)


def _train(
    config: FitConfig,
    rows: Rows,
    runs_of: Sequence[tuple[Split, np.ndarray]],
    tests: Sequence[Any],
    keys: Array,
    devices: Sequence[jax.Device] | None,
    on_chunk: Callable[[training.Report], None] | None,
    read: Callable[[FitConfig, Variables, training.Inputs], Any] = read_out_fold,
) -> tuple[Fitted, Variables, Callable[[Variables], Any], Seconds]:
    """Trains each split of each order, and stacks the candidates if there are any.

    Returns:
      The folds; the last variables of the first candidate; what reads out variables of all folds, by the function `read` of
      the configuration, the variables and `tests`; and the seconds.
    """
    number = _number_to_pad(config, rows)
    padded = _pad(rows, number)
    inputs = training.Inputs(padded, _stack_rows([_train_rows(split, order) for split, order in runs_of], number))
    test_inputs = training.Inputs(padded, _stack_rows(tests, number))
    plan, splits = layout.layout(len(runs_of), devices), [split for split, _ in runs_of]
    start = time.perf_counter()
    key, shapes, test_shapes = jax.ShapeDtypeStruct((), keys.dtype), _shapes_of_run(inputs), _shapes_of_run(test_inputs)
    candidates = config.candidates or (config,)
    group = fold_trainer.validation_group(splits, number)
    programs = [
        _kept(_compile_training, one, plan, key, shapes, group)
        if one.rounds
        else _kept(_compile_reading, one, plan, _init, _NO_VARIABLES, shapes)
        for one in candidates
    ]
    structure = _shapes_of_variables(config, plan, shapes)
    reader = _kept(_compile_reading, config, plan, read, structure, test_shapes)
    readers = [reader]
    if config.candidates:
        scorer = stacking.Scorer(fold_trainer.stacking_group(splits))
        readers.append(_kept(_compile_reading, config, plan, scorer, structure, shapes))
    for program in [*programs, *readers]:
        program.wait()
    compiled = time.perf_counter()
    run_program = lambda program, variables, given: plan.join(program(plan.place(variables), plan.place_inputs(given)))  # noqa: E731
    trained, lasts, to_train = [], [], [number for number, one in enumerate(candidates) if one.rounds]
    for number, (one, program) in enumerate(zip(candidates, programs, strict=True)):
        if not one.rounds:
            lasts.append(run_program(program, {}, inputs))
            trained.append(_leave_untrained(one, lasts[-1], len(runs_of), prefix=bool(number)))
            continue
        drawn = jax.vmap(functools.partial(jax.random.fold_in, data=number))(keys) if number else keys
        fit = runs.run(program, drawn, _count_on(on_chunk, to_train.index(number), len(to_train)), inputs=inputs)
        lasts.append(fit.states.train.variables)
        trained.append(_select(one, fit, prefix=bool(number)))
    whole = trained[0]
    seconds = Seconds(compiled - start, time.perf_counter() - compiled, 0.0)
    if config.candidates:
        equal = np.full((len(runs_of), len(candidates)), np.float32(1 / len(candidates)))
        together = stack_variables([one.variables for one in trained], equal, np.zeros(len(runs_of), np.float32))
        whole = _stack(trained, together, *run_program(readers[1], together, inputs))
        seconds = seconds._replace(read_out=time.perf_counter() - start - seconds.compile - seconds.train)
    return whole, lasts[0], lambda variables: run_program(reader, variables, test_inputs), seconds


def _count_on(
    on_chunk: Callable[[training.Report], None] | None, number: int, of: int
) -> Callable[[training.Report], None] | None:
    """Reports of one candidate as those of all."""
    if on_chunk is None:
        return None
    return lambda report: on_chunk(report._replace(done=report.done + number * report.steps, steps=of * report.steps))


def _select(config: FitConfig, fit: training.Fit, *, prefix: bool) -> Fitted:
    """The parameters to use, and how they came about; `prefix` puts the critic's name before those of the history."""
    states = fit.states
    params, best_round = layout.to_host(training.select_parameters(states))
    start_loss = np.asarray(_logspace.masked_mean(states.start.losses, states.weights))
    with np.errstate(invalid="ignore"):
        lowest_loss = np.fmin.reduce(fit.history["validation_loss"], axis=1)
    name = _name_losses(config, prefix).removesuffix("validation_loss")
    return Fitted(
        held_out=_NOT_READ_OUT,
        variables={"params": params, **states.train.constants},
        history={name + key: values for key, values in fit.history.items()},
        best_round=np.asarray(best_round),
        last_round=np.asarray(states.round),
        diverged=np.asarray(states.diverged),
        start_loss=start_loss,
        lowest_loss=lowest_loss,
        weights=np.ones((len(start_loss), 1)),
    )


def _name_losses(config: FitConfig, prefix: bool) -> str:
    return f"{critic_name(config.critic)}_validation_loss" if prefix else "validation_loss"


def _init(config: FitConfig, variables: Variables, inputs: training.Inputs) -> Variables:
    """The variables that a fold starts from, fitted to its training rows. What is drawn is always the same."""
    del variables
    train = inputs.per_run.train
    return config.model().init(jax.random.key(0), *train.select(inputs.shared), train.weights)


def _leave_untrained(config: FitConfig, variables: Variables, number: int, *, prefix: bool) -> Fitted:
    """So many folds that stay where they started; for `prefix` see `_select`."""
    zero, unknown = np.zeros(number, np.int32), np.full(number, np.nan)
    history = {_name_losses(config, prefix): np.zeros((number, 0))}
    never = np.zeros(number, bool)
    return Fitted(_NOT_READ_OUT, variables, history, zero, zero, never, unknown, unknown, np.ones((number, 1)))


def _stack(candidates: Sequence[Fitted], together: Variables, scores: np.ndarray, counts: np.ndarray) -> Fitted:
    """Weighs the candidates of each fold. Rounds, losses and divergence are those of the candidate of most weight."""
    diverged = np.stack([one.diverged for one in candidates], axis=1)
    scores = np.where(diverged[:, :, None, None, None], np.nan, scores)
    weighed = [stacking.weigh(*fold) for fold in zip(scores, counts > 0, strict=True)]
    weights = np.stack([one.weights for one in weighed])
    heaviest = weights.argmax(axis=1), np.arange(len(weights))
    of_heaviest = lambda name: np.stack([getattr(one, name) for one in candidates])[heaviest]  # noqa: E731
    constants = np.array([one.constant for one in weighed], np.float32)
    params = {**together["params"], "weights": weights.astype(np.float32), "constant": constants}
    return Fitted(
        held_out=_NOT_READ_OUT,
        variables={**together, "params": params},
        history={name: values for one in candidates for name, values in one.history.items()},
        **{name: of_heaviest(name) for name in ("best_round", "last_round", "diverged", "start_loss", "lowest_loss")},
        weights=weights,
    )


def _number_pairs(numbers: np.ndarray, order: np.ndarray) -> Pairs:
    return Pairs(numbers.astype(np.int32), order[numbers].astype(np.int32))


def _train_rows(split: Split, order: np.ndarray) -> TrainRows:
    return TrainRows(_number_pairs(split.train, order), _number_pairs(split.valid, order))


def _read_out_rows(split: Split, order: np.ndarray, tau: float | None) -> ReadOutRows:
    parts = split.test, split.valid, split.train[: len(split.test)]
    test, valid, train = (_number_pairs(part, order) for part in parts)
    return ReadOutRows(test, valid, train, np.float32(np.nan if tau is None else tau))


def _number_to_pad(config: FitConfig, rows: Rows) -> int | None:
    """The number of rows, if they may be padded to a rung of the ladder; None for a critic that takes no padding."""
    shapes = [jax.ShapeDtypeStruct((2, side.shape[1]), side.dtype) for side in (rows.x, rows.y)]

    def takes_padding(one: FitConfig) -> bool:
        critic, ours = one.critic, getattr(networks, type(one.critic).__name__, None)
        # A user's critic may start from the rows that it is given, and would start from padding, too.
        if critic is not None and type(critic) is not ours and not hasattr(critic, "fit_constants"):
            return False
        try:
            jax.eval_shape(one.model().init, jax.random.key(0), *shapes, jax.ShapeDtypeStruct((2,), np.float32))
        except ValueError:  # it fits constants, and takes no weights
            return False
        return True

    return len(rows.x) if all(map(takes_padding, config.candidates or (config,))) else None


def _pad(rows: Rows, number: int | None) -> Rows:
    """The rows with zeros after them, up to the rung of their number."""
    if number is None:
        return rows
    more = ladder.rung(number) - number
    return jax.tree.map(lambda side: np.pad(side, [(0, more), *[(0, 0)] * (side.ndim - 1)]), rows)


def _stack_rows(runs_rows: Sequence[Any], number: int | None) -> Any:
    """The rows of all runs with a leading axis of runs, padded to the rung of `number` rows, or else to the longest."""

    def stack(*each: Any) -> Any:
        if not isinstance(each[0], Pairs):
            return np.stack(each)
        sizes = [len(one.x_rows) for one in each]
        return stack_pairs(each, None if number is None else ladder.rung_of_part(sizes, number))

    return jax.tree.map(stack, *runs_rows, is_leaf=lambda node: isinstance(node, Pairs))


def _shapes_of_run(inputs: training.Inputs) -> _Shapes:
    """The shapes of the inputs of one run, hashable."""
    return _hashable(training.Inputs(inputs.shared, jax.tree.map(lambda leaf: leaf[0], inputs.per_run)))


def _hashable(tree: Any) -> _Shapes:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


def _shapes_of_variables(config: FitConfig, plan: Layout, shapes: _Shapes) -> _Shapes:
    """The shapes of the variables of all folds that are read out."""
    inputs, count = jax.tree.unflatten(*shapes), plan.num_seeds
    many = lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)  # noqa: E731
    parts = [
        jax.tree.map(many, jax.eval_shape(functools.partial(_init, one, {}), inputs))
        for one in config.candidates or (config,)
    ]
    if not config.candidates:
        return _hashable(parts[0])
    weights, constant = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((count, len(parts)), (count,)))
    return _hashable(stack_variables(parts, weights, constant))


def _kept(compile_: Any, *arguments: Any) -> Any:
    """What was compiled; kept, if the critic's fields can be hashed."""
    try:
        return compile_(*arguments)
    except TypeError:
        return compile_.__wrapped__(*arguments)


@functools.lru_cache(maxsize=16)
def _compile_training(config: FitConfig, plan: Layout, key: Any, shapes: _Shapes, group: int) -> runs.Program:
    trainer, inputs = fold_trainer.make_trainer(config, group), jax.tree.unflatten(*shapes)
    return runs.compile_training(trainer, plan, steps=config.rounds, chunk=CHUNK, key=key, inputs=inputs, wait=False)


@functools.lru_cache(maxsize=16)
def _compile_reading(config: FitConfig, plan: Layout, read: Any, variables: _Shapes, shapes: _Shapes) -> Any:
    """`read`, of a configuration, the variables of a fold and its inputs, over all folds."""
    inputs = jax.tree.unflatten(*shapes)
    many = lambda leaf: jax.ShapeDtypeStruct((plan.num_seeds, *leaf.shape), leaf.dtype)  # noqa: E731
    placed = plan.placed_shapes(inputs._replace(per_run=jax.tree.map(many, inputs.per_run)))
    split = jax.eval_shape(plan.split, jax.tree.unflatten(*variables))
    return plan.compile(functools.partial(read, config), split, placed)
