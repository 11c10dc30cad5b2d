"""The campaign: its levels, its budget, its report; and the tiny one, killed and let alone."""

import random
import subprocess
import sys
import time

import pytest

from benchmarks.campaign import __main__ as command
from benchmarks.campaign import parts, stages
from benchmarks.lib import rows, runner
from mi_jax.training.hosts import Host
from tests.counting import Cell, Counting

A, B = Cell("a"), Cell("b", cost=50.0)


def part(counting, name="counting", most=4, cells=(A, B), limit=float("inf"), drawn=None):
    def draw(folder):
        if drawn is not None:
            drawn.append((name, len(list((folder / "rows").iterdir()))))
        return [folder / "page.md"]

    experiment = lambda number: counting.experiment(dict.fromkeys(cells, number))  # noqa: E731
    return parts.Part(name, name, most, experiment, draw, limit)


@pytest.fixture
def campaign(monkeypatch, tmp_path, capsys):
    """Runs the command with these parts, and gives what it prints."""

    def run(made, *options):
        chosen = lambda names, data: [each for each in made if each.name in names]  # noqa: E731
        monkeypatch.setitem(command.PRESETS, "paper", chosen)
        names = [each.name for each in made]
        monkeypatch.setattr(command, "NAMES", names)
        monkeypatch.setattr(command, "together", lambda wanted: 1)
        command.main(["--out", str(tmp_path), *options, "--only", *names])
        return capsys.readouterr().out

    return run


def test_levels_give_one_of_everything_first():
    one, two = (part(Counting(), name, most) for name, most in (("one", 10), ("two", 3)))
    names = [[(each.name, number) for each, number in level] for level in parts.levels([one, two], 1)]
    assert names == [[("one", 1), ("two", 1)], [("one", 2), ("two", 2)], [("one", 4), ("two", 3)], [("one", 10)]]
    at_once = [[(each.name, number) for each, number in level] for level in parts.levels([one, two], 4)]
    assert at_once == [[("one", 4), ("two", 3)], [("one", 10)]]


def test_everything_is_run_level_by_level_and_drawn_after_each(campaign, tmp_path):
    counting, drawn = Counting(), []
    made = [part(counting, "one", 2, [A], drawn=drawn), part(counting, "two", 1, [B], drawn=drawn)]
    out = campaign(made)
    assert counting.ran == [("a", [0]), ("b", [0]), ("a", [1])]
    assert counting.compiled == [("a", 1), ("b", 1)]
    assert drawn == [("one", 1), ("two", 1), ("one", 2), ("one", 2), ("two", 1)]
    assert "one, 1 seed a cell: 1 groups to run, predicted 1 s" in out
    assert lines(out, "two") == [["two", "up to 1", "1", "50 s", "0 s"]]
    assert "Nothing is left." in out
    assert "Nothing is left." in campaign(made)
    assert len(counting.ran) == 3


def lines(out, name):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith(f"| {name}")]


def test_a_budget_takes_what_fits_and_reports_what_is_left(campaign):
    counting = Counting()
    out = campaign([part(counting, most=2)], "--budget", "0.5")
    assert counting.ran == [("a", [0]), ("a", [1])]
    assert lines(out, "counting") == [
        ["counting", "up to 1", "1", "1 s", "0 s"],
        ["counting", "up to 2", "1", "1 s", "0 s"],
        ["counting", "2", "100 s"],
    ]


def test_every_benchmark_has_a_share_and_what_the_shares_leave_is_used(campaign):
    """Of 60 seconds: half are one's, where its 50 do not fit; they fit into what is left in the end."""
    counting = Counting()
    campaign([part(counting, "one", 1, [B]), part(counting, "two", 1, [A])], "--budget", "1")
    assert counting.ran == [("a", [0]), ("b", [0])]


