import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import tasks


@pytest.mark.parametrize(("dim", "mi"), [(1, 0.0), (1, 1e-6), (1, 2.0), (5, 1e-6), (5, 10.0), (20, 0.5), (20, 10.0)])
def test_mi_to_rho_and_back(dim, mi):
    rho = tasks.mi_to_rho(mi, dim)
    assert rho == pytest.approx(np.sqrt(-np.expm1(-2 * mi / dim)), rel=1e-6)
    # 1 - rho² loses what float32 cannot hold: relative eps / (1 - rho²).
    assert tasks.rho_to_mi(rho, dim) == pytest.approx(mi, rel=1e-5, abs=dim * 1e-7 * np.exp(2 * mi / dim))


@pytest.mark.parametrize("make", [tasks.gaussian, tasks.cubic])
def test_the_samples_have_the_law_that_the_task_says(make):
    task = make(3, 1.0)
    x, y = map(np.asarray, task.sample(jax.random.key(0), 200_000))
    y = np.cbrt(y) if make is tasks.cubic else y
    rho = float(tasks.mi_to_rho(1.0, 3))
    covariance = np.cov(np.hstack([x, y]).T)
    expected = np.block([[np.eye(3), rho * np.eye(3)], [rho * np.eye(3), np.eye(3)]])
    # A sample covariance of n standard normals has a standard error of at most sqrt(2 / n).
    assert np.abs(covariance - expected).max() < 5 * np.sqrt(2 / len(x))


def test_log_ratio_is_that_of_the_densities():
    rho = 0.6
    task = tasks.gaussian(2, float(tasks.rho_to_mi(rho, 2)))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 2))
    covariance = np.array([[1, rho], [rho, 1]])
    inverse, determinant = np.linalg.inv(covariance), np.linalg.det(covariance)
    pairs = np.stack([x, y], axis=-1)
    joint = -0.5 * np.einsum("nki,ij,nkj->nk", pairs, inverse, pairs) - 0.5 * np.log(determinant)
    marginals = -0.5 * (x**2 + y**2)
    expected = (joint - marginals).sum(axis=1)
    np.testing.assert_allclose(task.log_ratio(jnp.float32(x), jnp.float32(y)), expected, rtol=1e-4, atol=1e-5)
    cubic = tasks.cubic(2, task.mi)
    np.testing.assert_allclose(cubic.log_ratio(jnp.float32(x), jnp.float32(y**3)), expected, rtol=1e-4, atol=1e-5)


def test_a_strong_relation_keeps_its_noise():
    """At 10 nats a pair rho is 1 in float32, but y is not x."""
    task = tasks.gaussian(1, 10.0)
    values = np.asarray(task.log_ratio(*task.sample(jax.random.key(0), 100_000)))
    assert values.mean() == pytest.approx(10.0, abs=0.02)
    assert values.var() == pytest.approx(1.0, rel=0.05)  # d rho²


@pytest.mark.parametrize("make", [tasks.gaussian, tasks.cubic])
def test_log_ratio_averages_to_the_mi_with_its_variance(make):
    task, n = make(20, 6.0), 100_000
    values = np.asarray(task.log_ratio(*task.sample(jax.random.key(1), n)))
    variance = 20 * float(tasks.mi_to_rho(6.0, 20)) ** 2  # d rho²
    assert abs(values.mean() - 6.0) <= 4 * np.sqrt(variance / n)
    assert values.var() == pytest.approx(variance, rel=0.03)


def test_independent_at_zero():
    task = tasks.gaussian(4, 0.0)
    x, y = np.random.default_rng(0).standard_normal((2, 100, 4), dtype=np.float32)
    np.testing.assert_array_equal(task.log_ratio(x, y), 0.0)


def test_a_sweep_over_mi_compiles_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def mean_ratio(mi):
        task = tasks.gaussian(20, mi)
        return task.log_ratio(*task.sample(jax.random.key(0), 20_000)).mean()

    for mi in (1.0, 2.0, 5.0):
        assert mean_ratio(mi) == pytest.approx(mi, abs=0.15)
    assert jnp.isnan(mean_ratio(-1.0))
    assert jnp.isnan(jax.jit(lambda mi: tasks.cubic(2, mi).mi)(-1.0))


@pytest.mark.parametrize(("step", "mi"), [(0, 2), (3_999, 2), (4_000, 4), (16_000, 10), (19_999, 10), (50_000, 10)])
def test_staircase(step, mi):
    assert tasks.staircase(step) == mi
    assert jax.jit(tasks.staircase)(step) == mi


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.gaussian(0, 1.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.gaussian(2.5, 1.0), TypeError, "dim must be an integer, got float"),
        (lambda: tasks.cubic(3, -1.0), ValueError, "mi must not be negative, got -1.0"),
        (lambda: tasks.cubic(3, "1"), TypeError, "mi must be a number, got str"),
        (lambda: tasks.staircase(0, every=0), ValueError, "every must be at least 1, got 0"),
        (lambda: tasks.staircase(0, levels=()), ValueError, "levels must name at least one"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
