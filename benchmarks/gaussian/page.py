"""Figures 1, 2 and 7 and Table 2, drawn from rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.gaussian import agreement, paper, statistics
from benchmarks.gaussian.statistics import READ_OUTS, Curve, Curves, Protocol, Setting
from benchmarks.lib import figures, machine, page, rows
from benchmarks.lib.rows import Row

_SMOOTHING = 10  # blocks: an eighth of a stage


class Results:
    """The rows of a folder, and the curves of each setting, which are read once.

    Attributes:
      rows: the rows.
      protocol: the protocol that they share.
      curves: setting -> read-out -> its curves.
    """

    def __init__(self, found: Sequence[Row]):
        self.rows = found
        self.protocol = statistics.protocol(found)
        self.curves: Mapping[Setting, Curves] = {
            setting: statistics.curves(found, setting) for setting in statistics.settings(found)
        }


def draw(out: Path) -> list[Path]:
    """Draw every figure and page that the rows in `out`/rows allow; returns their paths."""
    results = Results(rows.read_all(out / "rows", "gaussian"))
    settings, paths = list(results.curves), []
    with figures.style():
        for depth, shown in _by_depth(settings).items():
            paths += figures.save(figure_1(results, shown), out / f"figure1-{depth}")
        for critic, depth in dict.fromkeys((setting.critic, setting.depth) for setting in settings):
            of_network = [setting for setting in settings if (setting.critic, setting.depth) == (critic, depth)]
            cubic = [setting for setting in of_network if setting.task == "cubic"]
            for number, shown in ((2, cubic), (7, of_network)):
                if shown:
                    figure = bias_variance_mse(results, shown)
                    paths += figures.save(figure, out / f"figure{number}-{critic}-{depth}")
    compared = agreement.report(results.curves, results.protocol)
    pages = [page.write(out / "table2.md", table_2(results))]
    return [*paths, *pages, *([page.write(out / "agreement.md", compared)] if compared else [])]


def _by_depth(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """The settings of each Figure 1: the critics of a depth and, each time, the flows, which have a depth of their own."""
    flows = [setting for setting in settings if setting.critic == statistics.FLOW]
    critics = [setting for setting in settings if setting not in flows]
    depths = dict.fromkeys(setting.depth for setting in critics or flows)
    return {depth: [setting for setting in settings if setting in flows or setting.depth == depth] for depth in depths}


def figure_1(results: Results, settings: Sequence[Setting]) -> Figure:
    """Estimate against iteration: a row of panels for each task, a column for each read-out, a colour for each network."""
    tasks = list(dict.fromkeys(setting.task for setting in settings))
    names = [name for name in READ_OUTS if any(name in results.curves[setting] for setting in settings)]
    figure = Figure(figsize=(max(7.0, 1.75 * len(names) + 0.6), 2.0 * len(tasks) + 0.8), layout="constrained")
    panels = figure.subplots(len(tasks), len(names), sharex=True, sharey=True, squeeze=False)
    for setting in settings:
        for name, panel in zip(names, panels[tasks.index(setting.task)], strict=True):
            _curves(panel, results.curves[setting].get(name, ()), setting)
    for task, line in zip(tasks, panels, strict=True):
        line[0].set_ylabel(f"{task.capitalize()}\nestimate (nats)")
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    for name, panel in zip(names, panels[0], strict=True):
        panel.set_title(READ_OUTS[name])
    for panel in panels.flat:
        _staircase(panel, results.protocol)
    figures.legend(figure, panels.flat)
    return figure


def _curves(panel: Axes, runs: Sequence[Curve], setting: Setting) -> None:
    """One run unsmoothed, behind the smoothed mean of all runs."""
    if not runs:
        return
    color, network = figures.NETWORK_COLORS[setting.critic], statistics.NETWORKS[setting.critic]
    first = runs[0].history
    iterations = np.arange(1, len(first.mean) + 1) * first.block
    panel.plot(iterations, first.last, color=color, alpha=0.4, linewidth=0.5)
    kept = statistics.finite(runs)
    if kept:
        smooth = _moving_average(np.mean([history.mean for history in kept], axis=0), _SMOOTHING)
        label = f"{network}: smoothed mean of the seeds (behind it, one seed)"
        panel.plot(iterations, smooth, color=color, linewidth=1.1, label=label)
    if len(kept) < len(runs):
        height = 0.87 if setting.critic == "separable" else 0.97
        text = f"{network}: {len(runs) - len(kept)} of {len(runs)} diverged"
        panel.text(0.03, height, text, color=color, transform=panel.transAxes, fontsize=6, va="top")


def _moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` values, or of as many as there are."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return (sums[stop] - sums[start]) / (stop - start)


def _staircase(panel: Axes, steps: Protocol) -> None:
    """The true MI, and the ceiling of CPC."""
    edges = np.arange(len(steps.levels) + 1) * steps.every
    panel.stairs(steps.levels, edges, color="black", linewidth=0.9, baseline=None)
    panel.plot([], [], color="black", linewidth=0.9, label="true MI")
    panel.axhline(np.log(steps.batch), color="gray", linestyle=":", linewidth=0.8, label=f"log n, n = {steps.batch}")
    # The read-outs that exponentiate scores leave any scale; the reader shall see that they leave it.
    panel.set(xlim=(0, edges[-1]), ylim=(-1.0, 1.4 * max(steps.levels)))
    panel.set_xticks([0, edges[-1] / 2, edges[-1]], ["0", f"{edges[-1] / 2000:g}k", f"{edges[-1] / 1000:g}k"])


def bias_variance_mse(results: Results, settings: Sequence[Setting]) -> Figure:
    """Bias, variance and MSE against the true MI (Figures 2 and 7): the mean over seeds, and the seeds' range."""
    protocol = results.protocol
    figure = Figure(figsize=(8.6, 2.3 * len(settings) + 0.6), layout="constrained")
    panels = figure.subplots(len(settings), len(_COLUMNS), sharex=True, squeeze=False)
    for setting, line in zip(settings, panels, strict=True):
        lost = _statistics(line, results.curves[setting], protocol)
        line[0].set_title(setting.label, loc="left")
        _printed(line, setting, protocol)
        line[1].plot(protocol.levels, protocol.floor(), color="black", ls=":", lw=1, label=_FLOOR)
        if lost:
            line[1].set_title(f"not finite in any seed: {', '.join(lost)}", loc="left", color="gray")
        for panel, label in zip(line, _COLUMNS, strict=True):
            panel.set(ylabel=label, yscale="linear" if "bias" in label else "log", xticks=protocol.levels)
            if "bias" in label:
                panel.set_ylim(0, 1.05 * max(protocol.levels))
            else:
                bottom, top = panel.get_ylim()
                panel.set_ylim(max(bottom, 1e-4), min(top, 1e4))
    for panel in panels[-1]:
        panel.set_xlabel("true MI (nats)")
    figures.legend(figure, panels.flat, column=2.1)
    return figure


