"""Cross-fitting: each seed trains on some rows of a data set, stops by others, and is read out on those it never saw.

Every five seeds test each row once. The seeds train side by side; recipes and shapes that were met before are not compiled
again.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mi_jax import estimators, evaluation, groups, models, training
from mi_jax.models import Model
from mi_jax.training import layout as layouts
from mi_jax.training import runs as training_runs
from mi_jax.training.layout import Layout

FOLDS = 5
VALIDATION_SHARE = 0.1
EVERY = 50  # steps between validations
CHUNK = 5  # validations between reports
VALIDATION_GROUP = 128  # of so many pairs; smaller if there would be less than
VALIDATION_GROUPS = 8
MOST_VALIDATION_GROUPS = 32  # more rows than these hold would make validation dearer than the training between
LEAST_TAU = 5.0
TAU_QUANTILE = 0.95

# estimator -> what is read out of its critic, in `evaluation.read_outs`; of a generative model, its log ratio.
READ_OUTS = {
    "smile": "smile",
    "js": "nwj",
    "infonce": "infonce",
    "cpc": "infonce",
    "dv": "dv",
    "mine": "dv",
    "nwj": "nwj",
    "tuba": "nwj",
    "gm": "log_ratio",
    "doe": "log_ratio",
}
# read-out -> the others that mean something: DV leaves a constant free in the critic, InfoNCE a function of x.
OTHERS: dict[str, tuple[str, ...]] = {
    "smile": ("infonce", "dv", "nwj"),
    "nwj": ("infonce", "dv", "smile"),
    "dv": ("infonce",),
    "infonce": (),
}


class Recipe(NamedTuple):
    """What shapes the programs of an estimate.

    Attributes:
      estimator: a name in `READ_OUTS`.
      critic: a module; None of a generative model.
      batch: joint pairs a step, drawn with replacement.
      group: the batch is cut into groups of so many pairs, within which all are scored against one another.
      rounds: at most so many rounds of `EVERY` steps.
      patience: rounds without a lower validation loss after which training stops.
      learning_rate: Adam's.
      pairs: how many pairs the read-out of a seed may score.
    """

    estimator: str
    critic: nn.Module | None
    batch: int
    group: int
    rounds: int
    patience: int
    learning_rate: float
    pairs: int

    def model(self) -> Model:
        """The model that is trained."""
        return models.make(self.estimator, **({} if self.critic is None else {"critic": self.critic}))

    @property
    def offset(self) -> float:
        """What the best scores have on top of the log ratio."""
        return 0.0 if self.critic is None else getattr(estimators, self.estimator)().offset


class Split(NamedTuple):
    """The rows of one seed, by number."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class HeldOut(NamedTuple):
    """What one seed reads out of its test rows, and what the diagnostics are made of; NaN where it has no meaning.

    Attributes:
      value: the estimate, in nats.
      influence: (tests,) its influence function.
      train: the same read-out of as many training rows.
      others: name -> those other read-outs of the same scores that mean something.
      tau: where SMILE clips: as given, or the 95th percentile of T on the validation pairs, at least 5.
      clipped_joint, clipped_pairs: the shares of joint pairs above tau, and of negatives beyond ±tau.
      log_normaliser: log E_Q[r] of the ratio on the test rows: of SMILE, of the clipped ratio; of DV and MINE, which leave a
        constant free, of the ratio normalised on the validation rows.
      effective_pairs: how many of the pairs carry E_Q[r].
      pairs: how many pairs there are off the diagonal.
      group: how many pairs each row of x stands in, its joint pair included: InfoNCE's ceiling is its log.
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


class Fitted(NamedTuple):
    """All seeds of one data set, on the host, each leaf with a leading axis of seeds.

    Attributes:
      held_out: `HeldOut`.
      params: the parameters at the validation optimum.
      history: name -> (seeds, rounds): "validation_loss" and the read-outs of the training batches; NaN after the stop.
      best_round: the round of the validation optimum, 0 for the start,
      last_round: and how many were made.
      diverged: whether the training diverged, after that optimum.
      start_loss: the validation loss before training.
    """

    held_out: HeldOut
    params: Any
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


def splits(num_rows: int, num_seeds: int, rng: np.random.Generator) -> list[Split]:
    """Each seed's rows: seeds 0 to 4 test the fifths of one permutation, 5 to 9 those of another, and so on."""
    tests, valids = num_rows // FOLDS, max(2, round(VALIDATION_SHARE * num_rows))
    found: list[Split] = []
    for seed in range(num_seeds):
        start = seed % FOLDS * tests
        if not start:
            order = rng.permutation(num_rows)
        rest = rng.permutation(np.delete(order, np.s_[start : start + tests]))
        found.append(Split(rest[valids:], rest[:valids], order[start : start + tests]))
    return found


