"""The canonical critic: the Gaussian log ratio of variables that it learns, one set from x and one from y."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks.critics import Encoding
from mi_jax.networks.gaussian import LARGEST_CORRELATION, GaussianFit, gaussian_fit, row_features, whitened
from mi_jax.networks.mlp import flatten_rows

HIGHEST_DEGREE = 2
MOST_FEATURES = 600  # of x and y together: their matrices are decomposed
LEAST_GAIN = 0.02  # nats that a degree must add
BEYOND = 20  # rows that are longer than where lengths are clipped

_matmul = functools.partial(jnp.matmul, precision="highest")


class Start(NamedTuple):
    """Where the canonical critic starts from.

    Attributes:
      mean_x, mean_y: the means of the rows.
      whiten_x, whiten_y: rows times these have the covariance 1.
      limit_x, limit_y: where their lengths are clipped.
      fit: the canonical correlations of the radial features of the whitened rows.
    """

    mean_x: Float[Array, " dx"]
    mean_y: Float[Array, " dy"]
    whiten_x: Float[Array, "dx dx"]
    whiten_y: Float[Array, "dy dy"]
    limit_x: Float[Array, ""]
    limit_y: Float[Array, ""]
    fit: GaussianFit


def radial_features(rows: Float[Array, "n d"], degree: int, limit: float | Float[Array, ""]) -> Float[Array, "n f"]:
    """Whitened rows z, and z times the powers of their length.

    Formula: (z, z l, z (l² - 1)), up to the degree, with l = √(d/2) (|z|²/d - 1), clipped to ±limit. For normal rows l has
    mean 0 and variance 1. A row that is turned or stretched by its length is about linear in them.

    Args:
      rows: (n, d) whitened rows.
      degree: 0, 1 or 2.
      limit: where lengths are clipped, so that few rows far out do not decide.
    """
    length = jnp.clip(_lengths(rows)[:, None], -limit, limit)
    return jnp.concatenate([rows, rows * length, rows * (length**2 - 1)][: degree + 1], axis=1)


def _lengths(rows: Float[Array, "n d"]) -> Float[Array, " n"]:
    return (rows.shape[1] / 2) ** 0.5 * (jnp.mean(rows**2, axis=1) - 1)


def fit_start(x: Float[Array, "n dx"], y: Float[Array, "n dy"], weights: Float[Array, " n"] | None = None) -> Start:
    """The canonical correlations of radial features of paired rows.

    The degree of the features is the one whose shrunk correlations, those of the first min(dx, dy) variables, make the most
    Gaussian information -½ Σ log(1 - s²), less 0.02 nats for each degree; features without information lower it by
    the shrinkage. Lengths are clipped where 20 rows are longer.

    Args:
      x: (n, dx) rows.
      y: (n, dy) their partners.
      weights: (n,) how often each row counts; see `gaussian_fit`.

    Returns:
      A `Start`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> from mi_jax.networks import canonical, gaussian
      >>> x, y = tasks.spiral(tasks.gaussian(dim=3, mi=1.0)).sample(jax.random.key(0), 5_000)
      >>> start = jax.jit(canonical.fit_start)(x, y)
      >>> print(*(f"{fit.correlations[0]:.1f}" for fit in (gaussian.gaussian_fit(x, y), start.fit)))
      0.5 0.7

    Source: Hotelling (1936), for canonical correlations; the radial features are this library's.
    """
    (white_x, mean_x, whiten_x), (white_y, mean_y, whiten_y) = (_whiten(rows, weights) for rows in (x, y))
    dims, most = (x.shape[1], y.shape[1]), min(x.shape[1], y.shape[1])
    degrees = [d for d in range(HIGHEST_DEGREE + 1) if d == 0 or sum(dims) * (d + 1) <= min(MOST_FEATURES, len(x) // 2)]
    # The rows of padding are 0, and so among the shortest.
    limits = [jax.lax.top_k(_lengths(rows), min(BEYOND, len(rows)))[0][-1] for rows in (white_x, white_y)]
    wide = [radial_features(rows, degrees[-1], limit) for rows, limit in zip((white_x, white_y), limits, strict=True)]

    def fit(degree: Array) -> tuple[GaussianFit, Array]:
        # Columns of a higher degree are 0, and columns that do not vary are no dimensions.
        kept = [jnp.arange(rows.shape[1]) < (degree + 1) * dim for rows, dim in zip(wide, dims, strict=True)]
        low_x, low_y = (jnp.where(keep, rows, 0.0) for keep, rows in zip(kept, wide, strict=True))
        fitted = gaussian_fit(low_x, low_y, weights)
        s = fitted.correlations[:most]
        gain = -0.5 * jnp.sum(jnp.log((1 - s) * (1 + s))) - LEAST_GAIN * degree
        # With padding among them, there are fewer rows than their shape says.
        few = sum(dims) * (degree + 1) > (len(x) if weights is None else weights.sum()) // 2
        return fitted, jnp.where((degree > 0) & few, -jnp.inf, gain)

    fits, gains = jax.lax.map(fit, jnp.array(degrees))
    chosen = jax.tree.map(lambda leaf: leaf[jnp.argmax(gains)], fits)
    return Start(mean_x, mean_y, whiten_x, whiten_y, limits[0], limits[1], chosen)


def _whiten(
    rows: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> tuple[Float[Array, "n d"], Float[Array, " d"], Float[Array, "d d"]]:
    """Rows with covariance 1, and the mean and the matrix that make them so; padding becomes 0."""
    n = rows.shape[0] if weights is None else weights.sum()
    _, mean, whiten = whitened(rows, weights, n)
    centred = rows - mean if weights is None else jnp.where(weights[:, None] > 0, rows - mean, 0.0)
    return _matmul(centred, whiten), mean, whiten


class CanonicalCritic(Encoding):
    """A critic that learns canonical variables: f of x and g of y, whose relation is Gaussian.

    Formula: T(x, y) = Σ_k [-½ log(1 - s_k²) - (s_k² f_k² - 2 s_k f_k g_k + s_k² g_k²) / (2 (1 - s_k²))], the log ratio of
    pairs of normal variables with the correlations s_k, with f(x) = a(x) + MLP(φ(x)) and g(y) = b(y) + MLP(φ(y)), for each k
    up to min(dx, dy). Here a and b are the canonical variables of radial features (`fit_start`), and φ are the features of
    the whitened rows that `GaussianCritic` has: each z, (z² - 1) / 2, √12 (Φ(z) - ½) and 2 log(1 + |z|² / d).

    MI does not change if x or y goes through a bijection, and where a bijection of each makes them jointly normal, the ratio
    has this form. So it suits bent relations, in many dimensions too, because it is learned of x and of y apart; it suits
    ridges, several turns and heavy joint tails less than a critic whose network sees the pair.

    `init` fits a and b to the rows it is given, so give it all training rows. They are kept in the collection "canonical",
    and have no gradient. Meant for normal scores, or for other coordinates of unit scale without heavy tails.

    Attributes:
      hidden: sizes of the hidden layers of either MLP, SiLU; () for the start alone, whose correlations can be trained.

    Example:
      >>> import jax
      >>> from mi_jax import infonce, tasks
      >>> from mi_jax.networks import CanonicalCritic
      >>> task, critic = tasks.spiral(tasks.gaussian(dim=3, mi=1.0)), CanonicalCritic(hidden=())
      >>> params = jax.jit(critic.init)(jax.random.key(0), *task.sample(jax.random.key(1), 2_000))
      >>> scores = jax.jit(critic.apply)(params, *task.sample(jax.random.key(2), 1_000))
      >>> 0.7 < infonce(scores) < 1.0
      Array(True, dtype=bool)

    Source: Hotelling (1936), "Relations between two sets of variates"; Andrew et al. (2013), "Deep canonical correlation
    analysis", for networks in the place of linear maps.
    """

    hidden: Sequence[int] = (64, 64)

    @staticmethod
    def fit_constants(x: Float[Array, "n ..."], y: Float[Array, "n ..."], weights: Float[Array, " n"]) -> dict[str, Any]:
        """The collection "canonical" as `init` fits it, for rows of these weights."""
        return {"canonical": {"start": fit_start(flatten_rows(x), flatten_rows(y), weights)}}

    @nn.compact
    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple["_Codes", "_Codes"]:
        """The learned variables, with the terms of the log ratio that hold one row."""
        x, y = flatten_rows(x), flatten_rows(y)
        start = jax.lax.stop_gradient(self.variable("canonical", "start", fit_start, x, y).value)
        white_x, white_y = _matmul(x - start.mean_x, start.whiten_x), _matmul(y - start.mean_y, start.whiten_y)
        number, fit = min(x.shape[1], y.shape[1]), start.fit
        a = _matmul(_radial(white_x, fit.mean_x, start.limit_x) - fit.mean_x, fit.whiten_x[:, :number])
        b = _matmul(_radial(white_y, fit.mean_y, start.limit_y) - fit.mean_y, fit.whiten_y[:, :number])
        first = jnp.arctanh(jnp.clip(fit.correlations[:number], 0.0, LARGEST_CORRELATION))
        s = jnp.tanh(first + self.param("correlations", nn.initializers.zeros_init(), (number,)))
        if self.hidden:
            a += self._learned("x", white_x, number)
            b += self._learned("y", white_y, number)
        unexplained = (1 - s) * (1 + s)
        linear = s / unexplained
        quadratic, constant = 0.5 * s * linear, 0.25 * jnp.sum(jnp.log(unexplained))
        return _Codes(a * linear, _matmul(a**2, quadratic) + constant), _Codes(b, _matmul(b**2, quadratic) + constant)

    def _learned(self, name: str, rows: Float[Array, "n d"], number: int) -> Float[Array, "n k"]:
        """What the network of one side adds to its canonical variables."""
        h = row_features(rows, jnp.sum(rows**2, axis=1))
        for place, size in enumerate(self.hidden):
            h = nn.silu(nn.Dense(size, name=f"{name}_{place}")(h))
        small = nn.initializers.variance_scaling(1e-4, "fan_in", "normal")
        out: Array = nn.Dense(number, kernel_init=small, name=f"{name}_{len(self.hidden)}")(h)
        return out

    def pair(self, codes_x: "_Codes", codes_y: "_Codes") -> Float[Array, "n m"]:
        """The Gaussian log ratio of all pairs."""
        return _matmul(codes_x.variables, codes_y.variables.T) - codes_x.rest[:, None] - codes_y.rest


def _radial(rows: Float[Array, "n d"], features: Array, limit: Array) -> Float[Array, "n f"]:
    """The radial features of as many degrees as the start has."""
    return radial_features(rows, features.shape[0] // rows.shape[1] - 1, limit)


class _Codes(NamedTuple):
    """What the canonical critic knows of rows.

    Attributes:
      variables: (n, k) the learned variables, those of x times s / (1 - s²).
      rest: (n,) Σ_k s_k² f_k² / (2 (1 - s_k²)) + ¼ Σ_k log(1 - s_k²).
    """

    variables: Float[Array, "n k"]
    rest: Float[Array, " n"]
