import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from mi_jax import tasks

# Made by the tests, not at import, so that collecting them touches no device.
BEYOND = [
    pytest.param(lambda: tasks.student(1, 0.5, 1.0), id="cauchy"),
    pytest.param(lambda: tasks.student(20, 2.0, 5.0), id="student", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.uniform_noise(3, 0.1), id="narrow_noise"),
    pytest.param(lambda: tasks.uniform_noise(20, 2.0), id="wide_noise", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.rotated(tasks.cubic(5, 1.0), jax.random.key(9)), id="rotated_cubic"),
    pytest.param(
        lambda: tasks.rotated(tasks.student(5, 1.0, 2.0), jax.random.key(9)), id="rotated_student", marks=pytest.mark.slow
    ),
    pytest.param(
        lambda: tasks.rotated(tasks.uniform_noise(20, 0.5), jax.random.key(9)), id="rotated_noise", marks=pytest.mark.slow
    ),
]


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


@functools.cache
def draw(make, n=10_000):
    """n draws of a task, their log ratios, and the log ratios of all pairs of the first four."""
    task = make()

    @jax.jit
    def sample_and_score(key):
        x, y = task.sample(key, n)
        return x, y, task.log_ratio(x, y), task.log_ratio(x[:4, None], y[None, :4])

    return [np.asarray(values) for values in sample_and_score(jax.random.key(1))]


@pytest.mark.parametrize("make", [lambda: tasks.gaussian(3, 1.0), *BEYOND])
def test_log_ratio_broadcasts_to_a_score_matrix(make):
    *_, ratios, matrix = draw(make)
    chex.assert_shape(matrix, (4, 4))
    np.testing.assert_allclose(np.diagonal(matrix), ratios[:4], rtol=1e-6, atol=2e-6)  # terms of about 10 cancel


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


@pytest.mark.parametrize(
    ("make", "settings", "bad"),
    [
        (lambda mi: tasks.student(20, mi, 5.0), (0.6, 1.0, 5.0), (-1.0, 0.5, np.nan)),  # c is 0.5576
        (lambda epsilon: tasks.uniform_noise(2, epsilon), (0.1, 0.5, 2.0), (-1.0, 0.0, np.inf)),
    ],
)
def test_sweeps_beyond_the_paper_compile_once(make, settings, bad):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(setting):
        task = make(setting)
        x, y = task.sample(jax.random.key(0), 2_000)
        return task.mi, y, task.log_ratio(x, y)

    for setting in settings:
        mi, _, ratios = run(setting)
        assert mi == pytest.approx(float(make(setting).mi), rel=1e-6)
        assert abs(ratios.mean() - mi) < 5 * ratios.std() / np.sqrt(ratios.size)
    for setting in bad:
        assert all(jnp.isnan(value).all() for value in run(setting))


@pytest.mark.parametrize("n", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", BEYOND)
def test_log_ratio_averages_to_the_mi_beyond_the_paper(make, n):
    """Under P their log ratios have exponential tails, Student's e^-t and the noise's e^-2t: the error is finite."""
    ratios = np.float64(draw(make, n)[2])
    assert abs(ratios.mean() - float(make().mi)) <= 4 * ratios.std() / np.sqrt(n)


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


def passes(sample, law):
    """Kolmogorov and Smirnov's test; the seeds are fixed, and the level leaves one in a thousand to chance."""
    return stats.kstest(np.asarray(sample, np.float64), law.cdf).pvalue > 1e-3


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


@pytest.mark.parametrize(
    ("make", "second_moment"),
    [
        (lambda: tasks.uniform_noise(1, 0.1), 6.0),
        (lambda: tasks.uniform_noise(4, 2.0), 1.25**4),
        (lambda: tasks.rotated(tasks.gaussian(4, 0.5), jax.random.key(9)), np.exp(1.0)),
    ],
)
def test_the_ratio_averages_to_one_over_independent_pairs(make, second_moment):
    task, n = make(), 200_000

    @jax.jit
    def log_ratio(x_key, y_key):
        return task.log_ratio(task.sample(x_key, n)[0], task.sample(y_key, n)[1])

    ratio = np.exp(np.asarray(log_ratio(jax.random.key(1), jax.random.key(2)), np.float64))
    assert abs(ratio.mean() - 1) <= 4 * np.sqrt((second_moment - 1) / n)


def test_rotated_is_the_task_turned():
    task = tasks.gaussian(6, 2.0)
    turned = tasks.rotated(task, jax.random.key(1))
    # Each from a key of its own making, as the key-reuse checker takes a key for used after the first.
    (x, y), (same_x, turned_y) = (jax.jit(lambda key, t=t: t.sample(key, 500))(jax.random.key(0)) for t in (task, turned))
    np.testing.assert_array_equal(x, same_x)
    matrix = np.linalg.lstsq(np.float64(y), np.float64(turned_y))[0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-5)
    assert np.abs(matrix - np.eye(6)).max() > 0.1
    np.testing.assert_allclose(jax.jit(turned.log_ratio)(x, turned_y), jax.jit(task.log_ratio)(x, y), rtol=1e-4, atol=1e-4)
    assert turned.mi == task.mi


def test_rotations_are_uniform():
    """A row of Q is uniform on the sphere; in three dimensions each coordinate then is, on (-1, 1) (Archimedes)."""
    identity = tasks.Task(lambda key, n: (jnp.eye(3), jnp.eye(3)), 0.0, lambda x, y: 0.0)
    keys = jax.random.split(jax.random.key(0), 20_000)
    matrices = np.asarray(jax.jit(jax.vmap(lambda key: tasks.rotated(identity, key).sample(key, 3)[1]))(keys))
    assert all(passes(entry, stats.uniform(-1, 2)) for entry in matrices.reshape(-1, 9).T)
    signs = np.linalg.det(matrices)
    np.testing.assert_allclose(np.abs(signs), 1.0, atol=1e-5)
    assert abs(signs.mean()) < 4 / np.sqrt(20_000)  # as many reflections as rotations


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
        (lambda: tasks.student(0, 1.0, 2.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.student(1, 1.0, 0.0), ValueError, "df must be positive and finite, got 0.0"),
        (lambda: tasks.student(1, 1.0, np.inf), ValueError, "df must be positive and finite, got inf"),
        (lambda: tasks.student(1, 0.2, 1.0), ValueError, r"mi must be at least .*\(1, 1.0\), 0.224171 nats, got 0.2"),
        (lambda: tasks.student(1, np.nan, 1.0), ValueError, "mi must be at least .* got nan"),
        (lambda: tasks.student_correction(1, -1.0), ValueError, "df must be positive and finite, got -1.0"),
        (lambda: tasks.uniform_noise(0, 1.0), ValueError, "dim must be at least 1, got 0"),
        (lambda: tasks.uniform_noise(1, 0.0), ValueError, "epsilon must be positive and finite, got 0.0"),
        (lambda: tasks.uniform_noise(1, np.inf), ValueError, "epsilon must be positive and finite, got inf"),
        (lambda: tasks.rotated(tasks.gaussian, jax.random.key(0)), TypeError, "task must be a Task, got function"),
        (lambda: tasks.staircase(0, every=0), ValueError, "every must be at least 1, got 0"),
        (lambda: tasks.staircase(0, levels=()), ValueError, "levels must name at least one"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
