import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from mi_jax import tasks
from tests.laws import passes


def integral(function, reach, step=0.05):
    """∫∫ function(x, y) dx dy by the trapezoidal rule in asinh x and asinh y, where power tails are exponential."""
    grid = np.arange(-reach, reach + step / 2, step)
    x, weights = np.sinh(grid), step * np.cosh(grid)
    return weights @ function(x[:, None, None], x[None, :, None]) @ weights


def student_densities(mi, df, dim=1):
    """(x, y) -> log t_{2d}(x, y), and log t_d(x) + log t_d(y), by SciPy in float64."""
    rho = np.sqrt(-np.expm1(-2 * (mi - tasks.student_correction(dim, df)) / dim))
    joint = stats.multivariate_t(shape=np.kron([[1, rho], [rho, 1]], np.eye(dim)), df=df)
    marginal = stats.multivariate_t(shape=np.eye(dim), df=df)

    def log_joint(x, y):
        return joint.logpdf(np.concatenate(np.broadcast_arrays(x, y), axis=-1))

    def log_marginals(x, y):
        return sum(marginal.logpdf(z) for z in np.broadcast_arrays(x, y))

    return log_joint, log_marginals


@pytest.mark.parametrize(("dim", "df"), [(1, 0.5), (1, 3.0), (3, 1.0), (20, 5.0), (20, 100.0)])
def test_student_correction_is_what_the_entropies_leave(dim, df):
    def entropy(size):
        """Of a spherical t, over the log of its radius."""
        law, north = stats.multivariate_t(shape=np.eye(size), df=df), np.eye(size)[0]
        log_sphere = np.log(2) + size / 2 * np.log(np.pi) - special.gammaln(size / 2)

        def integrand(log_radius):
            log_density = law.logpdf(np.exp(log_radius) * north)
            return -log_density * np.exp(log_density + log_sphere + size * log_radius)

        return integrate.quad(integrand, -30.0, 5 + 30 / df, limit=500, epsabs=1e-9)[0]

    assert tasks.student_correction(dim, df) == pytest.approx(2 * entropy(dim) - entropy(2 * dim), abs=1e-7)


def test_student_correction_vanishes_with_the_tails():
    assert tasks.student_correction(20, 1e4) == pytest.approx(20**2 / (2 * 1e4**2), rel=0.01)
    assert abs(tasks.student_correction(20, 1e6)) < 1e-8


@pytest.mark.parametrize(
    ("mi", "df"), [(1.5, 3.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.3, 1.0), (0.1, 10.0)))]
)
def test_student_by_integration(mi, df):
    """E_P[log r] is the MI, and E_Q[r] is 1: of r's own moments under Q only those below the second exist."""
    (log_joint, log_marginals), reach = student_densities(mi, df), 3 + 25 / df

    def information(x, y):
        return np.exp(log_joint(x, y)) * (log_joint(x, y) - log_marginals(x, y))

    def weighed(x, y):
        return np.exp(tasks.student(1, mi, df).log_ratio(jnp.float32(x), jnp.float32(y)) + log_marginals(x, y))

    assert integral(information, reach) == pytest.approx(mi, abs=1e-7)
    assert integral(weighed, reach) == pytest.approx(1.0, abs=1e-5)

    def squared(x, y):  # E_Q[r²] = E_P[r]
        return np.exp(2 * log_joint(x, y) - log_marginals(x, y))

    to_reach = [integral(squared, reach) for reach in (12.0, 15.0, 18.0)]
    # As ∫ dR / R: each further unit of log R adds the same.
    assert to_reach[2] - to_reach[1] == pytest.approx(to_reach[1] - to_reach[0], rel=1e-3)
    assert to_reach[1] - to_reach[0] > 0.1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e9])
@pytest.mark.parametrize(("dim", "mi", "df"), [(1, 1.0, 1.0), (3, 2.0, 2.5), (20, 6.0, 5.0), (2, 1.0, 1e4)])
def test_student_log_ratio_is_that_of_the_densities_at_every_size(dim, mi, df, scale):
    """Alone and together: x large, y large, both large and y close to x."""
    x, y = (scale * np.random.default_rng(0).standard_normal((2, 50, dim))).astype(np.float32)
    log_joint, log_marginals = student_densities(mi, df, dim)
    task = tasks.student(dim, mi, df)
    for first, second in ((x, y), (x, y / scale), (x / scale, y), (x, x)):
        expected = log_joint(first, second) - log_marginals(first, second)
        np.testing.assert_allclose(task.log_ratio(first, second), expected, rtol=1e-5, atol=1e-4)


@functools.cache
def student_program(dim, df, n):
    """Draws and log ratios of Student's law, the latter also of pairs that do not belong together."""

    @jax.jit
    def sample_and_score(key, mi):
        task = tasks.student(dim, mi, df)
        x, y = task.sample(key, n)
        return x, y, task.log_ratio(x, y), task.log_ratio(x, y[::-1])

    return sample_and_score


# P(|x| > 1e5) = 6e-6, and P(|x| > 1e3) = 6e-4.
@pytest.mark.parametrize(("n", "reached"), [(20_000, 1e3), pytest.param(1_000_000, 1e5, marks=pytest.mark.slow)])
def test_cauchy_draws_have_finite_ratios(n, reached):
    x, _, paired, shuffled = map(np.asarray, student_program(1, 1.0, n)(jax.random.key(0), 2.0))
    assert np.abs(x).max() > reached
    assert np.isfinite(paired).all()
    assert np.isfinite(shuffled).all()


@pytest.mark.parametrize(("dim", "mi", "df"), [(1, 1.0, 1.0), (3, 2.0, 3.0)])
def test_student_samples(dim, mi, df):
    x, y, *_ = map(np.asarray, student_program(dim, df, 20_000)(jax.random.key(0), mi))
    assert all(passes(column, stats.t(df)) for column in np.hstack([x, y]).T)
    # One divisor for the row: p squares of normals over it have the F law, which p divisors would not give.
    assert passes((x**2).sum(axis=1) / dim, stats.f(dim, df))
    rho = np.sqrt(-np.expm1(-2 * (mi - tasks.student_correction(dim, df)) / dim))
    squares = x**2 + (y - rho * x) ** 2 / (1 - rho**2)
    assert passes(squares.sum(axis=1) / (2 * dim), stats.f(2 * dim, df))


def test_student_at_its_correction_is_uncorrelated_but_dependent():
    task = tasks.student(4, tasks.student_correction(4, 3.0), 3.0)
    x, y = np.random.default_rng(0).standard_normal((2, 10, 4), dtype=np.float32)
    ratio, mirrored = jax.jit(lambda x, y: (task.log_ratio(x, y), task.log_ratio(x, -y)))(x, y)
    np.testing.assert_allclose(ratio, mirrored, rtol=1e-5, atol=1e-6)
    assert np.std(ratio) > 0.1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.student(0, 1.0, 2.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.student(1, 1.0, 0.0), ValueError, "df must be positive and finite, got 0.0"),
        (lambda: tasks.student(1, 1.0, np.inf), ValueError, "df must be positive and finite, got inf"),
        (lambda: tasks.student(1, 0.2, 1.0), ValueError, r"mi must be at least .*\(1, 1.0\), 0.224171 nats, got 0.2"),
        (lambda: tasks.student(1, np.nan, 1.0), ValueError, "mi must be at least .* got nan"),
        (lambda: tasks.student_correction(1, -1.0), ValueError, "df must be positive and finite, got -1.0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
