"""Means of exponentials, computed and differentiated without leaving log space."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mi_jax.lazy_scores import LazyScores


def diagonal(scores: Float[Array, "*g n n"] | LazyScores) -> Float[Array, "*g n"]:
    """The scores of the joint pairs."""
    return scores.diagonal() if isinstance(scores, LazyScores) else jnp.diagonal(scores, axis1=-2, axis2=-1)


def transpose(scores: Float[Array, "*g n n"] | LazyScores) -> Float[Array, "*g n n"] | LazyScores:
    """The scores with x and y exchanged."""
    return scores.transpose() if isinstance(scores, LazyScores) else jnp.swapaxes(scores, -1, -2)


def negatives(scores: Float[Array, "*g n n"] | LazyScores) -> int:
    """How many product-of-marginals pairs there are: n(n - 1), in each sub-batch."""
    return math.prod(scores.shape[:-1]) * (scores.shape[-1] - 1)


def by_rows(
    function: Callable[..., Any], scores: Float[Array, "*g n n"] | LazyScores, *per_row: Float[Array, "*g n"]
) -> Float[Array, "*g n"]:
    """`function(scores, own, *per_row)`, a number for each row; for `LazyScores` a block of rows at a time.

    `own` tells which scores are of joint pairs.
    """
    if isinstance(scores, LazyScores):
        return scores.by_rows(function, *per_row)
    return function(scores, jnp.eye(scores.shape[-1], dtype=bool), *per_row)


def mean_off_diagonal(
    function: Callable[[Float[Array, "*g k n"]], Float[Array, "*g k n"]], scores: Float[Array, "*g n n"] | LazyScores
) -> Float[Array, ""]:
    """The mean of `function(scores)` over the off-diagonal pairs."""

    def sums(scores: Array, own: Bool[Array, "k n"]) -> Array:
        return jnp.sum(jnp.where(own, 0.0, function(scores)), axis=-1)

    return jnp.sum(by_rows(sums, scores)) / negatives(scores)


def mean_exp_off_diagonal(
    scores: Float[Array, "*g n n"] | LazyScores, log_baseline: Float[Array, "*g n"]
) -> Float[Array, ""]:
    """The mean of exp(scores - log_baseline) over off-diagonal pairs; overflows to +inf, its gradient too, not to NaN."""
    # The count goes into the exponent, so that the sum overflows only where the mean does.
    count = math.log(negatives(scores))

    def sums(scores: Array, own: Bool[Array, "k n"], log_baseline: Array) -> Array:
        return jnp.sum(jnp.exp(jnp.where(own, -jnp.inf, scores - log_baseline[..., None]) - count), axis=-1)

    return jnp.sum(by_rows(sums, scores, log_baseline))


def log_mean_exp_off_diagonal(scores: Float[Array, "*g n n"] | LazyScores, tau: Any) -> Float[Array, ""]:
    """The log of the mean of exp(scores), clipped to [-tau, tau], over the off-diagonal pairs."""
    count = math.log(negatives(scores))

    def clipped(scores: Array, own: Bool[Array, "k n"]) -> Array:
        return jnp.where(own, -jnp.inf, jnp.clip(scores, -tau, tau))

    if isinstance(scores, LazyScores):
        rows = scores.by_rows(lambda scores, own: _log_sum_exp(clipped(scores, own)))
        return _log_sum_exp(rows) - count
    return jax.nn.logsumexp(by_rows(clipped, scores)) - count


def _log_sum_exp(values: Float[Array, "*s n"]) -> Float[Array, "*s"]:
    """Over the last axis; where all are -inf, as a row may be whose sum is but a part, the gradient is 0 and not NaN."""
    none = jnp.all(jnp.isneginf(values), axis=-1)
    found = jax.nn.logsumexp(jnp.where(none[..., None], 0.0, values), axis=-1)
    return jnp.where(none, -jnp.inf, found)


def log_mean_exp_leave_one_out(scores: Float[Array, "*g n m"]) -> Float[Array, "*g n m"]:
    """At (i, j): the log of the mean of exp(scores[i, k]) over k != j, in O(nm).

    Taking exp(scores[i, j]) out of the row's total is stable unless it *is* most of the total, which only the row's
    largest entry can be; there the total without it is computed afresh.
    """
    largest = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=bool)
    total = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    without_largest = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, scores), axis=-1, keepdims=True)
    # Any other entry is at most half of the total. The inner `where` keeps the unused branch's gradient finite.
    share = jnp.where(largest, -jnp.inf, scores - total)
    rest = jnp.where(largest, without_largest, total + jnp.log1p(-jnp.exp(share)))
    return rest - math.log(scores.shape[-1] - 1)


@jax.custom_jvp
def log_interpolate(a: Float[Array, "*s"], b: Float[Array, "*s"], alpha: Float[Array, ""]) -> Float[Array, "*s"]:
    """log(alpha e^a + (1 - alpha) e^b), with its derivatives finite at alpha = 0 and at alpha = 1 too."""
    return jnp.logaddexp(jnp.log(alpha) + a, jnp.log1p(-alpha) + b)


@log_interpolate.defjvp
def _log_interpolate_jvp(primals, tangents):
    a, b, alpha = primals
    da, db, dalpha = tangents
    value = log_interpolate(a, b, alpha)
    # Through log(alpha) the derivative in alpha would be inf * 0 at the ends. Here it is (e^a - e^b) / e^value,
    # each exponent held below the overflow: the derivative itself can be as large as e^|a - b|.
    top = math.log(jnp.finfo(value.dtype).max) - 1.0
    slope = jnp.exp(jnp.minimum(a - value, top)) - jnp.exp(jnp.minimum(b - value, top))
    weight = jnp.exp(jnp.log(alpha) + a - value)
    return value, _times(weight, da) + _times(1.0 - weight, db) + _times(slope, dalpha)


def _times(weight, tangent):
    """Their product, with 0 * inf = 0: what weighs nothing stays out of a gradient that has overflowed."""
    return jnp.where(weight == 0.0, 0.0, weight * tangent)


def masked_mean(values: Float[Array, "*s n"], weights: Float[Array, "*s n"] | None) -> Float[Array, "*s"]:
    """The mean along the last axis of the values of weight 1; those of weight 0 may be anything. Without weights, of all."""
    if weights is None:
        return jnp.mean(values, axis=-1)
    return jnp.sum(jnp.where(weights > 0, values, 0.0), axis=-1) / jnp.sum(weights, axis=-1)
