"""Flax Linen modules: the networks that produce scores, and the densities. One family a file."""

from mi_jax.networks.bijections import AffineCoupling, ConditionalAffine, Standardize, alternating_mask
from mi_jax.networks.critics import BaselineCritic, BilinearCritic, JointCritic, SeparableCritic
from mi_jax.networks.gaussian import GaussianCritic
from mi_jax.networks.mlp import MLP
from mi_jax.networks.realnvp import ConditionalGaussian, Flow, JointRealNVP, RealNVP

__all__ = [
    "MLP",
    "AffineCoupling",
    "BaselineCritic",
    "BilinearCritic",
    "ConditionalAffine",
    "ConditionalGaussian",
    "Flow",
    "GaussianCritic",
    "JointCritic",
    "JointRealNVP",
    "RealNVP",
    "SeparableCritic",
    "Standardize",
    "alternating_mask",
]
