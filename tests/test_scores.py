"""The refusals are tested through the bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import _scores


def test_score_matrix_is_at_least_float32():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        assert _scores.score_matrix(jnp.zeros((2, 2), dtype)).dtype == jnp.float32
    assert _scores.score_matrix(np.zeros((2, 2))).dtype == jnp.float32
    with jax.enable_x64(True):
        assert _scores.score_matrix(np.zeros((2, 2))).dtype == jnp.float64
