"""Central moments up to the fourth, of chunks and merged: a variance with its interval, in memory that does not grow.

Chunks are fixed, and merged in their order, so that adding more of them changes no bit of what the earlier ones gave.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Size, mean and sums of powers of deviations from it, each of any one shape; float64.

    Attributes:
      size: how many values.
      mean: their mean.
      m2: Σ (value - mean)², and so on.
      m3: the same, cubed.
      m4: to the fourth.
    """

    size: float
    mean: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """The unbiased sample variance."""
        return self.m2 / (self.size - 1.0)

    @property
    def mean_error(self) -> np.ndarray:
        """The standard error of the mean."""
        return np.sqrt(self.variance / self.size)

    @property
    def variance_error(self) -> np.ndarray:
        """The standard error of the variance; it means something only where the values have a fourth moment, and show it."""
        second = self.m2 / self.size
        return np.sqrt(np.maximum(self.m4 / self.size - second**2, 0.0) / self.size)


def of(values: np.ndarray) -> Moments:
    """The moments of (size, *shape) values over their first axis."""
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    deviation = values - mean
    return Moments(float(len(values)), mean, *((deviation**k).sum(axis=0) for k in (2, 3, 4)))


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all values together, the parts taken in order (Pébay, 2008)."""
    return functools.reduce(_two, parts)


def _two(a: Moments, b: Moments) -> Moments:
    n = a.size + b.size
    delta, share_a, share_b = b.mean - a.mean, a.size / n, b.size / n
    both = a.size * share_b
    m2 = a.m2 + b.m2 + delta**2 * both
    m3 = a.m3 + b.m3 + delta**3 * both * (share_a - share_b) + 3.0 * delta * (share_a * b.m2 - share_b * a.m2)
    m4 = a.m4 + b.m4 + delta**4 * both * (share_a**2 - share_a * share_b + share_b**2)
    m4 = m4 + 6.0 * delta**2 * (share_a**2 * b.m2 + share_b**2 * a.m2) + 4.0 * delta * (share_a * b.m3 - share_b * a.m3)
    return Moments(n, a.mean + delta * share_b, m2, m3, m4)
