"""A read-out's history as a row keeps it: moments of blocks of steps, which give a stage its exact bias and variance."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.lib import rows


class Moments(NamedTuple):
    """A history in blocks of consecutive steps; any window of whole blocks has its exact mean and variance.

    Attributes:
      block: steps in a block.
      mean: (blocks,) mean of each block, in nats.
      squares: (blocks,) sum of squared deviations from it.
      last: (blocks,) the block's last value, unsmoothed.
    """

    block: int
    mean: np.ndarray
    squares: np.ndarray
    last: np.ndarray

    def window(self, start: int, stop: int) -> tuple[float, float]:
        """Mean and variance (ddof = 0) over steps start <= step < stop, which must fall on block edges."""
        if start % self.block or stop % self.block:
            raise ValueError(f"start and stop must be multiples of the block, {self.block}, got {start} and {stop}")
        blocks = slice(start // self.block, stop // self.block)
        mean = self.mean[blocks].mean()
        between = ((self.mean[blocks] - mean) ** 2).mean()
        return float(mean), float(between + self.squares[blocks].sum() / (stop - start))

    def to_json(self) -> dict[str, Any]:
        """As a row's results hold it; null where a number is not finite."""
        return {"block": self.block, **{name: rows.rounded(getattr(self, name).tolist()) for name in self._fields[1:]}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Moments":
        """The inverse of `to_json`; NaN where it has null."""
        return cls(content["block"], *(np.array(content[name], np.float64) for name in cls._fields[1:]))


def moments(history: np.ndarray, block: int) -> Moments:
    """The block moments of a (steps,) history."""
    blocks = np.asarray(history, np.float64).reshape(-1, block)
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged run is recorded as it is
        mean = blocks.mean(axis=1)
        squares = ((blocks - mean[:, None]) ** 2).sum(axis=1)
    return Moments(block, mean, squares, blocks[:, -1])
