"""mi_jax: mutual information from samples, for people who live in JAX.

Pure functions from score matrices to nats, networks that produce the scores, and a trainer that runs one seed or a thousand.
`scores[i, j] = T(x_i, y_j)`: joint pairs stand on the diagonal, product-of-marginals pairs off it.
"""

from mi_jax import (
    bounds,
    consistency,
    datasets,
    estimators,
    evaluation,
    lazy_scores,
    models,
    networks,
    projections,
    tasks,
    theory,
    training,
)
from mi_jax.bounds import dv, infonce, interpolated, logistic_objective, nwj, smile, tuba
from mi_jax.consistency import self_consistency
from mi_jax.estimation import Estimate, compare, estimate, load
from mi_jax.lazy_scores import LazyScores
from mi_jax.sub_batches import SubBatches

__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "LazyScores",
    "SubBatches",
    "bounds",
    "compare",
    "consistency",
    "datasets",
    "dv",
    "estimate",
    "estimators",
    "evaluation",
    "infonce",
    "interpolated",
    "lazy_scores",
    "load",
    "logistic_objective",
    "models",
    "networks",
    "nwj",
    "projections",
    "self_consistency",
    "smile",
    "tasks",
    "theory",
    "training",
    "tuba",
]
