"""All rows, pages and figures of the paper, as far as time allows.

    python -m benchmarks.campaign --preset paper --out benchmarks/results --budget 60

knows which rows the pages need, predicts what the missing ones cost on this machine, and runs what fits into the budget: one
seed of everything first, then two, four and ten. Each row is written as its run ends. Killed at any moment, the same command
goes on from the rows on disk. Pages and figures are drawn after each of these levels. With --coordinator several processes
share the cells and write into one folder.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.campaign.parts import NAMES, PRESETS, Part, levels
from benchmarks.lib import cli, machine, page, runner
from benchmarks.lib.runner import Planned
from benchmarks.lib.training import together
from mi_jax.training.hosts import Host


class Stage(NamedTuple):
    """What running a part up to a number of repeats took, in seconds, and what is left of it."""

    part: Part
    repeats: int
    done: Sequence[Planned]
    seconds: float
    left: Sequence[Planned]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what fits into the budget, and draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    with cli.clear_errors(parser):
        stages: list[Stage] = []
        with cli.join_hosts(options) as host:
            parts = PRESETS[options.preset](options.only, options.data)
            if not parts:
                raise ValueError(f"preset {options.preset} has none of {', '.join(options.only)}")
            if not options.page_only:
                stages = _run(parts, options, host)
        if host.process == 0 and not options.plan:
            for path in draw(parts, options.out):
                print(path)
        print(report(stages))


def _run(parts: Sequence[Part], options: argparse.Namespace, host: Host) -> list[Stage]:
    """The levels in their order, until the budget is spent."""
    deadline = time.monotonic() + options.budget
    programs: runner.Programs = {}
    stages = []
    for level in levels(parts, together(max(part.most for part in parts))):
        for part, repeats in level:
            stages.append(run_stage(part, repeats, options.out, host, -math.inf if options.plan else deadline, programs))
        if host.process == 0 and any(stage.done for stage in stages[-len(level) :]):
            draw([stage.part for stage in stages[-len(level) :] if stage.done], options.out)
    return stages


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
    folder = out / part.folder / "rows"
    experiment = part.experiment(repeats)
    # By cell, and not by what is missing: the processes need not see the same rows to agree on their shares.
    mine = {cell: experiment.wanted[cell] for cell in host.share(list(experiment.wanted))}
    on_disk = runner.read_checked(experiment, folder)
    jobs = [job for job in runner.missing(experiment._replace(wanted=mine), on_disk) if not job.seconds > part.limit]
    planned = runner.plan(experiment, on_disk, jobs, programs)
    chosen = runner.choose(planned, max(0.0, deadline - time.monotonic()))
    if chosen:
        seconds = machine.duration(sum(each.seconds for each in chosen))
        print(f"{part.folder}, {experiment.amount(repeats)}: {len(chosen)} groups to run, predicted {seconds}", flush=True)
    start = time.monotonic()
    done = runner.run_groups(experiment, chosen, folder, deadline, programs, on_row)
    return Stage(part, repeats, done, time.monotonic() - start, [each for each in planned if each not in done])


def draw(parts: Sequence[Part], out: Path) -> list[Path]:
    """The pages and figures of the folders that have rows; returns their paths."""
    drawn: list[Path] = []
    for part in {part.folder: part for part in parts}.values():
        if any((out / part.folder / "rows").glob("*.json")):
            drawn += part.draw(out / part.folder)
    return drawn


def report(stages: Sequence[Stage]) -> str:
    """Predicted beside taken, and what is left, a line for each stage that has something of either."""
    lines = [
        [
            stage.part.folder,
            f"up to {stage.repeats}",
            len(stage.done),
            _predicted(stage.done),
            machine.duration(stage.seconds),
            len(stage.left),
            _predicted(stage.left),
        ]
        for stage in stages
        if stage.done or stage.left
    ]
    return page.table(lines, ["part", "repeats", "groups run", "predicted", "taken", "groups left", "predicted"])


def _predicted(planned: Sequence[Planned]) -> str:
    unknown = sum(math.isnan(each.run) for each in planned)
    return machine.duration(sum(each.seconds for each in planned)) + (f" and {unknown} unknown" if unknown else "")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("campaign", __doc__)
    cli.add_preset(parser, PRESETS, "tiny: to try it; paper: every row of the pages")
    parser.set_defaults(preset="paper")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; each part has its own below it")
    budget_help = "minutes; no run is begun that is predicted to end after them. Drawing comes on top"
    parser.add_argument("--budget", type=cli.minutes, default=math.inf, help=budget_help)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="the benchmarks that are wanted")
    parser.add_argument("--data", type=Path, help="the folder of MNIST and CIFAR-10; without it there are no images")
    parser.add_argument("--plan", action="store_true", help="run nothing; list what is missing and what it would take")
    cli.add_page_only(parser)
    cli.add_hosts(parser)
    return parser


if __name__ == "__main__":
    main()
