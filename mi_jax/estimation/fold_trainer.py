"""How one fold is trained: on batches of its training rows, until its validation rows say that it is enough."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import evaluation, sub_batches, training
from mi_jax.estimation import ladder
from mi_jax.estimation.config import EVERY, FitConfig
from mi_jax.estimation.read_out import Pairs
from mi_jax.estimation.splits import Split
from mi_jax.models import Model, Variables

VALIDATION_GROUP = 128  # pairs in a validation group; fewer if there would be less than
VALIDATION_GROUPS = 8
MOST_VALIDATION_ROWS = 32 * VALIDATION_GROUP  # more would make validation dearer than the training between


class TrainRows(NamedTuple):
    """The pairs that a fold trains on, and those that decide when it stops."""

    train: Pairs
    valid: Pairs


def make_trainer(config: FitConfig, group: int) -> training.Trainer:
    """Training with early stopping, by the losses of groups of so many validation rows.

    All folds share the rows; each fold has the numbers of its own.
    """
    model, most = config.model(), MOST_VALIDATION_ROWS // group * group
    trained = _average_sub_batches(model, config.sub_batch)

    def make_fold(inputs: training.Inputs) -> training.Trainer:
        rows, pairs = inputs.shared, inputs.per_run.train

        def batch(key: PRNGKeyArray, step: Array) -> tuple[Array, Array]:
            del step
            count = len(pairs.x_rows) if pairs.count is None else pairs.count
            drawn = jax.random.randint(key, (config.batch_size,), 0, count)
            x, y = Pairs(pairs.x_rows[drawn], pairs.y_rows[drawn]).select(rows)
            if not config.noise:
                return x, y
            noise = jax.random.normal(jax.random.fold_in(key, 1), (len(x), x.shape[1] + y.shape[1]), x.dtype)
            return x + config.noise * noise[:, : x.shape[1]], y + config.noise * noise[:, x.shape[1] :]

        example = pairs.select(rows) if pairs.weights is None else (*pairs.select(rows), pairs.weights)
        return training.trainer(trained, batch, _optimizer(config), example)

    def losses(state: training.TrainState, inputs: training.Inputs) -> Float[Array, " groups"]:
        valid = inputs.per_run.valid
        x, y = Pairs(valid.x_rows[:most], valid.y_rows[:most]).select(inputs.shared)
        # Not all groups at once, so that memory does not grow with their number.
        at_once = functools.partial(jax.lax.map, batch_size=max(1, evaluation.BLOCK_PAIRS // group**2))
        return _group_losses(model, group, state.variables, state.model_state, x, y, at_once)[0]

    def weights(inputs: training.Inputs) -> Float[Array, " groups"] | None:
        # With padding in it, a group would give a wrong loss.
        each = inputs.per_run.valid.weights
        return None if each is None else sub_batches.drop_remainder(each[:most], group).min(axis=1)

    rounds = {"every": EVERY, "patience": config.patience}
    return training.early_stopping(training.from_inputs(make_fold), losses, **rounds, weights=weights)


def _optimizer(config: FitConfig) -> optax.GradientTransformation:
    if not config.weight_decay:
        return training.adam(config.learning_rate)
    return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


def validation_group(splits: Sequence[Split], number: int | None = None) -> int:
    """The rows of a validation group, more than a training group has: a ratio that explodes on rare pairs must be seen.

    The smallest fold decides, so that it has as many groups as alone. Rows of one unit are not in one group.

    Args:
      splits: the rows of each fold.
      number: of all rows, if they are padded to a rung of the ladder; data of the same rung then have the same groups.
    """
    fewest = min(len(split.valid) for split in splits)
    apart = min((split.apart for split in splits if split.apart is not None), default=VALIDATION_GROUP)
    groups = max(2, fewest // VALIDATION_GROUPS)
    if number is not None:
        of_rung = max(2, fewest * ladder.rung(number) // number // VALIDATION_GROUPS)
        groups = min(ladder.power_below(of_rung), fewest)
    return min(VALIDATION_GROUP, apart, groups)


def stacking_group(splits: Sequence[Split]) -> int:
    """The rows of the groups of validation rows by which candidates are weighed: large, as all pairs in them count."""
    fewest = min(len(split.valid) for split in splits)
    apart = min((split.apart for split in splits if split.apart is not None), default=VALIDATION_GROUP)
    return min(VALIDATION_GROUP, apart, fewest)


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
