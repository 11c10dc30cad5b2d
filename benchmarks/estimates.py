"""`mi_jax.estimate` on cases of known mutual information, beside KSG: error, interval, warnings, seconds from a cold start.

    python -m benchmarks.estimates --out DIR

Each estimate is made in a process of its own, so that its seconds hold the import and the compilation, and is written as a
row when it ends; rows that are there are not made again. `--options critic=joint` adds rows with other options for the
table of defaults, `--ksg` those of KSG (`pip install 'mi-jax[ksg]'`), `--large` those of many rows with their
memory, `--independence` the study of the permutation test.
"""

import argparse
import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import rows
from benchmarks.lib import cli, machine
from mi_jax import tasks
from mi_jax.tasks import Task

NUM_ROWS = 10_000
MIS = (0.0, 0.5, 2.0, 5.0)
TURN = 17  # the key of the rotations


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, and what of it the interval can be held against.

    Attributes:
      name: for people, and the row's file.
      make: the task.
      floor: sqrt of the variance of log r over the joint, where it has a closed form: no interval from N pairs is narrower
        than ±1.96 floor / sqrt(N).
      num_rows: how many are drawn.
    """

    name: str
    make: Callable[[], Task]
    floor: float | None = None
    num_rows: int = NUM_ROWS

    def sample(self, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Rows of x and of y, and the true MI."""
        task = self.make()
        x, y = task.sample(jax.random.fold_in(jax.random.key(seed), sum(self.name.encode())), self.num_rows)
        return np.asarray(x), np.asarray(y), float(task.mi)


def _gaussian(dim: int, mi: float) -> list[Case]:
    floor = math.sqrt(dim * -math.expm1(-2 * mi / dim))
    found = [
        Case(f"gaussian, d = {dim}, MI {mi:g}", lambda: tasks.gaussian(dim, mi), floor),
        Case(f"cubic, d = {dim}, MI {mi:g}", lambda: tasks.cubic(dim, mi), floor),
    ]
    if dim > 1:  # in one dimension a rotation is a sign
        turned = lambda: tasks.rotated(tasks.gaussian(dim, mi), jax.random.key(TURN))  # noqa: E731
        found.append(Case(f"rotated, d = {dim}, MI {mi:g}", turned, floor))
    return found


def _student(dim: int, df: float, mi: float | None = None) -> Case:
    """Student's t; without a correlation if no MI is given."""
    mi = tasks.student_correction(dim, df) if mi is None else mi
    return Case(f"student, d = {dim}, df {df:g}, MI {mi:.3g}", lambda: tasks.student(dim, mi, df))


def _noise(dim: int, epsilon: float) -> Case:
    return Case(f"uniform noise, d = {dim}, epsilon {epsilon:g}", lambda: tasks.uniform_noise(dim, epsilon))


CASES = {
    case.name: case
    for case in [
        *(case for dim in (1, 5, 20) for mi in MIS for case in _gaussian(dim, mi)),
        *(_student(1, 1.0), _student(1, 3.0, 0.5), _student(2, 3.0, 1.0)),
        *(_student(2, 2.0, 2.0), _student(5, 3.0), _student(5, 5.0, 1.0)),
        *(_noise(1, 0.75), _noise(1, 0.1), _noise(1, 0.02), _noise(2, 0.3)),
    ]
}
# Beyond what defaults are asked to do: to show where they end.
HARD = {
    case.name: case
    for case in [
        Case("gaussian, d = 25, MI 1.29", lambda: tasks.gaussian(25, 1.29)),
        Case("cubic turned, d = 5, MI 2", lambda: tasks.rotated(tasks.cubic(5, 2.0), jax.random.key(TURN))),
        Case("cubic turned, d = 20, MI 2", lambda: tasks.rotated(tasks.cubic(20, 2.0), jax.random.key(TURN))),
        _noise(3, 0.3),
        Case("gaussian, d = 20, MI 10", lambda: tasks.gaussian(20, 10.0)),
    ]
}

LARGE = Case("gaussian, d = 20, MI 2, 200,000 rows", lambda: tasks.gaussian(20, 2.0), num_rows=200_000)
LARGE_CRITICS = ("gaussian", "separable", "joint")


