import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest

from mi_jax import networks
from mi_jax.cli import output
from mi_jax.cli.programs import Programs
from mi_jax.consistency import SelfConsistency
from mi_jax.estimation.config import CRITICS
from tests import examples

SECONDS = {"import": 1.5, "compile": 3.0, "in all": 7.25}
PROGRAMS = Programs(needed=5, kept=3)


def show(result, **options):
    """The lines that `mi-jax estimate` prints."""
    return output.format_estimate(result, examples.samples(), SECONDS, PROGRAMS, **options).splitlines()


def show_details(result, **options):
    """Label -> text of the table that `--verbose` adds below an empty line."""
    lines = show(result, verbose=True, **options)
    return {line[:17].strip(): line[17:].strip() for line in lines[lines.index("") + 1 :]}


def test_number_and_verdict_come_first_and_alone():
    assert show(examples.estimate(warnings={})) == [
        "mutual information of x and y: 1.20 nats (95 % interval 1.09 to 1.34)",
        "x and y are clearly dependent: the interval lies above 0. No check speaks against the estimate.",
    ]


def test_warnings_are_printed_in_full_below_the_verdict():
    assert show(examples.estimate())[1:] == [
        "Do not rely on this number: see the 2 warnings below.",
        "warning, overfitting: there are too few samples",
        "warning, diverged: the training of folds 1 diverged",
    ]


def test_a_note_does_not_count_as_a_warning():
    result = examples.estimate(warnings={"constant_columns_x": "x has 1 constant column", "clipped": "SMILE clips"})
    assert show(result)[1:] == [
        "Do not rely on this number: see the warning below.",
        "warning, clipped: SMILE clips",
        "note, constant_columns_x: x has 1 constant column",
    ]
    assert "No check speaks against" in show(examples.estimate(warnings={"duplicated_columns_y": "y has 2"}))[1]


def test_an_interval_that_includes_0():
    assert show(examples.estimate(mi=0.004, interval=(-0.003, 0.012), warnings={})) == [
        "mutual information of x and y: 0.004 nats (95 % interval -0.003 to 0.012)",
        "No dependence could be shown in these 40 rows: the interval includes 0. The mutual information may be up to 0.012 "
        "nats, or more if the dependence is too complicated to be learned from them.",
    ]


def test_bits_are_of_the_estimate_and_not_of_the_diagnostics():
    result = examples.estimate(warnings={})
    assert show(result, bits=True)[0] == "mutual information of x and y: 1.73 bits (95 % interval 1.57 to 1.93)"  # / 0.6931
    found = show_details(result, bits=True)
    assert found["standard error"] == "0.072 bits"
    assert "0.017 further down" in found["interval covers"]
    assert found["single folds"] == "2: 1.731, nan bits"
    assert found["training rows"] == "1.250 nats, where test rows give 1.200"
    around_zero = examples.estimate(mi=0.0, interval=(-0.1, 0.1), warnings={})
    assert show(around_zero, bits=True)[1].count("may be up to 0.14 bits, or") == 1


def test_a_permutation_test_is_explained():
    assert show(examples.estimate(independence=examples.independence(), warnings={}))[1:] == [
        "x and y are clearly dependent: the interval lies above 0, and the permutation test shows dependence. "
        "No check speaks against the estimate.",
        "permutation test: if x and y were independent, about 5 % of data sets would look as dependent as these (p = 0.05)",
    ]


def test_no_estimate_at_all():
    result = examples.no_estimate()
    assert show(result) == [
        "mutual information of x and y: no estimate",
        "There is no estimate, because every fit failed: see the warning below.",
        "warning, no_estimate: no fold gave a finite estimate",
    ]
    assert "further" not in show_details(result)["interval covers"]
    plain = to_json(result)
    assert plain["mi"] is None
    assert plain["interval"] == [None, None]
    assert plain["diagnostics"]["log_normaliser"] is None


def test_verbose_prints_all_that_matters():
    assert show(examples.estimate(), verbose=True)[:4] == show(examples.estimate())
    assert show_details(examples.estimate()) == {
        "standard error": "0.050 nats",
        "interval covers": "the choice of test rows, the splits, the random starts and the training; 0.012 further down, for"
        " what clipping may have added; 0.042 further up, for the gap between training and test rows and for E_Q[r] other "
        "than 1",
        "does not cover": "dependence that this critic cannot learn from so many rows, so the true value may be higher",
        "single folds": "2: 1.200, nan nats",
        "data": "40 rows (3 with a missing entry left out); x: a, b; y: c",
        "fit": "smile, BilinearCritic, batches of 32 pairs, each x against 7 other y, at most 100 steps",
        "tau": "5.5: clips 3.1% of the true pairs and 4.25% of the shuffled ones",
        "E_Q[r]": "1.02, should be 1",
        "effective pairs": "1,234 of the 5,678 pairs that a fold scores",
        "training rows": "1.250 nats, where test rows give 1.200",
        "other read-outs": "1.111 dv, 1.122 nwj, in nats, from the same critic",
        "best steps": "50, 0 of the 100, 50 steps that the folds made",
        "programs": "3 loaded from disk, 2 compiled",
        "seconds": "1.5 import, 3.0 compile, 7.2 in all",
    }


def test_infonce_has_a_ceiling_and_no_normaliser():
    result = examples.estimate()
    figures = examples.diagnostics(tau=math.nan, clipped_joint=math.nan, clipped_pairs=math.nan, log_normaliser=0.0)
    result = dataclasses.replace(result, config=result.config._replace(estimator="infonce"), diagnostics=figures)
    found = show_details(result)
    assert found["ceiling"] == "InfoNCE cannot exceed 5.99 nats"
    assert not {"tau", "E_Q[r]", "effective pairs"} & set(found)


