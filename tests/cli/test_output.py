import dataclasses
import io
import json
import math

import numpy as np
import pytest

from mi_jax import estimation, networks
from mi_jax.cli import output
from mi_jax.estimation import CRITICS
from mi_jax.training.seeds import Report
from tests import examples

SECONDS = {"import": 1.5, "compile": 3.0, "in all": 7.25}


def lines(text):
    """Label -> text of a table of two columns."""
    return {line[:19].strip(): line[19:].strip() for line in text.splitlines() if not line.startswith("warning,")}


def test_the_table_says_all_that_matters():
    found = lines(output.format_estimate(examples.estimate(), examples.samples(), SECONDS))
    assert found["mutual information"] == "1.200 nats, standard error 0.050"
    assert found["95 % interval"] == "1.090 to 1.340"
    assert "downwards 0.012 more" in found["that covers"]
    assert "upwards 0.042 more" in found["that covers"]
    assert found["seeds"] == "2: 1.200, nan"
    assert found["data"] == "40 rows (3 with a missing entry left out); x: a, b; y: c"
    assert found["fit"] == "smile, BilinearCritic, batches of 32 pairs against 7 others each, at most 100 steps"
    assert found["tau"] == "5.5: clips 3.1% of the joint pairs, 4.25% of the others"
    assert found["E_Q[r]"] == "1.02, and 1 of a density ratio"
    assert found["effective pairs"] == "1,234 of 5,678 a seed"
    assert found["train, test"] == "1.250, 1.200 nats"
    assert found["others"] == "1.111 dv, 1.122 nwj nats, read out of the same critic"
    assert found["best steps"] == "50, 0 of 100, 50"
    assert found["seconds"] == "1.5 import, 3.0 compile, 7.2 in all"
    assert "ceiling" not in found
    assert "independence" not in found


def test_warnings_are_told_in_full():
    text = output.format_estimate(examples.estimate(), examples.samples(), SECONDS)
    assert text.splitlines()[-2:] == [
        "warning, overfitting: there are too few samples",
        "warning, diverged: the training of seed 1 diverged",
    ]
    assert lines(output.format_estimate(examples.estimate(warnings={}), examples.samples(), SECONDS))["warnings"] == "none"


def test_bits_are_of_the_estimate_and_not_of_the_diagnostics():
    found = lines(output.format_estimate(examples.estimate(), examples.samples(), SECONDS, bits=True))
    assert found["mutual information"] == "1.731 bits, standard error 0.072"  # 1.2 and 0.05 / 0.6931
    assert "downwards 0.017 more" in found["that covers"]
    assert found["train, test"] == "1.250, 1.200 nats"


def test_infonce_has_a_ceiling_and_no_normaliser():
    result = examples.estimate()
    told = examples.diagnostics(tau=math.nan, clipped_joint=math.nan, clipped_pairs=math.nan, log_normaliser=0.0)
    result = dataclasses.replace(result, recipe=result.recipe._replace(estimator="infonce"), diagnostics=told)
    found = lines(output.format_estimate(result, examples.samples(), SECONDS))
    assert found["ceiling"] == "5.99 nats, which InfoNCE cannot exceed"
    assert not {"tau", "E_Q[r]", "effective pairs"} & set(found)


def test_densities_have_neither_critic_nor_ceiling():
    result = examples.estimate()
    told = examples.diagnostics(tau=math.nan, ceiling=math.nan, read_outs={})
    result = dataclasses.replace(result, recipe=result.recipe._replace(estimator="gm", critic=None), diagnostics=told)
    found = lines(output.format_estimate(result, examples.samples(), SECONDS))
    assert found["fit"] == "gm, densities, batches of 32 pairs, at most 100 steps"
    assert not {"tau", "ceiling", "others"} & set(found)


def test_no_estimate_at_all():
    nothing = (math.nan, math.nan)
    told = examples.diagnostics(log_normaliser=math.inf, train=math.nan)
    result = examples.estimate(mi=math.nan, stderr=math.nan, interval=nothing, allowance=nothing, diagnostics=told)
    found = lines(output.format_estimate(result, examples.samples(), SECONDS))
    assert found["mutual information"] == "nan nats, standard error nan"
    assert "more" not in found["that covers"]
    plain = strict(output.to_json(result, examples.samples(), SECONDS))
    assert plain["mi"] is None
    assert plain["interval"] == [None, None]
    assert plain["diagnostics"]["log_normaliser"] is None


def test_independence():
    result = examples.estimate(independence=examples.independence())
    found = lines(output.format_estimate(result, examples.samples(), SECONDS))
    assert found["independence"] == "p = 0.05, of 19 permuted data sets"
    plain = strict(output.to_json(result, examples.samples(), SECONDS))
    assert plain["independence"]["p_value"] == 0.05
    assert len(plain["independence"]["statistics"]) == 19


