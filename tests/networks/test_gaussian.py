import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mi_jax import bounds, tasks
from mi_jax.networks import GaussianCritic, gaussian

fit = jax.jit(gaussian.gaussian_fit)
slow = pytest.mark.slow


def dependent(n, dx, dy, correlations, seed=0):
    """Float64 rows with these canonical correlations, their coordinates mixed and shifted."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, dx)), rng.standard_normal((n, dy))
    for k, s in enumerate(correlations):
        y[:, k] = s * x[:, k] + np.sqrt(1 - s**2) * y[:, k]
    return (rows @ (np.eye(d) + 0.5 * rng.uniform(-1, 1, (d, d)) / d) + 3.0 for rows, d in ((x, dx), (y, dy)))


def draw_pairs(n, dim, rho, seed=0):
    """Rows of `tasks.gaussian`: float32 pairs of unit normals with this correlation."""
    x, noise = np.random.default_rng(seed).standard_normal((2, n, dim))
    return np.float32(x), np.float32(rho * x + np.sqrt(1 - rho**2) * noise)


@pytest.mark.parametrize("padding", [np.nan, 1e30])
def test_rows_of_weight_zero_do_not_count(padding):
    """And a row of weight 2 counts as two."""
    x, y = map(np.float32, dependent(60, 3, 2, [0.8, 0.3]))
    weights = np.repeat([1.0, 2.0, 0.0], [30, 20, 10])
    ours = fit(x[weights > 0].repeat(weights[weights > 0].astype(int), axis=0), np.repeat(y, weights.astype(int), axis=0))
    for rows in (x, y):
        rows[weights == 0] = padding
    theirs = fit(x, y, jnp.float32(weights))
    np.testing.assert_allclose(theirs.correlations, ours.correlations, atol=1e-5)
    for name in ("x", "y"):  # whitening turns by what the correlations leave free: compare what it makes of rows
        np.testing.assert_allclose(getattr(theirs, f"mean_{name}"), getattr(ours, f"mean_{name}"), rtol=1e-5)
        of_ours, of_theirs = getattr(ours, f"whiten_{name}"), getattr(theirs, f"whiten_{name}")
        np.testing.assert_allclose(of_theirs @ of_theirs.T, of_ours @ of_ours.T, rtol=1e-3, atol=1e-4)
    assert ours.correlations[1] > 0.1
    assert not np.allclose(fit(x[:50], y[:50]).correlations, ours.correlations, atol=1e-3)


def canonical(x, y):
    """The sample canonical correlations in float64, by QR: the cosines between what the columns of x and of y span."""
    x, y = (
        np.linalg.qr(np.reshape(rows, (len(rows), -1)) - rows.mean(axis=0))[0] for rows in (np.float64(x), np.float64(y))
    )
    return np.linalg.svd(x.T @ y, compute_uv=False)


def edge(n, dx, dy):
    """Wachter's: the largest s² / (1 - s²) of independent variables, in the limit."""
    p, q = min(dx, dy), max(dx, dy)
    numerator, denominator = p / q, p / (n - q)
    height = np.sqrt(numerator + denominator - numerator * denominator)
    return q / (n - q) * ((1 + height) / (1 - denominator)) ** 2


def shrunk(raw, n, dx, dy):
    """Gavish & Donoho's η, one correlation at a time, at the noise that the docstring states."""
    beta, found = min(dx, dy) / max(dx, dy), []
    for s in raw:
        sigma = np.sqrt((1 - s**2) * edge(n, dx, dy)) / (1 + np.sqrt(beta))
        t = s / sigma
        found.append(sigma * np.sqrt((t**2 - beta - 1) ** 2 - 4 * beta) / t if t > 1 + np.sqrt(beta) else 0.0)
    return np.array(found)


def log_ratio(s, a, b):
    """The Gaussian log ratio of all pairs in float64, from the densities: log N(a, b) - log N(a) - log N(b)."""
    found = np.zeros((len(a), len(b)))
    for k, rho in enumerate(np.float64(s)):
        inverse = np.linalg.inv([[1, rho], [rho, 1]])
        u, v = np.float64(a[:, None, k]), np.float64(b[None, :, k])
        quadratic = inverse[0, 0] * u**2 + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v**2
        found += -0.5 * np.log(1 - rho**2) - 0.5 * quadratic + 0.5 * u**2 + 0.5 * v**2
    return found


def shapes(critic, x, y):
    return jax.eval_shape(critic.init, jax.random.key(0), x, y)


