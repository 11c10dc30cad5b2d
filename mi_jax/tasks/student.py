"""A task with heavy tails on both sides, and coordinates that depend on one another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks
from mi_jax.tasks.paper import gaussian, mixing
from mi_jax.tasks.task import Task


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
    normal, (rho, noise_scale) = gaussian(dim, mi - correction), mixing(mi - correction, dim)
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


def _second_difference(function: Callable[[float], float], dim: int, df: float) -> float:
    """What is left of a function of the half degrees of freedom in log t_{2d}(x, y) - log t_d(x) - log t_d(y)."""
    half, step = float(df) / 2, _checks.positive_int(dim, "dim") / 2
    return float(function(half) - 2 * function(half + step) + function(half + 2 * step))