def sizes(num_rows: int) -> tuple[int, int, int]:
    """How many rows are for training, validation and testing."""
    (split,) = splits(num_rows, 1, np.random.default_rng(0))
    return len(split.train), len(split.valid), len(split.test)


def fit(
    recipe: Recipe,
    rows: tuple[np.ndarray, np.ndarray],
    parts: Sequence[Split],
    keys: Array,
    *,
    orders: Sequence[np.ndarray] | None = None,
    tau: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[training.Report], None] | None = None,
) -> tuple[list[Fitted], Seconds]:
    """Train and read out every seed on every data set, side by side.

    Args:
      recipe: what to train, and how.
      rows: (x, y) float32 rows.
      parts: the rows of each seed, the same in all data sets.
      keys: (seeds,) typed keys, the same for all data sets.
      orders: one data set for each: y is taken in this order. By default one set, as the rows are paired.
      tau: where SMILE clips, instead of what the validation rows say.
      devices: by default all local ones.
      on_chunk: called between chunks of `CHUNK` validations.

    Returns:
      A `Fitted` for each data set, and the seconds that all took.
    """
    orders = [np.arange(len(rows[0]))] if orders is None else orders
    places = [(part, order) for order in orders for part in parts]
    run_keys = jnp.concatenate([keys] * len(orders))
    inputs = training.Inputs(rows, _stack([_train_rows(part, order) for part, order in places]))
    tests = training.Inputs(rows, _stack([_test_rows(part, order, tau) for part, order in places]))
    plan = layouts.layout(len(places), devices)
    start = time.perf_counter()
    programs = _programs(recipe, plan, _shapes(inputs), _shapes(tests))
    compiled = time.perf_counter()
    trained = training_runs.run(programs.train, run_keys, on_chunk, inputs=inputs)
    ready = time.perf_counter()
    params, best_round = layouts.to_host(training.select_parameters(trained.states))
    held_out = plan.join(programs.held_out(plan.place(params), plan.place_inputs(tests)))
    seconds = Seconds(compiled - start, ready - compiled, time.perf_counter() - ready)
    states = trained.states
    start_loss = states.start.losses.mean(axis=-1)
    whole = Fitted(held_out, params, trained.history, best_round, states.round, states.diverged, start_loss)
    each = [slice(first, first + len(parts)) for first in range(0, len(places), len(parts))]
    return [jax.tree.map(lambda leaf, part=part: leaf[part], whole) for part in each], seconds