def strict(value):
    """Through JSON, in which NaN is an error."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_json_holds_what_the_estimate_holds():
    plain = strict(output.to_json(examples.estimate(), examples.samples(), SECONDS))
    assert plain["mi"] == 1.2
    assert plain["interval"] == [1.09, 1.34]
    assert plain["allowance"] == [0.012, 0.042]
    assert plain["unit"] == plain["diagnostics"]["unit"] == "nats"
    assert plain["per_seed"] == [1.2, None]
    assert plain["diagnostics"]["read_outs"] == {"dv": 1.111, "nwj": 1.122}
    assert plain["diagnostics"]["diverged"] == [False, True]
    assert plain["warnings"]["overfitting"] == "there are too few samples"
    assert plain["recipe"] == {
        "estimator": "smile",
        "critic": "BilinearCritic",
        "batch": 32,
        "negatives": 7,
        "steps": 100,
        "patience": 300,
        "learning_rate": 2e-3,
        "pairs": 4_194_304,
    }
    assert plain["data"] == {"rows": 40, "x": ["a", "b"], "y": ["c"], "dropped": 3}
    assert plain["seconds"] == SECONDS


def test_json_in_bits():
    plain = strict(output.to_json(examples.estimate(), examples.samples(), SECONDS, bits=True))
    assert plain["mi"] == pytest.approx(1.2 / math.log(2))
    assert (plain["unit"], plain["diagnostics"]["unit"]) == ("bits", "nats")


def test_consistency_as_table_and_json():
    found = examples.consistency()
    text = output.format_check(found, examples.samples(), SECONDS).splitlines()
    assert text[0].split() == ["property", "says", "ratio", "interval", "verdict"]
    assert [line.split("  ")[-1].strip() for line in text[2:6]] == ["passes", "passes", "cannot tell", "fails"]
    assert "additivity: I(copies) = 1.500 nats, I of half of the rows = 1.000 nats" in text
    assert text[-2:] == [
        "data: 40 rows (3 with a missing entry left out); x: a, b; y: c",
        "seconds: 1.5 import, 3.0 compile, 7.2 in all",
    ]
    plain = strict(output.to_json(found, examples.samples(), SECONDS))
    assert plain["passes"] is False
    assert [each["verdict"] for each in plain["properties"]] == ["passes", "passes", "cannot tell", "fails"]
    assert plain["properties"][2]["interval"] == [None, None]
    assert plain["properties"][3]["estimates"]["I(copies)"] == {"mi": 1.5, "low": 1.4, "high": 1.6}


@pytest.mark.parametrize(
    ("shape", "text"),
    [((9,), "x: k"), ((9, 1), "x: k"), ((9, 4), "x: k of shape (4,)"), ((9, 2, 3), "x: k of shape (2, 3)")],
)
def test_arrays_are_told_with_their_shapes(shape, text):
    samples = examples.samples()._replace(x=np.zeros(shape), x_names=("k",))
    assert f"; {text}; " in output.format_samples(samples)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def report(done, steps=40, losses=((0.5, 0.4), (0.3, np.nan))):
    return Report(done, steps, {"validation_loss": np.array(losses)})


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `Progress` sees."""
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_plain_lines(clock):
    file = io.StringIO()
    with output.Progress("training", file=file) as progress:
        assert not file.getvalue()
        progress(report(5))
        clock[0] += 12
        progress(report(40))
    assert file.getvalue().splitlines() == [
        "training: step 250 of at most 2,000, 1 of 2 fits still train, 0 s",
        "training: step 2,000 of at most 2,000, 1 of 2 fits still train, 12 s",
        "training: done, 12 s",
    ]


def test_a_log_of_hours_stays_short(clock):
    file = io.StringIO()
    with output.Progress("training", file=file) as progress:
        for done in range(1, 36_001):
            clock[0] += 1
            progress(report(done, 36_000))
    assert 10 < len(file.getvalue().splitlines()) < 30


def test_data_sets_are_counted(clock):
    file = io.StringIO()
    with output.Progress("checking", "estimate", file=file) as progress:
        for _ in range(3):
            for done in (5, 10):
                clock[0] += 100
                progress(report(done, 10))
    told = [line.partition(" of at most 500")[2].partition(",")[0] for line in file.getvalue().splitlines()]
    assert told == ["", "", " of estimate 2", " of estimate 2", " of estimate 3", " of estimate 3", ""]


def test_data_sets_of_one_report_each_are_counted(clock):
    file = io.StringIO()
    with output.Progress("training", file=file) as progress:
        progress(report(1, 1))
        clock[0] += 100
        progress(report(1, 1))
    assert "of data set 2" in file.getvalue()


def test_a_terminal_has_a_bar_that_leaves_nothing():
    file = Terminal()
    with output.Progress("training", file=file) as progress:
        assert "training: compiling" in file.getvalue()
        progress.bar.ncols = 90
        progress(report(20))
        assert "training:  50%" in file.getvalue()
        assert "1000 of 2000 steps" in file.getvalue()
        assert "1 of 2 fits still train" in file.getvalue()
    assert file.getvalue().rstrip("\r").rpartition("\r")[2].strip() == ""
    assert "\n" not in file.getvalue()


def test_an_error_leaves_no_line():
    file = io.StringIO()
    with pytest.raises(ValueError, match="bad"), output.Progress("training", file=file):
        raise ValueError("bad")
    assert file.getvalue() == ""


def test_every_critic_of_estimate_has_a_name_in_the_table():
    for build in CRITICS.values():
        result = examples.estimate()
        result = dataclasses.replace(result, recipe=result.recipe._replace(critic=build()))
        assert type(build()).__name__ in output.format_estimate(result, examples.samples(), SECONDS)


def test_the_example_can_be_saved(tmp_path):
    """So that the examples stay what `estimation` makes."""
    critic = networks.BilinearCritic()
    params = critic.init(estimation.jax.random.key(0), np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32))
    examples.estimate(params=params).save(tmp_path / "out.npz")
    assert (tmp_path / "out.npz").exists()
