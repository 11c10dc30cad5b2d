"""The image experiment: its settings, its rows, verdicts, figures, and the command."""

import dataclasses
import json
import math
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.images import __main__ as command
from benchmarks.images import cells as cells_
from benchmarks.images import datasets, experiment, page, presets, results, verdicts
from benchmarks.lib import machine, rows, runner

TINY = cells_.Cell(channels=(4, 6), hidden=(8,), batch=16, images=64, tests=64, epochs=1, epochs_gm=1, learning_rate=1e-3)


def dataset(n=64, seed=0, size=12):
    """Small random pictures: what the benchmark does with them depends neither on their size nor on what they show."""
    rng = np.random.default_rng(seed)
    part = lambda n: datasets.Images(rng.integers(0, 256, (n, size, size, 1), np.uint8), np.arange(n, dtype=np.uint8) % 10)  # noqa: E731
    return datasets.Dataset(part(n), part(n))


def run_missing(cells, seeds, data, folder, limit=math.inf):
    runner.run_missing(experiment.experiment(cells, seeds, data), folder / "rows", limit)
    return read(folder)


def read(folder):
    return rows.read_all(folder / "rows", "images")


def test_the_three_settings_are_the_papers():
    first, second = (jnp.asarray(part) for part in dataset().train.images[:8].reshape(2, 4, 12, 12, 1))

    def pair(setting, t):
        cell = dataclasses.replace(TINY, setting=setting, t=t)
        settings = experiment.settings_of(cell, dataset().train, 64)
        return (np.asarray(rows) for rows in cell.pair(settings, first, second))

    def top(rows, t):
        rows = np.array(rows)
        rows[:, t:] = 0
        return rows

    x, y = pair("rows", 9)
    np.testing.assert_array_equal(x, first)
    np.testing.assert_array_equal(y, top(first, 9))
    x, y = pair("processing", 9)
    np.testing.assert_array_equal(x, np.concatenate([first, first], axis=-1))
    np.testing.assert_array_equal(y, np.concatenate([top(first, 9), top(first, 6)], axis=-1))
    x, y = pair("additivity", 9)
    np.testing.assert_array_equal(x, np.concatenate([first, second], axis=-1))
    np.testing.assert_array_equal(y, np.concatenate([top(first, 9), top(second, 9)], axis=-1))


SLOW_RUNS = [("infonce", "joint"), ("logistic", "separable"), ("mine", "joint"), ("mine", "separable"),
             ("logistic", "joint"), ("gm", "separable"), ("labels", "separable")]  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "critic"),
    [
        ("infonce", "separable"),
        *(pytest.param(*run, marks=pytest.mark.slow) for run in SLOW_RUNS),
    ],
)
def test_a_run_gives_a_row(objective, critic, tmp_path):
    cell = dataclasses.replace(TINY, objective=objective, critic=critic, group=4 if critic == "joint" else None)
    found = run_missing([cell], 2, dataset(), tmp_path)
    assert [row.config["seed"] for row in found] == [0, 1]
    for row in found:
        assert not row.diverged
        assert all(math.isfinite(read["value"]) and read["stderr"] >= 0 for read in row.results.values())
        assert row.config == json.loads(json.dumps(cell.config(row.config["seed"])))
    if objective != "labels":  # a share of so few images can be the same twice
        assert found[0].results != found[1].results
    if objective == "infonce":
        assert found[0].results["cpc"]["value"] <= math.log(4 if critic == "joint" else 16)
    if objective == "gm":
        read = found[0].results
        parts = [read[f"gm_{role}"]["value"] for role in ("joint", "marginal_x", "marginal_y")]
        assert read["gm"]["value"] == pytest.approx(parts[0] - parts[1] - parts[2], rel=1e-4, abs=0.05)
        assert read["gm_iw_joint"]["value"] > read["gm_joint"]["value"]


def fake_run(data, group, programs, progress):
    """In place of `experiment.run`: rows whose estimates grow with t and hardly differ."""
    cell, seeds = group
    double = 2.0 if cell.setting == "additivity" else 1.0
    for seed in seeds:
        yield row(cell.setting, "cpc", cell.t, double * 0.1 * cell.t + 0.001 * seed, seed)._replace(config=cell.config(seed))


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(experiment, "run", fake_run)
    monkeypatch.setattr(experiment, "compile_cell", lambda data, cell, number: None)


def test_t_is_no_part_of_the_program():
    cells = [dataclasses.replace(TINY, setting=setting, t=t) for setting in cells_.SETTINGS for t in (5, 9)]
    assert len({cell.program() for cell in cells}) == 2  # of one image, and of two


