import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mi_jax.estimation.ladder import power_below, rung, rung_of_part
from mi_jax.estimation.splits import make_splits
from mi_jax.estimation.units import make_units


@hypothesis.given(st.integers(1, 10**7))
def test_a_rung_is_the_first_that_holds_the_rows(number):
    found = rung(number)
    assert number <= found < 2 * number or number == 1
    assert found <= 1.25 * number or found <= 4_096
    assert rung(found) == found
    assert all(rung(other) == found for other in {(number + found) // 2, found})


def test_rungs_are_few():
    assert len({rung(number) for number in range(20, 100_000)}) < 30


@pytest.mark.parametrize(("low", "high"), [(257, 512), (513, 1_024), (2_049, 4_096), (9_000, 10_240)])
def test_parts_of_data_of_one_rung_have_one_size(low, high):
    rng, sizes = np.random.default_rng(0), set()
    for number in range(low, high + 1, max(1, (high - low) // 50)):
        splits = make_splits(make_units(number), 5, 1, rng)
        parts = [[len(part) for part in each] for each in zip(*(split[:3] for split in splits), strict=True)]
        found = tuple(rung_of_part(each, number) for each in parts)
        assert all(size >= max(each) for size, each in zip(found, parts, strict=True))
        sizes.add(found)
    assert len(sizes) <= 2
    assert sum(min(sizes)) <= 1.1 * rung(high)


def test_of_parts_that_differ_the_largest_decides():
    assert rung_of_part([100, 200, 150], 1_000) == rung_of_part([200], 1_000) == 208
    assert rung_of_part([2_000], 10_000) == 2_048


@hypothesis.given(st.integers(1, 10**9))
def test_the_power_of_two_below(number):
    power = power_below(number)
    assert power <= number < 2 * power
    assert power & (power - 1) == 0
