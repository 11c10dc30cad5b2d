"""Rows of the benchmarks that are not on `benchmarks.lib` yet."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def store(path: Path, content: Any) -> Path:
    """Write a JSON file whole or not at all; one that is there already is left as it is."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(content, allow_nan=False) + "\n")
        os.replace(scratch, path)
    return path


def number(value: Any) -> float | None:
    """To 7 significant digits, float32's own; null where JSON has no number for it."""
    return float(f"{value:.7g}") if np.isfinite(value) else None
