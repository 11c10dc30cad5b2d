import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from mi_jax.networks import ConditionalGaussian, JointRealNVP, RealNVP, Standardize
from tests.networks.test_bijections import draw_parameters, draw_rows

SMALL = (16, 16)
TINY = {"layers": 2, "hidden": (4,)}  # for what does not depend on the size; compiles faster
normal = jax.scipy.stats.norm.logpdf


def banana():
    """(sample, log density) of x_0 normal, and x_1 normal about x_0² - 1."""

    def sample(key, n):
        noise = jax.random.normal(key, (n, 2))
        return jnp.stack([noise[:, 0], 0.5 * noise[:, 1] + noise[:, 0] ** 2 - 1.0], axis=1)

    return sample, lambda x: normal(x[:, 0]) + normal(x[:, 1], x[:, 0] ** 2 - 1.0, 0.5)


def fan():
    """(sample, log density) of x_0 normal, and x_1 normal about x_0 with a standard deviation of exp(0.4 x_0)."""

    def sample(key, n):
        noise = jax.random.normal(key, (n, 2))
        return jnp.stack([noise[:, 0], noise[:, 0] + jnp.exp(0.4 * noise[:, 0]) * noise[:, 1]], axis=1)

    return sample, lambda x: normal(x[:, 0]) + normal(x[:, 1], x[:, 0], jnp.exp(0.4 * x[:, 0]))


def ring(scale, modes=8, radius=2.0):
    """(sample, log density) of a mixture of Gaussians on a circle."""
    angle = 2 * np.pi * jnp.arange(modes) / modes
    centres = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)

    def sample(key, n):
        mode_key, noise_key = jax.random.split(key)
        return centres[jax.random.randint(mode_key, (n,), 0, modes)] + scale * jax.random.normal(noise_key, (n, 2))

    def log_density(x):
        return jax.nn.logsumexp(normal(x[:, None], centres, scale).sum(axis=-1), axis=1) - jnp.log(modes)

    return sample, log_density


