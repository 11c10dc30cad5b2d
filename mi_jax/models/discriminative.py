"""The discriminative model: a critic, and the estimator that trains and reads it."""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks, blocks, groups
from mi_jax.estimators import Estimator, Nats, Scores
from mi_jax.groups import Groups
from mi_jax.models.base import Critic, Model
from mi_jax.networks import critics

HELD_PAIRS = 2**24  # 64 MiB of scores


def discriminative(critic: nn.Module, estimator: Estimator, *, group: int | None = None, block: int | None = None) -> Model:
    """A critic trained and read out by an estimator.

    Formula: loss = -objective(T(x_i, y_j)); log ratio = T(x_i, y_i) - estimator.offset, in nats.

    The log ratio is known only as far as the objective can tell: NWJ, TUBA, JS and SMILE learn log r, DV and MINE log r up
    to a constant, InfoNCE up to a function of x, the interpolated bound something between InfoNCE and TUBA.
    `mi_jax.projections` normalises a batch of scores.

    Args:
      critic: a module with `__call__(x, y) -> (n, m)` scores (`mi_jax.networks`).
      estimator: what trains it and what is read out (`mi_jax.estimators`).
      group: cut each batch into groups of so many pairs, and score only those within a group (`mi_jax.Groups`): of n pairs
        n·group are scored, and not n². Rows beyond the last full group are left out; a smaller batch is one group. By
        default all pairs are scored, as one matrix.
      block: score so many rows of x at a time, against all of y, and again for the gradient, so that a critic's layers take
        memory by n·block and not n²: the same numbers, a forward pass more. The scores alone are held up to n = 4,096; of
        more rows they are made anew for the objective and for each read-out (`mi_jax.Blocks`).

    Returns:
      A `Model`.

    Raises:
      TypeError: if `critic` is no Flax module or `estimator` no `Estimator`: a name, a class, or a function not called.
      ValueError: if `group` is below 2, `block` below 1, or both are given;
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
    if group is not None and _checks.positive_int(group, "group") < 2:
        raise ValueError("group must be at least 2, so that there are negatives, got 1")
    if block is not None:
        _checks.positive_int(block, "block")
        if group is not None:
            raise ValueError("block and group must not both be given: groups are small already")

    def init(key: PRNGKeyArray, x: Array, y: Array) -> Any:
        return critic.init(key, x, y)

    def encode(params: Any, x: Array, y: Array) -> tuple[Any, Any]:
        return cast(tuple[Any, Any], critic.apply(params, x, y, method=critics.encode))

    def pair(params: Any, codes_x: Any, codes_y: Any) -> Float[Array, "n m"]:
        return cast(Array, critic.apply(params, codes_x, codes_y, method=critics.pair))

    scores = Critic(encode, pair).scores

    def batch_scores(params: Any, x: Array, y: Array) -> Scores:
        if block is not None and len(x) > block:
            cut = blocks.of(jax.tree_util.Partial(pair, params), *encode(params, x, y), block)
            return cut if len(x) ** 2 > HELD_PAIRS else cut.by_rows(lambda scores, _: scores)
        if group is None or len(x) < 2 * group:
            return scores(params, x[:group], y[:group])
        return Groups(jax.vmap(functools.partial(scores, params))(groups.cut(x, group), groups.cut(y, group)))

    def loss(params: Any, state: Any, x: Array, y: Array) -> tuple[Nats, tuple[Any, dict[str, Nats]]]:
        batch = batch_scores(params, x, y)
        value, state = estimator.objective(batch, state)
        # Behind the barrier the read-outs share no arithmetic with the objective. Shared, it was fused with the gradient's
        # on one device and not on two, and the last bits of the read-outs changed with the number of devices.
        apart = jax.lax.optimization_barrier(jax.lax.stop_gradient(batch))
        nats = {name: read(apart) for name, read in estimator.read_out.items()}
        return -value, (state, nats)

    def log_ratio(params: Any, x: Array, y: Array) -> Float[Array, " n"]:
        # One pair at a time under vmap: n rows go through the critic, instead of the n² pairs of a matrix.
        paired = jax.vmap(lambda xi, yi: scores(params, xi[None], yi[None])[0, 0])
        return paired(x, y) - estimator.offset

    return Model(init, lambda _: estimator.init(), loss, log_ratio, Critic(encode, pair))
