"""The study's command, small: what it trains, writes, and does not train again."""

import math

from benchmarks.study import __main__ as command
from benchmarks.study import experiment

SMALL = experiment.Protocol(mis=(2.0,), learning_rates=(1e-3,), num_seeds=2, steps=20, batches=4, hidden=(8,))


def test_the_command_trains_what_is_missing_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(experiment.PRESETS, "quick", SMALL)
    command.main(["--out", str(tmp_path)])
    assert ": trained" in capsys.readouterr().out
    text = (tmp_path / "study.md").read_text()
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| 2 ")]
    assert [line[3].strip() for line in lines] == [experiment.read_out(tau) for tau in experiment.TAUS]
    assert all(math.isfinite(float(cell)) for line in lines for cell in line[4:-1])
    assert "`python -m benchmarks.study --preset quick`" in text
    assert text.endswith("## Runs in no average\n\nNone.\n")
    assert {"study.png", "study.svg"} <= {path.name for path in tmp_path.iterdir()}
    command.main(["--out", str(tmp_path)])
    assert ": trained" not in capsys.readouterr().out
    assert (tmp_path / "study.md").read_text() == text


def test_the_page_says_which_options_changed_the_preset(tmp_path, monkeypatch):
    monkeypatch.setitem(experiment.PRESETS, "quick", SMALL)
    options = command._parser().parse_args(["--out", "DIR", "--mis", "2", "4", "--steps", "30"])
    assert command._changed(options) == " --steps 30 --mis 2.0 4.0"
    protocol = command._protocol(options)
    assert (protocol.mis, protocol.steps, protocol.num_seeds) == ((2.0, 4.0), 30, 2)


def test_processes_need_a_coordinator(tmp_path, stopped):
    code, line = stopped(command.main, ["--out", tmp_path, "--processes", "2"])
    assert code == 2
    assert "--processes and --process need --coordinator" in line
