"""The self-consistency tests of Section 4.2 on one's own data: to see that an estimator errs takes no ground truth."""

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
    """One property that mutual information has, and whether the estimates have it.

    Attributes:
      name: which one.
      says: it, as a formula.
      ratio: what the estimates make of it.
      interval: of the ratio, at the level of the estimates' intervals.
      target: (low, high), what is accepted: what the property says, give or take the tolerance.
      verdict: "passes" if the interval lies in the target, "fails" if it lies outside, else "cannot tell".
      estimates: name -> the estimates that the ratio is of.
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
        return all(found.verdict == "passes" for found in self)

    def table(self) -> list[dict[str, Any]]:
        """The four as rows for pandas or tabulate."""
        return [
            {
                "property": found.name,
                "says": found.says,
                "ratio": found.ratio,
                "low": found.interval[0],
                "high": found.interval[1],
                "verdict": found.verdict,
                **{name: measured.mi for name, measured in found.estimates.items()},
            }
            for found in self
        ]

    def __repr__(self) -> str:
        lines = []
        for found in self:
            low, high = found.interval
            values = ", ".join(f"{name} = {measured.mi:.3f}" for name, measured in found.estimates.items())
            lines.append(
                f"{found.name}: {found.verdict}. {found.says}; {found.ratio:.3f}, {low:.3f} to {high:.3f} ({values})"
            )
        return "\n".join(lines)


def coarse(rows: np.ndarray) -> np.ndarray:
    """The default g and h: of the first half of the columns, the distance from the median. It loses sides and columns.

    Args:
      rows: (n, *shape) samples.

    Returns:
      (n, ceil(d / 2)), with d the entries of a row.

    Example:
      >>> import numpy as np
      >>> from mi_jax import consistency
      >>> consistency.coarse(np.array([-2.0, 0.0, 3.0])).ravel()
      array([2., 0., 3.])
    """
    flat = as_rows(rows, "rows")
    half = flat[:, : -(-flat.shape[1] // 2)]
    # One of the values: the mean of two would make a balanced binary column constant.
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
    """Whether an estimator has the properties of mutual information on these data.

    Independence: shuffled pairs share nothing. Data processing: functions of X and Y share no more than X and Y do, and
    beside X and Y they add nothing. Additivity: two independent copies share twice as much; the copies are the halves of
    the rows, so that both sides of the ratio rest on n/2 rows.

    That an estimator passes does not prove it right; that it fails proves it wrong. The first property and the third cannot
    all hold for InfoNCE near its ceiling, nor the third for what errs by a constant.

    Args:
      x: (n, *x_shape) samples.
      y: (n, *y_shape) their partners.
      estimator: a name that `estimate` knows, or a function `(x, y) -> nats`. If it returns an `Estimate`, or anything with
        `mi` and `interval`, these are used; of a bare number the interval is a jackknife's, over fifths of the rows.
      g: what is done to x, a function of (n, *x_shape) rows that gives n rows,
      h: and what to y; by default `coarse`.
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
      >>> found = mi_jax.self_consistency(x, x + rng.normal(size=x.shape), estimator=gaussian)
      >>> found.independence.verdict, found.additivity.verdict
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
    less_x, less_y = _applied(g, x, "g"), _applied(h, y, "h")
    processed = measure(less_x, less_y)
    stacked = measure(np.hstack([x, less_x]), np.hstack([y, less_y]))
    order = rng.permutation(len(x))
    half = len(x) // 2
    one, other = order[:half], order[half : 2 * half]
    halves = _mean(measure(x[one], y[one]), measure(x[other], y[other]))
    copies = measure(np.hstack([x[one], x[other]]), np.hstack([y[one], y[other]]))
    mi = "I(X; Y)"
    return SelfConsistency(
        compare("independence", "I(X; shuffled Y) = 0", {"I(X; shuffled Y)": shuffled, mi: whole}, 0.0, tolerance),
        compare(
            "data processing",
            "I(g(X); h(Y)) ≤ I(X; Y)",
            {"I(g(X); h(Y))": processed, mi: whole},
            1.0,
            tolerance,
            at_most=True,
        ),
        compare(
            "data processing, stacked",
            "I([X, g(X)]; [Y, h(Y)]) = I(X; Y)",
            {"I([X, g(X)]; [Y, h(Y)])": stacked, mi: whole},
            1.0,
            tolerance,
        ),
        compare(
            "additivity",
            "I([X, X']; [Y, Y']) = 2 I(X; Y)",
            {"I([X, X']; [Y, Y'])": copies, "I(X; Y) of half of the rows": halves},
            2.0,
            tolerance,
        ),
    )


