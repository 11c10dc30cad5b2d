"""The law of variance (Theorem 2, Corollary 1; Theorems 3 and 4) measured, at the exact log ratio: nothing is trained.

    python -m benchmarks.variance --preset quick --out DIR

draws many replicates of each estimate on the Gaussian task: with n *independent* pairs from Q, as the theorems have it, and
with the n(n - 1) off-diagonal pairs of one batch, as everyone uses it. It writes the moments of fixed chunks of replicates,
and draws them beside the printed bounds and the exact laws. What is on disk is not drawn again: more replicates are added.
"""

import argparse
from collections.abc import Sequence

from benchmarks.lib import cli, machine
from benchmarks.variance import coverage, page
from benchmarks.variance.experiment import PRESETS, experiment


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what is missing, then the figure and the table."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.coverage is not None:
        machine.use_all_cores()
        with cli.clear_errors(parser):
            print(coverage.write_coverage(options.preset, options.coverage, options.out, options.limit))
        return
    replicates = {cell: options.replicates or number for cell, number in PRESETS[options.preset].items()}
    cli.run(parser, options, lambda: experiment(replicates), page.draw)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("variance", __doc__)
    cli.add_preset(parser, PRESETS, "quick: minutes on 2 cores; paper: every n, 10,000 replicates")
    cli.add_run_options(parser, "rows, figure and table")
    replicates_help = "at most so many a cell; more are added to what is there"
    parser.add_argument("--replicates", type=cli.positive_int, help=replicates_help)
    coverage_help = "instead: of so many repeats, how many 95 %% intervals of the variance hold the exact law"
    parser.add_argument("--coverage", type=cli.positive_int, metavar="REPEATS", help=coverage_help)
    return parser


if __name__ == "__main__":
    main()
