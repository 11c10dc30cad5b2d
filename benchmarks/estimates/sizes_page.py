"""What the page says of the study of sizes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.estimates.sizes import FAMILIES, THIS
from benchmarks.lib import page
from benchmarks.lib.rows import Row

Sets = dict[tuple[str, int], list[dict[str, Any]]]  # (library, rows) -> data sets, each with its family and its place


def parts(found: Sequence[Row]) -> Iterator[str]:
    """The tables: sizes, families, and what a change of the library did to the same data."""
    if not found:
        return
    sets = _sets(found)
    yield "## Few rows and many"
    yield (
        "`python -m benchmarks.estimates --sizes --beside CHECKOUT --seeds 2 --out DIR`: the defaults of this mi_jax "
        f"(`{THIS}`) and of another commit, on the same data, which no default was tuned on. An error is large beyond 0.1 "
        "nats or 10 %, whichever is more, and small below 0.05. The first estimate of a process compiles, the others have "
        "its programs."
    )
    yield page.table([_summary(*key, sets) for key in sorted(sets, key=lambda key: (key[1], key[0] != THIS))])
    yield "Mean absolute error, in nats; how many intervals hold the truth, of all; and how many runs have no warning:"
    yield page.table(list(_families(sets)))


def _sets(found: Sequence[Row]) -> Sets:
    sets: Sets = {}
    for row in found:
        for number, one in enumerate(row.results["sets"]):
            place = row.config["family"], row.config["group"], number
            truth = row.results["truth"]
            about = {"family": row.config["family"], "place": place, "error": one["mi"] - truth, "first": number == 0}
            about["covered"] = one["interval"][0] <= truth <= one["interval"][1]
            about["large"] = abs(about["error"]) > max(0.1, 0.1 * truth)
            sets.setdefault((row.config["library"], row.config["rows"]), []).append(one | about)
    return sets


def _summary(library: str, num_rows: int, sets: Sets) -> dict[str, Any]:
    chosen = sets[library, num_rows]
    unwarned = [one for one in chosen if not one["warnings"]]
    large, small = (
        [one for one in chosen if one["large"]],
        [one for one in chosen if abs(one["error"]) < 0.05],
    )
    seconds = [[one["seconds"] for one in chosen if one["first"] is first] for first in (True, False)]
    others = {one["place"]: one for key, group in sets.items() if key[1] == num_rows and key[0] != library for one in group}
    width = lambda one: one["interval"][1] - one["interval"][0]  # noqa: E731
    ratios = [
        width(one) / width(others[one["place"]])
        for one in chosen
        if one["place"] in others and others[one["place"]]["covered"] and width(others[one["place"]]) > 0
    ]
    share = lambda part, of: f"{len(part)} of {len(of)}"  # noqa: E731
    return {
        "": f"{library}, {num_rows:,} rows",
        "mean error": f"{np.mean([abs(one['error']) for one in chosen]):.3f}",
        "unwarned": share(unwarned, chosen),
        "of these covered": share([one for one in unwarned if one["covered"]], unwarned),
        "large errors warned of": share([one for one in large if one["warnings"]], large),
        "small errors warned of": share([one for one in small if one["warnings"]], small),
        "width over the other's, where that covers": f"{np.median(ratios):.2f}" if ratios else "",
        "no width": sum(width(one) == 0 for one in chosen),
        "seconds, first and next": ", ".join(f"{np.median(each):.1f}" for each in seconds if each),
    }


def _families(sets: Sets) -> Iterator[dict[str, Any]]:
    for family in FAMILIES:
        line: dict[str, Any] = {"family": family}
        for library, num_rows in sorted(sets, key=lambda key: (key[1], key[0] != THIS)):
            chosen = [one for one in sets[library, num_rows] if one["family"] == family]
            if chosen:
                covered, unwarned = sum(one["covered"] for one in chosen), sum(not one["warnings"] for one in chosen)
                error = np.mean([abs(one["error"]) for one in chosen])
                line[f"{library}, {num_rows:,}"] = f"{error:.3f}; {covered}, {unwarned} of {len(chosen)}"
        if len(line) > 1:
            yield line
