"""In which coordinates rows are estimated by default: their ranked columns, or the ranks of what these are mixtures of."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mi_jax.estimation.columns import Columns, Transform, fit_columns
from mi_jax.estimation.components import is_continuous
from mi_jax.estimation.inputs import as_rows
from mi_jax.estimation.units import Units

MOST_COLUMNS, MOST_TOGETHER = 50, 200  # of a side, and of both; with more, components cost more than they tell
# What components must gain over columns, in standard errors and in nats: far more than they do by chance, and far less than
# where columns are mixtures of heavy tails (tests/estimation/test_coordinates.py).
STANDARD_ERRORS, LEAST_GAIN = 4.0, 0.02


class Coordinates(NamedTuple):
    """Maps from rows to columns, of x and of y, and the rows mapped."""

    columns: tuple[Columns, Columns]
    x: Float[np.ndarray, "n dx"]
    y: Float[np.ndarray, "n dy"]


def list_coordinates(x: Any, y: Any, transform: Transform | None) -> list[Coordinates]:
    """All coordinates that come into question: those of the transform; or by default ranks first, then components.

    Args:
      x: (n, *shape) rows.
      y: their partners.
      transform: None for the default.

    Raises:
      ValueError, TypeError: as `fit_columns`.
    """
    ranked = [fit_columns(side, name, "ranks" if transform is None else transform) for side, name in ((x, "x"), (y, "y"))]
    columns = [[each] for each in ranked]
    if transform is None and sum(each.kept.size for each in ranked) <= min(len(x) // 2, MOST_TOGETHER):
        for each, side in zip(columns, (x, y), strict=True):
            if _could_be_mixtures(each[0], side):
                each += _try_components(side, each[0].name)
    mapped = [[(each, each(side)) for each in of_side] for of_side, side in zip(columns, (x, y), strict=True)]
    return [
        Coordinates((columns_x, columns_y), rows_x, rows_y)
        for (columns_x, rows_x), (columns_y, rows_y) in itertools.product(*mapped)
    ]


def choose_coordinates(possible: Sequence[Coordinates], order: Int[np.ndarray, " n"], units: Units) -> int:
    """The number of the coordinates in which the rows are most nearly a Gaussian relation, with y in this order.

    Formula: the means of the in-sample Gaussian log ratio are compared. Later coordinates are taken if their mean is larger
    than that of those before by 0.02 nats and by 4 standard errors, of the differences of rows, groups or blocks.
    """
    if len(possible) == 1:
        return 0
    ratios = [_gaussian_log_ratios(each.x, each.y[order]) for each in possible]
    best = 0
    for place in range(1, len(possible)):
        gains = ratios[place] - ratios[best]
        gain = float(np.mean(gains))
        error = float(np.linalg.norm(units.sums(gains - gain))) / len(gains)
        if gain > max(LEAST_GAIN, STANDARD_ERRORS * error):
            best = place
    return best


def _could_be_mixtures(columns: Columns, rows: Any) -> bool:
    """Whether two columns or more, of few in all, are of many values, and so could be mixtures of as many variables."""
    continuous = is_continuous(as_rows(rows, columns.name)[:, columns.kept])
    return columns.kept.size <= MOST_COLUMNS and int(continuous.sum()) >= 2


def _try_components(rows: Any, name: str) -> list[Columns]:
    """The components of rows; none if their columns depend on one another, or are too small to unmix."""
    try:
        return [fit_columns(rows, name, "components")]
    except ValueError:
        return []


def _gaussian_log_ratios(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]) -> Float[np.ndarray, " n"]:
    """The log ratio of each row by the Gaussian law fitted to them all."""
    sides = (side.astype(np.float64) for side in (x, y))
    axes = [np.linalg.qr(side - side.mean(axis=0))[0] * len(x) ** 0.5 for side in sides]
    left, correlations, right = np.linalg.svd(axes[0].T @ axes[1] / len(x), full_matrices=False)
    s = np.minimum(correlations, 1 - 1e-9)
    a, b = axes[0] @ left, axes[1] @ right.T
    ratios: Float[np.ndarray, " n"] = (s * a * b - 0.5 * s**2 * (a**2 + b**2)) @ (1 / (1 - s**2))
    return ratios - 0.5 * float(np.sum(np.log1p(-(s**2))))
