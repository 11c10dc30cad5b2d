"""Sections 4.1 and 5 as numbers: Theorems 2 to 4, Corollary 1, printed and corrected; and the Gaussian task's exact laws.

Each function gives a number about a sample that is yet to be drawn, computed in float64 on the host: arguments are Python
numbers or NumPy arrays, which broadcast (the batch sizes and the clipped moments take one number each). r* is the true
density ratio dP/dQ, and I = D_KL(P ‖ Q) the mutual information, in nats.

There are two ways to draw pairs from Q: "independent", n fresh pairs as in the theorems, and "off_diagonal", the n(n - 1)
pairs (x_i, y_j), i ≠ j, of one batch of n joint pairs, as everyone uses it.
"""

import functools
import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

Number: TypeAlias = float | np.ndarray
Pairs: TypeAlias = Literal["independent", "off_diagonal"]


def partition_variance_bound(mi: Number, n: Number) -> Number:
    """Theorem 2: the variance of the partition estimate is at least this, whatever P and Q.

    Formula: Var[E_{Q_n}[r*]] ≥ (e^I - 1) / n, for n independent pairs. (e^{2I} - 1) / n on the Gaussian task.

    The same number bounds lim Var[log E_{Q_n}[r*]] (Eq. 11) and that of MINE's and DV's estimates (Corollary 1, Eq. 15), as
    n → ∞.

    Args:
      mi: I, in nats.
      n: independent pairs from Q.

    Returns:
      The bound, in nats² where it is read as that of the log.

    Raises:
      ValueError: if `mi` is negative or `n` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.partition_variance_bound(10.0, 64):.0f}")
      344

    Source: Song & Ermon (2020), Theorem 2, Eqs. 10 and 11; Corollary 1, Eq. 15.
    """
    return np.expm1(_at_least(mi, 0.0, "mi")) / _at_least(n, 1, "n")


def nwj_variance_bound(mi: Number, n: Number, *, printed: bool = False) -> Number:
    """Corollary 1: the variance of the NWJ estimate at the true ratio is at least this.

    Formula: (e^I - 1) / n at NWJ's optimum, T = log r* + 1. The paper prints (e^I - 1) / (e² n), which is true of its
    E_{Q_n}[r*/e], at T = log r*, and looser by e².

    Args:
      mi: I, in nats.
      n: independent pairs from Q; the number of joint pairs is free.
      printed: give Eq. 14 as printed.

    Returns:
      The bound, in nats².

    Raises:
      ValueError: if `mi` is negative or `n` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.nwj_variance_bound(10.0, 64):.0f} {theory.nwj_variance_bound(10.0, 64, printed=True):.1f}")
      344 46.6

    Source: Song & Ermon (2020), Corollary 1, Eqs. 12 and 14, corrected.
    """
    return partition_variance_bound(mi, n) * (np.exp(-2.0) if printed else 1.0)


def clipped_partition_bias_bound(tau: Number, partition: Number = 1.0) -> Number:
    """Theorem 3: clipping the ratio moves the partition by at most this.

    Formula: |E_Q[r] - E_Q[r_τ]| ≤ max(|e^-τ - S e^-2τ|, |S - e^-τ|), with r_τ = clip(r, e^-τ, e^τ) and S = E_Q[r].

    Args:
      tau: where the log ratio is clipped.
      partition: S; 1 for a valid ratio.

    Returns:
      The bound, without a unit.

    Raises:
      ValueError: if `tau` is negative or `partition` not positive.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.clipped_partition_bias_bound(1.0):.4f}")
      0.6321

    Source: Song & Ermon (2020), Theorem 3 (its appendix swaps the arguments of clip).
    """
    low = np.exp(-_at_least(tau, 0.0, "tau"))
    total = _at_least(partition, np.nextafter(0.0, 1.0), "partition")
    return np.maximum(np.abs(low - total * low**2), np.abs(total - low))


def clipped_partition_variance_bound(tau: Number, n: Number, *, printed: bool = False) -> Number:
    """Theorem 4: the variance of the clipped partition estimate is at most this.

    Formula: (e^τ - e^-τ)² / (4n), Popoviciu's inequality. The paper prints (e^τ - e^-τ) / (4n), which is false for
    e^τ - e^-τ > 1, that is for τ > 0.4812: a ratio of e^τ or e^-τ, each half of the time, attains the corrected bound.

    Args:
      tau: where the log ratio is clipped.
      n: independent pairs from Q.
      printed: give Eq. 18 as printed.

    Returns:
      The bound, without a unit.

    Raises:
      ValueError: if `tau` is negative or `n` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> bound = theory.clipped_partition_variance_bound
      >>> print(f"{bound(1.0, 1):.3f} {bound(1.0, 1, printed=True):.3f}")
      1.381 0.588

    Source: Song & Ermon (2020), Theorem 4, Eqs. 18 and 52, corrected.
    """
    width = 2.0 * np.sinh(_at_least(tau, 0.0, "tau"))
    return (width if printed else width**2) / (4.0 * _at_least(n, 1, "n"))


