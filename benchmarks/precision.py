"""What bfloat16 in the hidden layers does to estimates: bias and variance beside float32, seed by seed.

    python -m benchmarks.precision --out DIR

trains each seed twice, on the same batches from the same start, with the hidden layers' products in float32 and in bfloat16,
and reads out InfoNCE or SMILE over the last steps. One row a critic, objective and MI, and a page from the rows; rows on
disk are not made again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import stats
from tabulate import tabulate

from benchmarks import rows
from benchmarks.lib import cli, machine
from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import seeds

DIM, BATCH, MIS = 20, 64, (2.0, 6.0, 10.0)
TYPES = {"float32": None, "bfloat16": jnp.bfloat16}
CRITICS = {"joint": networks.JointCritic, "separable": networks.SeparableCritic}
OBJECTIVES = {"infonce": estimators.infonce, "smile": estimators.smile}


@dataclass(frozen=True)
class Cell:
    """One critic and objective, at one MI: so many seeds and steps, read out over the last ones."""

    critic: str
    objective: str
    mi: float
    seeds: int
    steps: int
    last: int

    def recipe(self, dtype: Any) -> training.Trainer:
        """How a seed is trained."""
        task = tasks.gaussian(DIM, self.mi)
        model = models.discriminative(CRITICS[self.critic](dtype=dtype), OBJECTIVES[self.objective]())

        def batch(key: Array, step: Array) -> tuple[Array, Array]:
            del step
            return task.sample(key, BATCH)

        return training.trainer(model, batch)

    def measure(self) -> dict[str, Any]:
        """The row: of each type, each seed's mean and variance over the last steps."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        found: dict[str, Any] = {}
        for name, dtype in TYPES.items():
            fit = seeds.fit(self.recipe(dtype), keys, steps=self.steps)
            last = np.float64(fit.history[self.objective][:, -self.last :])
            found[name] = {
                "mean": last.mean(axis=1).tolist(),
                "variance": last.var(axis=1, ddof=1).tolist(),
                "diverged": int(fit.diverged.sum()),
                "run_seconds": round(fit.run_seconds, 2),
            }
        return {"config": asdict(self), "environment": machine.environment(), "types": found}


def interval(differences: np.ndarray) -> str:
    """The mean of paired differences, and its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.4f} ± {half:.4f}"


def line(row: Mapping[str, Any]) -> list[str]:
    """The table's line of a row."""
    config, types = row["config"], row["types"]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and the page")
    parser.add_argument("--critics", nargs="+", choices=CRITICS, default=["separable"])
    parser.add_argument("--seeds", type=cli.positive_int, default=16, help="seeds of each")
    parser.add_argument("--steps", type=cli.positive_int, default=4_000, help="training steps")
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    with cli.clear_errors(parser):
        (options.out / "rows").mkdir(parents=True, exist_ok=True)
        for critic in options.critics:
            for objective in OBJECTIVES:
                for mi in MIS:
                    cell = Cell(critic, objective, mi, options.seeds, options.steps, max(2, options.steps // 4))
                    path = options.out / "rows" / f"{critic}-{objective}-{mi:g}-{options.seeds}-{options.steps}.json"
                    if not path.exists():
                        rows.store(path, cell.measure())
                    print(line(json.loads(path.read_text())), flush=True)
        read = [json.loads(path.read_text()) for path in sorted((options.out / "rows").glob("*.json"))]
        kept = sorted(read, key=lambda row: [row["config"][name] for name in ("critic", "objective", "mi")])
        shapes = sorted({(row["config"]["seeds"], row["config"]["steps"], row["config"]["last"]) for row in kept})
        runs = "; ".join(f"{number} seeds of {steps:,} steps, the last {last:,} read out" for number, steps, last in shapes)
        text = (
            "# bfloat16 in the hidden layers\n\n"
            f"Written by `python -m benchmarks.precision` on {machine.description(*(row['environment'] for row in kept))}.\n"
            f"Gaussian task of {DIM} + {DIM} dimensions, n = {BATCH}; {runs}.\n"
            "Each seed is trained twice, on the same batches from the same start. Paired differences; ± is a 95 % interval\n"
            "over the seeds; variance is that over batches, within a seed.\n\n"
            + tabulate([line(row) for row in kept], HEADER, tablefmt="github", disable_numparse=True)
            + "\n\nOn a CPU without products of bfloat16 the times say nothing of accelerators.\n"
        )
        (options.out / "precision.md").write_text(text)
        print(options.out / "precision.md")


if __name__ == "__main__":
    main()
