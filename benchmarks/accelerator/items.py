"""What is run on the accelerator, in the order of its worth, each item with its share of the time."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.accelerator import checks, page, torch_loop
from benchmarks.campaign.parts import Part, images_part, on
from benchmarks.estimates import experiment as estimates
from benchmarks.estimates import page as estimates_page
from benchmarks.estimates.cases import LARGE, LARGE_CRITICS
from benchmarks.gaussian import experiment as gaussian
from benchmarks.gaussian import page as gaussian_page
from benchmarks.gaussian import precision
from benchmarks.images.cells import Cell as ImageCell
from benchmarks.images.presets import grid
from benchmarks.lib import runner
from benchmarks.throughput import experiment as throughput
from benchmarks.throughput import page as throughput_page
from benchmarks.variance import experiment as variance
from benchmarks.variance import page as variance_page

Run = estimates.Run


class Item(NamedTuple):
    """A part of what is run.

    Attributes:
      part: what is run, and where its rows go.
      share: its share of the time, beside those of the other items; what it leaves goes to those after it.
      precision: of matrix products; "highest" keeps float32. Rows record it.
    """

    part: Part
    share: float
    precision: str = "highest"

    def experiment(self, repeats: int) -> runner.Experiment:
        """The part's experiment, whose programs are compiled with this precision in whatever thread."""
        experiment = self.part.experiment(repeats)
        if experiment.compile is runner.compile_nothing:
            return experiment

        def compile_with_precision(cell: Any, number: int) -> Any:
            with jax.default_matmul_precision(self.precision):
                return experiment.compile(cell, number)

        return experiment._replace(compile=compile_with_precision)


def full(data: Path | None, device: str) -> list[Item]:
    """Everything that is worth an accelerator's time.

    Args:
      data: a folder with MNIST; without it there are no images.
      device: the accelerator, as `machine.accelerator` names it.
    """
    joint = [cell for cell in gaussian.PAPER if len(cell.hidden) == 3 and cell.critic == "joint"]
    table_2 = [*joint, *(cell for cell in gaussian.PAPER if cell not in joint)]
    compared = [cell for cell in joint if cell.task == "gaussian" and cell.objective == "logistic"]
    speed = throughput.grid(ns=(64, 256), seeds=(1, 16, 64))
    tables = [Run("large", LARGE.name, (("critic", critic),)) for critic in LARGE_CRITICS]
    replicates = {variance.Cell("off_diagonal", 16_384): 400}
    images = _by_worth(ImageCell(critic="joint"), (14, 28, 7, 0))
    return [
        Item(_checks(checks.cells(), device), 0.2),
        *_gaussian(compared, 10, 0.06, device),
        *_speed(speed, torch_loop.cells(), 5, 0.16, device),
        *([Item(_images(data, images, 5, on("images/mnist-paper", device)), 0.36, "default")] if data is not None else []),
        Item(_variance(replicates, device), 0.04),
        Item(_estimates(tables, device), 0.12),
        Item(_gaussian_part("gaussian", table_2, 10, device), 0.18),
    ]


def tiny(data: Path | None, device: str) -> list[Item]:
    """The same on the smallest scale, to try it on a CPU."""
    cells = [gaussian.Cell(critic="separable", hidden=(8, 8), batch=16, every=80, objective="logistic")]
    small = ImageCell(channels=(2, 2), hidden=(8,), images=128, tests=128, epochs=1, epochs_gm=1)
    options = (("critic", "gaussian"), ("folds", 2), ("steps", 100))
    images = _by_worth(small, (28,), ["infonce", "gm"])
    return [
        Item(_checks(checks.cells(["smile"]), device), 0.2),
        *_gaussian(cells, 2, 0.1, device),
        *_speed(throughput.grid(["separable 2x256"], (16,), (1,)), torch_loop.cells()[:1], 2, 0.2, device),
        *([Item(_images(data, images, 2, on("images/mnist-tiny", device)), 0.3, "default")] if data is not None else []),
        Item(_variance({variance.Cell("off_diagonal", 64): 10}, device), 0.1),
        Item(_estimates([Run("estimate", "gaussian, d = 1, MI 0.5", options)], device), 0.1),
    ]


def _by_worth(
    cell: ImageCell, ts: Sequence[int], objectives: Sequence[str] = ("logistic", "gm", "infonce", "mine", "labels")
) -> list[ImageCell]:
    """One t with all its settings and objectives after the other, so that the first ones already have their ratios."""
    return [each for t in ts for each in grid(cell, (t,), objectives)]


def _checks(cells: Sequence[checks.Check], device: str) -> Part:
    folder = on("accelerator", device)
    return Part("checks", folder, 1, lambda _: checks.experiment(cells), lambda out: [*checks.draw(out), *page.draw(out)])


def _gaussian(cells: Sequence[gaussian.Cell], seeds: int, share: float, device: str) -> list[Item]:
    """The same cells with float32 products and with the default's, in the folders that `gaussian.precision` compares."""
    return [
        Item(_gaussian_part("gaussian", cells, seeds, device), share),
        Item(_gaussian_part(precision.FOLDER, cells, seeds, device), share / 2, "default"),
    ]


def _gaussian_part(name: str, cells: Sequence[gaussian.Cell], seeds: int, device: str) -> Part:
    folder = on("gaussian", device)
    if name == precision.FOLDER:
        draw: Callable[[Path], list[Path]] = lambda out: precision.draw(out.parent)  # noqa: E731
        folder = f"{folder}/{precision.FOLDER}"
    else:
        draw = gaussian_page.draw
    return Part(name, folder, seeds, lambda number: gaussian.experiment(cells, number), draw)


def _speed(
    cells: Sequence[throughput.Cell], loops: Sequence[torch_loop.Loop], rounds: int, share: float, device: str
) -> list[Item]:
    """Our training and, where PyTorch is installed, its plain loop."""
    ours = lambda _: throughput.experiment(cells, rounds)  # noqa: E731
    items = [Item(Part("throughput", on("throughput", device), 1, ours, throughput_page.draw), share)]
    if loops:
        theirs = Part("torch", on("accelerator", device) + "/torch", 1, lambda _: torch_loop.experiment(loops), lambda _: [])
        items.append(Item(theirs, share / 2))
    return items


def _images(data: Path, cells: Sequence[ImageCell], seeds: int, folder: str) -> Part:
    return images_part(data, "mnist", cells, seeds, folder, "python -m benchmarks.accelerator --data DIR")


def _variance(replicates: dict[variance.Cell, int], device: str) -> Part:
    return Part("variance", on("variance", device), 1, lambda _: variance.experiment(replicates), variance_page.draw)


def _estimates(cells: Sequence[Run], device: str) -> Part:
    experiment = functools.partial(estimates.experiment, dict.fromkeys(cells, 1))
    return Part("estimates", on("estimates", device), 1, lambda _: experiment(), estimates_page.draw)
