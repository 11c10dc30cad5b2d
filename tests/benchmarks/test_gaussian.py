"""The staircase experiment: its cells, its statistics, its table, and the command from end to end."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks.gaussian import __main__ as command
from benchmarks.gaussian import agreement, experiment, histories, page, paper, statistics
from benchmarks.lib import rows, runner

TINY = experiment.Cell(critic="separable", hidden=(16,), every=80, objective="logistic")
# Networks and batches so small that compiling and training a cell takes a second or two.
SMALL = [
    *(experiment.Cell(critic="separable", hidden=(8, 8), batch=16, objective=name) for name in ("infonce", "nwj")),
    experiment.Cell(critic=statistics.FLOW, hidden=(4,), batch=16, objective="ba"),
]


@pytest.fixture
def small_preset(monkeypatch):
    monkeypatch.setitem(experiment.PRESETS, "quick", (SMALL, 2))


def row(cell=TINY, seed=0, diverged=False, history=None):
    if history is None:
        history = np.random.default_rng(seed).normal(np.repeat(cell.levels, cell.every), 0.5)
    results = {"smile_1": histories.moments(history, cell.every // experiment.BLOCKS).to_json()}
    seconds = {"compile": 1.0, "run": 2.0}
    return rows.Row("gaussian", cell.config(seed), ENVIRONMENT, int(diverged), seconds, results)


ENVIRONMENT = {
    "machine": "any", "platform": "cpu", "device_kind": "cpu", "devices": 2, "threads": 2, "xla_flags": "",
    "python": "3", "versions": {"jax": "0", "flax": "0", "optax": "0"}, "commit": "0",
}  # fmt: skip


def write(folder, row):
    return rows.write(folder, row, "a")


# Histories


def test_block_moments_give_any_windows_exact_mean_and_variance():
    history = np.random.default_rng(0).normal(3.0, 2.0, 400)
    moments = histories.moments(history, 10)
    for start, stop in ((0, 400), (30, 40), (100, 250)):
        mean, variance = moments.window(start, stop)
        assert mean == pytest.approx(history[start:stop].mean(), rel=1e-12)
        assert variance == pytest.approx(history[start:stop].var(), rel=1e-12)
    with pytest.raises(ValueError, match="start and stop must be multiples of the block, 10, got 5 and 20"):
        moments.window(5, 20)


def test_moments_survive_the_disk(tmp_path):
    history = np.linspace(0, 1, 400)
    history[13] = -np.inf
    again = rows.read(write(tmp_path, row(history=history)), "gaussian")
    expected = histories.moments(np.where(history < 0, np.nan, history), 1).mean
    np.testing.assert_allclose(histories.Moments.from_json(again.results["smile_1"]).mean, expected, rtol=5e-7)


def test_every_run_has_a_configuration_of_its_own():
    cells = experiment.PAPER + experiment.QUICK
    assert len({rows.digest(cell.config(seed)) for cell in cells for seed in range(3)}) == 3 * len(cells)
    assert experiment.Cell.of(json.loads(json.dumps(TINY.config(4)))) == TINY


# Statistics


def test_stages_are_bias_variance_and_mse_of_the_last_three_quarters():
    found = row()
    history = np.random.default_rng(0).normal(np.repeat(TINY.levels, TINY.every), 0.5)
    stages = statistics.stages([histories.Moments.from_json(found.results["smile_1"])], statistics.protocol([found]))
    for level, mi in enumerate(TINY.levels):
        kept = history[level * 80 + 20 : (level + 1) * 80]
        assert stages.bias[0, level] == pytest.approx(kept.mean() - mi, abs=1e-6)
        assert stages.variance[0, level] == pytest.approx(kept.var(), rel=1e-5)
        assert stages.mse[0, level] == pytest.approx(((kept - mi) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("sick", [np.full(400, np.nan), None])  # None: parameters lost at the last update alone
def test_a_diverged_seed_is_named_and_not_averaged_in(sick):
    found = [row(seed=0), row(seed=1, diverged=True, history=sick)]
    table = "\n".join(page.table_2(page.Results(found)))
    assert "1 of 2" in table
    assert "gaussian, separable 1x16, seed 1: " in table
    assert "(parameters diverged)" in table
    alone = "\n".join(page.table_2(page.Results(found[:1])))
    assert table.replace("1 of 2", "1 of 1").split("## Runs")[0] == alone.split("## Runs")[0]
    assert "nan" not in table


def test_rows_of_two_protocols_do_not_share_a_table():
    with pytest.raises(ValueError, match="the rows mix protocols"):
        statistics.protocol([row(), row(experiment.Cell(every=160), history=np.zeros(800))])
    with pytest.raises(ValueError, match="there are no rows to draw"):
        statistics.protocol([])


def test_the_papers_table_is_complete_and_its_mse_is_no_sum():
    for task in paper.TABLE_2.values():
        assert list(task) == ["cpc", "nwj", "smile_1", "smile_5", "smile_10", "smile_inf"]
        for columns in task.values():
            assert set(columns) == {"bias", "variance", "mse"}
            assert all(len(numbers) == len(paper.LEVELS) for numbers in columns.values())
    nwj = paper.TABLE_2["gaussian"]["nwj"]
    assert nwj["bias"][-1] ** 2 + nwj["variance"][-1] == pytest.approx(107.8, abs=0.1)
    assert nwj["mse"][-1] == 28.43


# Agreement with the paper


def test_agreement_is_a_t_statistic():
    ours = np.array([-0.24, -0.26, -0.31])
    compared = agreement.compare("bias", "cpc", 2.0, ours, 0.25)
    expected = (0.27 - 0.25) / np.sqrt(np.var(ours, ddof=1) * 4 / 3 + 1e-4 / 12)
    assert compared.t == pytest.approx(expected, rel=1e-9)
    assert compared.p_value == pytest.approx(2 * stats.t.sf(expected, 2), rel=1e-9)
    assert compared.ours == pytest.approx(0.27)
    logs = np.log([50.0, 200.0, 90.0])
    heavy = agreement.compare("variance", "nwj", 10.0, np.exp(logs), 99.0)
    error = np.sqrt(logs.var(ddof=1) * 4 / 3 + (0.01 / 99.0) ** 2 / 12)
    assert heavy.t == pytest.approx((logs.mean() - np.log(99.0)) / error, rel=1e-9)


@pytest.mark.parametrize(("seeds", "spread", "least"), [(2, 0.1, 0.05), (10, 0.1, 0.05), (10, 0.003, 0.0)])
def test_one_more_seed_is_far_as_often_as_chance_says(seeds, spread, least):
    """5 % of the time, within three standard errors over 4,000 draws; more rarely where rounding is most of the error."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(rng.uniform(1, 2, (4_000, 1)), spread, (4_000, seeds + 1))
    compared = [agreement.compare("bias", "cpc", 2.0, row[1:], round(row[0], 2)) for row in drawn]
    far = np.mean([each.p_value < agreement.FAR for each in compared])
    reach = 3 * np.sqrt(0.05 * 0.95 / 4_000)
    assert least - reach < far < 0.05 + reach


