import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from mi_jax import tasks
from tests.laws import passes


def trapezoid(epsilon):
    """The law of y."""
    width = 1 + 2 * epsilon
    rise = min(1.0, 2 * epsilon) / width
    return stats.trapezoid(rise, 1 - rise, loc=-epsilon, scale=width)


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.5, 0.7, 5.0])
def test_uniform_noise_by_integration(epsilon):
    density = trapezoid(epsilon).pdf
    kinks = sorted({-epsilon, epsilon, 1 - epsilon, 1 + epsilon})
    pieces = itertools.pairwise(kinks)
    entropy = sum(integrate.quad(lambda y: special.entr(density(y)), *piece)[0] for piece in pieces)
    assert tasks.uniform_noise(3, epsilon).mi == pytest.approx(3 * (entropy - np.log(2 * epsilon)), rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.5, 5.0])
def test_uniform_noise_samples(epsilon):
    x, y = tasks.uniform_noise(2, epsilon).sample(jax.random.key(0), 50_000)
    assert all(passes(column, stats.uniform()) for column in x.T)
    assert all(passes(column, trapezoid(epsilon)) for column in y.T)
    assert all(passes(column, stats.uniform(-epsilon, 2 * epsilon)) for column in (y - x).T)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_uniform_noise_log_ratio(epsilon):
    task = tasks.uniform_noise(1, epsilon)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.25, 1.25, (150, 1, 1)).astype(np.float32)
    y = rng.uniform(-1.1 * epsilon, 1 + 1.1 * epsilon, (170, 1)).astype(np.float32)
    assert np.abs(np.abs(y - x) - epsilon).min() > 4e-6 * (1 + epsilon)  # none where the edge is blurred
    inside = ((x >= 0) & (x <= 1) & (np.abs(y - x) <= epsilon))[..., 0]
    with np.errstate(divide="ignore"):
        expected = np.where(inside, -np.log(2 * epsilon * trapezoid(epsilon).pdf(y[:, 0])), -np.inf)
    np.testing.assert_allclose(task.log_ratio(x, y), expected, rtol=1e-4, atol=1e-5)
    both = tasks.uniform_noise(2, epsilon)
    assert both.log_ratio(jnp.array([0.5, 0.5]), jnp.array([0.5, 0.6 + epsilon])) == -jnp.inf  # one outside is enough


@pytest.mark.parametrize("scale", [0.1, 0.25, 2.0])
def test_cauchy_noise_by_the_densities(scale):
    task = tasks.cauchy_noise(2, scale)
    assert task.mi == pytest.approx(2 * (stats.cauchy(scale=1 + scale).entropy() - stats.cauchy(scale=scale).entropy()))
    x, y = (stats.cauchy.rvs(size=(2, 500, 2), random_state=0) * [[[1.0]], [[1 + scale]]]).astype(np.float32)
    expected = stats.cauchy.logpdf(y, x, scale) - stats.cauchy.logpdf(y, 0, 1 + scale)
    np.testing.assert_allclose(task.log_ratio(x, y), expected.sum(axis=1), rtol=1e-4, atol=1e-4)
    far = jnp.array([1e30, -1e30])
    assert jnp.isfinite(task.log_ratio(far, -far))


def test_cauchy_noise_samples():
    x, y = map(np.asarray, tasks.cauchy_noise(2, 0.5).sample(jax.random.key(0), 20_000))
    assert all(passes(column, stats.cauchy()) for column in x.T)
    assert all(passes(column, stats.cauchy(scale=1.5)) for column in y.T)
    # Far out the noise is rounded away with the rest of y.
    assert all(passes((b - a)[np.abs(a) < 1e3], stats.cauchy(scale=0.5)) for a, b in zip(x.T, y.T, strict=True))


@pytest.mark.parametrize("noise", [pytest.param(0.01, marks=pytest.mark.slow), 0.2, 3.0])
def test_sine_by_integration(noise):
    def density(y):
        over = lambda u: stats.norm.pdf(y, np.sin(u), noise)  # noqa: E731
        # The integrand is narrow where sin u is y.
        peak = np.arcsin(np.clip(y, -1, 1))
        points = np.clip([peak - 5 * noise, peak, peak + 5 * noise], -np.pi / 2, np.pi / 2)
        return integrate.quad(over, -np.pi / 2, np.pi / 2, points=points, limit=300)[0] / np.pi

    edge = 1 + 9 * noise
    ends = [-edge, -1 - 2 * noise, -1 + 5 * noise, 0.0] if noise < 0.2 else [-edge, 0.0]
    entropy = 2 * sum(integrate.quad(lambda y: special.entr(density(y)), *piece)[0] for piece in itertools.pairwise(ends))
    task = tasks.sine(2, noise, turns=2)
    assert task.mi == pytest.approx(2 * (entropy - stats.norm(scale=noise).entropy()), abs=2e-5)
    x = np.random.default_rng(0).uniform(0, 1, (20, 2)).astype(np.float32)
    y = (np.sin(4 * np.pi * x) + noise * np.linspace(-3, 3, 20)[:, None]).astype(np.float32)
    log_density = np.log([[density(entry) for entry in row] for row in y])
    expected = stats.norm.logpdf(y, np.sin(4 * np.pi * np.float64(x)), noise) - log_density
    # sin(4 pi x) of a float32 is off by some 1e-6, in units of the noise.
    np.testing.assert_allclose(task.log_ratio(x, y), expected.sum(axis=1), rtol=1e-4, atol=1e-4 + 2e-5 / noise)


def test_sine_samples_turn_as_often_as_they_should():
    x, y = map(np.asarray, tasks.sine(1, 0.01, turns=4).sample(jax.random.key(0), 10_000))
    assert passes(x[:, 0], stats.uniform())
    assert passes((y - np.sin(8 * np.pi * x))[:, 0], stats.norm(scale=0.01))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.uniform_noise(0, 1.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.uniform_noise(1, 0.0), ValueError, "epsilon must be positive and finite, got 0.0"),
        (lambda: tasks.uniform_noise(1, np.inf), ValueError, "epsilon must be positive and finite, got inf"),
        (lambda: tasks.cauchy_noise(0, 1.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.cauchy_noise(1, -1.0), ValueError, "scale must be positive and finite, got -1.0"),
        (lambda: tasks.sine(1, 0.001), ValueError, "noise must be at least 0.01 and finite, got 0.001"),
        (lambda: tasks.sine(1, 0.1, turns=0), ValueError, "turns must be at least 1, got 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
