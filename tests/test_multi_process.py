"""Studies over several processes on loopback, and kills of real processes, by SIGKILL.

Each process starts Python and JAX and compiles for itself, so the default run has only the smallest study of two processes.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.study import kills
from benchmarks.study.experiment import Protocol
from tests import small_study

ROOT = Path(__file__).parent.parent
TINY = Protocol(mis=(2.0,), learning_rates=(5e-4,), num_seeds=10, steps=60)
OPTIONS = ["--mis", "2", "--learning-rates", "5e-4", "--seeds", "10"]


def start_python(*arguments):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, **pipes)


def start(out, *options):
    return start_python("benchmarks.study", "--out", str(out), *OPTIONS, *options)


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_two(out, *options):
    shared = ("--coordinator", free_address(), "--processes", "2", "--heartbeat-timeout", "10", *options)
    return [start(out, "--process", str(number), *shared) for number in range(2)]


def finished(out):
    paths = [path for path in (out / "study" / "runs").glob("*/*") if path.name.isdecimal()]
    return {path: (path / "_CHECKPOINT_METADATA").stat().st_mtime_ns for path in paths}


def trained(output):
    return [line for line in output.splitlines() if line.endswith(": trained")]


def test_two_processes_give_the_bits_of_one(tmp_path):
    address = free_address()
    processes = [start_python("tests.shared_study", str(tmp_path / "two"), address, str(number)) for number in range(2)]
    alone = small_study.shared_study(tmp_path / "alone")
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    shared = small_study.shared_study(tmp_path / "two")
    assert shared.run_seconds == 0  # all runs are on disk
    assert kills.differing(alone, shared) == []


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_bits_of_one(tmp_path):
    alone = TINY.study(tmp_path / "alone" / "study", 10.0)
    processes = start_two(tmp_path / "two", "--steps", "60")
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [len(trained(output)) for output in outputs] == [3, 3]  # five seeds each, two at once
    assert "study.md" in outputs[0]
    assert "study.md" not in outputs[1]
    shared = TINY.study(tmp_path / "two" / "study", 10.0)
    assert shared.finished.all()
    assert kills.differing(alone, shared) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_if_one_process_is_killed_the_other_ends_and_a_rerun_does_what_is_missing(tmp_path, victim):
    steps = ("--steps", "3000", "--chunk", "100")
    processes = start_two(tmp_path, *steps)
    begun = time.monotonic()
    while len(finished(tmp_path)) < 2 and time.monotonic() < begun + 120:
        time.sleep(0.1)
    before = finished(tmp_path)
    assert before
    processes[victim].send_signal(signal.SIGKILL)
    output, _ = processes[1 - victim].communicate(timeout=120)  # the two minutes
    processes[victim].communicate()
    assert processes[1 - victim].returncode != 0, output
    on_disk = finished(tmp_path)
    assert len(on_disk) < 10, "the study was over before the kill; the test needs more steps"
    assert on_disk.items() >= before.items()
    rerun = start(tmp_path, *steps)
    output, _ = rerun.communicate(timeout=240)
    assert rerun.returncode == 0, output
    assert finished(tmp_path).items() >= on_disk.items()
    assert len(finished(tmp_path)) == 10
    # Two at once; those whose last checkpoint was written, but not yet they themselves, need no training.
    assert len(trained(output)) <= -(-(10 - len(on_disk)) // 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--processes", "2", "--process", "0"), "--processes and --process need --coordinator"),
        pytest.param(
            ("--coordinator", "auto"),
            "coordinator, num_processes and process must be given",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_that_cannot_find_one_another_are_told(tmp_path, options, message):
    process = start(tmp_path, *options)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in output
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_after_kills_a_study_ends_with_the_same_bits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kills, "SMALL", dataclasses.replace(kills.SMALL, mis=(2.0,), steps=1_500))
    monkeypatch.chdir(ROOT)
    kills.main(["--kills", "2", "--out", str(tmp_path / "kills"), "--seed", "1"])
    out = capsys.readouterr().out
    assert out.count("killed after") == 2
    assert "the same bits everywhere" in out
