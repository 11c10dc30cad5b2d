import numpy as np
import pytest

from mi_jax import training
from tests.small_study import select_keys, study


def test_summaries_are_the_formulas():
    rng = np.random.default_rng(0)
    history = rng.normal(size=(1, 4, 10)).astype(np.float32)
    fixed = rng.normal(size=(1, 4, 7)).astype(np.float32)
    finished, diverged = np.array([[True, True, True, False]]), np.array([[False, True, False, False]])
    states = training.TrainState(*[np.full((1, 4), 3)] * len(training.TrainState._fields))
    result = training.Study({"mi": np.array([2.0])}, np.array([2.0]), {"smile": history}, {"smile": fixed}, states, finished,
                            diverged, 6, 0.0, 0.0)  # fmt: skip
    (row,) = result.summaries()
    last = history[0, [0, 2], 4:].astype(np.float64)
    means = last.mean(axis=1)
    assert row.settings == {"mi": 2.0}
    assert (row.read_out, row.truth, row.runs, row.left_out) == ("smile", 2.0, 2, 1)
    assert row.mean == pytest.approx(last.mean())
    assert row.bias == pytest.approx(last.mean() - 2.0)
    assert row.mean_error == pytest.approx(abs(means[0] - means[1]) / 2)
    assert row.batch_variance == pytest.approx(fixed[0, [0, 2]].var(axis=1, ddof=1).mean())
    assert row.seed_variance == pytest.approx(((last[0] - last[1]) ** 2 / 2).mean())
    assert row.iteration_variance == pytest.approx((last.var(axis=1)).mean())
    assert row.mse == pytest.approx(((last - 2.0) ** 2).mean())  # over iterations and runs, as bias² + variance is
    assert result.left_out() == ["mi 2, seed 1: diverged at step 3 (smile)"]
    assert result.table()[0]["mi"] == 2.0
    assert result.table()[0]["mse"] == row.mse


def test_one_run_has_no_spread_and_none_no_numbers():
    result = study(training.grid(mi=[0.5]), select_keys(0))
    assert all(np.isnan([row.seed_variance, row.mean_error]).all() and np.isfinite(row.mse) for row in result.summaries())
    lost = result._replace(diverged=np.ones_like(result.diverged))
    assert all((row.runs, row.left_out) == (0, 1) and np.isnan([row.mean, row.mse]).all() for row in lost.summaries())
