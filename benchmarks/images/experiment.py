"""How the cells of the image experiment are compiled, run and predicted, and the row that a seed leaves."""

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.images import datasets
from benchmarks.images.cells import Cell
from benchmarks.images.results import LESS
from benchmarks.lib import machine, rows, runner
from benchmarks.lib import training as lib_training
from benchmarks.lib.rows import Row
from mi_jax.training import runs


class Programs(NamedTuple):
    """The compiled training and held-out read-outs of a number of seeds, and what compiling took."""

    train: runs.Program
    held_out: Any
    compile_seconds: float


def settings_of(cell: Cell, part: datasets.Images, number: int) -> dict[str, Any]:
    """The traced settings of a run: so many images of a part of the data, and the rows that Y has."""
    if len(part.images) < number:
        raise ValueError(f"{cell.label} asks for {number:,} images, but the data have {len(part.images):,}")
    second = cell.t - LESS if cell.setting == "processing" else cell.t
    return {
        "images": part.images[:number],
        "labels": part.labels[:number].astype(np.int32),
        "t": np.int32(cell.t),
        "t_second": np.int32(second),
        "same": np.bool_(cell.setting == "processing"),
    }


def compile_cell(data: datasets.Dataset, cell: Cell, number: int) -> Programs:
    """Compile the training and the read-outs of so many seeds of a cell."""
    start = time.perf_counter()
    settings = settings_of(cell, data.train, cell.images)
    train = lib_training.compile_seeds(cell.trainer, settings, number, steps=cell.steps, chunk=100)
    tests = lib_training.share(settings_of(cell, data.test, cell.tests))
    variables = jax.eval_shape(train.layout.split, train.states.variables)
    held_out = train.layout.compile(cell.held_out, variables, train.layout.placed_shapes(tests))
    held_out.wait()
    return Programs(train, held_out, time.perf_counter() - start)


def run(data: datasets.Dataset, group: runner.Group, programs: Programs, progress: runner.Progress) -> Iterator[Row]:
    """Train some seeds of a cell and read them out; a row each."""
    cell, numbers = group
    fit = lib_training.train(programs.train, numbers, settings_of(cell, data.train, cell.images), progress)
    start = time.perf_counter()
    layout = programs.train.layout
    tests = layout.place_inputs(lib_training.share(settings_of(cell, data.test, cell.tests)))
    held_out = layout.join(programs.held_out(layout.place(fit.states.variables), tests))
    seconds = fit.run_seconds + time.perf_counter() - start
    for place, seed in enumerate(numbers):
        yield Row(
            benchmark="images",
            config=cell.config(seed),
            environment=machine.environment(),
            diverged=int(fit.diverged[place]),
            seconds={"compile": round(programs.compile_seconds, 3), "run": round(seconds / len(numbers), 3)},
            results=rows.rounded(jax.tree.map(lambda leaf, place=place: leaf[place], held_out)),
        )


def experiment(cells: Sequence[Cell], num_seeds: int, data: datasets.Dataset) -> runner.Experiment:
    """The seeds 0 to num_seeds - 1 of each cell, for the runner."""
    return runner.Experiment(
        name="images",
        wanted=dict.fromkeys(cells, num_seeds),
        covers=_covers,
        predict=runner.predict_by_kind(_covers, _kind, lambda cell: cell.steps, _seconds_a_step),
        run=functools.partial(run, data),
        compile=functools.partial(compile_cell, data),
        compile_guess=15.0,
        program=lambda cell, number: (cell.program(), number),
        together=lib_training.together(num_seeds),
        check=functools.partial(_check_data, cells, data),
        describe=_describe,
    )


def _check_data(cells: Sequence[Cell], data: datasets.Dataset, on_disk: Sequence[Row]) -> None:
    """Refuse, before anything is run, cells that ask for more images than there are."""
    del on_disk
    for cell in cells:
        settings_of(cell, data.train, cell.images)
        settings_of(cell, data.test, cell.tests)


def _describe(made: Sequence[Row]) -> str:
    shown = ", ".join(
        f"{name} {'not finite' if read['value'] is None else format(read['value'], '.2f')}"
        for name, read in made[-1].results.items()
        if "marginal" not in name
    )
    return f"{shown} ({machine.duration(made[-1].seconds['run'])} a seed)"


def _covers(config: Mapping[str, Any]) -> tuple[Cell, Sequence[int]]:
    return Cell.of(config), [config["seed"]]


def _seconds_a_step(cell: Cell) -> float:
    """A guess: convolutions reach about half of the speed of products; accelerators do not count their operations."""
    counted = _operations(_kind(cell))
    return counted / (0.5 * machine.speed()) if counted else math.nan


@functools.cache
def _operations(kind: Cell) -> float | None:
    """The operations of a step of this kind, on blank images; counting them takes seconds."""
    height, channels = (28, 1) if kind.data == "mnist" else (32, 3)
    blank = datasets.Images(np.zeros((2, height, height, channels), np.uint8), np.zeros(2, np.uint8))
    return lib_training.operations(kind.trainer, settings_of(replace(kind, images=2), blank, 2))


def _kind(cell: Cell) -> Cell:
    """The cell that stands for all cells whose steps cost the same."""
    return replace(cell.program(), images=0, tests=0, epochs=0, epochs_gm=0, learning_rate=0.0)
