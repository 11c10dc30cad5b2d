"""The runner, on an experiment that only counts: what it runs, skips, predicts, prints and keeps."""

import math
import threading
from dataclasses import dataclass

import pytest

from benchmarks.lib import machine, rows, runner


@dataclass(frozen=True)
class Cell:
    name: str
    cost: float = 1.0

    @property
    def label(self):
        return f"cell {self.name}"


A, B = Cell("a"), Cell("b", cost=50.0)


class Counting:
    """Rows whose result is their seed; keeps what was compiled and run."""

    def __init__(self):
        self.compiled, self.ran, self.threads = [], [], set()

    def compile(self, cell, number):
        self.compiled.append((cell.name, number))
        self.threads.add(threading.current_thread())
        return f"program of {number}"

    def run(self, group, program, progress):
        assert program == f"program of {len(group.repeats)}"
        self.ran.append((group.cell.name, list(group.repeats)))
        for done, seed in enumerate(group.repeats, 1):
            progress(done, len(group.repeats))
            config = {"name": group.cell.name, "cost": group.cell.cost, "seed": seed}
            seconds = {"compile": 1.0, "run": group.cell.cost}
            yield rows.Row("counting", config, machine.environment(), 0, seconds, {"seed": seed})

    def experiment(self, wanted, **changes):
        experiment = runner.Experiment(
            name="counting",
            wanted=wanted,
            covers=lambda config: (Cell(config["name"], config["cost"]), [config["seed"]]),
            predict=lambda on_disk: lambda cell: cell.cost,
            run=self.run,
            compile=self.compile,
        )
        return experiment._replace(**changes)


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
