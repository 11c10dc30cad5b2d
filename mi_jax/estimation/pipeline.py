"""`estimate`: from two arrays to a number with an interval and warnings, step by step."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from mi_jax import _checks, _threads
from mi_jax.estimation import combine, cross_fitting, data_warnings, fit_warnings, splits
from mi_jax.estimation.columns import Transform
from mi_jax.estimation.config import FitConfig, make_config, make_critic
from mi_jax.estimation.coordinates import choose_coordinates, list_coordinates
from mi_jax.estimation.cross_fitting import Fitted, Seconds
from mi_jax.estimation.diagnostics import diagnose
from mi_jax.estimation.gaussian_limit import upper_limit
from mi_jax.estimation.inputs import check_devices, check_key, check_pairs, generator
from mi_jax.estimation.read_out import Rows
from mi_jax.estimation.result import Estimate
from mi_jax.estimation.units import Units, check_exchangeable, make_units
from mi_jax.training import Report

MOST_TESTED = 8_192  # rows of a part that test independence; more would only make small p-values smaller
ROWS_AT_ONCE = 2**25  # rows of permuted sets that train side by side, over their folds; each takes some 20 bytes


def estimate(
    x: Any,
    y: Any,
    *,
    groups: Any = None,
    blocks: int | None = None,
    estimator: str = "smile",
    critic: str | nn.Module | None = None,
    folds: int = splits.FOLDS,
    repeats: int = 1,
    key: PRNGKeyArray | None = None,
    transform: Transform | None = None,
    tau: float | None = None,
    steps: int = 2_500,
    batch_size: int | None = None,
    num_negatives: int | None = None,
    learning_rate: float = 2e-3,
    patience: int = 300,
    max_pairs: int = 2**22,
    permutations: int = 0,
    retrain: bool = False,
    confidence: float = 0.95,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[Report], None] | None = None,
) -> Estimate:
    """Estimate the mutual information of paired samples, with an interval and warnings.

    The rows are cut into folds, and each fold is tested once: a critic trains on the other rows, without a tenth of all rows
    that decide when to stop, and is read out once on the fold, which it never saw. With the default of 5 folds that is 70 %
    for training, 10 % for validation and 20 % for the test. Rows left over by the division are not tested.

    Args:
      x: (n,), (n, d) or (n, *shape) samples: floats, integers or bools, of NumPy or JAX.
      y: their n partners, of the same or another shape.
      groups: (n,) labels of rows that belong together, such as the measurements of one subject: numbers or strings. Groups
        stay whole in folds and in permutations, and the interval counts groups, not rows. By default rows are independent.
      blocks: for a series, whose rows stand in its order: how many rows are one block, well beyond the memory of the series,
        as neighbouring blocks count as independent. Folds are stretches, with gaps of a block between what trains and what
        tests.
      estimator: "smile", "js", "infonce" ("cpc"), "dv", "mine", "nwj", "tuba", "gm" or "doe".
      critic: "gaussian", which starts from the closed-form Gaussian log ratio; "canonical", which learns variables of x and
        of y whose relation is Gaussian, for bent relations; "stacked", both of these, weighed by their loss on validation
        pairs; "joint", "separable", "bilinear"; or a module, of `mi_jax.networks` or your own. By default "stacked" for
        "smile" and "js" with 2 columns or more on both sides and at most 200 in all; otherwise "gaussian", and
        "separable" with over 1,000 columns. By default, too, "smile" and "js" train nothing where independent rows, of at
        most 20 columns a side, are enough to say that the Gaussian log ratio of the ranked columns, in closed form, leaves
        nothing to learn.
      folds: how many test sets the rows are cut into, at least 2.
      repeats: how many times the rows are cut anew; 2 repeats test each row twice.
      key: a typed key; by default `jax.random.key(0)`. The same key gives the same estimate.
      transform: what is done to the columns of x and of y first, without changing MI: "ranks" (normal scores of each; heavy
        tails do no harm), "components" (those of the independent variables that continuous columns are linear mixtures of),
        "standardize", or "none". By default "ranks"; or "components", of x, of y, or of both, where that makes more of a
        Gaussian relation by 0.02 nats and 4 standard errors.
      tau: where SMILE clips. By default the 95th percentile of T on validation pairs, at least the paper's 5: then at most
        about a twentieth of E_Q[r] is clipped away, and the estimate is at most 0.05 nats too high for it.
      steps: most steps of training, to the nearest 50.
      batch_size: joint pairs a step. By default 512 for "smile" and "js" with a critic whose network sees every pair, 256
        for separable ones, and 128 otherwise. The canonical critic of a stack always has 256, against all of them.
      num_negatives: how many other rows of its batch each x is scored against. By default 3 for the logistic estimators with
        a critic whose network sees every pair ("gaussian", "joint"), and otherwise all.
      learning_rate: Adam's; 1.5 times this for the canonical critic of a stack.
      patience: steps without a better validation after which a fold stops.
      max_pairs: how many pairs the read-out of a fold may score; memory does not grow with it. InfoNCE's ceiling is the log
        of the number of pairs a row: `Estimate.diagnostics.ceiling`.
      permutations: how many permutations test independence; 999, say. The rows are cut into parts, each part is scored by a
        critic that trained on the parts before it, and the sum of its log ratios is compared with that after y is permuted
        within the part: valid for independent rows, whatever the critics are. The critics are trained also where the
        estimate needs no training. Groups and blocks are permuted whole, with others of their size.
      retrain: let each permuted data set go through the whole pipeline instead, which costs as many estimates; then 19
        permutations or more. A series is then turned around as a whole, by a block or more.
      confidence: level of the interval.
      devices: where the folds run; by default all local devices.
      on_chunk: called with a `Report` during training.

    Returns:
      An `Estimate`, in nats.

    Raises:
      ValueError: if an argument is out of range, x and y do not hold the same number of rows, at least 20, or hold an entry
        that is not finite, or all columns of one are constant; if groups or blocks are too few, or too large.
      TypeError: if x or y is no array of numbers, or an argument has another type.

    Example:
      >>> import jax
      >>> import mi_jax
      >>> x, y = mi_jax.tasks.gaussian(dim=3, mi=1.0).sample(jax.random.key(1), 5_000)
      >>> result = mi_jax.estimate(x, y**3)
      >>> print(f"{result.mi:.1f} nats")
      1.0 nats
      >>> result.interval[0] < 1.0 < result.interval[1], dict(result.warnings)
      (True, {})

    Source: Song & Ermon (2020), Eq. 17, for SMILE; Chernozhukov et al. (2018), "Double/debiased machine learning", for
    cross-fitting.
    """
    _check_options(estimator, tau, confidence, permutations, retrain, on_chunk)
    key, devices = check_key(key), check_devices(devices)
    raw = check_pairs(x, y)
    folds, repeats = _check_folds(folds, repeats, len(raw[0]))
    units = make_units(len(raw[0]), groups, blocks, folds)
    split_key, fold_key, permutation_key = jax.random.split(key, 3)
    rng, growing = generator(permutation_key), list[splits.Split]()
    if permutations:
        check_exchangeable(units)
        if not retrain:  # before anything is trained, as it may refuse
            growing = splits.make_growing_splits(units, folds, rng)
    with _threads.one_thread():
        possible = list_coordinates(x, y, transform)
    rows = [Rows(each.x, each.y, units.positions) for each in possible]
    parts = splits.make_splits(units, folds, repeats, generator(split_key))
    config = make_config(
        estimator,
        make_critic(estimator, critic, rows[0].x.shape[1], rows[0].y.shape[1]),
        num_train=min(len(part.train) for part in parts),
        steps=steps,
        batch_size=batch_size,
        num_negatives=num_negatives,
        learning_rate=learning_rate,
        patience=patience,
        max_pairs=max_pairs,
        try_closed_form=critic is None and transform in (None, "ranks", "components"),
    )
    keys = jax.random.split(fold_key, len(parts))
    run: dict[str, Any] = {"devices": devices, "on_chunk": on_chunk}

    def choose(order: np.ndarray) -> tuple[_Choice, Seconds]:
        with _threads.one_thread():
            place = choose_coordinates(possible, order, units)
        chosen, spent = cross_fitting.choose_config(config, rows[place], parts, order=order, devices=devices)
        return _Choice(place, chosen), spent

    def fit(choice: _Choice, orders: Sequence[np.ndarray]) -> tuple[list[Fitted], Seconds]:
        chosen = rows[choice.coordinates]
        return cross_fitting.fit_folds(choice.config, rows=chosen, splits=parts, keys=keys, orders=orders, tau=tau, **run)

    retrained = permutations if retrain else 0
    sets = _fit_sets(choose, fit, parts, _draw_orders(units, retrained, rng), 1 + retrained)
    used = possible[sets.choice.coordinates]
    limit = upper_limit(used.x, used.y, confidence, units.number)
    combined = combine.combine(sets.data, parts, units, confidence, limit)
    known = diagnose(sets.choice.config, sets.data, np.isfinite(combined.per_fold), combined.training_error)
    independence, seconds = None, sets.seconds
    if retrained:
        independence = combine.compare_with_permuted(combined.mi, sets.permuted, rng)
    elif permutations:
        independence, spent = _test_independence(config, rows[0], units, growing, permutations, permutation_key, rng, run)
        seconds = seconds.plus(spent)
    outcome = fit_warnings.Outcome(sets.choice.config, folds, combined.mi, combined.stderr, combined.per_fold, known)
    return Estimate(
        mi=combined.mi,
        stderr=combined.stderr,
        interval=combined.interval,
        allowance=combined.allowance,
        confidence=confidence,
        per_fold=combined.per_fold,
        influence=combined.influence,
        history=sets.data.history,
        diagnostics=known,
        warnings=data_warnings.warn_of_data(
            used.columns, (used.x, used.y), raw, transform or "ranks", independent=units.kind == "rows"
        )
        | fit_warnings.warn_of_fit(outcome),
        independence=independence,
        config=sets.choice.config,
        seconds=seconds,
        columns=used.columns,
        units=units,
        variables=sets.data.variables,
    )


def _check_options(
    estimator: str,
    tau: float | None,
    confidence: float,
    permutations: int,
    retrain: bool,
    on_chunk: Callable[[Report], None] | None,
) -> None:
    if tau is not None:
        _checks.non_negative(tau, "tau")
        if estimator != "smile":
            raise ValueError(f"tau is SMILE's, got {tau} with {estimator}")
    if not 0 < _checks.scalar(confidence, "confidence") < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if isinstance(permutations, bool) or not isinstance(permutations, int | np.integer):
        raise TypeError(f"permutations must be an integer, got {type(permutations).__name__}")
    if permutations < 0:
        raise ValueError(f"permutations must not be negative, got {permutations}")
    if not isinstance(retrain, bool | np.bool_):
        raise TypeError(f"retrain must be True or False, got {type(retrain).__name__}")
    if on_chunk is not None and not callable(on_chunk):
        raise TypeError(f"on_chunk must be a function of a Report, got {type(on_chunk).__name__}")


def _check_folds(folds: int, repeats: int, num_rows: int) -> tuple[int, int]:
    folds, repeats = _checks.positive_int(folds, "folds"), _checks.positive_int(repeats, "repeats")
    if not 2 <= folds <= num_rows // 2:
        raise ValueError(f"folds must be from 2 to {num_rows // 2}, half the number of rows, got {folds}")
    return folds, repeats


def _draw_orders(units: Units, permutations: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The order of y in the data, and then in data sets without dependence, one after another."""
    return itertools.chain([np.arange(len(units.of_row))], (units.permute(rng) for _ in range(permutations)))


