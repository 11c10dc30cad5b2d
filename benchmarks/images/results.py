"""From rows to estimates, intervals, ratios and verdicts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.images import verdicts
from benchmarks.images.verdicts import Ratio
from benchmarks.lib.figures import NAMES
from benchmarks.lib.rows import Row
from mi_jax.consistency import Measured

# Read-outs in the order of the paper's figures, with their names in tables.
READ_OUTS = {name: NAMES[name] for name in ("cpc", "mine", "smile_1", "smile_5")}
READ_OUTS |= {"gm": "GM (ELBOs)", "gm_iw": NAMES["gm_iw"]}
LESS = 3  # h(Y) has so many rows fewer than Y
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


class Property(NamedTuple):
    """A property of mutual information that the paper tests.

    Attributes:
      name: its name.
      says: the property as a formula.
      ideal: what the ratio ought to be.
      accepted: the ratios that pass.
      claim: what Section 6.2 of the paper says of the estimators.
    """

    name: str
    says: str
    ideal: float
    accepted: tuple[float, float]
    claim: str


# A tenth of what they ought to be is accepted, as `mi_jax.self_consistency` does.
PROPERTIES = {
    each.name: each
    for each in (
        Property("independence", "I(X; Y) at t = 0, over that at the largest t", 0.0, (-0.1, 0.1), "0, except for GM"),
        Property(
            "monotony", "I(X; Y) at this t, over that at the next larger t", 1.0, (-math.inf, 1.1), "non-decreasing for all"
        ),
        Property(
            "processing",
            "I([X, X]; [Y, h(Y)]) / I(X; Y)",
            1.0,
            (0.9, 1.1),
            "near 1, except for MINE on MNIST and GM on CIFAR-10",
        ),
        Property(
            "additivity",
            "I([X1, X2]; [Y1, Y2]) / I(X; Y)",
            2.0,
            (1.8, 2.2),
            "near 2 for GM; for others towards 1 at large t",
        ),
    )
}


class Results:
    """The held-out estimates of one dataset's rows.

    Attributes:
      rows: the rows.
      cells: setting, read-out, t -> seed -> value and standard error.
      left_out: the runs and read-outs that are not in `cells`, with the reason.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.cells: dict[tuple[str, str, int], dict[int, Mapping[str, Any]]] = {}
        self.left_out: list[str] = []
        for row in rows:
            config = row.config
            for name, read in row.results.items():
                if row.diverged or read["value"] is None or read["stderr"] is None:
                    what = "diverged" if row.diverged else f"{name} is not finite"
                    self.left_out.append(
                        f"{config['data']} {config['objective']} {config['setting']} t = {config['t']}, "
                        f"seed {config['seed']}: {what}"
                    )
                else:
                    self.cells.setdefault((config["setting"], name, config["t"]), {})[config["seed"]] = read
        self.left_out = list(dict.fromkeys(self.left_out))

    def ts(self, setting: str, name: str) -> list[int]:
        """At how many rows there is an estimate."""
        return sorted(t for where, what, t in self.cells if (where, what) == (setting, name))

    def values(self, setting: str, name: str, t: int) -> np.ndarray:
        """The seeds' estimates."""
        return np.array([read["value"] for read in self.cells[setting, name, t].values()])

    def measured(self, setting: str, name: str, t: int) -> Measured:
        """The mean over seeds and its interval.

        Seeds share the test images, so averaging over seeds does not reduce the error of the images. Few seeds say little of
        how much seeds differ, so the seeds' part of the interval uses Student's t: with two seeds it is 6.5 times as wide as
        the normal law's.
        """
        values = self.values(setting, name, t)
        sampling = np.mean([float(read["stderr"]) ** 2 for read in self.cells[setting, name, t].values()])
        between = np.var(values, ddof=1) / len(values) if len(values) > 1 else 0.0
        of_seeds = stats.t.ppf(0.975, max(1, len(values) - 1))
        reach = math.sqrt(1.96**2 * sampling + of_seeds**2 * between)
        return Measured(float(values.mean()), float(values.mean()) - reach, float(values.mean()) + reach)

    def ratios(self, name: str, kind: str) -> dict[int, Ratio]:
        """Each t at which there is a ratio of this kind of `PROPERTIES` -> the ratio, for one read-out."""
        return {
            t: verdicts.judge(self.cells[upper], self.cells[lower], PROPERTIES[kind].accepted)
            for t, (upper, lower) in self._compared(name, kind).items()
            if set(self.cells[upper]) & set(self.cells[lower])
        }

    def _compared(self, name: str, kind: str) -> dict[int, tuple[tuple[str, str, int], tuple[str, str, int]]]:
        """The cells above and below the line of the ratio, by t."""
        ts = self.ts("rows", name)
        if kind == "independence":
            return {0: (("rows", name, 0), ("rows", name, ts[-1]))} if len(ts) > 1 and ts[0] == 0 else {}
        if kind == "monotony":
            return {t: (("rows", name, t), ("rows", name, more)) for t, more in itertools.pairwise(ts) if t > 0}
        return {t: ((kind, name, t), ("rows", name, t)) for t in self.ts(kind, name) if t in ts}
