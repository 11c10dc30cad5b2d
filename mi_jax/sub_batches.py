"""Sub-batches: a batch cut into parts within which all pairs are scored, for critics that pay by the pair."""

from typing import NamedTuple

from jaxtyping import Array, Float


class SubBatches(NamedTuple):
    """The score matrices of the sub-batches of a batch, in place of one matrix of all its pairs.

    g sub-batches of m pairs hold g·m joint pairs, each contrasted with the m - 1 others of its sub-batch: g·m² pairs are
    scored, instead of (g·m)². Bounds and projections average over the pairs of all sub-batches together: there is one
    partition estimate, from g·m·(m - 1) negatives. InfoNCE contrasts within a sub-batch, and so has the ceiling log m.

    Attributes:
      scores: (g, m, m) with `scores[k, i, j]` = T(x_i, y_j) of the i-th x and the j-th y of sub-batch k.

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> print(f"{mi_jax.dv(mi_jax.SubBatches(jnp.array([[[3.0, 1.0], [1.0, 3.0]], [[2.0, 1.0], [1.0, 2.0]]]))):.4f}")
      1.5000
    """

    scores: Float[Array, "g m m"]


def drop_remainder(rows: Float[Array, "n ..."], size: int) -> Float[Array, "g m ..."]:
    """Cuts rows into full parts of `size`; those beyond the last are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import sub_batches
      >>> sub_batches.drop_remainder(jnp.arange(7), 3).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
    number = rows.shape[0] // size
    return rows[: number * size].reshape(number, size, *rows.shape[1:])
