"""Independent components: the linear mixtures of columns that depend least on one another. In NumPy, of x or y alone."""

import numpy as np
from jaxtyping import Bool, Float

MOST_ROWS = 2**14  # more would cost more than they tell
MOST_ROUNDS, CLOSE = 50, 1e-6
SHARPNESS = 2.0  # of tanh, in units of a component's median size: for the peaked components that ranks suit least
GAUSSIAN = 0.1  # two components nearer to normal ones than this have no rotation of their own
LARGEST_STEP = 0.5
DISTINCT = 0.9  # of a column's values: with fewer it is not taken for continuous


def unmix(columns: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """A matrix A for which the columns of `columns @ A` are as independent of one another as a linear map makes them.

    Formula: a rotation R of the whitened columns z for which E[tanh(s) s] is extreme in each component s of z R; then
    Newton's steps to E[tanh(2 s_i) s_j] = 0 for all i ≠ j, with s in units of their median sizes, which frees the components
    from the covariance that heavy tails spoil.

    If the columns are mixtures of independent variables of which at most one is normal, the components are these, up to
    order and scale. Normal ones come out in some rotation.

    Args:
      columns: (n, d) rows; more rows than columns, which must not depend linearly on one another.

    Returns:
      A. It sees one side alone, so it cannot see how rows are paired.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.components import unmix
      >>> sources = np.random.default_rng(0).laplace(size=(10_000, 2))
      >>> mixed = sources @ np.array([[1.0, 1.0], [-1.0, 2.0]])
      >>> correlations = np.corrcoef((mixed @ unmix(mixed)).T, sources.T)[:2, 2:]
      >>> np.sort(np.abs(correlations).ravel()).round(1)
      array([0., 0., 1., 1.])

    Source: Hyvärinen (1999), "Fast and robust fixed-point algorithms for independent component analysis", for the rotation;
    Pham & Garat (1997), "Blind separation of mixture of independent sources through a quasi-maximum likelihood approach".
    """
    columns = columns[:: -(-len(columns) // MOST_ROWS)]
    scale = np.abs(columns).max(axis=0)
    centred = columns / scale
    centred = centred - centred.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    whiten = axes / np.sqrt(np.maximum(variances, 1e-12 * variances[-1]))
    rotated = whiten @ _rotation(centred @ whiten)
    unmixing: Float[np.ndarray, "d d"] = rotated @ _refinement(centred @ rotated) / scale[:, None]
    return unmixing


def is_continuous(columns: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " d"]:
    """Which columns are of so many values that a mixture of continuous variables may have made them."""
    return np.array([np.unique(column).size for column in columns.T]) >= DISTINCT * len(columns)


def depend_linearly(columns: Float[np.ndarray, "n d"]) -> bool:
    """Whether a column is a linear function of others, so that there is nothing to unmix."""
    scaled = columns / np.abs(columns).max(axis=0)
    return bool(np.linalg.matrix_rank(scaled - scaled.mean(axis=0)) < columns.shape[1])


def _rotation(white: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    columns = white.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(columns, columns)))[0]
    for _ in range(MOST_ROUNDS):
        bent = np.tanh(white @ rotation)
        left, _, right = np.linalg.svd(white.T @ bent / len(white) - rotation * np.mean(1 - bent**2, axis=0))
        before, rotation = rotation, left @ right
        if 1 - np.abs(np.sum(before * rotation, axis=0)).min() < CLOSE:
            break
    return rotation


def _refinement(components: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """The matrix that the steps from the components come to."""
    matrix = np.eye(components.shape[1])
    for _ in range(MOST_ROUNDS):
        sizes = np.abs(components @ matrix)
        median = np.median(sizes, axis=0)
        matrix = matrix * SHARPNESS / np.where(median > 0, median, np.mean(sizes, axis=0))
        sizes = components @ matrix
        bent = np.tanh(sizes)
        scale = np.mean(bent * sizes, axis=0)
        slopes = (bent.T @ sizes / len(sizes)) / scale[:, None]
        curvature = (np.mean(1 - bent**2, axis=0) / scale)[:, None] * np.mean(sizes**2, axis=0)
        determinants = curvature * curvature.T - 1  # 0 for two normal components
        step = (curvature.T * slopes - slopes.T) / np.where(determinants == 0, 1, determinants)
        step[np.abs(determinants) < GAUSSIAN] = 0.0
        np.fill_diagonal(step, 0.0)
        largest = np.abs(step).max()
        matrix = matrix @ (np.eye(len(matrix)) - step * min(1.0, LARGEST_STEP / max(largest, CLOSE))).T
        if largest < CLOSE:
            break
    return matrix
