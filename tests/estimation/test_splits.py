import numpy as np
import pytest

from mi_jax.estimation.splits import make_splits, split_sizes


@pytest.mark.parametrize(("folds", "repeats"), [(5, 3), (2, 1), (7, 2)])
@pytest.mark.parametrize("num_rows", [20, 21, 104, 600, 603])
def test_splits_are_disjoint_and_cover_the_rows(num_rows, folds, repeats):
    splits = make_splits(num_rows, folds, repeats, np.random.default_rng(0))
    assert len(splits) == folds * repeats
    tests, valids = num_rows // folds, round(num_rows / 10)
    for split in splits:
        assert (len(split.test), len(split.valid), len(split.train)) == (tests, valids, num_rows - tests - valids)
        np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(num_rows))
    assert split_sizes(num_rows, folds) == (num_rows - tests - valids, valids, tests)


@pytest.mark.parametrize(("num_rows", "left"), [(600, 0), (603, 3)])
def test_each_repeat_tests_every_row_once(num_rows, left):
    """Every row but the remainder by 5, as all folds test as many."""
    splits = make_splits(num_rows, 5, 2, np.random.default_rng(0))
    for repeat in (splits[:5], splits[5:]):
        tested = np.bincount(np.concatenate([split.test for split in repeat]), minlength=num_rows)
        assert tested.max() == 1
        assert np.sum(tested == 0) == left
    # The second repeat has another permutation; the folds of one repeat have other validation rows.
    assert not np.array_equal(splits[0].test, splits[5].test)
    assert len(np.intersect1d(splits[1].valid, splits[2].valid)) < 0.5 * len(splits[1].valid)


def test_splits_are_a_function_of_the_generator():
    first, again, other = (make_splits(100, 5, 2, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.concatenate(ours), np.concatenate(theirs))
    assert not np.array_equal(other[0].test, first[0].test)
