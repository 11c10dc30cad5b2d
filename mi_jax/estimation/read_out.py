"""What a fold reads out of its test rows."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mi_jax import _logspace, evaluation, training
from mi_jax.estimation.config import READ_OUTS, FitConfig
from mi_jax.models import Critic, Model, Variables

LEAST_TAU = 5.0
TAU_QUANTILE = 0.95

# read-out -> the other read-outs that mean something: DV leaves a constant free in the critic, InfoNCE a function of x.
OTHERS: dict[str, tuple[str, ...]] = {
    "smile": ("infonce", "dv", "nwj"),
    "nwj": ("infonce", "dv", "smile"),
    "dv": ("infonce",),
    "infonce": (),
}


class Rows(NamedTuple):
    """All rows of x and of y.

    Attributes:
      x: (n, d) rows.
      y: (n, k) rows.
      positions: (n,) `Units.positions` of the rows, the same in both; None if all rows are independent.
    """

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n k"]
    positions: Float[np.ndarray, " n"] | None = None


class Pairs(NamedTuple):
    """Joint pairs by number: x[x_rows[i]] stands with y[y_rows[i]].

    Attributes:
      x_rows, y_rows: (n,) numbers of rows.
      count: how many pairs there are, if the numbers after them are padding; None if there is none.
    """

    x_rows: Int[np.ndarray, " n"]
    y_rows: Int[np.ndarray, " n"]
    count: Any = None

    def select(self, rows: Rows) -> tuple[Array, Array]:
        """The rows of these pairs, out of all rows; those of padding are any."""
        return jnp.asarray(rows.x)[self.x_rows], jnp.asarray(rows.y)[self.y_rows]

    def positions(self, rows: Rows) -> Array | None:
        """The positions of the rows of x; None if all rows are independent."""
        return None if rows.positions is None else jnp.asarray(rows.positions)[self.x_rows]

    @property
    def weights(self) -> Float[Array, " n"] | None:
        """1 for a pair, and 0 for padding; None if there is none."""
        return None if self.count is None else (jnp.arange(len(self.x_rows)) < self.count).astype(jnp.float32)


def stack_pairs(pairs: Sequence[Pairs], size: int | None = None) -> Pairs:
    """Pairs of several runs with a leading axis of runs, padded to a size, or by default to the longest."""
    counts = np.array([len(one.x_rows) for one in pairs], np.int32)
    most = counts.max() if size is None else size
    pad = lambda rows: np.pad(rows, (0, most - len(rows)), mode="edge")  # noqa: E731
    x_rows, y_rows = (np.stack([pad(rows) for rows in side]) for side in zip(*(one[:2] for one in pairs), strict=True))
    return Pairs(x_rows, y_rows, None if size is None and (counts == most).all() else counts)


class ReadOutRows(NamedTuple):
    """The pairs that a fold is read out on, and where SMILE clips.

    Attributes:
      test: the test pairs.
      valid: the validation pairs, which set tau and DV's constant.
      train: as many training pairs as test pairs, for comparison.
      tau: where SMILE clips; NaN if the validation pairs decide.
    """

    test: Pairs
    valid: Pairs
    train: Pairs
    tau: Any


class PermutedRows(NamedTuple):
    """The pairs that a fold tests independence on.

    Attributes:
      test: the test pairs.
      orders: (m, tests) orders of their y, as indices among the test pairs; the first changes nothing.
    """

    test: Pairs
    orders: Int[np.ndarray, "m tests"]


class HeldOut(NamedTuple):
    """What one fold reads out of its test rows, for the estimate and for the diagnostics; NaN where it has no meaning.

    Attributes:
      value: the estimate, in nats.
      influence: (tests,) its influence function.
      weights: (tests,) 1 for a test pair, and 0 for padding.
      train: the same read-out of as many training rows.
      others: name -> other read-outs of the same scores, those that mean something.
      tau: where SMILE clips: as given, or the 95th percentile of T on the validation pairs, at least 5.
      clipped_joint, clipped_pairs: the shares of joint pairs above tau, and of negatives beyond ±tau.
      log_normaliser: log E_Q[r] of the ratio on the test rows. For SMILE the ratio is clipped; DV and MINE leave a constant
        free, so for them it is normalised on the validation rows.
      effective_pairs: how many of the pairs carry E_Q[r].
      pairs: how many pairs there are off the diagonal.
      group: how many pairs each row of x stands in, its joint pair included; InfoNCE's ceiling is the log of this.
    """

    value: Any
    influence: Any
    weights: Any
    train: Any
    others: Mapping[str, Any]
    tau: Any
    clipped_joint: Any
    clipped_pairs: Any
    log_normaliser: Any
    effective_pairs: Any
    pairs: Any
    group: Any


def read_out_fold(config: FitConfig, variables: Variables, inputs: training.Inputs) -> HeldOut:
    """Reads out one fold, given its variables; `inputs` are all rows, and the fold's `ReadOutRows`."""
    model = config.model()
    if model.critic is None:
        return _read_out_densities(model, variables, inputs)
    return _read_out_scores(config, model, model.critic, variables, inputs)


