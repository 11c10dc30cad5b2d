"""The discriminative model: a critic, and the estimator that trains and reads it."""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks, lazy_scores, sub_batches
from mi_jax.estimators import Estimator, Nats, Scores
from mi_jax.models.base import Critic, Model, Variables
from mi_jax.networks import critics
from mi_jax.sub_batches import SubBatches

HELD_PAIRS = 2**24  # 64 MiB of scores


def discriminative(
    critic: nn.Module, estimator: Estimator, *, sub_batch: int | None = None, row_block: int | None = None
) -> Model:
    """A critic trained and read out by an estimator.

    Formula: loss = -objective(T(x_i, y_j)); log ratio = T(x_i, y_i) - estimator.offset, in nats.

    The log ratio is known only as far as the objective can tell: NWJ, TUBA, JS and SMILE learn log r, DV and MINE log r up
    to a constant, InfoNCE up to a function of x, the interpolated bound something between InfoNCE and TUBA.
    `mi_jax.projections` normalises a batch of scores.

    Args:
      critic: a module with `__call__(x, y) -> (n, m)` scores (`mi_jax.networks`).
      estimator: what trains it and what is read out (`mi_jax.estimators`).
      sub_batch: cut each batch into sub-batches of so many pairs, and score only the pairs within one
        (`mi_jax.SubBatches`): n·sub_batch pairs instead of n². Rows beyond the last full sub-batch are left out; a smaller
        batch is one sub-batch. By default all pairs are scored, as one matrix.
      row_block: score so many rows of x at a time, against all of y, and again for the gradient, so that a critic's layers
        take memory by n·row_block and not n²: the same numbers, for one forward pass more. Up to n = 4,096 the scores are
        held; those of more rows are made anew for the objective and for each read-out (`mi_jax.LazyScores`).

    Returns:
      A `Model`.

    Raises:
      TypeError: if `critic` is no Flax module or `estimator` no `Estimator`: a name, a class, or a function not called.
      ValueError: if `sub_batch` is below 2, `row_block` below 1, or both are given;
        at its first call, from the bounds, if the critic does not give a square floating matrix for n paired rows.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.smile(tau=1.0))
      >>> x, y = tasks.gaussian(dim=20, mi=2.0).sample(jax.random.key(0), 64)
      >>> params = model.init(jax.random.key(1), x, y)
      >>> loss, (state, nats) = jax.jit(model.loss)(params, model.init_state(jax.random.key(2)), x, y)
      >>> list(nats), model.log_ratio(params, x, y).shape
      (['smile'], (64,))

    Source: Song & Ermon (2020), Section 3.1.
    """
    _checks.instance(critic, nn.Module, "critic")
    _checks.instance(estimator, Estimator, "estimator")
    if sub_batch is not None and _checks.positive_int(sub_batch, "sub_batch") < 2:
        raise ValueError("sub_batch must be at least 2, so that there are negatives, got 1")
    if row_block is not None:
        _checks.positive_int(row_block, "row_block")
        if sub_batch is not None:
            raise ValueError("row_block and sub_batch must not both be given: sub-batches are small already")

    def init(key: PRNGKeyArray, x: Array, y: Array, weights: Array | None = None) -> Variables:
        variables = cast(Variables, critic.init(key, x, y))
        constants = sorted(set(variables) - {"params"})
        if weights is None or not constants:
            return variables
        if not hasattr(critic, "fit_constants"):
            text = f"critic must have a method fit_constants(x, y, weights), as it fits {', '.join(constants)} to its rows"
            raise ValueError(f"{text}, and some of those here are padding; {type(critic).__name__} has none")
        return {**variables, **critic.fit_constants(x, y, weights)}

    def encode(variables: Variables, x: Array, y: Array) -> tuple[Any, Any]:
        return cast(tuple[Any, Any], critic.apply(variables, x, y, method=critics.encode))

    def pair(variables: Variables, codes_x: Any, codes_y: Any) -> Float[Array, "n m"]:
        return cast(Array, critic.apply(variables, codes_x, codes_y, method=critics.pair))

    scores = Critic(encode, pair).scores

    def batch_scores(variables: Variables, x: Array, y: Array) -> Scores:
        if row_block is not None and len(x) > row_block:
            lazy = lazy_scores.make(jax.tree_util.Partial(pair, variables), *encode(variables, x, y), row_block)
            return lazy if len(x) ** 2 > HELD_PAIRS else lazy.by_rows(lambda scores, _: scores)
        if sub_batch is None or len(x) < 2 * sub_batch:
            return scores(variables, x[:sub_batch], y[:sub_batch])
        parts = (sub_batches.drop_remainder(rows, sub_batch) for rows in (x, y))
        return SubBatches(jax.vmap(functools.partial(scores, variables))(*parts))

    def loss(variables: Variables, state: Any, x: Array, y: Array) -> tuple[Nats, tuple[Any, dict[str, Nats]]]:
        batch = batch_scores(variables, x, y)
        value, state = estimator.objective(batch, state)
        # Behind the barrier the read-outs share no arithmetic with the objective. Without it, XLA fused shared arithmetic
        # with the gradient's on one device and not on two, and the last bits of the read-outs changed.
        apart = jax.lax.optimization_barrier(jax.lax.stop_gradient(batch))
        nats = {name: read(apart) for name, read in estimator.read_out.items()}
        return -value, (state, nats)

    def log_ratio(variables: Variables, x: Array, y: Array) -> Float[Array, " n"]:
        # One pair at a time under vmap: n rows go through the critic, instead of the n² pairs of a matrix.
        paired = jax.vmap(lambda xi, yi: scores(variables, xi[None], yi[None])[0, 0])
        return paired(x, y) - estimator.offset

    return Model(init, lambda _: estimator.init(), loss, log_ratio, Critic(encode, pair))
