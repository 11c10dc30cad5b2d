"""mi_jax: mutual information from samples, for people who live in JAX.

Pure functions from score matrices to nats, networks that produce the scores, and a trainer that runs one seed or a thousand.
`scores[i, j] = T(x_i, y_j)`: joint pairs stand on the diagonal, product-of-marginals pairs off it.

`import mi_jax` imports nothing else, not even JAX. Each name below imports its module when it is first used (PEP 562), so
that the command line can refuse a file without waiting for JAX.
"""

from typing import TYPE_CHECKING

# Type checkers and editors read these imports; at run time `__getattr__` makes them. A test compares the two lists.
if TYPE_CHECKING:
    from mi_jax import (
        bounds,
        consistency,
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

    # Not in `__all__`, but `import mi_jax` gives them too.
    from mi_jax import estimation as estimation
    from mi_jax import sub_batches as sub_batches
    from mi_jax.bounds import dv, infonce, interpolated, logistic_objective, nwj, smile, tuba
    from mi_jax.consistency import self_consistency
    from mi_jax.estimation import Estimate, compare, estimate, load
    from mi_jax.lazy_scores import LazyScores
    from mi_jax.sub_batches import SubBatches
else:
    _MODULES = (
        "bounds",
        "consistency",
        "estimation",
        "estimators",
        "evaluation",
        "lazy_scores",
        "models",
        "networks",
        "projections",
        "sub_batches",
        "tasks",
        "theory",
        "training",
    )
    # Each name and the module that holds it.
    _NAMES = {
        "Estimate": "estimation",
        "LazyScores": "lazy_scores",
        "SubBatches": "sub_batches",
        "compare": "estimation",
        "dv": "bounds",
        "estimate": "estimation",
        "infonce": "bounds",
        "interpolated": "bounds",
        "load": "estimation",
        "logistic_objective": "bounds",
        "nwj": "bounds",
        "self_consistency": "consistency",
        "smile": "bounds",
        "tuba": "bounds",
    }

    def __getattr__(name):
        """Import a module, or the module that holds a name, when it is first asked for."""
        import importlib

        if name in _MODULES:
            return importlib.import_module(f"mi_jax.{name}")
        if name in _NAMES:
            return getattr(importlib.import_module(f"mi_jax.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'mi_jax' has no attribute {name!r}")

    def __dir__():
        """All names, whether they are imported already or not."""
        return sorted({*globals(), *_MODULES, *_NAMES})


__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "LazyScores",
    "SubBatches",
    "bounds",
    "compare",
    "consistency",
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
