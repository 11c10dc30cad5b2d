"""Training: one seed as a function of its key (`trainer`), many on every device (`runs`), many settings (`studies`)."""

from mi_jax.training.checkpoints import Checkpoint
from mi_jax.training.early_stopping import EarlyStopState, early_stopping, select_parameters
from mi_jax.training.runs import Fit, Report, fit
from mi_jax.training.studies import grid, study
from mi_jax.training.study_plan import Settings
from mi_jax.training.summaries import Study, Summary
from mi_jax.training.trainer import Inputs, Trainer, TrainState, adam, fixed_read_outs, from_inputs, scan_steps, trainer

__all__ = [
    "Checkpoint",
    "EarlyStopState",
    "Fit",
    "Inputs",
    "Report",
    "Settings",
    "Study",
    "Summary",
    "TrainState",
    "Trainer",
    "adam",
    "early_stopping",
    "fit",
    "fixed_read_outs",
    "from_inputs",
    "grid",
    "scan_steps",
    "select_parameters",
    "study",
    "trainer",
]
