import numpy as np
import pytest

from mi_jax.estimation.units import check_exchangeable, make_units


def test_by_default_each_row_is_its_own():
    units = make_units(7)
    assert (units.kind, units.number, units.positions) == ("rows", 7, None)
    np.testing.assert_array_equal(units.sums(np.arange(7.0)), np.arange(7))


@pytest.mark.parametrize("name", [int, float, str, lambda k: np.datetime64("2020-01-01") + int(k)])
def test_groups_by_labels_of_any_kind(name):
    numbers = np.random.default_rng(0).integers(10, 22, 100)
    labels = [name(number) for number in numbers]
    units = make_units(100, groups=labels)
    assert (units.kind, units.number) == ("groups", np.unique(numbers).size)
    np.testing.assert_array_equal(units.of_row, numbers - 10)
    np.testing.assert_array_equal(
        make_units(100, groups=np.array(labels, object) if name is str else labels).of_row, numbers - 10
    )


def test_the_sum_of_each_unit():
    labels = [*"abca", *"defghijk"]
    np.testing.assert_array_equal(make_units(12, labels).sums(np.arange(12.0)), [3, 1, 2, *range(4, 12)])
    np.testing.assert_array_equal(make_units(21, blocks=2).sums(np.ones(21)), [2] * 9 + [3])


def test_places_tell_which_rows_depend_on_one_another():
    near = lambda units: np.abs(units.positions[:, None] - units.positions) < 1  # noqa: E731
    labels = np.random.default_rng(0).integers(0, 12, 100)
    np.testing.assert_array_equal(near(make_units(100, labels)), labels[:, None] == labels)
    rows = np.arange(100)
    np.testing.assert_array_equal(near(make_units(100, blocks=5)), np.abs(rows[:, None] - rows) < 5)


def test_rows_are_permuted_at_random():
    rng = np.random.default_rng(0)
    orders = [make_units(50).permute(rng) for _ in range(200)]
    assert len({tuple(order) for order in orders}) == 200
    assert np.ptp(np.mean(orders, axis=0)) < 10  # each 24.5, with a standard error of 1


def test_groups_are_exchanged_whole_with_those_of_their_size():
    labels = np.array([0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 9, 9, 10])
    units, rng = make_units(labels.size, labels, folds=2), np.random.default_rng(0)
    partners = set()
    for _ in range(200):
        order = units.permute(rng)
        np.testing.assert_array_equal(np.sort(order), np.arange(labels.size))
        for label in range(11):
            rows = order[labels == label]
            assert len(set(labels[rows])) == 1
            assert np.sum(labels == labels[rows[0]]) == rows.size
            assert (np.diff(rows) > 0).all()  # rows of a group keep their order
            partners.add((label, int(labels[rows[0]])))
    assert len(partners) == 3**2 + 6**2 + 2**2


def test_some_rows_are_exchanged_by_place_among_them():
    rng = np.random.default_rng(0)
    labels = np.array([*range(10), 10, 11, 10, 11, 12, 12, 13])
    units, rows = make_units(labels.size, labels), np.array([13, 16, 11, 0, 15, 12, 10, 14])  # of 11, 13, 0, 12 and 10
    orders = units.exchange(rows, 300, rng)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(8), (300, 1)))
    pairs = {(int(a), int(b)) for order in orders for a, b in zip(rows, rows[order], strict=True)}
    firsts, seconds, ones = {11, 10, 14}, {13, 12, 15}, {16, 0}
    assert pairs == {(a, b) for alike in (firsts, seconds, ones) for a in alike for b in alike}
    blocks = make_units(100, blocks=10)
    order = blocks.exchange(np.arange(99, 19, -1), 1, rng)[0]
    np.testing.assert_array_equal(np.diff(np.arange(99, 19, -1)[order].reshape(8, 10)), -1)
    free = make_units(50).exchange(np.arange(10, 20), 2_000, rng)
    np.testing.assert_allclose(free.mean(axis=0), 4.5, atol=0.35)


def test_a_series_is_turned_around_by_a_block_or_more():
    units, rng = make_units(100, blocks=10), np.random.default_rng(0)
    starts = {int(units.permute(rng)[0]) for _ in range(2_000)}
    assert starts == set(range(10, 91))
    order = units.permute(rng)
    np.testing.assert_array_equal(np.diff(order) % 100, 1)


def test_groups_that_cannot_be_exchanged():
    check_exchangeable(make_units(12))
    check_exchangeable(make_units(40, blocks=2))
    check_exchangeable(make_units(11, [*range(10), 9]))
    sizes = np.arange(1, 11)
    with pytest.raises(
        ValueError, match="permutations exchange whole groups of the same size, and no two of the 10 have one"
    ):
        check_exchangeable(make_units(sizes.sum(), np.repeat(sizes, sizes)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": [1] * 100, "blocks": 2}, ValueError, "groups and blocks exclude one another"),
        ({"groups": [1, 2]}, ValueError, r"groups must hold a label for each of the 100 rows, got shape \(2,\)"),
        ({"groups": np.zeros((100, 1))}, ValueError, r"groups must hold a label .*, got shape \(100, 1\)"),
        ({"groups": [None] * 100}, TypeError, "groups must hold numbers or strings, got dtype object"),
        ({"groups": np.zeros(100, complex)}, TypeError, "groups must hold numbers or strings, got dtype complex"),
        ({"groups": [np.nan, *range(99)]}, ValueError, "groups must name a group for each row, got 1 that are NaN"),
        ({"groups": np.arange(100) % 9}, ValueError, "groups must be at least 10 with 2 folds, got 9"),
        ({"groups": np.arange(100) % 11, "folds": 6}, ValueError, "groups must be at least 12 with 6 folds, got 11"),
        ({"blocks": 11}, ValueError, "blocks must be of at most 10 rows, so that there are 10 of them, got 11 of 100 rows"),
        ({"blocks": 0}, ValueError, "blocks must be at least 1, got 0"),
        ({"blocks": 2.0}, TypeError, "blocks must be an integer, got float"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        make_units(100, **options)
