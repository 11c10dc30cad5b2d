"""The study of sizes: `estimate` by default on 200, 1,000 and 10,000 rows of known laws, beside another commit's."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mi_jax
from benchmarks.lib import machine, rows
from benchmarks.lib.rows import Row
from mi_jax import tasks
from mi_jax.tasks import Task

SIZES = (200, 1_000, 10_000)
GROUP = 10  # data sets in a row; one process makes their estimates, so that one compilation serves all
ROOT_KEY = 20  # draws data on which no default was tuned
THIS = "this"


def _spiral(dim: int) -> Task:
    return tasks.spiral(tasks.widened(tasks.gaussian(2, 1.02), dim), 1 / dim)


FAMILIES: Mapping[str, Callable[[], Task]] = {
    "independent, 3 + 3": lambda: tasks.gaussian(3, 0.0),
    "gaussian, 1 + 1": lambda: tasks.gaussian(1, 0.5),
    "gaussian, 5 + 5": lambda: tasks.gaussian(5, 2.0),
    "gaussian, 20 + 20": lambda: tasks.gaussian(20, 2.0),
    "student, 2 + 2, df 3": lambda: tasks.student(2, 1.0, 3.0),
    "student, 5 + 5, df 5": lambda: tasks.student(5, 1.0, 5.0),
    "uniform noise, 1 + 1": lambda: tasks.uniform_noise(1, 0.1),
    "uniform noise, 2 + 2": lambda: tasks.uniform_noise(2, 0.3),
    "Cauchy noise, 1 + 1": lambda: tasks.cauchy_noise(1, 0.25),
    "sine of one turn, 1 + 1": lambda: tasks.sine(1, 0.2),
    "sine of four turns, 1 + 1": lambda: tasks.sine(1, 0.2, turns=4),
    "cubes turned, 5 + 5": lambda: tasks.rotated(tasks.cubic(5, 2.0), jax.random.key(17)),
    "Swiss roll, 2 + 1": lambda: tasks.swiss_roll(tasks.gaussian(1, 1.02)),
    "spiral, 3 + 3": lambda: _spiral(3),
    "spiral, 5 + 5": lambda: _spiral(5),
    "spiral, 25 + 25": lambda: _spiral(25),
}

# It runs with either mi_jax, and so it uses only what both have.
ESTIMATE = """
import json, sys, time
start = time.perf_counter()
import jax, numpy, mi_jax
made = []
for number in range(int(sys.argv[2])):
    with numpy.load(sys.argv[1]) as file:
        x, y = file[f"x{number}"], file[f"y{number}"]
    one = mi_jax.estimate(x, y, key=jax.random.key(number))
    now = time.perf_counter()
    made.append({
        "mi": one.mi, "interval": list(one.interval), "warnings": list(one.warnings), "seconds": now - start,
        "critic": repr(one).splitlines()[0].rpartition("(")[2].split(", ")[1],
        "parts": [float(part) for part in one.seconds],
    })
    start = now
print(json.dumps(made))
"""


@dataclass(frozen=True)
class Sized:
    """The default estimate of a family at a size; a repeat is a group of data sets, estimated by one process.

    Attributes:
      family: a name in `FAMILIES`.
      num_rows: how many rows a data set has.
      library: what the rows call the mi_jax that is measured.
      folder: where that is; "" for the one that is imported here.
    """

    family: str
    num_rows: int
    library: str = THIS
    folder: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.library}: {self.family}, {self.num_rows:,} rows"

    def config(self, group: int) -> dict[str, Any]:
        """What decides its numbers."""
        names = {"family": self.family, "rows": self.num_rows, "library": self.library}
        return {"kind": "sizes", **names, "sets": GROUP, "group": group}

    def measure(self, group: int) -> Row:
        """The row: estimate, interval, warnings, critic and seconds of each data set of a group; the first starts cold."""
        task, started = FAMILIES[self.family](), time.perf_counter()
        data: dict[str, Any] = {}
        for number in range(GROUP):
            key = jax.random.fold_in(jax.random.key(ROOT_KEY), group * GROUP + number)
            x, y = task.sample(jax.random.fold_in(key, sum(self.family.encode())), self.num_rows)
            data |= {f"x{number}": np.asarray(x), f"y{number}": np.asarray(y)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(path, allow_pickle=False, **data)
            environment = os.environ | {"PYTHONPATH": self.folder or str(Path(mi_jax.__file__).parents[1])}
            command = [sys.executable, "-c", ESTIMATE, str(path), str(GROUP)]
            # In the folder of the data, as Python would import what is in the one where it starts.
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        if done.returncode:
            raise ValueError(f"{self.label} failed: {done.stderr.strip().splitlines()[-1]}")
        made = json.loads(done.stdout.splitlines()[-1])
        sets = [one | rows.rounded({name: one[name] for name in ("mi", "interval", "seconds", "parts")}) for one in made]
        results = {"truth": float(task.mi), "sets": sets}
        seconds = {"total": time.perf_counter() - started}
        return Row("estimates", self.config(group), machine.environment(), 0, seconds, results)


def cells(beside: Path | None = None) -> list[Sized]:
    """Every family at every size, small sizes first; also by the mi_jax of another checkout, called by its commit."""
    libraries = {THIS: ""}
    if beside is not None:
        command = ["git", "-C", str(beside), "rev-parse", "--short", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode or not (beside / "mi_jax").is_dir():
            raise ValueError(f"--beside must be a checkout of mi_jax, got {beside}")
        libraries[found.stdout.strip()] = str(beside.resolve())
    return [Sized(family, size, *library) for size in SIZES for family in FAMILIES for library in libraries.items()]


def covers(config: Mapping[str, Any]) -> tuple[Sized, Sequence[int]]:
    """The cell of a row, and its group."""
    return Sized(config["family"], config["rows"], config["library"]), [config["group"]]