def test_a_plan_makes_no_row_and_says_what_each_level_adds(campaign, tmp_path):
    counting = Counting()
    out = campaign([part(counting, most=2)], "--plan")
    assert lines(out, "counting") == [["counting", "up to 1", "2", "51 s"], ["counting", "up to 2", "2", "51 s"]]
    assert "All of it is predicted to take 102 s." in out
    assert not counting.ran
    assert not counting.compiled
    assert not list(tmp_path.iterdir())


def test_cells_over_a_parts_limit_are_left_out(campaign):
    counting = Counting()
    listed = []
    made = part(counting, most=1, limit=20.0)._replace(list_skipped=lambda out, jobs: listed.extend(jobs))
    campaign([made])
    assert counting.ran == [("a", [0])]
    assert {job.cell for job in listed} == {B}


def test_processes_share_the_cells_whatever_rows_they_see(tmp_path):
    counting = Counting()
    cells = [Cell(name) for name in "abcde"]
    made, inf = part(counting, cells=cells), float("inf")
    for process in (1, 0):
        stages.run_stage(made, 2, tmp_path, Host(process, 2), inf, {})
    assert sorted(counting.ran) == [(name, [seed]) for name in "abcde" for seed in (0, 1)]
    assert {name for name, _ in counting.ran[:4]} == {"b", "d"}


def test_page_only_draws_what_is_there(campaign):
    drawn = []
    made = [part(Counting(), "one", 1, [A], drawn=drawn), part(Counting(), "two", 1, [B], drawn=drawn)]
    campaign(made[:1])
    drawn.clear()
    assert "page.md" in campaign(made, "--page-only")
    assert drawn == [("one", 1)]


@pytest.mark.parametrize("name", parts.PRESETS)
def test_presets_are_of_the_benchmarks_that_are_wanted(name):
    made = parts.PRESETS[name](["variance", "gaussian"], None)
    assert {each.name for each in made} == {"variance", "gaussian"}
    for each in made:
        few, all_of_it = each.experiment(1), each.experiment(each.most)
        assert isinstance(few, runner.Experiment)
        assert set(few.wanted) == set(all_of_it.wanted)
        assert sum(few.wanted.values()) < sum(all_of_it.wanted.values())


def test_a_preset_without_what_is_wanted(tmp_path, stopped):
    code, line = stopped(command.main, ["--preset", "tiny", "--only", "images", "--out", tmp_path])
    assert code == 2
    assert "images need --data" in line


def test_datasets_that_are_not_there_are_named_and_left_out(tmp_path, capsys):
    made = parts.paper(["images", "variance"], tmp_path)
    assert {each.name for each in made} == {"variance"}
    assert "without mnist: " in capsys.readouterr().err


def tiny(out):
    return [sys.executable, "-m", "benchmarks.campaign", "--preset", "tiny", "--out", str(out)]


@pytest.mark.slow
def test_the_tiny_campaign_survives_kills_and_ends_with_the_same_rows(tmp_path):
    start = time.monotonic()
    whole = subprocess.run(tiny(tmp_path / "whole"), capture_output=True, text=True, check=True)
    longest, rng = time.monotonic() - start, random.Random(0)
    assert "table2.md" in whole.stdout
    for _ in range(3):
        process = subprocess.Popen(tiny(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 0.8) * longest)
        process.kill()
        process.wait()
    subprocess.run(tiny(tmp_path / "killed"), capture_output=True, check=True)
    for name in ("gaussian", "variance"):
        ends = [rows.read_all(tmp_path / end / name / "rows", name) for end in ("whole", "killed")]
        results = [[(row.config, row.results) for row in end] for end in ends]
        assert results[0]
        assert _chunks(results[0]) == _chunks(results[1])


def _chunks(results):
    """Rows of chunks may be cut elsewhere after a kill: their chunks in order, or else the rows as they are."""
    if "start" not in results[0][0]:
        return results
    cells = {}
    for config, result in sorted(results, key=lambda row: row[0]["start"]):
        cells.setdefault((config["pairs"], config["n"]), []).extend(result["chunks"])
    return cells
