"""The self-consistency experiment of Section 6.2: mutual information between images and their top rows.

    python -m benchmarks.images --data DIR --preset quick --out DIR

trains critics and VAEs on MNIST or CIFAR-10 in three settings. First, X is an image and Y its top t rows. Second, [X, X] and
[Y, h(Y)], where h(Y) has the top t - 3 rows, ought to share as much. Third, two independent images and the top t rows of
both ought to share twice as much. Estimates are read out on test images that training never saw. Each run leaves one row;
Figures 3 to 6 and the verdicts are drawn from the rows. Runs whose row is on disk are not run again.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.images import datasets, page, presets
from benchmarks.images.cells import OBJECTIVES, SETTINGS, Cell
from benchmarks.images.experiment import experiment
from benchmarks.images.presets import PRESETS
from benchmarks.lib import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    cells, num_seeds = presets.preset(options.preset, options.dataset)
    changes = {name: getattr(options, name) for name in ("images", "epochs", "epochs_gm") if getattr(options, name)}
    kept = [replace(cell, **changes) for cell in cells if _is_selected(cell, options)]
    if not kept:
        parser.error(f"no cell of preset {options.preset} is selected; its t are {sorted({cell.t for cell in cells})}")
    with cli.clear_errors(parser):
        data = datasets.read(options.dataset, options.data, download=options.download)
    draw = functools.partial(page.draw, {options.dataset: data}, _command(parser, options))
    cli.run(parser, options, lambda: experiment(kept, options.seeds or num_seeds, data), draw)


def _command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command that runs the same cells, for the page."""
    names = ("seeds", "settings", "objectives", "images", "epochs", "epochs_gm", "t")
    changed = "".join(_as_written(name, getattr(options, name), parser.get_default(name)) for name in names)
    return f"python -m benchmarks.images --preset {options.preset} --dataset {options.dataset}{changed}"


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("images", __doc__)
    preset_help = (
        "on 2 cores quick takes minutes, vaes (GM trained longer) an hour, narrow (narrow networks, all images) some hours, "
        "cpu (the paper's networks) a night; paper is for a GPU"
    )
    cli.add_preset(parser, PRESETS, preset_help)
    parser.add_argument("--dataset", choices=datasets.READERS, default="mnist")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the files, or the folder around it")
    parser.add_argument("--download", action="store_true", help="fetch files that are missing into it")
    cli.add_run_options(parser, "rows, figures and the table")
    cli.add_seeds(parser, "training runs a cell; paper 5, the others 4")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--images", type=cli.positive_int, help="training images, in place of the preset's")
    parser.add_argument("--epochs", type=cli.positive_int, help="of the critics, in place of the preset's")
    parser.add_argument("--epochs-gm", type=cli.positive_int, help="of the VAEs")
    parser.add_argument("--t", nargs="+", type=int, help="rows of Y, among the preset's")
    return parser


def _as_written(name: str, value: Any, default: Any) -> str:
    """An option as it is written on the command line; empty if it is the default."""
    if value == default:
        return ""
    return f" --{name.replace('_', '-')} {' '.join(map(str, value if isinstance(value, list) else [value]))}"


def _is_selected(cell: Cell, options: argparse.Namespace) -> bool:
    return (
        cell.setting in options.settings
        and cell.objective in options.objectives
        and (options.t is None or cell.t in options.t)
    )


if __name__ == "__main__":
    main()
