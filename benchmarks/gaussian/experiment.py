"""The cells of the staircase experiment, how each is trained and predicted, and the row that a seed leaves.

A cell is one task, critic, depth and objective. It is trained with many seeds while the true MI climbs a staircase. Cells
that differ in the task alone run the same compiled program.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.gaussian import histories, statistics
from benchmarks.gaussian.statistics import FLOW
from benchmarks.lib import machine, runner
from benchmarks.lib import training as lib_training
from benchmarks.lib.rows import Row
from mi_jax import estimators, models, networks, tasks, training

TASKS = {"gaussian": tasks.gaussian, "cubic": tasks.cubic}
CRITICS = {"joint": networks.JointCritic, "separable": networks.SeparableCritic}
# One run is trained for each objective; its read-outs carry the names of the table.
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
BLOCKS = 80  # of iterations in a stage, whose moments a row keeps


def _log_standard_normal(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jax.scipy.stats.norm.logpdf(x).sum(axis=1)


@dataclass(frozen=True)
class Cell:
    """One setting of the experiment; the defaults are the paper's protocol (B.1).

    `critic` is "joint" or "separable". If the objective is a generative one it is "realnvp", five coupling layers, and
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
        """Everything that decides a run's numbers. Cells share their seeds, and so see the same batches."""
        shape = {"hidden": list(self.hidden), "levels": list(self.levels)}
        return {**asdict(self), **shape, "seed": seed, "key": lib_training.key_text(seed)}

    @property
    def settings(self) -> training.Settings:
        """What is traced, so that both tasks share a program."""
        return {"task": jnp.int32(list(TASKS).index(self.task))}

    def trainer(self, settings: training.Settings) -> training.Trainer:
        """How a seed is trained."""

        def batch(key, step):
            mi = tasks.staircase(step, self.levels, self.every)
            batches = [make(self.dim, mi).sample(key, self.batch) for make in TASKS.values()]
            # The tasks share their draws, which the compiler then makes once; so this costs less than a branch.
            return jax.tree.map(lambda *each: jnp.stack(each)[settings["task"]], *batches)

        return training.trainer(self.model(), batch, training.adam(self.learning_rate))

    def model(self) -> models.Model:
        """The model that is trained."""
        if self.objective in GENERATIVE:
            return GENERATIVE[self.objective](self.hidden)
        return models.discriminative(CRITICS[self.critic](hidden=self.hidden), DISCRIMINATIVE[self.objective]())

    @functools.cache  # noqa: B019  # cells are few; a plan asks each of them many times
    def products(self) -> float:
        """Floating-point operations of a step's matrix products; they decide the cost of all but the smallest cells."""
        rows = jnp.zeros((self.batch, self.dim))
        params = jax.eval_shape(self.model().init, jax.random.key(0), rows, rows)
        leaves = [(jax.tree_util.keystr(path), leaf.size) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
        weights = {path: size for path, size in leaves if "kernel" in path}
        # Every weight meets the n rows of a batch; the weights of the joint critic's later layers meet its n² pairs.
        on_rows = sum(size for path, size in weights.items() if self.critic != "joint" or "PairDense" in path)
        products = self.batch * on_rows + self.batch**2 * (sum(weights.values()) - on_rows)
        return 3.0 * 2.0 * products  # forward, and backward to the weights and to the inputs


def _covers(config: Mapping[str, Any]) -> tuple[Cell, Sequence[int]]:
    return Cell.of(config), [config["seed"]]


def _seconds_a_step(cell: Cell) -> float:
    """A guess: a run reaches about 70 % of the speed of products, and the rest of a step takes 0.3 ms on two cores."""
    return cell.products() / (0.7 * machine.speed()) + 3e-4


def _kind(cell: Cell) -> tuple[Any, ...]:
    """What the cost of a step depends on."""
    generative = cell.objective if cell.objective in GENERATIVE else ""
    return cell.critic, cell.hidden, cell.dim, cell.batch, generative


def experiment(cells: Sequence[Cell], num_seeds: int) -> runner.Experiment:
    """The seeds 0 to num_seeds - 1 of each cell, for the runner."""
    return runner.Experiment(
        name="gaussian",
        wanted=dict.fromkeys(cells, num_seeds),
        covers=_covers,
        predict=runner.predict_by_kind(_covers, _kind, lambda cell: cell.steps, _seconds_a_step),
        run=_run,
        compile=lambda cell, number: lib_training.compile_seeds(cell.trainer, cell.settings, number, steps=cell.steps),
        program=lambda cell, number: (replace(cell, task="gaussian"), number),
        together=lib_training.together(num_seeds),
        check=functools.partial(_check_protocol, cells),
    )


def _check_protocol(cells: Sequence[Cell], on_disk: Sequence[Row]) -> None:
    """Refuse to mix protocols in a folder: they could share no figure."""
    configs = [*(row.config for row in on_disk), *(cell.config(0) for cell in cells)]
    protocols = {statistics.protocol_of(config) for config in configs}
    if len(protocols) > 1:
        raise ValueError(f"--out has rows of another protocol; use another --out, or move them away: {sorted(protocols)}")


def _run(group: runner.Group, program: Any, progress: runner.Progress) -> Iterator[Row]:
    """Train some seeds of a cell; a row each."""
    cell, numbers = group
    fit = lib_training.train(program, numbers, cell.settings, progress)
    for place, seed in enumerate(numbers):
        block = cell.every // BLOCKS
        yield Row(
            benchmark="gaussian",
            config=cell.config(seed),
            environment=machine.environment(),
            diverged=int(fit.diverged[place]),
            seconds={"compile": round(fit.compile_seconds, 3), "run": round(fit.run_seconds / len(numbers), 3)},
            results={name: histories.moments(nats[place], block).to_json() for name, nats in fit.history.items()},
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
    replace(cell, every=800)
    for cell in PAPER
    if (cell.critic == "separable" and len(cell.hidden) == 2) or cell.objective == "gm"
]
# name -> cells, seeds
PRESETS = {"quick": (QUICK, 2), "paper": (PAPER, 10)}
