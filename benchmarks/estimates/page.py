"""The results page of `mi_jax.estimate`: errors, intervals, warnings and seconds, beside KSG's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.estimates import sizes_page
from benchmarks.estimates.cases import CASES, HARD, LARGE, NUM_ROWS
from benchmarks.estimates.independence import ABOUT, covers
from benchmarks.lib import machine, page, rows
from benchmarks.lib.rows import Row

KINDS = ("estimate", "ksg", "large", "independence", "sizes")


def covered(row: Row) -> bool:
    """Whether the interval holds the truth."""
    return row.results["interval"][0] <= row.results["truth"] <= row.results["interval"][1]


def good(row: Row) -> bool:
    """The goal: to MI 2 within 5 % or 0.05 nats, beyond within 10 %."""
    error = abs(row.results["mi"] - row.results["truth"])
    return error <= (max(0.05, 0.05 * row.results["truth"]) if row.results["truth"] < 3 else 0.1 * row.results["truth"])


def half_width(row: Row) -> float:
    """Half of the interval's width."""
    return (row.results["interval"][1] - row.results["interval"][0]) / 2


def draw(out: Path) -> list[Path]:
    """Write the results page from the rows."""
    return [page.write(out / "estimates.md", report(rows.read_all(out / "rows", "estimates")))]


def report(found: Sequence[Row]) -> list[str]:
    """The parts of the results page."""
    of_kind = {kind: [row for row in found if row.config["kind"] == kind] for kind in KINDS}
    default = [row for row in of_kind["estimate"] if not row.config["options"]]
    usual = [row for row in default if row.config["case"] in CASES]
    ksg = {(row.config["case"], row.config["seed"]): row for row in of_kind["ksg"]}
    where = machine.description(*(row.environment for row in usual or found))
    return [
        f"# `mi_jax.estimate` with its defaults, on {NUM_ROWS:,} samples of known mutual information",
        f"`python -m benchmarks.estimates --out DIR`; {where}. Each estimate is made in a fresh process; its seconds are "
        "from the start of the process to its end, imports and compilation included. KSG: infomeasure, k = 3, standardised "
        "columns, no interval.",
        _main_table(usual, ksg),
        *_coverage(usual),
        "## Where the defaults end",
        _main_table([row for row in default if row.config["case"] in HARD], ksg),
        *_options_table(of_kind["estimate"]),
        *_large_table(of_kind["large"]),
        *_independence(of_kind["independence"]),
        *sizes_page.parts(of_kind["sizes"]),
    ]


def _main_table(chosen: Sequence[Row], ksg: Mapping[tuple[str, int], Row]) -> str:
    order = {name: place for place, name in enumerate([*CASES, *HARD])}
    table = []
    for row in sorted(chosen, key=lambda row: (order[row.config["case"]], row.config["seed"])):
        other = ksg.get((row.config["case"], row.config["seed"]))
        table.append(
            {
                "case": row.config["case"],
                "truth": f"{row.results['truth']:.3f}",
                "estimate": f"{row.results['mi']:.3f}",
                "interval": f"{row.results['interval'][0]:.3f} to {row.results['interval'][1]:.3f}",
                "covered": "yes" if covered(row) else "**no**",
                "goal": "met" if good(row) else "**missed**",
                "warnings": ", ".join(row.results["warnings"]) or "-",
                "seconds": f"{row.seconds['total']:.1f}",
                "KSG": "" if other is None else f"{other.results['mi']:.3f}",
                "its seconds": "" if other is None else f"{other.seconds['total']:.1f}",
                "critic": row.results.get("critic", ""),
            }
        )
    return page.table(table)


def _coverage(chosen: Sequence[Row]) -> list[str]:
    cells = {(hit, warned): 0 for hit in (True, False) for warned in (True, False)}
    for row in chosen:
        cells[covered(row), bool(row.results["warnings"])] += 1
    table = [
        ["covered", cells[True, False], cells[True, True]],
        ["not covered", cells[False, False], cells[False, True]],
    ]
    unwarned = cells[True, False] + cells[False, False]
    widths = [half_width(row) / max(0.1, 0.1 * row.results["truth"]) for row in chosen]
    narrow = [row for row in chosen if (bound := _floor(row)) is not None and half_width(row) < bound]
    return [
        "## Intervals and warnings",
        page.table(table, ["", "not warned", "warned"]),
        f"{len(chosen)} runs. Among the unwarned {cells[True, False] / max(unwarned, 1):.0%} are covered; "
        f"{unwarned / max(len(chosen), 1):.0%} are unwarned. Median half-width {np.median(widths or [math.nan]):.2f} of "
        f"max(0.1, 10 %). Narrower than ±1.96 sqrt(d rho² / N) on the Gaussian ones: {len(narrow)}. "
        f"Goal met: {sum(map(good, chosen))}. Longest: {max((row.seconds['total'] for row in chosen), default=0):.1f} s.",
    ]


