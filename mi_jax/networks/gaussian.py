"""The Gaussian critic: the log ratio that normal variables would have, in closed form, and a network for the rest."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks.critics import Encoding, PairDense, outer_sum
from mi_jax.networks.mlp import dense_layers, flatten_rows, through

# Eigenvalues of a covariance below this share of the largest are rounding in float32.
SINGULAR = 1e-5
LARGEST_CORRELATION = 1 - 1e-6

# The exponent is a small difference of terms as large as 1 / (1 - s²): accelerators' short products would drown it.
_matmul = functools.partial(jnp.matmul, precision="highest")


class GaussianFit(NamedTuple):
    """The Gaussian log ratio of two vectors, in the coordinates in which it is a sum over pairs.

    Attributes:
      mean_x, mean_y: (dx,), (dy,) their means.
      whiten_x, whiten_y: (dx, dx), (dy, dy); rows times these have the covariance 1 and, pairwise, the correlations.
      correlations: (min(dx, dy),) the canonical correlations, shrunk.
    """

    mean_x: Float[Array, " dx"]
    mean_y: Float[Array, " dy"]
    whiten_x: Float[Array, "dx dx"]
    whiten_y: Float[Array, "dy dy"]
    correlations: Float[Array, " k"]


def gaussian_fit(x: Float[Array, "n dx"], y: Float[Array, "n dy"], weights: Float[Array, " n"] | None = None) -> GaussianFit:
    """The canonical correlations of paired rows, each shrunk by what noise alone would have added to it.

    Formula: with the whitened cross-covariance U diag(s) Vᵀ, its singular values are taken to η(s / σ) σ,
    η(t) = sqrt((t² - β - 1)² - 4β) / t for t > 1 + √β and 0 below, β = p / q with p ≤ q the dimensions of x and y, and
    σ² = (1 - s²) w / (1 + √β)². Here w = q / (n - q) ((1 + h) / (1 - c))², c = p / (n - q), h² = β + c - βc, is what
    s² / (1 - s²) reaches for independent variables; from n = p + q on, where rows of anything correlate perfectly, nothing
    is left. Columns that depend on others are no dimensions.

    Without it the dx·dy noisy entries look like dependence: with 1,000 rows of 20 + 20 independent variables, of 0.2 nats.

    Args:
      x: (n, dx) rows.
      y: (n, dy) their partners.
      weights: (n,) how often each row counts, 0 for padding, which may hold anything; n is then their sum. By default once.

    Returns:
      A `GaussianFit`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> from mi_jax.networks.gaussian import gaussian_fit
      >>> fit = gaussian_fit(*tasks.gaussian(dim=3, mi=0.0).sample(jax.random.key(0), 10_000))
      >>> fit.correlations
      Array([0., 0., 0.], dtype=float32)

    Source: Gavish & Donoho (2017), "Optimal shrinkage of singular values", for η; Wachter (1980), "The limiting empirical
    measure of multiple discriminant ratios", for w.
    """
    n = x.shape[0] if weights is None else weights.sum()
    x, mean_x, whiten_x = whitened(x, weights, n)
    y, mean_y, whiten_y = whitened(y, weights, n)
    left, raw, right = jnp.linalg.svd(_matmul(x.T, y) / n)
    raw = jnp.minimum(raw, LARGEST_CORRELATION)
    # The dimensions in which they vary: columns may depend on one another.
    dim_x, dim_y = (jnp.maximum(jnp.any(whiten != 0, axis=0).sum(), 1) for whiten in (whiten_x, whiten_y))
    least, most = jnp.minimum(dim_x, dim_y), jnp.maximum(dim_x, dim_y)
    beta, edge = least / most, jnp.where(n > least + most, _null_edge(n, least, most), 1e9)
    noise = jnp.sqrt((1 - raw**2) * edge) / (1 + beta**0.5)
    ratio = jnp.maximum(raw / noise, 1 + beta**0.5)
    shrunk = noise * jnp.sqrt((ratio**2 - beta - 1) ** 2 - 4 * beta) / ratio
    correlations = jnp.where(raw > noise * (1 + beta**0.5), jnp.minimum(shrunk, raw), 0.0)
    return GaussianFit(mean_x, mean_y, _matmul(whiten_x, left), _matmul(whiten_y, right.T), correlations)


def _null_edge(n: int | Array, p: Array, q: Array) -> Array:
    """The largest s² / (1 - s²) of n rows of independent variables of p ≤ q dimensions, p + q < n, in the limit."""
    column = p / (n - q)
    height = jnp.sqrt(p / q + column - p / q * column)
    return q / (n - q) * ((1 + height) / (1 - column)) ** 2


def whitened(
    rows: Float[Array, "n d"], weights: Float[Array, " n"] | None, n: int | Array
) -> tuple[Float[Array, "n d"], Float[Array, " d"], Float[Array, "d d"]]:
    """Centred rows with covariance 1, or 0 in directions in which they do not vary; and what makes them so.

    The rows come with the root of their weights, so that sums of products are weighted.
    """
    if weights is None:
        mean = rows.mean(axis=0)
        rows = rows - mean
    else:
        weighs = weights[:, None] > 0
        mean = jnp.sum(jnp.where(weighs, rows, 0.0) * weights[:, None], axis=0) / n
        rows = jnp.where(weighs, rows - mean, 0.0) * jnp.sqrt(weights)[:, None]
    # In float32 one pass gets a direction of little variance wrong by 1e-7 over its share of the largest: of 1e-4, at a
    # correlation of 0.99995, by up to 1.9 nats. So the first pass only brings variances nearer to one another, and the
    # second starts from those: what is left out has less than 1e-10 of the largest variance.
    variances, axes = _principal(rows, n)
    least = jnp.maximum(SINGULAR * variances[-1], jnp.finfo(rows.dtype).tiny)
    rough = axes * jax.lax.rsqrt(jnp.maximum(variances, least))
    variances, axes = _principal(_matmul(rows, rough), n)
    varies = variances > SINGULAR * variances[-1]
    fine = axes * jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variances, 1.0)), 0.0)
    whiten = _matmul(rough, fine)
    return _matmul(rows, whiten), mean, whiten


def _principal(rows: Float[Array, "n d"], n: int | Array) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """The variances of centred rows along their principal axes, in increasing order, and the axes."""
    variances, axes = jnp.linalg.eigh(_matmul(rows.T, rows) / n)
    return variances, axes


class GaussianCritic(Encoding):
    """A critic that starts from the closed-form Gaussian log ratio and learns only the rest.

    Formula: T(x, y) = G(x, y) + MLP(φ(x), φ(y), q(x, y)), with G(x, y) = Σ_k [-½ log(1 - s_k²) - (s_k² a_k² - 2 s_k a_k b_k
    + s_k² b_k²) / (2 (1 - s_k²))] in the canonical variables a, b with correlations s (`gaussian_fit`). The MLP's last
    layer starts at zero. Its inputs are, of each coordinate z, z itself, (z² - 1) / 2 and √12 (Φ(z) - ½), which is uniform
    if z is normal; and of the whitened x, y and (x, y) the squared lengths, as 2 log(1 + |·|² / d), on which the log ratio
    of every elliptical law depends.

    `init` fits G to the rows it is given, so give it all training rows, and under `jax.jit`, which drops the scores that
    it would otherwise compute of all pairs. G is kept in the collection "gaussian", and has no gradient; an optimiser
    with weight decay must leave it out. Meant for normal scores, or for other coordinates of unit scale without heavy tails.

    Attributes:
      hidden: sizes of the hidden layers, ReLU; () for G alone, which has nothing to train.

    Example:
      >>> import jax
      >>> from mi_jax import smile, tasks
      >>> from mi_jax.networks import GaussianCritic
      >>> task, critic = tasks.gaussian(dim=5, mi=2.0), GaussianCritic(hidden=(16,))
      >>> params = jax.jit(critic.init)(jax.random.key(0), *task.sample(jax.random.key(1), 10_000))
      >>> scores = jax.jit(critic.apply)(params, *task.sample(jax.random.key(2), 500))
      >>> print(f"{smile(scores, tau=10.0):.1f}")
      2.0
    """

    hidden: Sequence[int] = (64, 64)

    def setup(self) -> None:
        if self.hidden:
            first, *rest = (*self.hidden, 1)
            self.first = PairDense(first, name="PairDense_0")
            self.of_length = nn.Dense(first, use_bias=False)
            self.rest = dense_layers(rest, nn.initializers.zeros_init())

    @staticmethod
    def fit_constants(x: Float[Array, "n ..."], y: Float[Array, "n ..."], weights: Float[Array, " n"]) -> dict[str, Any]:
        """The collection "gaussian" as `init` fits it, for rows of these weights."""
        return {"gaussian": {"fit": gaussian_fit(flatten_rows(x), flatten_rows(y), weights)}}

    @nn.compact
    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple["_Codes", "_Codes"]:
        """The canonical variables with what else the scores hold of one row, and the first layer's terms."""
        x, y = flatten_rows(x), flatten_rows(y)
        fit = jax.lax.stop_gradient(self.variable("gaussian", "fit", gaussian_fit, x, y).value)
        a, b = _matmul(x - fit.mean_x, fit.whiten_x), _matmul(y - fit.mean_y, fit.whiten_y)
        length_x, length_y = jnp.sum(a**2, axis=1), jnp.sum(b**2, axis=1)
        layer = self.first(row_features(x, length_x), row_features(y, length_y)) if self.hidden else (x[:, :0], y[:, :0])
        a, b = a[:, : fit.correlations.size], b[:, : fit.correlations.size]
        # Not 1 - s²: a fused multiply-add in one place and none in another would leave terms that no longer cancel.
        unexplained = (1 - fit.correlations) * (1 + fit.correlations)
        linear = fit.correlations / unexplained
        quadratic = 0.5 * fit.correlations * linear
        constants = 0.5 * jnp.sum(jnp.log(unexplained)), 1.0 / (x.shape[1] + y.shape[1])
        of_x, of_y = ([jnp.full(len(rows), constant) for constant in constants] for rows in (x, y))
        codes_x = _Codes(a * linear, _matmul(a**2, quadratic), length_x, layer[0], *of_x)
        return codes_x, _Codes(b, _matmul(b**2, quadratic), length_y, layer[1], *of_y)

    def pair(self, codes_x: "_Codes", codes_y: "_Codes") -> Float[Array, "n m"]:
        """The Gaussian log ratio, and the later layers."""
        start, length = _gaussian(codes_x, codes_y)
        if not self.hidden:
            return start
        pairs = outer_sum(codes_x.layer, codes_y.layer) + self.of_length(_log_length(length).reshape(-1, 1))
        return start + through(self.rest, pairs).reshape(start.shape)


