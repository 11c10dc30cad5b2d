"""When not to believe an estimate: what its held-out rows and its columns say against it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from mi_jax.cross_fitting import EVERY, FOLDS, Fitted, Recipe
from mi_jax.preprocessing import Columns

Rows: TypeAlias = tuple[np.ndarray, np.ndarray]

CEILING_DISTANCE = 3.0  # nats: at I = log m - 3, InfoNCE at the exact ratio is about a tenth too low
LEAST_EFFECTIVE_PAIRS = 400  # of so many, the partition has a relative standard error of 0.05
LARGEST_NORMALISER = 0.3
LARGEST_CLIPPED = 0.1
LARGEST_RISE = 0.5  # nats: more than overfitting makes of the first 50 steps
NEGATIVE = 0.005, 0.5  # nats: below 0 by less is never, by more always worth a warning; between, by two standard errors
LARGEST_DUPLICATES = 0.01
FAR = 0.01  # of the standard deviation: the median distance from the median, which is 0.67 of it for a normal variable
MORE_THAN_CHANCE = 10.0  # times as many equal rows as columns that coincide independently of one another would give
LINEAR = 1e-3
DETERMINISTIC = 0.02
# With fewer, noise is not seen: it leaves the ranks equal; a function of 1 or 2 dimensions is no smoother than it.
FEWEST_ROWS = (50, 200, 1_000)
MOST_ROWS, MOST_COLUMNS = 10_000, 400  # with more, looking for a relation takes longer than a second


class Diagnostics(NamedTuple):
    """What an estimate rests on, as means over its seeds; NaN where it has no meaning.

    Attributes:
      train: the same read-out of training pairs, in nats.
      log_normaliser: log E_Q[r] of the fitted ratio on held-out pairs, 0 for a valid one.
      effective_pairs: how many of the pairs scored carry E_Q[r],
      pairs: of how many a seed.
      tau: where SMILE clips.
      clipped_joint, clipped_pairs: the shares of joint and of other pairs that it clips.
      ceiling: what InfoNCE cannot exceed, in nats.
      read_outs: name -> other read-outs of the same critic on the same pairs, in nats.
      best_step: of each seed, the step of its validation optimum; 0 where training did not help,
      last_step: and how many steps it made.
      diverged: of each seed, whether its training diverged.
      training_error: what the seeds' estimates differ by more than their test rows explain, as a standard deviation; 0 where
        chance explains it, at a level of 1 %.
      rise: what the lowest validation loss after the start lies above that of the start; negative if training helped.
    """

    train: float
    log_normaliser: float
    effective_pairs: float
    pairs: float
    tau: float
    clipped_joint: float
    clipped_pairs: float
    ceiling: float
    read_outs: Mapping[str, float]
    best_step: tuple[int, ...]
    last_step: tuple[int, ...]
    diverged: tuple[bool, ...]
    training_error: float
    rise: float = math.nan


def diagnose(fitted: Fitted, usable: np.ndarray, training_error: float) -> Diagnostics:
    """The diagnostics of the seeds that are used; the steps, and who diverged, of all."""
    held = fitted.held_out

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values[usable], dtype=float)) if usable.any() else math.nan

    group = mean(held.group)
    return Diagnostics(
        train=mean(held.train),
        log_normaliser=mean(held.log_normaliser),
        effective_pairs=mean(held.effective_pairs),
        pairs=mean(held.pairs),
        tau=mean(held.tau),
        clipped_joint=mean(held.clipped_joint),
        clipped_pairs=mean(held.clipped_pairs),
        ceiling=math.log(group) if group > 0 else math.nan,
        read_outs={name: mean(values) for name, values in held.others.items()},
        best_step=tuple(int(value) * EVERY for value in fitted.best_round),
        last_step=tuple(int(value) * EVERY for value in fitted.last_round),
        diverged=tuple(bool(value) for value in fitted.diverged),
        training_error=training_error,
        rise=mean(np.fmin.reduce(fitted.history["validation_loss"], axis=1)) - mean(fitted.start_loss),
    )


def of_columns(x: Columns, y: Columns) -> dict[str, str]:
    """Warnings of what was left out."""
    found = {}
    for columns in (x, y):
        for what, places in (("constant", columns.constant), ("duplicated", columns.duplicated)):
            if places.size:
                number = f"{places.size} {what} column{'' if places.size == 1 else 's'}"
                lacking = "" if what == "constant" else " that the others lack"
                found[f"{what}_columns_{columns.name}"] = (
                    f"{columns.name} has {number} without information{lacking}, left out ({_some(places)})"
                )
    return found


def of_transform(columns: Columns, rows: Float[np.ndarray, "n d"], raw: Float[np.ndarray, "n c"]) -> dict[str, str]:
    """Warnings of what "standardize" and "none" made of columns that float32, or a network, cannot tell apart any more.

    Args:
      columns: of one side.
      rows: (n, d) its transformed rows.
      raw: (n, c) the same before the transform, with all columns.
    """
    merged, far = [], []
    for place, column in zip(columns.kept, rows.T, strict=True):
        values = np.unique(raw[:, place]).size
        if np.unique(column).size < values / 2:
            merged.append(place)
        elif values > len(rows) / 2 and _spread(column) < FAR * np.std(column, dtype=float):
            far.append(place)
    found, name = {}, columns.name
    if merged:
        found[f"resolution_{name}"] = (
            f"{name} has columns whose values differ by less than float32 tells apart ({_some(merged)}): what they tell is "
            'lost; subtract their offset, or take transform="ranks"'
        )
    if far:
        found[f"scale_{name}"] = (
            f"{name} has columns with values so far out ({_some(far)}) that the others stand within {FAR:.0%} of their "
            'standard deviation, and a network can hardly tell them apart; take transform="ranks"'
        )
    return found


def _some(places: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, places[:5])) + (", …" if len(places) > 5 else "")


def of_rows(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"], raw: Rows | None = None) -> dict[str, str]:
    """Warnings of transformed rows: repeated ones, and a relation without noise.

    Args:
      x: (n, dx) transformed rows.
      y: (n, dy) their partners.
      raw: the same before the transform: of several columns a linear relation is one only there, and a smooth relation of
        ranks is rough.
    """
    found, raw = {}, raw or (x, y)
    left, right = (_distinct(rows).size for rows in (x, y))
    counts = _distinct(np.hstack([x, y]))
    share = 1 - counts.size / len(x)
    # Of discrete variables equal pairs are to be expected; they are fewer than their values allow.
    if share > LARGEST_DUPLICATES and max(left, right) == counts.size > len(x) / 10:
        by_chance = math.prod(_coincidence(np.unique(column, return_counts=True)[1]) for column in (*x.T, *y.T))
        if _coincidence(counts) > MORE_THAN_CHANCE * by_chance:
            found["duplicated_rows"] = (
                f"{share:.0%} of the rows repeat another: training and test rows then share pairs, and the estimate is too "
                "high; leave repetitions out"
            )
    # In random order: of sorted rows the first ones would not be like the others.
    order = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    if min(left, right) > len(x) / 2 and _without_noise((x[order], y[order]), (raw[0][order], raw[1][order])):
        found["deterministic"] = (
            "x and y look like a relation without noise: the mutual information of such continuous variables is infinite, "
            "and any estimate is a matter of the resolution of the data"
        )
    return found


def _distinct(rows: np.ndarray) -> np.ndarray:
    """How often each of the distinct rows is there."""
    rows = np.ascontiguousarray(rows)
    return np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))), return_counts=True)[1]


def _coincidence(counts: np.ndarray) -> float:
    """The chance that two different rows are equal, of how often each value is there."""
    return float(counts @ (counts - 1)) / (counts.sum() * (counts.sum() - 1))


def _without_noise(ranked: Rows, raw: Rows) -> bool:
    """Whether continuous rows, in random order, look like a relation without noise."""
    if len(ranked[0]) < FEWEST_ROWS[0]:
        return False
    return _linearly_determined(*raw) or _linearly_determined(*ranked) or _determined(ranked, raw)


def _linearly_determined(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether some combination of x is one of y, to 1e-3 of its scale."""
    if not 2 * (x.shape[1] + y.shape[1]) < len(x) or x.shape[1] + y.shape[1] > MOST_COLUMNS:
        return False
    left, right = (_whitened(rows) for rows in (x, y))
    axes_x, correlations, axes_y = np.linalg.svd(left.T @ right)
    a, b = left @ axes_x[:, 0], right @ axes_y[0]
    # Of heavy tails a few rows alone can make the correlation, and the others then stand apart.
    return bool(correlations[0] ** 2 > 1 - LINEAR**2 and _spread(a - b) < LINEAR * _spread(a) and _continuous(a))


