import math

import numpy as np
import pytest

from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.cross_fitting import Fitted
from mi_jax.estimation.diagnostics import diagnose
from mi_jax.estimation.read_out import HeldOut
from mi_jax.networks import BilinearCritic, CanonicalCritic

# Two folds that are used, with means of 1.0, and one that is left out, with 99 or NaN.
HELD_OUT = {name: np.array([0.9, 1.1, 99.0]) for name in HeldOut._fields}
FITTED = Fitted(
    held_out=HeldOut(**HELD_OUT | {"others": {"dv": np.array([0.9, 1.1, 99.0])}, "group": np.full(3, 20.0)}),
    variables={},
    history={"validation_loss": np.array([[0.5, -0.4, -0.2], [0.3, -0.6, np.nan], [99.0, np.nan, np.nan]])},
    best_round=np.array([2, 2, 1]),
    last_round=np.array([3, 2, 1]),
    diverged=np.array([False, False, True]),
    start_loss=np.array([-1.0, -1.6, 99.0]),
    lowest_loss=np.array([-0.4, -0.6, 99.0]),
    weights=np.array([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]),
)


def test_diagnose_takes_means_of_the_folds_that_are_used():
    parts = tuple(FitConfig("smile", critic, 8, 8, 1, 1, 1e-3, 10) for critic in (BilinearCritic(), CanonicalCritic()))
    ours = diagnose(parts[0]._replace(candidates=parts), FITTED, np.array([True, True, False]), 0.25)
    for name in ("train", "log_normaliser", "effective_pairs", "pairs", "tau", "clipped_joint", "clipped_pairs"):
        assert getattr(ours, name) == pytest.approx(1.0)
    assert ours.read_outs == {"dv": pytest.approx(1.0)}
    assert ours.ceiling == pytest.approx(math.log(20))
    assert (ours.best_step, ours.last_step, ours.diverged) == ((100, 100, 50), (150, 100, 50), (False, False, True))
    assert ours.training_error == 0.25
    assert ours.weights == {"bilinear": (0.75, 0.5, 1.0), "canonical": (0.25, 0.5, 0.0)}
    assert diagnose(parts[0], FITTED, np.array([True, True, False]), 0.25).weights == {}
    # The lowest losses are -0.4 and -0.6, which is 0.8 above the start.
    assert ours.rise == pytest.approx(0.8)
