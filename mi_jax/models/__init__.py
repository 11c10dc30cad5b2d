"""Models: networks joined with what trains them and what is read out, and the registry of their names."""

from mi_jax.models.base import Critic, Model, Variables
from mi_jax.models.discriminative import discriminative
from mi_jax.models.generative import ba, doe, gm, select_role
from mi_jax.models.registry import make, names

__all__ = ["Critic", "Model", "Variables", "ba", "discriminative", "doe", "gm", "make", "names", "select_role"]
