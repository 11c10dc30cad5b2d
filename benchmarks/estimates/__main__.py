"""`mi_jax.estimate` on cases of known mutual information, beside KSG: error, interval, warnings, seconds from a cold start.

    python -m benchmarks.estimates --out DIR

Each estimate is made in a process of its own, so that its seconds hold the import and the compilation, and is written as a
row when it ends; rows that are there are not made again. `--options critic=joint` adds rows with other options for the
table of defaults, `--ksg` those of KSG (`pip install 'mi-jax[ksg]'`), `--large` those of many rows with their memory,
`--independence` the study of the permutation test, `--sizes` that of 200, 1,000 and 10,000 rows, and `--beside DIR` the
same by the mi_jax of another checkout.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.estimates import experiment, independence, page, sizes
from benchmarks.estimates.cases import CASES, HARD, LARGE, LARGE_CRITICS
from benchmarks.estimates.experiment import Run
from benchmarks.lib import cli, machine


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then write the page."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.one:
        machine.use_all_cores()
        with cli.clear_errors(parser):
            print(json.dumps(experiment.run_here(json.loads(options.one)), allow_nan=False))
        return
    cli.run(parser, options, lambda: experiment.experiment(_wanted(options)), page.draw)


def _wanted(options: argparse.Namespace) -> dict[Any, int]:
    """The cells that the options ask for, with their repeats."""
    names = [name for name in [*CASES, *HARD] if re.search(options.match, name)]
    if not names:
        raise ValueError(f"--match must match a case, such as {next(iter(CASES))!r}, got {options.match!r}")
    extra = tuple(sorted(map(_option, options.options)))
    if options.independence:
        return dict.fromkeys(independence.cells(), independence.SETS // independence.GROUP)
    if options.sizes:
        return dict.fromkeys(sizes.cells(options.beside), options.seeds)
    if options.large:
        cells = [
            Run("large", LARGE.name, tuple(sorted({"critic": critic, **dict(extra)}.items()))) for critic in LARGE_CRITICS
        ]
    else:
        cells = [Run("ksg", name) if options.ksg else Run("estimate", name, extra) for name in names]
    return dict.fromkeys(cells, options.seeds)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("estimates", __doc__)
    cli.add_run_options(parser, "rows and page", default=Path("out/estimates"))
    parser.add_argument("--match", default="", help="only cases whose name holds this regular expression")
    parser.add_argument("--seeds", type=cli.positive_int, default=1, help="data sets of each case")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="options of estimate")
    parser.add_argument("--ksg", action="store_true", help="KSG on the same rows")
    parser.add_argument("--large", action="store_true", help="many rows: seconds and memory")
    parser.add_argument("--independence", action="store_true", help="the study of the permutation test")
    parser.add_argument(
        "--sizes", action="store_true", help=f"the study of sizes; --seeds counts groups of {sizes.GROUP} sets"
    )
    parser.add_argument("--beside", type=Path, help="with --sizes: another checkout, to be measured on the same rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--options must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    main()
