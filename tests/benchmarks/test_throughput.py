"""The throughput benchmark: what it counts, and what it writes."""

import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.lib import rows
from benchmarks.throughput import __main__ as command
from benchmarks.throughput import experiment, page, precision, processes, steps
from benchmarks.throughput.experiment import Cell
from mi_jax import estimators, models, networks

CONFIG = {"critic": "joint 2x256", "n": 64, "seeds": 4, "devices": "all", "device_count": 2}
RESULTS = {
    "steps": 10,
    "step_seconds": [0.04, 0.05, 0.08],
    "plain_step_seconds": [0.02, 0.02, 0.02],
    "peaks": [2e11, 2e11, 1e11],
    "peak_devices": 2,
    "products": 1.6e9,
    "operations": 2.0e9,
    "temporary_bytes": 2**20,
}
ROW = rows.Row("throughput", CONFIG, {}, 0, {"compile": 2.0}, RESULTS)

RUNS = {"without": {"all": 20.0, "compile": 10.0, "mi": 1.0}, "with": {"all": 10.0, "compile": 2.0, "mi": 1.0}}
STARTUP_PARTS = ("interpreter", "jax", "flax.linen, optax", "mi_jax", "the first array", "smile(scores), compiling",
                 "smile(scores) again")  # fmt: skip
STARTUP = {"parts": [dict.fromkeys(STARTUP_PARTS, 0.1)], "imports": [dict.fromkeys(processes.IMPORTS, 1.0)]}
CACHE = {"num_rows": 2_000, "runs": [RUNS, RUNS], "bytes": 2**20}


def test_the_products_that_cannot_be_avoided():
    """By hand: three products of (n², 256) x (256, 256) between two hidden layers."""
    assert Cell("joint 2x256", 64, 4, "all").products() == 3 * 2 * 64**2 * 256**2
    assert Cell("joint 3x256", 16, 1, "one").products() == 2 * 3 * 2 * 16**2 * 256**2
    each = 2 * 64 * (2 * 20 * 256 + 3 * (256 * 256 + 256 * 32))
    assert Cell("separable 2x256", 64, 1, "one").products() == 2 * each + 3 * 2 * 64**2 * 32
    assert Cell("image", 8, 1, "one").products() == 3 * 2 * 64 * (32**2 * 128 * 64 + 49 * 128 * 1024)


@pytest.mark.parametrize("critic", experiment.OURS)
def test_they_are_part_of_what_the_compiler_counts(critic):
    """XLA counts every operation of the step, so at least these; of the joint critics and the image critic hardly more."""
    cell = Cell(critic, 16, 1, "one")
    trainer = cell.trainer()
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    counted = jax.jit(trainer.step).lower(state).cost_analysis()["flops"]
    assert 0.75 < cell.products() / counted < 1.0


def test_ratios_are_of_the_same_round():
    found = page.timed(ROW)
    assert found.milliseconds == pytest.approx(12.5)
    np.testing.assert_allclose(sorted(found.fractions), [0.64, 0.8])
    assert found.fraction == pytest.approx(0.8)
    assert found.gain == pytest.approx(1.6)


def test_it_runs_writes_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "MEMORY", {})
    monkeypatch.setitem(processes.MEASURES, "cache", lambda rounds: dict(CACHE))
    monkeypatch.setitem(processes.MEASURES, "startup", lambda rounds: dict(STARTUP))
    monkeypatch.setattr(experiment, "CHUNK_SECONDS", 0.05)
    monkeypatch.setitem(experiment.OURS, "joint 2x256", lambda: networks.JointCritic(hidden=(8, 8)))
    monkeypatch.setitem(experiment.PLAIN, "joint 2x256", lambda: steps.ConcatenatedCritic((8, 8)))
    arguments = ["--out", str(tmp_path), "--n", "4", "1024", "--seeds", "1", "--steps", "2", "--rounds", "2"]
    arguments += ["--devices", "all"]
    arguments += ["--critics", "joint 2x256", "--limit", "5"]
    command.main(arguments)
    out = capsys.readouterr().out
    assert "skipped, over the limit: joint 2x256, n = 1024, 1 seed" in out
    written = [row for row in rows.read_all(tmp_path / "rows", "throughput") if "critic" in row.config]
    small = [row for row in written if row.config["n"] == 4]
    assert len(small) == 1
    assert all(len(row.results["step_seconds"]) == 2 and min(row.results["step_seconds"]) > 0 for row in written)
    text = (tmp_path / "throughput.md").read_text()
    assert "| mi_jax " in text
    assert "`import mi_jax` takes" in text
    assert text.count("| joint 2x256 | 4") == len(small)
    assert re.search(r"joint 2x256, n = 1,024: 1 seeds \(from ", text)
    assert "0.50 of the time (0.50 to 0.50), and the same number to the last bit." in text
    assert "The folder holds 1.0 MiB." in text
    assert (tmp_path / "throughput.png").exists()
    command.main(arguments)
    assert "ms a seed-step" not in capsys.readouterr().out


