"""Whether a log ratio in closed form leaves anything to learn; in NumPy, so that nothing is compiled to know it."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from mi_jax.networks.gaussian import GaussianFit

GROUP = 500  # rows whose pairs are all scored
MOST_ROWS = 2**14  # more would cost more than they tell
ROWS_A_FEATURE = 50  # with fewer, a relation that matters may stay unseen
FAR = 4.0  # where coordinates are clipped, in standard deviations
WAVES, FEWEST_WAVES, MOST_WAVES = 40, 2, 16  # cosines of all columns together, and of one column
DIRECTIONS = 30
LEAST_VARIANCE = 1e-4  # directions in which the features vary less, as a share of the largest, are left out
# The mean z-score of the folds up to which nothing is left to learn. Folds share rows: it spreads by 0.45 to 1, not by 0.45.
LARGEST = 1.25
MOST_COLUMNS = 20  # a side; with more, products of columns are not seen


def leaves_nothing(z_scores: Sequence[float]) -> bool:
    """Whether the log ratios of all folds leave nothing to learn, by the z-score of each."""
    return float(np.mean(z_scores)) < LARGEST


def score_gaussian(fit: GaussianFit, x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]) -> float:
    """The z-score of what rows say against the Gaussian log ratio: `score_residual`.

    Args:
      fit: of these rows, or of most of them.
      x: (n, dx) rows, in random order.
      y: (n, dy) their partners.

    Returns:
      z, as `score_residual`.
    """
    return score_residual(gaussian_log_ratio(fit), *canonical_rows(fit, x, y))


def has_enough_rows(number: int, columns: int) -> bool:
    """Whether so many rows can say what is left, with so many columns on the wider side."""
    return columns <= MOST_COLUMNS and number >= ROWS_A_FEATURE * _count_features(columns)


def canonical_rows(
    fit: GaussianFit, x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]
) -> tuple[Float[np.ndarray, "n dx"], Float[np.ndarray, "n dy"]]:
    """The rows in the coordinates of the fit, in which they have covariance 1."""
    mean_x, mean_y, whiten_x, whiten_y = map(np.float64, fit[:4])
    return (x - mean_x) @ whiten_x, (y - mean_y) @ whiten_y


def gaussian_log_ratio(fit: GaussianFit) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The log ratio of all pairs of canonical rows, as `GaussianCritic` has it; in float64."""
    s = np.float64(fit.correlations)
    unexplained = (1 - s) * (1 + s)
    linear, constant = s / unexplained, -0.5 * float(np.sum(np.log(unexplained)))

    def log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a[:, : s.size], b[:, : s.size]
        quadratic = a**2 @ (s * linear), b**2 @ (s * linear)
        scores: np.ndarray = constant + (a * linear) @ b.T - 0.5 * (quadratic[0][:, None] + quadratic[1])
        return scores

    return log_ratio


