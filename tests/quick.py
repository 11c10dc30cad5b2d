"""Estimates for tests: `closed` needs no training, `quick` learns in a second, `light` learns little, `thorough` is for slow
tests of statistics.

An estimate here costs what its compilation costs: 15 seconds of CPU time for `quick`, 6 for `light`, 3 for `closed`. A
program is compiled for one shape and one configuration. So tests take `N` rows of 2 + 2 columns, and change only what the
program takes as data: the rows, the key, tau, the confidence.
"""

import jax
import numpy as np

import mi_jax
from mi_jax import networks

N = 1_000
QUICK = {
    "critic": networks.GaussianCritic(hidden=(8,)),
    "steps": 500,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "patience": 150,
}
# The configuration of tests/estimation/test_cross_fitting.py, which then shares the compiled program.
LIGHT = {
    "critic": networks.BilinearCritic(),
    "steps": 200,
    "batch_size": 64,
    "num_negatives": 7,
    "learning_rate": 5e-3,
    "patience": 100,
}
# On top of `light`, with the pairs of the whole batch.
INFONCE = {"estimator": "infonce", "num_negatives": None, "max_pairs": 8_000, "steps": 300, "learning_rate": 3e-2}


def closed(x, y, **options):
    return mi_jax.estimate(x, y, critic=networks.GaussianCritic(hidden=()), **options)


def quick(x, y, **options):
    return mi_jax.estimate(x, y, **QUICK | options)


def light(x, y, **options):
    return mi_jax.estimate(x, y, **LIGHT | options)


def thorough(x, y, **options):
    return quick(x, y, **{"critic": networks.GaussianCritic(hidden=(16, 16)), "steps": 400} | options)


def draw(task, seed=0, n=N):
    return tuple(map(np.asarray, task.sample(jax.random.key(seed), n)))
