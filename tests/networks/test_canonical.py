import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from mi_jax import bounds, tasks
from mi_jax.networks import CanonicalCritic, canonical

fit_start = jax.jit(canonical.fit_start)
START = CanonicalCritic(hidden=())


def draw(task, n=3_000, seed=0):
    return tuple(map(np.asarray, task.sample(jax.random.key(seed), n)))


@functools.cache
def bent():
    """Rows that a turn by their length bends, and rows whose columns are mixed and shifted."""
    x, y = draw(tasks.spiral(tasks.gaussian(3, 1.5)))
    return x @ np.float32([[2, 1, 0], [0, 1, 0.5], [0, 0, 0.3]]) + 3, y


def whitened(rows):
    """Float64 rows of covariance 1, by their Cholesky factor."""
    centred = np.float64(rows) - np.mean(rows, axis=0, dtype=float)
    return centred @ np.linalg.inv(np.linalg.cholesky(centred.T @ centred / len(rows))).T


def radial(z, degree):
    """The radial features, in float64; their lengths are clipped at the 20th longest."""
    length = np.sqrt(z.shape[1] / 2) * (np.mean(z**2, axis=1, keepdims=True) - 1)
    limit = np.sort(length[:, 0])[-20]
    length = np.clip(length, -limit, limit)
    return np.hstack([z, z * length, z * (length**2 - 1)][: degree + 1])


def canonical_correlations(a, b):
    a, b = (np.linalg.qr(each - each.mean(axis=0))[0] for each in (a, b))
    return np.linalg.svd(a.T @ b, compute_uv=False)


def test_the_start_has_the_canonical_correlations_of_radial_features():
    """In float64 by QR, whatever whitens: they are shrunk, but of 3,000 rows the large ones by little."""
    x, y = bent()
    ours = np.asarray(fit_start(x, y).fit.correlations)
    theirs = canonical_correlations(radial(whitened(x), 2), radial(whitened(y), 2))
    np.testing.assert_allclose(ours[:3], theirs[:3], atol=0.01)
    assert ours[0] > canonical_correlations(x, y)[0] + 0.1


def test_the_degree_is_the_one_that_tells_most():
    """Features that tell nothing are left out: their columns have no part in the canonical variables."""
    used = lambda x, y: np.flatnonzero(np.abs(fit_start(x, y).fit.whiten_x[:, :3]).max(axis=1) > 0).max() // 3  # noqa: E731
    assert used(*bent()) == 2
    assert used(*draw(tasks.gaussian(3, 1.5))) == 0
    # Turned by few radians, rows are about linear in themselves times their length.
    assert used(*draw(tasks.spiral(tasks.gaussian(3, 1.5), 0.1))) == 1


def test_many_columns_beside_few_rows_have_no_higher_degree():
    x, y = draw(tasks.gaussian(20, 2.0), n=150)
    assert fit_start(x, y).fit.whiten_x.shape == (20, 20)
    assert jax.eval_shape(canonical.fit_start, np.ones((9_000, 150)), np.ones((9_000, 160))).fit.mean_x.shape == (150,)


@pytest.mark.parametrize("padding", [np.nan, pytest.param(1e30, marks=pytest.mark.slow)])
def test_padding_does_not_count(padding):
    x, y = (rows[:500].copy() for rows in bent())
    weights = np.float32(np.arange(500) < 400)
    ours = fit_start(x[:400], y[:400])
    for rows in (x, y):
        rows[400:] = padding
    theirs = fit_start(x, y, weights)
    for name in ("limit_x", "limit_y", "mean_x", "mean_y"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), rtol=1e-4)
    np.testing.assert_allclose(theirs.fit.correlations, ours.fit.correlations, atol=1e-4)
    constants = CanonicalCritic.fit_constants(x, y, weights)
    assert jax.tree.structure(constants) == jax.tree.structure({"canonical": {"start": theirs}})


def moved(variables):
    """Parameters none of which is zero."""
    rng = np.random.default_rng(3)
    move = lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape))  # noqa: E731
    return dict(variables) | {"params": jax.tree.map(move, variables["params"])}