@jax.jit
def start_scores(found, x, y):
    """The critic's scores of all pairs at the start, where the network is silent, for a fit that is given."""
    critic = GaussianCritic(hidden=(8,))
    silent = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(critic, x, y)["params"])
    return critic.apply({"params": silent, "gaussian": {"fit": found}}, x, y)


def fit_by_hand(correlations, dx, dy, whiten_x=None, whiten_y=None):
    whiten = (np.eye(d) if given is None else given for d, given in ((dx, whiten_x), (dy, whiten_y)))
    return gaussian.GaussianFit(*map(np.float32, (np.zeros(dx), np.zeros(dy), *whiten, correlations)))


def moved(params, names=("params",)):
    """Parameters of which none is zero, so that the network adds something to the Gaussian ratio."""
    rng = np.random.default_rng(7)
    chosen = {name: params[name] for name in names}
    return dict(params) | jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), chosen)


@jax.jit
def gaussian_scores(found, x, y):
    """The Gaussian part of the critic, alone, of all pairs."""
    return GaussianCritic(hidden=()).apply({"gaussian": {"fit": found}}, x, y)


@pytest.mark.parametrize(
    ("n", "dx", "dy", "correlations"),
    [
        (500, 2, 7, (0.95, 0.5)),
        (300, 20, 20, (0.8, 0.7)),
        pytest.param(500, 4, 4, (0.9, 0.6, 0.3), marks=slow),
        pytest.param(100, 1, 1, (-0.4,), marks=slow),
    ],
)
def test_correlations_are_numpys_shrunk(n, dx, dy, correlations):
    x, y = dependent(n, dx, dy, correlations)
    ours = jax.tree.map(np.asarray, fit(np.float32(x), np.float32(y)))
    expected = shrunk(canonical(x, y), n, dx, dy)
    assert np.count_nonzero(expected)
    np.testing.assert_allclose(ours.correlations, expected, rtol=1e-4, atol=1e-5)
    # The whitened coordinates have covariance 1, and correlate pairwise.
    a, b = (x - ours.mean_x) @ ours.whiten_x, (y - ours.mean_y) @ ours.whiten_y
    np.testing.assert_allclose(a.T @ a / n, np.eye(dx), atol=1e-4)
    np.testing.assert_allclose(b.T @ b / n, np.eye(dy), atol=1e-4)
    cross = np.zeros((dx, dy))
    np.fill_diagonal(cross, canonical(x, y))
    np.testing.assert_allclose(a.T @ b / n, cross, atol=1e-4)


