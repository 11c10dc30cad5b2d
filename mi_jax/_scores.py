"""Checks of score matrices, and of what stands for one."""

from typing import Any

from jaxtyping import Array, Float

from mi_jax import _checks
from mi_jax.lazy_scores import LazyScores
from mi_jax.sub_batches import SubBatches


def all_pairs(scores: Any, name: str = "scores") -> Float[Array, "*g n n"] | LazyScores:
    """As `score_matrix`, but `LazyScores` pass as they are: `lazy_scores.make` has checked them."""
    return scores if isinstance(scores, LazyScores) else score_matrix(scores, name)


def score_matrix(scores: Any, name: str = "scores") -> Float[Array, "*g n n"]:
    """`scores`, checked and in at least float32, the precision that every reduction uses; sub-batches have an axis more."""
    if isinstance(scores, LazyScores):
        raise TypeError(f"{name} must be a score matrix here, since the log ratios of all pairs are wanted, got LazyScores")
    if isinstance(scores, SubBatches):
        return _matrices(_checks.floating(scores.scores, name), name)
    array = _checks.floating(scores, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {array.shape}")
    if array.shape[0] < 2:
        raise ValueError(f"{name} must hold at least 2 pairs, so that there are negatives, got shape {array.shape}")
    return array


def _matrices(array: Float[Array, "g m m"], name: str) -> Float[Array, "g m m"]:
    if array.ndim != 3 or array.shape[1] != array.shape[2] or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(
            f"{name} of SubBatches must be square matrices, (sub-batches, m, m) with m at least 2, got shape {array.shape}"
        )
    return array


def per_row(value: Any, scores: Float[Array, "*g n n"] | LazyScores, name: str) -> Float[Array, "*g n"]:
    """`value`, checked to hold one number for each row of `scores`."""
    array = _checks.floating(value, name)
    if array.shape != scores.shape[:-1]:
        raise ValueError(f"{name} must have one entry per row of scores, shape {scores.shape[:-1]}, got {array.shape}")
    return array
