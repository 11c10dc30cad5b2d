"""A result row: one training run, with everything needed to make it again, and how rows are kept on disk.

One JSON file a run, written whole or not at all, and never rewritten. Figures and tables are drawn from rows alone.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine
from mi_jax.training import layout

SCHEMA = 1
_PACKAGES = ("mi-jax", "jax", "jaxlib", "flax", "optax", "numpy")
# What a run's bits depend on, besides its configuration.
_BITS_DEPEND_ON = ("machine", "platform", "device_kind", "threads", "xla_flags", "matmul_precision", "versions")


class Moments(NamedTuple):
    """A read-out's history in blocks of consecutive steps, from which any window of whole blocks has its exact moments.

    Attributes:
      block: steps in a block.
      mean: (blocks,) mean of each block, in nats.
      squares: (blocks,) sum of squared deviations from it.
      last: (blocks,) the block's last value, unsmoothed.
    """

    block: int
    mean: np.ndarray
    squares: np.ndarray
    last: np.ndarray

    def window(self, start: int, stop: int) -> tuple[float, float]:
        """Mean and variance (ddof = 0) over steps start <= step < stop, which must fall on block edges."""
        if start % self.block or stop % self.block:
            raise ValueError(f"start and stop must be multiples of the block, {self.block}, got {start} and {stop}")
        blocks = slice(start // self.block, stop // self.block)
        mean = self.mean[blocks].mean()
        between = ((self.mean[blocks] - mean) ** 2).mean()
        return float(mean), float(between + self.squares[blocks].sum() / (stop - start))


def moments(history: np.ndarray, block: int) -> Moments:
    """The block moments of a (steps,) history."""
    blocks = np.asarray(history, np.float64).reshape(-1, block)
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged run is recorded as it is
        mean = blocks.mean(axis=1)
        squares = ((blocks - mean[:, None]) ** 2).sum(axis=1)
    return Moments(block, mean, squares, blocks[:, -1])


class Row(NamedTuple):
    """One training run.

    Attributes:
      config: everything that decides its numbers.
      environment: where it ran; see `environment`.
      diverged: whether its parameters ended up non-finite; such a run is reported, never averaged in.
      compile_seconds: of the program that ran it,
      run_seconds: and of its share of that program's run, apart.
      read_outs: name -> `Moments`.
    """

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    diverged: bool
    compile_seconds: float
    run_seconds: float
    read_outs: Mapping[str, Moments]


def identity(config: Mapping[str, Any]) -> str:
    """A readable name for a run, unique to its configuration."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    shape = f"{len(config['hidden'])}x{config['hidden'][0]}"
    return f"{config['task']}-{config['critic']}-{shape}-{config['objective']}-seed{config['seed']}-{digest}"


def environment() -> dict[str, Any]:
    """This machine, its devices, the versions and the commit."""
    return {
        **layout.environment(),
        "processor": machine.processor(),
        # None is the backend's default: float32 on a CPU, TensorFloat-32 on an NVIDIA GPU.
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the same configuration should give the same bits in both environments."""
    return all(one.get(name) == other.get(name) for name in _BITS_DEPEND_ON)


def write(folder: Path, row: Row) -> Path:
    """Write a row; see `store`."""
    content = {"schema": SCHEMA, **row._asdict()}
    content["read_outs"] = {
        name: {"block": m.block, **{part: _numbers(getattr(m, part)) for part in ("mean", "squares", "last")}}
        for name, m in row.read_outs.items()
    }
    return store(folder / f"{identity(row.config)}.json", content)


def store(path: Path, content: Any) -> Path:
    """Write a JSON file, whole or not at all; one that is there already is left as it is."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(content, allow_nan=False) + "\n")
        os.replace(scratch, path)
    return path


def read(path: Path) -> Row:
    """Read a row that `write` wrote.

    Raises:
      ValueError: if the file is no such row.
    """
    try:
        content = json.loads(path.read_text())
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        parts = content.pop("read_outs")
        read_outs = {
            name: Moments(m["block"], *(np.array(m[part], np.float64) for part in ("mean", "squares", "last")))
            for name, m in parts.items()
        }
        if path.stem != identity(content["config"]):
            raise ValueError("its name is not that of its configuration")
        return Row(**content, read_outs=read_outs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a result row of this benchmark ({error}); move it away") from error


def read_all(folder: Path) -> Iterator[Row]:
    """Every row in a folder, in the order of their names."""
    return (read(path) for path in sorted(folder.glob("*.json")))


def number(value: Any) -> float | None:
    """To 7 significant digits, float32's own; null where JSON has no number for it."""
    return float(f"{value:.7g}") if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    """As `number`; reads back as NaN where there is none."""
    return [number(value) for value in values]


def _commit() -> str:
    """The commit of the code, with "-dirty" if it was changed since; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
