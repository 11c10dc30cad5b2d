import math

import numpy as np
import pytest

from mi_jax.cli import verdicts
from mi_jax.cli.verdicts import judge_estimate
from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.data_warnings import warn_of_columns


@pytest.mark.parametrize(
    ("dependent", "text"),
    [
        (None, "x and y are clearly dependent: the interval lies above 0. No check speaks against the estimate."),
        (
            True,
            "x and y are clearly dependent: the interval lies above 0, and the permutation test shows dependence. No check "
            "speaks against the estimate.",
        ),
        (
            False,
            "It is unclear whether x and y are dependent: the interval lies above 0, but the permutation test shows no "
            "dependence.",
        ),
    ],
)
def test_an_interval_above_0(dependent, text):
    assert judge_estimate(1.98, (1.93, 2.05), num_rows=1_000, dependent=dependent) == text


@pytest.mark.parametrize(
    ("dependent", "text"),
    [
        (
            None,
            "No dependence could be shown in these 1,000 rows: the interval includes 0. The mutual information may be up to "
            "0.09 bits, or more if the dependence is too complicated to be learned from them.",
        ),
        (
            True,
            "x and y are dependent, as the permutation test shows, but these 1,000 rows do not show how strongly: the "
            "interval includes 0.",
        ),
        (
            False,
            "No dependence could be shown in these 1,000 rows: the interval includes 0, and the permutation test shows none."
            " The mutual information may be up to 0.09 bits, or more if the dependence is too complicated to be learned"
            " from them.",
        ),
    ],
)
def test_an_interval_that_includes_0(dependent, text):
    assert judge_estimate(0.02, (-0.05, 0.09), unit="bits", num_rows=1_000, dependent=dependent) == text


def test_an_interval_that_begins_at_0_includes_it():
    assert "the interval includes 0. The mutual information may be up to 0.20" in judge_estimate(0.0, (0.0, 0.2), num_rows=9)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.0, 0.0), "includes 0"),  # as of a critic that learns nothing
        ((-0.2, 0.0), "includes 0"),
        ((-0.2, math.inf), "includes 0"),
        ((-4.0, -2.0), "lies below 0, where no mutual information can be"),
    ],
)
def test_an_interval_that_limits_nothing(interval, text):
    assert judge_estimate(min(0.0, interval[1]), interval, num_rows=9) == (
        f"No dependence could be shown in these 9 rows: the interval {text}. This does not prove that there is none."
    )


def test_an_interval_above_0_without_an_upper_end():
    assert judge_estimate(0.5, (0.2, math.inf), num_rows=9).startswith("x and y are clearly dependent")


def test_an_interval_that_is_not_known():
    text = judge_estimate(1.0, (math.nan, math.nan), num_rows=9)
    assert text == "The interval could not be computed, so nobody can say how reliable this number is."


@pytest.mark.parametrize("interval", [(1.93, 2.05), (-0.1, 0.1), (-4.0, -2.0), (math.nan, math.nan)])
@pytest.mark.parametrize("dependent", [None, True, False])
def test_warnings_come_before_everything_else(interval, dependent):
    for number, text in ((1, "the warning"), (2, "the 2 warnings")):
        verdict = judge_estimate(1.0, interval, num_rows=9, num_warnings=number, dependent=dependent)
        assert verdict == f"Do not rely on this number: see {text} below."


def test_no_estimate():
    nothing = math.nan, math.nan
    assert judge_estimate(math.nan, nothing, num_rows=9) == "There is no estimate, because every fit failed."
    text = judge_estimate(math.nan, nothing, num_rows=9, num_warnings=1)
    assert text == "There is no estimate, because every fit failed: see the warning below."


