"""What a borrowed accelerator is used for: the archive, the checks, the shares of time, the pages; and all of it, tiny."""

import gzip
import json
import tarfile
import time

import jax
import numpy as np
import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import checks, items, page, torch_loop
from benchmarks.accelerator.archive import Archive
from benchmarks.campaign.parts import Part
from benchmarks.gaussian import experiment, histories, precision
from benchmarks.lib import machine, rows
from tests.counting import Cell, Counting


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The archive


def test_an_archive_brings_rows_back(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for name, text in (("accelerator-h100/rows/a.json", "first"), ("gaussian-h100/rows/b.json", "second")):
        Archive(tmp_path / "rows.tar", there).add(write(there / name, text))  # each time from the file
    archive = Archive(tmp_path / "rows.tar", here)
    assert archive.device("default") == "h100"
    write(here / "accelerator-h100/rows/a.json", "is kept")
    assert [path.name for path in archive.unpack()] == ["b.json"]
    assert (here / "gaussian-h100/rows/b.json").read_text() == "second"
    assert (here / "accelerator-h100/rows/a.json").read_text() == "is kept"
    assert Archive(tmp_path / "other.tar", here).device("default") == "default"


def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path):
    (tmp_path / "bad").write_bytes(gzip.compress(b"text"))
    with tarfile.open(tmp_path / "rows.tar", "w") as tar:
        tar.add(tmp_path / "bad", "../outside.json.gz")
    with pytest.raises(ValueError, match="names a file outside of its folder"):
        Archive(tmp_path / "rows.tar", tmp_path / "here").unpack()
    assert not (tmp_path / "outside.json").exists()


# The checks


@pytest.mark.parametrize("check", [checks.Check("bound", "nwj", "highest"), checks.Check("step", "gm", "default")])
def test_this_machine_agrees_with_float64(check):
    results = check.measure().results
    assert 0 < results["difference"] < checks.TOLERANCE
    assert 0 < results["gradient"] < checks.TOLERANCE


def test_the_page_of_the_checks_marks_what_is_off(tmp_path):
    for name, difference in (("nwj", 1e-7), ("dv", 1e-3)):
        check = checks.Check("bound", name, "highest")
        row = check.measure()
        rows.write(tmp_path / "rows", row._replace(results={**row.results, "difference": difference}), check.label)
    (path,) = checks.draw(tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if "| bound" in line]
    assert [(line[1], line[-1]) for line in lines] == [("dv", "**no**"), ("nwj", "yes")]


def test_every_bound_and_model_is_checked_in_both_precisions():
    names = {(cell.kind, cell.name) for cell in checks.cells()}
    assert len(checks.cells()) == 2 * len(names)
    assert {name for kind, name in names if kind == "step"} >= {"smile", "mine", "gm", "ba", "VAEs", "joint convolutions"}


# Precision


def test_programs_are_compiled_and_run_with_the_items_precision(tmp_path):
    counting, seen = Counting(), []

    def compile_seen(cell, number):
        seen.append(jax.config.jax_default_matmul_precision)
        return counting.compile(cell, number)

    part = Part(
        "one", "one", 1, lambda number: counting.experiment({Cell("a"): number}, compile=compile_seen), lambda out: []
    )
    command.run([items.Item(part, 1.0, "highest")], tmp_path, 60.0, None)
    (row,) = rows.read_all(tmp_path / "one" / "rows", "counting")
    assert seen == ["highest"]
    assert row.environment["matmul_precision"] == "highest"
    assert jax.config.jax_default_matmul_precision is None


def test_the_precision_page_compares_the_same_seeds(tmp_path):
    """Means differ by 0.1 in every seed, and variances by a factor of 4; a seed that only one folder has is left out."""
    cell = experiment.Cell(critic="separable", hidden=(16,), every=80, objective="infonce")
    rng = np.random.default_rng(0)
    for folder, precisions, seeds in ((tmp_path, "highest", 4), (tmp_path / "tf32", None, 3)):
        for seed in range(seeds):
            noise = np.random.default_rng(seed).normal(size=400) * (1.0 if precisions else 2.0)
            history = np.repeat(cell.levels, 80) + noise + (0.0 if precisions else 0.1)
            stages = history.reshape(5, 80)[:, 20:]
            history.reshape(5, 80)[:, 20:] -= (
                stages.mean(axis=1, keepdims=True) - np.array(cell.levels)[:, None] - (0.0 if precisions else 0.1)
            )
            results = {"cpc": histories.moments(history, 1).to_json()}
            environment = machine.environment() | {"matmul_precision": precisions}
            row = rows.Row("gaussian", cell.config(seed), environment, 0, {"run": float(rng.uniform())}, results)
            rows.write(folder / "rows", row, "row")
    (path,) = precision.draw(tmp_path)
    line = next(line for line in path.read_text().splitlines() if line.startswith("| CPC"))
    assert [cell.strip() for cell in line.split("|")[1:4]] == ["CPC", "3", "+0.1000 ± 0.0000; 4.000 ± 0.000"]