@pytest.mark.parametrize(("dx", "dy"), [(2, 5), pytest.param(3, 3, marks=slow)])
def test_invertible_linear_maps_change_neither_correlations_nor_scores(dx, dy):
    x, y = map(np.float32, dependent(400, dx, dy, (0.9, 0.5)))
    rng = np.random.default_rng(1)
    by_x, by_y = (np.diag(np.geomspace(0.1, 10, d)) @ np.linalg.qr(rng.standard_normal((d, d)))[0] for d in (dx, dy))
    start = jax.jit(lambda x, y: gaussian_scores(fit(x, y), x, y))
    ours, theirs = start(x, y), start(np.float32(x @ by_x - 5.0), np.float32(y @ by_y + 2.0))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(start(y, x).T, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spread", [1, 30, 200])
def test_columns_that_nearly_determine_one_another_keep_their_nats(spread):
    """Directions of 1 / spread² of the largest variance, and 4.6 nats in each."""
    rho, rng = 0.99995, np.random.default_rng(0)
    x = rng.standard_normal((2_000, 3))
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(x.shape)
    mixed = np.float32(x @ np.diag(np.geomspace(1 / spread, 1, 3)) @ np.linalg.qr(rng.standard_normal((3, 3)))[0])
    found = np.float64(fit(mixed, np.float32(y)).correlations)
    expected = shrunk(canonical(mixed, np.float32(y)), 2_000, 3, 3)
    # Rounding, relative to 1 - s² = 1e-4: measured, six ulps of s = 1, twice that of s²; and the whitening matrix, of which
    # the covariances are made, has entries as large as the spread.
    kept = np.finfo(np.float32).eps * (20 + spread) / (1 - rho**2)
    np.testing.assert_allclose(np.log1p(-(found**2)), np.log1p(-(expected**2)), atol=kept)


@pytest.mark.parametrize(("n", "dx", "dy"), [(2_000, 2, 30), pytest.param(10_000, 5, 5, marks=slow)])
def test_independent_variables_have_correlation_zero(n, dx, dy):
    """But for the rare draw above the edge of the noise; unshrunk they would have dx dy / 2n nats."""
    found = np.array([fit(*map(np.float32, dependent(n, dx, dy, (), seed))).correlations for seed in range(20)])
    assert np.mean(found == 0) > 0.9
    assert -0.5 * np.log1p(-(found**2)).sum(axis=1).mean() < 0.02 * dx * dy / (2 * n)


@pytest.mark.parametrize(("n", "dim"), [(140, 20), pytest.param(300, 100, marks=slow)])
def test_with_few_rows_for_the_dimensions_noise_is_not_taken_for_dependence(n, dim):
    raw, ours = [], []
    for seed in range(20):
        x, y = dependent(n, dim, dim, (), seed)
        raw.append(-0.5 * np.log1p(-(canonical(x, y) ** 2)).sum())
        ours.append(-0.5 * np.log1p(-(np.float64(fit(np.float32(x), np.float32(y)).correlations) ** 2)).sum())
    assert np.mean(raw) > 1.5
    assert np.mean(ours) < 0.02 * np.mean(raw)


@pytest.mark.parametrize(("n", "dx", "dy"), [(300, 60, 60), pytest.param(800, 40, 320, marks=slow)])
def test_the_null_edge_is_that_of_independent_variables(n, dx, dy):
    """The largest of 20 draws lies a little below it: 10 % at (200, 10, 80), 4 % at four times all three."""
    largest = [canonical(*dependent(n, dx, dy, (), seed))[0] ** 2 for seed in range(20)]
    found = jax.jit(gaussian._null_edge)(n, min(dx, dy), max(dx, dy))
    np.testing.assert_allclose(found, edge(n, dx, dy), rtol=1e-5)
    assert np.mean([s / (1 - s) for s in largest]) == pytest.approx(float(found), rel=0.08)


@pytest.mark.parametrize("share", [1e-4, 1e-6, 1e-8])
def test_a_direction_of_little_variance_counts_like_any_other(share):
    """Two columns that differ by the square root of this share, and y tells what they differ by."""
    rng = np.random.default_rng(0)
    common, own, noise = rng.standard_normal((3, 3_000))
    x = np.float32(np.stack([common, common + share**0.5 * own], axis=1))
    y = np.float32((own + 0.3 * noise)[:, None])
    found = fit(x, y).correlations
    np.testing.assert_allclose(found, shrunk(canonical(x, y), 3_000, 2, 1), rtol=2e-3)


@pytest.mark.parametrize(
    ("n", "dx", "dy"), [(5, 2, 40), (1, 3, 3), pytest.param(40, 20, 20, marks=slow), pytest.param(2, 1, 1, marks=slow)]
)
def test_rows_that_are_no_more_than_the_columns_tell_nothing(n, dx, dy):
    """Then variables that have nothing to do with each other correlate perfectly."""
    x, y = map(np.float32, dependent(n, dx, dy, ()))
    fresh = [np.float32(rows) for rows in dependent(7, dx, dy, (), seed=1)]
    found, scores = jax.jit(lambda x, y: (fit(x, y), gaussian_scores(fit(x, y), *fresh)))(x, y)
    np.testing.assert_array_equal(found.correlations, 0.0)
    np.testing.assert_array_equal(scores, 0.0)


def test_without_hidden_layers_it_is_the_closed_form():
    x, y = draw_pairs(500, 2, 0.8)
    found = fit(x, y)
    assert "params" not in shapes(GaussianCritic(hidden=()), x, y)
    np.testing.assert_allclose(gaussian_scores(found, x, y), start_scores(found, x, y), rtol=1e-6, atol=1e-6)


def test_a_fit_by_hand_gives_the_log_ratio_of_the_task():
    task, rho = tasks.gaussian(3, 2.0), tasks.mi_to_rho(2.0, 3)
    x, y = draw_pairs(50, 3, rho)
    exact = jax.jit(task.log_ratio)(x[:, None], y[None])
    np.testing.assert_allclose(start_scores(fit_by_hand(np.full(3, rho), 3, 3), x, y), exact, rtol=1e-4, atol=1e-4)
    # In other coordinates, with the maps back as the whitening.
    rng = np.random.default_rng(0)
    by_x, by_y = (np.eye(3) + 0.3 * rng.standard_normal((3, 3)) for _ in range(2))
    found = fit_by_hand(np.full(3, rho), 3, 3, np.linalg.inv(by_x), np.linalg.inv(by_y))
    mixed = start_scores(found, np.float32(x @ by_x), np.float32(y @ by_y))
    np.testing.assert_allclose(mixed, exact, rtol=1e-3, atol=1e-3)


def test_coordinates_without_a_partner_do_not_enter():
    rho = tasks.mi_to_rho(1.0, 2)
    x, y = draw_pairs(50, 2, rho)
    wide = np.concatenate([y, np.float32(9.0 * np.random.default_rng(1).standard_normal((50, 3)))], axis=1)
    ours = start_scores(fit_by_hand(np.full(2, rho), 2, 5), x, wide)
    np.testing.assert_allclose(ours, log_ratio(np.full(2, rho), x, y), rtol=1e-4, atol=1e-4)


def test_with_many_rows_the_start_is_the_log_ratio():
    """An error as the law of maximum likelihood has it: E[(log r̂ - log r)²] is about parameters / n, here 27 / 100,000."""
    rho, n = tasks.mi_to_rho(2.0, 3), 100_000
    fresh = draw_pairs(1_000, 3, rho, seed=1)
    ours = gaussian_scores(fit(*draw_pairs(n, 3, rho)), *fresh)
    error = np.diagonal(ours - log_ratio(np.full(3, rho), *fresh))
    assert np.sqrt(np.mean(error**2)) < 3 * np.sqrt(27 / n)


def test_five_nats_in_one_pair():
    """1 - s² is 4.5e-5, of terms of 1: float32 keeps three digits of it."""
    rho, n = tasks.mi_to_rho(5.0, 1), 10_000
    x, y = draw_pairs(n, 1, rho)
    found = fit(x, y)
    s = canonical(x, y)[0]
    # Shrunk by less than the standard error of log(1 - s²), sqrt(8 / n) there.
    assert -0.5 * np.log1p(-(float(found.correlations[0]) ** 2)) == pytest.approx(-0.5 * np.log1p(-(s**2)), abs=0.01)
    fresh = draw_pairs(1_000, 1, rho, seed=1)
    ours = np.diagonal(gaussian_scores(found, *fresh))
    exact = np.diagonal(log_ratio([rho], *fresh))
    assert np.mean(ours) == pytest.approx(exact.mean(), abs=0.02)
    np.testing.assert_allclose(ours, exact, atol=0.3)


@pytest.mark.parametrize("columns", ["duplicate", "dependent", "constant", "many"])
def test_columns_that_add_nothing_change_nothing(columns):
    """They are no dimensions, so that they do not count in the shrinkage either."""
    x, y = dependent(1_000, 3, 4, (0.9, 0.6))
    extra = {
        "duplicate": x[:, :1],
        "dependent": x[:, :1] - 2 * x[:, 1:2],
        "constant": np.full((1_000, 1), 7.0),
        "many": np.concatenate([x, x, np.zeros((1_000, 2))], axis=1),
    }[columns]
    wide = np.float32(np.concatenate([x, extra], axis=1))
    found = jax.tree.map(np.asarray, fit(wide, np.float32(y)))
    expected = np.zeros(min(wide.shape[1], 4))
    expected[:3] = shrunk(canonical(x, y), 1_000, 3, 4)
    np.testing.assert_allclose(found.correlations, expected, rtol=1e-4, atol=1e-5)
    a = (wide - found.mean_x) @ found.whiten_x
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(np.cov(a.T, bias=True)))[-3:], 1.0, rtol=1e-3)
    assert np.linalg.matrix_rank(np.asarray(found.whiten_x), tol=1e-3) == 3


