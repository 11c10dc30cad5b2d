"""A study that takes a second, shared by two processes:

python -m tests.small_study FOLDER HOST:PORT PROCESS
"""

import sys

import jax

from mi_jax import training
from mi_jax.training import seeds
from tests import simple


def study(folder):
    def trainer(settings):
        return training.trainer(simple.make_model(), lambda key, step: simple.draw_batch(key, settings["slope"]))

    keys = jax.random.split(jax.random.key(0), 3)
    return training.study(trainer, training.grid(slope=[1.0]), keys, steps=4, batches=2, mapped="map", folder=folder)


if __name__ == "__main__":
    out, address, process = sys.argv[1:]
    with seeds.hosts(address, 2, int(process)):
        study(out)
