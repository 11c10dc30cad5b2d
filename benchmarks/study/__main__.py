"""A training study: how the variance of SMILE falls with tau, over true MIs and learning rates, with many seeds.

    python -m benchmarks.study --preset quick --out DIR

trains one separable critic for each seed, MI and learning rate on the logistic objective, all of them by one compiled
program, and reads SMILE from it at every tau: so the critic is *fixed* along tau. There are three variances; see
`study.md`. Finished runs are on disk and not run again, and a run that was killed goes on from its last checkpoint.

Several processes can share the runs; all write into one DIR:

    python -m benchmarks.study --out DIR --coordinator HOST:PORT --processes 2 --process 0    # and --process 1
    python -m benchmarks.study --out DIR --coordinator auto    # on each host of a TPU pod, under Slurm or Open MPI
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.lib import cli, machine
from benchmarks.study import page
from benchmarks.study.experiment import PRESETS, Protocol
from mi_jax import training
from mi_jax.training import Report


class Progress:
    """A bar over the steps of the runs that go on, on a terminal; and a line as they end."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, name: str, report: Report) -> None:
        """Show one chunk's progress."""
        if self.bar is None:
            self.bar = tqdm(total=report.steps, desc=name, unit="step", leave=False, disable=None)
        self.bar.update(report.done - self.bar.n)
        if report.done == report.steps:
            self.bar.close()
            self.bar = None
            print(f"{name}: trained", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    protocol, folder = _protocol(options), options.out / "study"
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
        with cli.join_hosts(options) as host:
            study = protocol.study(folder, options.checkpoint_every, Progress(), chunk=options.chunk)
            compiled, ran = machine.duration(study.compile_seconds), machine.duration(study.run_seconds)
            print(f"process {host.process} of {host.processes}: compiled in {compiled}, ran in {ran}", flush=True)
        if host.process == 0:
            command = f"python -m benchmarks.study --preset {options.preset}{_changed(options)}"
            study = protocol.study(folder, options.checkpoint_every, chunk=options.chunk)  # with the others' runs
            for path in page.draw(protocol, study, options.out, command):
                print(path)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("study", __doc__)
    cli.add_preset(parser, PRESETS, "quick: minutes on 2 cores; paper: five MIs, 20 seeds, 10,000 steps")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, table and figure")
    cli.add_seeds(parser, "seeds a setting; quick 10, paper 20")
    parser.add_argument("--steps", type=cli.positive_int, help="training steps a run; quick 2,000, paper 10,000")
    parser.add_argument("--chunk", type=cli.positive_int, default=500, help="about how many steps between checkpoints")
    parser.add_argument("--mis", type=cli.positive_float, nargs="+", help="true MIs, in nats")
    parser.add_argument("--learning-rates", type=cli.positive_float, nargs="+")
    every_help = "seconds between checkpoints, at least"
    parser.add_argument("--checkpoint-every", type=float, default=training.Checkpoint("").every, help=every_help)
    cli.add_hosts(parser)
    return parser


def _changed(options: argparse.Namespace) -> str:
    """The options that change the preset, as they are written."""
    given = {
        "--seeds": options.seeds,
        "--steps": options.steps,
        "--mis": options.mis,
        "--learning-rates": options.learning_rates,
    }
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items() if value}
    return "".join(f" {name} {' '.join(map(str, values))}" for name, values in lists.items())


def _protocol(options: argparse.Namespace) -> Protocol:
    given = {
        "num_seeds": options.seeds,
        "steps": options.steps,
        "mis": tuple(options.mis or ()),
        "learning_rates": tuple(options.learning_rates or ()),
    }
    return replace(PRESETS[options.preset], **{name: value for name, value in given.items() if value})


if __name__ == "__main__":
    main()
