"""Tasks that add noise which is not Gaussian, or to a function that is not monotone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks
from mi_jax.tasks.task import Task

LEAST_NOISE = 0.01
POINTS_PER_NOISE = 12  # of the half circle


def uniform_noise(dim: int, epsilon: float | Float[Array, ""]) -> Task:
    """Per coordinate, x uniform on (0, 1) and y = x plus noise uniform on (-epsilon, epsilon): a bounded support.

    Formula: I = d (epsilon - log(2 epsilon)) to epsilon = 1/2, and d / (4 epsilon) beyond: the entropy of y, whose
    density is a trapezoid, less log(2 epsilon). log r(x, y) = -Σ_k log w(y_k) where each |y_k - x_k| ≤ epsilon and
    x_k lies in [0, 1], and -∞ elsewhere, with w(y) = min(1, 2 epsilon, epsilon + y, epsilon + 1 - y): the length of
    the x that can give y.

    On the support log r is not negative. E_Q[r²] = (1 + 1 / (2 epsilon))^d.

    Args:
      dim: dimension of x and of y.
      epsilon: the largest noise; may be traced. In float32 the edge of the support is blurred by 4e-6 (1 + epsilon),
        and epsilon should be well above that.

    Returns:
      A `Task` with x and y of shape (n, dim), and `mi` a scalar array.

    Raises:
      ValueError: if `dim` is less than 1, or a concrete `epsilon` not positive and finite. Where `epsilon` is traced,
        y, the log ratio and `task.mi` are NaN instead.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.uniform_noise(dim=5, epsilon=0.5)
      >>> print(f"{task.mi:.1f}")
      2.5
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Czyż, Grabowski, Vogt, Beerenwinkel & Marx (2023), "Beyond normal: on the evaluation of mutual information
    estimators", for the task at d = 1.
    """
    dim, epsilon = _checks.positive_int(dim, "dim"), _checks.scalar(epsilon, "epsilon")
    valid = (epsilon > 0) & (epsilon < jnp.inf)
    epsilon = _checks.where_valid(valid, epsilon, "epsilon must be positive and finite")
    mi = dim * jnp.where(epsilon > 0.5, 0.25 / epsilon, epsilon - jnp.log(2 * epsilon))

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        x_key, noise_key = jax.random.split(key)
        x = jax.random.uniform(x_key, (n, dim))
        return x, x + epsilon * jax.random.uniform(noise_key, (n, dim), minval=-1.0, maxval=1.0)

    def log_ratio(x: Float[Array, "*n d"], y: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        # Adding the noise rounds y by half an eps (1 + epsilon); `rotated` and back, by 11 at d = 100 (measured).
        rounding = 32 * jnp.finfo(jnp.result_type(x, y)).eps * (1 + epsilon)
        outside = (x < 0) | (x > 1) | (jnp.abs(y - x) > epsilon + rounding)
        length = jnp.minimum(jnp.minimum(1, 2 * epsilon), epsilon + jnp.minimum(y, 1 - y))
        log_ratios = -jnp.sum(jnp.log(jnp.maximum(length, rounding)), axis=-1)
        return jnp.where(outside.any(axis=-1), -jnp.inf, log_ratios)

    return Task(sample, mi, log_ratio)


def cauchy_noise(dim: int, scale: float | Float[Array, ""]) -> Task:
    """Per coordinate, x is standard Cauchy and y = x plus Cauchy noise of a scale: heavy tails, but a sharp relation.

    Formula: y is Cauchy of scale 1 + s, so I = d log(1 + 1/s), and log r(x, y) = Σ_k [log((1 + s)² + y_k²) -
    log(s² + (y_k - x_k)²)] - I. E_Q[r²] is infinite.

    Args:
      dim: dimension of x and of y.
      scale: s, of the noise; may be traced.

    Returns:
      A `Task` with x and y of shape (n, dim), and `mi` a scalar array.

    Raises:
      ValueError: if `dim` is less than 1, or a concrete `scale` not positive and finite. Where `scale` is traced, y, the
        log ratio and `task.mi` are NaN instead.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.cauchy_noise(dim=1, scale=0.25)
      >>> print(f"{task.mi:.3f}")
      1.609
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: the entropy of a Cauchy law, log(4 π s): Cover & Thomas (2006), "Elements of Information Theory", Table 17.1.
    """
    dim, scale = _checks.positive_int(dim, "dim"), _checks.scalar(scale, "scale")
    scale = _checks.where_valid((scale > 0) & (scale < jnp.inf), scale, "scale must be positive and finite")
    mi = dim * jnp.log1p(1 / scale)

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        x_key, noise_key = jax.random.split(key)
        x = jax.random.cauchy(x_key, (n, dim))
        return x, x + scale * jax.random.cauchy(noise_key, (n, dim))

    def log_ratio(x: Float[Array, "*n d"], y: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        # Twice the log of a length, which does not overflow where its square would.
        return 2 * jnp.sum(jnp.log(jnp.hypot(1 + scale, y)) - jnp.log(jnp.hypot(scale, y - x)), axis=-1) - mi

    return Task(sample, mi, log_ratio)


def sine(dim: int, noise: float, turns: int = 3) -> Task:
    """Per coordinate, x uniform on (0, 1) and y = sin(2π k x) plus normal noise: a relation that turns back.

    Formula: I = d (h(y) - log(σ √(2πe))) and log r(x, y) = Σ_k [log N(y_k; sin(2π k x_k), σ²) - log p(y_k)], where p(y) is
    the mean of N(y; sin u, σ²) over u in (0, 2π), by the trapezoid rule, which is exact to rounding for periodic functions
    with enough points; h(y) is integrated over y in the same way. Neither depends on k: more turns share no less, but are
    harder to learn.

    Args:
      dim: dimension of x and of y.
      noise: σ, concrete; at least 0.01.
      turns: k, how many times y goes up and down.

    Returns:
      A `Task` with x and y of shape (n, dim), and `mi` a float.

    Raises:
      ValueError: if `dim` or `turns` is less than 1, or `noise` less than 0.01 or not finite.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.sine(dim=1, noise=0.2)
      >>> print(f"{task.mi:.3f}")
      1.154
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Trefethen & Weideman (2014), "The exponentially convergent trapezoidal rule".
    """
    dim, turns = _checks.positive_int(dim, "dim"), _checks.positive_int(turns, "turns")
    if not LEAST_NOISE <= _checks.scalar(noise, "noise") < math.inf:
        raise ValueError(f"noise must be at least {LEAST_NOISE} and finite, got {noise}")
    # By symmetry half of the circle is enough; the middles of the steps, so that both ends count alike.
    points = max(16, math.ceil(POINTS_PER_NOISE / noise))
    heights = np.sin((np.arange(points) + 0.5) * (np.pi / points) - np.pi / 2)
    constant = -math.log(noise * math.sqrt(2 * math.pi))
    reach, apart = 1 + 12 * noise, noise / 8
    grid = np.arange(-reach, reach, apart)
    exponents = -0.5 * ((grid[:, None] - heights) / noise) ** 2
    density = np.exp(exponents + constant).mean(axis=1)
    entropy = -float(np.sum(density * np.log(np.maximum(density, np.finfo(float).tiny)))) * apart
    mi = dim * (entropy + constant - 0.5)

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        x_key, noise_key = jax.random.split(key)
        x = jax.random.uniform(x_key, (n, dim))
        return x, jnp.sin(2 * jnp.pi * turns * x) + noise * jax.random.normal(noise_key, (n, dim))

    def log_ratio(x: Float[Array, "*n d"], y: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        given_x = -0.5 * ((y - jnp.sin(2 * jnp.pi * turns * x)) / noise) ** 2
        log_density = jax.nn.logsumexp(-0.5 * ((y[..., None] - jnp.asarray(heights, y.dtype)) / noise) ** 2, axis=-1)
        return jnp.sum(given_x - log_density + math.log(points), axis=-1)

    return Task(sample, mi, log_ratio)
