import numpy as np
import pytest

from mi_jax.estimation.splits import make_growing_splits, make_splits
from mi_jax.estimation.units import make_units


def cut(units, folds=5, repeats=1, seed=0):
    return make_splits(units, folds, repeats, np.random.default_rng(seed))


@pytest.mark.parametrize(("folds", "repeats"), [(5, 3), (2, 1), (7, 2)])
@pytest.mark.parametrize("num_rows", [20, 21, 104, 600, 603])
def test_splits_are_disjoint_and_cover_the_rows(num_rows, folds, repeats):
    splits = cut(make_units(num_rows), folds, repeats)
    assert len(splits) == folds * repeats
    tests, valids = num_rows // folds, round(num_rows / 10)
    for split in splits:
        assert (len(split.test), len(split.valid), len(split.train)) == (tests, valids, num_rows - tests - valids)
        np.testing.assert_array_equal(np.sort(np.concatenate(split[:3])), np.arange(num_rows))
        assert split.apart is None


@pytest.mark.parametrize(("num_rows", "left"), [(600, 0), (603, 3)])
def test_each_repeat_tests_every_row_once(num_rows, left):
    """Every row but the remainder by 5, as all folds test as many."""
    splits = cut(make_units(num_rows), repeats=2)
    for repeat in (splits[:5], splits[5:]):
        tested = np.bincount(np.concatenate([split.test for split in repeat]), minlength=num_rows)
        assert tested.max() == 1
        assert np.sum(tested == 0) == left
    # The second repeat has another permutation; the folds of one repeat have other validation rows.
    assert not np.array_equal(splits[0].test, splits[5].test)
    assert len(np.intersect1d(splits[1].valid, splits[2].valid)) < 0.5 * len(splits[1].valid)


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(40), np.arange(40) % 7 + 1))


@pytest.mark.parametrize("units", [make_units(400), make_units(LABELS.size, groups=LABELS), make_units(1_000, blocks=25)])
def test_splits_are_a_function_of_the_generator(units):
    first, again, other = (cut(units, repeats=2, seed=seed) for seed in (3, 3, 4))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.concatenate(ours[:3]), np.concatenate(theirs[:3]))
    assert not np.array_equal(np.concatenate(other[0][:3]), np.concatenate(first[0][:3]))


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("labels", [LABELS, np.repeat(np.arange(20), 15)])
def test_groups_stay_whole(labels, folds):
    splits = cut(make_units(labels.size, groups=labels), folds, 2)
    for split in splits:
        train, valid, test = (set(labels[part]) for part in split[:3])
        assert not train & valid
        assert not train & test
        assert not valid & test
        assert len(test) >= 2
        assert len(valid) >= 2
        # What does not fill a turn of the validation rows is left out, and no other row.
        assert labels.size - sum(map(len, split[:3])) < 0.1 * labels.size
        left = set(labels) - train - valid - test
        np.testing.assert_array_equal(
            np.sort(np.concatenate([split.train, split.test])), np.flatnonzero(~np.isin(labels, [*valid, *left]))
        )
    for repeat in (splits[:folds], splits[folds:]):
        np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in repeat])), np.arange(labels.size))
        sizes = [len(split.test) for split in repeat]
        assert max(sizes) - min(sizes) <= np.bincount(labels).max()
    assert len(splits[0].test) != len(splits[folds].test) or set(splits[0].test) != set(splits[folds].test)


@pytest.mark.parametrize("units", [make_units(LABELS.size, groups=LABELS), make_units(1_000, blocks=25)])
def test_neighbours_among_validation_rows_are_of_different_units(units):
    for split in cut(units):
        assert split.apart >= 2
        assert len(split.valid) % split.apart == 0
        for turn in split.valid.reshape(-1, split.apart):
            positions = np.sort(units.positions[turn])
            assert (np.diff(positions) >= 1 - 1e-6).all()


def test_validation_rows_that_do_not_fill_a_turn_are_few():
    used = [len(split.valid) / np.isin(LABELS, LABELS[split.valid]).sum() for split in cut(make_units(LABELS.size, LABELS))]
    assert min(used) > 0.6