class _Codes(NamedTuple):
    """What the Gaussian critic knows of rows.

    Attributes:
      canonical: (n, k) the canonical variables, those of x times s / (1 - s²).
      quadratic: (n,) Σ_k s_k² a_k² / (2 (1 - s_k²)).
      length: (n,) the squared length of the whitened row.
      layer: (n, features) the first layer's term.
      log_unexplained: ½ Σ_k log(1 - s_k²), for each row,
      per_dimension: and 1 / (dx + dy).
    """

    canonical: Float[Array, "n k"]
    quadratic: Float[Array, " n"]
    length: Float[Array, " n"]
    layer: Float[Array, "n f"]
    log_unexplained: Float[Array, " n"]
    per_dimension: Float[Array, " n"]


def _gaussian(x: _Codes, y: _Codes) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """The log ratios of all pairs, and the squared length of each whitened (x, y) over its dimension."""
    exponent = _matmul(x.canonical, y.canonical.T) - x.quadratic[:, None] - y.quadratic
    # The Gaussian exponent is half of what the length of (x, y) lacks to that of x and that of y.
    length = jnp.maximum(x.length[:, None] + y.length - 2 * exponent, 0.0)
    return exponent - x.log_unexplained[:, None], length * x.per_dimension[:, None]


def row_features(z: Float[Array, "n d"], length: Float[Array, " n"]) -> Float[Array, "n f"]:
    """What the networks see of each row: z, (z² - 1) / 2, √12 (Φ(z) - ½), and of its squared length 2 log(1 + |z|² / d)."""
    uniform = 12**0.5 * (jax.scipy.stats.norm.cdf(z) - 0.5)
    return jnp.concatenate([z, 0.5 * (z**2 - 1), uniform, _log_length(length / z.shape[1])[:, None]], axis=1)


def _log_length(square: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The feature 2 log(1 + s) of a squared length over its dimension, s."""
    return 2 * jnp.log1p(square)
