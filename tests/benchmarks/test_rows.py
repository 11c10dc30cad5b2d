"""The one format of rows: what is written comes back, and what is damaged or foreign is refused by name."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lib import rows

ROW = rows.Row("gaussian", {"n": 64, "seed": 0}, {"platform": "cpu"}, 0, {"run": 2.0}, {"cpc": [1.0, None]})
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_row_survives_the_disk(tmp_path):
    path = rows.write(tmp_path / "rows", ROW, "Joint 2x256, n = 64")
    assert path.name == f"joint-2x256-n-64-{rows.digest(ROW.config)}.json"
    assert rows.read(path, "gaussian") == ROW
    assert rows.read_all(tmp_path / "rows", "gaussian") == [ROW]
    assert [path.suffix for path in path.parent.iterdir()] == [".json"]


def test_a_row_is_never_rewritten(tmp_path):
    path = rows.write(tmp_path, ROW, "a")
    before = path.read_text()
    rows.write(tmp_path, ROW._replace(diverged=1), "a")
    assert path.read_text() == before


def test_half_a_row_is_never_there(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows.write(tmp_path, ROW._replace(results={"cpc": math.nan}), "a")
    assert rows.read_all(tmp_path, "gaussian") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it does not have schema 2"),
        ({"schema": 1}, "it does not have schema 2"),
        ({"benchmark": "images"}, "it is of images"),
        ({"results": None}, "results must be of type dict, got None"),
        ({"diverged": "no"}, "diverged must be of type int, got 'no'"),
        ({"config": {"n": 65}}, "its name does not end with the digest of its configuration"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path, change, message):
    path = rows.write(tmp_path, ROW, "a")
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    refused = rf"a-{rows.digest(ROW.config)}.json is not a result row of .*\({message}.*move it away"
    with pytest.raises(ValueError, match=refused):
        rows.read_all(tmp_path, "gaussian")


def test_numbers_have_the_digits_of_float32():
    assert rows.rounded({"a": [np.float32(1 / 3), -math.inf], "b": math.nan}) == {"a": [0.3333333, None], "b": None}


def test_every_committed_row_is_of_its_benchmark():
    """A page can be drawn again from each folder of committed rows."""
    folders = {path.parent for path in RESULTS.rglob("rows/*.json")}
    assert folders
    for folder in folders:
        benchmark = json.loads(next(folder.glob("*.json")).read_text())["benchmark"]
        assert rows.read_all(folder, benchmark)
