"""Densities from bijections: RealNVP, and the conditional Gaussian, which is a flow of one affine map.

A density is a module whose `__call__(x, context=None)` is log p(x), or log p(x | context), of n rows, in nats; a joint
density's `__call__(x, y)` is log p(x, y). Rows may have any shape. The generative models need nothing else.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks
from mi_jax.networks.bijections import (
    LOG_SCALE_BOUND,
    PAPER_CONDITIONER,
    AffineCoupling,
    ConditionalAffine,
    Context,
    LogDet,
    Rows,
    Standardize,
    alternating_mask,
)
from mi_jax.networks.mlp import flatten_rows

PAPER_LAYERS = 5

Bijection: TypeAlias = AffineCoupling | ConditionalAffine | Standardize


class Flow(nn.Module):
    """A normalising flow: a density by change of variables, from bijections of its own and a standard normal.

    Formula: log p(x | c) = log N(f(x; c); 0, I) + log |det df/dx|, in nats.

    """

    @property
    def bijections(self) -> Sequence[Bijection]:
        """From data to latent, in order; what a subclass has to say."""
        raise NotImplementedError

    def forward_and_log_det(self, x: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From data to latent, z = f(x; context), and log |det dz/dx|."""
        x, context = _vectors(x=x, context=context)
        log_det = jnp.zeros(x.shape[:1], x.dtype)
        for bijection in self.bijections:
            x, change = bijection.forward_and_log_det(x, context)
            log_det += change
        return x, log_det

    def inverse_and_log_det(self, z: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From latent to data, x = f⁻¹(z; context), and log |det dx/dz|."""
        z, context = _vectors(z=z, context=context)
        log_det = jnp.zeros(z.shape[:1], z.dtype)
        for bijection in reversed(self.bijections):
            z, change = bijection.inverse_and_log_det(z, context)
            log_det += change
        return z, log_det

    def log_prob(self, x: Float[Array, "n ..."], context: Float[Array, "n ..."] | None = None) -> Float[Array, " n"]:
        """The log density of each row, log p(x | context), in nats."""
        z, log_det = self.forward_and_log_det(x, context)
        return jax.scipy.stats.norm.logpdf(z).sum(axis=1) + log_det

    def sample(
        self, key: PRNGKeyArray, shape: Sequence[int], context: Float[Array, "n ..."] | None = None
    ) -> Float[Array, "n ..."]:
        """Draws of this shape, (n, *row's shape), one for each row of the context if there is one.

        Raises:
          TypeError: if `shape` is a number; ValueError: if the context has not n rows.
        """
        if not isinstance(shape, Sequence):
            raise TypeError(f"shape must be that of the rows wanted, (n, *row's shape), got {shape!r}")
        if context is not None and len(context) != shape[0]:
            raise ValueError(
                f"context must have a row for each of the {shape[0]} draws of shape {shape}, got {len(context)}"
            )
        x, _ = self.inverse_and_log_det(jax.random.normal(key, shape), context)
        return x.reshape(shape)

    def __call__(self, x: Float[Array, "n ..."], context: Float[Array, "n ..."] | None = None) -> Float[Array, " n"]:
        return self.log_prob(x, context)


def _vectors(**rows: Any) -> list[Any]:
    """The arguments as equally many vectors of at least float32, None as None.

    A coupling layer would round others again and again, and integers to integers. A context may hold integers or bools: it
    is what a density is given, and not what it is of.
    """
    given = {name: _checks.floating(value, name) for name, value in rows.items() if value is not None and name != "context"}
    if rows.get("context") is not None:
        given["context"] = _checks.numeric(rows["context"], "context")
    _checks.same_rows(**given)
    return [flatten_rows(given[name]) if name in given else None for name in rows]


class RealNVP(Flow):
    """RealNVP: affine coupling layers with alternating masks (`alternating_mask`).

    Formula: f = f_L ∘ ... ∘ f_1, each an `AffineCoupling`; log p(x | c) = log N(f(x; c); 0, I) + Σ_l log |det df_l|, nats.

    It starts as the identity. A context, if there is one, enters every conditioner: then it is a conditional flow. In one
    dimension there is nothing to couple: it is then a Gaussian, whose mean and scale depend on the context.

    Attributes:
      layers: coupling layers, at least 1; the paper's 5 by default.
      hidden: sizes of each conditioner's hidden layers, ReLU; the paper's two of 100 by default.
      log_scale_bound: the largest |log-scale| of a layer. It is meant for data in standard units; five layers move a
        coordinate two or three times, so scales beyond e^6 to e^9 of them are out of reach.
      boundary: where the halves of the masks part; in the middle by default.
      standardize: a fixed bijection before the layers, for rows in other units; none by default. It is not for the context,
        which a conditioner takes as it comes: standardise that yourself.

    Rows are floating; integers are refused, since a density of them has no meaning. A context may hold either.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import RealNVP
      >>> flow = RealNVP(layers=2, hidden=(16,))
      >>> params = jax.jit(flow.init)(jax.random.key(0), jnp.zeros((1, 3)))
      >>> print(f"{jax.jit(flow.apply)(params, jnp.zeros((1, 3)))[0]:.3f}")  # it starts as the standard normal
      -2.757
      >>> flow.apply(params, jax.random.key(1), (5, 3), method="sample").shape
      (5, 3)
      >>> x, y = jnp.zeros((4, 3)), jnp.ones((4, 2))
      >>> log_density, given_y = jax.jit(flow.init_with_output)(jax.random.key(0), x, y)
      >>> log_density.shape  # log q(x | y), as of `flow.apply(given_y, x, y)`
      (4,)

    Source: Dinh et al. (2016), Section 3; Song & Ermon (2020), B.1.
    """

    layers: int = PAPER_LAYERS
    hidden: Sequence[int] = PAPER_CONDITIONER
    log_scale_bound: float = LOG_SCALE_BOUND
    boundary: int | None = None
    standardize: Standardize | None = None

    def setup(self) -> None:
        _checks.positive_int(self.layers, "layers")
        masks = [functools.partial(alternating_mask, layer, boundary=self.boundary) for layer in range(self.layers)]
        self.couplings = [AffineCoupling(mask, self.hidden, self.log_scale_bound) for mask in masks]

    @property
    def bijections(self) -> Sequence[Bijection]:
        """The standardisation, if there is one, and the coupling layers."""
        return (*(() if self.standardize is None else (self.standardize,)), *self.couplings)


class JointRealNVP(nn.Module):
    """A RealNVP for pairs: log p(x, y), its halves x and y, so that the first layers set one against the other.

    Formula: log p(x, y) = log p_RealNVP([x; y]), in nats.

    Attributes:
      layers, hidden, log_scale_bound: as in `RealNVP`.
      standardize: a fixed bijection of [x; y] before the layers; none by default.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import JointRealNVP
      >>> density = JointRealNVP(layers=2, hidden=(16,))
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 3))
      >>> log_density, params = jax.jit(density.init_with_output)(jax.random.key(0), x, y)
      >>> log_density.shape
      (8,)

    Source: Song & Ermon (2020), Eq. 9 and B.1.
    """

    layers: int = PAPER_LAYERS
    hidden: Sequence[int] = PAPER_CONDITIONER
    log_scale_bound: float = LOG_SCALE_BOUND
    standardize: Standardize | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], y: Float[Array, "n ..."]) -> Float[Array, " n"]:
        x, y = _vectors(x=x, y=y)
        flow = RealNVP(self.layers, self.hidden, self.log_scale_bound, boundary=x.shape[1], standardize=self.standardize)
        return flow(jnp.concatenate([x, y], axis=1))


class ConditionalGaussian(Flow):
    """A Gaussian with independent coordinates, whose means and scales a network makes from the context.

    Formula: log p(x | c) = Σ_k log N(x_k; μ_k(c), σ_k(c)²), in nats; σ = e^{-s(c)} and μ = -σ t(c) of a `ConditionalAffine`.

    Without a context it is a Gaussian.

    Attributes:
      hidden: sizes of the network's hidden layers, ReLU; () makes shift and log-scale linear in the context.
      log_scale_bound: the largest |log σ|. Standardise the data: a σ that lies beyond makes the density wrong, and where y
        all but determines x, by more than this many nats a coordinate, it is too wide in any units.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import ConditionalGaussian
      >>> density = ConditionalGaussian()
      >>> x, y = jnp.zeros((8, 20)), jnp.zeros((8, 3))
      >>> log_density, params = jax.jit(density.init_with_output)(jax.random.key(0), x, y)
      >>> log_density.shape
      (8,)

    Source: Barber & Agakov (2003); Song & Ermon (2020), Eq. 2.
    """

    hidden: Sequence[int] = PAPER_CONDITIONER
    log_scale_bound: float = 2 * LOG_SCALE_BOUND  # one layer has to do what several can elsewhere

    def setup(self) -> None:
        self.affine = ConditionalAffine(self.hidden, self.log_scale_bound)

    @property
    def bijections(self) -> Sequence[Bijection]:
        """The one affine map."""
        return (self.affine,)
