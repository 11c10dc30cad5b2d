"""Random numbers from NumPy, where a test is not about sampling: `jax.random` compiles a program for every new shape."""

import jax
import numpy as np


def draw_normal(*shape, seed=0):
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def draw_params(init, *arguments, seed=0, gain=1.0):
    """Random parameters of the shapes that `init` gives, over the root of the fan-in, so that no layer is left at zero."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = leaf.shape[0] if leaf.ndim > 1 else 1
        return np.asarray(gain * rng.standard_normal(leaf.shape) / fan_in**0.5, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(init, *arguments))