def run_estimate(case: Case, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """One estimate, in this process."""
    import mi_jax

    started = time.perf_counter()
    x, y, truth = case.sample(seed)
    sampled, before = time.perf_counter(), machine.peak_memory()
    found = mi_jax.estimate(x, y, key=jax.random.key(seed), **options)
    return {
        "case": case.name,
        "seed": seed,
        "options": dict(options),
        "truth": truth,
        "mi": found.mi,
        "stderr": found.stderr,
        "interval": list(found.interval),
        "warnings": dict(found.warnings),
        "read_outs": {name: rows.number(value) for name, value in found.diagnostics.read_outs.items()},
        "best_step": list(found.diagnostics.best_step),
        "sample_seconds": sampled - started,
        "seconds": found.seconds._asdict(),
        "memory_mib": {"before": before, "peak": machine.peak_memory()},
        "environment": machine.environment(),
    }


def run_ksg(case: Case, seed: int) -> dict[str, Any]:
    """KSG's estimate, of the same rows."""
    import infomeasure

    x, y, truth = case.sample(seed)
    scale = lambda columns: (columns - columns.mean(axis=0)) / columns.std(axis=0)  # noqa: E731
    started = time.perf_counter()
    value = infomeasure.mutual_information(scale(x.astype(float)), scale(y.astype(float)), approach="ksg", k=3)
    seconds = time.perf_counter() - started
    return {"case": case.name, "seed": seed, "truth": truth, "mi": float(value), "total_seconds": seconds}


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-")


def row_path(folder: Path, kind: str, name: str, seed: int, options: Mapping[str, Any]) -> Path:
    """Where a row is kept."""
    extra = "".join(f"-{key}-{value}" for key, value in sorted(options.items()))
    return folder / "rows" / f"{kind}-{_slug(name + extra)}-seed{seed}.json"


def in_own_process(kind: str, name: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """A row made by a process of its own, and the seconds from its start to its end, less those of drawing the sample."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--one", json.dumps([kind, name, seed, dict(options)])]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    total = time.perf_counter() - started
    if done.returncode:
        (*_, last) = done.stderr.strip().splitlines() or ["killed"]
        raise ValueError(f"{name} failed: {last.removeprefix('benchmarks.estimates: error: ')}")
    row = json.loads(done.stdout.splitlines()[-1])
    return {"total_seconds": total - row.get("sample_seconds", 0.0), **row}


def _one(text: str) -> None:
    kind, name, seed, options = json.loads(text)
    case = {**CASES, **HARD, LARGE.name: LARGE}[name]
    print(json.dumps(run_ksg(case, seed) if kind == "ksg" else run_estimate(case, seed, options), allow_nan=False))


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows of estimates and of KSG, each with its kind."""
    found = []
    for path in sorted((folder / "rows").glob("*.json")):
        kind = path.name.split("-")[0]
        found.append({"kind": kind, "options": {}, **json.loads(path.read_text())})
    return found


def covered(row: Mapping[str, Any]) -> bool:
    """Whether the interval holds the truth."""
    return row["interval"][0] <= row["truth"] <= row["interval"][1]


def good(row: Mapping[str, Any]) -> bool:
    """The goal: to MI 2 within 5 % or 0.05 nats, beyond within 10 %."""
    error = abs(row["mi"] - row["truth"])
    return error <= (max(0.05, 0.05 * row["truth"]) if row["truth"] < 3 else 0.1 * row["truth"])


def half_width(row: Mapping[str, Any]) -> float:
    """Half of the interval's width."""
    return (row["interval"][1] - row["interval"][0]) / 2


def report(folder: Path, command: str) -> str:
    """The results page, from the rows on disk."""
    found = read(folder)
    default = [row for row in found if row["kind"] == "estimate" and not row["options"]]
    ksg = {(row["case"], row["seed"]): row for row in found if row["kind"] == "ksg"}
    parts = [
        f"# `mi_jax.estimate` with its defaults, on {NUM_ROWS:,} samples of known mutual information",
        f"`{command}`; {machine.description()}. Each estimate in a fresh process; seconds from its start to its end, "
        "imports and compilation included. KSG: infomeasure, k = 3, standardised columns, no interval.",
        _main_table([row for row in default if row["case"] in CASES], ksg),
        _coverage([row for row in default if row["case"] in CASES]),
        "## Where the defaults end",
        _main_table([row for row in default if row["case"] in HARD], ksg),
        *_options_table([row for row in found if row["kind"] == "estimate"]),
        *_large_table([row for row in found if row["kind"] == "large"]),
        *_independence(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _main_table(chosen: Sequence[Mapping[str, Any]], ksg: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    order = {name: place for place, name in enumerate([*CASES, *HARD])}
    table = []
    for row in sorted(chosen, key=lambda row: (order[row["case"]], row["seed"])):
        other = ksg.get((row["case"], row["seed"]))
        table.append(
            {
                "case": row["case"],
                "truth": f"{row['truth']:.3f}",
                "estimate": f"{row['mi']:.3f}",
                "interval": f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}",
                "covered": "yes" if covered(row) else "**no**",
                "goal": "met" if good(row) else "**missed**",
                "warnings": ", ".join(row["warnings"]) or "-",
                "seconds": f"{row['total_seconds']:.1f}",
                "KSG": "" if other is None else f"{other['mi']:.3f}",
                "its seconds": "" if other is None else f"{other['total_seconds']:.1f}",
            }
        )
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)


def _coverage(chosen: Sequence[Mapping[str, Any]]) -> str:
    cells = {(hit, warned): 0 for hit in (True, False) for warned in (True, False)}
    for row in chosen:
        cells[covered(row), bool(row["warnings"])] += 1
    table = [
        ["covered", cells[True, False], cells[True, True]],
        ["not covered", cells[False, False], cells[False, True]],
    ]
    unwarned = cells[True, False] + cells[False, False]
    widths = [half_width(row) / max(0.1, 0.1 * row["truth"]) for row in chosen]
    narrow = [row for row in chosen if (bound := _floor(row)) is not None and half_width(row) < bound]
    lines = [
        "## Intervals and warnings",
        tabulate(table, headers=["", "not warned", "warned"], tablefmt="github"),
        f"{len(chosen)} runs. Among the unwarned {cells[True, False] / max(unwarned, 1):.0%} are covered; "
        f"{unwarned / max(len(chosen), 1):.0%} are unwarned. Median half-width {np.median(widths or [math.nan]):.2f} of "
        f"max(0.1, 10 %). Narrower than ±1.96 sqrt(d rho² / N) on the Gaussian ones: {len(narrow)}. "
        f"Goal met: {sum(map(good, chosen))}. Longest: {max((row['total_seconds'] for row in chosen), default=0):.1f} s.",
    ]
    return "\n\n".join(lines)


def _floor(row: Mapping[str, Any]) -> float | None:
    floor = CASES[row["case"]].floor
    return None if floor is None else 1.96 * floor / math.sqrt(NUM_ROWS)


def _options_table(chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Other options against the defaults, on the cases that both were run on."""
    default = {(row["case"], row["seed"]): row for row in chosen if not row["options"]}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in chosen:
        if row["options"] and (row["case"], row["seed"]) in default:
            name = ", ".join(f"{key} = {value}" for key, value in sorted(row["options"].items()))
            groups.setdefault(name, []).append(row)
    if not groups:
        return
    yield "## Other options, beside the defaults on the same rows"
    cases = list(dict.fromkeys(row["case"] for group in groups.values() for row in group))
    table = [["defaults", *_errors(cases, list(default.values()))]]
    table += [[name, *_errors(cases, group)] for name, group in sorted(groups.items())]
    yield "Estimate less truth; seconds in brackets."
    yield tabulate(table, headers=["", *cases], tablefmt="github", disable_numparse=True)


def _errors(cases: Sequence[str], chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    by_case = {row["case"]: row for row in chosen}
    return [
        f"{by_case[case]['mi'] - by_case[case]['truth']:+.3f} ({by_case[case]['total_seconds']:.0f})"
        if case in by_case
        else ""
        for case in cases
    ]


def _large_table(chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not chosen:
        return
    yield "## Many rows"
    yield (
        f"`python -m benchmarks.estimates --large --out DIR`: {LARGE.num_rows:,} rows of 20 + 20 columns, true MI 2. "
        "Memory: the peak of the process, over what it had with the data drawn and JAX running."
    )
    table = []
    for row in sorted(chosen, key=lambda row: row["total_seconds"]):
        spent, memory = row["seconds"], row["memory_mib"]
        table.append(
            {
                "critic": row["options"]["critic"],
                "estimate": f"{row['mi']:.3f}",
                "interval": f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}",
                "warnings": ", ".join(row["warnings"]) or "-",
                "seconds": f"{row['total_seconds']:.0f}",
                "compile, train, read-out": ", ".join(f"{seconds:.0f}" for seconds in spent.values()),
                "memory, MiB": f"{memory['peak'] - memory['before']:,.0f}",
            }
        )
    yield tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)


# The study of the permutation test.
SMALL_ROWS, SMALL_DIM, SMALL_SETS, SMALL_MI = 200, 2, 200, 0.15
SMALL_GROUP = 20  # data sets in a file
PERMUTATIONS = 19
SMALL_OPTIONS: dict[str, Any] = {"seeds": 1, "steps": 200, "patience": 100}


def run_independence(mi: float, number: int) -> dict[str, Any]:
    """The test's p-value on one small data set."""
    import mi_jax

    key = jax.random.fold_in(jax.random.key(1), number)
    x, y = tasks.gaussian(SMALL_DIM, mi).sample(key, SMALL_ROWS)
    found = mi_jax.estimate(x, y, key=jax.random.fold_in(key, 1), permutations=PERMUTATIONS, **SMALL_OPTIONS)
    assert found.independence is not None
    return {"mi": mi, "number": number, "p_value": found.independence.p_value, "estimate": found.mi}


def _independence(folder: Path) -> Iterator[str]:
    from scipy import stats

    found = [row for path in sorted((folder / "independence").glob("*.json")) for row in json.loads(path.read_text())]
    if not found:
        return
    yield "## The permutation test"
    m, n = PERMUTATIONS, SMALL_ROWS
    yield (
        f"`python -m benchmarks.estimates --independence --out DIR`: Gaussian data sets of {n} rows, "
        f"d = {SMALL_DIM}, {m} permutations, {SMALL_OPTIONS}; rejected where p ≤ 0.1."
    )
    table = []
    for mi in sorted({row["mi"] for row in found}):
        values = np.array([row["p_value"] for row in found if row["mi"] == mi])
        low, high = stats.binom.interval(0.99, len(values), 0.1)
        band = f"{low:.0f} to {high:.0f}" if not mi else ""
        table.append(
            [f"{mi:g}", len(values), int(np.sum(values <= 0.1 + 1e-9)), f"{np.mean(values <= 0.1 + 1e-9):.3f}", band]
        )
    headers = ["true MI", "data sets", "rejected", "share", "99 % band of a test at 0.1"]
    yield tabulate(table, headers=headers, tablefmt="github", disable_numparse=True)


def _make_missing(folder: Path, kind: str, names: Sequence[str], options: Mapping[str, Any], seeds: int) -> None:
    missing = [
        (name, seed) for seed in range(seeds) for name in names if not row_path(folder, kind, name, seed, options).exists()
    ]
    for name, seed in tqdm(missing, desc=kind, unit="run", disable=None):
        row = in_own_process(kind, name, seed, options)
        rows.store(row_path(folder, kind, name, seed, options), row)
        print(f"{kind} {name}: {row['mi']:.3f} (true {row['truth']:.3f}), {row['total_seconds']:.1f} s", flush=True)


def _make_independence(folder: Path) -> None:
    for mi in (0.0, SMALL_MI):
        for first in tqdm(range(0, SMALL_SETS, SMALL_GROUP), desc=f"MI {mi:g}", unit="group", disable=None):
            path = folder / "independence" / f"mi{mi:g}-{first:03d}.json"
            if not path.exists():
                rows.store(path, [run_independence(mi, number) for number in range(first, first + SMALL_GROUP)])


def _parse(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="benchmarks.estimates", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/estimates"), help="the folder of rows and page")
    parser.add_argument("--match", default="", help="only cases whose name holds this regular expression")
    parser.add_argument("--seeds", type=cli.positive_int, default=1, help="data sets of each case")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="options of estimate")
    parser.add_argument("--ksg", action="store_true", help="KSG on the same rows")
    parser.add_argument("--large", action="store_true", help="many rows: seconds and memory")
    parser.add_argument("--independence", action="store_true", help="the study of the permutation test")
    parser.add_argument("--page-only", action="store_true", help="write the page from the rows that are there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser, parser.parse_args(argv)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--options must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser, options = _parse(argv)
    machine.use_all_cores()
    with cli.clear_errors(parser):
        if options.one:
            _one(options.one)
            return
        names = [name for name in [*CASES, *HARD] if re.search(options.match, name)]
        if not names:
            raise ValueError(f"--match must match a case, such as {next(iter(CASES))!r}, got {options.match!r}")
        extra = dict(map(_option, options.options))
        if not options.page_only:
            if options.independence:
                _make_independence(options.out)
            elif options.large:
                for critic in LARGE_CRITICS:
                    _make_missing(options.out, "large", [LARGE.name], {"critic": critic, **extra}, options.seeds)
            elif options.ksg:
                _make_missing(options.out, "ksg", names, {}, options.seeds)
            else:
                _make_missing(options.out, "estimate", names, extra, options.seeds)
        page = options.out / "estimates.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(report(options.out, "python -m benchmarks.estimates --out DIR"))
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
