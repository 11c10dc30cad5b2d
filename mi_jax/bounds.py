"""From a score matrix to nats: the variational estimates of mutual information, as pure functions.

`scores[i, j] = T(x_i, y_j)`: joint pairs on the diagonal, product-of-marginals pairs off it. Each function takes one
(n, n) matrix, `SubBatches` of smaller ones, or `LazyScores` of a larger one that is never held, is jit-compiled, and is
batched by `jax.vmap`. bfloat16 and float16 scores are reduced in float32.

DV, InfoNCE and SMILE are the mean of the diagonal of a projected log ratio (`mi_jax.projections`). NWJ, TUBA and the
interpolated bound pay a penalty for the normaliser instead of projecting: they hold e^T, so at scores near +88 (in
float32) they end in -inf, never in NaN, while the others stay finite.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax import _checks, _logspace, _scores, projections
from mi_jax.lazy_scores import LazyScores
from mi_jax.sub_batches import SubBatches


@functools.partial(jax.jit, static_argnames="symmetric")
def infonce(scores: Float[Array, "n n"] | SubBatches | LazyScores, *, symmetric: bool = False) -> Float[Array, ""]:
    """InfoNCE, also called CPC: a lower bound in expectation, of low variance, and never above log n.

    Formula: (1/n) Σ_i log( e^{T_ii} / ((1/n) Σ_j e^{T_ij}) ); symmetric, the mean of this and of that of Tᵀ.

    Args:
      scores: (n, n) scores T(x_i, y_j); each x_i is contrasted over all y_j (axis 1), its positive included.
      symmetric: contrast each y_j over all x_i, too. Both are lower bounds, and so is their mean. A critic trained on it
        knows the log ratio up to a constant, and not up to any function of x.

    Returns:
      A scalar, in nats, at most log n.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.infonce(3.0 * jnp.eye(4)):.4f}")
      1.2471

    Source: Song & Ermon (2020), Eq. 5; van den Oord et al. (2018); Radford et al. (2021), for the symmetric form.
    """
    scores = _scores.all_pairs(scores)
    return 0.5 * (_contrast(scores) + _contrast(_logspace.transpose(scores))) if symmetric else _contrast(scores)


def _contrast(scores: Float[Array, "*g n n"] | LazyScores) -> Float[Array, ""]:
    log_sums = _logspace.by_rows(lambda scores, _: jax.nn.logsumexp(scores, axis=-1), scores)
    return jnp.mean(_logspace.diagonal(scores) - (log_sums - math.log(scores.shape[-1])))


def dv(scores: Float[Array, "n n"] | SubBatches | LazyScores) -> Float[Array, ""]:
    """The Donsker–Varadhan estimate, which MINE reports: no ceiling, but a variance that grows like e^MI.

    Formula: E_P[T] - log E_Q[e^T].

    A lower bound in the limit of many pairs; on a finite batch it is biased upwards, by about half the variance of the
    partition estimate over its squared mean while that is small. It is unchanged by adding a constant to the scores.

    Args:
      scores: (n, n) scores T(x_i, y_j); E_Q is the mean over the n(n - 1) off-diagonal pairs.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.dv(3.0 * jnp.eye(4)):.4f}")
      3.0000

    Source: Song & Ermon (2020), Eq. 3; Donsker & Varadhan (1975).
    """
    return smile(scores, jnp.inf)


def smile(scores: Float[Array, "n n"] | SubBatches | LazyScores, tau: float | Float[Array, ""] = 5.0) -> Float[Array, ""]:
    """SMILE, the smoothed estimate: Donsker–Varadhan with the density ratio clipped inside the partition function.

    Formula: E_P[T] - log E_Q[clip(e^T, e^-tau, e^tau)].

    A smaller tau lowers the variance and may raise the bias, in either direction: SMILE is *not* a lower bound. T
    should estimate the log density ratio itself, constant included; train it with `logistic_objective`, as the paper
    does.

    Args:
      scores: (n, n) scores T(x_i, y_j); E_Q is the mean over the n(n - 1) off-diagonal pairs.
      tau: clips T to [-tau, tau] inside the partition function; may be traced. At `inf` this is `dv`.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows, or a concrete `tau` is negative or NaN.
        Where `tau` is traced, the result is NaN instead.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> scores = jnp.array([[3.0, 1.0], [1.0, 3.0]])
      >>> print(f"{mi_jax.smile(scores, tau=0.5):.4f}")
      2.5000

    Source: Song & Ermon (2020), Eq. 17.
    """
    return _smile(scores, _checks.non_negative(tau, "tau"))


@jax.jit
def _smile(scores, tau):
    return jnp.mean(_logspace.diagonal(_scores.all_pairs(scores))) - projections.log_partition(scores, tau)


@jax.jit
def nwj(scores: Float[Array, "n n"] | SubBatches | LazyScores) -> Float[Array, ""]:
    """The bound of Nguyen, Wainwright and Jordan (also f-GAN KL, MINE-f): unbiased, of variance that grows like e^MI.

    Formula: E_P[T] - E_Q[e^{T-1}].

    Tight at T = log r + 1, with r the density ratio. To read a critic that learned log r (a logistic one, say), add 1:
    `nwj(scores + 1)`. At log r itself the value is I - 1/e.

    Args:
      scores: (n, n) scores T(x_i, y_j); E_Q is the mean over the n(n - 1) off-diagonal pairs.

    Returns:
      A scalar, in nats; -inf where e^T overflows.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.nwj(jnp.ones((4, 4))):.4f}")
      0.0000

    Source: Song & Ermon (2020), Eq. 4; Nguyen et al. (2010).
    """
    scores = _scores.all_pairs(scores)
    return _unnormalised(scores, jnp.ones(scores.shape[:-1], scores.dtype))


@jax.jit
def tuba(scores: Float[Array, "n n"] | SubBatches | LazyScores, log_baseline: Float[Array, "*g n"]) -> Float[Array, ""]:
    """TUBA, the unnormalised Barber–Agakov bound: NWJ with a log baseline a(x) in place of the constant 1.

    Formula: 1 + E_P[T - a(x)] - E_Q[e^{T - a(x)}], which is `nwj(scores - log_baseline[:, None] + 1)`.

    Args:
      scores: (n, n) scores T(x_i, y_j); E_Q is the mean over the n(n - 1) off-diagonal pairs.
      log_baseline: (n,) values a(x_i). The best is the log partition of row i, log E_{P(y)}[e^{T(x_i, y)}].

    Returns:
      A scalar, in nats; -inf where e^{T - a} overflows.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows, or `log_baseline` not (n,).

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.tuba(2.0 * jnp.eye(2), jnp.zeros(2)):.4f}")
      2.0000

    Source: Poole et al. (2019), Eq. 8.
    """
    scores = _scores.all_pairs(scores)
    return _unnormalised(scores, _scores.per_row(log_baseline, scores, "log_baseline"))


def _unnormalised(scores: Float[Array, "*g n n"] | LazyScores, log_baseline: Float[Array, "*g n"]) -> Float[Array, ""]:
    """1 + E_P[log r] - E_Q[r], log r = T - a(x): a lower bound on MI for any positive r, tight at the density ratio."""
    log_ratio = _logspace.diagonal(scores) - log_baseline
    return 1.0 + jnp.mean(log_ratio) - _logspace.mean_exp_off_diagonal(scores, log_baseline)


def interpolated(
    scores: Float[Array, "n n"] | SubBatches | LazyScores,
    log_baseline: Float[Array, "*g n"],
    alpha: float | Float[Array, ""],
) -> Float[Array, ""]:
    """The interpolated bound of Poole et al., between TUBA (alpha = 0) and InfoNCE (alpha = 1).

    Formula: with m_ij the mean of e^{T_ik} over k != j, and the mixed baseline b_ij = alpha m_ij + (1 - alpha) e^{a(x_i)}:
    1 + mean_{i, j != i} log(e^{T_ii} / b_ij) - mean_{i, j != i} e^{T_ij} / b_ii.

    In both means the mixture holds the pair's own y and n - 2 independent ones: for the positive, one negative y_j at a
    time is left out; for a negative, the positive y_i is. At alpha = 1 the last mean is exactly 1, and the bound is the
    mean, over each left-out negative, of InfoNCE on the other n - 1 columns, with a ceiling of log(n - 1).

    Args:
      scores: (n, n) scores T(x_i, y_j); each x_i is contrasted over the y_j (axis 1).
      log_baseline: (n,) values a(x_i).
      alpha: the weight of the mixture, in [0, 1]; may be traced. Gradients, also in alpha, are finite at both ends.

    Returns:
      A scalar, in nats; -inf where e^T over the baseline overflows (which it cannot at alpha = 1).

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows, `log_baseline` not (n,), or a concrete
        `alpha` outside [0, 1]. Where `alpha` is traced, the result is NaN instead.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> scores = 3.0 * jnp.eye(4)
      >>> for alpha in (0.0, 0.5, 1.0):
      ...     print(f"{mi_jax.interpolated(scores, jnp.zeros(4), alpha):.4f}")
      3.0000
      1.5695
      1.0037

    Source: Poole et al. (2019), Eq. 15 and its leave-one-out mixture.
    """
    return _interpolated(scores, log_baseline, _checks.unit_interval(alpha, "alpha"))


@jax.jit
def _interpolated(scores, log_baseline, alpha):
    scores = _scores.all_pairs(scores)
    baseline = _scores.per_row(log_baseline, scores, "log_baseline")
    count = _logspace.negatives(scores)

    def terms(scores, own, joint, baseline):
        mixture = _logspace.log_mean_exp_leave_one_out(scores)
        mixed = _logspace.log_interpolate(mixture, jnp.broadcast_to(baseline[..., None], scores.shape), alpha)
        positives = jnp.where(own, 0.0, joint[..., None] - mixed)
        log_normaliser = jnp.sum(jnp.where(own, mixed, 0.0), axis=-1, keepdims=True)
        negatives = jnp.exp(jnp.where(own, -jnp.inf, scores - log_normaliser) - math.log(count))
        return jnp.sum(positives, axis=-1), jnp.sum(negatives, axis=-1)

    positives, negatives = _logspace.by_rows(terms, scores, _logspace.diagonal(scores), baseline)
    return 1.0 + jnp.sum(positives) / count - jnp.sum(negatives)


@jax.jit
def logistic_objective(scores: Float[Array, "n n"] | SubBatches | LazyScores) -> Float[Array, ""]:
    """The logistic (Jensen–Shannon) objective: log likelihood of telling joint pairs from product-of-marginals pairs.

    Formula: E_P[log σ(T)] + E_Q[log σ(-T)], with σ the logistic function.

    *Not* an MI bound: its maximum over T is 2 JSD(P, Q) - 2 log 2, between -2 log 2 and 0. It is there to train a critic:
    its maximiser is T = log r, the log density ratio, which `smile(scores)` and `nwj(scores + 1)` then read.

    Args:
      scores: (n, n) scores T(x_i, y_j); E_Q is the mean over the n(n - 1) off-diagonal pairs.

    Returns:
      A scalar, in nats, at most 0.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.logistic_objective(jnp.zeros((4, 4))):.4f}")
      -1.3863

    Source: Song & Ermon (2020), Section 5 ("logistic regression"); Hjelm et al. (2018).
    """
    scores = _scores.all_pairs(scores)
    negatives = _logspace.mean_off_diagonal(lambda scores: jax.nn.log_sigmoid(-scores), scores)
    return jnp.mean(jax.nn.log_sigmoid(_logspace.diagonal(scores))) + negatives