def gaussian_log_ratio_variance(mi: Number, dim: Number) -> Number:
    """Var_P[log r*] on the Gaussian task. Divided by n, it is the variance of the exact log ratio's mean over n joint pairs.

    Formula: d rho², with rho² = 1 - e^{-2I/d}.

    Args:
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.

    Returns:
      The variance, in nats².

    Raises:
      ValueError: if `mi` is negative or `dim` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.gaussian_log_ratio_variance(10.0, 20) / 64:.4f}")
      0.1975

    Source: the moments of a bivariate normal; `tasks.gaussian` gives log r*.
    """
    return np.asarray(dim) * _rho_squared(mi, dim)


def gaussian_ratio_moment(order: int, mi: Number, dim: Number) -> Number:
    """E_Q[r*^k] on the Gaussian task.

    Formula: [(1 - rho²)^{(1-k)/2} (1 - (k-1)² rho²)^{-1/2}]^d for (k-1)² rho² < 1, and infinite beyond.

    Args:
      order: k, at least 0.
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.

    Returns:
      The moment; 1 at k = 1, and e^{2I} at k = 2.

    Raises:
      ValueError: if `order` or `mi` is negative or `dim` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.gaussian_ratio_moment(2, 1.0, 20):.4f}", theory.gaussian_ratio_moment(4, 2.0, 20))
      7.3891 inf

    Source: a Gaussian integral; at k = 2 it is 1 + Var_Q[r*] of Theorem 2.
    """
    above, rho2 = _at_least(order, 0, "order") - 1.0, _rho_squared(mi, dim)
    inside = 1.0 - above**2 * rho2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_moment = above * np.asarray(mi) - 0.5 * np.asarray(dim) * np.log(inside)
        return np.where(inside > 0.0, np.exp(log_moment), np.inf)[()]


class ClippedMoments(NamedTuple):
    """Mean and variance of the clipped ratio r*_τ under Q: SMILE's partition is that mean, and its variance that over n."""

    mean: float
    variance: float


def gaussian_clipped_moments(tau: float, mi: float, dim: int) -> ClippedMoments:
    """Mean and variance of clip(r*, e^-τ, e^τ) under Q, on the Gaussian task: what Theorems 3 and 4 bound.

    Formula: under Q log r* = I + ½ (a U - b V) with a = rho / (1 + rho), b = rho / (1 - rho), and U, V independent χ²_d: the
    sums of (x_k + y_k)² / 2 and of (x_k - y_k)² / 2. Given V, the moments of the clipped ratio are incomplete gamma
    functions; over V they are integrated by Gauss–Legendre quadrature.

    Args:
      tau: where the log ratio is clipped; at most 300, where float64 still holds e^2τ.
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.

    Returns:
      `ClippedMoments`. The bias of SMILE's partition is its mean less 1.

    Raises:
      ValueError: if `tau` or `mi` is negative, `tau` above 300, `mi` infinite, or `dim` less than 1.

    Example:
      >>> from mi_jax import theory
      >>> moments = theory.gaussian_clipped_moments(5.0, 4.0, 20)
      >>> print(f"{moments.mean:.4f} {moments.variance:.2f}")
      0.7742 38.72

    Source: Song & Ermon (2020), Theorems 3 and 4, whose worst cases this is set beside.
    """
    from scipy import special  # slow to import, and nothing else here needs it

    tau, mi = float(_at_least(tau, 0.0, "tau")), float(_at_least(mi, 0.0, "mi"))
    rho = math.sqrt(_rho_squared(mi, dim))
    if tau > 300.0 or not math.isfinite(mi):
        raise ValueError(f"tau must be at most 300 and mi finite, got {tau} and {mi}")
    if rho == 0.0:
        return ClippedMoments(1.0, 0.0)
    a, b, half = rho / (1.0 + rho), rho / (1.0 - rho), 0.5 * dim
    # V = w²: smooth at 0 for d = 1 too. Beyond the last node the law of V has no mass in float64.
    nodes, weights = _gauss_legendre(2_000)
    last = math.sqrt(2.0 * special.gammainccinv(half, 1e-300))
    w = 0.5 * last * (nodes + 1.0)
    mass = last * weights * np.exp(special.xlogy(dim - 1.0, w) - 0.5 * w**2 - half * math.log(2.0) - math.lgamma(half))
    shift = mi - 0.5 * b * w**2  # log r* = shift + a U / 2
    low, high = (2.0 / a * np.maximum(level - shift, 0.0) for level in (-tau, tau))

    def moment(order: int) -> float:
        rate = 1.0 - order * a  # E[e^{order a U / 2}; U ≤ u] is rate^-d/2 times a gamma law's share below u
        inside = special.gammainc(half, 0.5 * rate * high) - special.gammainc(half, 0.5 * rate * low)
        kept = np.exp(order * shift - half * math.log(rate)) * np.where(high > low, inside, 0.0)
        below = math.exp(-order * tau) * special.gammainc(half, 0.5 * low)
        above = math.exp(order * tau) * special.gammaincc(half, 0.5 * high)
        return float(mass @ (below + kept + above))

    mean = moment(1)
    return ClippedMoments(mean, max(moment(2) - mean**2, 0.0))


