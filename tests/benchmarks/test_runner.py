"""The runner, on an experiment that only counts: what it runs, skips, predicts, prints and keeps."""

import math
import threading
import time

import pytest

from benchmarks.lib import rows, runner
from tests.counting import Cell, Counting

A, B = Cell("a"), Cell("b", cost=50.0)


def test_only_what_is_missing_is_run(tmp_path, capsys):
    counting = Counting()
    runner.run_missing(counting.experiment({A: 2}), tmp_path)
    assert "2 runs to do, 0 rows on disk; predicted 2 s on 2 devices" in capsys.readouterr().out
    runner.run_missing(counting.experiment({A: 3, B: 1}), tmp_path)
    assert "2 runs to do, 2 rows on disk; predicted 51 s" in capsys.readouterr().out
    assert counting.ran == [("a", [0]), ("a", [1]), ("a", [2]), ("b", [0])]
    assert [row.results["seed"] for row in rows.read_all(tmp_path, "counting")] == [0, 1, 2, 0]


def test_repeats_run_together_and_cells_share_a_program(tmp_path, capsys):
    counting = Counting()
    experiment = counting.experiment({A: 3, B: 3}, together=2, program=lambda cell, number: number)
    runner.run_missing(experiment, tmp_path)
    assert counting.ran == [("a", [0, 1]), ("a", [2]), ("b", [0, 1]), ("b", [2])]
    assert sorted(counting.compiled) == [("a", 1), ("a", 2)]
    assert threading.main_thread() not in counting.threads
    assert "cell a, seeds 0-1: compiled in 1 s, ran in 2 s" in capsys.readouterr().out


def test_programs_compile_side_by_side(tmp_path, monkeypatch):
    """Each of two compilations waits for the other; one after the other they would wait in vain."""
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 2)

    def compile_together(cell, number):
        both.wait()
        return f"program of {number}"

    runner.run_missing(Counting().experiment({A: 1, B: 1}, compile=compile_together), tmp_path)
    assert len(rows.read_all(tmp_path, "counting")) == 2


def test_cells_over_the_limit_are_listed_and_left_out(tmp_path, capsys):
    counting = Counting()
    (skipped,) = runner.run_missing(counting.experiment({A: 2, B: 2}), tmp_path, limit=60.0)
    assert skipped == (B, [0, 1], 100.0)
    assert "skipped, over the limit: cell b, predicted 100 s" in capsys.readouterr().out
    assert counting.ran == [("a", [0]), ("a", [1])]


def test_a_cost_that_is_not_known_is_no_reason_to_skip(tmp_path, capsys):
    experiment = Counting().experiment({A: 1, B: 1}, predict=lambda on_disk: lambda cell: math.nan if cell == B else 1.0)
    assert runner.run_missing(experiment, tmp_path, limit=60.0) == []
    assert "predicted 1 s on 2 devices, compiling apart, without 1 cells, as nothing like" in capsys.readouterr().out


def test_what_is_finished_survives_a_stop(tmp_path):
    counting = Counting()

    def stopping(group, program, progress):
        if group.repeats[0] == 1:
            raise KeyboardInterrupt
        return counting.run(group, program, progress)

    with pytest.raises(KeyboardInterrupt):
        runner.run_missing(counting.experiment({A: 3}, run=stopping), tmp_path)
    assert len(rows.read_all(tmp_path, "counting")) == 1
    runner.run_missing(counting.experiment({A: 3}), tmp_path)
    assert counting.ran == [("a", [0]), ("a", [1]), ("a", [2])]


def test_rows_of_another_machine_are_told(tmp_path, capsys):
    row = rows.Row("counting", {"name": "a", "cost": 1.0, "seed": 0}, {"platform": "tpu"}, 0, {"run": 1.0}, {})
    rows.write(tmp_path, row, "a")
    runner.run_missing(Counting().experiment({A: 1}), tmp_path)
    assert "warning: 1 of 1 rows on disk come from another machine or version" in capsys.readouterr().err


def test_a_check_comes_before_any_run(tmp_path):
    counting = Counting()

    def refuse(on_disk):
        raise ValueError("not with these rows")

    with pytest.raises(ValueError, match="not with these rows"):
        runner.run_missing(counting.experiment({A: 1}, check=refuse), tmp_path)
    assert not counting.ran
    assert not counting.compiled


def planned(experiment, folder, compiled=()):
    on_disk = runner.read_checked(experiment, folder)
    return runner.plan(experiment, on_disk, runner.missing(experiment, on_disk), compiled)


def test_a_plan_counts_a_program_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 2)
    experiment = Counting().experiment({A: 3, B: 1}, together=2)
    runner.run_missing(experiment._replace(wanted={A: 1}), tmp_path)
    first, second = planned(experiment, tmp_path)
    assert (first.group.repeats, first.run, first.compile) == ([1, 2], 2.0, 1.0)
    assert (second.group.cell, second.run, second.compile) == (B, 50.0, 1.0)  # as the median row
    assert second.seconds == 50.5  # programs compile side by side
    assert [each.compile for each in planned(experiment, tmp_path, {(A, 2), (B, 1)})] == [0.0, 0.0]
    assert [each.compile for each in planned(experiment._replace(together=1), tmp_path)] == [1.0, 0.0, 1.0]


def test_a_group_that_does_not_fit_leaves_its_time_to_others():
    short, long, unknown = (runner.Planned(runner.Group(A, [0]), run, 0.0) for run in (10.0, 50.0, math.nan))
    assert runner.choose([short, long, short, short, unknown], 30.0) == [short, short, short, unknown]


def test_no_group_is_begun_that_would_end_after_the_deadline(tmp_path):
    counting = Counting()
    experiment = counting.experiment({A: 1, B: 1})
    (a, b) = groups = planned(experiment, tmp_path)
    assert runner.run_groups(experiment, groups, tmp_path, time.monotonic() + 30.0) == [a]
    assert runner.run_groups(experiment, [b._replace(run=math.nan)], tmp_path, time.monotonic()) == []
    assert counting.ran == [("a", [0])]


def test_programs_are_kept_for_later_calls(tmp_path):
    counting, programs, written = Counting(), {}, []
    for number in (1, 2):
        experiment = counting.experiment({A: number})
        groups = planned(experiment, tmp_path, programs)
        runner.run_groups(experiment, groups, tmp_path, programs=programs, on_row=written.append)
    assert counting.compiled == [("a", 1)]
    assert [path.name.startswith("cell-a-seed") for path in written] == [True, True]


def test_a_program_that_was_not_begun_is_not_kept(tmp_path, monkeypatch):
    """After an error the pending compilations are cancelled; a later call compiles them."""
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 1)
    wait, programs = threading.Event(), {}

    def compile_slowly(cell, number):
        if cell == B:
            wait.wait(10)
        return f"program of {number}"

    def fail(group, program, progress):
        raise ValueError("lost")

    cells = {A: 1, B: 1, Cell("c"): 1}
    experiment = Counting().experiment(cells, compile=compile_slowly, run=fail)
    with pytest.raises(ValueError, match="lost"):
        runner.run_groups(experiment, planned(experiment, tmp_path), tmp_path, programs=programs)
    wait.set()
    assert (Cell("c"), 1) not in programs
