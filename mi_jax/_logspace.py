"""Means of exponentials, computed and differentiated without leaving log space."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def diagonal(scores: Float[Array, "*g n n"]) -> Float[Array, "*g n"]:
    """The scores of the joint pairs."""
    return jnp.diagonal(scores, axis1=-2, axis2=-1)


def negatives(scores: Float[Array, "*g n n"]) -> int:
    """How many product-of-marginals pairs there are: n(n - 1), in each group."""
    return scores.size // scores.shape[-1] * (scores.shape[-1] - 1)


def off_diagonal(scores: Float[Array, "*g n n"], fill: float = -jnp.inf) -> Float[Array, "*g n n"]:
    """`scores` with -inf on the diagonal: an exponential then counts only the product-of-marginals pairs."""
    return jnp.where(jnp.eye(scores.shape[-1], dtype=bool), fill, scores)


def mean_exp_off_diagonal(scores: Float[Array, "*g n n"]) -> Float[Array, ""]:
    """The mean of exp(scores) over the off-diagonal pairs; overflows to +inf, its gradient too, never to NaN."""
    # The count goes into the exponent, so that the sum overflows only where the mean does.
    return jnp.sum(jnp.exp(off_diagonal(scores) - math.log(negatives(scores))))


def log_mean_exp_off_diagonal(scores: Float[Array, "*g n n"]) -> Float[Array, ""]:
    """The log of the mean of exp(scores) over the off-diagonal pairs."""
    return jax.nn.logsumexp(off_diagonal(scores)) - math.log(negatives(scores))


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
