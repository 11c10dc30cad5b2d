import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_jax.cli import files as reading


@pytest.fixture
def write(tmp_path):
    """A text file of this name."""

    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_npz_reads_the_arrays_asked_for(tmp_path):
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    np.savez(tmp_path / "data.npz", x=x, y=y, other=np.zeros(3))
    found = reading.read_samples([tmp_path / "data.npz"])
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert (found.x_names, found.y_names, found.dropped) == (("x",), ("y",), 0)
    swapped = reading.read_samples([tmp_path / "data.npz"], x=["y"], y=["x"])
    np.testing.assert_array_equal(swapped.x, y)


def test_compressed_npz(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", x=np.arange(6.0), y=np.arange(6.0))
    assert reading.read_samples([tmp_path / "data.npz"]).x.tolist() == list(range(6))


def test_npy_files_are_mapped_not_loaded(tmp_path):
    for name, values in (("x", np.arange(12.0).reshape(6, 2)), ("y", np.arange(6) > 2)):
        np.save(tmp_path / f"{name}.npy", values)
    found = reading.read_samples([tmp_path / "x.npy", tmp_path / "y.npy"])
    assert isinstance(found.x, np.memmap)
    assert found.x[5].tolist() == [10.0, 11.0]
    assert found.y.tolist() == [False] * 3 + [True] * 3


def test_npz_with_an_object_array_beside_is_read(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(3.0), y=np.arange(3.0), o=np.array([{}], object))
    assert reading.read_samples([tmp_path / "data.npz"]).x.size == 3


@pytest.mark.parametrize(
    ("x", "y", "names"),
    [
        (["a,b"], ["c"], (("a", "b"), ("c",))),
        (["b", "a"], ["c"], (("b", "a"), ("c",))),
        (["a, b"], ["c"], (("a", "b"), ("c",))),
        (["x*"], ["c"], (("x1", "x2"), ("c",))),
        (["x[12]"], ["c"], (("x1", "x2"), ("c",))),
        (["x1", "x*"], ["?"], (("x1", "x2"), ("a", "b", "c", "*"))),
        (["d,e"], ["c"], (("d,e",), ("c",))),  # a comma in a name
        (["*"], ["a"], (("*",), ("a",))),  # a star in a name
    ],
)
def test_columns_by_name_and_pattern(write, x, y, names):
    path = write('a,b,c,x1,x2,"d,e",*\n1,2,3,4,5,6,7\n8,9,10,11,12,13,14\n')
    found = reading.read_samples([path], x, y)
    assert (found.x_names, found.y_names) == names
    columns = dict(zip(["a", "b", "c", "x1", "x2", "d,e", "*"], range(1, 8), strict=True))
    assert found.x.tolist() == [[columns[name] + add for name in names[0]] for add in (0, 7)]
    assert found.y.tolist() == [[columns[name] + add for name in names[1]] for add in (0, 7)]


@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("x,y\n1,0\n2.5,0\n", [1.0, 2.5]),
        ("x,y\r\n1,0\r\n2,0\r\n", [1.0, 2.0]),
        ("\ufeffx,y\n1,0\n2,0\n", [1.0, 2.0]),
        ("x, y\n 1, 0\n 2, 0\n", [1.0, 2.0]),
        ('"x","y"\n"1","0"\n"2","0"\n', [1.0, 2.0]),
        ("\nx,y\n1,0\n\n2,0\n", [1.0, 2.0]),
        ("x,y\ntrue,0\nfalse,0\n", [1.0, 0.0]),
        ("x,y,z\n1,0,some\n2,0,text\n", [1.0, 2.0]),
        ("x,z,y,z\n1,0,0,0\n2,0,0,0\n", [1.0, 2.0]),  # twice, but not asked for
        ("x,y\n1e-3,0\n-inf,0\n", [1e-3, -np.inf]),
        (f"x,y\n{'1,0' + chr(10)}" * 1 + "1,0\n" * 400_000 + "0.5,0\n", None),  # a fraction after more than 1 MB of integers
    ],
)
def test_csv_in_its_varieties(write, text, x):
    found = reading.read_samples([write(text)]).x
    assert found.dtype == np.float64
    assert found.ravel()[-1] == 0.5 if x is None else found.ravel().tolist() == x


def test_csv_is_what_numpy_reads(tmp_path):
    values = np.random.default_rng(0).normal(size=(500, 4)) * 10.0 ** np.arange(-20, 20, 10)
    np.savetxt(tmp_path / "data.csv", values, delimiter=",", header="a,b,c,d", comments="", fmt="%.17g")
    found = reading.read_samples([tmp_path / "data.csv"], ["d,b"], ["a,c"])
    np.testing.assert_array_equal(found.x, values[:, [3, 1]])
    np.testing.assert_array_equal(found.y, values[:, [0, 2]])


