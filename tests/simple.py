"""A model of two numbers, for tests of what trains models: its programs compile in a fraction of the time of a critic's."""

import math

import jax
import jax.numpy as jnp

from mi_jax import models


def draw_uniform(key, *shape):
    """Numbers from 0 to 1 that depend on the key: by a short hash, as `jax.random` takes half a second to compile."""
    words = jax.random.key_data(key).astype(jnp.uint32)
    place = jnp.arange(1, 1 + math.prod(shape), dtype=jnp.uint32).reshape(shape)
    mixed = place * jnp.uint32(0x9E3779B9) + words[0] * jnp.uint32(0x85EBCA6B) + words[-1]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return (mixed >> 8).astype(jnp.float32) / 2**24


def make_model(*read_outs):
    """Least squares of y on x, with a state that follows the losses, as MINE's does.

    The read-outs, in alphabetical order, are the loss plus 0, plus 1, and so on.
    """

    def loss(variables, state, x, y):
        error = jnp.mean((y - x @ variables["params"]["w"]) ** 2)
        apart = jax.lax.stop_gradient(error)
        nats = {name: apart + number for number, name in enumerate(read_outs or ("error",))}
        return error, (0.5 * state + apart, nats)

    def init(key, x, y):
        return {"params": {"w": draw_uniform(key, 2)}}

    return models.Model(init, lambda key: jnp.zeros(()), loss, None)


def draw_batch(key, slope=3.0):
    """Eight rows x, and y = slope · (x₁ + x₂) and noise."""
    drawn = draw_uniform(key, 8, 3)
    return drawn[:, :2], slope * drawn[:, :2].sum(axis=1) + drawn[:, 2]
