"""What TensorFloat-32 products do to Table 2 on a GPU: the same seeds with float32 products and with the default's.

    JAX_DEFAULT_MATMUL_PRECISION=highest python -m benchmarks.gaussian --preset paper --critics joint --hidden 3 --out DIR
    python -m benchmarks.gaussian --preset paper --critics joint --hidden 3 --out DIR/tf32
    python -m benchmarks.gaussian.precision --out DIR

The last command draws DIR/precision.md from the rows that both folders share. `benchmarks.accelerator` runs both.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gaussian import statistics
from benchmarks.gaussian.statistics import READ_OUTS, Curve, Protocol, Setting
from benchmarks.lib import cli, machine, page, rows
from benchmarks.lib.rows import Row

FOLDER = "tf32"  # below that of the rows with float32 products


def draw(out: Path) -> list[Path]:
    """Write the page from the seeds that both folders have; returns its path, or nothing if there are none."""
    folders = (out / "rows", out / FOLDER / "rows")
    by_config = [{rows.digest(row.config): row for row in rows.read_all(folder, "gaussian")} for folder in folders]
    shared = [name for name in by_config[0] if name in by_config[1]]
    full, low = ([of[name] for name in shared] for of in by_config)
    if not shared:
        return []
    protocol = statistics.protocol(full)
    parts = ["# Float32 and TensorFloat-32 products on a GPU", _about(full, low)]
    for setting in statistics.settings(full):
        header = ["read-out", "seeds", *(f"MI {level:g}" for level in protocol.levels)]
        parts += [f"## {setting.label}", page.table(_lines(full, low, setting, protocol), header)]
    return [page.write(out / "precision.md", parts)]


def _lines(full: Sequence[Row], low: Sequence[Row], setting: Setting, protocol: Protocol) -> list[list[str]]:
    """A line a read-out: the paired difference of the means, and the ratio of the variances, in each stage."""
    lines = []
    curves = [statistics.curves(found, setting) for found in (full, low)]
    for name in curves[0]:
        pairs = [pair for pair in zip(*(of[name] for of in curves), strict=True) if all(map(_is_finite, pair))]
        if len(pairs) > 1:
            kept = [statistics.stages([pair[place].history for pair in pairs], protocol) for place in (0, 1)]
            means, logs = kept[1].bias - kept[0].bias, np.log(kept[1].variance / kept[0].variance)
            cells = [f"{_signed(means[:, k])}; {_ratio(logs[:, k])}" for k in range(len(protocol.levels))]
            lines.append([READ_OUTS.get(name, name), f"{len(pairs)}", *map(page.minus, cells)])
    return lines


def _is_finite(curve: Curve) -> bool:
    return bool(statistics.finite([curve]))


def _signed(values: np.ndarray) -> str:
    return f"{values.mean():+.4f} ± {_stderr(values):.4f}"


def _ratio(logs: np.ndarray) -> str:
    return f"{np.exp(logs.mean()):.3f} ± {np.exp(logs.mean()) * _stderr(logs):.3f}"


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _about(full: Sequence[Row], low: Sequence[Row]) -> str:
    seconds = [sum(row.seconds["run"] for row in found) for found in (full, low)]
    precisions = [
        "; ".join(sorted({row.environment["matmul_precision"] or "default" for row in found})) for found in (full, low)
    ]
    where = machine.description(*(row.environment for row in full))
    return f"""Written by `python -m benchmarks.gaussian.precision` on {where}.

An NVIDIA GPU multiplies float32 matrices in TensorFloat-32 (10 bits of mantissa) unless told otherwise. The rows of `rows/`
were made with the precision "{precisions[0]}", which keeps float32; those of `{FOLDER}/rows` with "{precisions[1]}". Both
have the same seeds and saw the same batches.

A cell holds the mean of the paired differences of the estimates, TensorFloat-32 minus float32, ± its standard error, in
nats; then the ratio of the variances over the iterations (geometric mean ± standard error). A stage counts as in table2.md.

Running took {machine.duration(seconds[0])} with float32 and {machine.duration(seconds[1])} with TensorFloat-32, compiling
apart. Compare the two only if nothing else used the machine."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the page."""
    parser = cli.parser("gaussian.precision", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows, with the folder tf32 in it")
    options = parser.parse_args(arguments)
    with cli.clear_errors(parser):
        drawn = draw(options.out)
        if not drawn:
            raise ValueError(f"{options.out} and {options.out / FOLDER} share no row")
        print(drawn[0])


if __name__ == "__main__":
    main()
