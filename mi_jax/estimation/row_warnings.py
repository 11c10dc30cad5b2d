"""Warnings about rows that are no independent draws: repeated ones, and neighbours in the file that are alike."""

import math
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

Rows: TypeAlias = tuple[np.ndarray, np.ndarray]

LARGEST_DUPLICATES = 0.01
MORE_THAN_CHANCE = 10.0  # times as many equal rows as columns that coincide independently of one another would give
DIGITS = 5  # a value with more significant digits is measured, and does not occur twice by chance
FEWEST_ROWS = 50
FAR = 20  # neighbours are compared with rows a twentieth of the file apart, so that slow trends count little
CERTAIN = 4.0  # standard errors
HARMFUL = 0.05  # product of the two correlations, above which the variance of a mean is noticeably larger


def warn_of_repeats(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"]) -> dict[str, str]:
    """Whether rows repeat others, beyond what discrete values do by chance.

    Args:
      x: (n, dx) rows, before the transform.
      y: (n, dy) their partners.
    """
    counts = count_distinct(np.hstack([x, y]))
    share, most = 1 - counts.size / len(x), max(count_distinct(x).size, count_distinct(y).size)
    # Discrete variables give equal pairs too; their distinct pairs are fewer than those of their values.
    if not (share > LARGEST_DUPLICATES and most == counts.size > len(x) / 10):
        return {}
    columns = [*x.T, *y.T]
    by_chance = math.prod(_coincidence(np.unique(column, return_counts=True)[1]) for column in columns)
    if not any(map(_is_measured, columns)) and _coincidence(counts) <= MORE_THAN_CHANCE * by_chance:
        return {}
    text = "training and test rows then share pairs, and the estimate is too high; leave repetitions out"
    return {"duplicated_rows": f"{share:.0%} of the rows repeat another: {text}"}


def count_distinct(rows: np.ndarray) -> np.ndarray:
    """How often each of the distinct rows occurs."""
    rows = np.ascontiguousarray(rows + 0.0)  # bytes are compared, and -0 has others than 0
    return np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))), return_counts=True)[1]


def _coincidence(counts: np.ndarray) -> float:
    """The chance that two different rows are equal, given how often each value occurs."""
    return float(counts @ (counts - 1)) / (counts.sum() * (counts.sum() - 1))


def _is_measured(column: Float[np.ndarray, " n"]) -> bool:
    """Whether most of the values have many digits, and no common step, as counts, codes and rounded values have."""
    values = np.unique(column)
    if values.size < FEWEST_ROWS:
        return False
    some = values[:: max(1, values.size // 1_000)]
    if np.mean([float(f"{value:.{DIGITS}g}") == value for value in some]) > 0.5:
        return False
    steps = np.diff(values)
    places = steps / steps.min()
    return bool(np.mean(np.abs(places - np.round(places)) < 1e-3) < 0.5)


def warn_of_order(rows: Rows, raw: Rows) -> dict[str, str]:
    """Whether rows that follow one another are alike in x and in y, as in a series or in repeated measurements.

    Neighbours are also alike in a file that is sorted by a column or that lists one class after another, although its rows
    may be independent. Such files are left alone.

    Args:
      rows: x and y, transformed.
      raw: the same before the transform, with all columns.
    """
    if len(rows[0]) < FEWEST_ROWS or any(map(_is_sorted, raw)) or np.sum([_lists_classes(side) for side in raw]) == 1:
        return {}
    alike = [_resemblance(side) for side in rows]
    if not all(certain for _, certain in alike) or alike[0][0] * alike[1][0] < HARMFUL:
        return {}
    text = (
        f"rows that follow one another are alike in x and in y (correlations {alike[0][0]:.2f} and {alike[1][0]:.2f} beyond "
        "those of rows far apart), as in a series or in repeated measurements: if they depend on one another, the estimate "
        "is too high and its interval too narrow; give groups (rows that belong together) or blocks (for a series)"
    )
    return {"dependent_rows": text}


def _resemblance(rows: Float[np.ndarray, "n d"]) -> tuple[float, bool]:
    """How much higher neighbours correlate than rows far apart, in the column where most; and whether beyond chance."""
    scale = np.maximum(rows.std(axis=0), np.finfo(np.float32).tiny)
    rows = np.clip((rows - rows.mean(axis=0)) / scale, -3, 3)
    rows = rows - rows.mean(axis=0)
    far = max(2, len(rows) // FAR)

    def correlation(lag: int) -> Float[np.ndarray, " d"]:
        return np.einsum("nd,nd->d", rows[lag:], rows[:-lag]) / (len(rows) - lag)

    higher = float(np.max((correlation(1) - correlation(far)) / np.maximum(np.mean(rows**2, axis=0), 1e-9)))
    # Each correlation of independent rows has a variance of 1/n; the largest of d exceeds √(2 log d) times that.
    return higher, higher * math.sqrt(len(rows) / 2) > CERTAIN + math.sqrt(2 * math.log(rows.shape[1]))


def _is_sorted(raw: Float[np.ndarray, "n c"]) -> bool:
    """Whether some column that is not constant rises, or falls, from the first row to the last."""
    apart = np.diff(raw, axis=0)
    rises, falls = (apart > 0).any(axis=0), (apart < 0).any(axis=0)
    return bool((rises != falls).any())


def _lists_classes(raw: Float[np.ndarray, "n c"]) -> bool:
    """Whether some column holds whole numbers, each in rows that follow one another."""
    changes: Bool[np.ndarray, "m c"] = raw[1:] != raw[:-1]
    few = (changes.sum(axis=0) < len(raw) / 2) & (raw == np.round(raw)).all(axis=0)
    return any(np.unique(raw[:, place]).size == 1 + changes[:, place].sum() > 1 for place in np.flatnonzero(few))
