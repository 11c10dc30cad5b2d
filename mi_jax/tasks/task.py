"""What a task is: a joint law to draw from, with its mutual information and its log ratio; and a task behind bijections."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, PRNGKeyArray

from mi_jax import _checks


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


class Bijection(NamedTuple):
    """A map of rows that loses nothing, and the way back: `inverse(forward(rows))` is `rows`, up to rounding."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


IDENTITY = Bijection(lambda rows: rows, lambda rows: rows)


def through(task: Task, *, x: Bijection = IDENTITY, y: Bijection = IDENTITY) -> Task:
    """A task behind bijections of x and of y. Neither the mutual information nor the ratio of a pair changes.

    Formula: x ↦ f(x) and y ↦ g(y); log r(x, y) = log r_task(f⁻¹(x), g⁻¹(y)), as the Jacobians cancel.

    Args:
      task: the task.
      x: a `Bijection` of rows of x, or any pair (forward, inverse) of functions of (..., d) arrays. A map into more columns
        is allowed: it has an inverse where it arrives.
      y: the same for y.

    Returns:
      A `Task`.

    Raises:
      TypeError: if `task` is not a `Task`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mi_jax import tasks
      >>> task = tasks.through(tasks.gaussian(dim=2, mi=1.0), x=(jnp.exp, jnp.log))
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Kraskov, Stögbauer & Grassberger (2004), "Estimating mutual information", for the invariance.
    """
    _checks.instance(task, Task, "task")
    (forward_x, inverse_x), (forward_y, inverse_y) = x, y

    def sample(key: PRNGKeyArray, n: int) -> tuple[Array, Array]:
        rows_x, rows_y = task.sample(key, n)
        return forward_x(rows_x), forward_y(rows_y)

    return Task(sample, task.mi, lambda x, y: task.log_ratio(inverse_x(x), inverse_y(y)))
