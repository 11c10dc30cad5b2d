"""The benchmark of Section 6.1: estimates on the Gaussian and Cubic tasks while the true MI climbs a staircase.

    python -m benchmarks.gaussian --preset quick --out DIR

trains a critic for every discriminative objective, critic, depth and task of the preset, and flows for the generative
ones, with many seeds; writes one row a run; and draws Figures 1, 2 and 7 and Table 2 of Song & Ermon (2020) from the rows.
Runs whose row is on disk are not run again.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tqdm import tqdm

from benchmarks import cli, figures, machine, rows, summary
from benchmarks.summary import FLOW
from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import layout, runs

TASKS = {"gaussian": tasks.gaussian, "cubic": tasks.cubic}
CRITICS = {"joint": networks.JointCritic, "separable": networks.SeparableCritic}
# One training run for each objective; its read-outs carry the names of the table.
DISCRIMINATIVE: dict[str, Callable[[], estimators.Estimator]] = {
    "infonce": lambda: estimators.share_training(cpc=estimators.infonce()),
    "nwj": estimators.nwj,
    "mine": estimators.mine,
    "logistic": lambda: estimators.share_training(
        js=estimators.js(),
        smile_1=estimators.smile(1.0),
        smile_5=estimators.smile(5.0),
        smile_10=estimators.smile(10.0),
        smile_inf=estimators.smile(jnp.inf),
    ),
}
Hidden: TypeAlias = tuple[int, ...]
# x is standard normal in both tasks, so Barber–Agakov knows its marginal; y³ is given to the flows as it is.
GENERATIVE: dict[str, Callable[[Hidden], models.Model]] = {
    "gm": lambda hidden: models.gm(networks.JointRealNVP(hidden=hidden), *[networks.RealNVP(hidden=hidden)] * 2),
    "ba": lambda hidden: models.ba(_log_standard_normal, networks.RealNVP(hidden=hidden)),
    "doe": lambda hidden: models.doe(*[networks.RealNVP(hidden=hidden)] * 2),
}
NETWORKS = (*CRITICS, FLOW)
OBJECTIVES = (*DISCRIMINATIVE, *GENERATIVE)
ROOT_KEY = 0
BLOCKS = 80  # of iterations in a stage, whose moments a row keeps


def _log_standard_normal(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jax.scipy.stats.norm.logpdf(x).sum(axis=1)


@dataclass(frozen=True)
class Cell:
    """One setting of the experiment; the paper's protocol by default (B.1).

    `critic` is "joint" or "separable"; where the objective is a generative one it is "realnvp", five coupling layers, and
    `hidden` are the hidden layers of each conditioner.
    """

    task: str = "gaussian"
    critic: str = "joint"
    hidden: Hidden = (256, 256)
    objective: str = "logistic"
    dim: int = tasks.PAPER_DIM
    batch: int = 64
    levels: tuple[float, ...] = tasks.PAPER_LEVELS
    every: int = tasks.PAPER_STAGE
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        if (self.objective in GENERATIVE) != (self.critic == FLOW):
            raise ValueError(
                f"generative objectives, and they alone, go with {FLOW}, got {self.objective} and {self.critic}"
            )

    @property
    def steps(self) -> int:
        """Training steps of a run."""
        return self.every * len(self.levels)

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.task} {self.critic} {len(self.hidden)}x{self.hidden[0]} {self.objective}"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cell":
        """The cell of a row's configuration."""
        own = {field.name: config[field.name] for field in fields(cls)}
        return cls(**own | {"hidden": tuple(own["hidden"]), "levels": tuple(own["levels"])})

    def config(self, seed: int) -> dict[str, Any]:
        """Everything that decides a run's numbers. Seeds are shared by the cells, which so see the same batches."""
        key = f"fold_in(key({ROOT_KEY}), {seed})"
        return {**asdict(self), "hidden": list(self.hidden), "levels": list(self.levels), "seed": seed, "key": key}

    def trainer(self) -> training.Trainer:
        """How this cell trains a seed."""

        def batch(key, step):
            mi = tasks.staircase(step, self.levels, self.every)
            return TASKS[self.task](self.dim, mi).sample(key, self.batch)

        return training.trainer(self.model(), batch, training.adam(self.learning_rate))

    def model(self) -> models.Model:
        """What is trained."""
        if self.objective in GENERATIVE:
            return GENERATIVE[self.objective](self.hidden)
        return models.discriminative(CRITICS[self.critic](hidden=self.hidden), DISCRIMINATIVE[self.objective]())

    def products(self) -> float:
        """Floating-point operations of a step's matrix products; they decide the cost of all but the smallest cells."""
        rows = jnp.zeros((self.batch, self.dim))
        params = jax.eval_shape(self.model().init, jax.random.key(0), rows, rows)
        leaves = [(jax.tree_util.keystr(path), leaf.size) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
        weights = {path: size for path, size in leaves if "kernel" in path}
        # Every weight meets the n rows of a batch, and those of the joint critic's later layers its n² pairs.
        on_rows = sum(size for path, size in weights.items() if self.critic != "joint" or "PairDense" in path)
        products = self.batch * on_rows + self.batch**2 * (sum(weights.values()) - on_rows)
        return 3.0 * 2.0 * products  # forward, and backward to the weights and to the inputs


def run_missing(cells: Sequence[Cell], num_seeds: int, folder: Path, limit: float = float("inf")) -> None:
    """Run the seeds 0 to num_seeds - 1 of each cell whose rows are not in the folder.

    Args:
      cells: the settings.
      num_seeds: how many seeds each should have.
      folder: where the rows are.
      limit: minutes; cells predicted to take longer are skipped, and listed.
    """
    here = rows.environment()
    on_disk = list(rows.read_all(folder))
    _same_protocol(cells, on_disk, folder)
    foreign = sum(not rows.same_bits(row.environment, here) for row in on_disk)
    if foreign:
        print(f"warning: {foreign} of {len(on_disk)} rows on disk come from another machine or version", file=sys.stderr)
    done = {rows.identity(row.config) for row in on_disk}
    pending = {cell: [s for s in range(num_seeds) if rows.identity(cell.config(s)) not in done] for cell in cells}
    pending = {cell: missing for cell, missing in pending.items() if missing}
    cost = _Cost(on_disk)
    predicted = {cell: cost(cell) * cell.steps * len(missing) for cell, missing in pending.items()}
    skipped = [cell for cell in pending if predicted[cell] > 60.0 * limit]
    todo = [cell for cell in pending if cell not in skipped]
    total = machine.duration(sum(predicted[cell] for cell in todo))
    runs = sum(len(pending[cell]) for cell in todo)
    print(f"{runs} runs to do, {len(done)} rows on disk; predicted {total} on {jax.device_count()} devices, compiling apart")
    for cell in skipped:
        print(f"skipped, over the limit: {cell.label}, predicted {machine.duration(predicted[cell])}")
    for cell in todo:
        _run_cell(cell, pending[cell], folder, here)


def _same_protocol(cells: Sequence[Cell], on_disk: Sequence[rows.Row], folder: Path) -> None:
    """Refuse, before anything is trained, to mix protocols in a folder: they could share no figure."""
    configs = [*(row.config for row in on_disk), *(cell.config(0) for cell in cells)]
    found = {summary.protocol_of(config) for config in configs}
    if len(found) > 1:
        raise ValueError(f"{folder} has rows of another protocol; use another --out, or move them away: {sorted(found)}")


class _Cost:
    """Seconds a step and seed: measured, from rows on disk, or else from the machine's matrix-product speed."""

    def __init__(self, on_disk: Sequence[rows.Row]):
        self.measured = {self._kind(Cell.of(row.config)): row.run_seconds / Cell.of(row.config).steps for row in on_disk}
        self.flops = functools.cache(lambda: machine.product_speed()())

    def __call__(self, cell: Cell) -> float:
        # Of the products' floor a run reaches about 70 %; 0.3 ms is what the rest of a step costs on two cores.
        return self.measured.get(self._kind(cell)) or cell.products() / (0.7 * self.flops()) + 3e-4

    @staticmethod
    def _kind(cell: Cell) -> tuple[Any, ...]:
        generative = cell.objective if cell.objective in GENERATIVE else ""
        return cell.critic, cell.hidden, cell.dim, cell.batch, generative


def _run_cell(cell: Cell, missing: Sequence[int], folder: Path, here: dict[str, Any]) -> None:
    """Run a cell's missing seeds; a row each, as its group ends."""
    # On CPUs a group is one seed a device, so that rows come early; an accelerator takes all seeds in one batch.
    size = jax.device_count() if jax.devices()[0].platform == "cpu" else len(missing)
    program = None
    for group in (missing[i : i + size] for i in range(0, len(missing), size)):
        if program is None or program.layout.num_seeds != len(group):
            program = runs.compile_training(cell.trainer(), layout.layout(len(group)), steps=cell.steps)
        keys = jnp.stack([jax.random.fold_in(jax.random.key(ROOT_KEY), seed) for seed in group])
        title = f"{cell.label}, seed {group[0]}" if len(group) == 1 else f"{cell.label}, seeds {group[0]}-{group[-1]}"
        with tqdm(total=cell.steps, desc=title, unit="step", disable=None) as bar:
            result = runs.run(program, keys, functools.partial(_advance, bar))
        for place, seed in enumerate(group):
            rows.write(folder, _row(cell, seed, here, result, place))
        compiled, ran = machine.duration(result.compile_seconds), machine.duration(result.run_seconds)
        print(f"{title}: compiled in {compiled}, ran in {ran}", flush=True)


def _advance(bar: tqdm, report: training.Report) -> None:
    """Move the progress bar, and show the chunk's mean read-outs on it."""
    bar.set_postfix({name: f"{nats.mean():.2f}" for name, nats in report.nats.items()}, refresh=False)
    bar.update(report.done - bar.n)


def _row(cell: Cell, seed: int, here: dict[str, Any], result: training.Fit, place: int) -> rows.Row:
    return rows.Row(
        config=cell.config(seed),
        environment=here,
        diverged=bool(result.diverged[place]),
        compile_seconds=round(result.compile_seconds, 3),
        run_seconds=round(result.run_seconds / len(result.diverged), 3),
        read_outs={name: rows.moments(nats[place], cell.every // BLOCKS) for name, nats in result.history.items()},
    )


PAPER = [
    Cell(task=task, critic=critic, hidden=hidden, objective=objective)
    for hidden in ((256, 256), (256, 256, 256))
    for task in TASKS
    for critic in CRITICS
    for objective in DISCRIMINATIVE
]
PAPER += [Cell(task=task, critic=FLOW, hidden=(100, 100), objective=objective) for task in TASKS for objective in GENERATIVE]
QUICK = [
    replace(cell, every=1200)
    for cell in PAPER
    if (cell.critic == "separable" and len(cell.hidden) == 2) or cell.objective == "gm"
]
# name -> cells, seeds
PRESETS = {"quick": (QUICK, 2), "paper": (PAPER, 10)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    cells, num_seeds = PRESETS[options.preset]
    if options.every is not None:
        cells = [replace(cell, every=options.every) for cell in cells]
    kept = [cell for cell in cells if _selected(cell, options)]
    if not kept:
        parser.error(
            f"no cell of preset {options.preset} is selected; it has {'; '.join(dict.fromkeys(c.label for c in cells))}"
        )
    folder = options.out / "rows"
    with cli.clear_errors(parser):
        folder.mkdir(parents=True, exist_ok=True)
        run_missing(kept, num_seeds if options.seeds is None else options.seeds, folder, options.limit)
        for path in figures.draw(options.out):
            print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaussian", description=__doc__.split("\n")[0])
    preset_help = "quick: minutes on 2 cores; paper: the full protocol"
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=preset_help)
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, figures and the table")
    parser.add_argument("--seeds", type=cli.positive_int, help="training runs a cell; quick 2, paper 10")
    limit_help = "skip, and list, cells predicted to take more than this many minutes"
    parser.add_argument("--limit", type=cli.positive_float, default=float("inf"), help=limit_help)
    every_help = f"iterations a level lasts, a multiple of {BLOCKS}; quick 1200, paper 4000"
    parser.add_argument("--every", type=_multiple_of_blocks, help=every_help)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    critics_help = f"critics; and {FLOW}, the flows of the generative objectives"
    parser.add_argument("--critics", nargs="+", choices=NETWORKS, default=list(NETWORKS), help=critics_help)
    objectives_help = "what is trained; JS and SMILE are read from logistic"
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help=objectives_help)
    hidden_help = "hidden layers of 256 of a critic"
    parser.add_argument("--hidden", nargs="+", type=int, choices=(2, 3), default=[2, 3], help=hidden_help)
    return parser


def _multiple_of_blocks(text: str) -> int:
    number = cli.positive_int(text)
    if number % BLOCKS:
        raise argparse.ArgumentTypeError(f"expected a multiple of {BLOCKS}, got {text}")
    return number


def _selected(cell: Cell, options: argparse.Namespace) -> bool:
    return (
        cell.task in options.tasks
        and cell.critic in options.critics
        and cell.objective in options.objectives
        and (cell.critic == FLOW or len(cell.hidden) in options.hidden)
    )


if __name__ == "__main__":
    main()