def test_runs_on_disk_are_not_run_again(tmp_path, capsys, nothing_runs):
    cells = [dataclasses.replace(TINY, setting=setting) for setting in cells_.SETTINGS]
    assert len(run_missing(cells, 1, dataset(), tmp_path)) == 3
    assert "3 runs to do" in capsys.readouterr().out
    run_missing(cells, 2, dataset(), tmp_path)
    assert "3 runs to do" in capsys.readouterr().out
    run_missing(cells, 2, dataset(), tmp_path)
    assert "0 runs to do" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_that_differ_in_t_are_compiled_once(tmp_path, capsys, monkeypatch):
    compiled = []
    compile_cell = experiment.compile_cell

    def counted(data, cell, number):
        compiled.append(cell)
        return compile_cell(data, cell, number)

    monkeypatch.setattr(experiment, "compile_cell", counted)
    cells = [dataclasses.replace(TINY, setting=setting, t=t) for setting in cells_.SETTINGS for t in (5, 9)]
    run_missing(cells, 1, dataset(), tmp_path)
    assert len(compiled) == 2  # of one image, and of two
    assert len(read(tmp_path)) == 6
    capsys.readouterr()
    run_missing(cells, 1, dataset(), tmp_path)
    assert "0 runs to do" in capsys.readouterr().out
    assert len(compiled) == 2


def test_more_images_than_there_are_are_refused(tmp_path):
    for changes in ({"images": 65}, {"tests": 65}):
        with pytest.raises(ValueError, match="mnist logistic rows t = 14 asks for 65 images, but the data have 64"):
            run_missing([dataclasses.replace(TINY, **changes)], 1, dataset(), tmp_path)


def test_cells_over_the_limit_are_listed_and_left_out(tmp_path, capsys, nothing_runs):
    run_missing([TINY], 1, dataset(), tmp_path)
    capsys.readouterr()
    run_missing([dataclasses.replace(TINY, t=3, epochs=10**9)], 1, dataset(), tmp_path, limit=60.0)
    out = capsys.readouterr().out
    assert "skipped, over the limit: mnist logistic rows t = 3, predicted" in out
    assert len(read(tmp_path)) == 1


@pytest.mark.slow
def test_labels_of_images_that_tell_them_are_read_off(tmp_path):
    """Images whose brightness is their label: the accuracy rises from a tenth to nearly all."""
    labels = np.arange(640, dtype=np.uint8) % 10
    pictures = np.broadcast_to((25 * labels)[:, None, None, None], (640, 6, 6, 1)).astype(np.uint8)
    data = datasets.Dataset(*[datasets.Images(pictures, labels)] * 2)
    cell = dataclasses.replace(TINY, objective="labels", t=6, images=640, tests=640, epochs=40, learning_rate=1e-2)
    row, blind = run_missing([cell, dataclasses.replace(cell, t=0)], 1, data, tmp_path)[::-1]
    assert row.results["accuracy"]["value"] > 0.8
    assert blind.results["accuracy"]["value"] == pytest.approx(0.1, abs=0.01)


def row(setting, name, t, value, seed=0, stderr=0.01, **changes):
    config = {**TINY.config(seed), "setting": setting, "t": t}
    read = {name: {"value": value, "stderr": stderr}}
    return rows.Row("images", config, machine.environment(), 0, {"run": 1.0}, read)._replace(**changes)


def test_verdicts_are_on_ratios_of_the_same_seeds():
    made = [row(setting, "cpc", t, value + 0.02 * seed, seed) for seed in (0, 1, 2) for setting, t, value in [
        ("rows", 0, -0.02 * seed), ("rows", 7, 3.9), ("rows", 14, 4.0), ("processing", 14, 4.0), ("additivity", 14, 4.1),
    ]]  # fmt: skip
    made.append(row("processing", "cpc", 14, 9.0, seed=3))  # without a partner
    found = results.Results(made)
    (independence,) = found.ratios("cpc", "independence").values()
    assert independence.verdict == "passes"
    (processing,) = found.ratios("cpc", "processing").values()
    assert (processing.verdict, processing.seeds) == ("passes", 3)
    assert processing.ratio == pytest.approx(1.0)
    assert found.ratios("cpc", "monotony")[7].ratio == pytest.approx(3.92 / 4.02)
    additivity = found.ratios("cpc", "additivity")[14]
    assert additivity.verdict == "fails"
    assert additivity.ratio == pytest.approx(4.12 / 4.02)
    # 1.96 of the test images' standard errors; 4.303, Student's for three seeds, of the seeds'.
    measured = found.measured("rows", "cpc", 14)
    reach = math.sqrt((1.96 * 0.01) ** 2 + 4.303**2 * 0.02**2 / 3)
    assert measured.high - measured.mi == pytest.approx(reach, rel=1e-4)


def reads(values, stderr):
    return {seed: {"value": float(value), "stderr": stderr} for seed, value in enumerate(values)}


