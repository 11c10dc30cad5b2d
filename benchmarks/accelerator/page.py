"""How fast seeds train on this card: beside the CPU pages, and beside a plain PyTorch loop on the same card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.lib import machine, page, rows
from benchmarks.lib.rows import Row
from benchmarks.throughput.page import timed

CPU_PAGES = {"CPU, AVX2": "throughput", "CPU, AVX-512": "throughput-avx512"}


def draw(out: Path) -> list[Path]:
    """Write the page, in the folder `out` beside those of the throughput benchmark, if there are rows of this card."""
    results, device = out.parent, out.name.removeprefix("accelerator")
    found = _read(results / f"throughput{device}")
    ours = _seed_steps(found)
    if not ours:
        return []
    torch = {(row.config["critic"], row.config["n"]): row for row in rows.read_all(out / "torch" / "rows", "torch")}
    cpus = {name: _seed_steps(_read(results / folder)) for name, folder in CPU_PAGES.items()}
    lines = []
    for critic, n in sorted({(critic, n) for critic, n, _ in ours}):
        seeds = sorted(number for *cell, number in ours if (*cell,) == (critic, n))
        loop = torch.get((critic, n))
        lines.append(
            {
                "critic": critic,
                "n": n,
                **{name: _best(steps, critic, n) for name, steps in cpus.items()},
                "this card, by seeds": "; ".join(f"{number}: {ours[critic, n, number]:,.0f}" for number in seeds),
                "PyTorch loop": f"{1 / np.median(loop.results['step_seconds']):,.0f}" if loop else "",
            }
        )
    versions = sorted({row.results["torch"] for row in torch.values()})
    where = machine.description(*(row.environment for row in found)) + "".join(f", PyTorch {each}" for each in versions)
    about = f"""Written by `python -m benchmarks.accelerator` on {where}.

A seed-step is one training step of SMILE of one seed, sampling, optimiser and read-out included, with float32 products. The
columns of the CPUs hold the fastest number of seeds and devices on [this page](../throughput/throughput.md) and on
[this one](../throughput-avx512/throughput.md). The PyTorch loop trains one seed, eager, on the same card."""
    parts = ["# Seed-steps a second", about, page.table(lines)]
    return [page.write(out / "speed.md", parts)]


def _read(folder: Path) -> list[Row]:
    return [row for row in rows.read_all(folder / "rows", "throughput") if "critic" in row.config]


def _seed_steps(found: Sequence[Row]) -> dict[tuple[str, int, int], float]:
    """(critic, n, seeds) -> seed-steps a second, on the devices that are fastest."""
    best: dict[tuple[str, int, int], float] = {}
    for row in found:
        key = row.config["critic"], row.config["n"], row.config["seeds"]
        best[key] = max(best.get(key, 0.0), 1e3 / timed(row).milliseconds)
    return best


def _best(steps: dict[tuple[str, int, int], float], critic: str, n: int) -> str:
    known = [speed for (name, size, _), speed in steps.items() if (name, size) == (critic, n)]
    return f"{max(known):,.0f}" if known else ""
