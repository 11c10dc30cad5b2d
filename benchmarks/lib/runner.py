"""The runner: which rows of a benchmark are missing, what they will cost, and how they are made.

A benchmark describes what it runs as an `Experiment`. The runner reads the rows on disk, predicts what the missing ones
cost, lists the cells over a limit instead of running them, compiles programs in threads ahead of their turn, and writes each
row as soon as it is there. So a run that was killed goes on where it stopped, and a row on disk is never made again.

A cell is a frozen dataclass with a `label`. It is repeated: with other seeds, say. `benchmarks.campaign` asks experiments
for one repeat of everything, then for two, then for four, within a budget.
"""

import concurrent.futures
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.lib import machine, rows
from benchmarks.lib.rows import Row

Progress = Callable[[int, int], None]  # called with the steps done and the steps of the whole group


def no_progress(done: int, total: int) -> None:
    """A `Progress` that shows nothing."""
    del done, total


class Group(NamedTuple):
    """Repeats of one cell that are run together.

    Attributes:
      cell: the cell.
      repeats: the numbers of the repeats: seeds, or chunks of replicates.
    """

    cell: Any
    repeats: Sequence[int]


class Planned(NamedTuple):
    """A group that is missing, and what it is predicted to take, in seconds.

    Attributes:
      group: the group.
      run: the time to run it; NaN if nothing like it was run yet.
      program: its program, as `Experiment.program` names it.
      compile: the time that its program takes to compile, on one core; 0 if it is compiled already.
    """

    group: Group
    run: float
    program: Any
    compile: float


class Job(NamedTuple):
    """The missing repeats of a cell, and the seconds that they are predicted to take; NaN if nothing like it was run yet."""

    cell: Any
    repeats: Sequence[int]
    seconds: float


def compile_nothing(cell: Any, number: int) -> None:
    """The `compile` of an experiment whose cells compile for themselves."""
    del cell, number


def _describe(made: Sequence[Row]) -> str:
    compiled, ran = (sum(row.seconds.get(name, 0.0) for row in made) for name in ("compile", "run"))
    return f"compiled in {machine.duration(compiled / len(made))}, ran in {machine.duration(ran)}"


def measuring(measure: Callable[[Any], Row]) -> Callable[[Group, Any, Progress], Iterable[Row]]:
    """The `run` of an experiment whose cells are measured one by one, each for a row; nothing may run beside them."""

    def run(group: Group, program: Any, progress: Progress) -> Iterator[Row]:
        del program, progress
        yield measure(group.cell)

    return run


class Experiment(NamedTuple):
    """What the runner has to know of a benchmark.

    Attributes:
      name: the benchmark's name, which its rows carry.
      wanted: cell -> how many repeats of it there should be, in the order in which they are run.
      covers: the configuration of a row on disk -> the cell and the repeats whose numbers the row holds.
      predict: rows on disk -> (cell -> seconds a repeat, NaN if unknown).
      run: group, its program and a `Progress` -> the group's rows.
      compile: cell, number of repeats -> the program that runs them. Threads call it ahead of time, so it must measure
        nothing but its own seconds.
      compile_guess: about how many seconds a program takes to compile, where no row tells.
      program: cell, number of repeats -> what stands for their program; cells for which it is the same share one.
      together: how many repeats are run together.
      unit: what a repeat is called; "" where a cell is run once.
      check: raises a ValueError, before anything is run, if the rows on disk do not go with the experiment.
      describe: the rows of a group -> what is printed of them.
    """

    name: str
    wanted: Mapping[Any, int]
    covers: Callable[[Mapping[str, Any]], tuple[Any, Sequence[int]]]
    predict: Callable[[Sequence[Row]], Callable[[Any], float]]
    run: Callable[[Group, Any, Progress], Iterable[Row]]
    compile: Callable[[Any, int], Any] = compile_nothing
    program: Callable[[Any, int], Any] = lambda cell, number: (cell, number)
    compile_guess: float = 5.0
    together: int = 1
    unit: str = "seed"
    check: Callable[[Sequence[Row]], None] | None = None
    describe: Callable[[Sequence[Row]], str] = _describe

    def amount(self, number: int) -> str:
        """So many repeats of a cell, in words."""
        return f"{number} {self.unit}{'s' * (number > 1)} a cell" if self.unit else "each cell once"

    def title(self, cell: Any, repeats: Sequence[int]) -> str:
        """The name of some repeats of a cell, for people and for files."""
        if not self.unit:
            return str(cell.label)
        if len(repeats) == 1:
            return f"{cell.label}, {self.unit} {repeats[0]}"
        return f"{cell.label}, {self.unit}s {repeats[0]}-{repeats[-1]}"


