"""What bfloat16 in the hidden layers does to estimates: bias and variance beside float32, seed by seed.

    python -m benchmarks.throughput.precision --out DIR

trains each seed twice, on the same batches from the same start, with the hidden layers' products in float32 and in bfloat16,
and reads out InfoNCE or SMILE over the last steps. One row a critic, objective and MI, and a page from the rows; rows on
disk are not made again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks.lib import cli, machine, page, rows, runner
from benchmarks.lib.rows import Row
from mi_jax import estimators, models, networks, tasks, training

DIM, BATCH, MIS = 20, 64, (2.0, 6.0, 10.0)
TYPES = {"float32": None, "bfloat16": jnp.bfloat16}
CRITICS = {"joint": networks.JointCritic, "separable": networks.SeparableCritic}
OBJECTIVES: Mapping[str, Callable[..., estimators.Estimator]] = {"infonce": estimators.infonce, "smile": estimators.smile}


@dataclass(frozen=True)
class Cell:
    """One critic and objective, at one MI: so many seeds and steps, read out over the last ones."""

    critic: str
    objective: str
    mi: float
    seeds: int
    steps: int
    last: int

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.critic} {self.objective}, MI {self.mi:g}, {self.seeds} seeds, {self.steps} steps"

    def trainer(self, dtype: Any) -> training.Trainer:
        """How a seed is trained, with hidden layers of this type."""
        task = tasks.gaussian(DIM, self.mi)
        model = models.discriminative(CRITICS[self.critic](dtype=dtype), OBJECTIVES[self.objective]())
        return training.trainer(model, lambda key, _: task.sample(key, BATCH))

    def measure(self) -> Row:
        """The row: for each type, the mean and variance of each seed over the last steps."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        results: dict[str, Any] = {}
        for name, dtype in TYPES.items():
            fit = training.fit(self.trainer(dtype), keys, steps=self.steps)
            last = np.float64(fit.history[self.objective][:, -self.last :])
            results[name] = {
                "mean": last.mean(axis=1).tolist(),
                "variance": last.var(axis=1, ddof=1).tolist(),
                "diverged": int(fit.diverged.sum()),
                "run_seconds": round(fit.run_seconds, 2),
            }
        diverged, seconds = (sum(each[name] for each in results.values()) for name in ("diverged", "run_seconds"))
        return Row("precision", asdict(self), machine.environment(), diverged, {"run": seconds}, results)


def covers(config: Mapping[str, Any]) -> tuple[Cell, Sequence[int]]:
    """The cell of a row."""
    return Cell(**config), [0]


def experiment(cells: Sequence[Cell]) -> runner.Experiment:
    """The cells, for the runner."""
    return runner.Experiment(
        name="precision",
        wanted=dict.fromkeys(cells, 1),
        covers=covers,
        predict=runner.predict_by_kind(
            covers, lambda cell: cell.critic, lambda cell: cell.seeds * cell.steps, lambda _: math.nan
        ),
        run=runner.measuring(Cell.measure),
        unit="",
        describe=lambda made: "; ".join(map(str, map(line, made))),
    )


def interval(differences: np.ndarray) -> str:
    """The mean of paired differences, and its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.4f} ± {half:.4f}"


def line(row: Row) -> list[str]:
    """The table's line of a row."""
    config, types = row.config, row.results
    low, full = types["bfloat16"], types["float32"]
    means = {name: np.array(of["mean"]) for name, of in types.items()}
    variances = {name: np.array(of["variance"]) for name, of in types.items()}
    logs = np.log(variances["bfloat16"] / variances["float32"])
    return [
        config["critic"],
        config["objective"],
        f"{config['mi']:g}",
        f"{means['float32'].mean() - config['mi']:+.3f}",
        interval(means["bfloat16"] - means["float32"]),
        f"{variances['float32'].mean():.4f}",
        interval(logs),
        f"{low['run_seconds'] / full['run_seconds']:.2f}",
        f"{low['diverged']} / {full['diverged']}",
    ]


HEADER = [
    "critic", "estimate", "MI, nats", "bias, float32", "bfloat16 less float32, nats", "variance, float32",
    "log of the variances' ratio", "time, bfloat16 / float32", "diverged",
]  # fmt: skip


def draw(out: Path) -> list[Path]:
    """Write the page from the rows."""
    found = rows.read_all(out / "rows", "precision")
    found.sort(key=lambda row: [row.config[name] for name in ("critic", "objective", "mi")])
    shapes = sorted({(row.config["seeds"], row.config["steps"], row.config["last"]) for row in found})
    runs = "; ".join(f"{number} seeds of {steps:,} steps, the last {last:,} read out" for number, steps, last in shapes)
    where = machine.description(*(row.environment for row in found))
    parts = [
        "# bfloat16 in the hidden layers",
        f"Written by `python -m benchmarks.throughput.precision` on {where}.\n"
        f"Gaussian task of {DIM} + {DIM} dimensions, n = {BATCH}; {runs}.\n"
        "Each seed is trained twice, on the same batches from the same start. Differences are paired; ± is a 95 % interval\n"
        "over the seeds; variance is over batches, within a seed.",
        page.table([line(row) for row in found], HEADER),
        "On a CPU without products of bfloat16 the times say nothing of accelerators.",
    ]
    return [page.write(out / "precision.md", parts)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the page."""
    parser = cli.parser("throughput.precision", __doc__)
    cli.add_run_options(parser, "rows and the page")
    parser.add_argument("--critics", nargs="+", choices=CRITICS, default=["separable"])
    parser.add_argument("--seeds", type=cli.positive_int, default=16, help="seeds of each")
    parser.add_argument("--steps", type=cli.positive_int, default=4_000, help="training steps")
    options = parser.parse_args(arguments)
    cells = [
        Cell(critic, objective, mi, options.seeds, options.steps, max(2, options.steps // 4))
        for critic in options.critics
        for objective in OBJECTIVES
        for mi in MIS
    ]
    cli.run(parser, options, lambda: experiment(cells), draw)


if __name__ == "__main__":
    main()