def test_of_a_variable_that_does_not_vary_nothing_is_left():
    x, (_, y) = np.full((50, 2), 3.0, np.float32), map(np.float32, dependent(50, 2, 2, ()))
    found = fit(x, y)
    np.testing.assert_array_equal(found.correlations, 0.0)
    np.testing.assert_array_equal(found.whiten_x, 0.0)
    np.testing.assert_array_equal(gaussian_scores(found, x, y), 0.0)


@pytest.fixture(scope="module")
def start():
    """(critic, params, x, y) at the start, fitted to more rows than are given."""
    x, y = map(np.float32, dependent(300, 3, 2, (0.9, 0.5)))
    critic = GaussianCritic(hidden=(8, 8))
    return critic, jax.tree.map(np.asarray, jax.jit(critic.init)(jax.random.key(0), x, y)), x[:20], y[:20]


def test_the_network_starts_at_zero(start):
    critic, params, x, y = start
    found = params["gaussian"]["fit"]
    a, b = (x - found.mean_x) @ found.whiten_x, (y - found.mean_y) @ found.whiten_y
    expected = log_ratio(found.correlations, a, b)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(jax.jit(critic.apply)(params, x, y), expected, rtol=1e-4, atol=1e-4)


def test_the_fit_has_no_gradient_and_the_network_has(start):
    critic, params, x, y = start
    gradient = jax.jit(jax.grad(lambda p: bounds.logistic_objective(critic.apply(p, x, y))))
    first = gradient(params)
    for leaf in jax.tree.leaves(first["gaussian"]):
        np.testing.assert_array_equal(leaf, 0.0)
    # Of a last layer of zeros only its own gradient passes; once it has moved, that of the others does.
    assert np.abs(first["params"]["Dense_1"]["kernel"]).max() > 0
    later = gradient(moved(params))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(later["params"]))
    for leaf in jax.tree.leaves(later["gaussian"]):
        np.testing.assert_array_equal(leaf, 0.0)