def gaussian_partition_variance(mi: Number, dim: Number, n: Number, *, pairs: Pairs = "independent") -> Number:
    """Var[E_{Q_n}[r*]] on the Gaussian task.

    Formula: "independent": (e^{2I} - 1) / n; "off_diagonal": [(1 - rho²)^-d + (1 - rho⁴)^-d - 2] / (n (n - 1)).

    Of one batch, r*(x_i, y_j) is correlated with itself and with r*(x_j, y_i) alone: any other two share a variable at most,
    given which the mean of either is 1. E[r*(x_i, y_j) r*(x_j, y_i)] is (1 - rho⁴)^-d, by r* = Σ_k rho^k h_k(x) h_k(y) in
    Hermite polynomials. The estimate is uncorrelated with the mean of log r* over the batch's joint pairs.

    Args:
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.
      n: independent pairs from Q; or joint pairs in the batch, at least 2.
      pairs: how the pairs from Q are drawn.

    Returns:
      The variance, without a unit.

    Raises:
      ValueError: if `mi` is negative, `dim` less than 1, `n` too small, or `pairs` is neither.

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.gaussian_partition_variance(1.0, 20, 64):.4f}")
      0.0998
      >>> print(f"{theory.gaussian_partition_variance(1.0, 20, 64, pairs='off_diagonal'):.6f}")
      0.001634

    Source: Song & Ermon (2020), Eqs. 29 and 33 for independent pairs; the off-diagonal law is derived above.
    """
    own = np.expm1(2.0 * _at_least(mi, 0.0, "mi"))
    rho2 = _rho_squared(mi, dim)
    if pairs == "independent":
        return own / _at_least(n, 1, "n")
    if pairs != "off_diagonal":
        raise ValueError(f"pairs must be 'independent' or 'off_diagonal', got {pairs!r}")
    n = _at_least(n, 2, "n")
    mirrored = np.expm1(-np.asarray(dim) * np.log1p(-(rho2**2)))
    return (own + mirrored) / (n * (n - 1.0))


def gaussian_nwj_variance(
    mi: Number, dim: Number, n: Number, *, joint: Number | None = None, pairs: Pairs = "independent"
) -> Number:
    """The variance of the NWJ estimate at its optimum, T = log r* + 1, on the Gaussian task; asymptotically DV's, too.

    Formula: d rho² / m + Var[E_{Q_n}[r*]], with m joint pairs.

    Args:
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.
      n: as in `gaussian_partition_variance`.
      joint: m; n by default, and always n within one batch.
      pairs: how the pairs from Q are drawn.

    Returns:
      The variance, in nats².

    Raises:
      ValueError: as `gaussian_partition_variance`; or if `joint` is less than 1, or given for "off_diagonal".

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.gaussian_nwj_variance(2.0, 20, 64, pairs='off_diagonal'):.4f}")
      0.0702

    Source: Song & Ermon (2020), Corollary 1, Eqs. 12 and 36, with the exact variances.
    """
    if joint is not None and pairs == "off_diagonal":
        raise ValueError("joint must not be given for pairs='off_diagonal': a batch has n joint pairs")
    joint = n if joint is None else _at_least(joint, 1, "joint")
    return gaussian_log_ratio_variance(mi, dim) / joint + gaussian_partition_variance(mi, dim, n, pairs=pairs)