def test_parquet_types_become_float64(tmp_path):
    table = pa.table(
        {
            "half": pa.array(np.array([1, 2], np.float16)),
            "single": pa.array([1.5, 2.5], pa.float32()),
            "int": pa.array([1, 2**60], pa.int64()),
            "bool": [True, False],
            "dotted.name": [3, 4],
            "text": ["a", "b"],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    found = reading.read_samples([tmp_path / "data.parquet"], ["half,single,int"], ["bool", "dotted.name"])
    assert found.x.tolist() == [[1.0, 1.5, 1.0], [2.0, 2.5, 2.0**60]]
    assert found.y.tolist() == [[1.0, 3.0], [0.0, 4.0]]


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


def save(folder, kind, x, y):
    """x and y in files of a kind, and the names that `read_samples` takes for them."""
    if kind == ".npz":
        np.savez(folder / "data.npz", x=x, y=y)
        return [folder / "data.npz"], {}
    if kind == ".npy":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        return [folder / "x.npy", folder / "y.npy"], {}
    columns = {f"x{place}": column for place, column in enumerate(x.T)} | {"y": y}
    if kind == ".parquet":
        pq.write_table(
            pa.table({name: pa.array(list(column), from_pandas=True) for name, column in columns.items()}),
            folder / "d.parquet",
        )
        return [folder / "d.parquet"], {"x": ["x*"]}
    rows = [",".join("" if np.isnan(value) else str(value) for value in row) for row in zip(*columns.values(), strict=True)]
    (folder / "d.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    return [folder / "d.csv"], {"x": ["x*"]}


def test_the_column_of_a_missing_entry_is_named(write):
    with pytest.raises(ValueError, match=r"row 2 .* entry in b; leave"):
        reading.read_samples([write("a,b,c\n1,2,3\n1,NA,3\n")], ["a,b"], ["c"])


def test_infinite_entries_are_not_missing(tmp_path):
    np.savez(tmp_path / "data.npz", x=[1.0, np.inf], y=[1, 2])
    assert np.isinf(reading.read_samples([tmp_path / "data.npz"], drop_missing=True).x[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n1,\n3,two\n", "column 'y' must hold numbers, got 'two' in row 3 below the header"),
        ("x,y\n2020-01-01,2\n", "column 'x' must hold numbers, got '2020-01-01' in row 1"),
        ("x,y\n1_000,2\n", "got '1_000'"),
        ("x,y\n1,2\n1,2,3\n", "Row #3: Expected 2 columns, got 3: 1,2,3"),
        ("x,y\n", "holds the header and no rows"),
        ("\n", "--x: .*data.csv has no column 'x'; it has none"),
        ("x;y\n1;2\n", "has no column 'x'; it has x;y"),
        ("x,x,y\n1,2,3\n", "--x: .*data.csv has 2 columns called 'x'"),
        ("é,y\n1,2\n".encode("latin1"), "must be text in UTF-8, got byte 0xe9"),
        ("x," + ",".join(f"c{place}" for place in range(99)) + "\n", r"no column 'y'; it has x, c0, .*c10 and 88 more"),
        ("x" * 200_000 + ",y\n", "data.csv: .*field larger than field limit"),
    ],
)
def test_csv_that_cannot_be_read(write, text, message):
    with pytest.raises(ValueError, match=message):
        reading.read_samples([write(text)])


def test_no_pickle_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    np.save(tmp_path / "x.npy", np.array([Trap()], object), allow_pickle=True)
    np.save(tmp_path / "y.npy", np.zeros(1))
    np.savez(tmp_path / "data.npz", x=np.array([Trap()], object), y=np.zeros(1))
    for files in (["x.npy", "y.npy"], ["data.npz"]):
        with pytest.raises(ValueError, match=r"(x.npy|data.npz): .*(Python objects|Object arrays)"):
            reading.read_samples([tmp_path / name for name in files])


@pytest.mark.parametrize("keep", [10, 100, -1, -30])
@pytest.mark.parametrize("kind", [".npz", ".npy", ".parquet"])
def test_truncated_files(tmp_path, kind, keep):
    files, columns = save(tmp_path, kind, np.random.default_rng(0).normal(size=(50, 2)), np.arange(50.0))
    files[0].write_bytes(files[0].read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{files[0].name}: damaged"):
        reading.read_samples(files, **columns)


def test_a_flipped_byte_in_npz(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(1000), y=np.zeros(1000))
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[1_000] ^= 1
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"data.npz: damaged.*CRC"):
        reading.read_samples([tmp_path / "data.npz"])


def test_an_npz_that_is_another_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    with pytest.raises(ValueError, match=r"data.npz: 'x' must be an array, got a file of another kind"):
        reading.read_samples([tmp_path / "data.npz"])


def test_without_pyarrow(write, monkeypatch):
    for name in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"need pyarrow.*: pip install 'mi-jax\[cli\]'"):
        reading.read_samples([write("x,y\n1,2\n")])


def test_of_a_table_only_the_columns_asked_for_are_held(tmp_path):
    rows, columns = 20_000, {f"c{place}": np.arange(20_000.0) for place in range(20)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    reading.read_samples([tmp_path / "data.parquet"], ["c0"], ["c1"])  # imports
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    found = reading.read_samples([tmp_path / "data.parquet"], ["c0,c2"], ["c1"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.x.base is found.y.base
    assert peak < 2 * rows * 3 * 8
    for _ in range(100):  # its threads let go of what they read a moment later
        if pa.total_allocated_bytes() - before < rows * 8:
            break
        time.sleep(0.1)
    assert pa.total_allocated_bytes() - before < rows * 8