def test_the_page_counts_and_names_the_cells_that_are_far():
    """Histories with the printed moments agree in every cell; a shifted one is far, and named."""
    printed = paper.TABLE_2["gaussian"]["smile_5"]
    rng = np.random.default_rng(0)

    def histories_of(seed, shift):
        noise = rng.normal(0, 1, (5, 400))
        noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, keepdims=True)
        bias = np.array(printed["bias"]) + 0.01 * rng.normal(size=5) + shift
        return (np.array(paper.LEVELS) + bias)[:, None] + noise * np.sqrt(printed["variance"])[:, None]

    cell = experiment.Cell(critic="joint", hidden=(16, 16), every=400)
    reports = []
    for shift in (np.zeros(5), np.array([0, 0, 0, 0, 1.0])):
        found = []
        for seed in range(4):
            results = {"smile_5": histories.moments(histories_of(seed, shift).reshape(-1), 5).to_json()}
            found.append(row(cell, seed)._replace(results=results))
        curves = {setting: statistics.curves(found, setting) for setting in statistics.settings(found)}
        reports.append("\n".join(agreement.report(curves, statistics.protocol(found))))
    assert "No cell is beyond the 99.9 % point." in reports[0]
    assert "SMILE (τ = 5), |bias| at MI 10: ours 1.8" in reports[1]
    line = next(line for line in reports[1].splitlines() if line.startswith("| bias "))
    assert [cell.strip().startswith("**") for cell in line.split("|")[3:-1]] == [False] * 4 + [True]
    assert agreement.report({}, statistics.protocol([row()])) == []


