"""The law of variance: the sampler against theory and the library's own bounds, moments, parts on disk, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import machine, moments, variance
from mi_jax import bounds, tasks, theory

TINY = variance.Cell("independent", 8, dim=3, mis=(0.5, 2.0), taus=(1.0,))
BATCH = variance.Cell("off_diagonal", 16, dim=20, mis=(0.5, 4.0), taus=(1.0, 5.0))


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


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_independent_pairs_have_the_law_of_the_task(dim):
    """Means of the clipped ratio and of log r*, against closed forms; an odd d has its chi-squares too."""
    cell = variance.Cell("independent", 64, dim, mis=(0.5, 2.0), taus=(1.0, 5.0))
    made = variance.merged([variance.draw_chunks(cell, 0, 4)])
    for place, mi in enumerate(cell.mis):
        for tau in cell.taus:
            clipped, exact = made[f"clipped_{tau:g}"], theory.gaussian_clipped_moments(tau, mi, dim)
            assert abs(clipped.mean[place] - exact.mean) < 4 * clipped.mean_error[place]
            assert abs(64 * clipped.variance[place] - exact.variance) < 4 * 64 * clipped.variance_error[place]
    joint = moments.of(made["nwj"].mean[None] + made["partition"].mean[None] - 1.0).mean
    error = np.sqrt(theory.gaussian_log_ratio_variance(np.array(cell.mis), dim) / (64 * made["nwj"].size))
    assert (np.abs(joint - np.array(cell.mis)) < 4 * error).all()


def test_partition_variance_lies_on_its_law_in_both_designs():
    for cell in (variance.Cell("independent", 64, mis=(0.5,)), variance.Cell("off_diagonal", 64, mis=(0.5,))):
        partition = variance.merged([variance.draw_chunks(cell, 0, 6)])["partition"]
        law = theory.gaussian_partition_variance(0.5, 20, 64, pairs=cell.pairs)
        assert 4 * partition.variance_error[0] < 0.35 * law
        assert abs(partition.variance[0] - law) < 4 * partition.variance_error[0]


def test_an_off_diagonal_replicate_is_the_bounds_on_the_tasks_own_scores():
    key = jax.random.key(3)
    made = variance.quantities(BATCH, jax.tree.map(lambda leaf: np.asarray(leaf)[None], BATCH.replicate(key)))
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
    together = variance.draw_chunks(TINY, 0, 3)
    alone = variance.draw_chunks(TINY, 2, 3)
    assert len(together.chunks) == 3
    assert len(alone.chunks) == 1
    for name, expected in alone.chunks[0].items():
        for ours, theirs in zip(together.chunks[2][name], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# Parts on disk


def test_more_replicates_are_added_and_change_no_bit(tmp_path):
    size = TINY.chunk
    variance.run_missing({TINY: size}, tmp_path / "grown")
    first = {path: path.read_bytes() for path in (tmp_path / "grown").iterdir()}
    variance.run_missing({TINY: 3 * size}, tmp_path / "grown")
    variance.run_missing({TINY: 2 * size}, tmp_path / "grown")  # nothing is missing
    variance.run_missing({TINY: 3 * size}, tmp_path / "once")
    assert len(list((tmp_path / "grown").iterdir())) == 2
    assert all(path.read_bytes() == content for path, content in first.items())
    grown, once = (
        variance.merged(variance.read(part.path) for part in variance.read_all(tmp_path / name)[TINY])
        for name in ("grown", "once")
    )
    for name, expected in once.items():
        for ours, theirs in zip(grown[name], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_missing_and_damaged_parts_are_refused(tmp_path):
    part = variance.draw_chunks(TINY, 0, 1)
    path = variance.write(tmp_path, part)
    assert variance.read(path).cell == TINY
    variance.write(tmp_path, part._replace(start=2))
    with pytest.raises(ValueError, match="misses chunks of independent-n8-d3, or has some twice"):
        variance.read_all(tmp_path)
    for content in ("", "[]", '{"schema": 0}', path.read_text().replace('"n": 8', '"n": 9')):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not a part of this benchmark"):
            variance.read(path)


def test_cells_over_the_limit_are_skipped_and_listed(tmp_path, capsys):
    variance.run_missing({TINY: 1, variance.Cell("independent", 65_536): 10_000}, tmp_path, limit=1e-3)
    assert "skipped, over the limit: independent-n65536-d20, predicted" in capsys.readouterr().out


# The command, end to end


def test_the_command_draws_what_is_missing_and_the_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)
    cells = {variance.Cell("independent", 64): 1_000, variance.Cell("off_diagonal", 64): 1_000}
    monkeypatch.setitem(variance.PRESETS, "quick", cells)
    variance.main(["--out", str(tmp_path)])
    first = capsys.readouterr().out
    assert "independent-n64-d20: 1000 replicates" in first
    assert (tmp_path / "variance.png").stat().st_size > 10_000
    table = (tmp_path / "variance.md").read_text()
    assert "## With n independent pairs from Q, n = 64, 1000 replicates" in table
    assert "(tail not in reach)" in table
    assert "infonce: bias" in table
    variance.main(["--out", str(tmp_path), "--replicates", "1500"])
    assert "n = 64, 2000 replicates" in (tmp_path / "variance.md").read_text()
    variance.main(["--out", str(tmp_path)])
    assert "compiled in" not in capsys.readouterr().out.split("variance.md")[-2]


def test_intervals_hold_the_law_as_often_as_they_say(tmp_path, capsys, monkeypatch):
    """100 repeats of 1,000 replicates at n = 64: at 95 % the share has a standard error of 2.2 %."""
    share = variance.coverage(variance.Cell("independent", 64, mis=(0.1, 0.5), taus=()), 100)
    assert ((share > 0.87) & (share <= 1.0)).all()
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)
    monkeypatch.setitem(variance.PRESETS, "quick", {variance.Cell("independent", n): 1 for n in (8, 65_536)})
    variance.main(["--out", str(tmp_path), "--coverage", "4", "--limit", "0.05"])
    assert "skipped, over the limit: coverage at n = 65536" in capsys.readouterr().out
    assert "| 8   | 1000" in (tmp_path / "coverage.md").read_text()


def test_results_know_where_the_tail_is_seen_and_intervals_mean_something(tmp_path):
    variance.write(tmp_path, variance.draw_chunks(variance.Cell("independent", 64), 0, 1))
    (result,) = variance.results(tmp_path)
    assert result.replicates == 1_000
    # 64,000 pairs; nine tenths of the tail take 119 at MI 0.5, 4.0e3 at 1 and 4.5e6 at 2; ρ = 1/3 at MI 1.18.
    np.testing.assert_array_equal(result.seen, [True, True, False, False, False, False, False, False])
    np.testing.assert_array_equal(result.with_interval, [True, True, False, False, False, False, False, False])
    assert jnp.allclose(result.law, np.expm1(2 * np.array(result.mis)) / 64)