# The axis of a column of panels -> its statistic, (seeds, levels).
_COLUMNS: Mapping[str, Callable[[statistics.Stages], np.ndarray]] = {
    "|bias| (nats)": lambda stages: np.abs(stages.bias),
    "variance over iterations (nats²)": lambda stages: stages.variance,
    "MSE (nats²)": lambda stages: stages.mse,
}
_FLOOR = "dρ²/n, n exact log ratios"


def _statistics(panels: Sequence[Axes], curves: Curves, protocol: Protocol) -> list[str]:
    """Draw the three statistics of each read-out; returns the names of those that no seed has finite."""
    lost = []
    for name, runs in curves.items():
        kept = statistics.finite(runs)
        if not kept:
            lost.append(READ_OUTS.get(name, name))
            continue
        stages = statistics.stages(kept, protocol)
        for panel, column in zip(panels, _COLUMNS.values(), strict=True):
            center, ends = figures.spread(list(column(stages).T))
            look = figures.look(name) | {"label": READ_OUTS.get(name, name)}
            panel.errorbar(protocol.levels, center, ends, capsize=1.5, **look)
    return lost


_HOLLOW: Mapping[str, Any] = {
    "marker": "o", "markersize": 6, "fillstyle": "none", "linestyle": "none", "markeredgewidth": 0.8
}  # fmt: skip


def _printed(panels: Sequence[Axes], setting: Setting, protocol: Protocol) -> None:
    """Draw what the paper prints beside ours, a little to the right; it has the joint critic only."""
    if setting.critic != "joint" or protocol.levels != paper.LEVELS:
        return
    for name, printed in paper.TABLE_2.get(setting.task, {}).items():
        for panel, statistic in zip(panels, statistics.Stages._fields, strict=True):
            values = np.array(printed[statistic])
            values[values == 0] = np.nan  # 0.00 has no place on a logarithmic axis
            panel.plot(np.array(protocol.levels) + 0.25, values, color=figures.look(name)["color"], **_HOLLOW)
    panels[0].plot([], [], color="black", label="printed in the paper (hollow)", **_HOLLOW)