def gaussian_tail_pairs(mi: Number, dim: Number, *, share: float = 0.5) -> Number:
    """About how many pairs from Q it takes to *see* Var_Q[r*] on the Gaussian task; with fewer it comes out too small.

    Formula: e^{KL(r*² Q ‖ Q) + z s}, with KL = 2 d rho² / (1 - rho²), z the standard normal quantile of `share` and
    s² = 4 d rho² (1 + rho²) / (1 - rho²)², the variance of the log weight under the law r*² Q, taken for normal.

    The variance lives where r*² Q does. That law is Gaussian with covariance of determinant 1 and variances
    (1 + rho²) / (1 - rho²), so its divergence from Q is 2 rho² / (1 - rho²) a pair. A sample much smaller than e to that
    power holds no such pair: its variance looks small, which is no good news. At that number half of the law's weight is
    within reach.

    Args:
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.
      share: how much of E_Q[r*²] is to be within reach, in [0.5, 1).

    Returns:
      A number of pairs; infinite where float64 has no number for it.

    Raises:
      ValueError: if `mi` is negative, `dim` less than 1, or `share` not in [0.5, 1).

    Example:
      >>> from mi_jax import theory
      >>> print(f"{theory.gaussian_tail_pairs(1.0, 20):.0f} {theory.gaussian_tail_pairs(4.0, 20):.1e}")
      67 3.5e+08
      >>> print(f"{theory.gaussian_tail_pairs(1.0, 20, share=0.9):.0f}")
      4010

    Source: Chatterjee & Diaconis (2018), "The sample size required in importance sampling", for the weight r*².
    """
    from scipy import special

    if not 0.5 <= share < 1.0:
        raise ValueError(f"share must lie in [0.5, 1), got {share}")
    with np.errstate(over="ignore"):
        # 1 - rho² = e^{-2I/d}, so rho² / (1 - rho²) = e^{2I/d} - 1.
        rho2 = _rho_squared(mi, dim)
        odds = np.expm1(2.0 * np.asarray(mi, float) / dim)
        spread = np.sqrt(4.0 * np.asarray(dim) * (1.0 + rho2)) * np.sqrt(odds) * np.sqrt(odds + 1.0)
        return np.exp(2.0 * np.asarray(dim) * odds + special.ndtri(share) * np.minimum(spread, 1e300))


def gaussian_batch_size(stderr: float, mi: float, dim: int, *, pairs: Pairs = "off_diagonal") -> int:
    """The batch at which one NWJ (or DV) estimate at the true ratio has this standard error, on the Gaussian task.

    Formula: the least n with gaussian_nwj_variance(mi, dim, n) ≤ stderr²: of the order of e^{2I} / stderr² with independent
    pairs, of e^I / stderr with a batch's off-diagonal pairs.

    Args:
      stderr: wanted standard error, in nats.
      mi: I, in nats.
      dim: d, the number of Gaussian pairs.
      pairs: how the pairs from Q are drawn; by default as in training.

    Returns:
      n.

    Raises:
      ValueError: if `stderr` is not positive, or as `gaussian_nwj_variance`; OverflowError: if float64 cannot hold n.

    Example:
      >>> from mi_jax import theory
      >>> [theory.gaussian_batch_size(0.1, mi, 20) for mi in (2.0, 6.0, 10.0)]
      [378, 4513, 220905]

    Source: Song & Ermon (2020), Section 4.1 ("a batch size of n = Θ(e^D)"), with the exact variances.
    """
    wanted = _at_least(stderr, np.nextafter(0.0, 1.0), "stderr") ** 2
    joint = float(gaussian_log_ratio_variance(mi, dim))
    if pairs == "independent":
        return max(1, math.ceil((joint + float(gaussian_partition_variance(mi, dim, 1))) / wanted))
    both = 2.0 * float(gaussian_partition_variance(mi, dim, 2, pairs=pairs))
    # joint / n + both / (n (n - 1)) = wanted is quadratic in n.
    half = (wanted + joint) / 2.0
    return max(2, math.ceil((half + math.sqrt(half**2 + wanted * (both - joint))) / wanted))


def infonce_batch_size(mi: float) -> int:
    """The batch below which InfoNCE cannot reach this MI: its ceiling is log n.

    Formula: n ≥ e^I. It is needed, not enough: even at the exact ratio InfoNCE stays below min(I, log n) in the mean.

    Args:
      mi: I, in nats.

    Returns:
      n, at least 2.

    Raises:
      ValueError: if `mi` is negative; OverflowError: if float64 cannot hold n.

    Example:
      >>> from mi_jax import theory
      >>> [theory.infonce_batch_size(mi) for mi in (2.0, 6.0, 10.0)]
      [8, 404, 22027]

    Source: Song & Ermon (2020), Section 4.1 and Eq. 5.
    """
    return max(2, math.ceil(math.exp(float(_at_least(mi, 0.0, "mi")))))


@functools.cache  # slow to make
def _gauss_legendre(degree: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(degree)


def _rho_squared(mi: Number, dim: Number) -> np.ndarray:
    """The squared correlation, 1 - e^{-2I/d}, exact at small I."""
    return -np.expm1(-2.0 * _at_least(mi, 0.0, "mi") / _at_least(dim, 1, "dim"))


def _at_least(value: Number, least: float, name: str) -> np.ndarray:
    """`value` in float64, checked."""
    array = np.asarray(value, np.float64)
    if not (array >= least).all():
        expected = "positive" if 0.0 < least < 1.0 else f"at least {least:g}"
        raise ValueError(f"{name} must be {expected}, got {value}")
    return array
