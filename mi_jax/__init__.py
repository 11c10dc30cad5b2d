"""mi_jax: mutual information from samples, for people who live in JAX.

Pure functions from score matrices to nats, networks that produce the scores, and a trainer that runs one seed or a thousand.
`scores[i, j] = T(x_i, y_j)`: joint pairs stand on the diagonal, product-of-marginals pairs off it.
"""

from mi_jax import (
    blocks,
    bounds,
    consistency,
    estimators,
    evaluation,
    models,
    networks,
    projections,
    tasks,
    theory,
    training,
)
from mi_jax.blocks import Blocks
from mi_jax.bounds import dv, infonce, interpolated, logistic_objective, nwj, smile, tuba
from mi_jax.consistency import self_consistency
from mi_jax.estimation import Estimate, estimate
from mi_jax.groups import Groups

__version__ = "0.1.0"

__all__ = [
    "Blocks",
    "Estimate",
    "Groups",
    "blocks",
    "bounds",
    "consistency",
    "dv",
    "estimate",
    "estimators",
    "evaluation",
    "infonce",
    "interpolated",
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
