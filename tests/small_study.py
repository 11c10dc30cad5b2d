"""Studies of a model of two numbers, for the tests of studies."""

import functools

import jax
import numpy as np

from mi_jax import training
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


def shared_study(folder):
    """The study that `tests.shared_study` runs in two processes."""
    return study(training.grid(mi=[1.0]), steps=4, chunk=500, batches=2, folder=folder)
