import jax
import numpy as np
import pytest

import mi_jax
from mi_jax import tasks


def test_estimate_covers_a_known_value_and_saves(tmp_path):
    x, y = tasks.gaussian(dim=2, mi=1.0).sample(jax.random.key(0), 2_000)
    found = mi_jax.estimate(x, y**3, seeds=5, steps=100)
    assert found.interval[0] < 1.0 < found.interval[1]
    found.save(tmp_path / "mi.npz")
    again = mi_jax.estimation.load(tmp_path / "mi.npz")
    np.testing.assert_array_equal(found.pointwise(x, y**3), again.pointwise(x, y**3))


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        mi_jax.estimate(np.arange(40.0), np.arange(40.0), seeds=0)
