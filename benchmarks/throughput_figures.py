"""The page and the figure of `benchmarks.throughput`, from its rows; nothing is run here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks.lib import figures as drawing
from benchmarks.lib import machine

HEADER = [
    "critic", "n", "seeds", "devices", "a seed-step, ms", "seed-steps a second", "of the peak", "plain / ours",
    "products, of all operations", "compile, s", "temporary MiB",
]  # fmt: skip


class Timed(NamedTuple):
    """A row's figures: medians over the rounds."""

    config: Mapping[str, Any]
    milliseconds: float
    fraction: float
    fractions: tuple[float, float]
    gain: float
    peak: float
    row: Mapping[str, Any]


def timed(row: Mapping[str, Any]) -> Timed:
    """The figures of a row; ratios are of what was measured in the same round."""
    number, products = row["config"]["seeds"], row["products"]
    ours, plain, peaks = (np.array(row[name], float) for name in ("step_seconds", "plain_step_seconds", "peaks"))
    fractions = number * products / ours / peaks
    ends = float(fractions.min()), float(fractions.max())
    return Timed(
        row["config"],
        float(np.median(ours)) / number * 1e3,
        float(np.median(fractions)),
        ends,
        float(np.median(plain * number / ours)),
        float(np.median(peaks)),
        row,
    )


