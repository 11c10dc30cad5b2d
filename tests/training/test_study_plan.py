import jax
import numpy as np
import pytest

from mi_jax import training
from mi_jax.training.study_plan import Plan
from tests.small_study import KEYS, make_trainer


def make_plan(at_once=None, mapped="map", num_devices=2):
    options = {"steps": 8, "batches": 5, "chunk": 4, "devices": jax.devices()[:num_devices]}
    return Plan(make_trainer, training.grid(mi=[0.5, 1.0]), KEYS, at_once=at_once, mapped=mapped, **options)


@pytest.mark.parametrize(
    ("options", "missing", "size"),
    [
        ({}, 6, 2),
        ({}, 1, 1),
        ({"num_devices": 1}, 6, 1),
        ({"mapped": "vmap"}, 5, 5),
        ({"at_once": 4}, 6, 4),
        ({"at_once": 4}, 3, 3),
    ],
)
def test_by_default_one_run_a_device_is_trained_at_once_and_under_vmap_all(options, missing, size):
    assert make_plan(**options).size(missing) == size


def test_runs_are_ordered_by_setting_and_seed_and_keep_their_keys():
    plan = make_plan()
    assert plan.places() == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    some = [(1, 2), (0, 0)]
    np.testing.assert_array_equal(plan.inputs(some).per_run["mi"], [1.0, 0.5])
    np.testing.assert_array_equal(*map(jax.random.key_data, (plan.select_keys(some), KEYS[np.array([2, 0])])))
    assert plan.values(1) == {"mi": 1.0}


def test_the_shapes_of_a_result_are_those_of_a_run():
    shapes = make_plan().result_shapes()
    assert {name: values.shape for name, values in shapes.history.items()} == {"first": (8,), "second": (8,)}
    assert {name: values.shape for name, values in shapes.fixed.items()} == {"first": (5,), "second": (5,)}
    assert shapes.state.step.shape == ()