def sum_permuted(config: FitConfig, variables: Variables, inputs: training.Inputs) -> Float[Array, " m"]:
    """The sum of a fold's log ratios over its test pairs, for each order; `inputs` are all rows and `PermutedRows`.

    The ratio was fitted to other rows, and need not be normalised: what depends on x alone, or on y alone, adds the same to
    every order.
    """
    model, (rows, given) = config.model(), inputs
    x, y = given.test.select(rows)
    weights = jnp.ones(len(x)) if given.test.weights is None else given.test.weights

    def add(order: Int[Array, " tests"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(weights > 0, model.log_ratio(variables, x, y[order]), 0.0))

    return jax.lax.map(add, given.orders, batch_size=max(1, evaluation.BLOCK_PAIRS // len(x)))


def _read_out_scores(
    config: FitConfig, model: Model, critic: Critic, variables: Variables, inputs: training.Inputs
) -> HeldOut:
    rows, given = inputs
    # Whatever is not given is chosen on validation rows; the test rows are read once.
    highest = _quantile(model.log_ratio(variables, *given.valid.select(rows)), given.valid.weights)
    tau = jnp.where(jnp.isnan(given.tau), jnp.maximum(LEAST_TAU, highest), given.tau)
    encode, pair = functools.partial(critic.encode, variables), functools.partial(critic.pair, variables)
    log_ratios = lambda codes_x, codes_y: pair(codes_x, codes_y) - config.offset  # noqa: E731

    def sum_pairs(part: Pairs) -> evaluation.PairSums:
        options: dict[str, Any] = {"tau": tau, "max_pairs": config.max_pairs}
        options |= {"count": part.count, "positions": part.positions(rows)}
        return evaluation.pair_sums(log_ratios, *part.select(rows), encode=encode, **options)

    test, train = _map_alike(sum_pairs, given.test, given.train)
    valid = sum_pairs(given.valid)
    name = READ_OUTS[config.estimator]
    read_outs = evaluation.read_outs(test)
    value, influence = read_outs[name]
    free = evaluation.log_partition(valid) if name == "dv" else 0.0
    clipped = name == "smile"
    only_smile = lambda value: jnp.where(clipped, value, jnp.nan)  # noqa: E731
    log_normaliser = 0.0 if name == "infonce" else evaluation.log_partition(test, clipped=clipped) - free
    return HeldOut(
        value=value,
        influence=influence,
        weights=test.weights,
        train=evaluation.read_outs(train)[name].value,
        others={other: read_outs[other].value for other in OTHERS[name]},
        tau=only_smile(tau),
        clipped_joint=only_smile(test.mean(test.joint > tau)),
        clipped_pairs=only_smile(test.mean(test.clipped)),
        log_normaliser=jnp.asarray(log_normaliser, float),
        effective_pairs=evaluation.effective_pairs(test),
        pairs=test.num_rows * (test.group - 1),
        group=jnp.asarray(test.group, float),
    )


def _map_alike(function: Callable[[Pairs], evaluation.PairSums], *parts: Pairs) -> Sequence[evaluation.PairSums]:
    """The function of each part. If the parts have one shape, it is compiled once."""
    shapes = {(len(part.x_rows), part.count is None) for part in parts}
    if len(shapes) > 1:
        return [function(part) for part in parts]
    mapped = jax.lax.map(function, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))
    return [jax.tree.map(lambda leaf, number=number: leaf[number], mapped) for number in range(len(parts))]


def _quantile(values: Float[Array, " n"], weights: Float[Array, " n"] | None) -> Float[Array, ""]:
    """The quantile that SMILE's tau is, of the values that are no padding."""
    if weights is None:
        return jnp.quantile(values, TAU_QUANTILE)
    is_row = weights > 0
    quantile = jnp.nanquantile(jnp.where(is_row, values, jnp.nan), TAU_QUANTILE)
    return jnp.where(jnp.any(is_row & jnp.isnan(values)), jnp.nan, quantile)


def _read_out_densities(model: Model, variables: Variables, inputs: training.Inputs) -> HeldOut:
    rows, given = inputs
    values, on_training = (model.log_ratio(variables, *part.select(rows)) for part in (given.test, given.train))
    weights = jnp.ones(values.shape) if given.test.weights is None else given.test.weights
    value = _logspace.masked_mean(values, given.test.weights)
    normaliser = evaluation.normaliser(model, variables, *given.test.select(rows), count=given.test.count)
    undefined = jnp.full((), jnp.nan)
    return HeldOut(
        value=value,
        influence=jnp.where(weights > 0, values - value, 0.0),
        weights=weights,
        train=_logspace.masked_mean(on_training, given.train.weights),
        others={},
        tau=undefined,
        clipped_joint=undefined,
        clipped_pairs=undefined,
        log_normaliser=normaliser.log_mean,
        effective_pairs=normaliser.effective_pairs,
        pairs=jnp.sum(weights),
        group=undefined,
    )