def told(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    found, config = timed(row), row["config"]
    number, devices = config["seeds"], config["device_count"]
    return (
        f"{config['critic']}, n = {config['n']}, {number} seed{'s' * (number > 1)}, {devices} device{'s' * (devices > 1)}: "
        f"{found.milliseconds:.3g} ms a seed-step, {found.fraction:.0%} of the peak, plain / ours {found.gain:.2f}"
    )


def _line(found: Timed) -> list[str]:
    config, row = found.config, found.row
    low, high = found.fractions
    operations, memory = row["operations"], row["temporary_bytes"]
    return [
        config["critic"],
        f"{config['n']:,}",
        str(config["seeds"]),
        str(row["peak_devices"]),
        f"{found.milliseconds:.3g}",
        f"{1e3 / found.milliseconds:,.3g}",
        f"{found.fraction:.0%} ({low:.0%} to {high:.0%})",
        f"{found.gain:.2f}",
        f"{row['products'] / operations:.0%}" if operations else "–",
        f"{row['compile_seconds']:.1f}",
        f"{memory / 2**20:.1f}" if memory is not None else "–",
    ]


def _startup(row: Mapping[str, Any]) -> list[str]:
    """From the start of a process to the first value."""
    median = lambda found, name: float(np.median([one[name] for one in found]))  # noqa: E731
    parts, imports = row["parts"], row["imports"]
    lines = [[name, f"{median(parts, name):.3f}"] for name in parts[0]]
    lines.append(["all", f"{np.median([sum(one.values()) for one in parts]):.3f}"])
    theirs, ours = (np.array([one[name] for one in imports]) for name in imports[0])
    ratios = ours / theirs
    return [
        "## From the start of a process to the first `smile(scores)`\n",
        f"Medians of {len(parts)} processes.\n",
        tabulate(lines, ["part", "seconds"], tablefmt="github", disable_numparse=True) + "\n",
        f"`import mi_jax` takes {np.median(ours):.2f} s in a process of its own, {np.median(ratios):.2f} times "
        f"`import jax, flax.linen, optax` ({ratios.min():.2f} to {ratios.max():.2f}).\n",
    ]


def _cache(row: Mapping[str, Any]) -> list[str]:
    """What `--compilation-cache` saves."""
    runs, spans = row["runs"], {}
    for kind in ("without", "with"):
        for name in ("all", "compile"):
            seconds = [run[kind][name] for run in runs]
            spans[kind, name] = f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    left = np.array([run["with"]["all"] / run["without"]["all"] for run in runs])
    numbers = {run[kind]["mi"] for run in runs for kind in run}
    lines = [[kind, spans[kind, "all"], spans[kind, "compile"]] for kind in ("without", "with")]
    return [
        "## The compilation cache\n",
        f"`mi-jax estimate` of {row['num_rows']:,} rows of 5 + 5 columns, a process a run, {len(runs)} rounds of one\n"
        "without `--compilation-cache` and one with a folder that an earlier run filled:\n"
        f"{np.median(left):.2f} of the time ({left.min():.2f} to {left.max():.2f}), and "
        f"{'the same number to the last bit' if len(numbers) == 1 else f'numbers {sorted(numbers)}'}.\n"
        f"The folder holds {row['bytes'] / 2**20:.1f} MiB.\n",
        tabulate(lines, ["cache", "seconds, all", "of which compiling"], tablefmt="github", disable_numparse=True) + "\n",
    ]


def _scaling(cells: Sequence[Timed]) -> list[str]:
    """What many seeds cost a seed: the largest number of each line of the grid beside four."""
    lines: dict[tuple[Any, ...], dict[int, Timed]] = {}
    for found in cells:
        lines.setdefault((found.config["critic"], found.config["n"], found.config["devices"]), {})[found.config["seeds"]] = (
            found
        )
    told = []
    for (critic, n, devices), by_seeds in lines.items():
        few, many = by_seeds.get(4), by_seeds[max(by_seeds)]
        if few is not None and many.config["seeds"] > 4:
            ratio, corrected = many.milliseconds / few.milliseconds, few.fraction / many.fraction
            told.append([critic, f"{n:,}", devices, str(many.config["seeds"]), f"{ratio:.2f}", f"{corrected:.2f}"])
    if not told:
        return []
    header = ["critic", "n", "devices", "seeds", "a seed-step, over that at 4", "the same, in units of the peak"]
    text = "Cells run minutes apart; the peak that each was measured beside takes out what the machine did meanwhile.\n"
    return ["## More seeds\n", text, tabulate(told, header, tablefmt="github", disable_numparse=True) + "\n"]


def draw(folder: Path, limits: Mapping[str, float]) -> list[Path]:
    """Write the page, and the figure.

    Args:
      folder: where the rows are, and where both go.
      limits: memory row -> MiB that it should stay within.
    """
    read = [json.loads(path.read_text()) for path in sorted((folder / "rows").glob("*.json"))]
    cells = [timed(row) for row in read if "critic" in row["config"]]
    cells.sort(key=lambda found: [found.config[name] for name in ("critic", "n", "seeds", "device_count")])
    memory = {row["config"]["memory"]: row for row in read if "memory" in row["config"]}
    skipped = (folder / "skipped.txt").read_text().splitlines() if (folder / "skipped.txt").exists() else []
    by_devices: dict[int, list[float]] = {}
    for found in cells:
        by_devices.setdefault(found.row["peak_devices"], []).append(found.peak)
    peaks = "; ".join(
        f"on {number} device{'s' * (number > 1)} {np.median(values) / 1e9:.0f} Gflop/s ({min(values) / 1e9:.0f} to "
        f"{max(values) / 1e9:.0f} over the cells)"
        for number, values in sorted(by_devices.items())
    )
    parts = [
        "# Throughput\n",
        f"Written by `python -m benchmarks.throughput` on {machine.description(*(row['environment'] for row in read))}.\n"
        "Training steps of SMILE, sampling, optimiser and read-outs inside; compiling apart. Medians over the rounds;\n"
        "ratios are of what was measured in turns, in the same round.\n"
        "The peak is the product (4096, 256) x (256, 256) in float32 on as many devices:\n"
        f"{peaks}.\n"
        '"Of the peak" counts only the matrix products that cannot be avoided (`Cell.products`): of a joint critic those\n'
        "between hidden layers on n² rows; larger products can be faster than the one timed, for a share over 100%.\n"
        '"Plain" is the same training with concatenated rows, a Python loop over a jitted step, one seed after the other,\n'
        'on one device. "Products, of all operations": by XLA\'s cost analysis.\n',
        tabulate([_line(found) for found in cells], HEADER, tablefmt="github", disable_numparse=True) + "\n",
    ]
    if skipped:
        parts.append("Left out, as predicted to take more seconds than `--limit`: " + "; ".join(skipped) + ".\n")
    parts += _scaling(cells)
    if memory:
        lines = []
        for name, row in sorted(memory.items()):
            limit = f"{limits[name]:,.0f}" if name in limits else "–"
            lines.append([name, f"{row['peak']:,.0f}", limit, f"{row['before']:,.0f}", f"{row['seconds']:.1f}"])
        header = ["in a process of its own", "peak resident MiB", "limit", "of which before", "seconds, compiling included"]
        parts += ["## Memory\n", tabulate(lines, header, tablefmt="github", disable_numparse=True) + "\n"]
    for row in read:
        if "startup" in row["config"]:
            parts += _startup(row)
        if "cache" in row["config"]:
            parts += _cache(row)
    (folder / "throughput.md").write_text("\n".join(parts))
    return [folder / "throughput.md", *([_figure(cells, folder)] if cells else [])]


def _figure(cells: Sequence[Timed], folder: Path) -> Path:
    """The share of the peak over the seeds, one panel a critic, one line a batch size; dashed on one device of several."""
    critics = list(dict.fromkeys(found.config["critic"] for found in cells))
    ns = sorted({found.config["n"] for found in cells})
    top = 1.05 * max(1.0, *(found.fraction for found in cells))
    with drawing.style():
        figure = Figure(figsize=(3.0 * len(critics), 3.0), layout="constrained")
        panels = figure.subplots(1, len(critics), squeeze=False, sharey=True)[0]
        for panel, critic in zip(panels, critics, strict=True):
            for place, n in enumerate(ns):
                for devices, style in (("all", "-o"), ("one", "--s")):
                    line = [
                        (found.config["seeds"], found.fraction)
                        for found in cells
                        if (found.config["critic"], found.config["n"], found.config["devices"]) == (critic, n, devices)
                    ]
                    if line:
                        label = f"n = {n:,}, {devices} device{'s' * (devices == 'all')}"
                        panel.plot(*zip(*line, strict=True), style, color=f"C{place}", markersize=3, label=label)
            panel.set(title=critic, xlabel="seeds", xscale="log", ylim=(0, top))
            panel.axhline(1.0, color="0.7", linewidth=0.8)
            panel.set_xticks(sorted({found.config["seeds"] for found in cells}))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
        panels[0].set_ylabel("share of the peak of matrix products")
        drawing.legend(figure, panels, column=2.0)
        figure.savefig(folder / "throughput.png")
    return folder / "throughput.png"
