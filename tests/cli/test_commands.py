import json
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import click
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import mi_jax
from mi_jax import consistency, estimation
from mi_jax.cli import commands, options
from mi_jax.training import Report
from tests import examples


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(commands.program, [str(argument) for argument in arguments])


@pytest.fixture
def calls(monkeypatch):
    """What `estimate` and `self_consistency` are called with; they return examples."""
    seen = []

    def stub(result):
        def call(x, y, **options):
            seen.append((x, y, options))
            options["on_chunk"](Report(2, 2, {"validation_loss": np.array([[0.5, 0.4]])}))
            return result

        return call

    monkeypatch.setattr(estimation, "estimate", stub(examples.estimate()))
    monkeypatch.setattr(consistency, "self_consistency", stub(examples.consistency()))
    return seen


@pytest.fixture
def files(tmp_path):
    """One data set in every format."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = x + rng.normal(size=x.shape)
    columns = {"a": x[:, 0], "b": x[:, 1], "c1": y[:, 0], "c2": y[:, 1]}
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    matrix = np.stack(list(columns.values()), axis=1)
    np.savetxt(tmp_path / "data.csv", matrix, delimiter=",", header=",".join(columns), comments="", fmt="%.17g")
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    return x, y


FORMATS = {
    "npz": ["data.npz", "--x", "x", "--y", "y"],
    "npz by default": ["data.npz"],
    "npy": ["x.npy", "y.npy"],
    "csv": ["data.csv", "--x", "a,b", "--y", "c1,c2"],
    "csv, one by one": ["data.csv", "--x", "a", "--x", "b", "--y", "c*"],
    "parquet": ["--x", "a,b", "--y", "c*", "data.parquet"],
}


@pytest.mark.parametrize("command", ["estimate", "check"])
@pytest.mark.parametrize("arguments", FORMATS.values(), ids=FORMATS)
def test_all_formats_hold_the_same(run, calls, files, command, arguments):
    found = run(command, *arguments)
    assert found.exit_code == 0, found.output
    (x, y, _) = calls[0]
    np.testing.assert_array_equal(x, files[0])
    np.testing.assert_array_equal(y, files[1])


def test_the_verdict_is_on_stdout_and_progress_on_stderr(run, calls, files):
    found = run("estimate", "data.npz")
    assert found.stdout.startswith("mutual information of x and y: 1.20 nats (95 % interval 1.09 to 1.34)\nDo not rely on")
    assert "warning, overfitting: there are too few samples\n" in found.stdout
    assert found.stderr.splitlines()[0] == "training: step 100 of at most 100, 1 of 1 folds are still training, 0 s"
    assert not control_characters(found.stderr + found.stdout)


def control_characters(text):
    return [letter for letter in text if (ord(letter) < 32 and letter != "\n") or ord(letter) == 127]


def test_options_reach_estimate(run, calls, files):
    given = {
        "estimator": "infonce",
        "critic": "joint",
        "folds": 3,
        "repeats": 2,
        "transform": "standardize",
        "tau": 3.5,
        "steps": 100,
        "batch_size": 16,
        "num_negatives": 3,
        "learning_rate": 1e-4,
        "patience": 50,
        "max_pairs": 1000,
        "permutations": 19,
        "retrain": True,
        "blocks": 2,
        "confidence": 0.9,
    }
    assert set(given) == set(options.OPTIONS)
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in given.items()]
    assert run("estimate", "data.npz", "--seed", "7", *flags).exit_code == 0
    assert (
        run(
            "check",
            "data.npz",
            "--seed",
            "7",
            "--tolerance",
            "0.2",
            *(flag for flag in flags if not flag.startswith(("--permu", "--retrain", "--blocks"))),
        ).exit_code
        == 0
    )
    for (_, _, passed), extra in zip(calls, ({}, {"tolerance": 0.2}), strict=True):
        assert jax.random.key_data(passed.pop("key")).tolist() == jax.random.key_data(jax.random.key(7)).tolist()
        passed.pop("on_chunk")
        assert passed.pop("groups", None) is None
        assert {"permutations": 19, "retrain": True, "blocks": 2} | passed == given | extra


def test_groups_reach_estimate(run, calls, tmp_path):
    (tmp_path / "data.csv").write_text("x,y,who\n1,2,ann\n3,4,bob\n5,6,ann\n")
    assert run("estimate", "data.csv", "--groups", "who").exit_code == 0
    assert calls[0][2]["groups"].tolist() == ["ann", "bob", "ann"]
    done = run("estimate", "data.csv", "--groups", "whom")
    assert done.exit_code == 2
    assert "--groups: data.csv has no column 'whom'; it has x, y, who" in done.stderr


def test_without_options_estimate_gets_its_own_defaults(run, calls, files):
    assert run("estimate", "data.npz").exit_code == 0
    passed = calls[0][-1]
    assert all(passed[name] == option.default for name, option in options.OPTIONS.items())
    assert jax.random.key_data(passed["key"]).tolist() == jax.random.key_data(jax.random.key(0)).tolist()


def test_json_is_the_only_line_on_stdout(run, calls, files):
    for command in ("estimate", "check"):
        found = run(command, "data.npz", "--json")
        assert found.exit_code == 0
        assert found.stdout.count("\n") == 1
        printed = json.loads(found.stdout, parse_constant=pytest.fail)
        assert printed["data"] == {"rows": 60, "x": ["x"], "y": ["y"], "dropped": 0}
        assert set(printed["seconds"]) >= {"read", "in all"}
    assert printed["passes"] is False


def test_bits(run, calls, files):
    assert "1.73 bits" in run("estimate", "data.npz", "--bits").stdout
    assert json.loads(run("estimate", "data.npz", "--bits", "--json").stdout)["unit"] == "bits"


def test_check_prints_the_verdicts(run, calls, files):
    found = run("check", "data.npz")
    assert found.exit_code == 0
    assert found.stdout.startswith("Do not rely on this estimator on these data: 1 of the 4 tests failed.\n")
    assert re.search(r"\nfails +two independent copies share twice as much as one +1\.500 ", found.stdout)


def test_list_names_everything_with_a_line(run):
    found = run("list")
    assert found.exit_code == 0
    lines = [line.split(maxsplit=1) for line in found.stdout.splitlines() if line.startswith("  ")]
    assert {name for name, _ in lines} == {*options.ESTIMATORS, *options.CRITICS, *options.TRANSFORMS}
    assert all(len(text) > 5 for _, text in lines)


def test_help_and_version(run):
    assert "--learning-rate FLOAT" in run("estimate", "--help").stdout
    assert run("--version").stdout == f"mi-jax, version {mi_jax.__version__}\n"
    assert all(
        run(*arguments).exit_code == 0 for arguments in (["--help"], ["check", "-h"], ["list", "--help"], ["--version"])
    )


def test_plot_and_save(run, calls, files, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(estimation.Estimate, "save", lambda self, path: saved.append((self.unit, path)))
    found = run("estimate", "data.npz", "--plot", "out.png", "--save", "out.npz", "--bits")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert saved == [("bits", Path("out.npz"))]


def test_outputs_are_tried_before_the_training_and_left_as_they_were(run, calls, files, tmp_path):
    (tmp_path / "old.png").write_text("old")
    for out in ("old.png", "new.png"):
        assert run("estimate", "data.npz", "--plot", out, "--save", "missing/out.npz").exit_code == 2
    assert (tmp_path / "old.png").read_text() == "old"
    assert not (tmp_path / "new.png").exists()
    assert not calls


def test_a_result_that_cannot_be_written_is_printed_all_the_same(run, calls, files, monkeypatch):
    def save(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(estimation.Estimate, "save", save)
    found = run("estimate", "data.npz", "--save", "out.npz")
    assert found.exit_code == 2
    assert "1.20 nats" in found.stdout
    assert found.stderr.splitlines()[-1] == "error: out.npz cannot be written (No space left on device)"


def test_plot_without_matplotlib(run, calls, files, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    found = run("estimate", "data.npz", "--plot", "out.png")
    assert (found.exit_code, calls) == (2, [])
    assert found.stderr == "error: --plot needs matplotlib.figure: pip install 'mi-jax[plot]'\n"


def test_missing_rows_can_be_dropped(run, calls, tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n1,2\n,2\n3,4\n")
    found = run("estimate", "d.csv", "--drop-missing", "--verbose")
    assert "2 rows (1 with a missing entry left out)" in found.stdout
    assert calls[0][0].tolist() == [[1.0], [3.0]]


def test_our_own_bugs_are_not_the_users(run, files, monkeypatch):
    def broken(x, y, **options):
        raise ValueError("vmap got inconsistent sizes")

    monkeypatch.setattr(estimation, "estimate", broken)
    found = run("estimate", "data.npz")
    assert isinstance(found.exception, ValueError)
    assert found.exit_code == 1


def test_an_interrupt(run, files, monkeypatch):
    def interrupted(x, y, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(estimation, "estimate", interrupted)
    found = run("estimate", "data.npz")
    assert found.exit_code == 130
    assert found.stderr.strip() == "interrupted"


@pytest.mark.parametrize("within", ["file", "file/below"])
def test_a_folder_for_programs_that_cannot_be_is_refused(run, files, tmp_path, within):
    (tmp_path / "file").touch()
    found = run("estimate", "data.npz", "--compilation-cache", str(tmp_path / within))
    assert found.exit_code == 2
    assert re.search(r"Invalid value for '--compilation-cache': .*file", found.stderr)


def test_every_option_has_a_help_line():
    for command in commands.program.commands.values():
        assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


@pytest.fixture
def bad_files(files, tmp_path):
    """The good files, and one file for everything that can be wrong with a file."""
    x, y = files
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "empty.csv").touch()
    (tmp_path / "data.txt").write_text("x,y\n1,2\n")
    (tmp_path / "none").write_text("x,y\n1,2\n")
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:-100])
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-100])
    (tmp_path / "truncated.parquet").write_bytes((tmp_path / "data.parquet").read_bytes()[:-100])
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps(x))
    (tmp_path / "zipped.npy").write_bytes((tmp_path / "data.npz").read_bytes())
    np.save(tmp_path / "objects.npy", np.array([None, 1] * 30, object), allow_pickle=True)
    np.save(tmp_path / "short.npy", y[:-1])
    np.save(tmp_path / "complex.npy", x + 0j)
    np.save(tmp_path / "text.npy", np.array(["1", "2"] * 30))
    np.save(tmp_path / "scalar.npy", np.array(1.0))
    np.save(tmp_path / "no_rows.npy", x[:0])
    np.save(tmp_path / "no_columns.npy", x[:, :0])
    np.save(tmp_path / "few.npy", x[:5])
    np.save(tmp_path / "few_too.npy", y[:5])
    np.save(tmp_path / "constant.npy", np.ones(60))
    np.save(tmp_path / "structured.npy", np.zeros(60, [("a", float)]))
    np.savez(tmp_path / "objects.npz", x=np.array([None] * 60, object), y=y)
    np.savez(tmp_path / "nan.npz", x=np.where(x > 1, np.nan, x), y=y)
    np.savez(tmp_path / "inf.npz", x=np.where(x > 1, np.inf, x), y=y)
    (tmp_path / "text.csv").write_text("x,y\n1,2\nhello,2\n")
    (tmp_path / "twice.csv").write_text("x,x,y\n1,2,3\n")
    (tmp_path / "hole.csv").write_text("x,y\n1,2\n3,\n")
    (tmp_path / "ragged.csv").write_text("x,y\n1,2\n3,4,5\n")
    (tmp_path / "header.csv").write_text("x,y\n")
    pq.write_table(pa.table({"x": ["a", "b"], "y": [1, 2]}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1.0, None], "y": [1, 2]}), tmp_path / "hole.parquet")


CSV = ["data.csv", "--x", "a,b", "--y", "c*"]
BAD = [
    (["missing.csv"], "missing.csv: no such file"),
    (["folder.npz"], "folder.npz: must be a file, got a directory"),
    (["data.txt"], "data.txt: must be one of .npz, .npy, .csv, .parquet, got the suffix '.txt'"),
    (["none"], "none: must be one of"),
    (["empty.csv"], "empty.csv: the file is empty"),
    (["truncated.npz"], "truncated.npz: damaged"),
    (["truncated.npy", "y.npy"], "truncated.npy: damaged"),
    (["truncated.parquet", "--x", "a", "--y", "b"], "truncated.parquet: damaged"),
    (["pickled.npy", "y.npy"], "pickled.npy: not in the .npy format; no pickle is ever loaded"),
    (["zipped.npy", "y.npy"], "zipped.npy: not in the .npy format"),
    (["objects.npy", "y.npy"], "objects.npy: "),
    (["objects.npz"], "objects.npz: "),
    (["x.npy", "short.npy"], "x.npy, short.npy: x and y must hold the same number of rows, got 60 and 59"),
    (["complex.npy", "y.npy"], "complex.npy, y.npy: x must hold floats, integers or bools, got dtype complex128"),
    (["x.npy", "text.npy"], "x.npy, text.npy: y must hold floats"),
    (["structured.npy", "y.npy"], "structured.npy, y.npy: x must hold floats"),
    (["scalar.npy", "y.npy"], "scalar.npy, y.npy: x must have an axis of samples"),
    (["no_rows.npy", "no_rows.npy"], "--x and --y must differ"),
    (["no_rows.npy", "y.npy"], "no_rows.npy, y.npy: x and y must hold the same number of rows, got 0 and 60"),
    (["no_columns.npy", "y.npy"], "no_columns.npy, y.npy: x must hold at least one sample and one column"),
    (["few.npy", "few_too.npy"], "few.npy, few_too.npy: x and y must hold at least 20 rows"),
    (["constant.npy", "y.npy"], "constant.npy, y.npy: x must vary"),
    (["x.npy"], "files must be one .npz, .csv or .parquet, or two .npy, got x.npy"),
    (["data.csv", "data.parquet"], "files must be one .npz, .csv or .parquet, or two .npy, got data.csv data.parquet"),
    (["x.npy", "y.npy", "few.npy"], "files must be"),
    (["x.npy", "y.npy", "--x", "a"], "--x names an array or columns"),
    (["x.npy", "y.npy", "--y", "a"], "--y names an array or columns"),
    ([], "Missing argument 'FILES...'"),
    (["data.npz", "--x", "z"], "--x: data.npz has no array 'z'; it has x, y"),
    (["data.npz", "--x", "x", "--x", "y"], "--x must be one array of data.npz, got x, y"),
    (["data.npz", "--y", "x"], "--x and --y must differ, both hold x: the mutual information"),
    (["data.csv"], "--x: data.csv has no column 'x'; it has a, b, c1, c2"),
    (["data.csv", "--x", "a", "--y", "d*"], "--y: data.csv has no column 'd*'; it has a, b, c1, c2"),
    (["data.csv", "--x", "a,", "--y", "b"], "--x: data.csv has no column ''"),
    (["data.csv", "--x", "a,a", "--y", "b"], "--x names column 'a' twice"),
    (["data.csv", "--x", "a,b", "--y", "*"], "--x and --y must differ, both hold a, b: the mutual information of data with"),
    (["data.parquet", "--x", "q", "--y", "b"], "--x: data.parquet has no column 'q'"),
    (["text.csv"], "text.csv: column 'x' must hold numbers, got 'hello' in row 2 below the header"),
    (["text.parquet"], "text.parquet: column 'x' must hold numbers, got string"),
    (["twice.csv"], "--x: twice.csv has 2 columns called 'x'"),
    (["hole.csv"], "hole.csv: row 2 (the first is 1) has an empty or NaN entry in y"),
    (["hole.parquet"], "hole.parquet: row 2 (the first is 1) has an empty or NaN entry in x"),
    (
        ["ragged.csv"],
        "ragged.csv: damaged, or in a form that cannot be read (CSV parse error: Row #3: Expected 2 columns, got 3",
    ),
    (["header.csv"], "header.csv: holds the header and no rows"),
    (["nan.npz"], "has an empty or NaN entry in x"),
    (["inf.npz"], "inf.npz: x must be finite"),
    ([*CSV, "--folds", "1"], "--folds must be from 2 to 30, half the number of rows, got 1"),
    ([*CSV, "--folds", "many"], "Invalid value for '--folds': 'many'"),
    ([*CSV, "--repeats", "2.5"], "Invalid value for '--repeats'"),
    ([*CSV, "--seed", "-1"], "Invalid value for '--seed': -1 is not in the range 0<=x<=4294967295."),
    ([*CSV, "--estimator", "ksg"], "Invalid value for '--estimator': 'ksg' is not one of 'smile'"),
    ([*CSV, "--critic", "deep"], "Invalid value for '--critic'"),
    ([*CSV, "--transform", "log"], "Invalid value for '--transform'"),
    ([*CSV, "--estimator", "gm", "--critic", "joint"], "--critic must not be given with gm"),
    ([*CSV, "--tau", "-1"], "--tau must not be negative, got -1"),
    ([*CSV, "--tau", "nan"], "--tau must not be negative, got nan"),
    ([*CSV, "--tau", "1", "--estimator", "js"], "--tau is SMILE's, got 1.0 with js"),
    ([*CSV, "--steps", "0"], "--steps must be at least 1"),
    ([*CSV, "--batch-size", "1000"], "--batch-size must be at least 2 and at most the 42 training rows, got 1000"),
    ([*CSV, "--batch-size", "1"], "--batch-size must be at least 2"),
    ([*CSV, "--num-negatives", "60"], "--num-negatives must be fewer"),
    ([*CSV, "--learning-rate", "0"], "--learning-rate must be positive and finite, got 0.0"),
    ([*CSV, "--learning-rate", "inf"], "--learning-rate must be positive and finite, got inf"),
    ([*CSV, "--patience", "-5"], "--patience must be at least 1"),
    ([*CSV, "--max-pairs", "1"], "--max-pairs must be at least 2"),
    ([*CSV, "--permutations", "-1"], "--permutations must not be negative"),
    ([*CSV, "--confidence", "95"], "--confidence must lie between 0 and 1, got 95"),
    ([*CSV, "--bach", "3"], "No such option"),
    ([*CSV, "--folds"], "Option '--folds' requires an argument"),
    ([*CSV, "--plot", "missing/out.png"], "--plot missing/out.png cannot be written (No such file or directory)"),
    ([*CSV, "--plot", "folder.npz"], "--plot folder.npz cannot be written (Is a directory)"),
    ([*CSV, "--plot", "out.xyz"], "--plot must end in one of "),
    ([*CSV, "--plot", "out"], "--plot must end in one of "),
    ([*CSV, "--plot", "data.csv"], "--plot must be a file of its own, got data.csv"),
    ([*CSV, "--save", "missing/out.npz"], "--save missing/out.npz cannot be written (No such file or directory)"),
    ([*CSV, "--save", "./data.csv"], "--save must be a file of its own, got data.csv"),
    ([*CSV, "--save", "out.png", "--plot", "out.png"], "--plot must be a file of its own, got out.png"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(map(str, arguments)) for arguments, _ in BAD])
def test_bad_input(run, bad_files, arguments, message):
    check_refused(run("estimate", *arguments), message)


def check_refused(found, message):
    assert found.exit_code == 2, found
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: ")
    assert message in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*CSV, "--tolerance", "0"], "--tolerance must be positive and finite, got 0.0"),
        ([*CSV, "--permutations", "3"], "--permutations"),
        ([*CSV, "--confidence", "2"], "--confidence must lie between 0 and 1"),
        (["few.npy", "few_too.npy"], "few.npy, few_too.npy: x and y must hold at least 40 rows"),
        (["missing.csv"], "missing.csv: no such file"),
    ],
)
def test_bad_input_of_check(run, bad_files, arguments, message):
    check_refused(run("check", *arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is needed: check, estimate, list; see mi-jax --help"),
        (["lst"], "No such command 'lst'"),
        (["-q"], "-q"),
    ],
)
def test_bad_commands(run, arguments, message):
    check_refused(run(*arguments), message)


def run_in_a_process(folder, rows, options):
    """The command as a user runs it: in a process of its own. Returns what it prints as JSON."""
    np.savetxt(folder / "data.csv", rows, delimiter=",", header="height,weight", comments="")
    columns, outputs = ["--x", "height", "--y", "weight"], ["--json", "--plot", "out.png", "--save", "out.npz"]
    found = subprocess.run(
        [sys.executable, "-m", "mi_jax", "estimate", "data.csv", *columns, *options, *outputs],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    printed = json.loads(found.stdout)
    assert printed["data"] == {"rows": len(rows), "x": ["height"], "y": ["weight"], "dropped": 0}
    assert set(printed["seconds"]) == {"import", "read", "compile", "train", "read out", "rest", "in all"}
    assert sum(printed["seconds"].values()) == pytest.approx(2 * printed["seconds"]["in all"])
    assert not control_characters(found.stderr)
    if "--steps" in options:
        steps = options[options.index("--steps") + 1]
        assert found.stderr.splitlines()[0].startswith(f"training: step {steps} of at most {steps}, ")
    assert found.stderr.splitlines()[-1].startswith("training: done, ")
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert mi_jax.load(folder / "out.npz").mi == printed["mi"]
    return printed


@pytest.mark.slow
def test_end_to_end_with_training(tmp_path):
    """On two bits, whose log ratio the cheapest critic can hold."""
    rng = np.random.default_rng(0)
    x, agree = rng.choice([-1, 1], size=400), rng.choice([-1, 1], size=400, p=[0.1, 0.9])
    cheap = ["--estimator", "infonce", "--critic", "bilinear", "--folds", "3", "--steps", "100", "--learning-rate", "0.05"]
    rows, cheap = np.stack([x, x * agree], axis=1), [*cheap, "--compilation-cache", "programs"]
    printed, again = (run_in_a_process(tmp_path, rows, cheap) for _ in range(2))
    assert again["programs"] == {"needed": printed["programs"]["needed"], "kept": printed["programs"]["needed"]}
    assert (again["mi"], again["interval"]) == (printed["mi"], printed["interval"])
    assert printed["mi"] == pytest.approx(np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1), abs=0.15)


def test_end_to_end(tmp_path):
    """On normal rows, which need no training; the compiled programs are kept."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_500, 1))
    rows = np.hstack([x, 0.8 * x + 0.6 * rng.normal(size=x.shape)])
    printed = run_in_a_process(tmp_path, rows, ["--compilation-cache", "programs"])
    assert printed["mi"] == pytest.approx(-0.5 * np.log(0.36), abs=0.15)  # I of normals with correlation 0.8
    assert printed["seconds"]["train"] < printed["seconds"]["in all"] / 2
    kept = {path.name for path in (tmp_path / "programs").iterdir() if path.name.endswith("-cache")}
    assert 0 < printed["programs"]["needed"] - printed["programs"]["kept"] <= len(kept)


