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
from collections.abc import Sequence
from pathlib import Path

from benchmarks.campaign.parts import NAMES, PRESETS, Part, levels
from benchmarks.campaign.stages import Stage, draw, report, report_plan, run_stage
from benchmarks.lib import cli, machine, runner
from benchmarks.lib.training import together
from mi_jax.training.hosts import Host


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
