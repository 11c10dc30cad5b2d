"""Critics: modules that score every x_i against every y_j.

A critic's `__call__(x, y)` takes n rows of x and m rows of y, of any shape, and returns the (n, m) matrix
`scores[i, j] = T(x_i, y_j)`. Whatever keeps to that is a critic; the models need nothing else of it.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks.mlp import MLP, PAPER_HIDDEN, dense_stack, flatten_rows, kernel_init


class PairDense(nn.Module):
    """A dense layer on every concatenation [x_i; y_j], without building one: W_x x_i + W_y y_j + b.

    Its parameters are those of `nn.Dense` on the concatenated rows, so the two are interchangeable.

    Attributes:
      features: size of the output.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n dx"], y: Float[Array, "m dy"]) -> Float[Array, "n m features"]:
        shape = (x.shape[1] + y.shape[1], self.features)
        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        kernel_x, kernel_y = jnp.split(kernel, [x.shape[1]])
        # The bias goes in with the m rows of y: n·m additions fewer.
        return (x @ kernel_x)[:, None, :] + (y @ kernel_y + bias)[None, :, :]


class JointCritic(nn.Module):
    """The joint critic: an MLP on the concatenation of x_i and y_j, for every pair.

    Formula: T(x, y) = MLP([x; y]), its first layer computed as W_x x_i + W_y y_j + b.

    The n·m rows of the later layers are its cost. Its parameters are those of `MLP` on concatenated rows.

    Attributes:
      hidden: sizes of the hidden layers, ReLU; the text's two of 256 by default. The authors' code, and evidently their
        Table 2, has three: `(256, 256, 256)`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import JointCritic
      >>> critic = JointCritic()
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 28, 28))
      >>> params = critic.init(jax.random.key(0), x, y)
      >>> critic.apply(params, x, y).shape
      (8, 8)

    Source: Song & Ermon (2020), B.1 ("joint"); Belghazi et al. (2018).
    """

    hidden: Sequence[int] = PAPER_HIDDEN

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        first, *rest = (*self.hidden, 1)
        pairs = PairDense(first)(flatten_rows(x), flatten_rows(y))
        # As n·m rows: on (n, m, features) the CPU's products and their gradients make a step slower than it need be.
        rows = pairs.reshape(-1, first)
        return dense_stack(rows, rest).reshape(pairs.shape[:2])


class SeparableCritic(nn.Module):
    """The separable critic: one embedding for x, one for y, and their inner product.

    Formula: T(x, y) = g(x)ᵀ h(y), with g and h two MLPs.

    n + m rows through the networks, not n·m: far cheaper than the joint critic.

    Attributes:
      hidden: sizes of the hidden layers of g and of h, ReLU; two of 256 by default.
      embed: dimension of the embeddings; the paper's 32 by default.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import SeparableCritic
      >>> critic = SeparableCritic()
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 3))
      >>> critic.apply(critic.init(jax.random.key(0), x, y), x, y).shape
      (8, 8)

    Source: Song & Ermon (2020), B.1 ("separable"); van den Oord et al. (2018).
    """

    hidden: Sequence[int] = PAPER_HIDDEN
    embed: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        g = MLP(self.hidden, self.embed, name="g")
        h = MLP(self.hidden, self.embed, name="h")
        return g(x) @ h(y).T


class BilinearCritic(nn.Module):
    """The bilinear critic, linear in x and in y.

    Formula: T(x, y) = xᵀ W y.

    Its initial scale keeps the scores' variance near 1 on standardised inputs of any dimension.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import BilinearCritic
      >>> critic = BilinearCritic()
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 3))
      >>> critic.apply(critic.init(jax.random.key(0), x, y), x, y).shape
      (8, 8)

    Source: van den Oord et al. (2018), Eq. 3.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        x, y = flatten_rows(x), flatten_rows(y)
        scale = (x.shape[1] * y.shape[1]) ** -0.5
        kernel = self.param("kernel", nn.initializers.normal(scale), (x.shape[1], y.shape[1]))
        return x @ kernel @ y.T


class BaselineCritic(nn.Module):
    """A critic with a learned log baseline of x: what TUBA and the interpolated bound train.

    Formula: T(x, y) - a(x), with a an MLP. A baseline is a row shift of the scores, so this is a critic like any other.

    Attributes:
      critic: the module that makes T.
      hidden: sizes of the hidden layers of a.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import BaselineCritic, SeparableCritic
      >>> critic = BaselineCritic(SeparableCritic())
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 3))
      >>> critic.apply(critic.init(jax.random.key(0), x, y), x, y).shape
      (8, 8)

    Source: Poole et al. (2019), Eq. 8.
    """

    critic: nn.Module
    hidden: Sequence[int] = PAPER_HIDDEN

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        return self.critic(x, y) - MLP(self.hidden, 1, name="baseline")(x)
