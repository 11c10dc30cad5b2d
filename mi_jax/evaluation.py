"""A trained model on data it has not seen: block by block, so that memory does not grow with the square of the rows."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mi_jax import _checks, _logspace, lazy_scores, sub_batches
from mi_jax.models import Model

BLOCK_PAIRS = 2**16  # pairs scored at once: with 64 hidden units 16 MB


class Normaliser(NamedTuple):
    """How far a fitted ratio is from a valid one.

    Attributes:
      log_mean: log E_{Q_n}[r], in nats; 0 for a valid density ratio.
      effective_pairs: (Σ r)² / Σ r², how many of the pairs carry the mean. Where it is a handful, `log_mean` says nothing:
        most of E_Q[r] lies in pairs so rare that none was seen, and the mean is then too low, for a valid ratio too. Many do
        not prove that all of E_Q[r] was seen; a negative `log_mean` alone does not prove that the ratio is wrong.
    """

    log_mean: Float[Array, ""]
    effective_pairs: Float[Array, ""]


def normaliser(
    model: Model,
    params: Any,
    x: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    *,
    count: int | Int[Array, ""] | None = None,
) -> Normaliser:
    """The normaliser check, for any model: the mean of its ratio over product-of-marginals pairs, which ought to be 1.

    Formula: log (1/n) Σ_i r(x_i, y_{i+1}), the last x with the first y: n pairs from Q, and n evaluations.

    Barber–Agakov ratios are always valid; those of I_GM and of NWJ, TUBA, JS and SMILE critics are valid at the optimum
    only. This is the ratio as the model gives it, before any projection (`mi_jax.projections`); DV, MINE and InfoNCE
    leave a constant or a function of x free in theirs, so that it is valid after projection only.

    Args:
      model: any model.
      params: its parameters.
      x: (n, *x_shape) rows that the parameters were not fitted to, in random order.
      y: (n, *y_shape) their partners.
      count: how many rows there are, at least 2, if those after them are padding; it may be traced. By default all.

    Returns:
      A `Normaliser`.

    Raises:
      TypeError: if `model` is no `Model`.
      ValueError: if there are not at least 2 rows, as many of y as of x.

    Example:
      >>> import jax
      >>> from mi_jax import evaluation, models, networks, tasks
      >>> normal = lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1)
      >>> model = models.ba(normal, networks.ConditionalGaussian(hidden=(16,)))
      >>> x, y = tasks.gaussian(dim=2, mi=1.0).sample(jax.random.key(0), 1_000)
      >>> params = jax.jit(model.init)(jax.random.key(1), x, y)
      >>> print(f"{evaluation.normaliser(model, params, x, y).log_mean:.4f}")
      0.0000

    Source: Song & Ermon (2020), Section 3.1, Eq. 7 and Table 1.
    """
    _checks.instance(model, Model, "model")
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y must hold the same number of rows, at least 2, got {len(x)} and {len(y)}")
    count = len(x) if count is None else count
    numbers = jnp.arange(len(x))
    partners = jnp.asarray(y)[jnp.where(numbers == count - 1, 0, numbers + 1)]
    log_ratio = _checks.floating(model.log_ratio(params, x, partners), "log_ratio")
    log_ratio = jnp.where(numbers < count, log_ratio, -jnp.inf)
    log_sum = jax.nn.logsumexp(log_ratio)
    return Normaliser(log_sum - jnp.log(count), jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_ratio)))


class PairSums(NamedTuple):
    """Sums over the pairs of a held-out set, from which its read-outs are made; one number for each row.

    The rows stand in groups of m, within which all pairs are scored; negatives are the other m - 1 rows of the group.

    Attributes:
      joint: (n,) scores T(x_i, y_i) of the joint pairs.
      rows: (n,) log mean e^T(x_i, y_j) over the negatives y_j of x_i.
      columns: (n,) log mean e^T(x_j, y_i) over the negatives x_j of y_i; where rows have different numbers of negatives,
        with the weights that these have in the mean over rows.
      clipped_rows, clipped_columns: the same for scores clipped to [-tau, tau].
      squared: (n,) log mean e^{2 T(x_i, y_j)}.
      shares: (n,) Σ_j, over the negatives x_j of y_i, of the share of e^T(x_j, y_i) in row j, its joint pair included.
      clipped: (n,) the share of the negatives of x_i whose score is clipped.
      weights: (n,) 1 for each row, and 0 for padding, of which no other field says anything.
      group: m, the padding not counted.
    """

    joint: Float[Array, " n"]
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]
    clipped_rows: Float[Array, " n"]
    clipped_columns: Float[Array, " n"]
    squared: Float[Array, " n"]
    shares: Float[Array, " n"]
    clipped: Float[Array, " n"]
    weights: Float[Array, " n"]
    group: int | Int[Array, ""]

    @property
    def num_rows(self) -> Float[Array, ""]:
        """How many rows there are."""
        return jnp.sum(self.weights)

    def mean(self, values: Float[Array, " n"]) -> Float[Array, ""]:
        """The mean over the rows."""
        return _logspace.masked_mean(values, self.weights)


def group_size(num_rows: int, max_pairs: int) -> int:
    """The size of groups with at most `max_pairs` pairs in all that leaves out the fewest rows; at least 2.

    It is the largest size allowed, or the size that gives one group more. For example, 2,500 rows in groups of at most 1,677
    make two groups of 1,250, so that no row is left out.
    """
    largest = min(num_rows, max(2, max_pairs // num_rows))
    smaller = max(2, num_rows // -(-num_rows // largest))
    return max(largest, smaller, key=lambda size: num_rows // size * size)


def pair_sums(
    scores: Callable[[Any, Any], Float[Array, "n m"]],
    x: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    *,
    encode: Callable[[Array, Array], tuple[Any, Any]] = lambda x, y: (x, y),
    tau: float | Float[Array, ""] = jnp.inf,
    max_pairs: int = 2**22,
    count: int | Int[Array, ""] | None = None,
    positions: Float[Array, " n"] | None = None,
) -> PairSums:
    """Scores rows against one another, block by block, in groups small enough to keep the pairs within a budget.

    With n² ≤ `max_pairs` all pairs are scored. With more rows, each row's negatives are the others of its group of about
    m = `max_pairs` / n rows. Rows beyond the last full group are left out.

    Args:
      scores: `(x, y) -> (n, m)` scores, of any numbers of rows.
      x: (n, *x_shape) rows, in random order.
      y: (n, *y_shape) their partners.
      encode: `(x, y) -> (codes_x, codes_y)`, which `scores` then takes in place of rows: the work that is done once a row
        and not again for each block. By default the rows themselves.
      tau: where the clipped means clip.
      max_pairs: the budget.
      count: how many rows there are, at least 2, if those after them are padding, which may hold anything; it may be traced,
        so that sets of different sizes share a program. The groups are those of n rows, in part, and so InfoNCE's ceiling is
        that of n rows or lower. By default n.
      positions: rows whose positions are less than 1 apart depend on one another: they are no negatives of each other. A row
        whose whole group is so has no negatives, and the result is NaN. By default all rows are negatives of one another.

    Returns:
      `PairSums`.

    Raises:
      ValueError: if there are not at least 2 rows, as many of y as of x.

    Example:
      >>> import jax
      >>> from mi_jax import evaluation, tasks
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> x, y = task.sample(jax.random.key(0), 2_000)
      >>> sums = evaluation.pair_sums(lambda x, y: task.log_ratio(x[:, None], y[None]), x, y, max_pairs=1_000_000)
      >>> sums.group
      500
      >>> value, influence = evaluation.read_outs(sums)["dv"]
      >>> print(f"{value:.1f} nats")
      1.0 nats
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y must hold the same number of rows, at least 2, got {len(x)} and {len(y)}")
    size = group_size(len(x), max_pairs)
    most = len(x) // size
    if count is None:
        number, filled = most, size
        cut = lambda rows: sub_batches.drop_remainder(rows, size)  # noqa: E731
    else:
        number, filled = _fill_groups(size, most, count)
        # Beyond its own rows a group holds those of the next, as padding.
        numbers = jnp.minimum(jnp.arange(most)[:, None] * filled + jnp.arange(size), len(x) - 1)
        cut = lambda rows: jnp.asarray(rows)[numbers]  # noqa: E731
    groups = cut(x), cut(y), None if positions is None else cut(positions)
    sums = jax.lax.map(lambda group: _sum_group(scores, *encode(*group[:2]), tau, filled, group[2]), groups)
    weights = ((jnp.arange(most)[:, None] < number) & (jnp.arange(size) < filled)).astype(jnp.float32).reshape(-1)
    return PairSums(**{name: values.reshape(-1) for name, values in sums.items()}, weights=weights, group=filled)


