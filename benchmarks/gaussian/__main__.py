"""The benchmark of Section 6.1: estimates on the Gaussian and Cubic tasks while the true MI climbs a staircase.

    python -m benchmarks.gaussian --preset quick --out DIR

trains a critic for every discriminative objective, critic, depth and task of the preset, and flows for the generative
objectives, with many seeds. It writes one row a run, and draws Figures 1, 2 and 7 and Table 2 of Song & Ermon (2020) from
the rows. Runs whose row is on disk are not run again; with --page-only nothing is run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.gaussian import page
from benchmarks.gaussian.experiment import BLOCKS, CRITICS, NETWORKS, OBJECTIVES, PRESETS, TASKS, Cell, experiment
from benchmarks.gaussian.statistics import FLOW
from benchmarks.lib import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    cells, num_seeds = PRESETS[options.preset]
    cells = [replace(cell, every=options.every or cell.every) for cell in cells]
    kept = [cell for cell in cells if _is_selected(cell, options)]
    if not kept:
        labels = "; ".join(dict.fromkeys(cell.label for cell in cells))
        parser.error(f"no cell of preset {options.preset} is selected; it has {labels}")
    cli.run(parser, options, lambda: experiment(kept, options.seeds or num_seeds), page.draw)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("gaussian", __doc__)
    cli.add_preset(parser, PRESETS, "quick: minutes on 2 cores; paper: the full protocol")
    cli.add_run_options(parser, "rows, figures and the table")
    cli.add_seeds(parser, "training runs a cell; quick 2, paper 10")
    every_help = f"iterations a level lasts, a multiple of {BLOCKS}; quick 800, paper 4000"
    parser.add_argument("--every", type=_multiple_of_blocks, help=every_help)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    critics_help = f"{', '.join(CRITICS)}; and {FLOW}, the flows of the generative objectives"
    parser.add_argument("--critics", nargs="+", choices=NETWORKS, default=list(NETWORKS), help=critics_help)
    objectives_help = "what is trained; JS and SMILE are read from logistic"
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help=objectives_help)
    depths = sorted({len(cell.hidden) for cells, _ in PRESETS.values() for cell in cells if cell.critic != FLOW})
    hidden_help = "hidden layers of 256 of a critic"
    parser.add_argument("--hidden", nargs="+", type=int, choices=depths, default=depths, help=hidden_help)
    return parser


def _multiple_of_blocks(text: str) -> int:
    number = cli.positive_int(text)
    if number % BLOCKS:
        raise argparse.ArgumentTypeError(f"expected a multiple of {BLOCKS}, got {text}")
    return number


def _is_selected(cell: Cell, options: argparse.Namespace) -> bool:
    return (
        cell.task in options.tasks
        and cell.critic in options.critics
        and cell.objective in options.objectives
        and (cell.critic == FLOW or len(cell.hidden) in options.hidden)
    )


if __name__ == "__main__":
    main()
