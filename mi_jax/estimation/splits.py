"""Which rows each fold trains on, which decide when to stop, and which it is tested on."""

from typing import NamedTuple

import numpy as np

FOLDS = 5
VALIDATION_SHARE = 0.1


class Split(NamedTuple):
    """The rows of one fold, by number."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def make_splits(num_rows: int, folds: int, repeats: int, rng: np.random.Generator) -> list[Split]:
    """The rows of every fold: each repeat cuts a new permutation of the rows into `folds` test sets.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.splits import make_splits
      >>> splits = make_splits(20, 5, 1, np.random.default_rng(0))
      >>> len(splits), len(splits[0].train), len(splits[0].valid), len(splits[0].test)
      (5, 14, 2, 4)
    """
    tests, valids = num_rows // folds, max(2, round(VALIDATION_SHARE * num_rows))
    splits: list[Split] = []
    for _ in range(repeats):
        order = rng.permutation(num_rows)
        for start in range(0, folds * tests, tests):
            rest = rng.permutation(np.delete(order, np.s_[start : start + tests]))
            splits.append(Split(rest[valids:], rest[:valids], order[start : start + tests]))
    return splits


def split_sizes(num_rows: int, folds: int) -> tuple[int, int, int]:
    """How many rows a fold trains on, how many decide when to stop, and how many it is tested on."""
    split = make_splits(num_rows, folds, 1, np.random.default_rng(0))[0]
    return len(split.train), len(split.valid), len(split.test)
