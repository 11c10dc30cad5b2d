import json

import jax
import numpy as np
import pytest

from benchmarks import figures, gaussian, machine, paper, rows, steps, summary
from mi_jax import estimators, models, networks

TINY = gaussian.Cell(critic="separable", hidden=(16,), every=80, objective="logistic")
# Networks and batches so small that compiling and training a cell takes a second or two.
SMALL = [
    *(gaussian.Cell(critic="separable", hidden=(8, 8), batch=16, objective=name) for name in ("infonce", "nwj")),
    gaussian.Cell(critic=summary.FLOW, hidden=(4,), batch=16, objective="ba"),
]


@pytest.fixture(autouse=True)
def _devices_as_they_are(monkeypatch):
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)  # the tests have their devices already


@pytest.fixture
def small_preset(monkeypatch):
    monkeypatch.setitem(gaussian.PRESETS, "quick", (SMALL, 2))


def row(cell=TINY, seed=0, diverged=False, history=None):
    config = cell.config(seed)
    if history is None:
        history = np.random.default_rng(seed).normal(np.repeat(cell.levels, cell.every), 0.5)
    environment = {
        "machine": "any", "platform": "cpu", "device_kind": "cpu", "devices": 2, "threads": 2, "xla_flags": "",
        "python": "3", "versions": {"jax": "0", "flax": "0", "optax": "0"}, "commit": "0",
    }  # fmt: skip
    return rows.Row(config, environment, diverged, 1.0, 2.0, {"smile_1": rows.moments(history, 4)})


# Rows


def test_block_moments_give_any_windows_exact_mean_and_variance():
    history = np.random.default_rng(0).normal(3.0, 2.0, 400)
    moments = rows.moments(history, 10)
    for start, stop in ((0, 400), (30, 40), (100, 250)):
        mean, variance = moments.window(start, stop)
        assert mean == pytest.approx(history[start:stop].mean(), rel=1e-12)
        assert variance == pytest.approx(history[start:stop].var(), rel=1e-12)
    with pytest.raises(ValueError, match="start and stop must be multiples of the block, 10, got 5 and 20"):
        moments.window(5, 20)


def test_a_row_survives_the_disk(tmp_path):
    history = np.linspace(0, 1, 400)
    history[13] = -np.inf
    written = row(history=history)
    again = rows.read(rows.write(tmp_path, written))
    assert again.config == json.loads(json.dumps(written.config))
    np.testing.assert_allclose(
        again.read_outs["smile_1"].mean, rows.moments(np.where(history < 0, np.nan, history), 4).mean, rtol=5e-7
    )
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_row_is_never_rewritten(tmp_path):
    path = rows.write(tmp_path, row())
    before = path.read_text()
    rows.write(tmp_path, row(diverged=True))
    assert path.read_text() == before


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"schema": 0}', '{"schema": 1, "read_outs": {}}', '{"schema": 1, "read_outs": {}, "config": {}}'],
)
def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "foreign.json").write_text(content)
    with pytest.raises(ValueError, match=r"foreign.json is not a result row of this benchmark"):
        list(rows.read_all(tmp_path))


def test_every_run_has_its_own_identity():
    cells = gaussian.PAPER + gaussian.QUICK
    identities = {rows.identity(cell.config(seed)) for cell in cells for seed in range(3)}
    assert len(identities) == 3 * len(cells)
    assert gaussian.Cell.of(TINY.config(4)) == TINY


# Statistics


def test_stages_are_bias_variance_and_mse_of_the_last_three_quarters():
    found = row()
    history = np.random.default_rng(0).normal(np.repeat(TINY.levels, TINY.every), 0.5)
    stages = summary.stages([found.read_outs["smile_1"]], summary.protocol([found]))
    for level, mi in enumerate(TINY.levels):
        kept = history[level * 80 + 20 : (level + 1) * 80]
        assert stages.bias[0, level] == pytest.approx(kept.mean() - mi)
        assert stages.variance[0, level] == pytest.approx(kept.var())
        assert stages.mse[0, level] == pytest.approx(((kept - mi) ** 2).mean())


