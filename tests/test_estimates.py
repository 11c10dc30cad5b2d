"""The benchmark of `estimate`: its cases, its rows, and what its page says of them."""

import contextlib
import io
import json
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import mi_jax
from benchmarks import estimates, machine, rows
from mi_jax.estimation.cross_fitting import Seconds
from tests import examples


@pytest.fixture(autouse=True)
def _devices_as_they_are(monkeypatch):
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)


def row(case="gaussian, d = 5, MI 2", mi=2.01, interval=(1.9, 2.1), warnings=(), options=(), seconds=10.0):
    return {
        "case": case, "seed": 0, "options": dict(options), "truth": 2.0, "mi": mi, "interval": list(interval),
        "warnings": dict.fromkeys(warnings, "text"), "total_seconds": seconds,
        "seconds": {"compile": 3.0, "train": 5.0, "read_out": 1.0}, "memory_mib": {"before": 500.0, "peak": 1753.0},
    }  # fmt: skip


def page(folder, *written):
    for place, (kind, content) in enumerate(written):
        rows.store(folder / "rows" / f"{kind}-{place}.json", content)
    return estimates.report(folder, "the command")


def cells(text, start):
    """The cells of the first table row that starts so."""
    (line, *_) = [line for line in text.splitlines() if re.match(rf"\|\s*{re.escape(start)}\s*\|", line)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_cases_are_those_that_were_asked_for():
    assert len(estimates.CASES) == 42
    for dim in (1, 5, 20):
        for mi in (0, 0.5, 2, 5):
            for kind in ("gaussian", "cubic") + ("rotated",) * (dim > 1):
                case = estimates.CASES[f"{kind}, d = {dim}, MI {mi:g}"]
                assert case.floor == pytest.approx(np.sqrt(dim * (1 - np.exp(-2 * mi / dim))))
    for case in (estimates.CASES["rotated, d = 5, MI 2"], estimates.CASES["uniform noise, d = 2, epsilon 0.3"]):
        x, y, truth = case.sample(0)
        assert (len(x), len(y)) == (10_000, 10_000)
        assert truth == pytest.approx(case.make().mi)
    large = estimates.LARGE
    assert jax.eval_shape(lambda key: large.make().sample(key, large.num_rows)[0], jax.random.key(0)).shape == (200_000, 20)


@pytest.mark.parametrize(
    ("truth", "mi", "met"),
    [(0.0, 0.05, True), (0.0, -0.051, False), (2.0, 1.91, True), (2.0, 2.11, False), (5.0, 4.5, True), (5.0, 5.51, False)],
)
def test_the_goal(truth, mi, met):
    assert estimates.good({"truth": truth, "mi": mi}) is met


def test_the_page_counts_what_its_rows_say(tmp_path):
    text = page(
        tmp_path,
        ("estimate", row()),
        ("estimate", row("cubic, d = 5, MI 2", 1.95, (1.99, 2.01))),
        ("estimate", row("rotated, d = 5, MI 2", 1.5, (1.4, 1.6), ["overfitting"], seconds=21.0)),
        ("estimate", row("gaussian, d = 20, MI 2", 1.5, (1.4, 1.6))),
        ("ksg", {"case": "gaussian, d = 5, MI 2", "seed": 0, "truth": 2.0, "mi": 1.68, "total_seconds": 0.2}),
        ("estimate", row("cubic turned, d = 5, MI 2", 1.5, (1.4, 1.6))),
    )
    assert cells(text, "covered")[1:] == ["2", "0"]
    assert cells(text, "not covered")[1:] == ["1", "1"]
    # Of d rho² = 5 (1 - e^-0.8): the narrowest is 1.96 · 0.0166, and one has 0.01.
    for said in ("4 runs.", "67% are covered", "75% are unwarned", "half-width 0.50", "ones: 1.", "met: 2.", "21.0 s"):
        assert said in text
    assert cells(text, "gaussian, d = 5, MI 2")[3:] == ["1.900 to 2.100", "yes", "met", "-", "10.0", "1.680", "0.2"]
    assert cells(text, "cubic turned, d = 5, MI 2")[4:8] == ["**no**", "**missed**", "-", "10.0"]
    assert "permutation" not in text
    assert "## Many rows" not in text


def test_other_options_stand_beside_the_defaults(tmp_path):
    text = page(tmp_path, ("estimate", row()), ("estimate", row(mi=1.7, options={"critic": "joint"}.items(), seconds=50.0)))
    assert cells(text, "defaults")[1] == "+0.010 (10)"
    assert cells(text, "critic = joint")[1] == "-0.300 (50)"
    assert "1 runs." in text


def test_many_rows_have_their_memory(tmp_path):
    large = row(estimates.LARGE.name, options={"critic": "separable"}.items())
    found = cells(page(tmp_path, ("large", large)), "separable")
    assert found[1:] == ["2.010", "1.900 to 2.100", "-", "10", "3, 5, 1", "1,253"]


def test_the_permutation_tests_are_counted(tmp_path):
    some = [{"mi": 0.0, "number": n, "p_value": p} for n, p in enumerate([0.05, 0.1, 0.15, 1.0])]
    rows.store(tmp_path / "independence" / "mi0-000.json", some)
    rows.store(tmp_path / "independence" / "mi0.15-000.json", [{"mi": 0.15, "number": 0, "p_value": 0.05}])
    text = page(tmp_path)
    assert cells(text, "0")[1:] == ["4", "2", "0.500", "0 to 2"]
    assert cells(text, "0.15")[1:] == ["1", "1", "1.000", ""]


def check_the_command_makes_what_is_missing(folder, capsys):
    options = ["steps=50", "critic=bilinear", "seeds=1", "batch=64"]
    command = ["--out", str(folder), "--match", "^gaussian, d = 1, MI 0.5$", "--options", *options]
    estimates.main(command)
    (path,) = (folder / "rows").glob("*.json")
    made = json.loads(path.read_text())
    assert made["options"] == {"steps": 50, "critic": "bilinear", "seeds": 1, "batch": 64}
    assert made["truth"] == pytest.approx(0.5)
    assert 0 < sum(made["seconds"].values()) < made["total_seconds"]
    assert made["memory_mib"]["before"] <= made["memory_mib"]["peak"]
    assert "gaussian, d = 1, MI 0.5: " in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    estimates.main(command)
    assert path.stat().st_mtime_ns == before
    assert "estimate gaussian" not in capsys.readouterr().out
    assert "# `mi_jax.estimate` with its defaults" in (folder / "estimates.md").read_text()
    return made


def test_the_command_makes_what_is_missing(tmp_path, capsys, monkeypatch):
    """What the process would do is done here, by an estimate made by hand."""
    calls = []

    def estimate(x, y, *, key, **options):
        calls.append((x.shape, y.shape, options))
        return examples.estimate(mi=0.53, seconds=Seconds(1e-6, 2e-6, 3e-6))

    def run_here(command, **_):
        assert command[:4] == [sys.executable, "-m", "benchmarks.estimates", "--one"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            estimates.main(command[3:])
        return SimpleNamespace(returncode=0, stdout=printed.getvalue(), stderr="")

    monkeypatch.setattr(mi_jax, "estimate", estimate)
    monkeypatch.setattr(estimates, "subprocess", SimpleNamespace(run=run_here))
    made = check_the_command_makes_what_is_missing(tmp_path, capsys)
    assert (made["mi"], list(made["seconds"].values())) == (0.53, [1e-6, 2e-6, 3e-6])
    assert calls == [((10_000, 1), (10_000, 1), made["options"])]


@pytest.mark.slow
def test_the_command_makes_what_is_missing_in_a_process_of_its_own(tmp_path, capsys):
    check_the_command_makes_what_is_missing(tmp_path, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--match", "nothing"], "--match must match a case, such as 'gaussian, d = 1, MI 0', got 'nothing'"),
        (["--options", "steps"], "--options must be NAME=VALUE, got 'steps'"),
        pytest.param(
            ["--match", "^gaussian, d = 1, MI 0$", "--options", "critic=none"],
            "gaussian, d = 1, MI 0 failed: critic must be one of",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        estimates.main(["--out", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("some log\nbenchmarks.estimates: error: critic must be one of these\n", "critic must be one of these"),
        ("", "killed"),
    ],
)
def test_what_a_process_fails_of_is_told(stderr, message, tmp_path, capsys, monkeypatch):
    failed = SimpleNamespace(returncode=2, stdout="", stderr=stderr)
    monkeypatch.setattr(estimates, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    with pytest.raises(SystemExit) as stopped:
        estimates.main(["--out", str(tmp_path), "--match", "^gaussian, d = 1, MI 0$"])
    assert stopped.value.code == 2
    assert f"error: gaussian, d = 1, MI 0 failed: {message}\n" in capsys.readouterr().err