@pytest.mark.parametrize(
    ("p_value", "permutations", "confidence", "dependent"),
    [
        (0.05, 19, 0.95, True),
        (0.1, 9, 0.9, True),
        (0.01, 99, 0.99, True),
        (0.06, 19, 0.95, False),
        (1.0, 1_000, 0.95, False),
        (0.1, 9, 0.95, None),  # it could not have been smaller
        (0.5, 1, 0.95, None),
        (math.nan, 99, 0.95, None),
    ],
)
def test_a_permutation_test_decides_at_the_level_of_the_interval(p_value, permutations, confidence, dependent):
    assert verdicts.decide_dependence(p_value, permutations, confidence) is dependent


@pytest.mark.parametrize("count", [1, 9, 19, 99, 999])
def test_the_fewest_permutations_can_show_dependence(count):
    """The smallest p-value of m permutations is 1 / (1 + m)."""
    assert verdicts.count_permutations(1 - 1 / (1 + count)) == count


def test_permutations_in_words():
    start = "permutation test: if x and y were independent, about "
    assert (
        verdicts.explain_permutations(0.3, 19, 0.95)
        == f"{start}30 % of data sets would look as dependent as these (p = 0.3)"
    )
    assert verdicts.explain_permutations(1.0, 19, 0.95).startswith(f"{start}100 % of data sets")
    assert verdicts.explain_permutations(1 / 3, 2, 0.95).endswith(
        "(p = 0.333); to show dependence at the 95 % level takes --permutations 19 or more"
    )
    assert verdicts.explain_permutations(math.nan, 19, 0.95) == ("permutation test: no result, because there is no estimate")


@pytest.mark.parametrize(
    ("results", "text"),
    [
        (["passes"] * 4, "All 4 tests passed. This does not prove the estimates right, but no test speaks against them."),
        (
            ["passes", "fails", "fails", "cannot tell"],
            "Do not rely on this estimator on these data: 2 of the 4 tests failed.",
        ),
        (
            ["passes", "cannot tell", "passes", "passes"],
            "No test failed, but 1 of the 4 could not decide. More rows would narrow their intervals.",
        ),
        (["cannot tell"] * 4, "None of the 4 tests could decide: x and y share too little, or there are too few rows."),
    ],
)
def test_self_consistency(results, text):
    assert verdicts.judge_check(results) == text


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (1.98123, (1.93, 2.05), "1.98"),
        (123.456, (100.0, 150.0), "123.46"),
        (0.50512, (0.5, 0.51), "0.505"),
        (0.06, (0.002, 0.122), "0.060"),  # two decimals would show the low end as 0.00
        (-0.001, (-0.06, 0.06), "0.00"),  # not -0.00
        (0.5, (0.5, 0.5), "0.50"),
        (1e-9, (-1e-9, 1e-9), "0.00000"),
        (0.5, (0.2, math.inf), "0.50"),
        (math.inf, (0.2, math.inf), "inf"),
        (0.5, (math.nan, math.nan), "0.50"),
    ],
)
def test_a_value_has_the_decimals_that_its_interval_makes_meaningful(value, interval, text):
    assert verdicts.format_value(value, *interval) == text


def test_notes_are_the_warnings_about_columns_that_were_left_out():
    rows = np.random.default_rng(0).normal(size=(30, 1)) @ np.array([[1.0, 0.0, 1.0]])
    names = warn_of_columns(fit_columns(rows, "x"), fit_columns(rows, "y"))
    assert len(names) == 4
    assert all(verdicts.is_note(name) for name in names)
    assert not any(verdicts.is_note(name) for name in ("duplicated_rows", "resolution_x", "deterministic", "no_estimate"))


def test_a_test_that_could_not_show_anything():
    assert verdicts.decide_dependence(0.12, 999, 0.95, least=0.12) is None
    assert verdicts.decide_dependence(0.12, 999, 0.95, least=0.01) is False
    text = verdicts.explain_permutations(0.12, 999, 0.95, least=0.12)
    assert text.endswith("(p = 0.12); so little can be exchanged here that p cannot be below 0.12, which shows nothing")
