"""What the benchmark of `estimate` runs: estimates and KSG, each in a process of its own, and the permutation test."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.estimates import independence, sizes
from benchmarks.estimates.cases import CASES, HARD, LARGE
from benchmarks.estimates.independence import PermutationTest
from benchmarks.estimates.sizes import Sized
from benchmarks.lib import machine, rows, runner
from benchmarks.lib.rows import Row


@dataclass(frozen=True)
class Run:
    """One way to estimate a case; it is repeated with other data.

    Attributes:
      kind: "estimate"; "large", of many rows; or "ksg".
      case: the case's name.
      options: what `estimate` is given, in place of its defaults.
    """

    kind: str
    case: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Its name for people."""
        return " ".join([self.kind, self.case, *(f"{name} {value}" for name, value in self.options)])

    def config(self, seed: int) -> dict[str, Any]:
        """What decides its numbers."""
        return {"kind": self.kind, "case": self.case, "options": dict(self.options), "seed": seed}

    def measure(self, seed: int) -> Row:
        """The row, made in a process of its own. An estimate's total seconds hold import and compilation, not sampling."""
        command = [sys.executable, "-m", "benchmarks.estimates", "--one", json.dumps(self.config(seed))]
        started = time.perf_counter()
        precision = machine.matmul_precision()  # a context of this process does not reach another one
        environment = os.environ | ({"JAX_DEFAULT_MATMUL_PRECISION": precision} if precision else {})
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        total = time.perf_counter() - started
        if done.returncode:
            (*_, last) = done.stderr.strip().splitlines() or ["killed"]
            raise ValueError(f"{self.case} failed: {last.removeprefix('python -m benchmarks.estimates: error: ')}")
        made = json.loads(done.stdout.splitlines()[-1])
        seconds = {"total": total - made["seconds"].get("sample", 0.0), **made["seconds"]}
        return Row("estimates", self.config(seed), made["environment"], 0, seconds, made["results"])


def experiment(wanted: Mapping[Any, int]) -> runner.Experiment:
    """These cells with so many repeats, for the runner."""
    return runner.Experiment(
        name="estimates",
        wanted=wanted,
        covers=covers,
        predict=_predict,
        run=lambda group, *_: [group.cell.measure(group.repeats[0])],
        describe=lambda made: "; ".join(map(_describe, made)),
    )


def covers(config: Mapping[str, Any]) -> tuple[Run | PermutationTest | Sized, Sequence[int]]:
    """The cell of a row, and its seed or group."""
    if config["kind"] == "sizes":
        return sizes.covers(config)
    if config["kind"] == "independence":
        return independence.covers(config)
    return Run(config["kind"], config["case"], tuple(sorted(config["options"].items()))), [config["seed"]]


def _predict(on_disk: Sequence[Row]) -> Callable[[Any], float]:
    """The median of the seconds of rows of the same kind, and in the study of sizes of the same size."""

    def kind(cell: Run | PermutationTest | Sized) -> Any:
        if isinstance(cell, Sized):
            return cell.num_rows
        return cell.kind if isinstance(cell, Run) else "independence"

    by_kind: dict[Any, list[float]] = {}
    for row in on_disk:
        if "total" in row.seconds:
            by_kind.setdefault(kind(covers(row.config)[0]), []).append(row.seconds["total"])
    return lambda cell: float(np.median(by_kind.get(kind(cell), [np.nan])))


def _describe(row: Row) -> str:
    if "sets" in row.results:
        return f"{len(row.results['sets'])} data sets in {machine.duration(row.seconds['total'])}"
    return f"{row.results['mi']:.3f} (true {row.results['truth']:.3f}), {row.seconds['total']:.1f} s"


def run_here(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the process that `Run.measure` starts does: one estimate, or KSG's."""
    run, (seed,) = covers(config)
    assert isinstance(run, Run)
    return _ksg(run, seed) if run.kind == "ksg" else _estimate(run, seed)


def _estimate(run: Run, seed: int) -> dict[str, Any]:
    import mi_jax

    started = time.perf_counter()
    x, y, truth = {**CASES, **HARD, LARGE.name: LARGE}[run.case].sample(seed)
    sampled, before = time.perf_counter(), machine.peak_memory()
    estimate = mi_jax.estimate(x, y, key=jax.random.key(seed), **dict(run.options))
    results = {
        "truth": truth,
        "mi": estimate.mi,
        "stderr": estimate.stderr,
        "interval": list(estimate.interval),
        "warnings": dict(estimate.warnings),
        "read_outs": rows.rounded(dict(estimate.diagnostics.read_outs)),
        "critic": estimate.describe_critic().removeprefix(", "),
        "best_step": list(estimate.diagnostics.best_step),
        "memory_mib": {"before": before, "peak": machine.peak_memory()},
    }
    seconds = {"sample": sampled - started, **estimate.seconds._asdict()}
    return {"environment": machine.environment(), "seconds": seconds, "results": results}


def _ksg(run: Run, seed: int) -> dict[str, Any]:
    import infomeasure

    x, y, truth = {**CASES, **HARD}[run.case].sample(seed)
    scale = lambda columns: (columns - columns.mean(axis=0)) / columns.std(axis=0)  # noqa: E731
    started = time.perf_counter()
    value = infomeasure.mutual_information(scale(x.astype(float)), scale(y.astype(float)), approach="ksg", k=3)
    seconds = {"total": time.perf_counter() - started}  # without the start of a process: KSG compiles nothing
    return {"environment": machine.environment(), "seconds": seconds, "results": {"truth": truth, "mi": float(value)}}