# The command, end to end


def run(tmp_path, *more):
    command.main(["--out", str(tmp_path), "--every", "80", "--seeds", "2", "--tasks", "gaussian", *more])


def test_the_command_runs_what_is_missing_and_draws(tmp_path, capsys, small_preset):
    run(tmp_path, "--objectives", "infonce")
    first = capsys.readouterr().out
    assert "2 runs to do, 0 rows on disk; predicted" in first
    written = sorted((tmp_path / "rows").iterdir())
    assert len(written) == 2
    before = [path.read_bytes() for path in written]

    # Generative cells run beside critics, with figures and a table of their own.
    run(tmp_path, "--objectives", "infonce", "ba")
    second = capsys.readouterr().out
    assert "2 runs to do, 2 rows on disk" in second
    assert "gaussian realnvp 1x4 ba" in second
    assert [path.read_bytes() for path in written] == before

    drawn = {path.name for path in tmp_path.iterdir()}
    assert {"figure1-2x8.png", "figure1-2x8.svg", "figure7-separable-2x8.png", "figure7-realnvp-1x4.svg"} <= drawn
    assert "figure1-1x4.png" not in drawn
    table = (tmp_path / "table2.md").read_text()
    assert "## Gaussian, separable critic, 2x8" in table
    assert "## Gaussian, RealNVP, 1x4" in table
    assert "| BA (flow, p(x) known)" in table
    assert "2 of 2" in table
    assert table.count("| dρ²/n, n exact log ratios |") == 2

    content = json.loads(written[0].read_text())
    assert content["config"]["key"] == "fold_in(key(0), 0)"
    for name in ("versions", "devices", "threads", "commit", "platform"):
        assert content["environment"][name]
    assert content["seconds"]["compile"] > 0
    assert content["seconds"]["run"] > 0

    (tmp_path / "table2.md").unlink()
    run(tmp_path, "--page-only")
    assert "figure1-2x8.png" in capsys.readouterr().out
    assert (tmp_path / "table2.md").read_text() == table


@pytest.mark.slow
def test_the_quick_preset_tells_the_papers_story(tmp_path):
    """At the last stage CPC is at or below log 64, and NWJ varies over 3 times as much as SMILE (τ = 1)."""
    cells = [cell for cell in experiment.QUICK if cell.task == "gaussian" and cell.objective not in ("mine", "gm")]
    runner.run_missing(experiment.experiment(cells, 2), tmp_path)
    found = rows.read_all(tmp_path, "gaussian")
    curves = statistics.curves(found, statistics.Setting("gaussian", "separable", (256, 256)))
    last = {name: statistics.stages(statistics.finite(runs), statistics.protocol(found)) for name, runs in curves.items()}
    for curve in curves["cpc"]:
        assert curve.history.mean[-experiment.BLOCKS :].max() <= np.log(64)
    assert last["nwj"].variance[:, -1].mean() > 3 * last["smile_1"].variance[:, -1].mean()


def test_the_floor_is_the_variance_of_a_mean_of_exact_log_ratios():
    floor = statistics.protocol_of(experiment.Cell().config(0)).floor()
    np.testing.assert_allclose(floor, [0.057, 0.103, 0.141, 0.172, 0.198], atol=5e-4)  # docs/statistics.md, d = 20, n = 64


@pytest.mark.parametrize("name", ["ba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gm", "doe"))])
def test_every_generative_objective_starts_at_zero_and_is_named_after_itself(name):
    x, y = experiment.TASKS["gaussian"](20, 2.0).sample(jax.random.key(0), 64)
    model = experiment.GENERATIVE[name]((7, 7))

    @jax.jit
    def start(key):
        params = model.init(key, x, y)
        return params, model.loss(params, (), x, y)

    params, (_, (_, nats)) = start(jax.random.key(1))
    assert list(nats) == [name]
    assert nats[name] == pytest.approx(0.0, abs=1e-4)
    assert {leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim == 2} >= {7}


