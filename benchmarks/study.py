"""A training study: how the variance of SMILE falls with tau, over true MIs and learning rates, with many seeds.

    python -m benchmarks.study --preset quick --out DIR

trains one separable critic for each seed, MI and learning rate on the logistic objective, all of them one compiled program,
and reads SMILE from it at every tau: so along tau the critic is *fixed*. Three variances are told apart; see `study.md`.
Runs that are finished are on disk and not run again, and a run that was killed goes on from its last checkpoint.

Over several processes, each taking its share of the runs and all writing into one DIR:

    python -m benchmarks.study --out DIR --coordinator HOST:PORT --processes 2 --process 0    # and --process 1
    python -m benchmarks.study --out DIR --coordinator auto    # on each host of a TPU pod, under Slurm or Open MPI
"""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.lib import cli, machine
from benchmarks.lib import figures as drawing
from mi_jax import estimators, models, networks, tasks, theory, training
from mi_jax.training import Study, seeds

ROOT_KEY = 0
BATCH = 64
TAUS = (0.5, 1.0, 2.0, 5.0, 10.0, float("inf"))
# name in a table -> what it is called in a figure, and its line
VARIANCES = {
    "batch_variance": ("over batches, critic fixed", "-"),
    "seed_variance": ("over seeds, iteration fixed", "--"),
    "iteration_variance": ("over the iterations of a run", ":"),
}


@dataclass(frozen=True)
class Protocol:
    """What is studied."""

    mis: tuple[float, ...] = (2.0, 6.0, 10.0)
    learning_rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3)
    num_seeds: int = 10
    steps: int = 2_000
    batches: int = 1_000
    dim: int = tasks.PAPER_DIM
    hidden: tuple[int, ...] = (256, 256)

    def recipe(self, settings: training.Settings) -> training.Trainer:
        """How a run is trained; `mi` and `learning_rate` are traced."""
        task = tasks.gaussian(self.dim, settings["mi"])
        smiles = {read_out(tau): estimators.smile(tau) for tau in TAUS}
        model = models.discriminative(networks.SeparableCritic(hidden=self.hidden), estimators.combined(**smiles))
        return training.trainer(model, lambda key, _: task.sample(key, BATCH), training.adam(settings["learning_rate"]))

    def study(
        self, folder: Path, every: float, on_chunk: Callable[[str, seeds.Report], None] | None = None, **options: Any
    ) -> Study:
        """Run what is missing of it; the runs are kept in the folder."""
        return training.study(
            self.recipe,
            training.grid(mi=self.mis, learning_rate=self.learning_rates),
            jax.random.split(jax.random.key(ROOT_KEY), self.num_seeds),
            steps=self.steps,
            batches=self.batches,
            truth=lambda settings: settings["mi"],
            folder=folder,
            checkpoint_every=every,
            on_chunk=on_chunk,
            **options,
        )


PRESETS = {
    "quick": Protocol(),
    "paper": Protocol(mis=tasks.PAPER_LEVELS, num_seeds=20, steps=10_000, batches=10_000),
}


def read_out(tau: float) -> str:
    """The name of SMILE at this tau."""
    return f"smile_{tau:g}"


_ORDER = [read_out(tau) for tau in TAUS]


class Progress:
    """A bar over the steps of the runs that go on, on a terminal; and a line as they end."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, name: str, report: seeds.Report) -> None:
        """Show one chunk's progress."""
        if self.bar is None:
            self.bar = tqdm(total=report.steps, desc=name, unit="step", leave=False, disable=None)
        self.bar.update(report.done - self.bar.n)
        if report.done == report.steps:
            self.bar.close()
            self.bar = None
            print(f"{name}: trained", flush=True)


def write(protocol: Protocol, study: Study, out: Path, command: str) -> list[Path]:
    """The table and the figure; returns their paths."""
    missing = int((~study.finished).sum())
    if missing:
        text = f"{missing} of {study.finished.size} runs are not in {out / 'study'}"
        raise ValueError(f"{text}: where processes share no disk, bring their folders together and run this again")
    with drawing.style():
        figure = Figure(figsize=(10.5, 6.0), layout="constrained")
        panels = figure.subplots(2, len(protocol.mis), sharex=True, sharey="row", squeeze=False)
        for column, mi in enumerate(protocol.mis):
            _variances(panels[0, column], protocol, study, mi)
            _biases(panels[1, column], study, mi)
        panels[0, 0].set_ylabel("variance (nats²)")
        panels[1, 0].set_ylabel("bias (nats)")
        panels[0, 0].legend(frameon=False, fontsize=6)
        panels[1, 0].legend(frameon=False, fontsize=6)
        figure.savefig(out / "study.png")
    (out / "study.md").write_text(table(protocol, study, command))
    return [out / "study.png", out / "study.md"]


def _variances(panel: Axes, protocol: Protocol, study: Study, mi: float) -> None:
    """The three variances against tau, a colour for each learning rate."""
    for color, (rate, rows) in enumerate(_by_rate(study, mi).items()):
        for name, (label, line) in VARIANCES.items():
            values = [getattr(row, name) for row in rows]
            shown = f"{label} ({rate:g})" if color == 0 else None
            panel.plot(range(len(TAUS)), values, line, color=f"C{color}", marker=".", lw=1, label=shown)
    floor = theory.gaussian_log_ratio_variance(mi, protocol.dim) / BATCH
    panel.axhline(float(floor), color="black", lw=0.6, label="dρ²/n, n exact log ratios")
    panel.set(yscale="log", title=f"MI = {mi:g}")


