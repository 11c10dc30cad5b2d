"""How often the intervals of measured variances hold the exact law."""

from pathlib import Path

import numpy as np

from benchmarks.lib import machine, page
from benchmarks.variance.cells import Cell
from benchmarks.variance.experiment import PRESETS, draw_chunks, seconds_a_pair
from mi_jax import theory


def coverage(cell: Cell, repeats: int) -> np.ndarray:
    """For each MI the share of repeats, a chunk each, whose 95 % interval of Var[E_{Q_n}[r*]] holds the exact law."""
    chunks = [chunk["partition"] for chunk in draw_chunks(cell, 0, repeats)]
    law = theory.gaussian_partition_variance(np.array(cell.mis), cell.dim, cell.n, pairs=cell.pairs)
    held = [np.abs(chunk.variance - law) <= 1.96 * chunk.variance_error for chunk in chunks]
    return np.mean(held, axis=0)


def write_coverage(preset: str, repeats: int, out: Path, limit: float) -> Path:
    """Write the table of `coverage`, at MIs where r* has a fourth moment; sizes predicted over the limit are listed."""
    lines = []
    for n in (cell.n for cell in PRESETS[preset] if cell.pairs == "independent"):
        cell = Cell("independent", n, mis=(0.1, 0.25, 0.5), taus=())
        predicted = repeats * cell.chunk * cell.n * seconds_a_pair(cell, [])
        if predicted > limit:
            print(f"skipped, over the limit: coverage at n = {n}, predicted {machine.duration(predicted)}")
            continue
        lines.append([str(n), str(cell.chunk), *(f"{share:.1%}" for share in coverage(cell, repeats))])
        print(f"coverage at n = {n}: {', '.join(lines[-1][2:])}", flush=True)
    parts = [
        "# How often a 95 % interval of a measured variance holds the exact law",
        f"Written by `python -m benchmarks.variance --preset {preset} --coverage {repeats}`: {repeats} repeats a cell, n\n"
        "independent pairs from Q; the interval is the measured variance of E_{Q_n}[r*] ± 1.96 standard errors, by its\n"
        "fourth moment.",
        page.table(lines, ["n", "replicates", "MI 0.1", "MI 0.25", "MI 0.5"]),
    ]
    return page.write(out / "coverage.md", parts)
