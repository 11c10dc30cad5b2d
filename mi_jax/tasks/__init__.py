"""Tasks: pairs of variables to draw from, whose mutual information and log density ratio are known in closed form.

The two of Section 6.1 of Song & Ermon (2020): `gaussian`, d independent pairs with correlation rho, and `cubic`, the same
with y ↦ y³. Beyond the paper: `student` and `cauchy_noise` have heavy tails, `uniform_noise` a bounded support, and `sine`
turns back. `rotated`, `spiral`, `swiss_roll`, `uniform_margins` and `through` bend any task, and `widened` adds columns that
carry no information: the mutual information stays what it was.
"""

from mi_jax.tasks.maps import rotated, spiral, swiss_roll, uniform_margins, widened
from mi_jax.tasks.noise import cauchy_noise, sine, uniform_noise
from mi_jax.tasks.paper import (
    PAPER_DIM,
    PAPER_LEVELS,
    PAPER_STAGE,
    cubic,
    gaussian,
    mi_to_rho,
    rho_to_mi,
    staircase,
)
from mi_jax.tasks.student import student, student_correction
from mi_jax.tasks.task import Bijection, Task, through

__all__ = [
    "PAPER_DIM",
    "PAPER_LEVELS",
    "PAPER_STAGE",
    "Bijection",
    "Task",
    "cauchy_noise",
    "cubic",
    "gaussian",
    "mi_to_rho",
    "rho_to_mi",
    "rotated",
    "sine",
    "spiral",
    "staircase",
    "student",
    "student_correction",
    "swiss_roll",
    "through",
    "uniform_margins",
    "uniform_noise",
    "widened",
]
