"""The study of the permutation test: many small data sets of independent rows, of subjects, and of series."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.signal import lfilter

from benchmarks.lib import machine, rows
from benchmarks.lib.rows import Row
from mi_jax import tasks
from mi_jax.estimation import columns, row_warnings

SETS, GROUP = 200, 20  # data sets in all, and in a row
ROWS, DIM = 200, 2
SUBJECTS, TIMES, NOISE = 60, 20, 0.3
LENGTH, MEMORY, BLOCK = 2_000, 0.99, 100
RETRAINED = (("folds", 2), ("patience", 100), ("permutations", 19), ("retrain", True), ("steps", 200))
KEPT = (("permutations", 999), ("steps", 500))
# Rows of before, which do not name what was then the only way.
BEFORE = {"permutations": 19, "retrain": True}

Pairs = tuple[np.ndarray, np.ndarray, dict[str, Any]]


def _draw_rows(mi: float, seed: int) -> Pairs:
    x, y = tasks.gaussian(DIM, mi).sample(jax.random.fold_in(jax.random.key(1), seed), ROWS)
    return np.asarray(x), np.asarray(y), {}


def _draw_subjects(mi: float, seed: int) -> Pairs:
    """X is a subject's own, and so is the level of y, which is measured with noise; both share so many nats."""
    rho = math.sqrt((1 + NOISE**2) * -math.expm1(-2 * mi))
    x, other = np.random.default_rng(seed).normal(size=(2, SUBJECTS))
    subject = np.repeat(np.arange(SUBJECTS), TIMES)
    level = rho * x + math.sqrt(1 - rho**2) * other
    noise = NOISE * np.random.default_rng([seed, 1]).normal(size=subject.size)
    return x[subject], level[subject] + noise, {"groups": subject}


def _draw_series(mi: float, seed: int) -> Pairs:
    """Two series of long memory, with nothing in common."""
    assert mi == 0
    noise = np.random.default_rng(seed).normal(size=(2, LENGTH + 1_000))
    x, y = lfilter([1.0], [1.0, -MEMORY], noise)[:, 1_000:]
    return x, y, {"blocks": BLOCK}


DATA = {"rows": _draw_rows, "subjects": _draw_subjects, "series": _draw_series}
ABOUT = {
    "rows": f"{ROWS} independent rows of {DIM} + {DIM} Gaussian columns",
    "subjects": f"{SUBJECTS} subjects of {TIMES} rows each, with `groups=`",
    "series": f"{LENGTH:,} rows of two autoregressive series of memory {MEMORY}, with `blocks={BLOCK}`",
}


@dataclass(frozen=True)
class PermutationTest:
    """The permutation test on data sets of one kind and one true MI; a repeat is a group of them."""

    data: str
    mi: float
    options: tuple[tuple[str, Any], ...] = KEPT

    @property
    def label(self) -> str:
        """Its name for people."""
        retrained = ", retrained" if dict(self.options).get("retrain") else ""
        return f"independence, {self.data}, MI {self.mi:g}{retrained}"

    def config(self, group: int) -> dict[str, Any]:
        """What decides its numbers."""
        options = dict(self.options)
        return {"kind": "independence", "data": self.data, "mi": self.mi, "options": options, "sets": GROUP, "group": group}

    def measure(self, group: int) -> Row:
        """The row: the p-value, the estimate and its interval for each data set of a group."""
        started = time.perf_counter()
        sets = [self._one(number) for number in range(group * GROUP, (group + 1) * GROUP)]
        seconds = {"total": time.perf_counter() - started}
        return Row("estimates", self.config(group), machine.environment(), 0, seconds, rows.rounded({"sets": sets}))

    def _one(self, number: int) -> dict[str, Any]:
        import mi_jax

        x, y, units = DATA[self.data](self.mi, number)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), number), 1)
        result = mi_jax.estimate(x, y, key=key, **units, **dict(self.options))
        assert result.independence is not None
        raw = tuple(np.asarray(side, float).reshape(len(side), -1) for side in (x, y))
        ranked = tuple(columns.fit_columns(side, "rows")(side) for side in raw)
        return {
            "p_value": result.independence.p_value,
            "estimate": result.mi,
            "interval": list(result.interval),
            # What a user would be told who says nothing of how rows depend on one another.
            "dependent_rows": bool(row_warnings.warn_of_order((ranked[0], ranked[1]), (raw[0], raw[1]))),
        }


def cells() -> list[PermutationTest]:
    """Every kind of data with and without dependence, and independent rows also with sets that are trained anew."""
    return [
        *(PermutationTest("rows", mi, options) for options in (KEPT, RETRAINED) for mi in (0.0, 0.15)),
        *(PermutationTest("subjects", mi) for mi in (0.0, 0.3)),
        PermutationTest("series", 0.0),
    ]


def covers(config: Mapping[str, Any]) -> tuple[PermutationTest, Sequence[int]]:
    """The cell of a row, and its group."""
    before = {} if "data" in config else BEFORE
    options = tuple(sorted((before | config["options"]).items()))
    return PermutationTest(config.get("data", "rows"), config["mi"], options), [config["group"]]
