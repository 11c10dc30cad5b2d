"""Stages of the campaign: a part run up to a number of repeats, drawn, and reported with what was predicted."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.campaign.parts import Part
from benchmarks.lib import machine, page, runner
from benchmarks.lib.runner import Planned
from mi_jax.training.hosts import Host


class Stage(NamedTuple):
    """What running a part up to a number of repeats took, in seconds without the planning, and what is left of it."""

    part: Part
    repeats: int
    done: Sequence[Planned]
    seconds: float
    left: Sequence[Planned]


def run_stage(
    part: Part,
    repeats: int,
    out: Path,
    host: Host,
    deadline: float,
    programs: runner.Programs,
    on_row: Callable[[Path], object] | None = None,
) -> Stage:
    """Run what fits before the deadline of a part, up to a number of repeats.

    Args:
      part: the part.
      repeats: how many repeats of each cell there should be.
      out: the folder of the campaign.
      host: this process among those that share the cells.
      deadline: of `time.monotonic`.
      programs: compiled programs, as `runner.run_groups` keeps them.
      on_row: is called with the path of each row that was written.
    """
    folder, experiment = out / part.folder / "rows", part.experiment(repeats)
    # By cell, and not by what is missing: the processes need not see the same rows to agree on their shares.
    mine = experiment._replace(wanted={cell: experiment.wanted[cell] for cell in host.share(list(experiment.wanted))})
    done: list[Planned] = []
    taken = 0.0
    while True:  # each time with the rows that were just made, which tell what the next ones take
        on_disk = runner.read_checked(mine, folder, warn=not done)
        jobs = runner.missing(mine, on_disk)
        skipped = [job for job in jobs if job.seconds > part.limit]
        planned = runner.plan(mine, on_disk, [job for job in jobs if job not in skipped], programs)
        chosen = runner.choose(planned, deadline - time.monotonic())
        if chosen:
            seconds = machine.duration(runner.predicted(chosen))
            print(f"{part.folder}, {mine.amount(repeats)}: {len(chosen)} groups to run, predicted {seconds}", flush=True)
        start = time.monotonic()
        run = runner.run_groups(mine, chosen, folder, deadline, programs, on_row) if chosen else []
        taken += time.monotonic() - start
        done += run
        if not run:
            if skipped and part.list_skipped is not None and folder.is_dir():
                part.list_skipped(out / part.folder, skipped)
            return Stage(part, repeats, done, taken, planned)


def draw(parts: Sequence[Part], out: Path) -> list[Path]:
    """The pages and figures of the folders that have rows; returns their paths."""
    drawn: list[Path] = []
    for part in {part.folder: part for part in parts}.values():
        if any((out / part.folder / "rows").glob("*.json")):
            drawn += part.draw(out / part.folder)
    return drawn


def report(stages: Sequence[Stage]) -> str:
    """Predicted beside taken, a line for each stage that ran something; and what is left of each part in the end."""
    ran = [
        [
            stage.part.folder,
            f"up to {stage.repeats}",
            len(stage.done),
            _predicted(stage.done),
            machine.duration(stage.seconds),
        ]
        for stage in stages
        if stage.done
    ]
    parts = []
    if ran:
        parts.append(page.table(ran, ["part", "repeats", "groups run", "predicted", "taken"]))
    last = {stage.part.folder: stage for stage in stages}
    left = [[name, _runs(stage.left), _predicted(stage.left)] for name, stage in last.items() if stage.left]
    parts.append(page.table(left, ["left", "runs", "predicted"]) if left else "Nothing is left.")
    return "\n\n".join(parts)


def report_plan(stages: Sequence[Stage]) -> str:
    """What each level adds, for `--plan`."""
    lines, before = [], dict[str, tuple[int, float]]()
    for stage in stages:
        runs, seconds = before.get(stage.part.folder, (0, 0.0))
        now = _runs(stage.left), runner.predicted(stage.left)
        before[stage.part.folder] = now
        if now[0] > runs:
            added = machine.duration(max(0.0, now[1] - seconds)) + _unknown(stage.left)
            lines.append([stage.part.folder, f"up to {stage.repeats}", now[0] - runs, added])
    total = machine.duration(sum(seconds for _, seconds in before.values()))
    return page.table(lines, ["part", "repeats", "runs added", "predicted"]) + f"\n\nAll of it is predicted to take {total}."


def _runs(planned: Sequence[Planned]) -> int:
    return sum(len(each.group.repeats) for each in planned)


def _predicted(planned: Sequence[Planned]) -> str:
    return machine.duration(runner.predicted(planned)) + _unknown(planned)


def _unknown(planned: Sequence[Planned]) -> str:
    unknown = sum(math.isnan(each.run) for each in planned)
    return f" and {unknown} unknown" if unknown else ""
