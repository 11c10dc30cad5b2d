import sys
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_jax.cli import files as reading


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


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_groups_are_read_as_text(write, tmp_path, kind):
    path = write("x,y,who,day\n1,2,ann,3\n3,4,bob,3\n5,6,ann,4\n")
    if kind == "parquet":
        columns = {"x": [1.0, 3.0, 5.0], "y": [2, 4, 6], "who": ["ann", "bob", "ann"], "day": [3, 3, 4]}
        path = tmp_path / "data.parquet"
        pq.write_table(pa.table(columns | {"who": pa.array(columns["who"]).dictionary_encode()}), path)
    for name, labels in (("who", ["ann", "bob", "ann"]), ("day", ["3", "3", "4"]), ("x", None)):
        found = reading.read_samples([path], groups=name).groups
        assert len(set(found)) == 3 if labels is None else found.tolist() == labels
    with pytest.raises(ValueError, match=r"--groups: .* has no column 'whom'; it has x, y, who, day"):
        reading.read_samples([path], groups="whom")
    with pytest.raises(ValueError, match="--groups must be one column, got x, y"):
        reading.read_samples([path], groups="x,y")