def test_fiellers_interval_is_where_the_difference_may_be_zero():
    """At both ends of the interval mean(a - rho b) is exactly its own error bar away from 0."""
    rng = np.random.default_rng(0)
    b = rng.normal(2.0, 0.1, 4)
    a = 2 * b + rng.normal(0.0, 0.1, 4)
    for rho in verdicts.judge(reads(a, 0.05), reads(b, 0.03), (1.8, 2.2)).interval:
        difference = a - rho * b
        reach = stats.t.ppf(0.975, 3) ** 2 * difference.var(ddof=1) / 4 + 1.96**2 * (0.05**2 + rho**2 * 0.03**2)
        assert difference.mean() ** 2 == pytest.approx(reach, rel=1e-9)


def test_what_would_tell():
    b, noise = 2 + 0.1 * np.array([1.0, 0.0, -1.0, 0.0]), np.array([1.0, -1.0, 0.5, -0.5])
    far, near = (verdicts.judge(reads(slope * b + noise, 0.0), reads(b, 0.0), (1.8, 2.2)) for slope in (1.2, 2.0))
    assert far.verdict == near.verdict == "cannot tell"
    assert 4 < far.needed < near.needed < verdicts.MOST_SEEDS
    # Where the ratio is at an end of what is accepted, or the images are too few, no number of seeds tells.
    assert math.isinf(verdicts.judge(reads(2.2 * b, 0.5), reads(b, 0.0), (1.8, 2.2)).needed)
    one = verdicts.judge(reads([4.0], 0.01), reads([2.0], 0.01), (1.8, 2.2))
    assert (one.verdict, one.ratio) == ("cannot tell", 2.0)
    assert math.isnan(one.needed)
    unknown = verdicts.judge(reads([4.0, 4.1], 0.0), reads([0.1, -0.1], 0.0), (1.8, 2.2))
    assert unknown.interval == (-math.inf, math.inf)
    assert math.isnan(unknown.ratio)


@pytest.mark.parametrize("lower", [0.0, 0.1, -1.0])
def test_an_estimate_far_above_one_near_zero_fails(lower):
    """The ratio has no interval then, but a - high b is above 0 beyond doubt."""
    noise = 0.05 * np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    for accepted in ((-math.inf, 1.1), (0.9, 1.1)):
        ratio = verdicts.judge(reads(5 + noise, 0.05), reads(lower - noise, 0.1), accepted)
        assert ratio.verdict == "fails"
        assert ratio.interval == (-math.inf, math.inf)


def test_where_a_ratio_has_an_interval_the_verdict_is_whether_it_lies_within():
    rng = np.random.default_rng(0)
    for _ in range(300):
        b = rng.normal(2.0, 0.3, 3)
        ratio = verdicts.judge(reads(rng.uniform(0.5, 3.0) * b + rng.normal(0, 0.1, 3), 0.02), reads(b, 0.02), (0.9, 1.6))
        if math.isfinite(ratio.interval[0]):
            low, high = ratio.interval
            outside = high < 0.9 or low > 1.6
            assert ratio.verdict == ("passes" if low > 0.9 and high < 1.6 else "fails" if outside else "cannot tell")


