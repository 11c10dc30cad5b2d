"""Replicates a second on one and on two devices, and memory at 10,000 and 1,000,000 replicates, of `benchmarks.variance`.

    python -m benchmarks.variance.scaling --out DIR

Each figure is of a process of its own, on virtual CPU devices (`JAX_NUM_CPU_DEVICES`), one after the other.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.lib import cli, machine, page, rows, runner
from benchmarks.variance import experiment
from benchmarks.variance.cells import Cell
from mi_jax import theory

SPEED: tuple[tuple[theory.Pairs, int, int], ...] = (
    ("independent", 64, 100_000),
    ("independent", 1_024, 20_000),
    ("independent", 16_384, 2_000),
    ("off_diagonal", 64, 40_000),
    ("off_diagonal", 256, 4_000),
    ("off_diagonal", 1_024, 256),
)
MEMORY = (10_000, 1_000_000)


class Measured(NamedTuple):
    """What one process measured: replicates a second, compiling apart, and its largest memory, in MiB."""

    rate: float
    peak: float


def measure(pairs: theory.Pairs, n: int, replicates: int, devices: int) -> Measured:
    """Draw so many replicates in a process with so many devices."""
    command = ("-m", "benchmarks.variance.scaling", "--measure", pairs, str(n), str(replicates))
    # The number of glibc's arenas moves the peak by a tenth from run to run.
    environment = {"JAX_NUM_CPU_DEVICES": str(devices), "MALLOC_ARENA_MAX": "2"}
    return Measured(**json.loads(machine.in_a_process(*command, **environment)))


def _measure_here(pairs: theory.Pairs, n: int, replicates: int) -> Measured:
    cell, drawn, seconds = Cell(pairs, n), 0, 0.0
    with tempfile.TemporaryDirectory() as scratch:
        runner.run_missing(experiment.experiment({cell: replicates}), Path(scratch))
        for path in Path(scratch).iterdir():
            row = rows.read(path, "variance")
            drawn += (row.config["stop"] - row.config["start"]) * cell.chunk
            seconds += row.seconds["run"]
    return Measured(drawn / seconds, machine.peak_memory())


def write(rounds: int, out: Path) -> Path:
    """Measure, turn about, and write the page."""
    speed = []
    for pairs, n, replicates in SPEED:
        rates = [[measure(pairs, n, replicates, devices).rate for devices in (1, 2)] for _ in range(rounds)]
        one, two = (statistics.median(column) for column in zip(*rates, strict=True))
        ratios = sorted(two / one for one, two in rates)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        speed.append([pairs.replace("_", "-"), n, f"{one:,.0f}", f"{two:,.0f}", ratio])
        print(f"{pairs} n = {n}: {ratio}", flush=True)
    peaks = [
        statistics.median(measure("independent", 64, replicates, 2).peak for _ in range(rounds)) for replicates in MEMORY
    ]
    one_device = "One CPU device runs on both cores where XLA splits an operation over threads, so two may gain nothing."
    parts = [
        "# Scaling of `benchmarks.variance`",
        f"Written by `python -m benchmarks.variance.scaling --rounds {rounds}` on {machine.description()}.",
        "## Replicates a second",
        "Eight MIs each; compiling apart; medians, and the ratios' range, over the rounds.",
        page.table(speed, ["pairs", "n", "one device", "two devices", "ratio"]),
        one_device,
        "## Peak memory",
        page.listing(f"{count:,} replicates: {peak:.0f} MiB" for count, peak in zip(MEMORY, peaks, strict=True)),
        f"Ratio {peaks[1] / peaks[0]:.3f}; independent pairs, n = 64, two devices, the whole process, with\n"
        "`MALLOC_ARENA_MAX=2`; medians over the rounds.",
    ]
    return page.write(out / "scaling.md", parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = cli.parser("variance.scaling", __doc__)
    parser.add_argument("--out", type=Path, help="folder for the page")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="how often each speed is measured")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        pairs, n, replicates = options.measure
        print(json.dumps(_measure_here(pairs, int(n), int(replicates))._asdict()))
        return
    if options.out is None:
        parser.error("the following arguments are required: --out")
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
        print(write(options.rounds, options.out))


if __name__ == "__main__":
    main()
