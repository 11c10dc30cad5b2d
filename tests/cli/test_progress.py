import io

import numpy as np
import pytest

from mi_jax.cli import progress as module
from mi_jax.cli.progress import Progress
from mi_jax.training import Report


class Terminal(io.StringIO):
    def isatty(self):
        return True


def report(done, steps=40, losses=((0.5, 0.4), (0.3, np.nan))):
    return Report(done, steps, {"validation_loss": np.array(losses)})


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `Progress` sees."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_plain_lines(clock):
    file = io.StringIO()
    with Progress("training", file=file) as bar:
        assert not file.getvalue()
        bar(report(5))
        clock[0] += 12
        bar(report(40))
    assert file.getvalue().splitlines() == [
        "training: step 250 of at most 2,000, 1 of 2 folds are still training, 0 s",
        "training: step 2,000 of at most 2,000, 1 of 2 folds are still training, 12 s",
        "training: done, 12 s",
    ]


def test_a_log_of_hours_stays_short(clock):
    file = io.StringIO()
    with Progress("training", file=file) as bar:
        for done in range(1, 36_001):
            clock[0] += 1
            bar(report(done, 36_000))
    assert 10 < len(file.getvalue().splitlines()) < 30


def test_data_sets_are_counted(clock):
    file = io.StringIO()
    with Progress("checking", "estimate", file=file) as bar:
        for _ in range(3):
            for done in (5, 10):
                clock[0] += 100
                bar(report(done, 10))
    parts = [line.partition(" of at most 500")[2].partition(",")[0] for line in file.getvalue().splitlines()]
    assert parts == ["", "", " of estimate 2", " of estimate 2", " of estimate 3", " of estimate 3", ""]


def test_data_sets_of_one_report_each_are_counted(clock):
    file = io.StringIO()
    with Progress("training", file=file) as bar:
        bar(report(1, 1))
        clock[0] += 100
        bar(report(1, 1))
    assert "of data set 2" in file.getvalue()


def test_a_terminal_has_a_bar_that_leaves_nothing():
    file = Terminal()
    with Progress("training", file=file) as bar:
        assert "training: compiling" in file.getvalue()
        bar.bar.ncols = 90
        bar(report(20))
        assert "training:  50%" in file.getvalue()
        assert "1000 of 2000 steps" in file.getvalue()
        assert "1 of 2 folds are still training" in file.getvalue()
    assert file.getvalue().rstrip("\r").rpartition("\r")[2].strip() == ""
    assert "\n" not in file.getvalue()


def test_an_error_leaves_no_line():
    file = io.StringIO()
    with pytest.raises(ValueError, match="bad"), Progress("training", file=file):
        raise ValueError("bad")
    assert file.getvalue() == ""
