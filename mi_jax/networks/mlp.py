"""Multilayer perceptrons on rows of any shape."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

PAPER_HIDDEN = (256, 256)

# Uniform on ±1/sqrt(fan_in), as in the authors' framework: a third of LeCun's variance. Scores then start near 0, that is
# at the ratio 1. With LeCun's, on the heavy-tailed Cubic task, a separable critic starts at scores far from 0, where what
# holds e^T diverges sooner and even CPC learns more slowly.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def flatten_rows(rows: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    """Each sample as a vector: (n, *shape) becomes (n, d), and (n,) becomes (n, 1)."""
    return rows.reshape(rows.shape[0], -1)


def dense_layers(
    sizes: Sequence[int], last_init: nn.initializers.Initializer = kernel_init, dtype: Any = None
) -> list[nn.Dense]:
    """Dense layers of these sizes, called Dense_0, Dense_1, …, for a module's `setup` or for its compact method.

    Products have the type `dtype`; those of the last layer have the parameters' type.
    """
    inits, types = {len(sizes) - 1: last_init}, {len(sizes) - 1: None}
    return [
        nn.Dense(size, dtype=types.get(place, dtype), kernel_init=inits.get(place, kernel_init), name=f"Dense_{place}")
        for place, size in enumerate(sizes)
    ]


def through(layers: Sequence[nn.Module], h: Float[Array, "*n d"]) -> Float[Array, "*n out"]:
    """`h` through these layers, with ReLU *before* each: what made `h` was linear."""
    for layer in layers:
        h = layer(nn.relu(h))
    return h


class MLP(nn.Module):
    """Dense layers with ReLU between them; the input rows are flattened, the output is linear.

    Attributes:
      hidden: sizes of the hidden layers; the paper's two of 256 by default.
      features: size of the output.
      last_init: how the last layer's weights start; with zeros the network starts as the function 0.
      dtype: type of the hidden layers and their products, such as `jnp.bfloat16`; by default that of inputs and parameters.
        Parameters and their gradients, the last layer and the output stay float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import MLP
      >>> mlp = MLP(features=3)
      >>> params = mlp.init(jax.random.key(0), jnp.zeros((1, 4, 5)))
      >>> mlp.apply(params, jnp.zeros((7, 4, 5))).shape
      (7, 3)
    """

    hidden: Sequence[int] = PAPER_HIDDEN
    features: int = 1
    last_init: nn.initializers.Initializer = kernel_init
    dtype: Any = None

    @nn.compact
    def __call__(self, rows: Float[Array, "n ..."]) -> Float[Array, "n features"]:
        first, *rest = dense_layers((*self.hidden, self.features), self.last_init, self.dtype)
        return through(rest, first(flatten_rows(rows)))
