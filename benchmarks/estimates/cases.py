"""The cases of known mutual information on which `mi_jax.estimate` is measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from mi_jax import tasks
from mi_jax.tasks import Task

NUM_ROWS = 10_000
MIS = (0.0, 0.5, 2.0, 5.0)
TURN = 17  # the key of the rotations


@dataclass(frozen=True)
class Case:
    """A task with known mutual information.

    Attributes:
      name: its name, for people and in rows.
      make: makes the task.
      floor: the square root of the variance of log r over the joint, where it has a closed form. No interval from N pairs
        should be narrower than ±1.96 floor / sqrt(N).
      num_rows: how many rows are drawn.
    """

    name: str
    make: Callable[[], Task]
    floor: float | None = None
    num_rows: int = NUM_ROWS

    def sample(self, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Rows of x and of y, and the true MI."""
        task = self.make()
        x, y = task.sample(jax.random.fold_in(jax.random.key(seed), sum(self.name.encode())), self.num_rows)
        return np.asarray(x), np.asarray(y), float(task.mi)


def _gaussian(dim: int, mi: float) -> list[Case]:
    floor = math.sqrt(dim * -math.expm1(-2 * mi / dim))
    cases = [
        Case(f"gaussian, d = {dim}, MI {mi:g}", lambda: tasks.gaussian(dim, mi), floor),
        Case(f"cubic, d = {dim}, MI {mi:g}", lambda: tasks.cubic(dim, mi), floor),
    ]
    if dim > 1:  # in one dimension a rotation is a sign
        turned = lambda: tasks.rotated(tasks.gaussian(dim, mi), jax.random.key(TURN))  # noqa: E731
        cases.append(Case(f"rotated, d = {dim}, MI {mi:g}", turned, floor))
    return cases


def _student(dim: int, df: float, mi: float | None = None) -> Case:
    """Student's t; without a correlation if no MI is given."""
    mi = tasks.student_correction(dim, df) if mi is None else mi
    return Case(f"student, d = {dim}, df {df:g}, MI {mi:.3g}", lambda: tasks.student(dim, mi, df))


def _noise(dim: int, epsilon: float) -> Case:
    return Case(f"uniform noise, d = {dim}, epsilon {epsilon:g}", lambda: tasks.uniform_noise(dim, epsilon))


CASES = {
    case.name: case
    for case in [
        *(case for dim in (1, 5, 20) for mi in MIS for case in _gaussian(dim, mi)),
        *(_student(1, 1.0), _student(1, 3.0, 0.5), _student(2, 3.0, 1.0)),
        *(_student(2, 2.0, 2.0), _student(5, 3.0), _student(5, 5.0, 1.0)),
        *(_noise(1, 0.75), _noise(1, 0.1), _noise(1, 0.02), _noise(2, 0.3)),
    ]
}
# Harder than the defaults are made for: they show where the defaults end.
HARD = {
    case.name: case
    for case in [
        Case("gaussian, d = 25, MI 1.29", lambda: tasks.gaussian(25, 1.29)),
        Case("cubic turned, d = 5, MI 2", lambda: tasks.rotated(tasks.cubic(5, 2.0), jax.random.key(TURN))),
        Case("cubic turned, d = 20, MI 2", lambda: tasks.rotated(tasks.cubic(20, 2.0), jax.random.key(TURN))),
        _noise(3, 0.3),
        Case("gaussian, d = 20, MI 10", lambda: tasks.gaussian(20, 10.0)),
    ]
}

LARGE = Case("gaussian, d = 20, MI 2, 200,000 rows", lambda: tasks.gaussian(20, 2.0), num_rows=200_000)
LARGE_CRITICS = ("gaussian", "separable", "joint")