class _Choice(NamedTuple):
    """In which coordinates a data set is estimated, by their number, and how."""

    coordinates: int
    config: FitConfig

    @property
    def key(self) -> tuple[int, bool]:
        """What tells it from other choices: its configuration need not be hashable."""
        return self.coordinates, self.config.rounds == 0


class _Sets(NamedTuple):
    """The choice and the fit of the data, the estimates of the permuted sets, and the seconds of all."""

    choice: _Choice
    data: Fitted
    permuted: Float[np.ndarray, " m"]
    seconds: Seconds


def _fit_sets(
    choose: Callable[[np.ndarray], tuple[_Choice, Seconds]],
    fit: Callable[[_Choice, Sequence[np.ndarray]], tuple[list[Fitted], Seconds]],
    parts: Sequence[splits.Split],
    orders: Iterator[np.ndarray],
    count: int,
) -> _Sets:
    """Fits the data, and the permuted sets beside them, as many at once as fit the memory: `count` in all.

    Those of the same choice are fitted together.
    """
    rows_a_set = sum(len(rows) for part in parts for rows in (part.train, part.valid, part.test))
    size = min(count, max(1, ROWS_AT_ONCE // rows_a_set))
    data: list[tuple[_Choice, Fitted]] = []
    means = np.zeros(count)
    seconds = Seconds(0.0, 0.0, 0.0)
    choices: dict[tuple[int, bool], _Choice] = {}
    waiting: dict[tuple[int, bool], list[tuple[int, np.ndarray]]] = {}
    filled = set[tuple[int, bool]]()  # those whose program for a full group is there: the last group is padded to it

    def fit_waiting(choice: _Choice) -> None:
        nonlocal seconds
        numbers, group = zip(*waiting.pop(choice.key), strict=True)
        padding = size - len(group) if choice.key in filled else 0
        if len(group) == size:
            filled.add(choice.key)
        fitted, spent = fit(choice, list(group + group[:1] * padding))
        if numbers[0] == 0:
            data.append((choice, jax.tree.map(np.array, fitted[0])))  # copied, so that the other sets can be freed
        means[list(numbers)] = [combine.average(combine.estimate_per_fold(one), parts) for one in fitted[: len(group)]]
        seconds = seconds.plus(spent)

    for number, order in enumerate(orders):
        choice, spent = choose(order)
        seconds = seconds.plus(spent)
        choices[choice.key] = choice
        waiting.setdefault(choice.key, []).append((number, order))
        if len(waiting[choice.key]) == size:
            fit_waiting(choice)
    for key in list(waiting):
        fit_waiting(choices[key])
    return _Sets(*data[0], means[1:], seconds)


def _test_independence(
    config: FitConfig,
    rows: Rows,
    units: Units,
    growing: Sequence[splits.Split],
    permutations: int,
    key: PRNGKeyArray,
    rng: np.random.Generator,
    run: Mapping[str, Any],
) -> tuple[combine.Independence, Seconds]:
    """The permutation test by critics that are kept, each trained on the parts before the one that it tests."""
    parts = [part._replace(test=_first_units(part.test, units)) for part in growing]
    orders = [np.vstack([np.arange(part.test.size), units.exchange(part.test, permutations, rng)]) for part in parts]
    keys = jax.random.split(jax.random.fold_in(key, 0), len(parts))
    sums, seconds = cross_fitting.sum_permuted_folds(config, rows, parts, keys, orders, **run)
    unmoved = np.array([np.sum((each[1:] == each[0]).all(axis=1)) for each in orders])
    # The z-score of a weak relation grows with the root of the number of training rows.
    return combine.merge_parts(sums, np.sqrt([part.train.size for part in parts]), unmoved), seconds


def _first_units(rows: Int[np.ndarray, " k"], units: Units) -> Int[np.ndarray, " m"]:
    """As many of the rows as a test of independence needs, in whole units."""
    unit = units.of_row[rows]
    names, first, counts = np.unique(unit, return_index=True, return_counts=True)
    order = np.argsort(first)
    before = np.cumsum(counts[order]) - counts[order]
    return rows[np.isin(unit, names[order[before < MOST_TESTED]])]
