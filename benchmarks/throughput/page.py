"""The page and the figure of `benchmarks.throughput`, from its rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lib import figures, machine, page, rows, runner
from benchmarks.lib.rows import Row
from benchmarks.throughput import processes

HEADER = [
    "critic", "n", "seeds", "devices", "a seed-step, ms", "seed-steps a second", "of the peak", "plain / ours",
    "products, of all operations", "compile, s", "temporary MiB",
]  # fmt: skip


class Timed(NamedTuple):
    """A row's figures, medians over the rounds.

    Attributes:
      config: of the row.
      milliseconds: of a step of one seed.
      fraction: the share of the peak that the products reach.
      fractions: its smallest and largest value over the rounds.
      gain: the time of the plain version over ours.
      peak: operations a second.
      row: the row.
    """

    config: Mapping[str, Any]
    milliseconds: float
    fraction: float
    fractions: tuple[float, float]
    gain: float
    peak: float
    row: Row


def timed(row: Row) -> Timed:
    """The figures of a row; ratios are of what was measured in the same round."""
    number, products = row.config["seeds"], row.results["products"]
    ours, plain, peaks = (np.array(row.results[name], float) for name in ("step_seconds", "plain_step_seconds", "peaks"))
    fractions = number * products / ours / peaks
    ends = float(fractions.min()), float(fractions.max())
    return Timed(
        row.config,
        float(np.median(ours)) / number * 1e3,
        float(np.median(fractions)),
        ends,
        float(np.median(plain * number / ours)),
        float(np.median(peaks)),
        row,
    )


def list_skipped(out: Path, skipped: Sequence[runner.Job]) -> None:
    """Write down what was over the limit, a line for each critic and n: the page names it."""
    by_size: dict[str, list[runner.Job]] = {}
    for job in skipped:
        by_size.setdefault(f"{job.cell.critic}, n = {job.cell.n:,}", []).append(job)
    lines = []
    for name, jobs in by_size.items():
        numbers = ", ".join(map(str, sorted({job.cell.seeds for job in jobs})))
        lines.append(f"{name}: {numbers} seeds (from {machine.duration(min(job.seconds for job in jobs))})\n")
    (out / "skipped.txt").write_text("".join(lines))


def describe(row: Row) -> str:
    """What is printed of a row."""
    if "critic" not in row.config:
        return "measured"
    found, config = timed(row), row.config
    devices = config["device_count"]
    where = f"on {devices} device{'s' * (devices > 1)}"
    speed = f"{found.milliseconds:.3g} ms a seed-step, {found.fraction:.0%} of the peak"
    return f"{where} {speed}, plain / ours {found.gain:.2f}"


def _line(found: Timed) -> list[str]:
    config, results, compiled = found.config, found.row.results, found.row.seconds["compile"]
    low, high = found.fractions
    operations, memory = results["operations"], results["temporary_bytes"]
    return [
        config["critic"],
        f"{config['n']:,}",
        str(config["seeds"]),
        str(results["peak_devices"]),
        f"{found.milliseconds:.3g}",
        f"{1e3 / found.milliseconds:,.3g}",
        f"{found.fraction:.0%} ({low:.0%} to {high:.0%})",
        f"{found.gain:.2f}",
        f"{results['products'] / operations:.0%}" if operations else "–",
        f"{compiled:.1f}",
        f"{memory / 2**20:.1f}" if memory is not None else "–",
    ]


def _startup(results: Mapping[str, Any]) -> list[str]:
    """From the start of a process to the first value."""
    median = lambda found, name: float(np.median([one[name] for one in found]))  # noqa: E731
    parts, imports = results["parts"], results["imports"]
    lines = [[name, f"{median(parts, name):.3f}"] for name in parts[0]]
    lines.append(["all", f"{np.median([sum(one.values()) for one in parts]):.3f}"])
    theirs, ours = (np.array([one[name] for one in imports]) for name in imports[0])
    ratios = ours / theirs
    return [
        "## From the start of a process to the first `smile(scores)`",
        f"Medians of {len(parts)} processes.",
        page.table(lines, ["part", "seconds"]),
        f"`import mi_jax` takes {np.median(ours):.2f} s in a process of its own, {np.median(ratios):.2f} times "
        f"`import jax, flax.linen, optax` ({ratios.min():.2f} to {ratios.max():.2f}).",
    ]


def _cache(results: Mapping[str, Any]) -> list[str]:
    """What compiled programs that are kept save."""
    runs, spans = results["runs"], {}
    for kind in ("without", "with"):
        for name in ("all", "compile"):
            seconds = [run[kind][name] for run in runs]
            spans[kind, name] = f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    left = np.array([run["with"]["all"] / run["without"]["all"] for run in runs])
    numbers = {run[kind]["mi"] for run in runs for kind in run}
    lines = [[kind, spans[kind, "all"], spans[kind, "compile"]] for kind in ("without", "with")]
    return [
        "## The compilation cache",
        f"`mi-jax estimate` of {results['num_rows']:,} rows of 5 + 5 columns, a process a run, {len(runs)} rounds of one\n"
        "with `--no-compilation-cache` and one with a folder that an earlier run filled:\n"
        f"{np.median(left):.2f} of the time ({left.min():.2f} to {left.max():.2f}), and "
        f"{'the same number to the last bit' if len(numbers) == 1 else f'numbers {sorted(numbers)}'}.\n"
        f"The folder holds {results['bytes'] / 2**20:.1f} MiB.",
        page.table(lines, ["cache", "seconds, all", "of which compiling"]),
    ]


def _scaling(cells: Sequence[Timed]) -> list[str]:
    """What a seed costs among many seeds: the largest number of seeds of each line of the grid, beside four."""
    lines: dict[tuple[Any, ...], dict[int, Timed]] = {}
    for found in cells:
        lines.setdefault((found.config["critic"], found.config["n"], found.config["devices"]), {})[found.config["seeds"]] = (
            found
        )
    table = []
    for (critic, n, devices), by_seeds in lines.items():
        few, many = by_seeds.get(4), by_seeds[max(by_seeds)]
        if few is not None and many.config["seeds"] > 4:
            ratio, corrected = many.milliseconds / few.milliseconds, few.fraction / many.fraction
            table.append([critic, f"{n:,}", devices, str(many.config["seeds"]), f"{ratio:.2f}", f"{corrected:.2f}"])
    if not table:
        return []
    header = ["critic", "n", "devices", "seeds", "a seed-step, over that at 4", "the same, in units of the peak"]
    text = "Cells run minutes apart; the peak that each was measured beside takes out what the machine did meanwhile."
    return ["## More seeds", text, page.table(table, header)]


def draw(folder: Path) -> list[Path]:
    """Write the page, and the figure, from the rows of a folder."""
    found = rows.read_all(folder / "rows", "throughput")
    cells = [timed(row) for row in found if "critic" in row.config]
    cells.sort(key=lambda cell: [cell.config[name] for name in ("critic", "n", "seeds", "device_count")])
    memory = {row.config["memory"]: row for row in found if "memory" in row.config}
    parts = ["# Throughput", _head(found, cells), page.table([_line(cell) for cell in cells], HEADER)]
    if (folder / "skipped.txt").exists() and (skipped := (folder / "skipped.txt").read_text().splitlines()):
        parts.append("Left out, as predicted to take more seconds than `--limit`: " + "; ".join(skipped) + ".")
    parts += _scaling(cells) + _memory(memory)
    for row in found:
        if "startup" in row.config:
            parts += _startup(row.results)
        if "cache" in row.config:
            parts += _cache(row.results)
    path = page.write(folder / "throughput.md", parts)
    with figures.style():
        return [path, *(figures.save(_figure(cells), folder / "throughput") if cells else [])]


def _head(found: Sequence[Row], cells: Sequence[Timed]) -> str:
    """What was measured, and how to read the table."""
    by_devices: dict[int, list[float]] = {}
    for cell in cells:
        by_devices.setdefault(cell.row.results["peak_devices"], []).append(cell.peak)
    peaks = "; ".join(
        f"on {number} device{'s' * (number > 1)} {np.median(values) / 1e9:.0f} Gflop/s ({min(values) / 1e9:.0f} to "
        f"{max(values) / 1e9:.0f} over the cells)"
        for number, values in sorted(by_devices.items())
    )
    return (
        f"Written by `python -m benchmarks.throughput` on {machine.description(*(row.environment for row in found))}.\n"
        "A training step of SMILE includes sampling, optimiser and read-outs; compiling is apart. Figures are medians over\n"
        "the rounds; ratios are of what was measured in turns, in the same round.\n"
        "The peak is the product (4096, 256) x (256, 256) in float32 on as many devices:\n"
        f"{peaks}.\n"
        '"Of the peak" counts only the matrix products that cannot be avoided (`Cell.products`): for a joint critic those\n'
        "between hidden layers on n² rows. Larger products can be faster than the one timed, and reach over 100%.\n"
        '"Plain" is the same training with concatenated rows, a Python loop over a jitted step, one seed after the other,\n'
        'on one device. "Products, of all operations" is by XLA\'s cost analysis.'
    )


def _memory(found: Mapping[str, Row]) -> list[str]:
    """The peak memory of each process, beside its limit."""
    if not found:
        return []
    lines = []
    for name, row in sorted(found.items()):
        limit = f"{processes.MEMORY[name][1]:,.0f}" if name in processes.MEMORY else "–"
        peak, before = row.results["peak"], row.results["before"]
        lines.append([name, f"{peak:,.0f}", limit, f"{before:,.0f}", f"{row.seconds['all']:.1f}"])
    header = ["in a process of its own", "peak resident MiB", "limit", "of which before", "seconds, compiling included"]
    return ["## Memory", page.table(lines, header)]


def _figure(cells: Sequence[Timed]) -> Figure:
    """The share of the peak over the seeds: a panel for each critic, a line for each batch size, dashed on one device."""
    critics = list(dict.fromkeys(cell.config["critic"] for cell in cells))
    top = 1.05 * max(1.0, *(cell.fraction for cell in cells))
    figure = Figure(figsize=(3.0 * len(critics), 3.0), layout="constrained")
    panels = figure.subplots(1, len(critics), squeeze=False, sharey=True)[0]
    for panel, critic in zip(panels, critics, strict=True):
        _lines(panel, cells, critic)
        panel.set(title=critic, xlabel="seeds", xscale="log", ylim=(0, top))
        panel.axhline(1.0, color="0.7", linewidth=0.8)
        panel.set_xticks(sorted({cell.config["seeds"] for cell in cells}))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    panels[0].set_ylabel("share of the peak of matrix products")
    figures.legend(figure, panels, column=2.0)
    return figure


def _lines(panel: Axes, cells: Sequence[Timed], critic: str) -> None:
    """The lines of one critic's panel."""
    ns = sorted({cell.config["n"] for cell in cells})
    for n, color in zip(ns, figures.shades(len(ns)), strict=True):
        for devices, style in (("all", "-o"), ("one", "--s")):
            line = [
                (cell.config["seeds"], cell.fraction)
                for cell in cells
                if (cell.config["critic"], cell.config["n"], cell.config["devices"]) == (critic, n, devices)
            ]
            if line:
                label = f"n = {n:,}, {devices} device{'s' * (devices == 'all')}"
                panel.plot(*zip(*line, strict=True), style, color=color, markersize=3, label=label)
