"""Estimates made by hand, for tests of what the command line prints. The numbers in them mean nothing."""

import functools
import math

import numpy as np

from mi_jax import networks
from mi_jax.cli.samples import Samples
from mi_jax.consistency import Measured, SelfConsistency, judge_ratio
from mi_jax.estimation import Estimate
from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.combine import Independence
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.cross_fitting import Seconds
from mi_jax.estimation.diagnostics import Diagnostics
from mi_jax.estimation.units import make_units


def samples():
    x = np.random.default_rng(0).normal(size=(40, 2))
    return Samples(x, x[:, :1] ** 2, ("a", "b"), ("c",), dropped=3)


@functools.cache
def fitted_columns():
    return fit_columns(samples().x, "x"), fit_columns(samples().y, "y")


def diagnostics(**changes):
    figures = Diagnostics(
        train=1.25,
        log_normaliser=math.log(1.02),
        effective_pairs=1_234.0,
        pairs=5_678.0,
        tau=5.5,
        clipped_joint=0.031,
        clipped_pairs=0.0425,
        ceiling=5.99,
        read_outs={"dv": 1.111, "nwj": 1.122},
        best_step=(50, 0),
        last_step=(100, 50),
        diverged=(False, True),
        training_error=0.01,
    )
    return figures._replace(**changes)


def estimate(**changes):
    values = {
        "mi": 1.2,
        "stderr": 0.05,
        "interval": (1.09, 1.34),
        "allowance": (0.012, 0.042),
        "confidence": 0.95,
        "per_fold": np.array([1.2, np.nan]),
        "influence": np.linspace(-1.0, 1.0, 40),
        "history": {"validation_loss": np.array([[0.5, 0.4], [0.3, np.nan]])},
        "diagnostics": diagnostics(),
        "warnings": {"overfitting": "there are too few samples", "diverged": "the training of folds 1 diverged"},
        "independence": None,
        "config": FitConfig("smile", networks.BilinearCritic(), 32, 8, 2, 6, 2e-3, 4_194_304),
        "seconds": Seconds(3.0, 2.0, 1.0),
        "columns": fitted_columns(),
        "units": make_units(40),
        "variables": {"params": {"kernel": np.zeros((2, 3))}},
    }
    return Estimate(**values | changes)


def no_estimate():
    """All fits failed."""
    nothing = (math.nan, math.nan)
    return estimate(
        mi=math.nan,
        stderr=math.nan,
        interval=nothing,
        allowance=nothing,
        diagnostics=diagnostics(log_normaliser=math.inf, train=math.nan),
        warnings={"no_estimate": "no fold gave a finite estimate"},
    )


def independence():
    return Independence(0.05, 19, np.array([]), np.linspace(-0.1, 0.1, 19))


def consistency():
    once, twice, nothing = Measured(1.0, 0.95, 1.05), Measured(1.5, 1.4, 1.6), Measured(0.0, -0.05, 0.05)
    return SelfConsistency(
        judge_ratio("independence", "I(X; shuffled Y) = 0", {"I(X; shuffled Y)": nothing, "I(X; Y)": once}, 0.0),
        judge_ratio(
            "data processing", "I(g(X); h(Y)) ≤ I(X; Y)", {"I(g(X); h(Y))": once, "I(X; Y)": once}, 1.0, at_most=True
        ),
        judge_ratio("stacked", "I([X, g(X)]; [Y, h(Y)]) = I(X; Y)", {"I(stacked)": nothing, "I(X; Y)": nothing}, 1.0),
        judge_ratio(
            "additivity", "I([X, X']; [Y, Y']) = 2 I(X; Y)", {"I(copies)": twice, "I of half of the rows": once}, 2.0
        ),
    )
