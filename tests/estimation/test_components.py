import numpy as np
import pytest

from mi_jax.estimation.components import depend_linearly, unmix

SOURCES = {
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "cubes": lambda rng, shape: rng.standard_normal(shape) ** 3,
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
}


def mix(sources, seed=1):
    """A random mixture of the columns, shifted and in units that differ by up to 1,000."""
    rng, columns = np.random.default_rng(seed), sources.shape[1]
    return (sources @ rng.standard_normal((columns, columns)) + 3.0) * 10.0 ** np.linspace(-1, 2, columns)


def correlate(a, b):
    """The absolute correlations of the columns of a with those of b."""
    return np.abs(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("columns", [2, 6])
def test_sources_come_back_in_some_order(name, columns):
    sources = SOURCES[name](np.random.default_rng(columns), (10_000, columns))
    found = correlate(mix(sources) @ unmix(mix(sources)), sources)
    assert sorted(found.argmax(axis=0)) == list(range(columns))
    assert found.max(axis=0).min() > 0.99
    assert np.sort(found, axis=0)[:-1].max() < 0.1


def test_sources_of_different_kinds_come_back():
    rng = np.random.default_rng(0)
    sources = np.concatenate(
        [kind(rng, (20_000, 1)) for kind in SOURCES.values()] + [rng.standard_normal((20_000, 1))], axis=1
    )
    assert correlate(mix(sources) @ unmix(mix(sources)), sources).max(axis=0).min() > 0.99


def test_components_solve_the_equations():
    sources = np.random.default_rng(0).standard_normal((5_000, 4)) ** 3
    x = mix(sources)
    found = (x - x.mean(axis=0)) @ unmix(x)
    sizes = 2 * found / np.median(np.abs(found), axis=0)
    equations = np.tanh(sizes).T @ sizes / len(x)
    scales = np.diagonal(equations).copy()
    np.fill_diagonal(equations, 0)
    assert np.abs(equations / scales[:, None]).max() < 1e-5


@pytest.mark.parametrize("name", SOURCES)
def test_units_of_the_columns_do_not_matter(name):
    x = mix(SOURCES[name](np.random.default_rng(3), (2_000, 3)))
    units = np.array([1e-6, 1.0, 1e9])
    found = correlate((units * x) @ unmix(units * x), x @ unmix(x))
    np.testing.assert_allclose(found.max(axis=0), 1, atol=1e-6)


def test_normal_columns_come_out_uncorrelated():
    x = mix(np.random.default_rng(0).standard_normal((2_000, 5)))
    found = correlate(*2 * [x @ unmix(x)])
    np.testing.assert_allclose(found, np.eye(5), atol=0.1)


def test_the_refinement_serves_heavy_tails():
    """The covariance of cubes is so uncertain that white components keep a share of one another."""
    worst = []
    for seed in range(5):
        sources = np.random.default_rng(seed).standard_normal((5_000, 3)) ** 5
        x = mix(sources)
        found = x @ unmix(x)
        # Each component is a linear function of the sources: its second largest coefficient as a share of its largest.
        coefficients = np.abs(np.linalg.lstsq(sources, found - found.mean(axis=0), rcond=None)[0])
        worst.append(np.sort(coefficients / coefficients.max(axis=0), axis=0)[-2].max())
    assert np.mean(worst) < 0.002


def test_what_depends_linearly():
    x = np.random.default_rng(0).standard_normal((50, 3))
    assert not depend_linearly(x)
    assert not depend_linearly(x * [1e-9, 1.0, 1e9])
    assert depend_linearly(np.column_stack([x, x[:, 0] + 2 * x[:, 1] + 3]))
    assert depend_linearly(x[:3])
