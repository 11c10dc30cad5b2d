"""Tasks: pairs of variables to draw from, whose mutual information and log density ratio are known in closed form.

The two of Section 6.1 of Song & Ermon (2020): `gaussian`, d independent pairs with correlation rho, and `cubic`, the same
with y ↦ y³, a bijection, so that the mutual information stays what it was. Beyond the paper: `student` has heavy
tails in x and in y, and coordinates that depend on each other; `uniform_noise` has a bounded support; `rotated` mixes
the coordinates of any task's y.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mi_jax import _checks

PAPER_DIM = 20
PAPER_LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)
PAPER_STAGE = 4_000


class Task(NamedTuple):
    """A joint law of (x, y) with known mutual information.

    Attributes:
      sample: `(key, n) -> (x, y)`, n paired rows.
      mi: the true mutual information, in nats.
      log_ratio: `(x, y) -> log p(x, y) / (p(x) p(y))`, in nats; takes (..., d) arrays, and broadcasts, so
        `log_ratio(x[:, None], y[None, :])` is the exact score matrix.
    """

    sample: Callable[[PRNGKeyArray, int], tuple[Array, Array]]
    mi: Any
    log_ratio: Callable[[Array, Array], Array]


def mi_to_rho(mi: float | Float[Array, ""], dim: int) -> Float[Array, ""]:
    """The correlation at which `dim` independent Gaussian pairs share `mi` nats.

    Formula: rho = sqrt(1 - e^{-2 I / d}), from I = -(d/2) log(1 - rho²). (Eq. 53 of the paper prints rho/2 for rho²,
    under which no correlation reaches its own MI = 10.)

    Args:
      mi: mutual information, in nats, not negative; may be traced.
      dim: number of pairs, d.

    Returns:
      The correlation, in [0, 1).

    Raises:
      ValueError: if a concrete `mi` is negative or `dim` is less than 1. Where `mi` is traced, the result is NaN instead.

    Example:
      >>> from mi_jax import tasks
      >>> print(f"{tasks.mi_to_rho(10.0, 20):.4f}")
      0.7951

    Source: Song & Ermon (2020), Eq. 53, corrected.
    """
    mi = _checks.non_negative(mi, "mi")
    # expm1 keeps small MIs exact: 1 - e^{-2I/d} would round to 0.
    return jnp.sqrt(-jnp.expm1(-2.0 * jnp.asarray(mi, float) / _checks.positive_int(dim, "dim")))


def rho_to_mi(rho: float | Float[Array, ""], dim: int) -> Float[Array, ""]:
    """The mutual information of `dim` independent Gaussian pairs with correlation `rho`.

    Formula: I = -(d/2) log(1 - rho²).

    In float32 a correlation close to 1 says little: above 8.6 nats a pair it rounds to 1.

    Args:
      rho: correlation, in (-1, 1); may be traced.
      dim: number of pairs, d.

    Returns:
      A scalar, in nats; infinite at ±1, NaN beyond.

    Raises:
      ValueError: if `dim` is less than 1.

    Example:
      >>> from mi_jax import tasks
      >>> print(f"{tasks.rho_to_mi(0.5, 20):.4f}")
      2.8768

    Source: Song & Ermon (2020), Eq. 53, corrected.
    """
    rho = jnp.asarray(_checks.scalar(rho, "rho"), float)
    return -0.5 * _checks.positive_int(dim, "dim") * jnp.log1p(-(rho**2))


def gaussian(dim: int = PAPER_DIM, mi: float | Float[Array, ""] = 2.0) -> Task:
    """`dim` independent pairs of standard normals with correlation rho, which share `mi` nats in all.

    Formula: log r(x, y) = Σ_k [ -½ log(1 - rho²) - (rho² x_k² - 2 rho x_k y_k + rho² y_k²) / (2 (1 - rho²)) ], computed as
    log p(y | x) - log p(y) = I + Σ_k [ ½ y_k² - ½ (y_k - rho x_k)² / (1 - rho²) ], where less cancels.

    Args:
      dim: dimension of x and of y; the paper takes 20.
      mi: true mutual information, in nats; may be traced, so that a sweep over it compiles once.

    Returns:
      A `Task` with x and y of shape (n, dim).

    Raises:
      ValueError: if `dim` is less than 1, or a concrete `mi` is negative. Where `mi` is traced, y, the log ratio and
        `task.mi` are NaN instead.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.gaussian(dim=20, mi=2.0)
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> x.shape, y.shape
      ((10000, 20), (10000, 20))
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Song & Ermon (2020), Section 6.1 and B.1.
    """
    mi = _checks.non_negative(mi, "mi")
    rho, noise_scale = _mixing(mi, dim)

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        x_key, noise_key = jax.random.split(key)
        x = jax.random.normal(x_key, (n, dim))
        noise = jax.random.normal(noise_key, (n, dim))
        return x, rho * x + noise_scale * noise

    def log_ratio(x: Float[Array, "*n d"], y: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        return mi + 0.5 * jnp.sum(y**2 - ((y - rho * x) / noise_scale) ** 2, axis=-1)

    return Task(sample, mi, log_ratio)


def cubic(dim: int = PAPER_DIM, mi: float | Float[Array, ""] = 2.0) -> Task:
    """The `gaussian` task with y ↦ y³, coordinate by coordinate: heavier tails, the same mutual information.

    Formula: log r(x, y) = log r_gaussian(x, y^{1/3}).

    Args:
      dim: dimension of x and of y; the paper takes 20.
      mi: true mutual information, in nats; may be traced.

    Returns:
      A `Task` with x and y of shape (n, dim).

    Raises:
      ValueError: as `gaussian`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.cubic(dim=20, mi=2.0)
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Song & Ermon (2020), Section 6.1.
    """
    return _through(gaussian(dim, mi), lambda y: y**3, jnp.cbrt)


def rotated(task: Task, key: PRNGKeyArray) -> Task:
    """A task with y turned by a random orthogonal matrix: each coordinate depends on all of x. The MI stays.

    Formula: y ↦ y Q, with Q uniform over rotations and reflections; log r(x, y) = log r_task(x, y Qᵀ).

    Args:
      task: the task, whose y has the shape (n, d).
      key: PRNG key that draws Q, once; not one that draws samples.

    Returns:
      A `Task` with x and y of the same shapes.

    Raises:
      TypeError: if `task` is not a `Task`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.rotated(tasks.cubic(dim=20, mi=2.0), jax.random.key(1))
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Mezzadri (2007), "How to generate random matrices from the classical compact groups", for Q.
    """
    _checks.instance(task, Task, "task")
    _, y = jax.eval_shape(lambda: task.sample(jax.random.key(0), 1))
    turn = jax.random.orthogonal(key, y.shape[-1])
    times = functools.partial(jnp.matmul, precision="highest")  # by default GPUs keep 10 bits: y would not come back
    return _through(task, lambda y: times(y, turn), lambda y: times(y, turn.T))


def student_correction(dim: int, df: float) -> float:
    """What the common divisor of the `student` task adds to the mutual information of the normals it divides.

    Formula: c = f(df/2) - 2 f((df + d)/2) + f(df/2 + d), with f(a) = log Γ(a) - a ψ(a): positive, and d² / (2 df²)
    for large df. It does not depend on the correlation: at rho = 0, x and y are uncorrelated and share c nats.

    Args:
      dim: dimension of x and of y, d.
      df: degrees of freedom, concrete; to df = 10⁶, c is right to 1e-8.

    Returns:
      A float, in nats.

    Raises:
      ValueError: if `dim` is less than 1, or `df` not positive and finite.

    Example:
      >>> from mi_jax import tasks
      >>> print(f"{tasks.student_correction(dim=1, df=1.0):.4f} {tasks.student_correction(dim=20, df=5.0):.4f}")
      0.2242 0.5576

    Source: the entropies of Arellano-Valle, Contreras-Reyes & Genton (2013), "Shannon entropy and mutual information
    for multivariate skew-elliptical distributions".
    """
    from scipy import special  # slow to import, and the other tasks do not need it

    _checks.positive(df, "df")
    return _second_difference(lambda a: special.gammaln(a) - a * special.digamma(a), dim, df)


def student(dim: int, mi: float | Float[Array, ""], df: float) -> Task:
    """The `gaussian` task with each pair of rows divided by one sqrt(χ²_df / df): (x, y) is a multivariate Student-t.

    Formula: log r(x, y) = log t_{2d}(x, y) - log t_d(x) - log t_d(y), with the dispersion of `gaussian` at mi - c
    nats, where c is the `student_correction`. Computed as log p(y | x) - log p(y), where less cancels: k + mi - c
    + (df + d)/2 log1p(|y|² / df) - (df + 2d)/2 log1p(|y - rho x|² / (1 - rho²) / (df + |x|²)) - d/2 log1p(|x|² / df),
    with k = g(df/2) - 2 g((df + d)/2) + g(df/2 + d), g = log Γ.

    Where x and y are large together, r grows as |x|^df. Under P, log r has exponential tails, and so all moments; but
    E_Q[r²] is infinite, whatever df and mi, and with it the variance of the partition function that DV and NWJ
    estimate.

    Args:
      dim: dimension of x and of y.
      mi: true mutual information, in nats, c included; may be traced.
      df: degrees of freedom, concrete. Above 1e19, whose square float32 lacks, the ratio is NaN: at df = 1/2 for
        about one row in 10⁹.

    Returns:
      A `Task` with x and y of shape (n, dim).

    Raises:
      ValueError: if `dim` is less than 1, `df` not positive and finite, or a concrete `mi` less than c. Where `mi` is
        traced, y, the log ratio and `task.mi` are NaN instead.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.student(dim=20, mi=2.0, df=5.0)
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Arellano-Valle, Contreras-Reyes & Genton (2013), as `student_correction`.
    """
    from scipy import special

    correction, mi = student_correction(dim, df), _checks.scalar(mi, "mi")
    least = f"student_correction({dim}, {df}), {correction:.6g} nats"
    mi = _checks.where_valid(mi >= correction, mi, f"mi must be at least {least}")
    normal, (rho, noise_scale) = gaussian(dim, mi - correction), _mixing(mi - correction, dim)
    df, constant = float(df), _second_difference(special.gammaln, dim, df)

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        normal_key, divisor_key = jax.random.split(key)
        x, y = normal.sample(normal_key, n)
        divisor = jnp.sqrt(jax.random.chisquare(divisor_key, df, (n, 1)) / df)
        return x / divisor, y / divisor

    def log_ratio(x: Float[Array, "*n d"], y: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        x_square, y_square = jnp.sum(x**2, axis=-1), jnp.sum(y**2, axis=-1)
        noise_square = jnp.sum(((y - rho * x) / noise_scale) ** 2, axis=-1)
        given_x = (df + 2 * dim) * jnp.log1p(noise_square / (df + x_square)) + dim * jnp.log1p(x_square / df)
        return constant + normal.mi + 0.5 * ((df + dim) * jnp.log1p(y_square / df) - given_x)

    return Task(sample, mi, log_ratio)


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


def staircase(
    step: int | Int[Array, ""], levels: Sequence[float] = PAPER_LEVELS, every: int = PAPER_STAGE
) -> Float[Array, ""]:
    """The true MI at a training step: each level for `every` steps, then the next; the last level stays.

    Args:
      step: training step, counted from 0; may be traced.
      levels: the MIs, in nats; the paper's 2, 4, 6, 8, 10 by default.
      every: steps a level lasts; the paper's 4,000 by default.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: if `every` is less than 1 or there are no `levels`.

    Example:
      >>> from mi_jax import tasks
      >>> [float(tasks.staircase(step)) for step in (0, 3_999, 4_000, 19_999)]
      [2.0, 2.0, 4.0, 10.0]

    Source: Song & Ermon (2020), B.1 ("the initial mutual information is 2, and we increase it by 2 every 4k iterations").
    """
    if not levels:
        raise ValueError("levels must name at least one mutual information, got none")
    stage = jnp.minimum(jnp.asarray(step) // _checks.positive_int(every, "every"), len(levels) - 1)
    return jnp.asarray(levels, float)[stage]


def _mixing(mi: float | Float[Array, ""], dim: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The correlation rho, and sqrt(1 - rho²), which a rho close to 1 would lose."""
    return mi_to_rho(mi, dim), jnp.exp(-jnp.asarray(mi, float) / dim)


def _through(task: Task, forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Task:
    """`task` with y ↦ forward(y), a bijection: neither the mutual information nor a pair's ratio changes."""

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        x, y = task.sample(key, n)
        return x, forward(y)

    return Task(sample, task.mi, lambda x, y: task.log_ratio(x, inverse(y)))


def _second_difference(function: Callable[[float], float], dim: int, df: float) -> float:
    """What is left of a function of the half degrees of freedom in log t_{2d}(x, y) - log t_d(x) - log t_d(y)."""
    half, step = float(df) / 2, _checks.positive_int(dim, "dim") / 2
    return float(function(half) - 2 * function(half + step) + function(half + 2 * step))