def compare(
    name: str,
    says: str,
    estimates: Mapping[str, Measured],
    target: float,
    tolerance: float = TOLERANCE,
    *,
    at_most: bool = False,
) -> Property:
    """A property of the ratio of two estimates, and the verdict on it.

    The interval recovers the variances of the ratio from the ends of both intervals, on the log scale (MOVER): log low is
    log a - log b - sqrt((log a - log a_low)² + (log b_high - log b)²), and log high alike. It takes the two for independent;
    as they share rows it is, as a rule, too wide. Where the target is 0, or a is not above 0, so that logarithms say little,
    it holds all ratios of what the two intervals hold, and is wider still.

    Args:
      name: of the property.
      says: the property as a formula.
      estimates: two of them, by name, a and b: the ratio is a / b.
      target: what the ratio ought to be.
      tolerance: how far from it is accepted, times the target, or absolutely if that is 0.
      at_most: accept any lower ratio, too.

    Returns:
      A `Property`.

    Example:
      >>> from mi_jax.consistency import Measured, compare
      >>> estimates = {"twice": Measured(2.0, 1.9, 2.1), "once": Measured(1.0, 0.95, 1.05)}
      >>> found = compare("additivity", "I2 = 2 I", estimates, target=2.0)
      >>> print(f"{found.ratio:.2f}, {found.interval[0]:.2f} to {found.interval[1]:.2f}: {found.verdict}")
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
    """Of whatever the two intervals hold, where all of b is positive."""
    return min(a.low / b.low, a.low / b.high), max(a.high / b.low, a.high / b.high)


def _mover(a: Measured, b: Measured) -> tuple[float, float]:
    """MOVER's, of a / b, where a and all of b is positive."""
    centre = math.log(a.mi / b.mi)
    up = math.hypot(math.log(a.high / a.mi), math.log(b.mi / b.low))
    if not a.low > 0:
        return _all_ratios(a, b)[0], math.exp(centre + up)
    down = math.hypot(math.log(a.mi / a.low), math.log(b.high / b.mi))
    return math.exp(centre - down), math.exp(centre + up)


def _measure(estimator: str | Estimator, options: Mapping[str, Any], key: PRNGKeyArray) -> Callable[..., Measured]:
    """The estimator as a function of rows, with an interval."""
    if isinstance(estimator, str):
        return lambda x, y: _measured(estimate(x, y, estimator=estimator, key=key, **options))
    if not callable(estimator):
        raise TypeError(f"estimator must be a name or a function of x and y, got {type(estimator).__name__}")
    if options:
        raise TypeError(f"options are of mi_jax.estimate, and mean nothing to a function, got {', '.join(options)}")

    def measure(x: np.ndarray, y: np.ndarray) -> Measured:
        found = estimator(x, y)
        return _measured(found) if hasattr(found, "interval") else _jackknife(estimator, x, y, float(found))

    return measure


def _measured(found: Any) -> Measured:
    return Measured(float(found.mi), float(found.interval[0]), float(found.interval[1]))


def _jackknife(estimator: Estimator, x: np.ndarray, y: np.ndarray, value: float) -> Measured:
    """The interval of a bare number, from estimates without a fifth of the rows at a time; t with 4 degrees of freedom."""
    from scipy import stats

    numbers = np.arange(len(x))
    without = [float(estimator(x[keep], y[keep])) for fifth in range(JACKKNIFE) for keep in [numbers % JACKKNIFE != fifth]]
    with np.errstate(invalid="ignore"):  # infinite or NaN, the function's own verdict
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


def _applied(function: Callable[[np.ndarray], Any], rows: np.ndarray, name: str) -> np.ndarray:
    found = as_rows(np.asarray(function(rows)), f"{name}(rows)")
    if len(found) != len(rows):
        raise ValueError(f"{name} must give as many rows as it is given, {len(rows)}, got {len(found)}")
    return found
