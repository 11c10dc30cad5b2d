"""Training: a seed as a function of its key (`trainer`), many on every device (`seeds`), and many settings (`studies`)."""

from mi_jax.training.checkpoints import Checkpoint
from mi_jax.training.early_stopping import EarlyStopState, chosen, early_stopping
from mi_jax.training.seeds import Fit, fit
from mi_jax.training.studies import Study, Summary, grid, study
from mi_jax.training.trainer import Run, Settings, Trainer, TrainState, adam, fixed_read_outs, scan_steps, swept, trainer

__all__ = [
    "Checkpoint",
    "EarlyStopState",
    "Fit",
    "Run",
    "Settings",
    "Study",
    "Summary",
    "TrainState",
    "Trainer",
    "adam",
    "chosen",
    "early_stopping",
    "fit",
    "fixed_read_outs",
    "grid",
    "scan_steps",
    "study",
    "swept",
    "trainer",
]
