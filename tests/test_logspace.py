import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import _logspace

log_mean_exp_leave_one_out = jax.jit(_logspace.log_mean_exp_leave_one_out)
matrices = pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])


def rows(scale, shape=(5, 7)):
    return np.random.default_rng(0).standard_normal(shape) * scale


@matrices
def test_leave_one_out(scale):
    a = rows(scale)
    expected = [[np.log(np.mean(np.exp(np.delete(row, j)))) for j in range(len(row))] for row in a]
    np.testing.assert_allclose(log_mean_exp_leave_one_out(jnp.float32(a)), expected, rtol=2e-6, atol=2e-6)


def test_leave_one_out_with_ties_and_with_one_entry_towering():
    np.testing.assert_allclose(log_mean_exp_leave_one_out(jnp.full((2, 4), 3.0)), 3.0, rtol=1e-6)
    towering = jnp.array([[1e4, 0.0, 0.0], [0.0, -1e4, 0.0]])
    expected = [[0.0, 1e4 - np.log(2), 1e4 - np.log(2)], [-np.log(2), 0.0, -np.log(2)]]
    np.testing.assert_allclose(log_mean_exp_leave_one_out(towering), expected, rtol=1e-6, atol=1e-6)


@matrices
def test_leave_one_out_gradient(scale):
    a = rows(scale, (1, 4))
    jacobian = jax.jit(jax.jacobian(_logspace.log_mean_exp_leave_one_out))(np.float32(a))[0, :, 0, :]
    for j in range(4):
        weights = np.exp(a[0] - a[0].max())
        weights[j] = 0.0
        np.testing.assert_allclose(jacobian[j], weights / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.5, 1.0])
def test_interpolate_derivatives(alpha):
    a, b = jnp.array([0.3, -2.0, 30.0]), jnp.array([1.0, 5.0, -30.0])
    value, derivative = jax.jvp(lambda t: _logspace.log_interpolate(a, b, t), (alpha,), (1.0,))
    mixture = alpha * np.exp(np.float64(a)) + (1 - alpha) * np.exp(np.float64(b))
    np.testing.assert_allclose(value, np.log(mixture), rtol=1e-5)
    np.testing.assert_allclose(derivative, (np.exp(np.float64(a)) - np.exp(np.float64(b))) / mixture, rtol=1e-4)
    weight = jax.grad(lambda a: _logspace.log_interpolate(a, b, alpha).sum())(a)
    np.testing.assert_allclose(weight, alpha * np.exp(np.float64(a)) / mixture, rtol=1e-4, atol=1e-7)


def test_off_diagonal_means():
    a = rows(1.0, (6, 6))
    off = np.exp(a[~np.eye(6, dtype=bool)]).mean()
    none = jnp.zeros(6)
    assert _logspace.mean_exp_off_diagonal(jnp.float32(a), none) == pytest.approx(off, rel=1e-6)
    assert _logspace.mean_off_diagonal(jnp.exp, jnp.float32(a)) == pytest.approx(off, rel=1e-6)
    assert _logspace.log_mean_exp_off_diagonal(jnp.float32(a), jnp.inf) == pytest.approx(np.log(off), abs=1e-6)
    clipped = np.exp(np.clip(a[~np.eye(6, dtype=bool)], -0.5, 0.5)).mean()
    assert _logspace.log_mean_exp_off_diagonal(jnp.float32(a), 0.5) == pytest.approx(np.log(clipped), abs=1e-6)
    by_row = [np.exp(np.delete(a[i], i) - 0.1 * i).sum() for i in range(6)]
    shifted = _logspace.mean_exp_off_diagonal(jnp.float32(a), 0.1 * jnp.arange(6.0))
    assert shifted == pytest.approx(np.sum(by_row) / 30, rel=1e-6)


def test_a_mean_overflows_only_where_it_is_too_large_itself():
    # 12 terms of e^88 sum to more than float32 holds; their mean does not.
    assert _logspace.mean_exp_off_diagonal(jnp.full((4, 4), 88.0), jnp.zeros(4)) == pytest.approx(np.exp(88.0), rel=1e-5)
    assert _logspace.mean_exp_off_diagonal(jnp.full((4, 4), 89.0), jnp.zeros(4)) == jnp.inf