def test_densities_have_neither_critic_nor_ceiling():
    result = examples.estimate()
    figures = examples.diagnostics(tau=math.nan, ceiling=math.nan, read_outs={})
    result = dataclasses.replace(result, config=result.config._replace(estimator="gm", critic=None), diagnostics=figures)
    found = show_details(result)
    assert found["fit"] == "gm, densities, batches of 32 pairs, at most 100 steps"
    assert not {"tau", "ceiling", "other read-outs"} & set(found)


def to_json(result, **options):
    """Through JSON, in which NaN is an error."""
    return json.loads(json.dumps(output.to_json(result, examples.samples(), SECONDS, PROGRAMS, **options), allow_nan=False))


def test_json_holds_what_the_estimate_holds():
    plain = to_json(examples.estimate(independence=examples.independence()))
    assert plain["mi"] == 1.2
    assert plain["interval"] == [1.09, 1.34]
    assert plain["allowance"] == [0.012, 0.042]
    assert plain["unit"] == plain["diagnostics"]["unit"] == "nats"
    assert plain["per_fold"] == [1.2, None]
    assert plain["diagnostics"]["read_outs"] == {"dv": 1.111, "nwj": 1.122}
    assert plain["diagnostics"]["diverged"] == [False, True]
    assert plain["warnings"]["overfitting"] == "there are too few samples"
    assert plain["config"] == {
        "estimator": "smile",
        "critic": "BilinearCritic",
        "batch_size": 32,
        "num_negatives": 7,
        "steps": 100,
        "patience": 300,
        "learning_rate": 2e-3,
        "max_pairs": 4_194_304,
        "components": [],
    }
    assert plain["data"] == {"rows": 40, "x": ["a", "b"], "y": ["c"], "dropped": 3}
    assert plain["seconds"] == SECONDS
    assert plain["programs"] == {"needed": 5, "kept": 3}
    assert plain["independence"]["p_value"] == 0.05
    assert len(plain["independence"]["statistics"]) == 19


def test_json_in_bits():
    plain = to_json(examples.estimate(), bits=True)
    assert plain["mi"] == pytest.approx(1.2 / math.log(2))
    assert (plain["unit"], plain["diagnostics"]["unit"]) == ("bits", "nats")


def test_check_prints_the_verdict_first_and_then_the_tests():
    text = output.format_check(examples.consistency(), examples.samples(), SECONDS, PROGRAMS).splitlines()
    assert text[0] == "Do not rely on this estimator on these data: 1 of the 4 tests failed."
    rows = [re.split(r"  +", line) for line in text[2:]]
    assert rows[0] == ["", "what must hold", "ratio", "interval", "accepted"]
    assert [row[0] for row in rows[2:]] == ["passes", "passes", "cannot tell", "fails"]
    assert [row[-1] for row in rows[2:]] == ["-0.1 to 0.1", "at most 1.1", "0.9 to 1.1", "1.8 to 2.2"]
    assert rows[4][2:4] == ["unknown", "unknown"]
    assert rows[5][1:4] == ["two independent copies share twice as much as one", "1.500", "1.378 to 1.629"]  # MOVER, by hand


def test_check_prints_the_details_if_asked_for():
    short = output.format_check(examples.consistency(), examples.samples(), SECONDS, PROGRAMS).splitlines()
    text = output.format_check(examples.consistency(), examples.samples(), SECONDS, PROGRAMS, verbose=True).splitlines()
    assert text[: len(short)] == short
    details = dict(re.split(r"  +", line, maxsplit=1) for line in text[len(short) + 1 :])
    assert details["I([X, X']; [Y, Y']) = 2 I(X; Y)"] == "I(copies) = 1.500, I of half of the rows = 1.000 nats"
    assert details["data"] == "40 rows (3 with a missing entry left out); x: a, b; y: c"
    assert details["programs"] == "3 loaded from disk, 2 compiled"
    assert details["seconds"] == "1.5 import, 3.0 compile, 7.2 in all"


def test_check_as_json():
    plain = to_json(examples.consistency())
    assert plain["passes"] is False
    assert [each["verdict"] for each in plain["properties"]] == ["passes", "passes", "cannot tell", "fails"]
    assert plain["properties"][2]["interval"] == [None, None]
    assert plain["properties"][3]["estimates"]["I(copies)"] == {"mi": 1.5, "low": 1.4, "high": 1.6}


def test_every_property_is_put_into_words():
    assert tuple(output.PROPERTIES) == SelfConsistency._fields


@pytest.mark.parametrize(
    ("shape", "text"),
    [((9,), "x: k"), ((9, 1), "x: k"), ((9, 4), "x: k of shape (4,)"), ((9, 2, 3), "x: k of shape (2, 3)")],
)
def test_arrays_are_described_with_their_shapes(shape, text):
    samples = examples.samples()._replace(x=np.zeros(shape), x_names=("k",))
    assert f"; {text}; " in output.format_samples(samples)


def test_every_critic_of_estimate_is_named_in_the_details():
    for build in CRITICS.values():
        result = examples.estimate()
        result = dataclasses.replace(result, config=result.config._replace(critic=build()))
        assert type(build()).__name__ in show_details(result)["fit"]


def test_the_example_can_be_saved(tmp_path):
    """So that the examples stay what `estimation` makes."""
    critic = networks.BilinearCritic()
    variables = critic.init(jax.random.key(0), np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32))
    examples.estimate(variables=variables).save(tmp_path / "out.npz")
    assert (tmp_path / "out.npz").exists()
