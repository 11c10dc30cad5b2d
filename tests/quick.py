"""Estimates that take a second, for tests: a small network and few steps, and one that learns little and compiles fast."""

import jax
import numpy as np

import mi_jax
from mi_jax import networks

N = 1_000
CRITIC = networks.GaussianCritic(hidden=(16, 16))
LIGHT = {"critic": networks.BilinearCritic(), "steps": 50, "batch": 64}


def quick(x, y, **options):
    return mi_jax.estimate(
        x, y, **{"critic": CRITIC, "steps": 400, "batch": 64, "learning_rate": 1e-2, "patience": 150} | options
    )


def light(x, y, **options):
    return mi_jax.estimate(x, y, **LIGHT | options)


def draw(task, seed=0, n=N):
    return tuple(map(np.asarray, task.sample(jax.random.key(seed), n)))