@pytest.mark.parametrize("sick", [np.full(400, np.nan), None])  # None: parameters lost at the last update alone
def test_a_diverged_seed_is_named_and_not_averaged_in(sick):
    found = [row(seed=0), row(seed=1, diverged=True, history=sick)]
    table = figures.table_2(found, summary.protocol(found))
    assert "1 of 2" in table
    assert "gaussian, separable 1x16, seed 1: " in table
    assert "(parameters diverged)" in table
    alone = figures.table_2(found[:1], summary.protocol(found))
    assert table.replace("1 of 2", "1 of 1").split("## Runs")[0] == alone.split("## Runs")[0]
    assert "nan" not in table


def test_rows_of_two_protocols_do_not_share_a_table():
    with pytest.raises(ValueError, match="the rows mix protocols"):
        summary.protocol([row(), row(gaussian.Cell(every=160), history=np.zeros(800))])
    with pytest.raises(ValueError, match="there are no rows to draw"):
        summary.protocol([])


def test_the_papers_table_is_complete_and_its_mse_is_no_sum():
    for task in paper.TABLE_2.values():
        assert list(task) == ["cpc", "nwj", "smile_1", "smile_5", "smile_10", "smile_inf"]
        for statistics in task.values():
            assert set(statistics) == {"bias", "variance", "mse"}
            assert all(len(numbers) == len(paper.LEVELS) for numbers in statistics.values())
    nwj = paper.TABLE_2["gaussian"]["nwj"]
    assert nwj["bias"][-1] ** 2 + nwj["variance"][-1] == pytest.approx(107.8, abs=0.1)
    assert nwj["mse"][-1] == 28.43


# The command, end to end


def run(tmp_path, *more):
    gaussian.main(["--out", str(tmp_path), "--every", "80", "--seeds", "2", "--tasks", "gaussian", *more])


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
    assert {"figure1-2x8.png", "figure7-separable-2x8.png", "figure7-realnvp-1x4.png"} <= drawn
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
    assert content["compile_seconds"] > 0
    assert content["run_seconds"] > 0

    (tmp_path / "table2.md").unlink()
    figures.main([str(tmp_path)])
    assert "figure1-2x8.png" in capsys.readouterr().out
    assert (tmp_path / "table2.md").read_text() == table


@pytest.mark.slow
def test_the_quick_preset_tells_the_papers_story(tmp_path):
    """At the last stage CPC is at or below log 64, and NWJ varies over 3 times as much as SMILE (τ = 1)."""
    cells = [cell for cell in gaussian.QUICK if cell.task == "gaussian" and cell.objective not in ("mine", "gm")]
    gaussian.run_missing(cells, 2, tmp_path)
    found = list(rows.read_all(tmp_path))
    curves = summary.curves(found, summary.Setting("gaussian", "separable", (256, 256)))
    last = {name: summary.stages(summary.finite(runs), summary.protocol(found)) for name, runs in curves.items()}
    for curve in curves["cpc"]:
        assert curve.history.mean[-gaussian.BLOCKS :].max() <= np.log(64)
    assert last["nwj"].variance[:, -1].mean() > 3 * last["smile_1"].variance[:, -1].mean()


def test_the_floor_is_the_variance_of_a_mean_of_exact_log_ratios():
    floor = summary.protocol_of(gaussian.Cell().config(0)).floor()
    np.testing.assert_allclose(floor, [0.057, 0.103, 0.141, 0.172, 0.198], atol=5e-4)  # docs/statistics.md, d = 20, n = 64


