"""From rows to the numbers of a figure or a table: bias, variance and MSE of each stage of each run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gaussian.histories import Moments
from benchmarks.lib.figures import NAMES
from benchmarks.lib.rows import Row
from mi_jax import theory

# Read-outs in the order of the paper's figures, with their names in tables.
READ_OUTS = {name: NAMES[name] for name in ("cpc", "nwj", "mine", "js", "smile_1", "smile_5", "smile_10", "smile_inf")}
READ_OUTS |= {"gm": "GM (flows)", "ba": "BA (flow, p(x) known)", "doe": "DoE (flows)"}
FLOW = "realnvp"  # stands where a critic would, for the generative objectives
NETWORKS = {"joint": "joint critic", "separable": "separable critic", FLOW: "RealNVP"}
# The first quarter of each stage, while the critic adapts to the new MI, is left out. On the paper's 4,000 iterations that
# is 1,000; the paper does not say its window, and this one reproduces its CPC row.
DROPPED = 1 / 4


class Setting(NamedTuple):
    """All runs that one panel or table compares: they differ in the objective and the seed only.

    `critic` is the key of one of `NETWORKS`.
    """

    task: str
    critic: str
    hidden: tuple[int, ...]

    @property
    def depth(self) -> str:
        """The hidden layers, as in 2x256; of a flow, those of each conditioner."""
        return f"{len(self.hidden)}x{self.hidden[0]}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.task.capitalize()}, {NETWORKS[self.critic]}, {self.depth}"


class Protocol(NamedTuple):
    """The part of the configuration that all rows in a folder share."""

    dim: int
    batch: int
    levels: tuple[float, ...]
    every: int
    learning_rate: float

    def floor(self) -> np.ndarray:
        """(levels,) dρ²/n, the variance of the mean of n *exact* log ratios; the same for both tasks."""
        return np.asarray(theory.gaussian_log_ratio_variance(np.array(self.levels), self.dim)) / self.batch


class Stages(NamedTuple):
    """Statistics of one read-out, each (seeds, levels), over the iterations kept in each stage of each run.

    Attributes:
      bias: mean estimate - truth, in nats; negative is too low.
      variance: over the iterations of one run: batch variance and drift together; ddof = 0.
      mse: bias² + variance.
    """

    bias: np.ndarray
    variance: np.ndarray
    mse: np.ndarray


class Curve(NamedTuple):
    """One read-out of one run: its history, and whether the run's parameters diverged."""

    diverged: bool
    history: Moments


Curves = Mapping[str, Sequence[Curve]]


def protocol(rows: Sequence[Row]) -> Protocol:
    """The protocol that all these rows were made under.

    Raises:
      ValueError: if there are no rows, or they mix protocols.
    """
    if not rows:
        raise ValueError("there are no rows to draw; run the benchmark first")
    protocols = {protocol_of(row.config) for row in rows}
    if len(protocols) > 1:
        raise ValueError(f"the rows mix protocols, so they cannot share a figure; use a folder each: {sorted(protocols)}")
    return protocols.pop()


def protocol_of(config: Mapping[str, Any]) -> Protocol:
    """The protocol of a run's configuration."""
    shared = {name: config[name] for name in Protocol._fields}
    return Protocol(**shared | {"levels": tuple(config["levels"])})


def setting_of(row: Row) -> Setting:
    """The setting of a row."""
    return Setting(row.config["task"], row.config["critic"], tuple(row.config["hidden"]))


def settings(rows: Sequence[Row]) -> list[Setting]:
    """The settings that the rows cover, in the order of the paper's figures."""
    order = list(NETWORKS)
    key = lambda s: (s.critic == FLOW, len(s.hidden), order.index(s.critic), s.task != "gaussian")  # noqa: E731
    return sorted({setting_of(row) for row in rows}, key=key)


def curves(rows: Sequence[Row], setting: Setting) -> Curves:
    """Read-out -> its curves in a setting, by seed; unknown read-outs come last."""
    by_name: dict[str, list[Curve]] = {}
    for row in sorted(rows, key=lambda row: row.config["seed"]):
        if setting_of(row) == setting:
            for name, history in row.results.items():
                by_name.setdefault(name, []).append(Curve(bool(row.diverged), Moments.from_json(history)))
    order = list(READ_OUTS)
    return dict(sorted(by_name.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def stages(histories: Sequence[Moments], steps: Protocol, dropped: float = DROPPED) -> Stages:
    """Bias, variance and MSE of each run and stage; the first `dropped` of each stage does not count."""
    skip = int(steps.every * dropped)
    windows = [(level * steps.every + skip, (level + 1) * steps.every) for level in range(len(steps.levels))]
    moments = np.array([[history.window(*window) for window in windows] for history in histories])
    moments = moments.reshape(len(histories), len(windows), 2)
    bias = moments[..., 0] - np.array(steps.levels)
    return Stages(bias, moments[..., 1], bias**2 + moments[..., 1])


def finite(curves: Sequence[Curve]) -> list[Moments]:
    """The histories of runs that never left the finite numbers: only these may be averaged."""
    return [curve.history for curve in curves if not curve.diverged and np.isfinite(curve.history.mean).all()]


def non_finite(rows: Sequence[Row]) -> list[str]:
    """The runs and read-outs that left the finite numbers, named, for every table to list."""
    named = []
    for row in rows:
        lost = [READ_OUTS.get(name, name) for name, history in row.results.items() if None in history["mean"]]
        if row.diverged or lost:
            setting = setting_of(row)
            where = f"{setting.task}, {setting.critic} {setting.depth}, seed {row.config['seed']}"
            what = "parameters diverged" if row.diverged else "not finite at some iteration"
            named.append(f"{where}: {', '.join(lost) or row.config['objective']} ({what})")
    return named