def learned(params, side, z):
    """Float64: what the network of one side adds."""
    length = 2 * np.log1p(np.mean(z**2, axis=1, keepdims=True))
    h = np.hstack([z, 0.5 * (z**2 - 1), 12**0.5 * (special.ndtr(z) - 0.5), length])
    for place in range(2):
        layer = params[f"{side}_{place}"]
        h = h @ np.float64(layer["kernel"]) + layer["bias"]
        h = h / (1 + np.exp(-h)) if place == 0 else h
    return h


def test_scores_are_the_gaussian_log_ratio_of_what_is_learned():
    """In float64, from the densities of pairs of normal variables."""
    x, y = bent()
    critic = CanonicalCritic(hidden=(8,))
    variables = moved(jax.jit(critic.init)(jax.random.key(0), x, y))
    start, params = jax.tree.map(np.float64, variables["canonical"]["start"]), variables["params"]
    x, y = np.float64(x[:7]), np.float64(y[:9])
    sides = []
    for side, rows in (("x", x), ("y", y)):
        z = (rows - getattr(start, f"mean_{side}")) @ getattr(start, f"whiten_{side}")
        limit = getattr(start, f"limit_{side}")
        length = np.clip(np.sqrt(1.5) * (np.mean(z**2, axis=1, keepdims=True) - 1), -limit, limit)
        features = np.hstack([z, z * length, z * (length**2 - 1)])
        variates = (features - getattr(start.fit, f"mean_{side}")) @ getattr(start.fit, f"whiten_{side}")
        sides.append(variates[:, :3] + learned(params, side, z))
    s = np.tanh(np.arctanh(start.fit.correlations[:3]) + np.float64(params["correlations"]))
    expected = np.zeros((7, 9))
    for k, rho in enumerate(s):
        inverse = np.linalg.inv([[1, rho], [rho, 1]])
        u, v = sides[0][:, None, k], sides[1][None, :, k]
        quadratic = inverse[0, 0] * u**2 + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v**2
        expected += -0.5 * np.log(1 - rho**2) - 0.5 * quadratic + 0.5 * u**2 + 0.5 * v**2
    ours = jax.jit(critic.apply)(variables, np.float32(x), np.float32(y))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def start_scores(x, y):
    return jax.jit(START.apply)(jax.jit(START.init)(jax.random.key(0), x, y), x[:50], y[:50])


def test_the_start_does_not_depend_on_how_columns_are_mixed():
    x, y = bent()
    turn = np.float32(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * [5.0, 1.0, 0.2])
    np.testing.assert_allclose(start_scores(x @ turn - 7, y), start_scores(x, y), rtol=0.02, atol=0.02)


def test_independent_rows_start_from_nothing():
    x, y = np.float32(np.random.default_rng(0).standard_normal((2, 1_000, 3)))
    np.testing.assert_array_equal(start_scores(x, y), 0.0)


def test_gradients_reach_every_parameter_and_are_finite():
    """Also where the correlations start at zero, the network is all that there is."""
    x, y = bent()
    for given in ((x, y), (x, np.float32(np.random.default_rng(1).standard_normal(y.shape)))):
        critic = CanonicalCritic(hidden=(4,))
        variables = jax.jit(critic.init)(jax.random.key(0), *given)
        batch = [rows[:64] for rows in bent()]

        def value(params, critic=critic, variables=variables, batch=batch):
            return bounds.infonce(critic.apply({**variables, "params": params}, *batch))

        slopes = jax.jit(jax.grad(value))(variables["params"])
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
        assert np.abs(slopes["correlations"]).min() > 0


def test_rows_of_any_shape_and_of_other_widths():
    x, y = np.float32(np.random.default_rng(0).standard_normal((2, 60, 4)))
    x, y = x.reshape(60, 2, 2), y[:, :1]
    critic = CanonicalCritic(hidden=(4,))
    variables = jax.jit(critic.init)(jax.random.key(0), x, y)
    assert jax.eval_shape(critic.apply, variables, x, y[:7]).shape == (60, 7)
    assert variables["params"]["correlations"].shape == (1,)