class Pairs(NamedTuple):
    """Joint pairs by number: x[x_rows[i]] stands with y[y_rows[i]]."""

    x_rows: Int[np.ndarray, " n"]
    y_rows: Int[np.ndarray, " n"]

    def of(self, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        """Their rows, out of all."""
        return rows[0][self.x_rows], rows[1][self.y_rows]


class TrainRows(NamedTuple):
    """The pairs that a run trains on, and those that stop it."""

    train: Pairs
    valid: Pairs


class ReadOutRows(NamedTuple):
    """The pairs that a run is read out on, others to compare with, and where SMILE clips (NaN: by the validation pairs)."""

    test: Pairs
    valid: Pairs
    train: Pairs
    tau: Any


def _pairs(numbers: np.ndarray, order: np.ndarray) -> Pairs:
    return Pairs(numbers.astype(np.int32), order[numbers].astype(np.int32))


def _train_rows(part: Split, order: np.ndarray) -> TrainRows:
    return TrainRows(_pairs(part.train, order), _pairs(part.valid, order))


def _test_rows(part: Split, order: np.ndarray, tau: float | None) -> ReadOutRows:
    numbers = part.test, part.valid, part.train[: len(part.test)]
    test, valid, train = (_pairs(some, order) for some in numbers)
    return ReadOutRows(test, valid, train, np.float32(np.nan if tau is None else tau))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _shapes(inputs: training.Inputs) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """The shapes of the inputs of one run, hashable."""
    one = training.Inputs(inputs.shared, jax.tree.map(lambda leaf: leaf[0], inputs.per_run))
    leaves, structure = jax.tree.flatten(one)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


class _Programs(NamedTuple):
    train: training_runs.Program
    held_out: Any


def _programs(recipe: Recipe, plan: Layout, inputs: Any, tests: Any) -> _Programs:
    """The compiled programs of a recipe on these shapes; kept, if the critic's fields can be hashed."""
    try:
        return _compiled(recipe, plan, inputs, tests)
    except TypeError:
        return _compiled.__wrapped__(recipe, plan, inputs, tests)


@functools.lru_cache(maxsize=8)
def _compiled(recipe: Recipe, plan: Layout, inputs: Any, tests: Any) -> _Programs:
    train_inputs, test_inputs = (jax.tree.unflatten(*shapes) for shapes in (inputs, tests))
    trainer = _trainer(recipe)
    train = training_runs.compile_training(trainer, plan, steps=recipe.rounds, chunk=CHUNK, inputs=train_inputs)
    many = lambda leaf: jax.ShapeDtypeStruct((plan.num_seeds, *leaf.shape), leaf.dtype)  # noqa: E731
    placed = plan.placed_shapes(test_inputs._replace(per_run=jax.tree.map(many, test_inputs.per_run)))
    params = jax.eval_shape(plan.split, train.states.best.params)
    return _Programs(train, plan.compile(functools.partial(_held_out, recipe), params, placed))


def _trainer(recipe: Recipe) -> training.Trainer:
    """Training with early stopping. The data are shared by all runs; each run has the numbers of its rows."""
    model = recipe.model()
    trained = _grouped(model, recipe.group)

    def make_trainer(inputs: training.Inputs) -> training.Trainer:
        rows, pairs = inputs.shared, inputs.per_run.train

        def batch(key: PRNGKeyArray, step: Array) -> tuple[Array, Array]:
            del step
            drawn = jax.random.randint(key, (recipe.batch,), 0, len(pairs.x_rows))
            return Pairs(pairs.x_rows[drawn], pairs.y_rows[drawn]).of(rows)

        return training.trainer(trained, batch, training.adam(recipe.learning_rate), pairs.of(rows))

    def losses(state: training.TrainState, inputs: training.Inputs) -> Float[Array, " groups"]:
        valid = inputs.per_run.valid
        # More pairs than a training group has: a ratio that explodes on rare pairs must be seen.
        size = min(VALIDATION_GROUP, max(2, len(valid.x_rows) // VALIDATION_GROUPS))
        x, y = jax.tree.map(lambda numbers: numbers[: MOST_VALIDATION_GROUPS * size], valid).of(inputs.shared)
        # Not all groups at once, so that memory does not grow with their number.
        at_once = functools.partial(jax.lax.map, batch_size=max(1, evaluation.BLOCK_PAIRS // size**2))
        return _group_losses(model, size, state.params, state.model_state, x, y, at_once)[0]

    return training.early_stopping(training.from_inputs(make_trainer), losses, every=EVERY, patience=recipe.patience)


def _grouped(model: Model, size: int) -> Model:
    """A model whose loss is the mean over groups of `size` rows, without those beyond the last full group."""

    def loss(params: Any, state: Any, x: Array, y: Array) -> Any:
        if len(x) < 2 * size:
            return model.loss(params, state, x[:size], y[:size])
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), _group_losses(model, size, params, state, x, y))

    return model._replace(loss=loss)


def _all_at_once(function: Callable[[Any], Any], cut: Any) -> Any:
    return jax.vmap(function)(cut)


def _group_losses(
    model: Model, size: int, params: Any, state: Any, x: Array, y: Array, mapped: Callable[..., Any] = _all_at_once
) -> Any:
    """The loss of each full group of `size` rows, and what goes with it."""
    return mapped(lambda group: model.loss(params, state, *group), (groups.cut(x, size), groups.cut(y, size)))


def _held_out(recipe: Recipe, params: Any, inputs: training.Inputs) -> HeldOut:
    """One seed's read-out, from its parameters and its rows."""
    tests, model = inputs.per_run, recipe.model()
    rows = {name: getattr(tests, name).of(inputs.shared) for name in ("test", "valid", "train")} | {"tau": tests.tau}
    held_out = _densities if model.scores is None else _scores
    return held_out(recipe, model, params, rows)


def _scores(recipe: Recipe, model: Model, params: Any, rows: Any) -> HeldOut:
    assert model.encode is not None
    assert model.pair is not None
    # Chosen on validation rows, as everything is that is not given: the test rows are read once.
    highest = jnp.quantile(model.log_ratio(params, *rows["valid"]), TAU_QUANTILE)
    tau = jnp.where(jnp.isnan(rows["tau"]), jnp.maximum(LEAST_TAU, highest), rows["tau"])
    encode, pair = functools.partial(model.encode, params), functools.partial(model.pair, params)
    log_ratios = lambda codes_x, codes_y: pair(codes_x, codes_y) - recipe.offset  # noqa: E731
    sum_pairs = functools.partial(evaluation.pair_sums, log_ratios, encode=encode, tau=tau, pairs=recipe.pairs)
    test, valid, train = (sum_pairs(*rows[name]) for name in ("test", "valid", "train"))
    name = READ_OUTS[recipe.estimator]
    found = evaluation.read_outs(test)
    value, influence = found[name]
    free = evaluation.log_partition(valid) if name == "dv" else 0.0
    clipped = name == "smile"
    only_smile = lambda value: jnp.where(clipped, value, jnp.nan)  # noqa: E731
    log_normaliser = 0.0 if name == "infonce" else evaluation.log_partition(test, clipped=clipped) - free
    return HeldOut(
        value=value,
        influence=influence,
        train=evaluation.read_outs(train)[name].value,
        others={other: found[other].value for other in OTHERS[name]},
        tau=only_smile(tau),
        clipped_joint=only_smile(jnp.mean(test.joint > tau)),
        clipped_pairs=only_smile(jnp.mean(test.clipped)),
        log_normaliser=jnp.asarray(log_normaliser, float),
        effective_pairs=evaluation.effective_pairs(test),
        pairs=jnp.asarray(test.joint.size * (test.group - 1), float),
        group=jnp.asarray(test.group, float),
    )


def _densities(recipe: Recipe, model: Model, params: Any, rows: Any) -> HeldOut:
    del recipe
    values = model.log_ratio(params, *rows["test"])
    off = evaluation.normaliser(model, params, *rows["test"])
    nothing = jnp.full((), jnp.nan)
    return HeldOut(
        value=jnp.mean(values),
        influence=values - jnp.mean(values),
        train=jnp.mean(model.log_ratio(params, *rows["train"])),
        others={},
        tau=nothing,
        clipped_joint=nothing,
        clipped_pairs=nothing,
        log_normaliser=off.log_mean,
        effective_pairs=off.effective_pairs,
        pairs=jnp.asarray(values.size, float),
        group=nothing,
    )