def _floor(row: Row) -> float | None:
    floor = CASES[row.config["case"]].floor
    return None if floor is None else 1.96 * floor / math.sqrt(NUM_ROWS)


def _options_table(chosen: Sequence[Row]) -> Iterator[str]:
    """Other options against the defaults, on the cases that both were run on."""
    default = {(row.config["case"], row.config["seed"]): row for row in chosen if not row.config["options"]}
    groups: dict[str, list[Row]] = {}
    for row in chosen:
        if row.config["options"] and (row.config["case"], row.config["seed"]) in default:
            name = ", ".join(f"{key} = {value}" for key, value in sorted(row.config["options"].items()))
            groups.setdefault(name, []).append(row)
    if not groups:
        return
    yield "## Other options, beside the defaults on the same rows"
    cases = list(dict.fromkeys(row.config["case"] for group in groups.values() for row in group))
    table = [["defaults", *_errors(cases, list(default.values()))]]
    table += [[name, *_errors(cases, group)] for name, group in sorted(groups.items())]
    yield "Estimate less truth; seconds in brackets."
    yield page.table(table, ["", *cases])


def _errors(cases: Sequence[str], chosen: Sequence[Row]) -> list[str]:
    by_case = {row.config["case"]: row for row in chosen}
    return [
        f"{by_case[case].results['mi'] - by_case[case].results['truth']:+.3f} ({by_case[case].seconds['total']:.0f})"
        if case in by_case
        else ""
        for case in cases
    ]


def _large_table(chosen: Sequence[Row]) -> Iterator[str]:
    if not chosen:
        return
    yield "## Many rows"
    yield (
        f"`python -m benchmarks.estimates --large --out DIR`: {LARGE.num_rows:,} rows of 20 + 20 columns, true MI 2. "
        "Memory: the peak of the process, over what it had with the data drawn and JAX running."
    )
    table = []
    for row in sorted(chosen, key=lambda row: row.seconds["total"]):
        spent, memory = [row.seconds[name] for name in ("compile", "train", "read_out")], row.results["memory_mib"]
        table.append(
            {
                "critic": row.config["options"]["critic"],
                "estimate": f"{row.results['mi']:.3f}",
                "interval": f"{row.results['interval'][0]:.3f} to {row.results['interval'][1]:.3f}",
                "warnings": ", ".join(row.results["warnings"]) or "-",
                "seconds": f"{row.seconds['total']:.0f}",
                "compile, train, read-out": ", ".join(f"{seconds:.0f}" for seconds in spent),
                "memory, MiB": f"{memory['peak'] - memory['before']:,.0f}",
            }
        )
    yield page.table(table)


def _independence(found: Sequence[Row]) -> Iterator[str]:
    if not found:
        return
    yield "## The permutation test"
    kinds = "".join(f"\n- {name}: {about}." for name, about in ABOUT.items())
    yield (
        "`python -m benchmarks.estimates --independence --out DIR`: many small data sets, rejected where p ≤ 0.1. The last "
        "column counts the sets on which `estimate` without `groups` and `blocks` warns of dependent rows; for subjects and "
        f"series it should.\n{kinds}"
    )
    by_cell: dict[Any, list[Any]] = {}
    for row in found:
        by_cell.setdefault(covers(row.config)[0], []).extend(row.results["sets"])
    table = []
    for cell in sorted(by_cell, key=lambda cell: (list(ABOUT).index(cell.data), str(cell.options), cell.mi)):
        sets = by_cell[cell]
        rejected = np.array([one["p_value"] for one in sets]) <= 0.1 + 1e-9
        low, high = stats.binom.interval(0.99, len(sets), 0.1)
        within = [one["interval"][0] <= cell.mi <= one["interval"][1] for one in sets if "interval" in one]
        warned = [one["dependent_rows"] for one in sets if "dependent_rows" in one]
        table.append(
            {
                "data": cell.data,
                "options": ", ".join(f"{name} = {value}" for name, value in cell.options),
                "true MI": f"{cell.mi:g}",
                "data sets": len(sets),
                "rejected": int(rejected.sum()),
                "99 % band of a test at 0.1": f"{low:.0f} to {high:.0f}" if not cell.mi else "",
                "truth in the interval": int(sum(within)) if within else "",
                "`dependent_rows`": int(sum(warned)) if warned else "",
            }
        )
    yield page.table(table)