# Shares of the time


def test_each_item_has_its_share_and_then_what_is_left(tmp_path, monkeypatch):
    """Of 100 seconds: b's 50 do not fit into its share of 10, but into what is left in the end."""
    counting = Counting()
    part = lambda name, cost: Part(  # noqa: E731
        name, name, 1, lambda number: counting.experiment({Cell(name, cost): number}), lambda out: []
    )
    made = [
        items.Item(part(name, cost), share) for name, cost, share in (("b", 50.0, 0.1), ("a", 5.0, 0.1), ("c", 200.0, 0.8))
    ]
    archive = Archive(tmp_path / "rows.tar", tmp_path)
    command.run(made, tmp_path, 100.0, archive)
    assert [name for name, _ in counting.ran] == ["a", "b"]
    assert len(Archive(tmp_path / "rows.tar", tmp_path).members) == 2
    start = time.monotonic()
    command.run(made, tmp_path, 100.0, archive)
    assert time.monotonic() - start < 5
    assert [name for name, _ in counting.ran] == ["a", "b"]


# The page of speed


def test_the_speed_page_sets_the_card_beside_cpus_and_pytorch(tmp_path):
    def throughput(folder, seeds, seconds):
        config = {"critic": "joint 2x256", "n": 64, "seeds": seeds, "devices": "all", "device_count": 1, "platform": "x"}
        results = {"step_seconds": [seconds], "plain_step_seconds": [1.0], "peaks": [1.0], "products": 1.0}
        row = rows.Row("throughput", config, machine.environment(), 0, {"compile": 1.0}, results)
        rows.write(tmp_path / folder / "rows", row, "row")

    throughput("throughput", 2, 0.02)
    throughput("throughput-h100", 1, 0.001)
    throughput("throughput-h100", 16, 0.008)
    loop = torch_loop.Loop("joint 2x256", 64)
    results = {"step_seconds": [0.002] * 5, "steps": 1, "torch": "2", "device": "h100"}
    row = rows.Row("torch", {"critic": loop.critic, "n": loop.n}, machine.environment(), 0, {}, results)
    rows.write(tmp_path / "accelerator-h100" / "torch" / "rows", row, loop.label)
    (path,) = page.draw(tmp_path / "accelerator-h100")
    line = next(line for line in path.read_text().splitlines() if line.startswith("| joint"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["joint 2x256", "64", "100", "", "1: 1,000; 16: 2,000", "500"]


def test_an_archive_that_is_not_there(tmp_path, stopped):
    code, line = stopped(command.main, ["--out", tmp_path, "--unpack", tmp_path / "rows.tar"])
    assert code == 2
    assert "--unpack: there is no file" in line


@pytest.mark.slow
def test_the_tiny_run_leaves_rows_pages_and_an_archive(tmp_path, capsys):
    command.main(["--tiny", "--out", str(tmp_path / "out"), "--archive", str(tmp_path / "rows.tar"), "--budget", "4"])
    assert "groups left" in capsys.readouterr().out
    command.main(["--tiny", "--out", str(tmp_path / "here"), "--unpack", str(tmp_path / "rows.tar")])
    written = [
        sorted(path.relative_to(tmp_path / end) for path in (tmp_path / end).rglob("*.json")) for end in ("out", "here")
    ]
    assert written[0] == written[1]
    for name in ("accelerator/checks.md", "accelerator/speed.md", "gaussian/precision.md", "estimates/estimates.md"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "here" / name).read_text()
    assert "**no**" not in (tmp_path / "out" / "accelerator" / "checks.md").read_text()
    assert json.loads((tmp_path / "out" / written[0][0]).read_text())["schema"] == rows.SCHEMA
