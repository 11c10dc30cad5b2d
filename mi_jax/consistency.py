"""The self-consistency tests of Section 4.2 on your own data. They need no ground truth to show that an estimator errs."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from mi_jax import _checks
from mi_jax.estimation.inputs import as_rows, check_key, check_pairs, generator
from mi_jax.estimation.pipeline import estimate

Verdict = Literal["passes", "fails", "cannot tell"]
Estimator = Callable[[np.ndarray, np.ndarray], Any]
TOLERANCE = 0.1
JACKKNIFE = 5


class Measured(NamedTuple):
    """An estimate with its interval, in nats."""

    mi: float
    low: float
    high: float


class Property(NamedTuple):
    """A property of mutual information, and whether the estimates have it.

    Attributes:
      name: the name of the property.
      says: the property as a formula.
      ratio: the ratio of the two estimates.
      interval: the interval of the ratio, at the level of the estimates' intervals.
      target: (low, high), the accepted ratios: what the property says, give or take the tolerance.
      verdict: "passes" if the interval lies in the target, "fails" if it lies outside, else "cannot tell".
      estimates: name -> estimate, the two that the ratio is made of.
    """

    name: str
    says: str
    ratio: float
    interval: tuple[float, float]
    target: tuple[float, float]
    verdict: Verdict
    estimates: Mapping[str, Measured]


class SelfConsistency(NamedTuple):
    """The verdicts on an estimator on some data.

    Attributes:
      independence: I(X; shuffled Y) / I(X; Y), which ought to be 0.
      data_processing: I(g(X); h(Y)) / I(X; Y), which ought to be at most 1.
      data_processing_stacked: I([X, g(X)]; [Y, h(Y)]) / I(X; Y), which ought to be 1.
      additivity: I([X, X']; [Y, Y']) / I(X; Y), with an independent copy (X', Y'), which ought to be 2.
    """

    independence: Property
    data_processing: Property
    data_processing_stacked: Property
    additivity: Property

    @property
    def passes(self) -> bool:
        """Whether all four pass."""
        return all(prop.verdict == "passes" for prop in self)

    def table(self) -> list[dict[str, Any]]:
        """The four as rows for pandas or tabulate."""
        return [
            {
                "property": prop.name,
                "says": prop.says,
                "ratio": prop.ratio,
                "low": prop.interval[0],
                "high": prop.interval[1],
                "verdict": prop.verdict,
                **{name: measured.mi for name, measured in prop.estimates.items()},
            }
            for prop in self
        ]

    def __repr__(self) -> str:
        lines = []
        for prop in self:
            low, high = prop.interval
            values = ", ".join(f"{name} = {measured.mi:.3f}" for name, measured in prop.estimates.items())
            lines.append(f"{prop.name}: {prop.verdict}. {prop.says}; {prop.ratio:.3f}, {low:.3f} to {high:.3f} ({values})")
        return "\n".join(lines)


def coarse(rows: np.ndarray) -> np.ndarray:
    """The default g and h: the distance from the median, for the first half of the columns. It loses sides and columns.

    Args:
      rows: (n, *shape) samples.

    Returns:
      (n, ceil(d / 2)), where d is the number of entries of a row.

    Example:
      >>> import numpy as np
      >>> from mi_jax import consistency
      >>> consistency.coarse(np.array([-2.0, 0.0, 3.0])).ravel()
      array([2., 0., 3.])
    """
    flat = as_rows(rows, "rows")
    half = flat[:, : -(-flat.shape[1] // 2)]
    # "lower" takes one of the values; the mean of two would make a balanced binary column constant.
    return np.abs(half - np.quantile(half, 0.5, axis=0, method="lower"))


def self_consistency(
    x: Any,
    y: Any,
    *,
    estimator: str | Estimator = "smile",
    g: Callable[[np.ndarray], Any] = coarse,
    h: Callable[[np.ndarray], Any] = coarse,
    key: PRNGKeyArray | None = None,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> SelfConsistency:
    """Tests whether an estimator has the properties of mutual information on these data.

    Independence: shuffled pairs share nothing. Data processing: functions of X and Y share no more than X and Y do, and
    they add nothing to X and Y. Additivity: two independent copies share twice as much as one; the copies are the halves of
    the rows, so both sides of the ratio rest on n/2 rows.

    An estimator that fails is wrong on these data; one that passes may still be wrong. InfoNCE near its ceiling must fail
    additivity, and so must an estimator that errs by a constant.

    Args:
      x: (n, *x_shape) samples.
      y: (n, *y_shape) their partners.
      estimator: a name that `estimate` knows, or a function `(x, y) -> nats`. If it returns an `Estimate`, or anything with
        `mi` and `interval`, these are used; a bare number gets a jackknife interval, over fifths of the rows.
      g: a function of (n, *x_shape) rows that returns n rows; by default `coarse`.
      h: the same for y.
      key: a typed key; by default `jax.random.key(0)`.
      tolerance: how far a ratio may be from what the property says: 0.1 accepts 0 ± 0.1, at most 1.1, 1 ± 0.1, and 2 ± 0.2.
      **options: those of `estimate`, if `estimator` is a name.

    Returns:
      `SelfConsistency`: a ratio, an interval and a verdict for each property. Where the interval of I(X; Y) holds 0, no
      ratio means anything, and all verdicts are "cannot tell".

    Raises:
      ValueError: as `estimate`; with fewer than 40 rows; or if g or h gives another number of rows.
      TypeError: as `estimate`; or if an option is given with a function.

    Example:
      >>> import numpy as np
      >>> import mi_jax
      >>> def gaussian(x, y):
      ...     return -0.5 * np.log1p(-(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2))
      >>> rng = np.random.default_rng(0)
      >>> x = rng.normal(size=(2_000, 1))
      >>> result = mi_jax.self_consistency(x, x + rng.normal(size=x.shape), estimator=gaussian)
      >>> result.independence.verdict, result.additivity.verdict
      ('passes', 'fails')

    Source: Song & Ermon (2020), Section 4.2.
    """
    _checks.positive(tolerance, "tolerance")
    key = check_key(key)
    x, y = (np.asarray(rows).reshape(len(rows), -1) for rows in check_pairs(x, y, least=2 * 20))
    measure = _measure(estimator, options, key)
    rng = generator(key)
    whole = measure(x, y)
    shuffled = measure(x, y[rng.permutation(len(y))])
    less_x, less_y = _apply(g, x, "g"), _apply(h, y, "h")
    processed = measure(less_x, less_y)
    stacked = measure(np.hstack([x, less_x]), np.hstack([y, less_y]))
    order = rng.permutation(len(x))
    half = len(x) // 2
    one, other = order[:half], order[half : 2 * half]
    halves = _mean(measure(x[one], y[one]), measure(x[other], y[other]))
    copies = measure(np.hstack([x[one], x[other]]), np.hstack([y[one], y[other]]))
    mi = "I(X; Y)"
    return SelfConsistency(
        judge_ratio("independence", "I(X; shuffled Y) = 0", {"I(X; shuffled Y)": shuffled, mi: whole}, 0.0, tolerance),
        judge_ratio(
            "data processing",
            "I(g(X); h(Y)) ≤ I(X; Y)",
            {"I(g(X); h(Y))": processed, mi: whole},
            1.0,
            tolerance,
            at_most=True,
        ),
        judge_ratio(
            "data processing, stacked",
            "I([X, g(X)]; [Y, h(Y)]) = I(X; Y)",
            {"I([X, g(X)]; [Y, h(Y)])": stacked, mi: whole},
            1.0,
            tolerance,
        ),
        judge_ratio(
            "additivity",
            "I([X, X']; [Y, Y']) = 2 I(X; Y)",
            {"I([X, X']; [Y, Y'])": copies, "I(X; Y) of half of the rows": halves},
            2.0,
            tolerance,
        ),
    )


def judge_ratio(
    name: str,
    says: str,
    estimates: Mapping[str, Measured],
    target: float,
    tolerance: float = TOLERANCE,
    *,
    at_most: bool = False,
) -> Property:
    """Judges a property by the ratio of two estimates.

    The interval recovers the variances of the ratio from the ends of both intervals, on the log scale (MOVER): log low is
    log a - log b - sqrt((log a - log a_low)² + (log b_high - log b)²), and log high alike. It treats the two as
    independent; they share rows, so it is usually too wide. If the target is 0, or a is not above 0, logarithms say little;
    then the interval holds all ratios of values in the two intervals, and is wider still.

    Args:
      name: the name of the property.
      says: the property as a formula.
      estimates: name -> estimate, two of them, a and b: the ratio is a / b.
      target: what the ratio ought to be.
      tolerance: the accepted distance from the target, as a share of it; absolute if the target is 0.
      at_most: also accept any lower ratio.

    Returns:
      A `Property`.

    Example:
      >>> from mi_jax.consistency import Measured, judge_ratio
      >>> estimates = {"twice": Measured(2.0, 1.9, 2.1), "once": Measured(1.0, 0.95, 1.05)}
      >>> result = judge_ratio("additivity", "I2 = 2 I", estimates, target=2.0)
      >>> print(f"{result.ratio:.2f}, {result.interval[0]:.2f} to {result.interval[1]:.2f}: {result.verdict}")
      2.00, 1.86 to 2.15: passes

    Source: Zou & Donner (2008), "Construction of confidence limits about effect measures", for MOVER.
    """
    a, b = estimates.values()
    reach = tolerance * (target or 1.0)
    accepted = (-math.inf if at_most else target - reach, target + reach)
    if not b.low > 0:
        ratio = a.mi / b.mi if b.mi > 0 else math.nan
        return Property(name, says, ratio, (-math.inf, math.inf), accepted, "cannot tell", estimates)
    interval = _all_ratios(a, b) if target == 0 or not a.mi > 0 else _mover(a, b)
    verdict: Verdict = "cannot tell"
    if accepted[0] <= interval[0] and interval[1] <= accepted[1]:
        verdict = "passes"
    elif interval[1] < accepted[0] or interval[0] > accepted[1]:
        verdict = "fails"
    return Property(name, says, a.mi / b.mi, interval, accepted, verdict, estimates)


def _all_ratios(a: Measured, b: Measured) -> tuple[float, float]:
    """The range of all ratios of values in the two intervals, if all of b is positive."""
    return min(a.low / b.low, a.low / b.high), max(a.high / b.low, a.high / b.high)


def _mover(a: Measured, b: Measured) -> tuple[float, float]:
    """MOVER's interval of a / b, if a and all of b are positive."""
    centre = math.log(a.mi / b.mi)
    up = math.hypot(math.log(a.high / a.mi), math.log(b.mi / b.low))
    if not a.low > 0:
        return _all_ratios(a, b)[0], math.exp(centre + up)
    down = math.hypot(math.log(a.mi / a.low), math.log(b.high / b.mi))
    return math.exp(centre - down), math.exp(centre + up)


