"""The projection Γ(r; Q_n) of Table 1: from a score matrix to a normalised log density ratio.

Section 3.1 of Song & Ermon (2020) makes an MI estimator in three steps: (1) a log density ratio T, here as a score
matrix; (2) its projection towards the *valid* density ratios, those with E_Q[r] = 1; (3) its mean over the joint. This
file is step 2. The diagonal of what a function here returns is the pointwise MI of the n joint pairs, in nats, and
the diagonal's mean is the bound of the same name in `mi_jax.bounds`.

Throughout, `scores[i, j] = T(x_i, y_j)`: joint pairs on the diagonal, product-of-marginals pairs off it.
Of `SubBatches` of them the log ratios are (g, m, m).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax import _checks, _logspace, _scores
from mi_jax.lazy_scores import LazyScores
from mi_jax.sub_batches import SubBatches


def log_partition(
    scores: Float[Array, "n n"] | SubBatches | LazyScores, tau: float | Float[Array, ""] = jnp.inf
) -> Float[Array, ""]:
    """The log of the partition estimate, the mean of the (clipped) ratio over the product-of-marginals pairs.

    Formula: log E_{Q_n}[clip(e^T, e^-tau, e^tau)], over the n(n - 1) off-diagonal pairs.

    A ratio r = e^T is a valid density ratio with respect to Q only if E_Q[r] = 1, that is, if this is 0. Measure it on
    *fresh* pairs: on the batch that normalised the ratio it is 0 by construction (Table 1, last column).

    Args:
      scores: (n, n) scores T(x_i, y_j).
      tau: the scores are clipped to [-tau, tau], in log space; by default not at all.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows, or a concrete `tau` is negative or NaN.
        Where `tau` is traced, the result is NaN instead.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import projections
      >>> scores = jnp.array([[3.0, 1.0], [1.0, 3.0]])
      >>> print(f"{projections.log_partition(scores):.4f}")
      1.0000
      >>> print(f"{projections.log_partition(scores, tau=0.5):.4f}")
      0.5000

    Source: Song & Ermon (2020), Eqs. 8, 16 and 17.
    """
    return _log_partition(scores, _checks.non_negative(tau, "tau"))


@jax.jit
def _log_partition(scores, tau):
    return _logspace.log_mean_exp_off_diagonal(_scores.all_pairs(scores), tau)


def dv(scores: Float[Array, "n n"] | SubBatches) -> Float[Array, "*g n n"]:
    """The Donsker–Varadhan projection, by one partition estimate for the whole batch.

    Formula: log Γ(r; Q_n) = T - log E_{Q_n}[e^T].

    It is a valid log density ratio only as n → ∞: on other pairs than those of its own batch, its mean ratio is not 1.

    Args:
      scores: (n, n) scores T(x_i, y_j).

    Returns:
      (n, n) log ratios, in nats; the diagonal is the pointwise MI.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import projections
      >>> print(projections.dv(jnp.array([[3.0, 1.0], [1.0, 3.0]])))
      [[2. 0.]
       [0. 2.]]

    Source: Song & Ermon (2020), Eq. 8 and Table 1.
    """
    return smile(scores, jnp.inf)


@jax.jit
def infonce(scores: Float[Array, "n n"] | SubBatches) -> Float[Array, "*g n n"]:
    """The InfoNCE (CPC) projection, by one partition estimate for each x_i, its own positive included.

    Formula: log Γ(r; Q_n)_ij = T_ij - log (1/n) Σ_k e^{T_ik}.

    It is valid whatever the scores and n (Corollary 2), at the price of a ceiling: no entry exceeds log n.

    Args:
      scores: (n, n) scores T(x_i, y_j); normalised along axis 1, over the y_j.

    Returns:
      (n, n) log ratios, in nats; the diagonal is the pointwise MI.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import projections
      >>> print(projections.infonce(jnp.array([[9.0, 0.0], [0.0, 9.0]])).round(3))
      [[ 0.693 -8.307]
       [-8.307  0.693]]

    Source: Song & Ermon (2020), Eq. 5, Table 1 and Corollary 2.
    """
    scores = _scores.score_matrix(scores)
    return jax.nn.log_softmax(scores, axis=-1) + math.log(scores.shape[-1])


def smile(scores: Float[Array, "n n"] | SubBatches, tau: float | Float[Array, ""] = 5.0) -> Float[Array, "*g n n"]:
    """The SMILE projection, by a partition estimate from clipped ratios.

    Formula: log Γ(r; Q_n) = T - log E_{Q_n}[clip(e^T, e^-tau, e^tau)].

    Only the partition is clipped, not T itself. It is valid only as n and tau → ∞; at `tau = inf` it is `dv`.

    Args:
      scores: (n, n) scores T(x_i, y_j).
      tau: clips the log ratio to [-tau, tau] inside the partition; may be traced. The paper uses 1, 5, 10 and inf.

    Returns:
      (n, n) log ratios, in nats; the diagonal is the pointwise MI.

    Raises:
      ValueError: if `scores` is not a square floating matrix of at least 2 rows, or a concrete `tau` is negative or NaN.
        Where `tau` is traced, the result is NaN instead.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import projections
      >>> print(projections.smile(jnp.array([[3.0, 1.0], [1.0, 3.0]]), tau=0.5))
      [[2.5 0.5]
       [0.5 2.5]]

    Source: Song & Ermon (2020), Eq. 17 and Table 1.
    """
    return _scores.score_matrix(scores) - log_partition(scores, tau)
