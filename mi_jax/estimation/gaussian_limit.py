"""How much a Gaussian relation could share that so few rows cannot exclude: an upper limit in closed form."""

import math

import numpy as np
from jaxtyping import Float

MOST_COLUMNS = 400  # with more, it takes longer than it is worth
LARGEST = 0.3  # nats a column: beyond, the law that it rests on makes it too wide, and other errors are larger


def upper_limit(
    x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"], confidence: float, num_rows: int | None = None
) -> float:
    """The largest mutual information of Gaussian rows that would still give so little correlation, at a level.

    Formula: W = -m Σ_k log(1 - r_k²), with r_k the canonical correlations of the rows and m = n - 1 - (dx + dy + 1)/2, has
    the noncentral χ² law of dx dy degrees of freedom and of noncentrality 2 m I, if I is small. The limit is the I at which
    a smaller W has the probability (1 - confidence)/2.

    Args:
      x: (n, dx) rows; normal scores, or other rows whose joint law is about Gaussian.
      y: (n, dy) their partners.
      confidence: of the interval, two-sided.
      num_rows: n; fewer than the rows where these count as one in groups or blocks.

    Returns:
      The limit, in nats; 0 if even I = 0 would give more. NaN where it says little: for many columns beside the rows, or
      where it is above 0.3 nats for each column of the narrower side.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.gaussian_limit import upper_limit
      >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
      >>> 0.02 < upper_limit(x, y, 0.95) < 0.2
      True

    Source: Bartlett (1938), "Further aspects of the theory of multiple regression", for W; Muirhead (1982), "Aspects of
    Multivariate Statistical Theory", Section 11.2, for its law under dependence.
    """
    from scipy import optimize, stats  # slow to import

    num_rows = len(x) if num_rows is None else num_rows
    (dim_x, dim_y), columns = (x.shape[1], y.shape[1]), x.shape[1] + y.shape[1]
    if 2 * columns > num_rows or columns > MOST_COLUMNS:
        return math.nan
    factor, freedom = num_rows - 1 - (columns + 1) / 2, dim_x * dim_y
    statistic = -factor * float(np.sum(np.log1p(-np.minimum(_canonical_correlations(x, y) ** 2, 1 - 1e-12))))
    tail, most = (1 - confidence) / 2, 2 * factor * LARGEST * min(dim_x, dim_y)

    def excess(noncentrality: float) -> float:
        return float(stats.ncx2.cdf(statistic, freedom, max(noncentrality, 1e-9))) - tail

    if excess(0.0) <= 0:
        return 0.0
    if excess(most) > 0:
        return math.nan
    return float(optimize.brentq(excess, 0.0, most)) / (2 * factor)


def _canonical_correlations(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]) -> Float[np.ndarray, " k"]:
    axes = [np.linalg.qr(side - side.mean(axis=0))[0] for side in (np.float64(x), np.float64(y))]
    correlations: Float[np.ndarray, " k"] = np.linalg.svd(axes[0].T @ axes[1], compute_uv=False)
    return correlations
