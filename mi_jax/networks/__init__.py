"""Flax Linen modules: the networks that produce scores. One family a file."""

from mi_jax.networks.critics import BaselineCritic, BilinearCritic, JointCritic, SeparableCritic
from mi_jax.networks.mlp import MLP

__all__ = ["MLP", "BaselineCritic", "BilinearCritic", "JointCritic", "SeparableCritic"]
