"""Lazy scores: those of all pairs of a batch without their matrix, made a block of rows at a time when they are needed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree


class LazyScores(NamedTuple):
    """A score matrix that is never held: each bound scores the rows of x block by block, and so does its gradient.

    Memory grows with the rows times the size of a block, of a critic's hidden layers too, and not with the square of the
    rows; a gradient costs a forward pass more. `lazy_scores.make` makes one; `models.discriminative(..., row_block=…)`
    trains on them.

    Attributes:
      pair: `(codes_x, codes_y) -> (k, n)` scores, as a `jax.tree_util.Partial` of the critic's parameters.
      x: what `pair` takes of x, each leaf (blocks, k, …), the last block padded.
      y: what it takes of y, each leaf (n, …).

    Example:
      >>> import jax, jax.numpy as jnp, mi_jax
      >>> from mi_jax import lazy_scores
      >>> x = jax.random.normal(jax.random.key(0), (5, 3))
      >>> scores = lazy_scores.make(lambda x, y: x @ y.T, x, x, row_block=2)
      >>> scores.shape
      (5, 5)
      >>> bool(jnp.allclose(mi_jax.smile(scores), mi_jax.smile(x @ x.T), rtol=1e-5))
      True
    """

    pair: Callable[[Any, Any], Float[Array, "k n"]]
    x: PyTree[Float[Array, "b k ..."]]
    y: PyTree[Float[Array, "n ..."]]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        n = len(jax.tree.leaves(self.y)[0])
        return n, n

    @property
    def dtype(self) -> Any:
        """The type that scores have when they are reduced."""
        first = jax.tree.map(lambda leaf: leaf[0], self.x)
        return jnp.promote_types(jax.eval_shape(self.pair, first, self.y).dtype, jnp.float32)

    def by_rows(self, function: Callable[..., PyTree[Float[Array, " k"]]], *per_row: Float[Array, " n"]) -> Any:
        """`function(scores, own, *per_row)` of each block of rows, which gives a number a row: all n of them.

        `scores` is (k, n); `own` (k, n) tells which are joint pairs; `per_row` are the block's part of these (n,).
        """
        n, size = self.shape[0], len(jax.tree.leaves(self.x)[0][0])

        def score_block(block: tuple[Any, Array, tuple[Array, ...]]) -> Any:
            x, numbers, values = block
            return function(self.pair(x, self.y).astype(self.dtype), mark_joint(numbers, n), *values)

        blocks = self.x, number_rows(n, size), pad_to_blocks(per_row, size)
        return drop_padding(jax.lax.map(jax.checkpoint(score_block), blocks), n)

    def transpose(self) -> "LazyScores":
        """The scores with x and y exchanged, in blocks of as many rows."""
        n, size = self.shape[0], len(jax.tree.leaves(self.x)[0][0])
        pair = jax.tree_util.Partial(_pair_exchanged, self.pair)
        return LazyScores(pair, pad_to_blocks(self.y, size), drop_padding(self.x, n))

    def diagonal(self) -> Float[Array, " n"]:
        """The scores of the joint pairs, n evaluations."""
        size = len(jax.tree.leaves(self.x)[0][0])

        def score_pair(x: Any, y: Any) -> Float[Array, ""]:
            as_rows = lambda codes: jax.tree.map(lambda leaf: leaf[None], codes)  # noqa: E731
            return self.pair(as_rows(x), as_rows(y))[0, 0].astype(self.dtype)

        blocks = self.x, pad_to_blocks(self.y, size)
        scores = jax.lax.map(jax.checkpoint(lambda block: jax.vmap(score_pair)(*block)), blocks)
        return drop_padding(scores, self.shape[0])


def _pair_exchanged(pair: Callable[[Any, Any], Array], y: Any, x: Any) -> Float[Array, "k n"]:
    return pair(x, y).T


def make(
    pair: Callable[[Any, Any], Float[Array, "k n"]],
    x: PyTree[Float[Array, "n ..."]],
    y: PyTree[Float[Array, "n ..."]],
    row_block: int,
) -> LazyScores:
    """The scores of all pairs of paired rows, made when they are needed.

    Args:
      pair: `(x, y) -> (k, n)` scores of some rows of x against all of y; a `jax.tree_util.Partial` if gradients of its
        parameters are wanted.
      x: (n, *x_shape) rows, or a critic's codes of them.
      y: (n, *y_shape) their partners, likewise.
      row_block: rows of x that are scored at once.

    Returns:
      `LazyScores`, which bounds and estimators take in the place of a score matrix.

    Raises:
      TypeError: if `pair` is no function, or `row_block` no integer.
      ValueError: if there are not as many rows of x as of y, at least 2, `row_block` is below 1, or `pair` does not give
        floating scores (k, n).

    Example:
      >>> import jax.numpy as jnp, mi_jax
      >>> from mi_jax import lazy_scores
      >>> scores = lazy_scores.make(lambda x, y: 3.0 * (x[:, None] == y), jnp.arange(4.0), jnp.arange(4.0), row_block=3)
      >>> print(f"{mi_jax.infonce(scores):.4f}")
      1.2471
    """
    if not callable(pair):
        raise TypeError(f"pair must be a function of rows of x and of y, got {type(pair).__name__}")
    if not hasattr(row_block, "__index__"):
        raise TypeError(f"row_block must be an integer, got {type(row_block).__name__}")
    rows = {len(leaf) for leaf in jax.tree.leaves((x, y))}
    if len(rows) != 1 or min(rows) < 2:
        raise ValueError(f"x and y must hold the same number of rows, at least 2, got {sorted(rows)}")
    if row_block < 1:
        raise ValueError(f"row_block must be at least 1, got {row_block}")
    partial = pair if isinstance(pair, jax.tree_util.Partial) else jax.tree_util.Partial(pair)
    size = min(row_block, *rows)
    lazy = LazyScores(partial, pad_to_blocks(x, size), y)
    scores, expected = jax.eval_shape(partial, jax.tree.map(lambda leaf: leaf[0], lazy.x), y), (size, *rows)
    if scores.shape != expected or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"pair must give floating scores of shape {expected}, got {scores.dtype} of {scores.shape}")
    return lazy


def pad_to_blocks(rows: PyTree[Float[Array, "n ..."]], size: int) -> PyTree[Float[Array, "b k ..."]]:
    """Rows in blocks of `size`, the last padded with copies of the last row."""

    def pad(leaf: Array) -> Array:
        number = -(-len(leaf) // size)
        padding = [(0, number * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding, mode="edge").reshape(number, size, *leaf.shape[1:])

    return jax.tree.map(pad, rows)


def drop_padding(blocks: PyTree[Float[Array, "b k ..."]], n: int) -> PyTree[Float[Array, "n ..."]]:
    """Undoes `pad_to_blocks`: n rows, without the padding."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], blocks)


def number_rows(n: int, size: int) -> Int[Array, "b k"]:
    """The numbers of the rows of each block; the padding has the numbers from n on."""
    number = -(-n // size)
    return jnp.arange(number * size).reshape(number, size)


def mark_joint(numbers: Int[Array, " k"], n: int) -> Bool[Array, "k n"]:
    """Which pairs of a block are joint ones."""
    return numbers[:, None] == jnp.arange(n)
