"""A result row: what one run or one measurement gave, with everything needed to make it again; and how it is kept on disk.

A row is one JSON file in the folder `rows` of a benchmark's results. It is written whole or not at all, and never rewritten.
Pages and figures are drawn from rows alone.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

SCHEMA = 2


class Row(NamedTuple):
    """One run or measurement; the fields are the keys of the file.

    Attributes:
      benchmark: the name of the benchmark, such as "gaussian".
      config: everything that decides the row's numbers, besides the machine.
      environment: where and with which versions it ran; see `machine.environment`. Empty if it was not recorded.
      diverged: how many of its training runs diverged. They are reported, and never averaged in.
      seconds: name -> seconds. "compile" is the time that its program took to compile, which other rows may share; "run"
        is this row's own share of the time that the program ran.
      results: what was measured; its form is the benchmark's own.
    """

    benchmark: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    diverged: int
    seconds: Mapping[str, float]
    results: Mapping[str, Any]


_TYPES = {"benchmark": str, "config": dict, "environment": dict, "diverged": int, "seconds": dict, "results": dict}


def digest(config: Mapping[str, Any]) -> str:
    """Eight characters that tell configurations apart; they end the name of a row's file."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def path(folder: Path, config: Mapping[str, Any], label: str) -> Path:
    """The file of a row: its label, for people, and the digest of its configuration.

    Example:
      >>> from pathlib import Path
      >>> path(Path("rows"), {"n": 64}, "joint 2x256, n = 64").name
      'joint-2x256-n-64-418f9397.json'
    """
    slug = re.sub("[^a-z0-9._]+", "-", label.lower()).strip("-")
    return folder / f"{slug}-{digest(config)}.json"


def write(folder: Path, row: Row, label: str) -> Path:
    """Write a row whole or not at all; a file that is there already is left as it is.

    Args:
      folder: the folder of rows.
      row: what to write.
      label: the row's name for people, which begins the file's name.

    Returns:
      The file's path.
    """
    target = path(folder, row.config, label)
    if not target.exists():
        write_whole(target, (json.dumps({"schema": SCHEMA, **row._asdict()}, allow_nan=False) + "\n").encode())
    return target


def write_whole(target: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder if that is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_bytes(content)
    os.replace(scratch, target)


def read(file: Path, benchmark: str) -> Row:
    """Read and check a row.

    Args:
      file: its file.
      benchmark: the benchmark that it must be of.

    Raises:
      ValueError: if the file is damaged, or is no row of this benchmark.
    """
    try:
        content = json.loads(file.read_text())
        _check(content, benchmark, file)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a result row of benchmarks.{benchmark} ({error}); move it away") from error
    return Row(**{name: content[name] for name in Row._fields})


def _check(content: Any, benchmark: str, file: Path) -> None:
    """Raise a ValueError that names what is wrong with a file's content."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"it does not have schema {SCHEMA}")
    for name, kind in _TYPES.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{name} must be of type {kind.__name__}, got {content.get(name)!r:.40}")
    if content["benchmark"] != benchmark:
        raise ValueError(f"it is of {content['benchmark']}")
    if not file.stem.endswith(f"-{digest(content['config'])}"):
        raise ValueError("its name does not end with the digest of its configuration")


def read_all(folder: Path, benchmark: str) -> list[Row]:
    """Every row in a folder, in the order of the files' names."""
    return [read(file, benchmark) for file in sorted(folder.glob("*.json"))]


def rounded(tree: Any) -> Any:
    """A tree's numbers to 7 significant digits, as float32 has them; None where JSON has no number for a value."""
    return jax.tree.map(lambda value: float(f"{value:.7g}") if np.isfinite(value) else None, tree)