def predict_by_kind(
    covers: Callable[[Mapping[str, Any]], tuple[Any, Sequence[int]]],
    kind: Callable[[Any], Any],
    steps: Callable[[Any], float],
    otherwise: Callable[[Any], float],
) -> Callable[[Sequence[Row]], Callable[[Any], float]]:
    """A `predict`: the seconds a step of rows on disk of the same kind, or else of a guess, times a cell's steps.

    Args:
      covers: as in an `Experiment`.
      kind: cell -> what the cost of its steps depends on.
      steps: cell -> how many steps a repeat has.
      otherwise: cell -> the seconds a step where there is no such row; NaN if there is no guess.
    """

    def predict(on_disk: Sequence[Row]) -> Callable[[Any], float]:
        measured = {}
        for row in on_disk:
            cell, repeats = covers(row.config)
            if repeats:
                measured[kind(cell)] = row.seconds["run"] / (len(repeats) * steps(cell))
        return lambda cell: (measured.get(kind(cell)) or otherwise(cell)) * steps(cell)

    return predict


def missing(experiment: Experiment, on_disk: Sequence[Row]) -> list[Job]:
    """The cells that lack repeats, each with what these are predicted to take."""
    done: dict[Any, set[int]] = {}
    for row in on_disk:
        cell, repeats = experiment.covers(row.config)
        done.setdefault(cell, set()).update(repeats)
    lacking = {
        cell: [repeat for repeat in range(number) if repeat not in done.get(cell, ())]
        for cell, number in experiment.wanted.items()
    }
    predict = experiment.predict(on_disk)
    return [Job(cell, repeats, predict(cell) * len(repeats)) for cell, repeats in lacking.items() if repeats]


def plan(
    experiment: Experiment, on_disk: Sequence[Row], jobs: Sequence[Job], compiled: Collection[Any] = ()
) -> list[Planned]:
    """The groups of jobs, in their order, each with what it is predicted to take.

    Args:
      experiment: what they are of.
      on_disk: its rows.
      jobs: what is missing.
      compiled: the programs that are there already, as `Experiment.program` names them.
    """
    compiling, size = _predict_compiling(experiment, on_disk), experiment.together
    planned = []
    for job in jobs:
        each = job.seconds / len(job.repeats)
        for first in range(0, len(job.repeats), size):
            group = Group(job.cell, job.repeats[first : first + size])
            program = _program(experiment, group)
            seconds = 0.0 if program in compiled else compiling(job.cell)
            planned.append(Planned(group, each * len(group.repeats), program, seconds))
    return planned


def predicted(planned: Sequence[Planned]) -> float:
    """Seconds that groups are predicted to take: programs compile on all cores side by side. Unknown times count as 0."""
    programs = {each.program: each.compile for each in planned}
    return sum(each.run for each in planned if not math.isnan(each.run)) + sum(programs.values()) / (os.cpu_count() or 1)


def _program(experiment: Experiment, group: Group) -> Any:
    return experiment.program(group.cell, len(group.repeats))


def _predict_compiling(experiment: Experiment, on_disk: Sequence[Row]) -> Callable[[Any], float]:
    """Seconds to compile a cell's program: of the last row with the same program, else of the median row, else a guess."""
    if experiment.compile is compile_nothing:
        return lambda _: 0.0
    known = {}
    for row in on_disk:
        cell, repeats = experiment.covers(row.config)
        if repeats and row.seconds.get("compile"):
            known[experiment.program(cell, 1)] = row.seconds["compile"]
    usual = statistics.median(known.values()) if known else experiment.compile_guess
    return lambda cell: known.get(experiment.program(cell, 1), usual)


def choose(planned: Iterable[Planned], seconds: float) -> list[Planned]:
    """The groups that fit into so many seconds, in their order.

    A group that does not fit leaves its time to later cells; its own cell stops there, so that no repeat is left out between
    others. One group of unknown time is taken at most: its row tells what the others will take.
    """
    chosen: list[Planned] = []
    stopped, programs, unknown = set(), set(), False
    for each in planned:
        if each.group.cell in stopped:
            continue
        compiling = 0.0 if each.program in programs else each.compile / ((os.cpu_count() or 1) if chosen else 1)
        needed = compiling + (0.0 if math.isnan(each.run) else each.run)
        if needed > seconds or (math.isnan(each.run) and unknown and math.isfinite(seconds)):
            stopped.add(each.group.cell)
            continue
        chosen.append(each)
        programs.add(each.program)
        unknown |= math.isnan(each.run)
        seconds -= needed
    return chosen


