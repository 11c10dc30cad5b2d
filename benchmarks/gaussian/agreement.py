"""How well Table 2 agrees with the paper's: a t statistic for every cell that the paper prints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks.gaussian import paper, statistics
from benchmarks.gaussian.statistics import READ_OUTS, Curves, Protocol, Setting
from benchmarks.lib import page

ROUNDING = 0.01  # the paper prints two decimals
# Variances of what exponentiates scores have heavy tails: those of NWJ differ by a factor of ten and more between seeds.
ON_LOGS = {("variance", "nwj"), ("variance", "smile_inf")}
FAR, VERY_FAR = 0.05, 0.001
WINDOWS = (statistics.DROPPED, 1 / 2, 3 / 4)  # parts of each stage that do not count; the paper does not say its own


class Compared(NamedTuple):
    """One figure of the paper's Table 2 beside ours.

    Attributes:
      statistic: "bias" or "variance". The paper's MSE is not bias² + variance in many cells, so it is not compared.
      read_out: the read-out.
      mi: the true MI, in nats.
      printed: the paper's figure; its bias is |bias|.
      ours: the mean over our seeds; of a bias its absolute value.
      t: (ours - printed) / √(s² (1 + 1/k) + 0.01² / 12), with s the standard deviation over our k seeds: the paper's run is
        one more seed, rounded to two decimals. Variances in `ON_LOGS` are compared on logs.
      seeds: k.
    """

    statistic: str
    read_out: str
    mi: float
    printed: float
    ours: float
    t: float
    seeds: int

    @property
    def p_value(self) -> float:
        """Two-sided, by Student's t with k - 1 degrees of freedom."""
        return float(2 * stats.t.sf(abs(self.t), self.seeds - 1))


def compare(statistic: str, read_out: str, mi: float, ours: np.ndarray, printed: float) -> Compared:
    """One figure of the paper's beside those of our seeds, at least two.

    Example:
      >>> import numpy as np
      >>> compared = compare("bias", "cpc", 2.0, np.array([-0.24, -0.26]), 0.25)
      >>> f"{compared.t:.2f}, p = {compared.p_value:.2f}"
      '0.00, p = 1.00'
    """
    k, values, target, rounding = len(ours), ours, printed, ROUNDING
    if (statistic, read_out) in ON_LOGS:
        values, target, rounding = np.log(ours), math.log(printed), ROUNDING / printed
    center = abs(values.mean()) if statistic == "bias" else values.mean()
    error = math.sqrt(values.var(ddof=1) * (1 + 1 / k) + rounding**2 / 12)
    return Compared(statistic, read_out, mi, printed, abs(float(np.mean(ours))), float((center - target) / error), k)


def of_setting(curves: Curves, protocol: Protocol, setting: Setting, dropped: float) -> list[Compared]:
    """Every figure that the paper prints for this setting and at least two finite seeds of ours have; else none.

    Args:
      curves: the setting's curves.
      protocol: the protocol that they share.
      setting: the setting.
      dropped: the part of each stage that does not count.
    """
    if setting.critic != "joint" or protocol.levels != paper.LEVELS:
        return []
    compared = []
    for name, printed in paper.TABLE_2.get(setting.task, {}).items():
        runs = statistics.finite(curves.get(name, ()))
        if len(runs) > 1:
            ours = statistics.stages(runs, protocol, dropped)
            for statistic in ("bias", "variance"):
                columns = zip(protocol.levels, getattr(ours, statistic).T, printed[statistic], strict=True)
                compared += [compare(statistic, name, mi, seeds, figure) for mi, seeds, figure in columns]
    return compared


def report(curves: Mapping[Setting, Curves], protocol: Protocol) -> list[str]:
    """The parts of the page; empty if there is nothing to compare."""
    windows = {
        dropped: {setting: of_setting(runs, protocol, setting, dropped) for setting, runs in curves.items()}
        for dropped in WINDOWS
    }
    settings = [setting for setting, compared in windows[WINDOWS[0]].items() if compared]
    if not settings:
        return []
    parts = ["# Table 2 beside the paper's", _ABOUT, "## By window", _windows(windows, settings)]
    for dropped in (WINDOWS[0], WINDOWS[-1]):
        parts.append(f"## The last {1 - dropped:.0%} of each stage")
        for setting in settings:
            compared = windows[dropped][setting]
            header = ["", "read-out", *(f"MI {level:g}" for level in protocol.levels)]
            named = [_describe(each) for each in compared if each.p_value < VERY_FAR]
            parts += [f"### {setting.label}", page.table(list(_lines(compared, protocol.levels)), header)]
            parts.append(page.listing(named, "No cell is beyond the 99.9 % point."))
    return parts


def _windows(windows: Mapping[float, Mapping[Setting, Sequence[Compared]]], settings: Sequence[Setting]) -> str:
    """How many cells are far from the paper's, by setting and window."""
    lines = []
    for setting in settings:
        counts = [
            f"{sum(each.p_value < FAR for each in compared[setting])}, "
            f"{sum(each.p_value < VERY_FAR for each in compared[setting])}"
            for compared in windows.values()
        ]
        number = len(windows[WINDOWS[0]][setting])
        lines.append([setting.label, number, *counts, f"{FAR * number:g}, {VERY_FAR * number:g}"])
    kept = [f"last {1 - dropped:.0%}" for dropped in windows]
    return page.table(lines, ["beyond the 95 % point, the 99.9 % point", "cells", *kept, "by chance"])


def _lines(compared: Sequence[Compared], levels: Sequence[float]) -> Iterator[list[str]]:
    """The t of each cell, statistic by statistic; bold beyond the 95 % point."""
    cells = {(each.statistic, each.read_out, each.mi): each for each in compared}
    for statistic, name in sorted(dict.fromkeys((each.statistic, each.read_out) for each in compared), key=lambda k: k[0]):
        marked = [_mark(cells[statistic, name, level]) for level in levels]
        yield [statistic + (" (log)" if (statistic, name) in ON_LOGS else ""), READ_OUTS[name], *marked]


def _mark(each: Compared) -> str:
    text = page.minus(f"{each.t:+.1f}")
    return f"**{text}**" if each.p_value < FAR else text


def _describe(each: Compared) -> str:
    kind = "|bias|" if each.statistic == "bias" else "variance"
    return (
        f"{READ_OUTS[each.read_out]}, {kind} at MI {each.mi:g}: ours {each.ours:.3g}, printed {each.printed:.2f} "
        f"(t = {page.minus(f'{each.t:.1f}')}, p = {page.minus(f'{each.p_value:.0e}')}, {each.seeds} seeds)"
    )


_ABOUT = f"""Written by `python -m benchmarks.gaussian` from the rows beside it.

- A cell holds t = (ours − printed) / √(s² (1 + 1/k) + {ROUNDING}² / 12). "Ours" is the mean over our k seeds, and s is their
  standard deviation. If the paper's run were one more seed of ours, rounded to two decimals, t would follow Student's law
  with k − 1 degrees of freedom.
- Biases are compared as |bias|, which is what the paper prints. The variances of NWJ and of SMILE (τ = ∞) have heavy tails
  and are compared on logs. MSE is not compared: the paper's is not bias² + variance in many cells.
- Bold: beyond the 95 % point. Below each table stand the cells beyond the 99.9 % point.
- The cells of one setting share their runs. So the number of cells that are far by chance varies more than if they were
  independent. Where rounding is most of the error, chance gives fewer than 5 %.
- The paper does not say which iterations of a stage count. The first table counts the far cells for several windows."""
