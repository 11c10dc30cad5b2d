import numpy as np
import pytest

from mi_jax.cli import files as reading
from tests.cli.sources import save


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".npz", ".npy"])
def test_missing_entries_are_refused_or_dropped(tmp_path, kind):
    x, y = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    x[1, 1] = y[3] = np.nan
    files, columns = save(tmp_path, kind, x, y)
    with pytest.raises(
        ValueError, match=r"row 2 \(the first is 1\) .* empty or NaN entry in .*, and so have 1 other rows; .*--drop"
    ):
        reading.read_samples(files, **columns)
    found = reading.read_samples(files, **columns, drop_missing=True)
    assert found.dropped == 2
    np.testing.assert_array_equal(found.x, [[0.0, 1.0], [4.0, 5.0]])
    np.testing.assert_array_equal(np.ravel(found.y), [0.0, 2.0])


def test_the_column_of_a_missing_entry_is_named(write):
    with pytest.raises(ValueError, match=r"row 2 .* entry in b; leave"):
        reading.read_samples([write("a,b,c\n1,2,3\n1,NA,3\n")], ["a,b"], ["c"])


def test_infinite_entries_are_not_missing(tmp_path):
    np.savez(tmp_path / "data.npz", x=[1.0, np.inf], y=[1, 2])
    assert np.isinf(reading.read_samples([tmp_path / "data.npz"], drop_missing=True).x[1])


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_row_without_a_group_is_missing(write, tmp_path, kind):
    path = write("x,y,who\n1,2,ann\n3,4,\n5,6,bob\n")
    if kind == "npz":
        path = tmp_path / "data.npz"
        np.savez(path, x=[1.0, 3.0, 5.0], y=[2.0, 4.0, 6.0], who=[1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match=r"row 2 \(the first is 1\) has an empty or NaN entry in the column of --groups"):
        reading.read_samples([path], groups="who")
    found = reading.read_samples([path], groups="who", drop_missing=True)
    assert (found.dropped, len(found.x), len(found.groups)) == (1, 2, 2)
    assert found.groups.tolist() == (["ann", "bob"] if kind == "csv" else [1.0, 2.0])