def trained(flow, sample, steps, learning_rate):
    """The flow's parameters after maximum likelihood on fresh batches of 256."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @jax.jit
    def train(key):
        def step(carry, number):
            params, state = carry
            rows = sample(jax.random.fold_in(key, number), 256)
            updates, state = optimizer.update(jax.grad(lambda p: -flow.apply(p, rows).mean())(params), state)
            return (optax.apply_updates(params, updates), state), None

        params = flow.init(key, sample(key, 1))
        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[0][0]

    return train(jax.random.key(0))


@pytest.mark.parametrize(
    ("flow", "density", "steps", "learning_rate"),
    [
        pytest.param(RealNVP(layers=1, hidden=(8,)), fan(), 300, 2e-2, id="fan"),
        pytest.param(RealNVP(), banana(), 2_000, 1e-3, id="banana", marks=pytest.mark.slow),
        pytest.param(RealNVP(), ring(scale=0.5), 2_000, 1e-3, id="ring", marks=pytest.mark.slow),
        # Modes 5 standard deviations apart ask for more layers.
        pytest.param(RealNVP(layers=8), ring(scale=0.3), 5_000, 3e-3, id="ring of separate modes", marks=pytest.mark.slow),
    ],
)
def test_learns_a_density_known_in_closed_form(flow, density, steps, learning_rate):
    """A held-out log-likelihood within 0.1 nats of the true one; and its samples are of that density."""
    sample, log_density = density
    params = trained(flow, sample, steps, learning_rate)

    @jax.jit
    def compare(params):
        rows = sample(jax.random.key(1), 100_000)
        drawn = flow.apply(params, jax.random.key(2), (100_000, 2), method="sample")
        return rows, log_density(rows), flow.apply(params, rows), drawn, log_density(drawn)

    rows, of_rows, learned, drawn, of_drawn = map(np.float64, compare(params))
    shortfall = of_rows - learned
    assert -4 * shortfall.std() / len(rows) ** 0.5 < shortfall.mean() < 0.1
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=0.15)
    # Draws of a density that is off by a KL divergence: the true one must find them likely as well.
    assert abs(of_drawn.mean() - of_rows.mean()) < 0.3


@pytest.mark.parametrize(
    ("kind", "context", "points"),
    [
        (RealNVP, [0.5, -1.0, 2.0], 500),
        (ConditionalGaussian, None, 500),
        *(
            pytest.param(kind, context, 2_000, marks=pytest.mark.slow)
            for kind in (RealNVP, ConditionalGaussian)
            for context in (None, [0.5, -1.0, 2.0])
        ),
    ],
)
def test_density_integrates_to_one(kind, context, points):
    """In two dimensions, at random parameters.

    Such a flow's draws reach a thousand times farther than their quartiles, so the grid's steps grow with the distance from
    the median, as sinh does.
    """
    flow = kind(hidden=SMALL)

    def repeat(rows):
        return None if context is None else jnp.broadcast_to(jnp.array(context), (rows, 3))

    @jax.jit
    def integrate(params, axes, widths):
        def column(place):
            rows = jnp.stack([jnp.full(points, axes[place, 0]), axes[:, 1]], axis=1)
            return (jnp.exp(flow.apply(params, rows, repeat(points))) * widths[:, 1]).sum() * widths[place, 0]

        return jax.lax.map(column, jnp.arange(points)).sum()

    with jax.enable_x64(True):
        (normals,) = draw_rows(20_000, 2, seed=2, dtype=np.float64)
        # Not every random flow: some have a ridge between two points of the grid, which then says 1.002 instead of 1.
        params = draw_parameters(flow, normals, repeat(20_000), seed=2)
        invert = jax.jit(functools.partial(flow.apply, method="inverse_and_log_det"))
        drawn = np.asarray(invert(params, normals, repeat(20_000))[0])
        low, centre, high = np.quantile(drawn, [0.25, 0.5, 0.75], axis=0)
        spread = high - low
        reach = np.arcsinh(3 * np.abs((drawn - centre) / spread).max(axis=0))
        steps = np.linspace(-reach, reach, points)  # (points, 2), one column for each axis
        axes, widths = centre + spread * np.sinh(steps), spread * np.cosh(steps) * (steps[1] - steps[0])
        assert float(integrate(params, axes, widths)) == pytest.approx(1.0, abs=1e-3)


def test_log_prob_is_that_of_the_normals_that_samples_are_made_of():
    flow, (context,) = RealNVP(layers=3, hidden=SMALL), draw_rows(50, 2)
    params = draw_parameters(flow, np.zeros((50, 3), np.float32), context, seed=1)

    @jax.jit
    def draw(params):
        drawn = flow.apply(params, jax.random.key(2), (50, 3), context, method="sample")
        z, log_det = flow.apply(params, drawn, context, method="forward_and_log_det")
        return z, log_det, flow.apply(params, drawn, context), jax.random.normal(jax.random.key(2), (50, 3))

    z, log_det, log_prob, normals = draw(params)
    np.testing.assert_allclose(z, normals, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(z).sum(axis=1) + log_det, rtol=1e-5)


def test_conditional_gaussian_is_numpys():
    rng = np.random.default_rng(0)
    x, context = rng.standard_normal((2, 9, 3))
    density = ConditionalGaussian(hidden=())
    kernel, bias = 0.5 * rng.standard_normal((3, 6)), 0.1 * rng.standard_normal(6)
    layer = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
    params = {"params": {"affine": {"conditioner": {"Dense_0": layer}}}}
    shift, raw = np.split(context @ kernel + bias, 2, axis=1)
    sigma = np.exp(-6 * np.tanh(raw / 6))
    mean = -sigma * shift
    expected = (-0.5 * ((x - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(jax.jit(density.apply)(params, np.float32(x), np.float32(context)), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [(6,), (6, 2, 3, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(6, 3), (6, 4, 5)])]
)
def test_any_row_shape(shape):
    """Rows of any shape are scored as their flattened vectors, and draws have the shape that is asked for."""
    rows = np.random.default_rng(0).standard_normal(shape, np.float32)
    flow, joint = RealNVP(**TINY), JointRealNVP(**TINY)
    of_flow, of_joint = (draw_parameters(density, rows, rows[..., None]) for density in (flow, joint))

    @jax.jit
    def score(rows, context):
        return flow.apply(of_flow, rows, context), joint.apply(of_joint, rows, context)

    flat = rows.reshape(6, -1)
    for ours, expected in zip(score(rows, rows[..., None]), score(flat, flat), strict=True):
        assert ours.shape == (6,)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    drawn = jax.eval_shape(lambda key: flow.apply(of_flow, key, shape, rows[..., None], method="sample"), jax.random.key(1))
    assert drawn.shape == shape


def test_in_one_dimension_it_is_a_gaussian():
    flow = RealNVP(layers=2, hidden=(4,))
    params = trained(flow, lambda key, n: 3.0 + 2.0 * jax.random.normal(key, (n, 1)), 400, 1e-2)
    points = np.linspace(-3.0, 9.0, 20, dtype=np.float32)[:, None]
    np.testing.assert_allclose(jax.jit(flow.apply)(params, points), stats.norm.logpdf(points[:, 0], 3.0, 2.0), atol=0.1)


@pytest.mark.parametrize("joint", [False, True])
def test_standardisation_counts_in_the_density_at_any_parameters(joint):
    """log p(x) = log p_z((x - mean) / scale) - Σ log scale, the flow coming after the standardisation."""
    rows = np.float32(100.0 + 50.0 * np.random.default_rng(0).standard_normal((1_000, 3)))
    fixed = Standardize.of(rows)
    split = (lambda r: (r[:, :1], r[:, 1:])) if joint else (lambda r: (r,))
    kind = JointRealNVP if joint else RealNVP
    plain, standardized = kind(**TINY), kind(**TINY, standardize=fixed)

    @jax.jit
    def score(params):
        z, log_det = fixed.forward_and_log_det(rows)
        return standardized.apply(params, *split(rows)), plain.apply(params, *split(z)) + log_det

    for gain in (0.0, 0.5):
        params = draw_parameters(plain, *split(rows), seed=1, gain=gain)
        np.testing.assert_allclose(*score(params), rtol=1e-4, atol=1e-4)
    if not joint:
        draw = [functools.partial(flow.apply, method="sample") for flow in (standardized, plain)]
        ours, expected = jax.jit(lambda params: [each(params, jax.random.key(1), (50, 3)) for each in draw])(params)
        np.testing.assert_allclose(ours, expected * fixed.scale + fixed.mean, rtol=1e-4)


DENSITIES = {
    "realnvp": (RealNVP(**TINY), 1),
    "conditional": (RealNVP(**TINY), 2),
    "gaussian": (ConditionalGaussian(hidden=(4,)), 2),
    "joint": (JointRealNVP(**TINY), 2),
}


@pytest.mark.parametrize(
    "name", ["realnvp", "joint", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conditional", "gaussian"))]
)
def test_half_precision_and_numpy_rows_are_scored_in_float32_and_integers_refused(name):
    density, arguments = DENSITIES[name]
    rows = [jnp.asarray(row, jnp.bfloat16) for row in draw_rows(6, 3, 3)[:arguments]]
    plain = [row.astype(jnp.float32) for row in rows]
    params = draw_parameters(density, *plain, seed=1)
    expected = density.apply(params, *plain)
    assert expected.dtype == jnp.float32
    np.testing.assert_array_equal(density.apply(params, *rows), expected)
    np.testing.assert_array_equal(density.apply(params, *map(np.asarray, plain)), expected)
    for kind in (jnp.int32, jnp.uint8, jnp.complex64):
        with pytest.raises(ValueError, match=f"x must be floating, got dtype {kind.__name__}"):
            density.apply(params, np.asarray(plain[0]).astype(kind), *plain[1:])


@pytest.mark.parametrize("name", ["conditional", "gaussian", "joint"])
def test_rows_that_do_not_pair_are_refused(name):
    density, rows = DENSITIES[name][0], np.ones((6, 3), np.float32)
    params = draw_parameters(density, rows, rows)
    for one, other in ((rows, rows[:1]), (rows[:1], rows), (rows, rows[:5]), (rows[:0], rows[:0])):
        with pytest.raises(ValueError, match=r"must hold the same number of rows, at least 1, got \[\d, \d\]"):
            density.apply(params, one, other)


def test_a_flow_fitted_with_a_context_is_not_used_without():
    density, rows = ConditionalGaussian(hidden=SMALL), np.ones((6, 3), np.float32)
    params = draw_parameters(density, rows, rows[:, :1])
    with pytest.raises(Exception, match="unconditional"):  # Flax's own error: there are no such parameters
        density.apply(params, rows)


@pytest.mark.parametrize("kind", [np.int32, bool])
def test_a_context_may_hold_integers(kind):
    rows, context = np.ones((6, 3), np.float32), np.float32(np.arange(6) % 2)
    density = ConditionalGaussian(hidden=(4,))
    params = draw_parameters(density, rows, context, seed=1)
    score = jax.jit(density.apply)
    np.testing.assert_array_equal(score(params, rows, context.astype(kind)), score(params, rows, context))
    with pytest.raises(ValueError, match="context must be floating, got dtype complex64"):
        density.apply(params, rows, context.astype(np.complex64))


def test_what_to_draw_is_checked():
    density, context = ConditionalGaussian(hidden=SMALL), np.ones((6, 1), np.float32)
    params = draw_parameters(density, np.ones((6, 3), np.float32), context)
    for shape, error, message in (
        (5, TypeError, "shape must be that of the rows"),
        ((5, 3), ValueError, "5 draws .* got 6"),
    ):
        with pytest.raises(error, match=message):
            density.apply(params, jax.random.key(0), shape, context, method="sample")


@pytest.mark.parametrize("layers", [0, -1])
def test_a_flow_has_layers(layers):
    with pytest.raises(ValueError, match=f"layers must be at least 1, got {layers}"):
        RealNVP(layers=layers).init(jax.random.key(0), jnp.ones((1, 2)))


@pytest.mark.parametrize(("dx", "dy"), [(2, 8), (5, 1), pytest.param(4, 12, marks=pytest.mark.slow)])
def test_the_joint_flow_sets_x_against_y_first(dx, dy):
    """Where x and y part, so do the halves; a flow cut in the middle would have x_k and y_k on one side."""
    density = JointRealNVP(layers=1, hidden=SMALL)
    conditional = ConditionalGaussian(hidden=SMALL, log_scale_bound=3.0)
    x, y = draw_rows(9, dx, dy)
    params = draw_parameters(density, x, y, seed=1)
    inner = {"params": params["params"]["RealNVP_0"]["couplings_0"]}
    of_both, of_y = jax.jit(lambda: (density.apply(params, x, y), conditional.apply(inner, y, x)))()
    # One layer leaves x as it is, and moves y by what x says: log p = log N(x) + log q(y | x).
    np.testing.assert_allclose(of_both - stats.norm.logpdf(x).sum(axis=1), of_y, rtol=1e-3, atol=1e-4)
