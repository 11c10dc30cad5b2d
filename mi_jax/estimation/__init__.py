"""From a user's arrays to an estimate with an interval and warnings, one file a step; `pipeline` is the whole."""

from mi_jax.estimation.pipeline import estimate
from mi_jax.estimation.result import Difference, Estimate, compare, load

__all__ = ["Difference", "Estimate", "compare", "estimate", "load"]
