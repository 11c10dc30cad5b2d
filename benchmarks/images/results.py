"""From rows to estimates, intervals, ratios and verdicts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.lib.figures import NAMES
from benchmarks.lib.rows import Row
from mi_jax import consistency
from mi_jax.consistency import Measured

# Read-outs in the order of the paper's figures, with their names in tables.
READ_OUTS = {name: NAMES[name] for name in ("cpc", "mine", "smile_1", "smile_5")}
READ_OUTS |= {"gm": "GM (ELBOs)", "gm_iw": NAMES["gm_iw"]}
LESS = 3  # h(Y) has so many rows fewer than Y
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


class Results:
    """The held-out estimates of one dataset's rows.

    Attributes:
      rows: the rows.
      cells: setting, read-out, t -> value and standard error of each seed.
      left_out: the runs and read-outs that are not in `cells`, with the reason.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.cells: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
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
                    self.cells.setdefault((config["setting"], name, config["t"]), []).append(read)
        self.left_out = list(dict.fromkeys(self.left_out))

    def ts(self, setting: str, name: str) -> list[int]:
        """At how many rows there is an estimate."""
        return sorted(t for where, what, t in self.cells if (where, what) == (setting, name))

    def values(self, setting: str, name: str, t: int) -> np.ndarray:
        """The seeds' estimates."""
        return np.array([read["value"] for read in self.cells[setting, name, t]])

    def measured(self, setting: str, name: str, t: int) -> Measured:
        """The mean over seeds and its interval.

        Seeds share the test images, so averaging over seeds does not reduce the error of the images. Few seeds say little of
        how much seeds differ, so the seeds' part of the interval uses Student's t: with two seeds it is 6.5 times as wide as
        the normal law's.
        """
        reads = self.cells[setting, name, t]
        values = self.values(setting, name, t)
        sampling = np.mean([float(one["stderr"]) ** 2 for one in reads])
        between = np.var(values, ddof=1) / len(values) if len(values) > 1 else 0.0
        of_seeds = stats.t.ppf(0.975, max(1, len(values) - 1))
        reach = math.sqrt(1.96**2 * sampling + of_seeds**2 * between)
        return Measured(float(values.mean()), float(values.mean()) - reach, float(values.mean()) + reach)

    def ratios(self, setting: str, name: str) -> dict[int, consistency.Property]:
        """At each t the ratio to the first setting at the same t, and the verdict."""
        target = 2.0 if setting == "additivity" else 1.0
        says = "I([X1, X2]; [Y1, Y2]) = 2 I(X; Y)" if setting == "additivity" else "I([X, X]; [Y, h(Y)]) = I(X; Y)"
        shared = [t for t in self.ts(setting, name) if t in self.ts("rows", name)]
        both = {t: (self.measured(setting, name, t), self.measured("rows", name, t)) for t in shared}
        return {
            t: consistency.judge_ratio(setting, says, {"two": two, "one": one}, target) for t, (two, one) in both.items()
        }

    def independence(self, name: str) -> consistency.Property | None:
        """I(X; Y) at t = 0, where Y is constant, over that at the largest t."""
        ts = self.ts("rows", name)
        if len(ts) < 2 or ts[0]:
            return None
        estimates = {f"t = {t}": self.measured("rows", name, t) for t in (0, ts[-1])}
        return consistency.judge_ratio("independence", "I(X; Y) = 0 at t = 0", estimates, 0.0)
