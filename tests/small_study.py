"""A study that takes a second, shared by two processes:

python -m tests.small_study FOLDER HOST:PORT PROCESS
"""

import sys

import jax

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import seeds


def study(folder):
    def trainer(settings):
        model = models.discriminative(networks.SeparableCritic(hidden=(4,), embed=2), estimators.infonce())
        return training.trainer(model, lambda key, step: tasks.gaussian(2, settings["mi"]).sample(key, 8))

    keys = jax.random.split(jax.random.key(0), 3)
    return training.study(trainer, training.grid(mi=[1.0]), keys, steps=4, batches=2, mapped="map", folder=folder)


if __name__ == "__main__":
    out, address, process = sys.argv[1:]
    with seeds.hosts(address, 2, int(process)):
        study(out)