# What takes long to import, and the modules of ours that import it.
SLOW_IMPORTS = {"jax", "jaxlib", "flax", "optax", "scipy", "jaxtyping", "matplotlib", "tqdm", "tabulate"}
SLOW_IMPORTS |= {"mi_jax._checks", "mi_jax.estimation", "mi_jax.consistency", "mi_jax.cli.output"}
REFUSED_AT_ONCE = [
    "estimate missing.csv",
    "estimate truncated.npz --plot out.png",
    "estimate data.csv --x a --y z",
    "estimate text.csv",
    "estimate text.parquet",
    "estimate hole.parquet",
    "estimate x.npy short.npy",
    "estimate data.csv --x a --y b --bach 3",
    "estimate data.csv --x a --y b --estimator ksg",
    "estimate data.csv --x a --y b --critic deep",
    "estimate data.csv --x a --y b --plot missing/out.png",
    "estimate data.csv --x a --y b --compilation-cache x.npy",
    "check missing.csv",
    "check data.csv --x a --y b --transform log",
    "lst",
]


def test_bad_input_is_refused_without_importing_jax(bad_files, tmp_path):
    """One process refuses them all, because modules stay imported."""
    script = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from mi_jax.cli import commands\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(commands.program, line.split())\n"
        "    assert (result.exit_code, result.stderr.count('\\n')) == (2, 1), (line, result)\n"
        "    assert not set(json.loads(sys.argv[2])) & set(sys.modules), line\n"
        "assert CliRunner().invoke(commands.program, ['list']).exit_code == 0\n"
        "assert CliRunner().invoke(commands.program, ['estimate', '--help']).exit_code == 0\n"
        "assert not set(json.loads(sys.argv[2])) & set(sys.modules)\n"
    )
    arguments = json.dumps(REFUSED_AT_ONCE), json.dumps(sorted(SLOW_IMPORTS))
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_itself_refuses_a_file_without_importing_jax(tmp_path):
    """As a user starts it; and a file with arrays is refused without Arrow."""
    command = [sys.executable, "-X", "importtime", "-m", "mi_jax", "estimate", "missing.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: missing.npz: no such file\n" in done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "mi_jax.cli.files" in modules
    assert not {*SLOW_IMPORTS, "pyarrow"} & modules


def test_the_watch_adds_up_the_seconds_of_each_part(monkeypatch):
    """Two seconds before the command, 3 of reading, 4 of import, 5 more of reading; 1 was of training, and 2 the rest."""
    clock = iter([10.0, 11.0, 14.0, 14.0, 18.0, 19.0, 24.0, 25.0])
    monkeypatch.setattr(commands, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    watch = commands.Watch(2.0)
    for part in ("read", "import", "read"):
        with watch(part):
            pass
    found = watch.total(train=1.0)
    assert found == {"import": 6.0, "read": 8.0, "train": 1.0, "rest": 2.0, "in all": 17.0}