@pytest.mark.parametrize("task", experiment.TASKS)
def test_the_task_is_traced_and_its_batches_are_the_tasks_own(task, monkeypatch):
    """One trainer serves both tasks. Its batches are samples of the task at the step's level, up to rounding."""
    drawn = []
    monkeypatch.setattr(experiment.training, "trainer", lambda model, batch, optimizer: drawn.append(batch))
    cell = experiment.Cell(task=task, every=80)
    cell.trainer(cell.settings)
    key = jax.random.key(3)
    x, y = jax.jit(drawn[0])(key, 100)
    for ours, theirs in zip((x, y), jax.jit(lambda: experiment.TASKS[task](20, 4.0).sample(key, 64))(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_paper_preset_holds_everything_on_both_tasks():
    held = {(cell.task, cell.objective) for cell in experiment.PAPER}
    assert held == {(task, objective) for task in ("gaussian", "cubic") for objective in experiment.OBJECTIVES}
    costs = {experiment._kind(cell) for cell in experiment.PAPER if cell.critic == statistics.FLOW}
    assert len(costs) == 3
    for wrong in ({"objective": "gm"}, {"critic": "realnvp"}):
        with pytest.raises(ValueError, match="generative objectives, and they alone, go with realnvp"):
            experiment.Cell(**wrong)


def test_the_products_of_a_step_are_counted():
    joint = experiment.Cell(hidden=(256, 256)).products()
    assert joint == 3 * 2 * (64 * 40 * 256 + 64**2 * (256 * 256 + 256))
    ba = experiment.Cell(critic="realnvp", hidden=(100, 100), objective="ba").products()
    kept, moved, context = 10, 10, 20
    assert ba == 3 * 2 * 64 * 5 * ((kept + context) * 100 + 100 * 100 + 100 * 2 * moved)


def test_cells_over_the_limit_are_skipped_and_listed(tmp_path, capsys):
    write(tmp_path / "rows", row(experiment.Cell(critic="separable", every=80)))
    run(tmp_path, "--limit", "1e-6", "--objectives", "infonce")
    out = capsys.readouterr().out
    assert "0 runs to do, 1 rows on disk" in out
    assert "skipped, over the limit: gaussian separable 2x256 infonce, predicted" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: --out"),
        (["--preset", "slow"], "invalid choice: 'slow'"),
        (["--seeds", "0"], "expected a whole number of at least 1, got 0"),
        (["--seeds", "two"], "expected a whole number of at least 1, got two"),
        (["--every", "100"], "expected a multiple of 80, got 100"),
        (["--limit", "0"], "expected a number above 0, got 0"),
        (["--limit", "nan"], "expected a number above 0, got nan"),
        (["--critics", "bilinear"], "invalid choice: 'bilinear'"),
        (["--critics", "joint"], "no cell of preset quick is selected; it has gaussian separable 2x256 infonce"),
    ],
)
def test_bad_options(options, message, tmp_path, stopped):
    code, line = stopped(command.main, options and [*options, "--out", tmp_path])
    assert code == 2
    assert "error:" in line
    assert message in line


def test_bad_folders_are_told_before_anything_is_trained(tmp_path, stopped, monkeypatch):
    monkeypatch.setattr(experiment, "_run", lambda *_: pytest.fail("it trained"))

    def fails(folder, *more):
        code, line = stopped(command.main, ["--out", folder, "--every", "80", *more])
        assert code == 2
        return line

    (tmp_path / "file").write_text("")
    assert "error:" in fails(tmp_path / "file")
    write(tmp_path / "other" / "rows", row(experiment.Cell(every=160), history=np.zeros(800)))
    assert "--out has rows of another protocol; use another --out" in fails(tmp_path / "other")
    (tmp_path / "damaged" / "rows").mkdir(parents=True)
    (tmp_path / "damaged" / "rows" / "a.json").write_text("{")
    assert "a.json is not a result row" in fails(tmp_path / "damaged")
    assert "has no folder of rows" in fails(tmp_path / "nowhere", "--page-only")


def test_an_interrupt_says_how_to_go_on(tmp_path, stopped, monkeypatch, small_preset):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "_run", interrupted)
    code, line = stopped(command.main, ["--out", tmp_path, "--every", "80", "--objectives", "infonce"])
    assert code == 130
    assert "the same command goes on" in line