def score_residual(
    log_ratio: Callable[[np.ndarray, np.ndarray], np.ndarray], x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]
) -> float:
    """The z-score of what rows say against a log ratio T: about standard normal if T is right, positive if it is not.

    Formula: for features φ of x and ψ of y, R = E_P[(1 - σ(T)) φ ψᵀ] - E_Q[σ(T) φ ψᵀ] is 0 if T is the log ratio, as it is
    the gradient of the logistic loss by the coefficients of φ ψᵀ. It is estimated from groups of rows, and
    Σ_g ⟨R_g, R_-g⟩ is compared with its standard error, where R_-g is the mean of the other groups.

    The features are, of rows whose covariance is 1: each column, cosines of its normal distribution function, the length of
    the row and its square, each column times these two, and cosines of random projections. They are decorrelated.

    Args:
      log_ratio: T of all pairs of (m, dx) and (m, dy) rows.
      x: (n, dx) rows of covariance 1, in random order.
      y: (n, dy) their partners.

    Returns:
      z; infinite where nothing can be said, as there are fewer than 50 rows for each feature, over 20 columns on a side, or
      columns so far from unit scale that no feature varies.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.residual import score_residual
      >>> x, noise = np.random.default_rng(0).normal(size=(2, 2_000, 1))
      >>> nothing = lambda x, y: np.zeros((len(x), len(y)))
      >>> score_residual(nothing, x, noise) < 3 < score_residual(nothing, x, 0.8 * (x**2 - 1) / 2**0.5 + 0.6 * noise)
      True

    Source: Rao (1948), "Large sample tests of statistical hypotheses", for tests by the score; Gretton et al. (2012), "A
    kernel two-sample test", for the estimate of a square without its bias.
    """
    if not has_enough_rows(len(x), max(x.shape[1], y.shape[1])):
        return math.inf
    x, y = x[:MOST_ROWS], y[:MOST_ROWS]
    size = min(GROUP, len(x) // 2)
    number = len(x) // size
    cut = lambda rows: rows[: number * size].reshape(number, size, -1)  # noqa: E731
    features = [cut(_decorrelated(_features(np.clip(side, -FAR, FAR)))) for side in (x, y)]
    shares = np.stack([_logistic(log_ratio(*pair)) for pair in zip(cut(x), cut(y), strict=True)])
    joint = np.arange(size)
    unexplained = 1 - shares[:, joint, joint]
    shares[:, joint, joint] = 0.0
    groups = list(zip(*features, shares, unexplained, strict=True))
    slopes = np.stack([_slope(*group) for group in groups])
    others = (slopes.sum(axis=0) - slopes) / (number - 1)
    products = np.sum(slopes * others, axis=(1, 2))
    variances = [_variance_along(other, *group) for other, group in zip(others, groups, strict=True)]
    # Each product of two groups is there twice.
    error = math.sqrt(2 * sum(variances))
    z = float(products.sum() / error) if error else math.inf
    return z if math.isfinite(z) else math.inf


def _logistic(values: np.ndarray) -> Float[np.ndarray, "m m"]:
    from scipy import special  # slow to import

    result: np.ndarray = special.expit(np.float32(values))
    return result


def _slope(x: np.ndarray, y: np.ndarray, shares: np.ndarray, unexplained: np.ndarray) -> Float[np.ndarray, "p q"]:
    """R of one group."""
    size = len(x)
    slope: np.ndarray = (x * unexplained[:, None]).T @ y / size - x.T @ (shares @ y) / (size * (size - 1))
    return slope


def _variance_along(
    direction: np.ndarray, x: np.ndarray, y: np.ndarray, shares: np.ndarray, unexplained: np.ndarray
) -> float:
    """The variance of ⟨R, direction⟩ over the rows of a group; each has its joint pair, and those with the others."""
    size = len(x)
    along = (x @ direction) @ y.T
    weighted = shares * along
    influence = unexplained * np.diagonal(along) - (weighted.sum(axis=1) + weighted.sum(axis=0)) / (size - 1)
    return float(np.var(influence, dtype=float)) / size


def _count_waves(columns: int) -> int:
    return int(np.clip(WAVES // columns, FEWEST_WAVES, MOST_WAVES))


def _count_features(columns: int) -> int:
    projections = min(DIRECTIONS, 10 * columns) if columns > 1 else 0
    return columns * (3 + _count_waves(columns)) + 2 + projections


def _features(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
    from scipy import special

    columns = rows.shape[1]
    quantiles = special.ndtr(rows)
    length = np.log1p(np.mean(rows**2, axis=1, keepdims=True))
    length = (length - length.mean()) / max(length.std(), 1e-9)
    waves = [np.cos(np.pi * wave * quantiles) for wave in range(1, 1 + _count_waves(columns))]
    features = [rows, *waves, length, length**2, rows * length, rows * length**2]
    if columns > 1:
        rng, number = np.random.default_rng(0), min(DIRECTIONS, 10 * columns)
        directions = rng.normal(size=(columns, number))
        phases = rng.uniform(0, 2 * np.pi, number)
        features.append(np.cos(rows @ (directions / np.linalg.norm(directions, axis=0)) + phases))
    return np.concatenate(features, axis=1)


def _decorrelated(features: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n q"]:
    """The features of mean 0 and covariance 1, as float32."""
    centred = features - features.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    varies = variances > LEAST_VARIANCE * max(variances[-1], LEAST_VARIANCE)
    result: np.ndarray = np.asarray(centred @ (axes[:, varies] / np.sqrt(variances[varies])), np.float32)
    return result