def _fill_groups(size: int, most: int, count: Any) -> tuple[Any, Any]:
    """How many of at most `most` groups `count` rows fill, and how many rows each holds, at most `size`.

    Either full groups, or as many as there are, filled evenly, whichever leaves fewer rows out; as `group_size`.
    """
    full = jnp.maximum(1, count // size), jnp.minimum(size, count)
    number = jnp.clip(-(-count // size), 1, most)
    even = number, jnp.minimum(size, count // number)
    return jax.tree.map(lambda one, other: jnp.where(even[0] * even[1] > full[0] * full[1], one, other), even, full)


class _RowSums(NamedTuple):
    """What a block of rows of x gives: one number for each row."""

    joint: Array
    rows: Array
    clipped_rows: Array
    squared: Array
    clipped: Array


class _ColumnSums(NamedTuple):
    """What is summed over the blocks: one number for each row of y."""

    columns: Array
    clipped_columns: Array
    shares: Array


def _sum_group(
    scores: Callable[[Any, Any], Array],
    x: Any,
    y: Any,
    tau: Any,
    count: int | Int[Array, ""],
    positions: Float[Array, " m"] | None,
) -> dict[str, Array]:
    """The fields of `PairSums` for one group of `count` rows: its rows of x are scored in blocks against all of y."""
    size = len(jax.tree.leaves(x)[0])
    block = max(1, min(size, BLOCK_PAIRS // size))
    is_column = jnp.arange(size) < count

    def sum_block(sums: _ColumnSums, numbered: tuple[Array, Array, Any]) -> tuple[_ColumnSums, _RowSums]:
        numbers, rows_of_x, positions_of_x = numbered
        matrix = scores(rows_of_x, y).astype(jnp.float32)
        is_joint = lazy_scores.mark_joint(numbers, size)
        is_negative = ~is_joint & is_column
        if positions is not None:
            is_negative &= jnp.abs(positions_of_x[:, None] - positions) >= 1
        pairs = count - 1 if positions is None else jnp.sum(is_negative, axis=1)
        log_mean = functools.partial(_log_mean, count=pairs)
        joint = jnp.sum(jnp.where(is_joint, matrix, 0.0), axis=1)
        negatives = jnp.where(is_negative, matrix, -jnp.inf)
        clipped = jnp.where(is_negative, jnp.clip(matrix, -tau, tau), -jnp.inf)
        rows = jax.nn.logsumexp(negatives, axis=1)
        # A row with fewer negatives than others counts as much, and so each of its negatives counts more.
        more = 0.0 if positions is None else (jnp.log(count - 1) - jnp.log(pairs))[:, None]
        shares = jnp.exp(negatives + more - jnp.logaddexp(rows[:, None] + more, joint[:, None]))
        padding = (numbers >= count)[:, None]
        sums = _ColumnSums(
            jnp.logaddexp(sums.columns, jax.nn.logsumexp(jnp.where(padding, -jnp.inf, negatives + more), axis=0)),
            jnp.logaddexp(sums.clipped_columns, jax.nn.logsumexp(jnp.where(padding, -jnp.inf, clipped + more), axis=0)),
            sums.shares + jnp.sum(jnp.where(padding, 0.0, shares), axis=0),
        )
        beyond = jnp.sum((jnp.abs(matrix) > tau) & is_negative, axis=1) / pairs
        squared = jax.nn.logsumexp(2 * negatives, axis=1)
        clipped_rows = log_mean(jax.nn.logsumexp(clipped, axis=1))
        return sums, _RowSums(joint, log_mean(rows), clipped_rows, log_mean(squared), beyond)

    empty = jnp.full(size, -jnp.inf)
    blocks = lazy_scores.number_rows(size, block), *lazy_scores.pad_to_blocks((x, positions), block)
    sums, of_rows = jax.lax.scan(sum_block, _ColumnSums(empty, empty, jnp.zeros(size)), blocks)
    log_mean = functools.partial(_log_mean, count=count - 1)
    means = sums._replace(columns=log_mean(sums.columns), clipped_columns=log_mean(sums.clipped_columns))
    return lazy_scores.drop_padding(of_rows, size)._asdict() | means._asdict()


def _log_mean(log_sum: Array, count: int | Array) -> Array:
    return log_sum - _log(count)


def _log(count: int | Array) -> float | Array:
    return math.log(count) if isinstance(count, int) else jnp.log(count)


def log_partition(sums: PairSums, *, clipped: bool = False) -> Float[Array, ""]:
    """Log E_Q[e^T] over the pairs of `PairSums`, of the clipped scores if wanted: 0 for a valid log ratio."""
    return _log_mean_rows(sums, sums.clipped_rows if clipped else sums.rows)


def _log_mean_rows(sums: PairSums, logs: Array) -> Array:
    return _log_mean(jax.nn.logsumexp(jnp.where(sums.weights > 0, logs, -jnp.inf)), sums.num_rows)


def effective_pairs(sums: PairSums) -> Float[Array, ""]:
    """(Σ e^T)² / Σ e^{2T} over the pairs of `PairSums`: how many of them carry the partition function."""
    pairs = jnp.log(sums.num_rows * (sums.group - 1))
    return jnp.exp(pairs + 2 * log_partition(sums) - _log_mean_rows(sums, sums.squared))


class ReadOut(NamedTuple):
    """A read-out of a held-out set, in nats, and its influence function: what each row adds to its error.

    Attributes:
      value: the read-out.
      influence: (n,) with mean 0; the value's standard error is its standard deviation over √n, to first order, also
        where rows depend on one another because each stands in many pairs. Padding has 0.
    """

    value: Float[Array, ""]
    influence: Float[Array, " n"]


def read_outs(sums: PairSums) -> dict[str, ReadOut]:
    """Every read-out of a held-out set that is made of its `PairSums`.

    Args:
      sums: from `pair_sums`, of scores that stand for the log ratio: of a critic trained by NWJ, less its
        `Estimator.offset`. For "infonce" and "dv" a constant makes no difference.

    Returns:
      name -> `ReadOut`, for "infonce" (whose ceiling is log m), "dv", "smile" (at the sums' tau), and "nwj", the bound
      1 + E_P[T] - E_Q[e^T].

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import evaluation
      >>> sums = evaluation.pair_sums(lambda x, y: 3.0 * (x[:, None] == y[None]), jnp.arange(4.0), jnp.arange(4.0))
      >>> for name, (value, _) in evaluation.read_outs(sums).items():
      ...     print(f"{name} {value:.4f}")
      infonce 1.2471
      dv 3.0000
      smile 3.0000
      nwj 3.0000

    Source: Song & Ermon (2020), Eqs. 3, 4, 5 and 17; the influence is the first term of Hoeffding's decomposition.
    """
    read_outs = {"infonce": _infonce(sums)}
    mean = sums.mean(sums.joint)
    for name, rows, columns in (("dv", sums.rows, sums.columns), ("smile", sums.clipped_rows, sums.clipped_columns)):
        log_z, influence = _partition(sums, rows, columns)
        read_outs[name] = ReadOut(mean - log_z, sums.joint - mean - influence)
    log_z, influence = _partition(sums, sums.rows, sums.columns)
    z = jnp.exp(log_z)
    read_outs["nwj"] = ReadOut(1 + mean - z, sums.joint - mean - z * influence)
    is_row = sums.weights > 0
    return {name: read._replace(influence=jnp.where(is_row, read.influence, 0.0)) for name, read in read_outs.items()}


def _infonce(sums: PairSums) -> ReadOut:
    negatives = sums.rows + _log(sums.group - 1)
    contrast = sums.joint - _log_mean(jnp.logaddexp(negatives, sums.joint), sums.group)
    value = sums.mean(contrast)
    # A row adds its own contrast, and is one of the columns that the others are contrasted with.
    return ReadOut(value, contrast - value - (sums.shares - sums.mean(sums.shares)))


def _partition(
    sums: PairSums, rows: Float[Array, " n"], columns: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """Log Z, and its influence function: a row enters with its x, and with its y."""
    log_z = _log_mean_rows(sums, rows)
    return log_z, jnp.exp(rows - log_z) + jnp.exp(columns - log_z) - 2
