"""Which rows each fold trains on, which decide when to stop, and which it is tested on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from mi_jax.estimation.units import Units

FOLDS = 5
VALIDATION_SHARE = 0.1
MOST_LEFT_OUT = 0.05
LEAST_BEFORE = 16  # rows to train on and to stop by, for a test of the next ones


class Split(NamedTuple):
    """The rows of one fold, by number.

    Attributes:
      train: those to train on, in random order.
      valid: those that decide when to stop. Negatives must be of different units, so `apart` neighbours among them are.
      test: those that the fold is read out on, in random order.
      apart: see `valid`; None if all rows are independent.
    """

    train: Int[np.ndarray, " t"]
    valid: Int[np.ndarray, " v"]
    test: Int[np.ndarray, " k"]
    apart: int | None = None


def make_splits(units: Units, folds: int, repeats: int, rng: np.random.Generator) -> list[Split]:
    """The rows of every fold: each repeat cuts the units anew into `folds` test sets.

    Single rows are cut at random; what the division leaves over is not tested. Groups are dealt out in random order, large
    ones first, each to the fold with the fewest rows. Blocks stay in their order, and as many rows as a block are left out
    on both sides of what tests and of what decides when to stop.

    Raises:
      ValueError: if a fold would have one group alone, or blocks leave too few rows to train on.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.splits import make_splits
      >>> from mi_jax.estimation.units import make_units
      >>> splits = make_splits(make_units(20), 5, 1, np.random.default_rng(0))
      >>> len(splits), len(splits[0].train), len(splits[0].valid), len(splits[0].test)
      (5, 14, 2, 4)
    """
    cut = {"rows": _cut_rows, "groups": _cut_groups, "blocks": _cut_blocks}[units.kind]
    return [split for repeat in range(repeats) for split in cut(units, folds, rng, repeat)]


def _num_valid(num_rows: int) -> int:
    return max(2, round(VALIDATION_SHARE * num_rows))


def _cut_rows(units: Units, folds: int, rng: np.random.Generator, repeat: int) -> list[Split]:
    del repeat
    num_rows = len(units.of_row)
    tests, valids = num_rows // folds, _num_valid(num_rows)
    order, splits = rng.permutation(num_rows), []
    for start in range(0, folds * tests, tests):
        rest = rng.permutation(np.delete(order, np.s_[start : start + tests]))
        splits.append(Split(rest[valids:], rest[:valids], order[start : start + tests]))
    return splits


def _cut_groups(units: Units, folds: int, rng: np.random.Generator, repeat: int) -> list[Split]:
    del repeat
    fold_of, splits = _deal(units, folds, rng), []
    for fold in range(folds):
        others = np.flatnonzero(fold_of != fold)
        splits.append(_split_groups(units, others, np.flatnonzero(fold_of == fold), _num_valid(len(units.of_row)), rng))
    return splits


def _deal(units: Units, folds: int, rng: np.random.Generator) -> Int[np.ndarray, " units"]:
    """The fold in which each group is tested: of about as many rows, and of two groups at least."""
    sizes, order = np.bincount(units.of_row), rng.permutation(units.number)
    if sizes.max() > sizes.sum() / folds:
        raise ValueError(
            f"groups must be smaller than each of the {folds} folds, but the largest holds {sizes.max()} of the "
            f"{sizes.sum()} rows: cut it, or take fewer folds"
        )
    # Large ones first, so that none is left alone in a fold that was full before; and if one is, all by their size.
    by_chance = order[np.argsort(sizes[order] < sizes.sum() / (4 * folds), kind="stable")]
    for dealt in (by_chance, order[np.argsort(-sizes[order], kind="stable")]):
        fold_of, filled = np.empty(units.number, int), np.zeros(folds, int)
        for unit in dealt:
            fold_of[unit] = np.argmin(filled)
            filled[fold_of[unit]] += sizes[unit]
        if np.bincount(fold_of, minlength=folds).min() >= 2:
            return fold_of
    raise ValueError(
        f"groups must leave two or more to each of the {folds} folds, and these {units.number} do not: take fewer folds"
    )


def _split_groups(
    units: Units, others: Int[np.ndarray, " k"], tested: Int[np.ndarray, " m"], num_valid: int, rng: np.random.Generator
) -> Split:
    """Tests some groups and trains on others; as few of these as hold the validation rows decide when to stop."""
    others, sizes = rng.permutation(others), np.bincount(units.of_row)
    # Two groups at least, as one has no negatives.
    stop = min(max(2, 1 + int(np.searchsorted(np.cumsum(sizes[others[:-2]]), num_valid))), others.size - 2)
    parts = others[stop:], others[:stop], tested
    train, valid, test = (rng.permutation(np.flatnonzero(np.isin(units.of_row, part))) for part in parts)
    arranged, apart = _interleave(valid, np.unique(units.of_row[valid], return_inverse=True)[1])
    return Split(train, arranged, test, apart)


def _cut_blocks(units: Units, folds: int, rng: np.random.Generator, repeat: int) -> list[Split]:
    # The first repeat cuts at the ends of the series; another is turned around by some blocks.
    turned = np.roll(np.arange(units.number), int(rng.integers(units.number)) if repeat else 0)
    splits = []
    for tested in np.array_split(turned, folds):
        test = np.isin(units.of_row, tested)
        split = _split_series(units, test, ~_widen(test, units.length), _num_valid(len(test)), rng)
        if split is None:
            raise ValueError(
                f"blocks of {units.length} of the {len(test)} rows leave too few to train on, as a block is left out on "
                "both sides of what tests: take shorter blocks"
            )
        splits.append(split)
    return splits


def _split_series(
    units: Units, test: Bool[np.ndarray, " n"], allowed: Bool[np.ndarray, " n"], num_valid: int, rng: np.random.Generator
) -> Split | None:
    """Trains on allowed rows, without a stretch that decides when to stop and its gap; None if they are too few."""
    valid = _draw_range(allowed, max(2 * units.length, num_valid), rng)
    train = allowed & ~_widen(valid, units.length)
    if min(train.sum(), valid.sum()) < 2 * units.length:
        return None
    rows = np.flatnonzero(valid)
    arranged, apart = _interleave(rows, np.arange(rows.size) // units.length)
    return Split(rng.permutation(np.flatnonzero(train)), arranged, rng.permutation(np.flatnonzero(test)), apart)


def make_growing_splits(units: Units, folds: int, rng: np.random.Generator) -> list[Split]:
    """Each part of the units tested by a fit to the parts before it alone, at most `folds` - 1 of them.

    If x and y are independent, the result of one part says nothing about the result of the next. An eighth of the rows
    before a part decides when to stop. Parts with too few rows before them are not tested.

    Raises:
      ValueError: if that leaves none.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.splits import make_growing_splits
      >>> from mi_jax.estimation.units import make_units
      >>> splits = make_growing_splits(make_units(500), 5, np.random.default_rng(0))
      >>> [(len(split.train), len(split.valid), len(split.test)) for split in splits]
      [(88, 12, 100), (175, 25, 100), (262, 38, 100), (350, 50, 100)]
    """
    fold_of = _deal(units, folds, rng) if units.kind == "groups" else np.arange(units.number) * folds // units.number
    order = rng.permutation(units.number) if units.kind == "rows" else np.arange(units.number)
    splits = []
    for fold in range(1, folds):
        before, tested = order[fold_of < fold], order[fold_of == fold]
        if units.kind == "rows":
            before = rng.permutation(before)
            valids = round(before.size / 8)
            enough = before.size >= LEAST_BEFORE
            split = Split(before[valids:], before[:valids], tested) if enough else None
        elif units.kind == "groups":
            rows = np.isin(units.of_row, before).sum()
            split = _split_groups(units, before, tested, round(rows / 8), rng) if before.size >= 4 else None
        else:
            test = np.isin(units.of_row, tested)
            allowed = np.isin(units.of_row, before) & ~_widen(test, units.length)
            split = _split_series(units, test, allowed, round(allowed.sum() / 8), rng)
        if split is not None:
            splits.append(split)
    if not splits:
        raise ValueError(
            f"permutations need more {units.kind} than {units.number}, or more folds than {folds}: each fold is tested by "
            "those before it"
        )
    return splits


def _interleave(rows: Int[np.ndarray, " v"], unit: Int[np.ndarray, " v"]) -> tuple[Int[np.ndarray, " w"], int]:
    """Rows in turns, one of each unit; and how many stand in a turn.

    Units with few rows run out, and shorter turns go on. A turn holds as many rows as leave out at most a twentieth of them,
    or else the fewest.
    """
    order = np.argsort(unit, kind="stable")
    sizes = np.bincount(unit)
    turn = np.empty(rows.size, int)
    turn[order] = np.arange(rows.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    per_turn = np.bincount(turn)
    choices = np.arange(2, per_turn[0] + 1)
    kept = np.array([np.sum(per_turn // size * size) for size in choices])
    apart = int(choices[kept >= min(kept.max(), (1 - MOST_LEFT_OUT) * rows.size)][-1])
    by_turn = np.lexsort((unit, turn))  # units in one order, so that rows around the end of a turn differ, too
    rank = np.arange(rows.size) - np.repeat(np.cumsum(per_turn) - per_turn, per_turn)
    return rows[by_turn[rank < np.repeat(per_turn // apart * apart, per_turn)]], apart


def _widen(rows: Bool[np.ndarray, " n"], by: int) -> Bool[np.ndarray, " n"]:
    """Rows, and those that stand at most `by` before or after one of them."""
    before = np.concatenate([[0], np.cumsum(rows)])
    numbers = np.arange(len(rows))
    return before[np.minimum(numbers + by + 1, len(rows))] > before[np.maximum(numbers - by, 0)]


def _draw_range(allowed: Bool[np.ndarray, " n"], length: int, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """So many neighbouring rows among those allowed, at an end of a stretch, where they need one gap and not two."""
    edges = np.diff(np.concatenate([[0], allowed, [0]]))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    drawn = np.zeros(len(allowed), bool)
    if starts.size:
        lengths = stops - starts
        stretch = rng.choice(np.flatnonzero(lengths >= min(length, lengths.max())))
        taken = min(length, lengths[stretch])
        first = starts[stretch] if rng.integers(2) else stops[stretch] - taken
        drawn[first : first + taken] = True
    return drawn
