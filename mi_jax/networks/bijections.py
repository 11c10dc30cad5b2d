"""Bijections between data and latent rows: the affine maps, fixed, conditional and coupling, that flows are made of.

`forward_and_log_det` goes from data to latent, z = f(x) as in Dinh et al. (2016), and `inverse_and_log_det` back. Both give
the rows they make and log |det| of *their own* Jacobian, one number a row, in nats. Rows are (n, d); a context is (n, c),
and what depends on it is a bijection of x for every value of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mi_jax import _checks
from mi_jax.networks.mlp import MLP, flatten_rows

PAPER_CONDITIONER = (100, 100)
# e^±3 a layer, and each coordinate is moved by two or three of five layers: ample for data in standard units, and little
# enough for values and gradients to stay finite at rows a million standard deviations out (tested at random parameters).
LOG_SCALE_BOUND = 3.0

Rows = Float[Array, "n d"]
Context = Float[Array, "n c"]
LogDet = Float[Array, " n"]


class Standardize(NamedTuple):
    """Standardisation, a *fixed* affine bijection: nothing in it is trained, and its log-determinant counts.

    Formula: z = (x - mean) / scale; log |det dz/dx| = -Σ_k log scale_k.

    Attributes:
      mean: (d,) what is taken off.
      scale: (d,) what is divided by; positive. Rows of another dimension raise a ValueError.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax.networks import Standardize
      >>> rows = jnp.array([[0.0, 10.0], [2.0, 30.0]])
      >>> z, log_det = Standardize.of(rows).forward_and_log_det(rows)
      >>> print(z, f"{log_det[0]:.3f}")
      [[-1. -1.]
       [ 1.  1.]] -2.303
    """

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    @classmethod
    def of(cls, rows: Float[Array, "n ..."]) -> "Standardize":
        """The one that gives these rows mean 0 and standard deviation 1 in every coordinate.

        Raises:
          ValueError: if a coordinate is not finite, or constant up to rounding.
        """
        array = _checks.floating(rows, "rows")
        flat = np.asarray(flatten_rows(array), np.float64)  # so that the mean of equal numbers is that number
        with np.errstate(invalid="ignore"):
            mean, scale = flat.mean(axis=0), flat.std(axis=0)
            noise = 4 * float(jnp.finfo(rows.dtype).eps) * np.abs(flat).max(axis=0)
            bad = ~(np.isfinite(mean) & np.isfinite(scale) & (scale > noise))
        if bad.any():
            raise ValueError(f"rows must be finite and vary in every coordinate, but not so in coordinate {np.argmax(bad)}")
        return cls(jnp.asarray(mean, array.dtype), jnp.asarray(scale, array.dtype))

    def forward_and_log_det(self, x: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:  # noqa: ARG002
        """From data to standard units."""
        log_det = self._log_det(x)
        return (x - self.mean) / self.scale, log_det

    def inverse_and_log_det(self, z: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:  # noqa: ARG002
        """From standard units to data."""
        log_det = self._log_det(z)
        return z * self.scale + self.mean, -log_det

    def _log_det(self, rows: Rows) -> LogDet:
        shapes = jnp.shape(self.mean), jnp.shape(self.scale)
        if shapes != (rows.shape[1:],) * 2:
            raise ValueError(f"mean and scale must have one entry per coordinate, shape {rows.shape[1:]}, got {shapes}")
        return jnp.broadcast_to(-jnp.log(self.scale).sum(), rows.shape[:1])


class ConditionalAffine(nn.Module):
    """An affine map whose shift and scale a network, the conditioner, makes from the context.

    Formula: z = x ⊙ exp(s(c)) + t(c); log |det dz/dx| = Σ_k s_k(c), with s bounded smoothly to ±`log_scale_bound` by tanh.

    It starts as the identity: the conditioner's last layer starts at zero.

    Attributes:
      hidden: sizes of the conditioner's hidden layers, ReLU; the paper's two of 100 by default.
      log_scale_bound: the largest |s|; positive.

    Source: Dinh et al. (2016), Eqs. 7 and 8.
    """

    hidden: Sequence[int] = PAPER_CONDITIONER
    log_scale_bound: float = LOG_SCALE_BOUND

    def forward_and_log_det(self, x: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From data to latent."""
        shift, log_scale = self._condition(x, context)
        return x * jnp.exp(log_scale) + shift, log_scale.sum(axis=-1)

    def inverse_and_log_det(self, z: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From latent to data."""
        shift, log_scale = self._condition(z, context)
        return (z - shift) * jnp.exp(-log_scale), -log_scale.sum(axis=-1)

    @nn.compact
    def _condition(self, rows: Rows, context: Context | None) -> tuple[Rows, Rows]:
        """Shift and log-scale for each of these rows, of which only the shape counts."""
        _checks.positive(self.log_scale_bound, "log_scale_bound")
        if context is not None:
            _checks.same_rows(rows=rows, context=context)
        # Where there is nothing to depend on, a constant stands in: shift and scale are then numbers to be learned.
        given = jnp.ones_like(rows[:, :1]) if context is None or context.shape[1] == 0 else context
        name = "conditioner" if given is context else "unconditional"
        made = MLP(self.hidden, 2 * rows.shape[1], nn.initializers.zeros_init(), name=name)(given)
        shift, log_scale = jnp.split(made, 2, axis=-1)
        return shift, self.log_scale_bound * jnp.tanh(log_scale / self.log_scale_bound)


class AffineCoupling(nn.Module):
    """An affine coupling layer: some coordinates stay, and shift and scale the others.

    Formula: z_kept = x_kept; z_moved = x_moved ⊙ exp(s(x_kept, c)) + t(x_kept, c); log |det dz/dx| = Σ_k s_k(x_kept, c).

    Attributes:
      mask: from the dimension d to a (d,) mask, true for what stays; if nothing stays, the layer is a `ConditionalAffine`.
      hidden: sizes of the conditioner's hidden layers, ReLU; the paper's two of 100 by default.
      log_scale_bound: the largest |s|.

    Source: Dinh et al. (2016), Eqs. 7 to 9; Song & Ermon (2020), B.1 ("coupling layers (with scaling)").
    """

    mask: Callable[[int], Bool[np.ndarray, " d"]]
    hidden: Sequence[int] = PAPER_CONDITIONER
    log_scale_bound: float = LOG_SCALE_BOUND

    def setup(self) -> None:
        self.affine = ConditionalAffine(self.hidden, self.log_scale_bound)

    def forward_and_log_det(self, x: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From data to latent."""
        return self._move(self.affine.forward_and_log_det, x, context)

    def inverse_and_log_det(self, z: Rows, context: Context | None = None) -> tuple[Rows, LogDet]:
        """From latent to data."""
        return self._move(self.affine.inverse_and_log_det, z, context)

    def _move(self, affine: Callable[..., tuple[Rows, LogDet]], rows: Rows, context: Context | None) -> tuple[Rows, LogDet]:
        kept = self.mask(rows.shape[1])
        stays = rows[:, kept]
        moved, log_det = affine(rows[:, ~kept], stays if context is None else jnp.concatenate([stays, context], axis=1))
        return rows.at[:, ~kept].set(moved), log_det


def alternating_mask(layer: int, dim: int, boundary: int | None = None) -> Bool[np.ndarray, " d"]:
    """What a coupling layer keeps: in layers 0 and 1 either half, in 2 and 3 either every other coordinate, and so on.

    Neither kind of mask alone will do: coordinates that every mask puts on the same side never see each other, except
    through third ones. Of [x; y] with independent pairs (x_k, y_k), an even number of them, masks of every other coordinate
    have each pair on one side, and so can halves that part elsewhere than at the boundary of x and y.

    Args:
      layer: the layer's number, counted from 0.
      dim: d, at least 1.
      boundary: where the halves part, from 1 to d - 1; d // 2 by default.

    Returns:
      (d,) mask, true for what stays. In one dimension nothing does, or the layer would do nothing.

    Example:
      >>> from mi_jax.networks import alternating_mask
      >>> for layer in range(4):
      ...     print(alternating_mask(layer, 5).astype(int))
      [1 1 0 0 0]
      [0 0 1 1 1]
      [1 0 1 0 1]
      [0 1 0 1 0]

    Raises:
      ValueError: if `dim` is less than 1, or `boundary` leaves one side empty.

    Source: Dinh et al. (2014), Section 3.2; Song & Ermon (2020) do not say theirs.
    """
    if _checks.positive_int(dim, "dim") == 1:
        return np.zeros(1, bool)
    if boundary is not None and not 1 <= boundary < dim:
        raise ValueError(f"boundary must lie from 1 to {dim - 1}, so that {dim} coordinates have two sides, got {boundary}")
    places = np.arange(dim)
    halves = places < (dim // 2 if boundary is None else boundary)
    mask = halves if layer % 4 < 2 else places % 2 == 0
    return ~mask if layer % 2 else mask