def _continuous(values: np.ndarray) -> bool:
    """Whether most values are there once: labels may determine one another, and their information is finite."""
    return len(np.unique(np.round(values / max(_spread(values), np.finfo(float).tiny), 6))) > len(values) / 2


def _spread(values: np.ndarray) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _whitened(rows: np.ndarray) -> np.ndarray:
    """Centred orthonormal columns that span those of the rows."""
    rows = rows / np.maximum(np.abs(rows).max(axis=0), np.finfo(float).tiny)
    rows = rows - rows.mean(axis=0, dtype=float)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=0), np.finfo(float).tiny)
    squares, axes = np.linalg.eigh(rows.T @ rows)
    kept = squares > 1e-9 * squares[-1]
    return rows @ (axes[:, kept] / np.sqrt(squares[kept]))


def _determined(ranked: Rows, raw: Rows) -> bool:
    """Whether a column of one is a function of the other, to which more rows come ever nearer: one without noise.

    What a column differs by from a plane through the neighbours falls with the number of rows, but for noise.
    """
    count = len(raw[0])
    ranked, raw = ((_scaled(rows[0]), _scaled(rows[1])) for rows in (ranked, raw))
    for given, of in ((0, 1), (1, 0)):
        dim = raw[given].shape[1]
        if dim > 2 or count < FEWEST_ROWS[dim]:
            continue
        whole, quarter = (_roughness(raw[given][:part], raw[of][:part]) for part in (count, count // 4))
        # Of a smooth function it goes as the distance squared, and so falls to 4^(-2/d).
        smooth = (whole < DETERMINISTIC) & (whole < 2 * 4.0 ** (-2 / dim) * quarter)
        # Raw values that are mostly tiny lie close together without being determined; their ranks do not.
        if smooth.any():
            smooth &= _roughness(ranked[given], ranked[of]) < 5 * DETERMINISTIC
            if any(_continuous(column) for column in raw[of].T[smooth]):
                return True
    return False


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Columns in units of the median distance of two rows, without tails whose squares could overflow."""
    rows = rows / np.maximum(np.abs(rows).max(axis=0), np.finfo(float).tiny)
    unit = np.median(np.abs(rows - np.roll(rows, 1, axis=0)), axis=0)
    return np.clip(rows / np.where(unit > 1e-300, unit, 1.0), -1e9, 1e9)


def _roughness(given: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """The median distance of each column from a plane through its neighbours."""
    from scipy import spatial

    near = spatial.cKDTree(given).query(given, k=2 * given.shape[1] + 2)[1][:, 1:]
    apart, values = given[near] - given[:, None], rows[near] - rows[:, None]
    design = np.concatenate([np.ones((*near.shape, 1)), apart], axis=2)
    return np.median(np.abs((np.linalg.pinv(design) @ values)[:, 0]), axis=0)


def of_estimate(recipe: Recipe, mi: float, stderr: float, per_seed: np.ndarray, told: Diagnostics) -> dict[str, str]:
    """Warnings of an estimate: name -> what is wrong, and what to do."""
    found, name = {}, recipe.estimator
    large = max(0.1, 0.1 * abs(mi))
    if any(told.diverged):
        which = ", ".join(str(seed) for seed, bad in enumerate(told.diverged) if bad)
        found["diverged"] = f"the training of seeds {which} diverged, and they are left out; take a smaller learning_rate"
    if not math.isfinite(mi):
        return found | {"no_estimate": "no seed gave a finite estimate"}
    lost = [str(seed) for seed, value in enumerate(per_seed) if not math.isfinite(value) and not told.diverged[seed]]
    if lost:
        found["not_finite"] = (
            f"the held-out estimates of seeds {', '.join(lost)} are not finite, and they are left out, which favours the "
            "others: e^T overflowed; take SMILE or InfoNCE"
        )
    if name in ("infonce", "cpc") and told.ceiling - mi < CEILING_DISTANCE and mi > max(0.1, 2 * stderr):
        found["ceiling"] = (
            f"InfoNCE cannot exceed log {math.exp(told.ceiling):.0f} = {told.ceiling:.2f} nats, and is too low already from "
            f"{max(0.0, told.ceiling - CEILING_DISTANCE):.2f} on: take more pairs, or another estimator"
        )
    if abs(told.log_normaliser) > LARGEST_NORMALISER:
        mean_ratio = math.exp(min(told.log_normaliser, 99.0))
        # Of a valid ratio too, most of E_Q[r] can lie in pairs so rare that none was drawn.
        unseen = ", or most of it lies in pairs too rare to be seen" if told.log_normaliser < 0 else ""
        found["normaliser"] = (
            f"E_Q[r] of the fitted ratio is {mean_ratio:.2g} on held-out pairs and ought to be 1: it is no density ratio, "
            f"and the estimate depends on how it is normalised{unseen}"
        )
    # The partition's relative variance, 0 if all pairs count alike.
    variance = 1 / max(told.effective_pairs, 1.0) - 1 / told.pairs
    if name in ("dv", "mine", "nwj", "js", "tuba") and variance * LEAST_EFFECTIVE_PAIRS > 1:
        need = told.pairs * variance * LEAST_EFFECTIVE_PAIRS
        found["partition"] = (
            f"the partition function rests on {told.effective_pairs:.0f} of {told.pairs:.2g} pairs: {name} is noise at this "
            f"mutual information and n; it would take at least {need:.2g} pairs a seed, of {FOLDS * math.sqrt(need):.2g} "
            "samples, or SMILE"
        )
    if told.clipped_joint > LARGEST_CLIPPED:
        found["clipped"] = (
            f"SMILE clips {told.clipped_joint:.0%} of the joint pairs at tau = {told.tau:.3g}: it is then no lower bound, "
            f"and may be too high by up to {-math.log1p(-min(told.clipped_joint, 0.999)):.2f} nats; take a larger tau"
        )
    if told.train - mi > max(large, 1.5 * stderr):
        found["overfitting"] = (
            f"the same read-out gives {told.train:.2f} nats on training pairs and {mi:.2f} on held-out ones: there are too "
            "few samples for these dimensions, and the estimate is probably too low"
        )
    if told.training_error > large:
        values = ", ".join(f"{value:.2f}" for value in per_seed)
        found["seeds_disagree"] = f"the seeds' estimates ({values}) differ by more than their test rows explain"
    late = [seed for seed, best in enumerate(told.best_step) if best == recipe.rounds * EVERY]
    if late:
        found["not_converged"] = (
            f"the validation loss of seeds {', '.join(map(str, late))} was still falling after {max(told.last_step)} steps, "
            "and the estimate is probably too low; take more steps"
        )
    if told.rise > LARGEST_RISE:
        found["untrained"] = (
            "training made the validation loss worse from its first steps on, and the estimate is that of an untrained "
            "critic; take a smaller learning_rate"
        )
    if mi < -np.clip(2 * stderr, *NEGATIVE):
        found["negative"] = "the estimate is below 0, as no mutual information is: read it as 0, or as a failed fit"
    return found
