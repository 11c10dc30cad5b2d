"""From rows to the moments of a cell, and where its measured variance means something."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.lib import rows
from benchmarks.variance import moments
from benchmarks.variance.cells import Cell
from benchmarks.variance.experiment import Chunk, check_chunks, chunks_of, covers
from benchmarks.variance.moments import Moments
from mi_jax import theory

_FOURTH = 1 / 9  # rho² below which r* has a fourth moment, and its measured variance an interval


class Result(NamedTuple):
    """The moments of one design at one n.

    Attributes:
      pairs: "independent" or "off_diagonal".
      n: pairs from Q, or joint pairs of a batch.
      dim: d.
      mis: the MIs, in nats.
      taus: where the ratio was clipped.
      moments: quantity -> its moments over replicates, each of shape (mis,).
    """

    pairs: theory.Pairs
    n: int
    dim: int
    mis: tuple[float, ...]
    taus: tuple[float, ...]
    moments: Mapping[str, Moments]

    @classmethod
    def of(cls, cell: Cell, chunks: Iterable[Chunk]) -> "Result":
        """The moments of all chunks of a cell, merged in their order; they may come one by one."""
        both = lambda one, other: {name: moments.merge([one[name], other[name]]) for name in one}  # noqa: E731
        return cls(cell.pairs, cell.n, cell.dim, cell.mis, cell.taus, functools.reduce(both, chunks))

    @property
    def replicates(self) -> int:
        """How many there are."""
        return int(next(iter(self.moments.values())).size)

    @property
    def law(self) -> np.ndarray:
        """Var[E_{Q_n}[r*]], exactly."""
        return np.asarray(theory.gaussian_partition_variance(np.array(self.mis), self.dim, self.n, pairs=self.pairs))

    @property
    def pairs_drawn(self) -> int:
        """How many pairs from Q all replicates used."""
        return self.replicates * (self.n if self.pairs == "independent" else self.n * (self.n - 1))

    @property
    def seen(self) -> np.ndarray:
        """Whether so many pairs reach nine tenths of E_Q[r*²]."""
        return np.asarray(theory.gaussian_tail_pairs(np.array(self.mis), self.dim, share=0.9)) <= self.pairs_drawn

    @property
    def with_interval(self) -> np.ndarray:
        """Where an interval of the measured variance means something: r* has a fourth moment, and its tail is in reach."""
        return (-np.expm1(-2 * np.array(self.mis) / self.dim) < _FOURTH) & self.seen


def read(folder: Path) -> list[Result]:
    """The results of a folder of rows; rows are read again, one by one, as they are merged, so that memory does not grow."""
    parts: dict[Cell, list[tuple[int, Path]]] = {}
    found = []
    for path in sorted(folder.glob("*.json")):
        row = rows.read(path, "variance")
        cell, numbers = covers(row.config)
        parts.setdefault(cell, []).append((numbers[0], path))
        found.append(row._replace(results={}))
    check_chunks(found)
    return [
        Result.of(cell, (chunk for _, path in sorted(paths) for chunk in chunks_of(rows.read(path, "variance"))))
        for cell, paths in parts.items()
    ]
