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
    first, second = groups = planned(experiment, tmp_path)
    assert (first.group.repeats, first.run, first.compile) == ([1, 2], 2.0, 1.0)
    assert (second.group.cell, second.run, second.compile) == (B, 50.0, 1.0)  # as the median row
    assert runner.predicted(groups) == 2.0 + 50.0 + 2 * 1.0 / 2  # programs compile side by side
    assert [each.compile for each in planned(experiment, tmp_path, {(A, 2), (B, 1)})] == [0.0, 0.0]
    one_by_one = planned(experiment._replace(together=1), tmp_path)
    assert len(one_by_one) == 3
    assert runner.predicted(one_by_one) == 1.0 + 1.0 + 50.0 + 2 * 1.0 / 2


def group(cell, seed, run, compile_seconds=0.0, program=None):
    return runner.Planned(runner.Group(cell, [seed]), run, program or cell, compile_seconds)


def test_a_group_that_does_not_fit_leaves_its_time_to_other_cells():
    """And its own cell stops there: no repeat is left out between others."""
    first, long, last, other = group(A, 0, 10.0), group(A, 1, 50.0), group(A, 2, 1.0), group(B, 0, 15.0)
    assert runner.choose([first, long, last, other], 30.0) == [first, other]
    assert runner.choose([first, long, last, other], math.inf) == [first, long, last, other]


def test_one_group_of_unknown_time_tells_what_the_others_take():
    unknown = [group(A, 0, math.nan), group(A, 1, math.nan), group(B, 0, math.nan)]
    assert runner.choose(unknown, 30.0) == unknown[:1]
    assert runner.choose(unknown, math.inf) == unknown
    assert runner.choose(unknown, -1.0) == []


def test_whoever_comes_first_pays_for_a_program(monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 4)
    cells = [Cell("c"), Cell("d")]
    slow, quick = group(cells[0], 0, 10.0, 8.0, "shared"), group(cells[1], 0, 9.0, 8.0, "shared")
    assert runner.choose([slow, quick], 17.0) == [
        quick
    ]  # 10 + 8 seconds do not fit; the first program has nothing beside it
    assert runner.choose([slow, quick], 27.0) == [slow, quick]
    assert runner.choose([group(B, 0, 1.0), quick], 12.0) == [group(B, 0, 1.0), quick]  # 1 + 9 + 8 / 4


def test_no_group_is_begun_that_would_end_after_the_deadline(tmp_path):
    """Nor a later one of its cell."""
    counting = Counting()
    experiment = counting.experiment({A: 1, B: 2})
    a, b, last = groups = planned(experiment, tmp_path)
    groups = [b, last._replace(run=1.0), a]
    assert runner.run_groups(experiment, groups, tmp_path, time.monotonic() + 30.0) == [a]
    assert runner.run_groups(experiment, [b._replace(run=math.nan)], tmp_path, time.monotonic()) == []
    assert counting.ran == [("a", [0])]


def test_a_group_whose_program_was_long_in_compiling_is_not_begun(tmp_path):
    def compile_slowly(cell, number):
        time.sleep(0.3)
        return f"program of {number}"

    counting = Counting()
    experiment = counting.experiment({A: 1}, compile=compile_slowly)
    groups = [each._replace(run=0.1) for each in planned(experiment, tmp_path)]
    assert runner.run_groups(experiment, groups, tmp_path, time.monotonic() + 0.25) == []
    assert counting.ran == []


def test_rows_of_this_machine_come_last(tmp_path):
    """Predictions rest on the last row of a kind."""
    experiment = Counting().experiment({A: 1})
    runner.run_missing(experiment, tmp_path)
    foreign = rows.Row("counting", {"name": "z", "cost": 1.0, "seed": 0}, {"platform": "tpu"}, 0, {"run": 1.0}, {})
    rows.write(tmp_path, foreign, "z")
    assert [row.config["name"] for row in runner.read_checked(experiment, tmp_path)] == ["z", "a"]


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
