"""Verdicts in plain words, for readers who know nothing of the methods behind the numbers."""

import math
from collections.abc import Sequence

# Warnings that report what was done to the data, and say nothing against the estimate.
NOTES = ("constant_columns_", "duplicated_columns_")
LEAST_DECIMALS, MOST_DECIMALS = 2, 5


def is_note(name: str) -> bool:
    """Whether the warning of this name says nothing against the estimate.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.is_note("constant_columns_x"), verdicts.is_note("overfitting")
      (True, False)
    """
    return name.startswith(NOTES)


def judge_estimate(
    mi: float,
    interval: tuple[float, float],
    *,
    unit: str = "nats",
    num_rows: int,
    num_warnings: int = 0,
    dependent: bool | None = None,
) -> str:
    """Say whether x and y depend on each other, and whether the estimate can be relied on.

    Args:
      mi: the estimate.
      interval: (low, high), its interval.
      unit: of both, "nats" or "bits".
      num_rows: how many rows the estimate is made from.
      num_warnings: how many warnings speak against the estimate.
      dependent: what a permutation test found; None if there was no test, or it could not decide.

    Returns:
      One to three sentences.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.judge_estimate(1.98, (1.93, 2.05), num_rows=1_000)
      'x and y are clearly dependent: the interval lies above 0. No check speaks against the estimate.'
      >>> verdicts.judge_estimate(1.98, (1.93, 2.05), num_rows=1_000, num_warnings=2)
      'Do not rely on this number: see the 2 warnings below.'
    """
    warnings = "the warning" if num_warnings == 1 else f"the {num_warnings} warnings"
    if not math.isfinite(mi):
        return "There is no estimate, because every fit failed" + (f": see {warnings} below." if num_warnings else ".")
    if num_warnings:
        return f"Do not rely on this number: see {warnings} below."
    low, high = interval
    if math.isnan(low) or math.isnan(high):
        return "The interval could not be computed, so nobody can say how reliable this number is."
    if low > 0:
        return _judge_above_zero(dependent)
    return _judge_around_zero(high, format_value(high, *interval), unit, num_rows, dependent)


def _judge_above_zero(dependent: bool | None) -> str:
    if dependent is False:
        return (
            "It is unclear whether x and y are dependent: the interval lies above 0, but the permutation test shows no "
            "dependence."
        )
    test = ", and the permutation test shows dependence" if dependent else ""
    return f"x and y are clearly dependent: the interval lies above 0{test}. No check speaks against the estimate."


def _judge_around_zero(high: float, shown: str, unit: str, num_rows: int, dependent: bool | None) -> str:
    if dependent:
        return (
            f"x and y are dependent, as the permutation test shows, but these {num_rows:,} rows do not show how strongly: "
            f"the interval {_describe_zero(high)}."
        )
    test = ", and the permutation test shows none" if dependent is False else ""
    verdict = f"No dependence could be shown in these {num_rows:,} rows: the interval {_describe_zero(high)}{test}."
    # A critic that learns nothing gives exactly 0 with an interval of no width, which says nothing about the truth.
    if not 0 < high < math.inf:
        return f"{verdict} This does not prove that there is none."
    limit = f"The mutual information may be up to {shown} {unit}"
    return f"{verdict} {limit}, or more if the dependence is too complicated to be learned from them."


def _describe_zero(high: float) -> str:
    return "lies below 0, where no mutual information can be" if high < 0 else "includes 0"


def decide_dependence(p_value: float, permutations: int, confidence: float, least: float = 0.0) -> bool | None:
    """What a permutation test finds at the level of the interval.

    Args:
      p_value: of the test; NaN if there is no estimate.
      permutations: how many permuted data sets the test compared with.
      confidence: the level of the interval, such as 0.95.
      least: the smallest p-value that was possible.

    Returns:
      Whether x and y are dependent; None if the test cannot decide, with or without dependence.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.decide_dependence(0.05, 19, 0.95), verdicts.decide_dependence(0.3, 19, 0.95)
      (True, False)
    """
    if math.isnan(p_value) or permutations < count_permutations(confidence) or least > 1 - confidence + 1e-9:
        return None
    return p_value <= 1 - confidence + 1e-9  # 1 - 0.9 is below 0.1 in floating point


def count_permutations(confidence: float) -> int:
    """The fewest permutations with which to test at this level: a p-value of retrained sets is at least 1 / (1 + m).

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.count_permutations(0.95), verdicts.count_permutations(0.99)
      (19, 99)
    """
    return math.ceil(1 / (1 - confidence) - 1 - 1e-9)


def explain_permutations(p_value: float, permutations: int, confidence: float, least: float = 0.0) -> str:
    """Say in words what the p-value of a permutation test means. The arguments are those of `decide_dependence`.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> print(verdicts.explain_permutations(0.05, 19, 0.95))
      permutation test: if x and y were independent, about 5 % of data sets would look as dependent as these (p = 0.05)
    """
    if math.isnan(p_value):
        return "permutation test: no result, because there is no estimate"
    text = (
        f"permutation test: if x and y were independent, about {100 * p_value:.3g} % of data sets would look as "
        f"dependent as these (p = {p_value:.3g})"
    )
    fewest = count_permutations(confidence)
    if permutations < fewest:
        text += f"; to show dependence at the {100 * confidence:g} % level takes --permutations {fewest} or more"
    elif least > 1 - confidence + 1e-9:
        text += f"; so little can be exchanged here that p cannot be below {least:.2g}, which shows nothing"
    return text


def judge_check(results: Sequence[str]) -> str:
    """Say whether an estimator can be relied on, from the verdicts of its self-consistency tests.

    Args:
      results: "passes", "fails" or "cannot tell", one for each test.

    Returns:
      One or two sentences.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.judge_check(["passes", "fails", "passes", "cannot tell"])
      'Do not rely on this estimator on these data: 1 of the 4 tests failed.'
    """
    count, failed, undecided = len(results), results.count("fails"), results.count("cannot tell")
    if failed:
        return f"Do not rely on this estimator on these data: {failed} of the {count} tests failed."
    if undecided == count:
        return f"None of the {count} tests could decide: x and y share too little, or there are too few rows."
    if undecided:
        return f"No test failed, but {undecided} of the {count} could not decide. More rows would narrow their intervals."
    return f"All {count} tests passed. This does not prove the estimates right, but no test speaks against them."


def format_value(value: float, low: float, high: float) -> str:
    """A number with as many decimals as its interval makes meaningful.

    There are at least two decimals, and enough to show the width of the interval and that its low end is not 0.

    Example:
      >>> from mi_jax.cli import verdicts
      >>> verdicts.format_value(1.98123, 1.93, 2.05), verdicts.format_value(0.0041, -0.003, 0.012)
      ('1.98', '0.004')
    """
    sizes = 0.1 * (high - low), abs(low)
    decimals = max((math.ceil(-math.log10(size)) for size in sizes if 0 < size < math.inf), default=0)
    decimals = min(max(decimals, LEAST_DECIMALS), MOST_DECIMALS)
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # adding 0 turns a negative zero into 0