def _measure(estimator: str | Estimator, options: Mapping[str, Any], key: PRNGKeyArray) -> Callable[..., Measured]:
    """The estimator as a function of rows, with an interval."""
    if isinstance(estimator, str):
        return lambda x, y: _to_measured(estimate(x, y, estimator=estimator, key=key, **options))
    if not callable(estimator):
        raise TypeError(f"estimator must be a name or a function of x and y, got {type(estimator).__name__}")
    if options:
        raise TypeError(f"options are those of mi_jax.estimate and do not apply to a function, got {', '.join(options)}")

    def measure(x: np.ndarray, y: np.ndarray) -> Measured:
        value = estimator(x, y)
        return _to_measured(value) if hasattr(value, "interval") else _jackknife(estimator, x, y, float(value))

    return measure


def _to_measured(estimate: Any) -> Measured:
    return Measured(float(estimate.mi), float(estimate.interval[0]), float(estimate.interval[1]))


def _jackknife(estimator: Estimator, x: np.ndarray, y: np.ndarray, value: float) -> Measured:
    """The interval of a bare number, from estimates that leave out a fifth of the rows each; t with 4 degrees of freedom."""
    from scipy import stats

    numbers = np.arange(len(x))
    without = [float(estimator(x[keep], y[keep])) for fifth in range(JACKKNIFE) for keep in [numbers % JACKKNIFE != fifth]]
    with np.errstate(invalid="ignore"):  # the function may return infinity or NaN
        error = math.sqrt((JACKKNIFE - 1) * np.var(without))
    reach = float(stats.t.ppf(0.975, JACKKNIFE - 1)) * error
    return Measured(value, value - reach, value + reach)


def _mean(one: Measured, other: Measured) -> Measured:
    """The mean of estimates from different rows."""
    mi = (one.mi + other.mi) / 2
    down, up = (
        math.hypot(one.mi - one.low, other.mi - other.low) / 2,
        math.hypot(one.high - one.mi, other.high - other.mi) / 2,
    )
    return Measured(mi, mi - down, mi + up)


def _apply(function: Callable[[np.ndarray], Any], rows: np.ndarray, name: str) -> np.ndarray:
    images = as_rows(np.asarray(function(rows)), f"{name}(rows)")
    if len(images) != len(rows):
        raise ValueError(f"{name} must return as many rows as it gets, {len(rows)}, got {len(images)}")
    return images