@pytest.mark.parametrize("length", [1, 25, 40])
def test_blocks_leave_gaps(length):
    splits = cut(make_units(1_003, blocks=length), repeats=2)
    for split in splits:
        for one, other in ((split.train, split.test), (split.valid, split.test), (split.train, split.valid)):
            assert np.abs(one[:, None] - other).min() > length
        assert np.ptp(split.valid) < max(2 * length, 100)
    for repeat in (splits[:5], splits[5:]):
        np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in repeat])), np.arange(1_003))
    stretches = [np.sum(np.diff(np.sort(split.test)) > 1) for split in splits]
    assert max(stretches[:5]) == 0
    assert max(stretches[5:]) <= 1  # around the end
    assert sorted(splits[0].test) != sorted(splits[5].test)


def test_too_large_a_group_and_too_long_blocks():
    labels = np.concatenate([np.arange(20), np.full(500, 20)])
    with pytest.raises(ValueError, match="smaller than each of the 5 folds, but the largest holds 500 of the 520"):
        cut(make_units(520, labels))
    with pytest.raises(
        ValueError, match=r"blocks of 100 of the 1000 rows leave too few to train on, .* take shorter blocks"
    ):
        cut(make_units(1_000, blocks=100), 2)


def grow(units, folds=5, seed=0):
    return make_growing_splits(units, folds, np.random.default_rng(seed))


@pytest.mark.parametrize("num_rows", [100, 603])
def test_growing_splits_test_each_part_by_those_before_it(num_rows):
    splits = grow(make_units(num_rows))
    assert len(splits) == 4
    before = None
    for split in splits:
        known = np.concatenate([split.train, split.valid])
        if before is not None:  # what was tested before is what trains now, with what trained then
            np.testing.assert_array_equal(np.sort(known), np.sort(before))
        assert len(split.valid) == round(len(known) / 8)
        assert not np.intersect1d(known, split.test).size
        before = np.concatenate([known, split.test])
    np.testing.assert_array_equal(np.sort(before), np.arange(num_rows))


def test_growing_splits_of_groups():
    for split, other in zip(splits := grow(make_units(LABELS.size, LABELS)), splits[1:], strict=False):
        known = set(LABELS[np.concatenate([split.train, split.valid])])
        assert not known & set(LABELS[split.test])
        assert not set(LABELS[split.train]) & set(LABELS[split.valid])
        assert not set(LABELS[split.test]) & set(LABELS[other.test])


def test_growing_splits_of_a_series_go_forward():
    units = make_units(1_000, blocks=25)
    splits = grow(units)
    for split in splits:
        assert max(split.train.max(), split.valid.max()) < split.test.min() - 25
        assert np.abs(split.train[:, None] - split.valid).min() > 25
    assert len(splits) >= 3


def test_parts_with_too_little_before_them_are_not_tested():
    assert [len(split.train) + len(split.valid) for split in grow(make_units(20))] == [16]
    assert len(grow(make_units(20, groups=np.arange(20) // 2))) == 3  # of ten groups two are before the second part
    with pytest.raises(ValueError, match="permutations need more rows than 20, or more folds than 2"):
        grow(make_units(20), 2)


@pytest.mark.parametrize("units", [make_units(3_000, np.arange(3_000)), make_units(2_000, blocks=20)])
def test_validation_rows_stand_in_turns_of_many_units(units):
    """Of rows that are groups of their own, as many as there are; of blocks, one of each."""
    for split in cut(units):
        assert split.apart >= (300 if units.kind == "groups" else 10)


@pytest.mark.parametrize(("number", "folds"), [(10, 5), (20, 10), (12, 2)])
def test_groups_of_any_sizes_are_dealt(number, folds):
    """Whatever the key; none is left alone in a fold, or to train on."""
    for seed in range(100):
        sizes = np.random.default_rng(seed).integers(50, 100, number)
        for split in cut(units := make_units(sizes.sum(), np.repeat(np.arange(number), sizes)), folds, seed=seed):
            assert len(set(units.of_row[split.train])) >= 2