def test_many_seeds_are_set_beside_four():
    many = ROW._replace(config=CONFIG | {"seeds": 64}, results=RESULTS | {"step_seconds": [0.8, 0.9, 1.6]})
    cells = [ROW, many]
    text = "".join(page._scaling([page.timed(cell) for cell in cells]))
    # 50 ms / 4 = 12.5 and 900 / 64 = 14.06; the rounds' shares are 0.8, 0.64, 0.8 and 0.64, 0.569, 0.64.
    assert "| joint 2x256 | 64" in text
    assert "| 1.12" in text
    assert "| 1.25" in text


def test_memory_of_a_process_is_its_peak(monkeypatch):
    monkeypatch.setitem(processes.MEMORY, "nothing", (lambda: None, 1.0))
    measured = processes.measure_here("nothing")
    assert measured["peak"] >= measured["before"] > 0


def test_the_cache_is_filled_before_it_is_measured(monkeypatch):
    calls = []

    def in_a_process(*command):
        *_, option, folder = ("--no", *command)
        if option == "--compilation-cache":
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "program").write_text("abc")
        calls.append(option == "--compilation-cache")
        return json.dumps({"seconds": {"compile": 9.0 - len(calls)}, "mi": 0.5})

    monkeypatch.setattr(processes.machine, "in_a_process", in_a_process)
    found = processes.measure_cache(rounds=2, num_rows=10)
    assert calls == [True, False, True, False, True]
    assert [(run["without"]["compile"], run["with"]["compile"]) for run in found["runs"]] == [(7.0, 6.0), (5.0, 4.0)]
    assert found["bytes"] == 3


def test_the_output_folder_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        command.main([])
    assert "the following arguments are required: --out" in capsys.readouterr().err


def test_steps_side_by_side_are_ratios_of_the_second_over_the_first(tmp_path, monkeypatch):
    slow, fast = (
        models.discriminative(networks.SeparableCritic(hidden=(width,)), estimators.infonce()) for width in (4_096, 2)
    )
    compared = {"A heading": [steps.on_gaussian(4, ("fast", fast), ("slow", slow))]}
    monkeypatch.setattr(steps, "comparisons", lambda: compared)
    steps.main(["--out", str(tmp_path), "--rounds", "3", "--steps", "3"])
    line = (tmp_path / "steps.md").read_text().strip().split("\n")[-1]
    assert "| fast / slow" in line
    assert float(line.split("|")[4].split()[0]) > 1.5


def test_precision_compares_seed_by_seed():
    """The interval is Student's for paired differences: those of 1, 2 and 3 hundredths, 0.02 ± 4.303 · 0.01 / √3."""
    types = {
        "float32": {"mean": [1.0, 1.5, 2.0], "variance": [0.1, 0.2, 0.3], "diverged": 0, "run_seconds": 2.0},
        "bfloat16": {"mean": [1.01, 1.52, 2.03], "variance": [0.1, 0.2, 0.3], "diverged": 1, "run_seconds": 3.0},
    }
    config = {"critic": "separable", "objective": "smile", "mi": 2.0}
    line = precision.line(rows.Row("precision", config, {}, 0, {}, types))
    assert line[3:] == ["-0.500", "+0.0200 ± 0.0248", "0.2000", "+0.0000 ± 0.0000", "1.50", "1 / 0"]


@pytest.mark.slow
def test_startup_is_measured_in_processes_of_its_own():
    measured = processes.measure_startup(1)
    assert measured.keys() == STARTUP.keys()
    assert measured["parts"][0].keys() == STARTUP["parts"][0].keys()
    assert all(0 < seconds < 60 for seconds in measured["imports"][0].values())


@pytest.mark.slow
def test_precision_pairs_its_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "MIS", (2.0,))
    monkeypatch.setattr(precision, "OBJECTIVES", {"smile": estimators.smile})
    monkeypatch.setattr(precision, "CRITICS", {"separable": functools.partial(networks.SeparableCritic, hidden=(16,))})
    precision.main(["--out", str(tmp_path), "--seeds", "3", "--steps", "40"])
    (row,) = rows.read_all(tmp_path / "rows", "precision")
    low, full = (np.array(row.results[name]["mean"]) for name in ("bfloat16", "float32"))
    # The same batches from the same start: far closer than two seeds are.
    assert 0 < np.abs(low - full).max() < 0.3 * full.std(ddof=1)
    assert "separable | smile" in " ".join((tmp_path / "precision.md").read_text().split())
