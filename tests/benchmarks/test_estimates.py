"""The benchmark of `estimate`: its cases, its rows, and what its page says of them."""

import contextlib
import io
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import mi_jax
from benchmarks.estimates import __main__ as command
from benchmarks.estimates import cases, experiment, page, sizes
from benchmarks.estimates import independence as studies
from benchmarks.lib import rows
from mi_jax.estimation.cross_fitting import Seconds
from tests import examples


def row(case="gaussian, d = 5, MI 2", mi=2.01, interval=(1.9, 2.1), warnings=(), options=(), seconds=10.0, kind="estimate"):
    config = {"kind": kind, "case": case, "options": dict(options), "seed": 0}
    results = {
        "truth": 2.0, "mi": mi, "interval": list(interval), "warnings": dict.fromkeys(warnings, "text"),
        "memory_mib": {"before": 500.0, "peak": 1753.0},
    }  # fmt: skip
    spent = {"total": seconds, "compile": 3.0, "train": 5.0, "read_out": 1.0}
    return rows.Row("estimates", config, {}, 0, spent, results)


def independence(mi, p_values, group=0, **changes):
    sets = [{"p_value": p, "estimate": 0.1} | changes for p in p_values]
    return rows.Row("estimates", studies.PermutationTest("rows", mi).config(group), {}, 0, {}, {"sets": sets})


def text_of(*found):
    return "\n\n".join(page.report(found))


