"""All rows, pages and figures of the paper, as far as time allows.

    python -m benchmarks.campaign --preset paper --out benchmarks/results --budget 60

knows which rows the pages need, predicts what the missing ones cost on this machine, and runs what fits into the budget: one
seed of everything first, then two, four and ten. Within each of these levels every benchmark has an equal share of the time
that is left. Where several seeds run at once in the time of one, as on many cores or on a GPU, the first level has so many.
Each row is written as its run ends. Killed at any moment, the same command goes on from the rows on disk. Pages and figures
are drawn after each level. With --coordinator several processes share the cells and write into one folder.
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
    """What running a part up to a number of repeats took, in seconds without the planning, and what is left of it."""

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
        if "images" in options.only and options.data is None and len(options.only) == 1:
            raise ValueError("images need --data, the folder of MNIST and CIFAR-10")
        stages: list[Stage] = []
        with cli.join_hosts(options) as host, machine.float32_products():
            parts = PRESETS[options.preset](options.only, options.data)
            if not parts:
                raise ValueError(f"preset {options.preset} has none of {', '.join(options.only)}")
            if not options.page_only:
                stages = _run(parts, options, host)
        if host.process == 0 and not options.plan:
            for path in draw(parts, options.out):
                print(path)
        print(report_plan(stages) if options.plan else report(stages))


def _run(parts: Sequence[Part], options: argparse.Namespace, host: Host) -> list[Stage]:
    """The levels in their order, until the budget is spent; and everything again, in what the shares left."""
    end = time.monotonic() + options.budget
    programs: runner.Programs = {}
    stages: list[Stage] = []
    rounds = levels(parts, together(max(part.most for part in parts)))
    everything = [(part, part.most) for part in parts]
    for level in [*rounds, everything]:
        begun = len(stages)
        for number, (part, repeats) in enumerate(level):
            now = time.monotonic()
            deadline = end if level is everything else now + (end - now) / (len(level) - number)
            stages.append(run_stage(part, repeats, options.out, host, -math.inf if options.plan else deadline, programs))
        if host.process == 0 and any(stage.done for stage in stages[begun:]):
            draw([stage.part for stage in stages[begun:] if stage.done], options.out)
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


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("campaign", __doc__)
    cli.add_preset(parser, PRESETS, "tiny: to try it; paper: every row of the pages")
    parser.set_defaults(preset="paper")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; each part has its own below it")
    budget_help = "minutes; no run is begun that is predicted to end after them. The last drawing comes on top"
    parser.add_argument("--budget", type=cli.minutes, default=math.inf, help=budget_help)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="the benchmarks that are wanted")
    parser.add_argument("--data", type=Path, help="the folder of MNIST and CIFAR-10; without it there are no images")
    parser.add_argument("--plan", action="store_true", help="make no row; list what is missing and what it would take")
    cli.add_page_only(parser)
    cli.add_hosts(parser)
    return parser


if __name__ == "__main__":
    main()
