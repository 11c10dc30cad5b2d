"""Figures 1, 2 and 7 and Table 2, drawn from rows; nothing here trains anything.

    python -m benchmarks.figures DIR

draws again from the rows in DIR/rows.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks import cli, drawing, paper, rows, summary
from benchmarks.rows import Row
from benchmarks.summary import READ_OUTS, Curve, Protocol, Setting

NETWORK_COLORS = {"joint": "tab:blue", "separable": "tab:orange", summary.FLOW: "tab:green"}
_SMOOTHING = 10  # blocks: an eighth of a stage


def draw(out: Path) -> list[Path]:
    """Draw every figure and table that the rows in `out`/rows allow; returns their paths."""
    found = list(rows.read_all(out / "rows"))
    steps = summary.protocol(found)
    settings = summary.settings(found)
    with drawing.style():
        paths = [
            _save(figure_1(found, together, steps), out / f"figure1-{depth}.png")
            for depth, together in _by_depth(settings).items()
        ]
        for critic, depth in dict.fromkeys((setting.critic, setting.depth) for setting in settings):
            of_network = [setting for setting in settings if (setting.critic, setting.depth) == (critic, depth)]
            cubic = [setting for setting in of_network if setting.task == "cubic"]
            for number, chosen in ((2, cubic), (7, of_network)):
                if chosen:
                    figure = bias_variance_mse(found, chosen, steps)
                    paths.append(_save(figure, out / f"figure{number}-{critic}-{depth}.png"))
    return [*paths, _write(out / "table2.md", table_2(found, steps))]


def _by_depth(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """What shares a Figure 1: the critics of a depth and, each time, the flows, which have a depth of their own."""
    flows = [setting for setting in settings if setting.critic == summary.FLOW]
    critics = [setting for setting in settings if setting not in flows]
    depths = dict.fromkeys(setting.depth for setting in critics or flows)
    return {depth: [setting for setting in settings if setting in flows or setting.depth == depth] for depth in depths}


def figure_1(found: Sequence[Row], settings: Sequence[Setting], steps: Protocol) -> Figure:
    """Estimate against iteration: a row of panels for each task, a column for each read-out, a colour for each network."""
    tasks = list(dict.fromkeys(setting.task for setting in settings))
    names = [name for name in READ_OUTS if any(name in summary.curves(found, setting) for setting in settings)]
    figure = Figure(figsize=(max(7.0, 1.75 * len(names) + 0.6), 2.0 * len(tasks) + 0.8), layout="constrained")
    panels = figure.subplots(len(tasks), len(names), sharex=True, sharey=True, squeeze=False)
    for setting in settings:
        curves = summary.curves(found, setting)
        for name, panel in zip(names, panels[tasks.index(setting.task)], strict=True):
            _curves(panel, curves.get(name, ()), setting)
    for task, line in zip(tasks, panels, strict=True):
        line[0].set_ylabel(f"{task.capitalize()}\nestimate (nats)")
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    for name, panel in zip(names, panels[0], strict=True):
        panel.set_title(READ_OUTS[name])
    for panel in panels.flat:
        _staircase(panel, steps)
    drawing.legend(figure, panels.flat)
    return figure


def _curves(panel: Axes, runs: Sequence[Curve], setting: Setting) -> None:
    """One run unsmoothed, behind the smoothed mean of all runs."""
    if not runs:
        return
    color, network = NETWORK_COLORS[setting.critic], summary.NETWORKS[setting.critic]
    first = runs[0].history
    iterations = np.arange(1, len(first.mean) + 1) * first.block
    panel.plot(iterations, first.last, color=color, alpha=0.4, linewidth=0.5)
    kept = summary.finite(runs)
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
    # The read-outs that hold e^T leave any scale; what matters is that one sees them leave.
    panel.set(xlim=(0, edges[-1]), ylim=(-1.0, 1.4 * max(steps.levels)))
    panel.set_xticks([0, edges[-1] / 2, edges[-1]], ["0", f"{edges[-1] / 2000:g}k", f"{edges[-1] / 1000:g}k"])


def bias_variance_mse(found: Sequence[Row], settings: Sequence[Setting], steps: Protocol) -> Figure:
    """Bias, variance and MSE against the true MI (Figures 2 and 7): the mean over seeds, and the seeds' range."""
    columns: dict[str, Callable[[summary.Stages], np.ndarray]] = {
        "|bias| (nats)": lambda s: np.abs(s.bias),
        "variance over iterations (nats²)": lambda s: s.variance,
        "MSE (nats²)": lambda s: s.mse,
    }
    figure = Figure(figsize=(8.6, 2.3 * len(settings) + 0.6), layout="constrained")
    panels = figure.subplots(len(settings), len(columns), sharex=True, squeeze=False)
    for setting, line in zip(settings, panels, strict=True):
        missing: list[str] = []
        for name, runs in summary.curves(found, setting).items():
            kept = summary.finite(runs)
            if not kept:
                missing.append(READ_OUTS.get(name, name))
            else:
                statistics = summary.stages(kept, steps)
                for panel, column in zip(line, columns.values(), strict=True):
                    _points(panel, steps.levels, column(statistics), name)
        line[0].set_title(setting.label, loc="left")
        line[1].plot(steps.levels, steps.floor(), color="black", ls=":", lw=1, label=_FLOOR)
        if missing:
            line[1].set_title(f"not finite in any seed: {', '.join(missing)}", loc="left", color="gray")
        for panel, label in zip(line, columns, strict=True):
            panel.set(ylabel=label, yscale="linear" if "bias" in label else "log", xticks=steps.levels)
            if "bias" in label:
                panel.set_ylim(0, 1.05 * max(steps.levels))
            else:
                bottom, top = panel.get_ylim()
                panel.set_ylim(max(bottom, 1e-4), min(top, 1e4))
    for panel in panels[-1]:
        panel.set_xlabel("true MI (nats)")
    drawing.legend(figure, panels.flat)
    return figure


