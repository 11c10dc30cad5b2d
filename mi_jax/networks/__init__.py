"""Flax Linen modules: the networks that produce scores, and the densities. One family a file."""

from mi_jax.networks.bijections import AffineCoupling, ConditionalAffine, Standardize, alternating_mask
from mi_jax.networks.canonical import CanonicalCritic
from mi_jax.networks.conv import ConvDecoder, ConvEncoder, JointConvCritic, SeparableConvCritic
from mi_jax.networks.critics import BaselineCritic, BilinearCritic, JointCritic, SeparableCritic
from mi_jax.networks.gaussian import GaussianCritic
from mi_jax.networks.mlp import MLP
from mi_jax.networks.realnvp import ConditionalGaussian, Flow, JointRealNVP, RealNVP
from mi_jax.networks.stacked import StackedCritic
from mi_jax.networks.vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "AffineCoupling",
    "BaselineCritic",
    "BilinearCritic",
    "CanonicalCritic",
    "ConditionalAffine",
    "ConditionalGaussian",
    "ConvDecoder",
    "ConvEncoder",
    "Flow",
    "GaussianCritic",
    "JointConvCritic",
    "JointCritic",
    "JointRealNVP",
    "RealNVP",
    "SeparableConvCritic",
    "SeparableCritic",
    "StackedCritic",
    "Standardize",
    "alternating_mask",
]
