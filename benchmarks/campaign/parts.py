"""The parts of the campaign: which benchmark, with how many repeats of what, in which folder, and how its page is drawn."""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gaussian import experiment as gaussian
from benchmarks.gaussian import page as gaussian_page
from benchmarks.images import datasets
from benchmarks.images import experiment as images
from benchmarks.images import page as images_page
from benchmarks.images import presets as images_presets
from benchmarks.lib import machine, runner
from benchmarks.throughput import experiment as throughput
from benchmarks.throughput import page as throughput_page
from benchmarks.variance import experiment as variance
from benchmarks.variance import page as variance_page

LEVELS = (1, 2, 4, 10)  # repeats of everything, one level after another
CELL_LIMIT = 120.0  # seconds; cells of the throughput benchmark that take longer say little that the others do not


class Part(NamedTuple):
    """One folder of results.

    Attributes:
      name: the benchmark, which `--only` chooses.
      folder: its folder, below that of the campaign.
      most: how many repeats of its cells the pages need.
      experiment: repeats -> the experiment that wants so many.
      draw: folder -> the paths of the pages and figures that it writes there.
      limit: seconds; a cell that takes longer on this machine is left out.
      list_skipped: writes down, in the part's folder, the cells that were left out so, for its page to name.
    """

    name: str
    folder: str
    most: int
    experiment: Callable[[int], runner.Experiment]
    draw: Callable[[Path], Iterable[Path]]
    limit: float = math.inf
    list_skipped: Callable[[Path, Sequence[runner.Job]], None] | None = None


def levels(parts: Sequence[Part], at_once: int) -> list[list[tuple[Part, int]]]:
    """Parts with numbers of repeats, level by level: one seed of everything, then two, four, and ten.

    Args:
      parts: the parts.
      at_once: how many repeats run at once in the time of one; no level has fewer.
    """
    stages: dict[tuple[Part, int], int] = {}
    for number, level in enumerate(LEVELS):
        for part in parts:
            stages.setdefault((part, min(max(level, at_once), part.most)), number)
    return [stage for number in range(len(LEVELS)) if (stage := [each for each in stages if stages[each] == number])]


def paper(names: Sequence[str], data: Path | None) -> list[Part]:
    """The paper's figures and tables, as far as this machine can make them.

    Args:
      names: of the benchmarks that are wanted.
      data: the folder around `mnist` and the files of CIFAR-10; None leaves images out.
    """
    device = machine.accelerator()
    parts = [
        Part("gaussian", on("gaussian", device), 10, lambda k: gaussian.experiment(gaussian.PAPER, k), gaussian_page.draw)
    ]
    if data is not None:
        # On CPUs narrow networks come first, then the paper's with the separable critic; the joint one takes days.
        for preset in ["paper"] if device else ["narrow", "cpu"]:
            for name in filter(functools.partial(_is_there, data), datasets.READERS):
                cells, seeds = images_presets.preset(preset, name)
                command = "python -m benchmarks.campaign --only images --data DIR"
                parts.append(images_part(data, name, cells, seeds, on(f"images/{name}-{preset}", device), command))
    parts += [
        Part(
            "variance",
            on("variance", device),
            10,
            functools.partial(_variance, variance.PRESETS["paper"], 10),
            variance_page.draw,
        ),
        Part(
            "throughput",
            on("throughput", device),
            1,
            lambda _: throughput.experiment(throughput.grid(), 5),
            throughput_page.draw,
            CELL_LIMIT,
            throughput_page.list_skipped,
        ),
    ]
    return [part for part in parts if part.name in names]


def tiny(names: Sequence[str], data: Path | None) -> list[Part]:
    """Everything on the smallest scale, to try the campaign itself."""
    del data
    small = functools.partial(gaussian.Cell, batch=16, every=80)
    cells = [
        *(small(critic="separable", hidden=(8, 8), objective=name) for name in ("infonce", "nwj")),
        small(critic=gaussian.FLOW, hidden=(4,), objective="ba"),
    ]
    replicates = {cell: 2 * cell.chunk for cell in (variance.Cell("independent", 16), variance.Cell("off_diagonal", 16))}
    parts = [
        Part("gaussian", "gaussian", 2, lambda k: gaussian.experiment(cells, k), gaussian_page.draw),
        Part("variance", "variance", 2, functools.partial(_variance, replicates, 2), variance_page.draw),
    ]
    return [part for part in parts if part.name in names]


PRESETS: Mapping[str, Callable[[Sequence[str], Path | None], list[Part]]] = {"tiny": tiny, "paper": paper}
NAMES = ("gaussian", "images", "variance", "throughput")


def on(folder: str, device: str) -> str:
    """The folder's name with that of the accelerator, if it is one: its rows differ from a CPU's in bits and in seconds."""
    return f"{folder}-{device}" if device else folder


def _variance(replicates: Mapping[variance.Cell, int], most: int, repeats: int) -> runner.Experiment:
    """As many tenths of the replicates as there are repeats of other things."""
    return variance.experiment({cell: math.ceil(number * repeats / most) for cell, number in replicates.items()})


@functools.cache
def _read(data: Path, name: str) -> datasets.Dataset:
    return datasets.read(name, data)


def _is_there(data: Path, name: str) -> bool:
    """Whether the files of a dataset are there; says so if they are not, before anything is run."""
    try:
        _read(data, name)
    except FileNotFoundError as error:
        print(f"without {name}: {error}", file=sys.stderr)
        return False
    return True


def images_part(data: Path, name: str, cells: Sequence[images.Cell], most: int, folder: str, command: str) -> Part:
    """A part on images.

    Args:
      data: the folder around `mnist` and the files of CIFAR-10.
      name: "mnist" or "cifar10".
      cells: what is run.
      most: seeds of each cell.
      folder: the part's folder.
      command: what the page names as the command that made it.
    """
    return Part(
        "images",
        folder,
        most,
        lambda number: images.experiment(cells, number, _read(data, name)),
        lambda out: images_page.draw({name: _read(data, name)}, command, out),
    )
