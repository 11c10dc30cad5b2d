"""How fast seeds train: the share of the machine's own matrix products, seeds and devices, compile time and memory.

    python -m benchmarks.throughput --out DIR

times training steps (sampling, optimiser and read-outs included) for critics, batch sizes, numbers of seeds and devices. It
writes a row for each cell, and draws a page and a figure from the rows. The memory of large batches, a start and the
compilation cache are measured in processes of their own. Cells predicted to take too long are listed, not run; cells whose
row is on disk are not run again.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lib import cli, runner
from benchmarks.throughput import experiment, page, processes
from benchmarks.throughput.experiment import DEVICES, NS, OURS, SEEDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then write the page and the figure."""
    parser = _parser()
    options = parser.parse_args(arguments)

    def make_experiment() -> runner.Experiment:
        parts = processes.parts(options.rounds, memory=not options.no_memory)
        cells = experiment.grid(options.critics, options.n, options.seeds, options.devices)
        return experiment.experiment([*cells, *parts], options.rounds, options.steps)

    cli.run(parser, options, make_experiment, page.draw, functools.partial(page.list_skipped, options.out))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("throughput", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, the page and the figure")
    cli.add_page_only(parser)
    parser.add_argument("--rounds", type=cli.positive_int, default=5, help="chunks timed in each cell")
    parser.add_argument("--steps", type=cli.positive_int, help="steps of a chunk; by default as many as take half a second")
    limit_help = "skip, and list, cells predicted to take more than this many seconds"
    parser.add_argument("--limit", type=cli.positive_float, default=60.0, help=limit_help)
    parser.add_argument("--critics", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--n", nargs="+", type=cli.positive_int, default=list(NS), help="batch sizes")
    parser.add_argument("--seeds", nargs="+", type=cli.positive_int, default=list(SEEDS), help="seeds at once")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    memory_help = "leave out memory and compilation cache, minutes on 2 cores"
    parser.add_argument("--no-memory", action="store_true", help=memory_help)
    return parser


if __name__ == "__main__":
    main()