def run_missing(experiment: Experiment, folder: Path, limit: float = math.inf) -> list[Job]:
    """Run what is missing in a folder of rows, and write each row as it comes.

    Args:
      experiment: what to run.
      folder: the folder of rows.
      limit: seconds; cells that are predicted to take longer are listed, not run.

    Returns:
      The jobs over the limit.
    """
    on_disk = read_checked(experiment, folder)
    jobs = missing(experiment, on_disk)
    skipped = [job for job in jobs if job.seconds > limit]
    todo = [job for job in jobs if job not in skipped]
    print(f"{sum(len(job.repeats) for job in todo)} runs to do, {len(on_disk)} rows on disk; {_predicted(todo)}", flush=True)
    for job in skipped:
        print(f"skipped, over the limit: {job.cell.label}, predicted {machine.duration(job.seconds)}")
    run_groups(experiment, plan(experiment, on_disk, todo), folder)
    return skipped


def read_checked(experiment: Experiment, folder: Path, warn: bool = True) -> list[Row]:
    """The rows on disk, checked to go with the experiment; warns of those from another machine, unless told not to."""
    on_disk = rows.read_all(folder, experiment.name)
    if experiment.check is not None:
        experiment.check(on_disk)
    here = machine.environment()
    local = [machine.same_bits(row.environment, here) for row in on_disk]
    if warn and not all(local):
        number = len(local) - sum(local)
        print(f"warning: {number} of {len(on_disk)} rows on disk come from another machine or version", file=sys.stderr)
    # Those of this machine come last, because predictions rest on the last row of a kind.
    return [row for _, row in sorted(zip(local, on_disk, strict=True), key=lambda pair: pair[0])]


def _predicted(jobs: Sequence[Job]) -> str:
    """The sum of the predictions, and how many cells have none."""
    known = [job.seconds for job in jobs if not math.isnan(job.seconds)]
    unknown = len(jobs) - len(known)
    text = f"predicted {machine.duration(sum(known))} on {machine.devices()}, compiling apart"
    return text + (f", without {unknown} cells, as nothing like them was run yet" if unknown else "")


Programs = dict[Any, concurrent.futures.Future[Any]]  # as `Experiment.program` names a program -> the program


def run_groups(
    experiment: Experiment,
    planned: Sequence[Planned],
    folder: Path,
    deadline: float = math.inf,
    programs: Programs | None = None,
    on_row: Callable[[Path], object] | None = None,
) -> list[Planned]:
    """Run groups in their order, and write each row as it comes.

    Args:
      experiment: what they are of.
      planned: the groups.
      folder: the folder of rows.
      deadline: of `time.monotonic`; no group is begun that is predicted to end after it, nor any later one of its cell.
      programs: those of earlier calls; the new ones are added.
      on_row: is called with the path of each row that was written.

    Returns:
      The groups that were run.
    """
    done: list[Planned] = []
    stopped = set()
    with _compiling_ahead(experiment, [each.group for each in planned], {} if programs is None else programs) as program_of:
        for each in planned:
            group, title = each.group, experiment.title(*each.group)
            if group.cell in stopped or not _fits(each, deadline):
                stopped.add(group.cell)
                continue
            program = program_of(group)
            if not _fits(each, deadline):  # it may have been long in compiling
                stopped.add(group.cell)
                continue
            with tqdm(desc=title, leave=False, disable=None) as bar:
                made = list(experiment.run(group, program, _advance(bar)))
            for row in made:
                path = rows.write(folder, row, experiment.title(*experiment.covers(row.config)))
                if on_row is not None:
                    on_row(path)
            done.append(each)
            print(f"{title}: {experiment.describe(made)}", flush=True)
    return done


def _fits(each: Planned, deadline: float) -> bool:
    now = time.monotonic()
    return now < deadline and not now + each.run > deadline


@contextlib.contextmanager
def _compiling_ahead(
    experiment: Experiment, groups: Sequence[Group], programs: Programs
) -> Iterator[Callable[[Group], Any]]:
    """Compile the groups' programs in threads, in the order of the groups; yields what waits for a group's program.

    XLA compiles on one core and lets go of Python meanwhile, so that programs compile side by side, and while others run.
    """
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        for group in groups:
            if _program(experiment, group) not in programs:
                programs[_program(experiment, group)] = pool.submit(experiment.compile, group.cell, len(group.repeats))
        yield lambda group: programs[_program(experiment, group)].result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name in [name for name, future in programs.items() if future.cancelled()]:
            del programs[name]


def _advance(bar: tqdm) -> Progress:
    """Moves a progress bar."""

    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance
