import dataclasses

import numpy as np

import mi_jax
from mi_jax.estimation.combine import Independence
from mi_jax.estimation.units import make_units
from tests.estimation.same import assert_same
from tests.quick import N


def test_saved_and_loaded(barely_trained, data, tmp_path):
    tested = dataclasses.replace(
        barely_trained, independence=Independence(0.05, 19, np.array([0.1, np.nan]), np.arange(19.0))
    )
    grouped = dataclasses.replace(barely_trained, units=make_units(N, groups=np.arange(N) // 4))
    for one in (barely_trained, grouped, tested, tested.in_bits()):
        one.save(tmp_path / "mi.npz")
        again = mi_jax.load(tmp_path / "mi.npz")
        assert_same(again, one)
        assert repr(again) == repr(one)
        assert (again.config, again.diagnostics) == (one.config, one.diagnostics)
    np.testing.assert_array_equal(again.pointwise(*data), barely_trained.pointwise(*data))


def test_a_saved_critic_is_made_again(found, data, tmp_path):
    found.save(tmp_path / "mi.npz")
    again = mi_jax.load(tmp_path / "mi.npz")
    assert_same(again, found)
    assert again.config == found.config
