import functools

import jax
import numpy as np
import pytest

from mi_jax import models, networks, training
from mi_jax.estimation import cross_fitting, read_out
from tests import reference
from tests.estimation.test_cross_fitting import BILINEAR, KEYS, PARTS, TESTS, draw_rows, score_matrix
from tests.quick import N


@pytest.fixture(scope="module")
def rows():
    return draw_rows()


@pytest.fixture(scope="module")
def params():
    """A critic set by hand: these scores spread as far as those of a trained one."""
    return {"params": {"kernel": np.float32([[0.4, -0.6], [0.5, 0.2]])}}


def read_out_first(config, params, rows):
    """What the first seed reads out of its test rows."""
    inputs = training.Inputs(rows, cross_fitting._read_out_rows(PARTS[0], np.arange(N), None))
    return jax.jit(lambda params: read_out.read_out_fold(config, params, inputs))(params)


@pytest.mark.parametrize("name", ["infonce", "dv", "nwj"])
def test_other_estimators_read_out_their_own_bound(rows, params, name):
    held = read_out_first(BILINEAR._replace(estimator=name), params, rows)
    s, valid = (score_matrix(BILINEAR, params, rows, numbers) for numbers in (PARTS[0].test, PARTS[0].valid))
    log_z = np.log(np.exp(reference.product(s)).mean())
    # NWJ's critic learns log r + 1, so that of these scores 1 is taken.
    value, off = {
        "infonce": (reference.infonce(s), 0.0),
        "dv": (reference.dv(s), log_z - np.log(np.exp(reference.product(valid)).mean())),
        "nwj": (reference.nwj(s), log_z - 1),
    }[name]
    np.testing.assert_allclose(held.value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held.log_normaliser, off, rtol=1e-4, atol=1e-5)
    for leaf in (held.tau, held.clipped_joint, held.clipped_pairs):
        assert np.isnan(leaf)


def test_more_test_rows_than_the_budget_are_read_out_in_groups(rows, params, monkeypatch):
    """And clipped where the validation rows say, whose critic is too weak here for the least tau."""
    monkeypatch.setattr(read_out, "LEAST_TAU", 0.1)
    held = read_out_first(BILINEAR._replace(max_pairs=TESTS * 100), params, rows)
    tau = np.quantile(np.diagonal(score_matrix(BILINEAR, params, rows, PARTS[0].valid)), 0.95)
    matrices = [score_matrix(BILINEAR, params, rows, group) for group in PARTS[0].test.reshape(-1, 100)]
    log_z = np.log(np.exp(np.clip(np.concatenate([reference.product(s) for s in matrices]), -tau, tau)).mean())
    np.testing.assert_allclose(held.tau, tau, rtol=1e-4)
    np.testing.assert_allclose(held.value, np.mean([reference.joint(s) for s in matrices]) - log_z, rtol=1e-4)
    np.testing.assert_allclose(held.log_normaliser, log_z, rtol=1e-4, atol=1e-5)
    assert held.clipped_pairs > 0.01
    assert (float(held.group), float(held.pairs)) == (100, TESTS * 99)


def test_the_sums_of_permuted_pairs(rows, params):
    """Those of the whole matrix; padding adds nothing."""
    test, rng = PARTS[0].test, np.random.default_rng(0)
    orders = np.stack([np.arange(test.size), *(rng.permutation(test.size) for _ in range(7))]).astype(np.int32)
    matrix = score_matrix(BILINEAR, params, rows, test)
    expected = [matrix[np.arange(test.size), order].sum() for order in orders]
    pairs = read_out.Pairs(test.astype(np.int32), test.astype(np.int32))
    compute = jax.jit(lambda rows, given: read_out.sum_permuted(BILINEAR, params, training.Inputs(rows, given)))
    run = functools.partial(compute, rows)
    np.testing.assert_allclose(run(read_out.PermutedRows(pairs, orders)), expected, rtol=1e-4, atol=1e-3)
    pad = lambda numbers: np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, 3)], mode="edge")  # noqa: E731
    padded = read_out.Pairs(pad(pairs.x_rows), pad(pairs.y_rows), np.int32(test.size))
    np.testing.assert_allclose(run(read_out.PermutedRows(padded, pad(orders))), expected, rtol=1e-4, atol=1e-3)


def test_a_padded_quantile_is_that_of_the_rows():
    """Also where a row has none: NaN is seen."""
    values = np.random.default_rng(0).standard_normal(20).astype(np.float32)
    quantile, weights = jax.jit(read_out._quantile), np.float32(np.arange(20) < 13)
    for padding in (np.nan, 1e30, -np.inf):
        values[13:] = padding
        np.testing.assert_allclose(quantile(values, weights), np.quantile(values[:13], 0.95), rtol=1e-6)
    values[3] = np.nan
    assert np.isnan(quantile(values, weights))


@pytest.fixture
def small_gm(monkeypatch):
    """Three small flows in the place of those of "gm"."""
    small = {"layers": 1, "hidden": (4,)}
    model = models.gm(networks.JointRealNVP(**small), networks.RealNVP(**small), networks.RealNVP(**small))
    monkeypatch.setattr(models, "make", lambda name: model)
    return model


GM = BILINEAR._replace(estimator="gm", critic=None, sub_batch=64, rounds=2)


def check_densities_are_read_out(model, params, held, rows):
    """The mean log ratio of the first seed's test rows, and of shifted ones its normaliser, in float64."""
    x, y = (part[PARTS[0].test] for part in rows[:2])
    log_ratio = jax.jit(model.log_ratio)
    values = np.float64(log_ratio(params, x, y))
    np.testing.assert_allclose(held.value, values.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held.influence, values - values.mean(), rtol=1e-3, atol=1e-4)
    ratio = np.exp(np.float64(log_ratio(params, x, np.roll(y, -1, axis=0))))
    np.testing.assert_allclose(held.log_normaliser, np.log(ratio.mean()), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(held.effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-3)
    assert (float(held.pairs), held.others) == (TESTS, {})
    assert np.isnan([held.tau, held.clipped_joint, held.clipped_pairs, held.group]).all()


def test_generative_models_read_out_their_mean_log_ratio(rows, small_gm):
    """With any parameters: those of the start, moved, as the flows start near the identity."""
    start = jax.eval_shape(small_gm.init, KEYS[0], *(part[:64] for part in rows[:2]))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), start)
    held = read_out_first(GM, params, rows)
    check_densities_are_read_out(small_gm, params, held, rows)
    assert np.std(held.influence) > 0.1


@pytest.mark.slow
def test_trained_generative_models_read_out_their_mean_log_ratio(rows, small_gm):
    (found,), _ = cross_fitting.fit_folds(GM, rows, PARTS[:1], KEYS[:1])
    cross_fitting._compile_training.cache_clear()  # which holds the small flows as "gm"
    held = jax.tree.map(lambda leaf: leaf[0], found.held_out)
    check_densities_are_read_out(small_gm, jax.tree.map(lambda leaf: leaf[0], found.variables), held, rows)
    assert found.history["gm"].shape == (1, 2)
