"""What is worth most on an accelerator that is at hand for ten minutes.

    python -m benchmarks.accelerator --data DIR --out benchmarks/results --archive rows.tar --budget 9

checks bounds and training steps against float64, then runs, each within its share of the time: the speed of training beside
a plain PyTorch loop, the images with the paper's joint critic, a large n of the law of variance, `estimate` on 200,000 rows,
and Table 2 with ten seeds. It runs from the checkout (PYTHONPATH), without being installed. Each row goes into the folder
and into the archive as it ends; the same command goes on from both. On another machine

    python -m benchmarks.accelerator --unpack rows.tar --out benchmarks/results

puts the rows of the archive among the committed ones, and draws. --tiny tries everything on a CPU.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.accelerator import items
from benchmarks.accelerator.archive import Archive
from benchmarks.accelerator.items import Item
from benchmarks.campaign.stages import Stage, draw, report, run_stage
from benchmarks.lib import cli, machine, runner
from mi_jax.training.hosts import Host


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what fits into the budget, or unpack; then draw."""
    parser = cli.parser("accelerator", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; each part has its own below it")
    parser.add_argument("--budget", type=cli.minutes, default=60.0 * 9, help="minutes, 9 by default; drawing comes on top")
    parser.add_argument("--data", type=Path, help="the folder of MNIST; without it there are no images")
    parser.add_argument("--archive", type=Path, help="a tar of the rows, written anew with each row")
    parser.add_argument("--unpack", type=Path, help="run nothing: put the rows of this archive into --out, and draw")
    parser.add_argument("--tiny", action="store_true", help="the smallest scale, to try it")
    options = parser.parse_args(arguments)
    # Estimates run in processes of their own, which need memory on the card beside this one.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    machine.use_all_cores()
    failed: list[str] = []
    with cli.clear_errors(parser):
        if options.unpack is not None and not options.unpack.exists():
            raise ValueError(f"--unpack: there is no file {options.unpack}")
        path = options.unpack or options.archive
        archive = None if path is None else Archive(path, options.out)
        if archive is not None and (unpacked := archive.unpack()):
            print(f"{len(unpacked)} rows unpacked from {path}", flush=True)
        device = archive.device(machine.accelerator()) if archive and options.unpack else machine.accelerator()
        made = (items.tiny if options.tiny else items.full)(options.data, device)
        if options.unpack is None:
            stages, failed = run(made, options.out, options.budget, archive)
            print(report(stages), flush=True)
        for drawn in draw([item.part for item in made], options.out):
            print(drawn)
        if options.data is None:
            print("without --data, the folder of MNIST, there are no images")
    if failed:
        parser.exit(1, "".join(f"failed: {line}\n" for line in failed))


def run(made: Sequence[Item], out: Path, budget: float, archive: Archive | None) -> tuple[list[Stage], list[str]]:
    """Run each item within its share of the budget, in seconds; then all of them again within what is left.

    Returns:
      What was run; and, for each item that failed, its name and the error. The others are run all the same.
    """
    start, programs = time.monotonic(), {item.precision: runner.Programs() for item in made}
    if archive is not None:
        archive.add_missing([item.part.folder for item in made])
    ends = itertools.accumulate(item.share / sum(each.share for each in made) for item in made)
    deadlines = [*(start + budget * end for end in ends), *[start + budget] * len(made)]
    stages, failed = [], dict[int, str]()
    for (number, item), deadline in zip([*enumerate(made), *enumerate(made)], deadlines, strict=True):
        part = item.part._replace(experiment=item.experiment)
        if number in failed:
            continue
        add = None if archive is None else archive.add
        try:
            with jax.default_matmul_precision(item.precision):  # of this thread; `Item.experiment` sets that of others
                stages.append(run_stage(part, part.most, out, Host(0, 1), deadline, programs[item.precision], add))
        except (ValueError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed[number] = f"{part.name}: {type(error).__name__}: {error}"
            print(failed[number], file=sys.stderr, flush=True)
    return stages, list(failed.values())


if __name__ == "__main__":
    main()