def _biases(panel: Axes, study: Study, mi: float) -> None:
    """The bias against tau, with ± 2 standard errors over seeds, a colour for each learning rate."""
    for color, (rate, rows) in enumerate(_by_rate(study, mi).items()):
        bias, error = np.array([row.bias for row in rows]), np.array([row.mean_error for row in rows])
        label = f"learning rate {rate:g}"
        panel.errorbar(range(len(TAUS)), bias, 2 * error, color=f"C{color}", marker=".", lw=1, capsize=2, label=label)
    panel.axhline(0.0, color="black", lw=0.6)
    panel.set(xlabel="τ", xticks=range(len(TAUS)), xticklabels=[f"{tau:g}".replace("inf", "∞") for tau in TAUS])


def _by_rate(study: Study, mi: float) -> dict[float, list[training.Summary]]:
    """Learning rate -> the summaries at this MI, in the order of tau."""
    rates: dict[float, list[training.Summary]] = {}
    for row in sorted(study.summaries(), key=lambda row: _ORDER.index(row.read_out)):
        if row.settings["mi"] == float(np.float32(mi)):
            rates.setdefault(row.settings["learning_rate"], []).append(row)
    return rates


def table(protocol: Protocol, study: Study, command: str) -> str:
    """Every number, as Markdown."""
    columns = ("read_out", "mean", "mean_error", "bias", *VARIANCES, "mse", "runs", "left_out")
    lines = [
        [f"{row.settings['mi']:g}", f"{row.settings['learning_rate']:g}", row.read_out]
        + [f"{getattr(row, name):.3g}" for name in columns[1:]]
        for row in sorted(study.summaries(), key=lambda row: (*row.settings.values(), _ORDER.index(row.read_out)))
    ]
    head = ["MI", "learning rate", *(name.replace("_", " ") for name in columns)]
    left_out = "".join(f"- {line}\n" for line in study.left_out()) or "None.\n"
    return (
        "# SMILE by tau: one fixed critic, three variances\n\n"
        f"Written by `{command}`: the Gaussian task, d = {protocol.dim}, separable critic, {protocol.num_seeds} seeds,\n"
        f"{protocol.steps} steps of {BATCH} pairs; estimates and bias over the last {study.window} of them, in nats;\n"
        f"mean error is a standard error, by the spread over seeds. The batch variance is over {protocol.batches} fresh\n"
        "batches at the *final* critic of each run; the seed variance over seeds at one iteration, averaged over the\n"
        "iterations; the iteration variance over the iterations of one run, averaged over the seeds. Along tau the critics\n"
        "are the same ones.\n\n"
        + tabulate(lines, head, tablefmt="github", disable_numparse=True)
        + f"\n\n## Runs in no average\n\n{left_out}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.split("\n")[0])
    preset_help = "quick: minutes on 2 cores; paper: five MIs, 20 seeds, 10,000 steps"
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=preset_help)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, table and figure")
    parser.add_argument("--seeds", type=cli.positive_int, help="seeds a setting; quick 10, paper 20")
    parser.add_argument("--steps", type=cli.positive_int, help="training steps a run; quick 2,000, paper 10,000")
    parser.add_argument("--chunk", type=cli.positive_int, default=500, help="about how many steps between checkpoints")
    parser.add_argument("--mis", type=cli.positive_float, nargs="+", help="true MIs, in nats")
    parser.add_argument("--learning-rates", type=cli.positive_float, nargs="+")
    every_help = "seconds between checkpoints, at least"
    parser.add_argument("--checkpoint-every", type=float, default=training.Checkpoint("").every, help=every_help)
    _add_hosts(parser)
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    protocol = _protocol(options)
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
        folder = options.out / "study"
        with _hosts(options) as host:
            study = protocol.study(folder, options.checkpoint_every, Progress(), chunk=options.chunk)
            compiled, ran = machine.duration(study.compile_seconds), machine.duration(study.run_seconds)
            print(f"process {host.process} of {host.processes}: compiled in {compiled}, ran in {ran}", flush=True)
        if host.process == 0:
            command = f"python -m benchmarks.study --preset {options.preset}{_changed(options)}"
            study = protocol.study(folder, options.checkpoint_every, chunk=options.chunk)  # with the others' runs
            for path in write(protocol, study, options.out, command):
                print(path)


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    """The options of a command that several processes share."""
    coordinator_help = (
        "host:port of process 0, to share the runs with other processes; auto: on a TPU pod, under Slurm or MPI"
    )
    parser.add_argument("--coordinator", help=coordinator_help)
    parser.add_argument("--processes", type=cli.positive_int, help="how many processes; auto finds out")
    parser.add_argument("--process", type=int, help="the number of this one, from 0; auto finds out")
    heartbeat_help = "seconds without a sign of life after which a process counts as dead, and the others end"
    parser.add_argument("--heartbeat-timeout", type=cli.positive_int, default=60, help=heartbeat_help)


def _hosts(options: argparse.Namespace) -> contextlib.AbstractContextManager[seeds.Host]:
    """The processes that the options name, as a context."""
    if options.coordinator is None:
        if options.processes is not None or options.process is not None:
            raise ValueError("--processes and --process need --coordinator, the host:port of process 0")
        return contextlib.nullcontext(seeds.host())
    coordinator = None if options.coordinator == "auto" else options.coordinator
    return seeds.hosts(coordinator, options.processes, options.process, heartbeat_timeout=options.heartbeat_timeout)


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
