"""Training: one seed as a function of its key (`trainer`), and many of them on every device there is (`seeds`)."""

from mi_jax.training.seeds import Fit, fit
from mi_jax.training.trainer import Trainer, TrainState, adam, scan_steps, trainer

__all__ = ["Fit", "TrainState", "Trainer", "adam", "fit", "scan_steps", "trainer"]
