"""How replicates are drawn in fixed chunks, and the row that some chunks leave: more can be added and change no bit."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.lib import machine, runner
from benchmarks.lib.rows import Row
from benchmarks.lib.training import ROOT_KEY
from benchmarks.variance import moments
from benchmarks.variance.cells import Cell, quantities
from benchmarks.variance.moments import Moments
from mi_jax import theory
from mi_jax.training import Inputs, layout

TOGETHER = 64  # chunks of a row at most: they are held in memory, and a kill loses them
Chunk = Mapping[str, Moments]  # quantity -> its moments over a chunk's replicates, each of shape (mis,)


class Program(NamedTuple):
    """The compiled drawing of a number of chunks at once, and what compiling took."""

    layout: layout.Layout
    draw: Any
    compile_seconds: float


@functools.cache
def compile_cell(cell: Cell, together: int) -> Program:
    """Compile the drawing of so many chunks at once."""
    start = time.perf_counter()
    plan = layout.layout(together, mapped="map")
    shape = jax.eval_shape(lambda: plan.split(jax.random.split(jax.random.key(ROOT_KEY), plan.num_seeds)))
    draw = plan.compile(lambda key, _: cell.draw(key), shape, Inputs())
    draw.wait()
    return Program(plan, draw, time.perf_counter() - start)


def at_once(number: int) -> int:
    """How many of so many chunks are drawn at once: one a device."""
    return min(jax.local_device_count(), number)


def draw_chunks(cell: Cell, start: int, stop: int, progress: runner.Progress = runner.no_progress) -> list[Chunk]:
    """Draw the chunks start <= number < stop, spread over all devices. Chunk k is drawn with fold_in(fold_in(key, n), k)."""
    root = jax.random.fold_in(jax.random.key(ROOT_KEY), cell.n)
    plan, program, _ = compile_cell(cell, at_once(stop - start))
    chunks: list[Chunk] = []
    for first in range(start, stop, plan.num_seeds):
        numbers = [min(number, stop - 1) for number in range(first, first + plan.num_seeds)]
        keys = jnp.stack([jax.random.fold_in(root, number) for number in numbers])
        logs = plan.join(program(plan.split(keys), Inputs()))
        for place in range(min(plan.num_seeds, stop - first)):
            made = quantities(cell, {name: values[place] for name, values in logs.items()})
            chunks.append({name: moments.of(values) for name, values in made.items()})
        progress(len(chunks), stop - start)
    return chunks


def experiment(replicates: Mapping[Cell, int]) -> runner.Experiment:
    """So many replicates of each cell, rounded up to whole chunks, for the runner."""
    return runner.Experiment(
        name="variance",
        wanted={cell: math.ceil(number / cell.chunk) for cell, number in replicates.items()},
        covers=covers,
        predict=lambda on_disk: lambda cell: seconds_a_pair(cell, on_disk) * cell.chunk * cell.pairs_a_replicate,
        run=_run,
        compile=lambda cell, number: compile_cell(cell, at_once(number)),
        compile_guess=20.0,
        program=lambda cell, number: (cell, at_once(number)),
        together=TOGETHER,
        unit="chunk",
        check=check_chunks,
        describe=_describe,
    )


def covers(config: Mapping[str, Any]) -> tuple[Cell, Sequence[int]]:
    """The cell of a row, and the numbers of its chunks."""
    cell = Cell(config["pairs"], config["n"], config["dim"], tuple(config["mis"]), tuple(config["taus"]))
    return cell, range(config["start"], config["stop"])


def check_chunks(on_disk: Sequence[Row]) -> None:
    """Refuse rows of which a chunk is missing, or is there twice."""
    numbers: dict[Cell, list[int]] = {}
    for row in on_disk:
        cell, chunks = covers(row.config)
        numbers.setdefault(cell, []).extend(chunks)
    for cell, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            raise ValueError(f"the folder misses chunks of {cell.label}, or has some twice; move its rows away")


def _run(group: runner.Group, program: Program, progress: runner.Progress) -> Iterator[Row]:
    """Draw some chunks; they leave one row."""
    cell, numbers = group
    start, stop = numbers[0], numbers[-1] + 1
    began = time.perf_counter()
    chunks = draw_chunks(cell, start, stop, progress)
    seconds = {"compile": round(program.compile_seconds, 3), "run": round(time.perf_counter() - began, 3)}
    config = {**cell.config(), "start": start, "stop": stop}
    yield Row("variance", config, machine.environment(), 0, seconds, {"chunks": [_to_json(chunk) for chunk in chunks]})


def _to_json(chunk: Chunk) -> dict[str, Any]:
    return {name: [m.size, *(np.asarray(values).tolist() for values in m[1:])] for name, m in chunk.items()}


def chunks_of(row: Row) -> list[Chunk]:
    """The chunks of a row."""
    return [
        {name: Moments(m[0], *(np.array(values, np.float64) for values in m[1:])) for name, m in chunk.items()}
        for chunk in row.results["chunks"]
    ]


def _describe(made: Sequence[Row]) -> str:
    (row,) = made
    cell, numbers = covers(row.config)
    drawn, seconds = len(numbers) * cell.chunk, row.seconds
    spent = f"compiled in {machine.duration(seconds['compile'])}, ran in {machine.duration(seconds['run'])}"
    return f"{drawn} replicates, {spent}, {drawn / max(seconds['run'], 1e-3):.3g} replicates a second"


@functools.cache
def _draw_small(cell: Cell) -> Row:
    """A row of a chunk a device, drawn once to see how long it takes."""
    number = jax.local_device_count()
    (row,) = _run(runner.Group(cell, range(number)), compile_cell(cell, number), runner.no_progress)
    return row


def seconds_a_pair(cell: Cell, on_disk: Sequence[Row]) -> float:
    """By the rows of the same design whose n is nearest, or else by drawing chunks of the smallest n."""
    like: Callable[[Row], float] = lambda row: abs(math.log(row.config["n"] / cell.n))  # noqa: E731
    rows = [row for row in on_disk if row.config["pairs"] == cell.pairs]
    if not rows:
        rows = [_draw_small(Cell(cell.pairs, 64, cell.dim, cell.mis, cell.taus))]
    nearest = min(rows, key=like)
    of_row, numbers = covers(nearest.config)
    return nearest.seconds["run"] / (len(numbers) * of_row.chunk * of_row.pairs_a_replicate)


def _preset(replicates: int, budget: float, sizes: Mapping[theory.Pairs, Sequence[int]]) -> dict[Cell, int]:
    """So many replicates a cell, or as many as the budget of pairs allows."""
    cells = [Cell(pairs, n) for pairs, ns in sizes.items() for n in ns]
    return {cell: max(2 * cell.chunk, int(min(replicates, budget / cell.pairs_a_replicate))) for cell in cells}


PRESETS = {
    "quick": _preset(10_000, 6e7, {"independent": (64, 1_024, 16_384), "off_diagonal": (64, 256, 1_024)}),
    "paper": _preset(
        10_000, math.inf, {"independent": (64, 256, 1_024, 4_096, 16_384, 65_536), "off_diagonal": (64, 256, 1_024, 4_096)}
    ),
}