_FLOOR = "dρ²/n, n exact log ratios"


def _points(panel: Axes, levels: Sequence[float], values: np.ndarray, name: str) -> None:
    """A (seeds, levels) statistic: its mean, and the range of the seeds. A read-out has one colour in all figures."""
    color = f"C{list(READ_OUTS).index(name)}" if name in READ_OUTS else "black"
    label = READ_OUTS.get(name, name)
    center = values.mean(axis=0)
    spread = np.abs(np.stack([values.min(axis=0), values.max(axis=0)]) - center)
    panel.errorbar(
        levels,
        center,
        spread,
        color=color,
        marker="o",
        ls="--" if name == "smile_inf" else "-",
        ms=2.5,
        lw=1,
        capsize=1.5,
        label=label,
    )


def table_2(found: Sequence[Row], steps: Protocol) -> str:
    """Table 2: ours, its spread over seeds, and the paper's figure in every cell, as Markdown."""
    parts = [_TABLE_HEAD.format(steps=steps, kept=1 - summary.DROPPED, **_made(found))]
    for setting in summary.settings(found):
        parts.append(f"\n## {setting.label}\n")
        header = ["", "read-out", "seeds", *(f"MI {level:g}" for level in steps.levels)]
        parts.append(tabulate(_lines(found, setting, steps), header, tablefmt="github", disable_numparse=True))
    lost = [f"- {run}" for run in summary.non_finite(found)] or ["None: every run stayed finite."]
    parts += ["\n## Runs left out\n", *lost]
    return "\n".join(parts) + "\n"


def _lines(found: Sequence[Row], setting: Setting, steps: Protocol) -> list[list[str]]:
    """The table's lines for a setting, statistic by statistic as the paper has them."""
    joint = setting.critic == "joint" and steps.levels == paper.LEVELS
    printed = paper.TABLE_2.get(setting.task, {}) if joint else {}
    independent = paper.INDEPENDENT.get((setting.task, len(setting.hidden)), {}) if joint else {}
    lines = []
    for statistic in summary.Stages._fields:
        for name, runs in summary.curves(found, setting).items():
            kept = summary.finite(runs)
            line = ["MSE" if statistic == "mse" else statistic, READ_OUTS.get(name, name), f"{len(kept)} of {len(runs)}"]
            ours = getattr(summary.stages(kept, steps), statistic)
            theirs = [table.get(name, {}).get(statistic) for table in (printed, independent)]
            lines.append(line + [_cell(ours[:, k], [t[k] for t in theirs if t]) for k in range(len(steps.levels))])
        if statistic == "variance":
            lines.append([statistic, _FLOOR, "", *(_number(value) for value in steps.floor())])
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
    return text.replace("-", "−")


_TABLE_HEAD = """# Table 2: bias, variance and MSE

Written by `python -m benchmarks.gaussian` from the rows beside it; `python -m benchmarks.figures DIR` writes it again.

- Staircase {steps.levels} nats, {steps.every} iterations a level; d = {steps.dim}, batch {steps.batch}, Adam
  {steps.learning_rate}.
- In each stage the last {kept:.0%} of the iterations count. An iteration's estimate is the read-out of the parameters
  before its update, on its fresh batch.
- **Bias** is the mean estimate − truth: negative is too low; the paper prints |bias|. **Variance** is that *over the
  iterations* of one run (batch variance and drift), not between seeds. **MSE** is bias² + variance; the paper's is not,
  in many cells.
- A cell: mean over seeds ± standard deviation between seeds, and the median of five seeds or more where that deviation is
  over half of it (one batch of one seed can then decide the mean); in parentheses the paper's figure and, where there is
  one, that of an independent implementation (one seed). The paper's Table 2 is for the joint critic, evidently with three
  hidden layers, and it has no line for GM.
- **dρ²/n** is the variance of a batch mean of n exact log ratios. What averages log r over the joint pairs cannot be below
  it without being wrong about log r, as CPC at its ceiling is.
- RealNVP: five coupling layers, the sizes are those of each conditioner. GM learns p(x, y), p(x) and p(y); BA q(x | y),
  and is told p(x); DoE q(x | y) and q(x). On Cubic y³ goes in as it is, not standardised. A flow starts as the standard
  normal, which *is* p(x), and on Gaussian p(y): there the marginals need no learning, which favours GM and DoE.
- All settings of a seed see the same batches, so their differences are less noisy than their values.
- Made with {versions}, on {machines}; code at {commits}.
"""


def _made(found: Sequence[Row]) -> dict[str, str]:
    """With what, on what and from which commit the rows were made."""
    versions, machines, commits = set(), set(), set()
    for made in (row.environment for row in found):
        versions.add(", ".join(f"{name} {made['versions'][name]}" for name in ("jax", "flax", "optax")))
        machines.add(f"{made['devices']} {made['platform']} devices ({made['machine']}, {made['threads']} threads)")
        commits.add(made["commit"])
    parts = {"versions": versions, "machines": machines, "commits": commits}
    return {name: "; ".join(sorted(items)) for name, items in parts.items()}


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw again from rows on disk."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description="Draw figures and table from rows.")
    parser.add_argument("out", type=Path, help="a benchmark's --out folder")
    out = parser.parse_args(arguments).out
    with cli.clear_errors(parser):
        if not (out / "rows").is_dir():
            raise ValueError(f"{out} has no folder of rows")
        for path in draw(out):
            print(path)


if __name__ == "__main__":
    main()
