"""Bijections of a task's x and y: they change the shape of the relation, and neither its MI nor the ratio of a pair."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks
from mi_jax.tasks.task import Bijection, Task, through


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
    turn = jax.random.orthogonal(key, _columns(task)[1])
    times = functools.partial(jnp.matmul, precision="highest")  # by default GPUs keep 10 bits: y would not come back
    return through(task, y=Bijection(lambda y: times(y, turn), lambda y: times(y, turn.T)))


def spiral(task: Task, speed: float = 1 / 3) -> Task:
    """A task with each row turned by an angle that grows with its length: a bend of all coordinates that keeps volumes.

    Formula: row ↦ R(s |row|²) row, where R(a) turns a plane by the angle a: of x the first two coordinates, of y the second
    and the third, or the first two if there are no more. Lengths stay, so the way back is R(-s |row|²).

    Args:
      task: the task; x and y have 2 columns or more.
      speed: s, in radians for a row of length 1; concrete or traced.

    Returns:
      A `Task` with x and y of the same shapes.

    Raises:
      TypeError: if `task` is not a `Task`.
      ValueError: if x or y has one column.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.spiral(tasks.gaussian(dim=3, mi=1.0))
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Czyż, Grabowski, Vogt, Beerenwinkel & Marx (2023), "Beyond normal: on the evaluation of mutual information
    estimators".
    """
    columns = _columns(task)
    for name, number in zip("xy", columns, strict=True):
        if number < 2:
            raise ValueError(f"task must have 2 columns or more of {name}, to turn a plane, got {number}")
    return through(task, x=turn_by_length(speed, 0), y=turn_by_length(speed, 1 if columns[1] > 2 else 0))


def turn_by_length(speed: float | Float[Array, ""], first: int) -> Bijection:
    """The map of `spiral`: turns the coordinates `first` and `first + 1` by speed |row|² radians."""

    def turn(rows: Float[Array, "*n d"], speed: float | Float[Array, ""]) -> Float[Array, "*n d"]:
        rows = jnp.asarray(rows)
        angle = speed * jnp.sum(rows**2, axis=-1)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        a, b = rows[..., first], rows[..., first + 1]
        return rows.at[..., first].set(cosine * a - sine * b).at[..., first + 1].set(sine * a + cosine * b)

    return Bijection(lambda rows: turn(rows, speed), lambda rows: turn(rows, -speed))


def uniform_margins(task: Task) -> Task:
    """A task with each coordinate of x and y through the distribution function of the standard normal.

    Formula: t ↦ Φ(t). The coordinates of `gaussian` become uniform on (0, 1), and their joint law the Gaussian copula.

    Args:
      task: the task. In float32 Φ is 1 for coordinates beyond about 5, so that the ratio is then the one at 5.

    Returns:
      A `Task` with x and y of the same shapes.

    Raises:
      TypeError: if `task` is not a `Task`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.uniform_margins(tasks.gaussian(dim=3, mi=1.0))
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      Array(True, dtype=bool)

    Source: Czyż et al. (2023).
    """
    return through(task, x=NORMAL_CDF, y=NORMAL_CDF)


def _normal_cdf(rows: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    below_one = 1 - jnp.finfo(rows.dtype).epsneg
    return jnp.clip(jax.scipy.special.ndtr(rows), jnp.finfo(rows.dtype).tiny, below_one)


NORMAL_CDF = Bijection(_normal_cdf, jax.scipy.special.ndtri)


def swiss_roll(task: Task) -> Task:
    """A task with its one column of x rolled up in a plane: near in the plane is not near along the roll.

    Formula: x ↦ (t cos t, t sin t) / 21 with t = 3π/2 (1 + 2 Φ(x)), which goes around one and a half times. The length of
    (t cos t, t sin t) is t, which gives x back.

    Args:
      task: the task; x has one column.

    Returns:
      A `Task` with x of two columns.

    Raises:
      TypeError: if `task` is not a `Task`.
      ValueError: if x has more than one column.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.swiss_roll(tasks.gaussian(dim=1, mi=1.0))
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> x.shape, abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      ((10000, 2), Array(True, dtype=bool))

    Source: Czyż et al. (2023).
    """
    if (columns := _columns(task)[0]) != 1:
        raise ValueError(f"task must have one column of x, to roll it up, got {columns}")
    return through(task, x=ROLL)


def _roll(rows: Float[Array, "*n one"]) -> Float[Array, "*n two"]:
    turned = 1.5 * jnp.pi * (1 + 2 * _normal_cdf(rows))
    return jnp.concatenate([turned * jnp.cos(turned), turned * jnp.sin(turned)], axis=-1) / 21


def _unroll(rows: Float[Array, "*n two"]) -> Float[Array, "*n one"]:
    share = (21 * jnp.linalg.norm(rows, axis=-1, keepdims=True) / (1.5 * jnp.pi) - 1) / 2
    eps = jnp.finfo(rows.dtype).eps
    return jax.scipy.special.ndtri(jnp.clip(share, eps, 1 - eps))


ROLL = Bijection(_roll, _unroll)


def widened(task: Task, dim: int) -> Task:
    """A task with further columns of x and of y that are independent standard normals and carry no information.

    Formula: x ↦ (x, e), y ↦ (y, e'); log r depends on the columns of the task alone.

    Args:
      task: the task.
      dim: how many columns x and y have in the end, each; one that has as many stays as it is.

    Returns:
      A `Task` with x and y of shape (n, dim).

    Raises:
      TypeError: if `task` is not a `Task`.
      ValueError: if x or y has more columns than `dim`.

    Example:
      >>> import jax
      >>> from mi_jax import tasks
      >>> task = tasks.widened(tasks.gaussian(dim=2, mi=1.0), 5)
      >>> x, y = task.sample(jax.random.key(0), 10_000)
      >>> x.shape, abs(task.log_ratio(x, y).mean() - task.mi) < 0.1
      ((10000, 5), Array(True, dtype=bool))

    Source: Czyż et al. (2023), where two of many coordinates depend on one another.
    """
    columns = _columns(task)
    if (most := max(columns)) > _checks.positive_int(dim, "dim"):
        raise ValueError(f"dim must be at least the {most} columns that there are, got {dim}")

    def sample(key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        task_key, *noise_keys = jax.random.split(key, 3)
        wide = [
            jnp.concatenate([rows, jax.random.normal(noise_key, (n, dim - rows.shape[1]))], axis=1)
            for rows, noise_key in zip(task.sample(task_key, n), noise_keys, strict=True)
        ]
        return wide[0], wide[1]

    return Task(sample, task.mi, lambda x, y: task.log_ratio(x[..., : columns[0]], y[..., : columns[1]]))


def _columns(task: Task) -> tuple[int, int]:
    """How many columns x and y have."""
    _checks.instance(task, Task, "task")
    x, y = jax.eval_shape(lambda: task.sample(jax.random.key(0), 1))
    return x.shape[-1], y.shape[-1]
