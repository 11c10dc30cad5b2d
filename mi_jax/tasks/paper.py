"""The two tasks of Section 6.1 of Song & Ermon (2020), and their staircase of mutual information."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mi_jax import _checks
from mi_jax.tasks.task import Bijection, Task, through

PAPER_DIM = 20
PAPER_LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)
PAPER_STAGE = 4_000


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
    rho, noise_scale = mixing(mi, dim)

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
    return through(gaussian(dim, mi), y=Bijection(lambda y: y**3, jnp.cbrt))


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


def mixing(mi: float | Float[Array, ""], dim: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The correlation rho, and sqrt(1 - rho²), which a rho close to 1 would lose."""
    return mi_to_rho(mi, dim), jnp.exp(-jnp.asarray(mi, float) / dim)
