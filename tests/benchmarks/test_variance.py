"""The law of variance: the sampler against theory and the library's own bounds, moments, rows on disk, and the command."""

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks.lib import machine, rows, runner
from benchmarks.variance import __main__ as command
from benchmarks.variance import cells, coverage, experiment, moments, results
from benchmarks.variance.cells import Cell
from mi_jax import bounds, tasks, theory

# Compiling a cell takes seconds and drawing it does not, so all tests share one cell of each design.
INDEPENDENT = Cell("independent", 16, mis=(0.5, 2.0, 10.0), taus=(1.0, 5.0))
BATCH = Cell("off_diagonal", 16, mis=(0.5, 2.0, 10.0), taus=(1.0, 5.0))


@pytest.fixture
def known_cost(monkeypatch):
    """A microsecond a pair, so that nothing is drawn to measure it."""
    for module in (experiment, coverage):
        monkeypatch.setattr(module, "seconds_a_pair", lambda cell, on_disk: 1e-6)


def run_missing(replicates, out, limit=float("inf")):
    runner.run_missing(experiment.experiment(replicates), out / "rows", limit)


def merged(cell, chunks):
    return results.Result.of(cell, experiment.draw_chunks(cell, 0, chunks)).moments


# Moments


def test_moments_merge_to_those_of_all_values():
    values = np.random.default_rng(0).gamma(0.5, size=(1_000, 3)) * 1e6
    whole, parts = moments.of(values), moments.merge(map(moments.of, np.split(values, [1, 7, 500])))
    for ours, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10)
    np.testing.assert_allclose(parts.variance, values.var(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(parts.mean_error, values.std(axis=0, ddof=1) / np.sqrt(1_000), rtol=1e-12)
    deviations = (values - values.mean(axis=0)) ** 2
    np.testing.assert_allclose(parts.variance_error, deviations.std(axis=0) / np.sqrt(1_000), rtol=1e-9)


# The sampler


def assert_laws_of_the_task(cell, chunks):
    made = merged(cell, chunks)
    for place, mi in enumerate(cell.mis):
        for tau in cell.taus:
            clipped, exact = made[f"clipped_{tau:g}"], theory.gaussian_clipped_moments(tau, mi, cell.dim)
            assert abs(clipped.mean[place] - exact.mean) < 4 * clipped.mean_error[place]
            assert abs(cell.n * clipped.variance[place] - exact.variance) < 4 * cell.n * clipped.variance_error[place]
    joint = moments.of(made["nwj"].mean[None] + made["partition"].mean[None] - 1.0).mean
    error = np.sqrt(theory.gaussian_log_ratio_variance(np.array(cell.mis), cell.dim) / (cell.n * made["nwj"].size))
    assert (np.abs(joint - np.array(cell.mis)) < 4 * error).all()


def test_independent_pairs_have_the_law_of_the_task():
    """Means of the clipped ratio and of log r*, against closed forms."""
    assert_laws_of_the_task(INDEPENDENT, chunks=4)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_independent_pairs_have_the_law_of_the_task_in_any_dimension(dim):
    assert_laws_of_the_task(Cell("independent", 64, dim, mis=(0.5, 2.0), taus=(1.0, 5.0)), chunks=4)


@pytest.mark.parametrize("dim", [1, 3, 4])
def test_chi_squares_of_odd_and_even_dimensions(dim):
    drawn = jax.jit(lambda key: cells._chi_square(key, (20_000,), dim))(jax.random.key(0))
    assert stats.kstest(np.asarray(drawn, np.float64), stats.chi2(dim).cdf).pvalue > 1e-3


def assert_partition_variance_on_its_law(cell):
    partition = merged(cell, 6)["partition"]
    law = theory.gaussian_partition_variance(0.5, cell.dim, cell.n, pairs=cell.pairs)
    assert 4 * partition.variance_error[0] < 0.35 * law
    assert abs(partition.variance[0] - law) < 4 * partition.variance_error[0]


@pytest.mark.parametrize("cell", [INDEPENDENT, BATCH], ids=lambda cell: cell.label)
def test_partition_variance_lies_on_its_law_in_both_designs(cell):
    assert_partition_variance_on_its_law(cell)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["independent", "off_diagonal"])
def test_partition_variance_lies_on_its_law_at_64_pairs(pairs):
    assert_partition_variance_on_its_law(Cell(pairs, 64, mis=(0.5,)))


def test_an_off_diagonal_replicate_is_the_bounds_on_the_tasks_own_scores():
    key = jax.random.key(3)
    made = cells.quantities(BATCH, jax.tree.map(lambda leaf: np.asarray(leaf)[None], jax.jit(BATCH.replicate)(key)))
    x, noise = jax.random.normal(key, (2, 16, 20))
    for place, mi in enumerate(BATCH.mis):
        y = tasks.mi_to_rho(mi, 20) * x + np.exp(-mi / 20) * noise
        scores = tasks.gaussian(20, mi).log_ratio(x[:, None], y[None, :])
        expected = {
            "dv": bounds.dv(scores),
            "nwj": bounds.nwj(scores + 1.0),
            "smile_1": bounds.smile(scores, 1.0),
            "smile_5": bounds.smile(scores, 5.0),
            "infonce": bounds.infonce(scores),
        }
        for name, value in expected.items():
            assert made[name][0, place] == pytest.approx(float(value), rel=1e-4, abs=1e-4)


def test_a_chunk_is_the_same_alone_and_among_others_on_two_devices():
    together = experiment.draw_chunks(INDEPENDENT, 0, 3)
    (alone,) = experiment.draw_chunks(INDEPENDENT, 2, 3)
    assert len(together) == 3
    for name, expected in alone.items():
        for ours, theirs in zip(together[2][name], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# Rows on disk


def test_more_replicates_are_added_and_change_no_bit(tmp_path, known_cost):
    size = INDEPENDENT.chunk
    run_missing({INDEPENDENT: size}, tmp_path / "grown")
    first = {path: path.read_bytes() for path in (tmp_path / "grown" / "rows").iterdir()}
    run_missing({INDEPENDENT: 3 * size}, tmp_path / "grown")
    run_missing({INDEPENDENT: 2 * size}, tmp_path / "grown")  # nothing is missing
    run_missing({INDEPENDENT: 3 * size}, tmp_path / "once")
    assert len(list((tmp_path / "grown" / "rows").iterdir())) == 2
    assert all(path.read_bytes() == content for path, content in first.items())
    (grown,), (once,) = (results.read(tmp_path / name / "rows") for name in ("grown", "once"))
    assert grown.replicates == 3 * size
    for name, expected in once.moments.items():
        for ours, theirs in zip(grown.moments[name], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def write(folder, cell, start, chunks):
    content = {"chunks": [experiment._to_json(chunk) for chunk in chunks]}
    config = {**cell.config(), "start": start, "stop": start + len(chunks)}
    row = rows.Row("variance", config, machine.environment(), 0, {"compile": 0.0, "run": 1.0}, content)
    return rows.write(folder, row, "a")


def test_missing_chunks_are_refused(tmp_path):
    chunks = experiment.draw_chunks(INDEPENDENT, 0, 1)
    write(tmp_path / "rows", INDEPENDENT, 0, chunks)
    (result,) = results.read(tmp_path / "rows")
    assert result.replicates == INDEPENDENT.chunk
    write(tmp_path / "rows", INDEPENDENT, 2, chunks)
    for call in (lambda: results.read(tmp_path / "rows"), lambda: run_missing({INDEPENDENT: 1}, tmp_path)):
        with pytest.raises(ValueError, match="misses chunks of independent-n16-d20, or has some twice"):
            call()


def test_cells_over_the_limit_are_skipped_and_listed(tmp_path, capsys, known_cost):
    run_missing({INDEPENDENT: 1, Cell("independent", 65_536): 10_000}, tmp_path, limit=0.06)
    assert "skipped, over the limit: independent-n65536-d20, predicted" in capsys.readouterr().out


def test_a_cost_is_that_of_the_nearest_n(tmp_path):
    chunks = experiment.draw_chunks(INDEPENDENT, 0, 1)
    write(tmp_path, INDEPENDENT, 0, chunks)
    write(tmp_path, Cell("independent", 1_024), 0, chunks)
    found = rows.read_all(tmp_path, "variance")
    pairs = INDEPENDENT.chunk * INDEPENDENT.pairs_a_replicate
    assert experiment.seconds_a_pair(Cell("independent", 64), found) == pytest.approx(1.0 / pairs)
    assert experiment.seconds_a_pair(Cell("independent", 4_096), found) == pytest.approx(1.0 / (1_000 * 1_024))


# The command, end to end


def test_the_command_draws_what_is_missing_and_the_figure(tmp_path, capsys, monkeypatch, known_cost):
    monkeypatch.setitem(experiment.PRESETS, "quick", {INDEPENDENT: 2_000, BATCH: 2_000})
    command.main(["--out", str(tmp_path)])
    first = capsys.readouterr().out
    assert "independent-n16-d20, chunks 0-1: 2000 replicates" in first
    assert (tmp_path / "variance.png").exists()
    table = (tmp_path / "variance.md").read_text()
    assert "## With n independent pairs from Q, n = 16, 2000 replicates" in table
    assert "(tail not in reach)" in table
    assert "infonce: bias" in table
    run_missing({INDEPENDENT: 3_500}, tmp_path)
    assert [result.replicates for result in results.read(tmp_path / "rows")] == [4_000, 2_000]
    capsys.readouterr()
    run_missing({INDEPENDENT: 4_000, BATCH: 2_000}, tmp_path)
    assert "0 runs to do, 3 rows on disk" in capsys.readouterr().out


def test_intervals_hold_the_law_as_often_as_they_say():
    """40 repeats of 1,000 replicates: at 95 % the share has a standard error of 3.4 %."""
    assert 0.95 - 4 * 0.034 < coverage.coverage(INDEPENDENT, 40)[0] <= 1.0


@pytest.mark.slow
def test_intervals_hold_the_law_at_64_pairs():
    """100 repeats of 1,000 replicates at n = 64: at 95 % the share has a standard error of 2.2 %."""
    share = coverage.coverage(Cell("independent", 64, mis=(0.1, 0.5), taus=()), 100)
    assert ((share > 0.87) & (share <= 1.0)).all()


def test_the_table_of_coverage_lists_what_it_skips(tmp_path, capsys, monkeypatch, known_cost):
    monkeypatch.setattr(coverage, "coverage", lambda cell, repeats: np.array([0.9, 0.95, 1.0]))
    monkeypatch.setitem(experiment.PRESETS, "quick", {Cell("independent", n): 1 for n in (8, 65_536)})
    command.main(["--out", str(tmp_path), "--coverage", "4", "--limit", "0.05"])
    assert "skipped, over the limit: coverage at n = 65536" in capsys.readouterr().out
    assert "| 8   | 1000         | 90.0%    | 95.0%     | 100.0%   |" in (tmp_path / "coverage.md").read_text()


def test_results_know_where_the_tail_is_seen_and_intervals_mean_something(tmp_path):
    cell = Cell("independent", 64)
    drawn = {"partition": moments.of(np.random.default_rng(0).gamma(1.0, size=(cell.chunk, len(cell.mis))))}
    write(tmp_path, cell, 0, [drawn])
    (result,) = results.read(tmp_path)
    assert result.replicates == 1_000
    # 64,000 pairs; nine tenths of the tail take 119 at MI 0.5, 4.0e3 at 1 and 4.5e6 at 2; ρ = 1/3 at MI 1.18.
    np.testing.assert_array_equal(result.seen, [True, True, False, False, False, False, False, False])
    np.testing.assert_array_equal(result.with_interval, [True, True, False, False, False, False, False, False])
    np.testing.assert_allclose(result.law, np.expm1(2 * np.array(result.mis)) / 64, rtol=1e-5)
