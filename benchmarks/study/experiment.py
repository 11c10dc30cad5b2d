"""What the study trains: a separable critic for each seed, true MI and learning rate; SMILE is read from it at every tau."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import Report, Study

ROOT_KEY = 0
BATCH = 64
TAUS = (0.5, 1.0, 2.0, 5.0, 10.0, float("inf"))


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

    def trainer(self, settings: training.Settings) -> training.Trainer:
        """How a run is trained; `mi` and `learning_rate` are traced."""
        task = tasks.gaussian(self.dim, settings["mi"])
        smiles = {read_out(tau): estimators.smile(tau) for tau in TAUS}
        model = models.discriminative(networks.SeparableCritic(hidden=self.hidden), estimators.share_training(**smiles))
        return training.trainer(model, lambda key, _: task.sample(key, BATCH), training.adam(settings["learning_rate"]))

    def study(
        self, folder: Path, every: float, on_chunk: Callable[[str, Report], None] | None = None, **options: Any
    ) -> Study:
        """Run what is missing of it; the runs are kept in the folder."""
        return training.study(
            self.trainer,
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