def table_2(results: Results) -> list[str]:
    """Table 2: ours, its spread over seeds, and the paper's figure in every cell, as the parts of a page."""
    parts = [_TABLE_HEAD.format(steps=results.protocol, kept=1 - statistics.DROPPED, **_made(results.rows))]
    for setting in results.curves:
        header = ["", "read-out", "seeds", *(f"MI {level:g}" for level in results.protocol.levels)]
        parts += [f"## {setting.label}", page.table(_lines(results, setting), header)]
    lost = page.listing(statistics.non_finite(results.rows), "None: every run stayed finite.")
    return [*parts, "## Runs left out", lost]


def _lines(results: Results, setting: Setting) -> list[list[str]]:
    """The table's lines for a setting, statistic by statistic as the paper has them."""
    protocol = results.protocol
    joint = setting.critic == "joint" and protocol.levels == paper.LEVELS
    printed = paper.TABLE_2.get(setting.task, {}) if joint else {}
    independent = paper.INDEPENDENT.get((setting.task, len(setting.hidden)), {}) if joint else {}
    lines = []
    for statistic in statistics.Stages._fields:
        for name, runs in results.curves[setting].items():
            kept = statistics.finite(runs)
            line = ["MSE" if statistic == "mse" else statistic, READ_OUTS.get(name, name), f"{len(kept)} of {len(runs)}"]
            ours = getattr(statistics.stages(kept, protocol), statistic)
            theirs = [table.get(name, {}).get(statistic) for table in (printed, independent)]
            lines.append(line + [_cell(ours[:, k], [t[k] for t in theirs if t]) for k in range(len(protocol.levels))])
        if statistic == "variance":
            lines.append([statistic, _FLOOR, "", *(_number(value) for value in protocol.floor())])
    return lines


def _cell(ours: np.ndarray, theirs: Sequence[float]) -> str:
    """Mean over seeds ± their standard deviation, then the others' figures in parentheses."""
    if not len(ours):
        return "–"
    spread = f" ± {_number(ours.std(ddof=1))}" if len(ours) > 1 else ""
    median = np.median(ours)
    if len(ours) >= 5 and ours.std(ddof=1) > abs(median) / 2:
        spread += f", median {_number(median)}"
    return _number(ours.mean()) + spread + (f" ({'; '.join(_number(value) for value in theirs)})" if theirs else "")


def _number(value: float) -> str:
    if abs(value) >= 1000:
        text = f"{value:.1e}"
    elif 0 < abs(value) < 0.005:
        text = f"{value:.1g}"
    else:
        text = f"{value:.2f}"
    return page.minus(text)


_TABLE_HEAD = """# Table 2: bias, variance and MSE

Written by `python -m benchmarks.gaussian` from the rows beside it; with `--page-only` it only writes this page again.

- Staircase {steps.levels} nats, {steps.every} iterations a level; d = {steps.dim}, batch {steps.batch}, Adam
  {steps.learning_rate}.
- In each stage the last {kept:.0%} of the iterations count. An iteration's estimate is the read-out of the parameters
  before its update, on its fresh batch.
- **Bias** is the mean estimate − truth: negative is too low; the paper prints |bias|. **Variance** is that *over the
  iterations* of one run (batch variance and drift), not between seeds. **MSE** is bias² + variance; the paper's is not,
  in many cells.
- A cell holds the mean over seeds ± the standard deviation between seeds. If that deviation is over half of the median, one
  batch of one seed can decide the mean; then, from five seeds on, the cell also holds the median. In parentheses stand the
  paper's figure and, where there is one, that of an independent implementation (one seed). The paper's Table 2 is for the
  joint critic, evidently with three hidden layers, and has no line for GM.
- **dρ²/n** is the variance of a batch mean of n exact log ratios. What averages log r over the joint pairs can be below it
  only if it is wrong about log r, as CPC at its ceiling is.
- RealNVP has five coupling layers; the sizes are those of each conditioner. GM learns p(x, y), p(x) and p(y). BA learns
  q(x | y) and knows p(x). DoE learns q(x | y) and q(x). On Cubic, y³ goes in as it is, not standardised. A flow starts as
  the standard normal, which *is* p(x), and on Gaussian p(y): there the marginals need no learning, which favours GM and DoE.
- All settings of a seed see the same batches, so their differences are less noisy than their values.
- Made with {versions}, on {machines}; code at {commits}.
"""


def _made(found: Sequence[Row]) -> dict[str, str]:
    """The versions, machines and commits that the rows were made with."""
    environments = [row.environment for row in found]
    versions = {", ".join(f"{name} {each['versions'][name]}" for name in ("flax", "optax")) for each in environments}
    parts = {"versions": versions, "commits": {each["commit"] for each in environments}}
    return {"machines": machine.description(*environments)} | {name: "; ".join(sorted(p)) for name, p in parts.items()}
