"""Variational autoencoders: densities of images, known by a lower bound."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mi_jax.networks.conv import PAPER_CHANNELS, PAPER_DENSE, ConvDecoder, ConvEncoder, as_images
from mi_jax.networks.mlp import MLP

# Limits of log α and log β. Below, a pixel is certain to 1e-4 nats; above, lgamma's rounding in float32 would show.
LOWEST, HIGHEST = -12.0, 7.0


def beta_binomial(
    values: Int[Array, "*s"], levels: int, log_alpha: Float[Array, "*s"], log_beta: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """The log probability of whole numbers from 0 to `levels`: a binomial one whose probability is Beta(α, β).

    Formula: log C(N, k) + log B(k + α, N - k + β) - log B(α, β), with N the levels.

    Args:
      values: k, whole numbers, of any shape.
      levels: N.
      log_alpha: log α, clipped to [-12, 7],
      log_beta: and log β likewise.

    Returns:
      Log probabilities, in nats, of the same shape: -inf outside of 0 to N, else at most 0 up to rounding.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax.networks import vae
      >>> print(f"{vae.beta_binomial(jnp.array(3), 255, jnp.array(0.0), jnp.array(0.0)):.3f}")  # uniform: -log 256
      -5.545
    """
    factorial = np.array([math.lgamma(k + 1) for k in range(levels + 1)])  # its log, in float64
    table = jnp.asarray(factorial[-1] - factorial - factorial[::-1], jnp.float32)
    alpha, beta = (jnp.exp(jnp.clip(raw, LOWEST, HIGHEST)) for raw in (log_alpha, log_beta))
    lgamma = _log_gamma
    count = jnp.clip(values, 0, levels).astype(jnp.float32)
    posterior = lgamma(count + alpha) + lgamma(levels - count + beta) - lgamma(levels + alpha + beta)
    found = table[values] + posterior + lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta)
    return jnp.where((values >= 0) & (values <= levels), found, -jnp.inf)


def _log_gamma(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Log Γ of positive numbers up to 1e4: Stirling's series at x + 4. As exact as XLA's, which is slower."""
    z = x + 4.0
    inverse = 1.0 / z
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    stirling = (z - 0.5) * jnp.log(z) - z + 0.5 * math.log(2 * math.pi) + series
    return stirling - jnp.log(x * (x + 1.0) * (x + 2.0) * (x + 3.0))


class VAE(nn.Module):
    """A variational autoencoder of images, or of several stacked over channels: a lower bound on their log probability.

    Formula: with z_k ~ q(z | x) = N(mean(x), scale(x)²), log (1/K) Σ_k p(x | z_k) p(z_k) / q(z_k | x) in nats, p(z) standard
    normal; for K = 1 the ELBO E_q[log p(x | z)] - KL(q(z | x) ‖ p(z)), the divergence in closed form and the mean by one
    draw. Pixels are whole numbers and their p(x | z) a beta-binomial each, α and β from the decoder.

    A *discrete* likelihood: where y is a part of x the mutual information of continuous pixels is infinite, and a normal
    likelihood with a scale of its own diverges on pixels that are always 0. Here a certain pixel has log probability 0.

    Draws z from the random stream "sample": `apply(params, images, rngs={"sample": key})`. `models.gm` does.

    Attributes:
      latents: dimension of z; the paper's 10.
      samples: K. More than 1 is the importance-weighted bound, which rises with K towards log p(x); the parameters are the
        same.
      levels: the largest pixel: 255 of bytes; 1 of binary images, whose likelihood is then Bernoulli's.
      decoder: sizes of an MLP's hidden layers, the paper's two of 400 (MNIST); or None for the encoder's mirror image, with
        transposed convolutions (CIFAR-10).
      channels: of the encoder's convolutions,
      hidden: and sizes of its dense layers before the last, as in `ConvEncoder`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import VAE
      >>> images = jnp.zeros((4, 28, 28), jnp.uint8)
      >>> vae = VAE(channels=(8,), hidden=(32,), decoder=(32,))
      >>> params = jax.jit(vae.init)(jax.random.key(0), images)
      >>> jax.jit(vae.apply)(params, images, rngs={"sample": jax.random.key(1)}).shape
      (4,)

    Source: Song & Ermon (2020), B.2; Kingma & Welling (2014), Eq. 10; Burda et al. (2016), Eq. 8, for K > 1; Townsend et al.
    (2019), "Practical lossless compression with latent variables", for the beta-binomial pixels.
    """

    latents: int = 10
    samples: int = 1
    levels: int = 255
    decoder: Sequence[int] | None = (400, 400)
    channels: Sequence[int] = PAPER_CHANNELS
    hidden: Sequence[int] = PAPER_DENSE

    stochastic: ClassVar[bool] = True  # takes the random stream "sample"

    @nn.compact
    def __call__(self, *images: Any) -> Float[Array, " n"]:
        pixels = jnp.concatenate([_whole(rows) for rows in images], axis=-1)
        n, *shape = pixels.shape
        encoded = ConvEncoder(2 * self.latents, self.channels, self.hidden, name="encoder")(pixels / self.levels)
        mean, log_scale = jnp.split(encoded, 2, axis=1)
        noise = jax.random.normal(self.make_rng("sample"), (self.samples, *mean.shape))
        z = mean + jnp.exp(log_scale) * noise
        raw = self._decoder(shape)(z.reshape(-1, self.latents)).reshape(self.samples, n, *shape, 2)
        log_pixels = beta_binomial(jnp.broadcast_to(pixels, raw.shape[:-1]), self.levels, raw[..., 0], raw[..., 1])
        log_likelihood = log_pixels.sum(axis=(2, 3, 4))
        if self.samples == 1:
            divergence = 0.5 * (jnp.exp(2 * log_scale) + mean**2 - 1) - log_scale
            return log_likelihood[0] - divergence.sum(axis=1)
        # log p(z) - log q(z | x): the constants cancel.
        log_prior = jnp.sum(0.5 * noise**2 - 0.5 * z**2 + log_scale, axis=2)
        return jax.nn.logsumexp(log_likelihood + log_prior, axis=0) - jnp.log(self.samples)

    def _decoder(self, shape: Sequence[int]) -> nn.Module:
        """From z to two numbers a pixel, log α and log β, flat or not."""
        height, width, channels = shape
        if self.decoder is None:
            return ConvDecoder((height, width, 2 * channels), self.channels, self.hidden, name="decoder")
        return MLP(self.decoder, height * width * channels * 2, name="decoder")


def _whole(rows: Any) -> Int[Array, "n h w c"]:
    """Images of whole numbers, with channels."""
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise ValueError(f"images must be whole numbers, 0 to the largest pixel, got dtype {rows.dtype}")
    return as_images(rows.astype(jnp.int32))
