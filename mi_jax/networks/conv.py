"""Convolutional networks on images: an encoder of one, and critics of two.

Images are (n, height, width) or (n, height, width, channels); those of bytes are divided by 255.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks.critics import Encoding, Separable, outer_sum
from mi_jax.networks.mlp import dense_layers, flatten_rows, kernel_init, through

PAPER_CHANNELS = (64, 128)
PAPER_DENSE = (1024,)
# Every convolution here has 5 x 5 taps, stride 2 and padding 2; the functions below rely on it.
SIZE, STRIDE, PADDING = 5, 2, 2
OFFSETS = tuple((i, j) for i in range(SIZE) for j in range(SIZE))


def as_images(rows: Any, name: str = "images") -> Float[Array, "n h w c"]:
    """Rows as floating images with channels; bytes become numbers from 0 to 1."""
    if rows.ndim == 3:
        rows = rows[..., None]
    if rows.ndim != 4:
        raise ValueError(f"{name} must be (n, height, width) or (n, height, width, channels), got shape {rows.shape}")
    return rows.astype(jnp.float32) / 255.0 if rows.dtype == jnp.uint8 else rows


def _native(images: Float[Array, "n h w c"], kernel: Float[Array, "5 5 c f"]) -> Float[Array, "n hh ww f"]:
    pads = [(PADDING, PADDING)] * 2
    return jax.lax.conv_general_dilated(images, kernel, (STRIDE,) * 2, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def convolve(images: Float[Array, "n h w c"], kernel: Float[Array, "5 5 c f"]) -> Float[Array, "n hh ww f"]:
    """The convolution of 5 x 5, stride 2 and padding 2.

    On accelerators its gradients are XLA's own. On CPUs they are matrix products, because XLA's CPU compiler makes its own
    many times slower inside a loop such as `lax.scan`, that of the kernel above all.
    """
    return _native(images, kernel)


def _convolve_forward(images, kernel):
    return convolve(images, kernel), (images, kernel)


def _convolve_backward(saved, slope):
    images, kernel = saved
    return image_gradient(slope, kernel, images.shape[1:3]), kernel_gradient(images, slope)


convolve.defvjp(_convolve_forward, _convolve_backward)


def image_gradient(
    slope: Float[Array, "n hh ww f"], kernel: Float[Array, "5 5 c f"], shape: Sequence[int]
) -> Float[Array, "n h w c"]:
    """The gradient of `convolve` in images of this height and width: its adjoint, the transposed convolution."""

    def native(slope, kernel):
        like = jax.ShapeDtypeStruct((slope.shape[0], *shape, kernel.shape[2]), slope.dtype)
        return jax.linear_transpose(lambda images: _native(images, kernel), like)(slope)[0]

    def products(slope, kernel):
        n, rows, columns, features = slope.shape
        height, width = (side + 2 * PADDING for side in shape)
        total = jnp.zeros((n, height, width, kernel.shape[2]), jnp.promote_types(slope.dtype, jnp.float32))
        for i, j in OFFSETS:
            part = jnp.matmul(slope.reshape(-1, features), kernel[i, j].T, preferred_element_type=total.dtype)
            part = part.reshape(n, rows, columns, -1)
            edges = [(i, height - i - _span(rows), STRIDE - 1), (j, width - j - _span(columns), STRIDE - 1)]
            total += jax.lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        return total[:, PADDING:-PADDING, PADDING:-PADDING].astype(slope.dtype)

    return jax.lax.platform_dependent(slope, kernel, cpu=products, default=native)


def kernel_gradient(images: Float[Array, "n h w c"], slope: Float[Array, "n hh ww f"]) -> Float[Array, "5 5 c f"]:
    """The gradient of `convolve` in its kernel."""

    def native(images, slope):
        like = jax.ShapeDtypeStruct((SIZE, SIZE, images.shape[-1], slope.shape[-1]), images.dtype)
        return jax.linear_transpose(lambda kernel: _native(images, kernel), like)(slope)[0]

    def products(images, slope):
        padded = jnp.pad(images, [(0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)])
        _, rows, columns, features = slope.shape
        seen = [
            padded[:, i : i + _span(rows) : STRIDE, j : j + _span(columns) : STRIDE].reshape(-1, images.shape[-1])
            for i, j in OFFSETS
        ]
        slopes = slope.reshape(-1, features)
        return jnp.stack([part.T @ slopes for part in seen]).reshape(SIZE, SIZE, images.shape[-1], features)

    return jax.lax.platform_dependent(images, slope, cpu=products, default=native)


def _span(number: int) -> int:
    """How far apart the first and the last of so many steps are, both included."""
    return STRIDE * (number - 1) + 1


@jax.custom_vjp
def transposed(z: Float[Array, "n hh ww f"], kernel: Float[Array, "5 5 c f"]) -> Float[Array, "n h w c"]:
    """The transposed convolution, the adjoint of `convolve`: to twice the height and width."""
    return image_gradient(z, kernel, (STRIDE * z.shape[1], STRIDE * z.shape[2]))


def _transposed_forward(z, kernel):
    return transposed(z, kernel), (z, kernel)


def _transposed_backward(saved, slope):
    z, kernel = saved
    return convolve(slope, kernel), kernel_gradient(slope, z)


transposed.defvjp(_transposed_forward, _transposed_backward)


class Conv(nn.Module):
    """`convolve` with a kernel and a bias: `nn.Conv` of this size, with its parameters and its `dtype`."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n hh ww features"]:
        kernel = self.param("kernel", kernel_init, (SIZE, SIZE, images.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias, dtype=self.dtype)
        return convolve(images, kernel) + bias


class ConvTranspose(nn.Module):
    """`transposed` with a kernel and a bias."""

    features: int

    @nn.compact
    def __call__(self, z: Float[Array, "n hh ww c"]) -> Float[Array, "n h w features"]:
        kernel = self.param("kernel", kernel_init, (SIZE, SIZE, self.features, z.shape[-1]))
        return transposed(z, kernel) + self.param("bias", nn.initializers.zeros_init(), (self.features,))


def _conv_layers(channels: Sequence[int], dtype: Any) -> list[Conv]:
    return [Conv(features, dtype, name=f"Conv_{place}") for place, features in enumerate(channels)]


class ConvEncoder(nn.Module):
    """The paper's network for images: strided 5 x 5 convolutions, then dense layers, ReLU between them.

    Attributes:
      features: size of the output, which is linear.
      channels: of the convolutions, each of stride 2; the paper's 64 and 128 by default.
      hidden: sizes of the dense layers before the last; the paper's one of 1,024.
      dtype: type of convolutions and hidden layers, such as `jnp.bfloat16`, as of `JointCritic`; parameters,
        their gradients, the last layer and the output stay float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import ConvEncoder
      >>> encoder, images = ConvEncoder(features=10, channels=(8, 16), hidden=(32,)), jnp.zeros((4, 28, 28))
      >>> codes, params = jax.jit(encoder.init_with_output)(jax.random.key(0), images)
      >>> codes.shape
      (4, 10)

    Source: Song & Ermon (2020), B.2.
    """

    features: int
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: Sequence[int] = PAPER_DENSE
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Any) -> Float[Array, "n features"]:
        first, *rest = _conv_layers(self.channels, self.dtype)
        h = through(rest, first(as_images(images)))
        return through(dense_layers((*self.hidden, self.features), dtype=self.dtype), flatten_rows(h))


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`: dense layers, then transposed 5 x 5 convolutions of stride 2, ReLU between them.

    Attributes:
      shape: height, width and channels of the output, which is linear.
      channels: of the encoder's convolutions, which this goes back through,
      hidden: and its dense layers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import ConvDecoder
      >>> decoder, z = ConvDecoder(shape=(32, 32, 3), channels=(8,), hidden=(32,)), jnp.zeros((4, 10))
      >>> images, params = jax.jit(decoder.init_with_output)(jax.random.key(0), z)
      >>> images.shape
      (4, 32, 32, 3)

    Source: Song & Ermon (2020), B.2.
    """

    shape: Sequence[int]
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: Sequence[int] = PAPER_DENSE

    @nn.compact
    def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
        height, width, out = self.shape
        scale = STRIDE ** len(self.channels)
        rows, columns = -(-height // scale), -(-width // scale)  # cut to size at the end
        *inner, last = self.channels
        first, *rest = dense_layers((*self.hidden[::-1], rows * columns * last))
        h = through(rest, first(z)).reshape(-1, rows, columns, last)
        for features in (*inner[::-1], out):
            h = ConvTranspose(features)(nn.relu(h))
        return h[:, :height, :width]


class PairConv(nn.Module):
    """A convolution of every x_i and y_j stacked over their channels, without stacking any.

    A convolution is linear, so that of the stack is one of x_i plus one of y_j: n + m convolutions, not n·m. It gives the
    two terms. Its parameters are those of `nn.Conv` on the stacked images, so the two are interchangeable.

    Attributes:
      features: channels of the output.
      dtype: type of the convolutions and the output; by default that of inputs and parameters.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w cx"], y: Float[Array, "m h w cy"]
    ) -> tuple[Float[Array, "n hh ww features"], Float[Array, "m hh ww features"]]:
        channels = x.shape[-1] + y.shape[-1]
        kernel = self.param("kernel", kernel_init, (SIZE, SIZE, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, y, kernel, bias = nn.dtypes.promote_dtype(x, y, kernel, bias, dtype=self.dtype)
        kernel_x, kernel_y = jnp.split(kernel, [x.shape[-1]], axis=2)
        return convolve(x, kernel_x), convolve(y, kernel_y) + bias


class JointConvCritic(Encoding):
    """The paper's critic of images: one network on x_i and y_j stacked over their channels, for every pair.

    Formula: T(x, y) = ConvEncoder([x, y]), its first convolution computed as one of x_i plus one of y_j.

    The n·m stacks behind the first layer are its cost: a second a step at n = 32 on 2 cores (`benchmarks.throughput.steps`).
    `models.discriminative(critic, estimator, sub_batch=…)` scores fewer pairs a batch. x and y must have the same height and
    width.

    Attributes:
      channels: of the convolutions, each of 5 x 5 and stride 2; the paper's 64 and 128 by default.
      hidden: sizes of the dense layers before the last; the paper's one of 1,024.
      dtype: type of convolutions and hidden layers, such as `jnp.bfloat16`, as of `JointCritic`; parameters,
        their gradients, the last layer and the scores stay float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import JointConvCritic
      >>> critic = JointConvCritic(channels=(8, 16), hidden=(32,))
      >>> x, y = jnp.zeros((4, 28, 28)), jnp.zeros((4, 28, 28, 2))
      >>> scores, params = jax.jit(critic.init_with_output)(jax.random.key(0), x, y)
      >>> scores.shape
      (4, 4)

    Source: Song & Ermon (2020), B.2.
    """

    channels: Sequence[int] = PAPER_CHANNELS
    hidden: Sequence[int] = PAPER_DENSE
    dtype: Any = None

    def setup(self) -> None:
        first, *rest = self.channels
        self.first = PairConv(first, self.dtype, name="PairConv_0")
        self.convolutions = _conv_layers(rest, self.dtype)
        self.dense = dense_layers((*self.hidden, 1), dtype=self.dtype)

    def encode(self, x: Any, y: Any) -> tuple[Array, Array]:
        """The first convolution of x_i, and of y_j."""
        x, y = as_images(x, "x"), as_images(y, "y")
        if x.shape[1:3] != y.shape[1:3]:
            raise ValueError(f"x and y must have the same height and width, got {x.shape[1:3]} and {y.shape[1:3]}")
        return self.first(x, y)

    def pair(self, codes_x: Float[Array, "n h w f"], codes_y: Float[Array, "m h w f"]) -> Float[Array, "n m"]:
        """The later layers on their sums."""
        h = flatten_rows(through(self.convolutions, outer_sum(codes_x, codes_y)))
        return through(self.dense, h).reshape(len(codes_x), len(codes_y))


class SeparableConvCritic(Separable):
    """A separable critic of images: one embedding for x, one for y, and their inner product.

    Formula: T(x, y) = g(x)ᵀ h(y), with g and h two `ConvEncoder`s.

    n + m images through the networks, not n·m pairs. x and y may differ in size.

    Attributes:
      embed: dimension of the embeddings.
      channels: of the convolutions of g and of h,
      hidden: and sizes of their dense layers before the last, as in the paper's joint critic.
      dtype: type of convolutions and hidden layers, such as `jnp.bfloat16`, as of `JointCritic`; parameters,
        their gradients, embeddings and scores stay float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import SeparableConvCritic
      >>> critic = SeparableConvCritic(channels=(8, 16), hidden=(32,))
      >>> x, y = jnp.zeros((4, 28, 28)), jnp.zeros((6, 32, 32, 3))
      >>> scores, params = jax.jit(critic.init_with_output)(jax.random.key(0), x, y)
      >>> scores.shape
      (4, 6)

    Source: Song & Ermon (2020), B.1 ("separable") and B.2, whose network the encoders are.
    """

    embed: int = 32
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: Sequence[int] = PAPER_DENSE
    dtype: Any = None

    def setup(self) -> None:
        self.g = ConvEncoder(self.embed, self.channels, self.hidden, self.dtype)
        self.h = ConvEncoder(self.embed, self.channels, self.hidden, self.dtype)