def cells(text, start):
    """The cells of the first table row that starts so."""
    (line, *_) = [line for line in text.splitlines() if re.match(rf"\|\s*{re.escape(start)}\s*\|", line)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_cases_are_those_that_were_asked_for():
    assert len(cases.CASES) == 42
    for dim in (1, 5, 20):
        for mi in (0, 0.5, 2, 5):
            for kind in ("gaussian", "cubic") + ("rotated",) * (dim > 1):
                case = cases.CASES[f"{kind}, d = {dim}, MI {mi:g}"]
                assert case.floor == pytest.approx(np.sqrt(dim * (1 - np.exp(-2 * mi / dim))))
    for case in (cases.CASES["rotated, d = 5, MI 2"], cases.CASES["uniform noise, d = 2, epsilon 0.3"]):
        x, y, truth = case.sample(0)
        assert (len(x), len(y)) == (10_000, 10_000)
        assert truth == pytest.approx(case.make().mi)
    large = cases.LARGE
    assert jax.eval_shape(lambda key: large.make().sample(key, large.num_rows)[0], jax.random.key(0)).shape == (200_000, 20)


@pytest.mark.parametrize(
    ("truth", "mi", "met"),
    [(0.0, 0.05, True), (0.0, -0.051, False), (2.0, 1.91, True), (2.0, 2.11, False), (5.0, 4.5, True), (5.0, 5.51, False)],
)
def test_the_goal(truth, mi, met):
    found = row(mi=mi)
    assert page.good(found._replace(results=found.results | {"truth": truth})) is met


def test_the_page_counts_what_its_rows_say():
    text = text_of(
        row(),
        row("cubic, d = 5, MI 2", 1.95, (1.99, 2.01)),
        row("rotated, d = 5, MI 2", 1.5, (1.4, 1.6), ["overfitting"], seconds=21.0),
        row("gaussian, d = 20, MI 2", 1.5, (1.4, 1.6)),
        row(mi=1.68, seconds=0.2, kind="ksg"),
        row("cubic turned, d = 5, MI 2", 1.5, (1.4, 1.6)),
    )
    assert cells(text, "covered")[1:] == ["2", "0"]
    assert cells(text, "not covered")[1:] == ["1", "1"]
    # The variance d rho² is 5 (1 - e^-0.8), so the narrowest half-width is 1.96 · 0.0166; one row has 0.01.
    for said in ("4 runs.", "67% are covered", "75% are unwarned", "half-width 0.50", "ones: 1.", "met: 2.", "21.0 s"):
        assert said in text
    assert cells(text, "gaussian, d = 5, MI 2")[3:-1] == ["1.900 to 2.100", "yes", "met", "-", "10.0", "1.680", "0.2"]
    assert cells(text, "cubic turned, d = 5, MI 2")[4:8] == ["**no**", "**missed**", "-", "10.0"]
    assert "permutation" not in text
    assert "## Many rows" not in text


def test_other_options_stand_beside_the_defaults():
    text = text_of(row(), row(mi=1.7, options={"critic": "joint"}, seconds=50.0))
    assert cells(text, "defaults")[1] == "+0.010 (10)"
    assert cells(text, "critic = joint")[1] == "-0.300 (50)"
    assert "1 runs." in text


def test_many_rows_have_their_memory():
    large = row(cases.LARGE.name, options={"critic": "separable"}, kind="large")
    found = cells(text_of(large), "separable")
    assert found[1:] == ["2.010", "1.900 to 2.100", "-", "10", "3, 5, 1", "1,253"]


def test_the_permutation_tests_are_counted():
    text = text_of(
        independence(0.0, [0.05, 0.1], interval=[-0.1, 0.2], dependent_rows=False),
        independence(0.0, [0.15, 1.0], group=1, interval=[0.1, 0.2], dependent_rows=True),
    )
    assert cells(text, "rows")[1:] == ["permutations = 999, steps = 500", "0", "4", "2", "0 to 2", "2", "2"]
    assert cells(text_of(independence(0.15, [0.05])), "rows")[2:] == ["0.15", "1", "1", "", "", ""]


def test_rows_of_before_are_of_sets_that_were_trained_anew():
    cell, groups = studies.covers({"kind": "independence", "mi": 0.0, "options": {"steps": 200}, "group": 3})
    assert (cell.data, dict(cell.options), groups) == ("rows", {"steps": 200, "permutations": 19, "retrain": True}, [3])
    assert "retrained" in cell.label


@pytest.mark.parametrize("data", studies.DATA)
def test_the_data_of_the_study(data):
    x, y, units = studies.DATA[data](0.0, 0)
    again, *_ = studies.DATA[data](0.0, 0)
    np.testing.assert_array_equal(x, again)
    assert len(x) == len(y)
    assert set(units) == {"rows": set(), "subjects": {"groups"}, "series": {"blocks"}}[data]
    for cell in studies.cells():
        assert studies.covers(cell.config(1)) == (cell, [1])


def test_subjects_share_as_much_as_they_should():
    """By the correlation over many subjects: noise is a part of y."""
    pairs = [studies.DATA["subjects"](0.3, seed)[:2] for seed in range(300)]
    x, y = (np.concatenate([pair[side][:: studies.TIMES] for pair in pairs]) for side in (0, 1))
    assert -0.5 * np.log1p(-(np.corrcoef(x, y)[0, 1] ** 2)) == pytest.approx(0.3, abs=0.02)


@pytest.mark.slow
def test_the_study_of_independence_gives_a_row():
    cell = studies.PermutationTest("subjects", 0.3, (("critic", "bilinear"), ("permutations", 19), ("steps", 50)))
    made = cell.measure(0).results["sets"]
    assert len(made) == studies.GROUP
    assert all(0 < one["p_value"] < 1 and one["dependent_rows"] for one in made)


def check_the_command_makes_what_is_missing(folder, capsys):
    options = ["steps=50", "critic=bilinear", "folds=2", "batch_size=64"]
    arguments = ["--out", str(folder), "--match", "^gaussian, d = 1, MI 0.5$", "--options", *options]
    command.main(arguments)
    (path,) = (folder / "rows").glob("*.json")
    made = rows.read(path, "estimates")
    assert made.config["options"] == {"steps": 50, "critic": "bilinear", "folds": 2, "batch_size": 64}
    assert made.results["truth"] == pytest.approx(0.5)
    assert 0 < sum(made.seconds[name] for name in ("compile", "train", "read_out")) < made.seconds["total"]
    assert made.results["memory_mib"]["before"] <= made.results["memory_mib"]["peak"]
    assert "estimate gaussian, d = 1, MI 0.5 batch_size 64 critic bilinear" in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    command.main(arguments)
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

    def run_here(arguments, **_):
        assert arguments[:4] == [sys.executable, "-m", "benchmarks.estimates", "--one"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            command.main(arguments[3:])
        return SimpleNamespace(returncode=0, stdout=printed.getvalue(), stderr="")

    monkeypatch.setattr(mi_jax, "estimate", estimate)
    monkeypatch.setattr(experiment, "subprocess", SimpleNamespace(run=run_here))
    made = check_the_command_makes_what_is_missing(tmp_path, capsys)
    assert (made.results["mi"], made.seconds["train"]) == (0.53, 2e-6)
    assert calls == [((10_000, 1), (10_000, 1), made.config["options"])]


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
        command.main(["--out", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("some log\npython -m benchmarks.estimates: error: critic must be one of these\n", "critic must be one of these"),
        ("", "killed"),
    ],
)
def test_what_a_process_fails_of_is_told(stderr, message, tmp_path, capsys, monkeypatch):
    failed = SimpleNamespace(returncode=2, stdout="", stderr=stderr)
    monkeypatch.setattr(experiment, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    with pytest.raises(SystemExit) as stopped:
        command.main(["--out", str(tmp_path), "--match", "^gaussian, d = 1, MI 0$"])
    assert stopped.value.code == 2
    assert f"error: gaussian, d = 1, MI 0 failed: {message}\n" in capsys.readouterr().err


# The study of sizes

FAKE = """

def estimate(x, y, key):
    return Fake(float(x.mean()))
class Fake:
    def __init__(self, mean):
        self.mi, self.interval, self.warnings, self.seconds = mean, (mean - 1, mean + 1), {"low": "text"}, (1, 2, 3)
    def __repr__(self):
        return "0.1 nats (smile, OneCritic in closed form, 5 folds)"
"""


@pytest.mark.slow
def test_another_checkout_is_measured_on_the_same_data(tmp_path, monkeypatch):
    (tmp_path / "mi_jax").mkdir()
    (tmp_path / "mi_jax" / "__init__.py").write_text(FAKE)
    monkeypatch.setattr(sizes, "GROUP", 3)
    cell = sizes.Sized("gaussian, 1 + 1", 50, "other", str(tmp_path))
    one, two = cell.measure(0), cell.measure(1)
    assert sizes.covers(one.config) == (cell, [0])
    assert [len(row.results["sets"]) for row in (one, two)] == [3, 3]
    first = one.results["sets"][0]
    assert (first["critic"], first["warnings"], first["parts"]) == ("OneCritic in closed form", ["low"], [1, 2, 3])
    assert one.results["truth"] == 0.5
    # The mean of x of each set: all of them are others.
    means = [made["mi"] for row in (one, two) for made in row.results["sets"]]
    assert len(set(means)) == 6
    assert means == [made["mi"] for row in (cell.measure(0), cell.measure(1)) for made in row.results["sets"]]


def test_every_family_is_measured_at_every_size(tmp_path):
    assert len(sizes.cells()) == len(sizes.FAMILIES) * 3
    for make in sizes.FAMILIES.values():
        assert 0 <= make().mi < 2.1
    with pytest.raises(ValueError, match="--beside must be a checkout of mi_jax, got"):
        sizes.cells(tmp_path)


def sized(library, errors, warnings=(), half_width=0.2, family="gaussian, 1 + 1"):
    sets = [
        {"mi": 0.5 + error, "interval": [0.5 + error - half_width, 0.5 + error + half_width], "warnings": list(warnings),
         "seconds": 9.0 - number, "critic": "C", "parts": [1, 2, 3]}
        for number, error in enumerate(errors)
    ]  # fmt: skip
    return rows.Row("estimates", sizes.Sized(family, 200, library).config(0), {}, 0, {}, {"truth": 0.5, "sets": sets})


def test_the_page_compares_both_libraries():
    text = text_of(
        sized("this", [0.01, -0.3]),
        sized("this", [-0.3, 0.02], ["overfitting"], family="spiral, 3 + 3"),
        sized("abc1234", [0.1, 0.1], half_width=0.4),
    )
    assert cells(text, "this, 200 rows")[1:] == [
        "0.158", "2 of 4", "1 of 2", "1 of 2", "1 of 2", "0.50", "0", "9.0, 8.0"
    ]  # fmt: skip
    assert cells(text, "abc1234, 200 rows")[1:4] == ["0.100", "2 of 2", "2 of 2"]
    assert cells(text, "gaussian, 1 + 1")[1:] == ["0.155; 1, 2 of 2", "0.100; 2, 2 of 2"]
    assert cells(text, "spiral, 3 + 3")[1:] == ["0.160; 1, 0 of 2", ""]
