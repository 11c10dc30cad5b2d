"""Critics: modules that score every x_i against every y_j.

A critic's `__call__(x, y)` takes n rows of x and m rows of y, of any shape, and returns the (n, m) matrix
`scores[i, j] = T(x_i, y_j)`. Whatever keeps to that is a critic; the models need nothing else of it.

Those here are made of two methods: `encode(x, y)`, what is done once a row, gives the codes of the rows of x and of y, and
`pair(codes_x, codes_y)`, what is done once a pair, their scores. Where scores are made block by block (`mi_jax.LazyScores`),
rows are then encoded once, and not again for each block.

A critic that fits constants to the rows that `init` is given may also have `fit_constants(x, y, weights)`, which gives those
collections for rows with weights; a critic without it takes no padding.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks.mlp import MLP, PAPER_HIDDEN, dense_layers, flatten_rows, kernel_init, through

# From about so many rows on, XLA's sum over all x_i, a leading axis, is slower on CPUs than a product of matrices.
MANY_ROWS = 100


def encode(critic: nn.Module, x: Any, y: Any) -> tuple[Any, Any]:
    """The codes of the rows of x and of those of y, for `critic.apply(params, x, y, method=encode)`.

    A critic without a method `encode` takes the rows as they are.
    """
    return critic.encode(x, y) if hasattr(critic, "encode") else (x, y)


def pair(critic: nn.Module, codes_x: Any, codes_y: Any) -> Float[Array, "n m"]:
    """The scores of all pairs of codes, for `critic.apply(params, codes_x, codes_y, method=pair)`."""
    score = critic.pair if hasattr(critic, "pair") else critic
    return score(codes_x, codes_y)


class Encoding(nn.Module):
    """A critic whose scores are the `pair` of what it `encode`s."""

    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        return pair(self, *encode(self, x, y))


class Separable(Encoding):
    """A critic of two embeddings, `g` of x and `h` of y, which `setup` makes: T(x, y) = g(x)ᵀ h(y)."""

    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple[Array, Array]:
        """g(x_i) and h(y_j)."""
        return self.g(x), self.h(y)

    def pair(self, codes_x: Float[Array, "n embed"], codes_y: Float[Array, "m embed"]) -> Float[Array, "n m"]:
        """Their inner products."""
        return codes_x @ codes_y.T


class PairDense(nn.Module):
    """A dense layer on every concatenation [x_i; y_j], without building one: W_x x_i + W_y y_j + b.

    It gives the two terms, whose `outer_sum` the layer is. Its parameters are those of `nn.Dense` on the concatenated rows,
    so the two are interchangeable.

    Attributes:
      features: size of the output.
      dtype: type of the products and the output; by default that of inputs and parameters.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "n dx"], y: Float[Array, "m dy"]
    ) -> tuple[Float[Array, "n features"], Float[Array, "m features"]]:
        shape = (x.shape[1] + y.shape[1], self.features)
        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, y, kernel, bias = nn.dtypes.promote_dtype(x, y, kernel, bias, dtype=self.dtype)
        kernel_x, kernel_y = jnp.split(kernel, [x.shape[1]])
        # The bias goes in with the m rows of y: n·m additions fewer.
        return x @ kernel_x, y @ kernel_y + bias


@jax.custom_jvp
def outer_sum(of_x: Float[Array, "n ..."], of_y: Float[Array, "m ..."]) -> Float[Array, "nm ..."]:
    """The sums of all pairs, as n·m rows: on (n, m, …) the CPU's products and their gradients are slower."""
    return (of_x[:, None] + of_y[None]).reshape(-1, *of_x.shape[1:])


@outer_sum.defjvp
def _outer_sum_jvp(primals, tangents):
    slope_x, slope_y = tangents
    if len(slope_x) >= MANY_ROWS:
        # Copied by a product, so that the gradient of y, a sum over the x_i, is a product, too.
        ones = jnp.ones((len(slope_x), 1), slope_y.dtype)
        slope_y = jnp.matmul(ones, slope_y.reshape(1, -1), precision="highest").reshape(-1, *slope_y.shape)
    return outer_sum(*primals), (slope_x[:, None] + slope_y).reshape(-1, *slope_x.shape[1:])


class JointCritic(Encoding):
    """The joint critic: an MLP on the concatenation of x_i and y_j, for every pair.

    Formula: T(x, y) = MLP([x; y]), its first layer computed as W_x x_i + W_y y_j + b.

    The n·m rows of the later layers are its cost. Its parameters are those of `MLP` on concatenated rows.

    Attributes:
      hidden: sizes of the hidden layers, ReLU; the text's two of 256 by default. The authors' code, and evidently their
        Table 2, has three: `(256, 256, 256)`.
      dtype: type of the hidden layers and their products, such as `jnp.bfloat16`; by default that of inputs and parameters.
        Parameters and their gradients, the last layer and the scores stay float32.

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
    dtype: Any = None

    def setup(self) -> None:
        first, *rest = (*self.hidden, 1)
        self.first = PairDense(first, self.dtype if rest else None, name="PairDense_0")
        self.rest = dense_layers(rest, dtype=self.dtype)

    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple[Array, Array]:
        """W_x x_i and W_y y_j + b."""
        return self.first(flatten_rows(x), flatten_rows(y))

    def pair(self, codes_x: Float[Array, "n f"], codes_y: Float[Array, "m f"]) -> Float[Array, "n m"]:
        """The later layers on their sums."""
        return through(self.rest, outer_sum(codes_x, codes_y)).reshape(len(codes_x), len(codes_y))


class SeparableCritic(Separable):
    """The separable critic: one embedding for x, one for y, and their inner product.

    Formula: T(x, y) = g(x)ᵀ h(y), with g and h two MLPs.

    n + m rows through the networks, not n·m: far cheaper than the joint critic.

    Attributes:
      hidden: sizes of the hidden layers of g and of h, ReLU; two of 256 by default.
      embed: dimension of the embeddings; the paper's 32 by default.
      dtype: type of the hidden layers and their products, as of `JointCritic`; embeddings and scores stay float32.

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
    dtype: Any = None

    def setup(self) -> None:
        self.g = MLP(self.hidden, self.embed, dtype=self.dtype)
        self.h = MLP(self.hidden, self.embed, dtype=self.dtype)


class BilinearCritic(Separable):
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
    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple[Array, Array]:
        """Wᵀ x_i and y_j."""
        x, y = flatten_rows(x), flatten_rows(y)
        scale = (x.shape[1] * y.shape[1]) ** -0.5
        kernel = self.param("kernel", nn.initializers.normal(scale), (x.shape[1], y.shape[1]))
        return x @ kernel, y


class BaselineCritic(Encoding):
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

    def setup(self) -> None:
        self.baseline = MLP(self.hidden, 1)

    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple[Any, Any]:
        """The critic's codes, and a(x_i)."""
        codes_x, codes_y = encode(self.critic, x, y)
        return (codes_x, self.baseline(x)), codes_y

    def pair(self, codes_x: tuple[Any, Float[Array, "n 1"]], codes_y: Any) -> Float[Array, "n m"]:
        """The critic's scores less a(x_i)."""
        return pair(self.critic, codes_x[0], codes_y) - codes_x[1]
