"""What a borrowed accelerator is used for: the archive, the checks, the shares of time, the pages; and all of it, tiny."""

import gzip
import json
import tarfile

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


@pytest.mark.parametrize(
    "check",
    [
        checks.Check("bound", "nwj", "highest"),
        checks.Check("step", "smile", "default"),
        pytest.param(checks.Check("step", "gm", "default"), marks=pytest.mark.slow),
    ],
)
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
    assert command.run([items.Item(part, 1.0, "highest")], tmp_path, 60.0, None)[1] == []
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


def counting_item(counting, name, cost, share, **changes):
    experiment = lambda number: counting.experiment({Cell(name, cost): number}, **changes)  # noqa: E731
    return items.Item(Part(name, name, 1, experiment, lambda out: []), share)


def test_each_item_has_its_share_and_then_what_is_left(tmp_path):
    """Of 100 seconds: b's 50 do not fit into its share of 10, but into what is left in the end."""
    counting = Counting()
    made = [counting_item(counting, *each) for each in (("b", 50.0, 0.2), ("a", 5.0, 0.2), ("c", 200.0, 1.6))]
    archive = Archive(tmp_path / "rows.tar", tmp_path)
    stages, failed = command.run(made, tmp_path, 100.0, archive)
    assert [name for name, _ in counting.ran] == ["a", "b"]
    assert failed == []
    assert sum(len(stage.done) for stage in stages) == 2
    assert len(Archive(tmp_path / "rows.tar", tmp_path).members) == 2
    command.run(made, tmp_path, 100.0, archive)
    assert [name for name, _ in counting.ran] == ["a", "b"]


def test_an_item_that_fails_is_named_and_the_others_are_run(tmp_path, capsys):
    counting = Counting()

    def fail(group, program, progress):
        raise ValueError("out of memory")

    made = [counting_item(counting, "a", 1.0, 1.0, run=fail), counting_item(counting, "b", 1.0, 1.0)]
    _, failed = command.run(made, tmp_path, 100.0, None)
    assert failed == ["a: ValueError: out of memory"]
    assert [name for name, _ in counting.ran] == ["b"]
    assert "a: ValueError: out of memory" in capsys.readouterr().err


def test_rows_that_a_kill_kept_from_the_archive_are_added(tmp_path):
    counting = Counting()
    command.run([counting_item(counting, "a", 1.0, 1.0)], tmp_path, 60.0, None)
    old = rows.Row("counting", {"name": "a", "cost": 1.0, "seed": 9}, {"commit": "old"}, 0, {}, {})
    rows.write(tmp_path / "a" / "rows", old, "old")
    archive = Archive(tmp_path / "rows.tar", tmp_path)
    archive.add_missing(["a", "b"])
    assert [name.split("/")[-1].startswith("cell-a-seed-0") for name in archive.members] == [True]


def test_a_damaged_archive_is_refused(tmp_path):
    (tmp_path / "rows.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is not a whole archive of rows"):
        Archive(tmp_path / "rows.tar", tmp_path)


@pytest.mark.parametrize("place", ["difference", "gradient"])
def test_what_is_not_finite_is_off(place, tmp_path):
    check = checks.Check("bound", "nwj", "highest")
    row = check.measure()
    rows.write(tmp_path / "rows", row._replace(results={**row.results, place: None}), check.label)
    (path,) = checks.draw(tmp_path)
    line = next(line for line in path.read_text().splitlines() if "| bound" in line)
    assert "not finite" in line
    assert "**no**" in line
    assert checks.experiment([check]).describe([row._replace(results={**row.results, "difference": None})]) == "not finite"
    assert np.isnan(checks._compare({"a": 1.0, "b": np.nan}, [np.ones(1)], {"a": 1.0, "b": 2.0}, [np.ones(1)])["difference"])


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
    assert "Nothing is left." in capsys.readouterr().out
    command.main(["--tiny", "--out", str(tmp_path / "here"), "--unpack", str(tmp_path / "rows.tar")])
    written = [
        sorted(path.relative_to(tmp_path / end) for path in (tmp_path / end).rglob("*.json")) for end in ("out", "here")
    ]
    assert written[0] == written[1]
    for name in ("accelerator/checks.md", "accelerator/speed.md", "gaussian/precision.md", "estimates/estimates.md"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "here" / name).read_text()
    assert "**no**" not in (tmp_path / "out" / "accelerator" / "checks.md").read_text()
    assert json.loads((tmp_path / "out" / written[0][0]).read_text())["schema"] == rows.SCHEMA