def test_a_matrix_is_made_of_pairs(start):
    critic, params, x, y = start
    params = moved(params)
    matrix = jax.jit(critic.apply)(params, x, y[:7])
    assert matrix.shape == (20, 7)
    one = jax.jit(lambda row_x, row_y: critic.apply(params, row_x, row_y)[0, 0])
    pairs = [[one(x[i : i + 1], y[j : j + 1]) for j in range(7)] for i in range(20)]
    np.testing.assert_allclose(matrix, pairs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("x_shape", "y_shape"), [((60,), (60, 4, 5)), pytest.param((60, 3, 2), (60,), marks=slow)])
def test_rows_of_any_shape_are_flattened(x_shape, y_shape):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape, np.float32) for shape in (x_shape, y_shape))
    critic = GaussianCritic(hidden=(8,))
    params = moved(shapes(critic, x, y), ("params", "gaussian"))
    apply = jax.jit(critic.apply)
    scores = apply(params, x[:5], y[:6])
    assert scores.shape == (5, 6)
    np.testing.assert_array_equal(apply(params, x[:5].reshape(5, -1), y[:6].reshape(6, -1)), scores)


def test_the_length_of_a_pair_is_its_mahalanobis_distance():
    """Of which the log ratio of every elliptical law is a function."""
    s, rng = np.array([0.9, 0.4]), np.random.default_rng(0)
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((6, 2))
    covariance = np.eye(5)
    covariance[:2, 3:] = covariance[3:, :2] = np.diag(s)
    pairs = np.concatenate([np.repeat(a, 6, axis=0), np.tile(b, (5, 1))], axis=1)
    expected = np.einsum("ki,ij,kj->k", pairs, np.linalg.inv(covariance), pairs).reshape(5, 6)
    params = {"gaussian": {"fit": fit_by_hand(s, 3, 2)}}

    @jax.jit
    def measure(a, b):
        return gaussian._gaussian(*GaussianCritic(hidden=()).apply(params, a, b, method="encode"))[1]

    np.testing.assert_allclose(5 * measure(np.float32(a), np.float32(b)), expected, rtol=1e-4, atol=1e-4)


def test_of_normal_rows_the_features_have_unit_scale():
    """z, (z² - 1) / 2 and the uniform: means 0, variances 1, 1/2 and 1; and 2 log(1 + |z|² / d) of the length."""
    z = np.float32(np.random.default_rng(0).standard_normal((100_000, 2)))
    made = np.float64(jax.jit(gaussian.row_features)(z, (z**2).sum(axis=1)))
    np.testing.assert_allclose(made.mean(axis=0)[:6], 0.0, atol=0.02)
    np.testing.assert_allclose(made.var(axis=0)[:6], [1, 1, 0.5, 0.5, 1, 1], rtol=0.03)
    assert np.abs(made[:, 4:6]).max() <= np.sqrt(3) + 1e-5
    np.testing.assert_allclose(made[:, 6], 2 * np.log1p((np.float64(z) ** 2).sum(axis=1) / 2), rtol=1e-5, atol=1e-6)


def test_accelerators_keep_the_digits_of_the_gaussian_part(start):
    """At 5 nats terms of 1 / (1 - s²) = 22,000 cancel: products in tensor-float, of 10 bits, would leave nothing."""
    critic, params, x, y = start
    text = export.export(jax.jit(critic.apply), platforms=["cuda"])(params, x, y).mlir_module()
    products = [line for line in text.splitlines() if "dot_general" in line]
    # Two that whiten, three in the exponent; the network's have the platform's default.
    assert sum("HIGHEST" in line for line in products) == 5
