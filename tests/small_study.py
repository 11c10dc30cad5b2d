"""Studies of a model of two numbers, for the tests of studies; and one that two processes share:

python -m tests.small_study FOLDER HOST:PORT PROCESS
"""

import functools
import sys

import jax
import numpy as np

from mi_jax import training
from mi_jax.training import hosts
from tests import simple

KEYS = jax.random.split(jax.random.key(0), 3)


def select_keys(*numbers):
    return KEYS[np.array(numbers)]


def make_trainer(settings):
    """Two read-outs; the slope of the data stands for the MI."""
    batch = lambda key, step: simple.draw_batch(key, settings["mi"])  # noqa: E731
    return training.trainer(simple.make_model("first", "second"), batch, training.adam(settings.get("rate", 1e-3)))


def study(settings=None, keys=KEYS, make_trainer=make_trainer, **options):
    options = {"steps": 8, "chunk": 4, "batches": 5, "mapped": "map", "truth": lambda s: s["mi"]} | options
    return training.study(make_trainer, settings or training.grid(mi=[0.5, 1.0]), keys, **options)


@functools.cache
def whole_study():
    return study()


def assert_equal(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def numbers(result):
    return result.history, result.fixed, result.states.params, result.states.step, result.finished, result.diverged


if __name__ == "__main__":
    out, address, process = sys.argv[1:]
    with hosts.hosts(address, 2, int(process)):
        study(training.grid(mi=[1.0]), steps=4, chunk=500, batches=2, folder=out)