@pytest.mark.parametrize("seeds", [3, 5])
def test_fiellers_interval_covers_the_ratio(seeds):
    """Runs that share most of their spread, on the same test images: 1,000 intervals cover 950 - 4 sqrt(47.5) times."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1_000):
        shared = rng.normal(0, 0.5, seeds)
        a, b = 4 + 2 * shared + rng.normal(0, 0.2, seeds), 2 + shared + rng.normal(0, 0.2, seeds)
        low, high = verdicts.judge(
            reads(a + rng.normal(0, 0.1), 0.1), reads(b + rng.normal(0, 0.1), 0.1), (1.8, 2.2)
        ).interval
        covered += low <= 2.0 <= high
    assert covered >= 922


def test_intervals_cover_where_seeds_differ_more_than_images_do():
    """Intervals from two and from five seeds, 1,000 each, cover 950 - 4 sqrt(47.5) times or more."""
    rng = np.random.default_rng(0)
    for seeds in (2, 5):
        covered = 0
        for values in rng.normal(4.0, 0.5, (1_000, seeds)) + rng.normal(0.0, 0.1, (1_000, 1)):
            made = [row("rows", "mine", 14, float(value), seed, stderr=0.1) for seed, value in enumerate(values)]
            measured = results.Results(made).measured("rows", "mine", 14)
            covered += measured.low <= 4.0 <= measured.high
        assert covered >= 922


def test_the_page_has_both_bounds_of_every_density():
    """And where I(X; Y) is not known to be above 0 no ratio."""
    held_out = {
        f"{name}{role}": {"value": value, "stderr": 1.0}
        for name, value in (("gm", -900.0), ("gm_iw", -850.0))
        for role in ("", "_joint", "_marginal_x", "_marginal_y")
    }
    made = [row(setting, "gm", 14, 0.0, results=held_out) for setting in cells_.SETTINGS]
    text = "\n".join(page.report({"mnist": results.Results(made)}, "a command"))
    assert "| 14  | additivity | marginal_y | -900.0 ± 2.0 | -850.0 ± 2.0" in text
    line = next(line for line in text.splitlines() if line.startswith("| GM (ELBOs)") and "| additivity" in line)
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    assert cells == ["14", "–", "any", "cannot tell", "one seed tells nothing"]


def test_figures_show_only_what_there_is():
    """No panel without labels, and no figure of ratios where I(X; Y) is not known to be above 0."""
    known = {"mnist": results.Results([row("rows", "cpc", 14, 4.0), row("processing", "cpc", 14, 4.0)])}
    assert len(page.estimates_figure(known).axes) == 1
    assert page.ratios_figure(known, "processing") is not None
    assert page.ratios_figure(known, "additivity") is None
    unknown = [row("rows", "cpc", 14, 4.0, stderr=9.0), row("processing", "cpc", 14, 4.0), row("rows", "accuracy", 14, 0.9)]
    unsure = {"mnist": results.Results(unknown)}
    assert page.ratios_figure(unsure, "processing") is None
    assert len(page.estimates_figure(unsure).axes) == 2


def test_a_diverged_run_is_listed_and_in_no_figure():
    made = [row("rows", "mine", 14, 4.0), row("rows", "mine", 14, 99.0, seed=1, diverged=1), row("rows", "mine", 7, None)]
    found = results.Results(made)
    np.testing.assert_array_equal(found.values("rows", "mine", 14), [4.0])
    assert found.ts("rows", "mine") == [14]
    assert found.left_out == [
        "mnist logistic rows t = 14, seed 1: diverged",
        "mnist logistic rows t = 7, seed 0: mine is not finite",
    ]


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    data = dataset(64, size=28)
    place = tmp_path / "data"
    place.mkdir()
    for name, part in (("train", data.train), ("t10k", data.test)):
        (place / f"{name}-images-idx3-ubyte").write_bytes(idx(part.images[..., 0]))
        (place / f"{name}-labels-idx1-ubyte").write_bytes(idx(part.labels))
    return place


SHOWN = presets.grid(TINY, (0, 14), ("infonce",))


@pytest.mark.parametrize("runs", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fake", "real"])
def test_the_command_draws_what_it_ran(runs, folder, tmp_path, monkeypatch, capsys, request):
    if not runs:
        request.getfixturevalue("nothing_runs")
    monkeypatch.setattr(presets, "preset", lambda name, data: (SHOWN, 1))
    monkeypatch.setitem(datasets.READERS, "mnist", lambda *a, **k: datasets.mnist(*a, **k, subset=True))
    out = tmp_path / "out"
    command.main(["--data", str(folder), "--out", str(out)])
    names = {path.name for path in out.iterdir()} - {"rows"}
    # A run so short may give no ratio with an interval, and then no figure of ratios.
    always = {"figure3-mnist.png", "figure3-mnist.svg", "figure4.png", "figure4.svg", "images.md"}
    assert {name for name in names if not name.startswith(("figure5", "figure6"))} == always
    text = (out / "images.md").read_text()
    for part in ("### Verdicts", "I([X, X]; [Y, h(Y)])", "CPC", "None: every run stayed finite."):
        assert part in text
    assert str(out / "figure4.png") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "train-images-idx3-ubyte, .* not found in nowhere, which is no folder: put MNIST's four"),
        (["--t", "99"], r"no cell of preset quick is selected; its t are \[0, 7, 14, 28\]"),
        (["--settings", "other"], "invalid choice: 'other'"),
        (["--seeds", "0"], "expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_end_in_one_clear_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_presets_hold_what_is_to_be_shown(name, data):
    cells, seeds = presets.preset(name, data)
    assert seeds >= 2
    assert {cell.setting for cell in cells} == set(cells_.SETTINGS)
    if name == "vaes":
        assert {(cell.objective, cell.t) for cell in cells} == {("gm", 28 if data == "mnist" else 32)}
    else:
        assert {cell.objective for cell in cells} == set(cells_.OBJECTIVES)
        assert min(cell.t for cell in cells if cell.setting == "rows") == 0
    assert all(cell.t > results.LESS for cell in cells if cell.setting == "processing")
    if name == "paper":
        assert {(cell.learning_rate, cell.epochs, cell.epochs_gm, cell.critic) for cell in cells} == {(1e-4, 2, 10, "joint")}
        assert {(cell.channels, cell.hidden) for cell in cells} == {((64, 128), (1024,))}
    assert jax.config.jax_num_cpu_devices == 2