@pytest.mark.parametrize("name", ["ba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gm", "doe"))])
def test_every_generative_objective_starts_at_zero_and_is_named_after_itself(name):
    x, y = gaussian.TASKS["gaussian"](20, 2.0).sample(jax.random.key(0), 64)
    model = gaussian.GENERATIVE[name]((7, 7))

    @jax.jit
    def start(key):
        params = model.init(key, x, y)
        return params, model.loss(params, (), x, y)

    params, (_, (_, nats)) = start(jax.random.key(1))
    assert list(nats) == [name]
    assert nats[name] == pytest.approx(0.0, abs=1e-4)
    assert {leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim == 2} >= {7}


def test_the_paper_preset_holds_everything_on_both_tasks():
    held = {(cell.task, cell.objective) for cell in gaussian.PAPER}
    assert held == {(task, objective) for task in ("gaussian", "cubic") for objective in gaussian.OBJECTIVES}
    costs = {gaussian._Cost._kind(cell) for cell in gaussian.PAPER if cell.critic == summary.FLOW}
    assert len(costs) == 3
    for wrong in ({"objective": "gm"}, {"critic": "realnvp"}):
        with pytest.raises(ValueError, match="generative objectives, and they alone, go with realnvp"):
            gaussian.Cell(**wrong)


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


def test_the_products_of_a_step_are_counted():
    joint = gaussian.Cell(hidden=(256, 256)).products()
    assert joint == 3 * 2 * (64 * 40 * 256 + 64**2 * (256 * 256 + 256))
    ba = gaussian.Cell(critic="realnvp", hidden=(100, 100), objective="ba").products()
    kept, moved, context = 10, 10, 20
    assert ba == 3 * 2 * 64 * 5 * ((kept + context) * 100 + 100 * 100 + 100 * 2 * moved)


def test_cells_over_the_limit_are_skipped_and_listed(tmp_path, capsys):
    rows.write(tmp_path / "rows", row(gaussian.Cell(critic="separable", every=80)))
    run(tmp_path, "--limit", "1e-6", "--objectives", "infonce")
    out = capsys.readouterr().out
    assert "0 runs to do, 1 rows on disk" in out
    assert "skipped, over the limit: gaussian separable 2x256 infonce, predicted" in out


def test_rows_of_another_machine_are_told(tmp_path, capsys):
    rows.write(tmp_path / "rows", row(gaussian.Cell(critic="separable", every=80)))
    run(tmp_path, "--limit", "1e-6")
    assert "warning: 1 of 1 rows on disk come from another machine or version" in capsys.readouterr().err


def stopped(call, capsys):
    """The exit code and the last line of what a command says that stops."""
    with pytest.raises(SystemExit) as stop:
        call()
    return stop.value.code, capsys.readouterr().err.strip().split("\n")[-1]


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
def test_bad_options(options, message, tmp_path, capsys):
    code, line = stopped(lambda: gaussian.main(options and [*options, "--out", str(tmp_path)]), capsys)
    assert code == 2
    assert "error:" in line
    assert message in line


def test_bad_folders_are_told_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gaussian, "_run_cell", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("")
    assert stopped(lambda: run(tmp_path / "file"), capsys)[0] == 2
    rows.write(tmp_path / "other" / "rows", row(gaussian.Cell(every=160), history=np.zeros(800)))
    code, line = stopped(lambda: run(tmp_path / "other"), capsys)
    assert code == 2
    assert "has rows of another protocol; use another --out" in line
    (tmp_path / "damaged" / "rows").mkdir(parents=True)
    (tmp_path / "damaged" / "rows" / "a.json").write_text("{")
    assert "a.json is not a result row" in stopped(lambda: run(tmp_path / "damaged"), capsys)[1]
    assert "has no folder of rows" in stopped(lambda: figures.main([str(tmp_path / "nowhere")]), capsys)[1]


def test_an_interrupt_says_how_to_go_on(tmp_path, capsys, monkeypatch):

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gaussian, "_run_cell", interrupted)
    code, line = stopped(lambda: run(tmp_path), capsys)
    assert code == 130
    assert "the same command goes on" in line


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (180, "3 min"), (9_000, "2.5 h")])
def test_durations(seconds, text):
    assert machine.duration(seconds) == text
