import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax.networks import ConditionalGaussian, JointRealNVP, RealNVP, Standardize
from tests.networks.test_bijections import randomised

SMALL = (16, 16)
normal = jax.scipy.stats.norm.logpdf


def banana():
    """(sample, log density) of x_0 normal, and x_1 normal about x_0² - 1."""

    def sample(key, n):
        noise = jax.random.normal(key, (n, 2))
        return jnp.stack([noise[:, 0], 0.5 * noise[:, 1] + noise[:, 0] ** 2 - 1.0], axis=1)

    return sample, lambda x: normal(x[:, 0]) + normal(x[:, 1], x[:, 0] ** 2 - 1.0, 0.5)


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
        (RealNVP(), banana(), 2_000, 1e-3),
        (RealNVP(), ring(scale=0.5), 2_000, 1e-3),
        (RealNVP(layers=8), ring(scale=0.3), 5_000, 3e-3),  # modes 5 standard deviations apart ask for more layers
    ],
    ids=["banana", "ring", "ring of separate modes"],
)
def test_learns_a_density_known_in_closed_form(flow, density, steps, learning_rate):
    """Must-show 2: a held-out log-likelihood within 0.1 nats of the true one; and its samples are of that density."""
    sample, log_density = density
    params = trained(flow, sample, steps, learning_rate)
    rows = sample(jax.random.key(1), 100_000)
    shortfall = log_density(rows) - flow.apply(params, rows)
    assert -4 * shortfall.std() / len(rows) ** 0.5 < shortfall.mean() < 0.1
    drawn = flow.apply(params, jax.random.key(2), (100_000, 2), method="sample")
    np.testing.assert_allclose(jnp.cov(drawn.T), jnp.cov(rows.T), atol=0.15)
    # Draws of a density that is off by a KL divergence: the true one must find them likely as well.
    assert abs(log_density(drawn).mean() - log_density(rows).mean()) < 0.3


@pytest.mark.parametrize("context", [None, [0.5, -1.0, 2.0]])
@pytest.mark.parametrize("flow", [RealNVP(hidden=SMALL), ConditionalGaussian(hidden=SMALL)], ids=["realnvp", "gaussian"])
def test_density_integrates_to_one(flow, context):
    """Must-show 1, in two dimensions at random parameters.

    Such a flow's draws reach a thousand times farther than their quartiles, so the grid's steps grow with the distance from
    the median, as sinh does.
    """
    with jax.enable_x64(True):
        given = None if context is None else jnp.array([context])
        params = randomised(flow.init(jax.random.key(0), jnp.zeros((1, 2)), given), jax.random.key(1))
        many = None if given is None else jnp.broadcast_to(given, (20_000, 3))
        drawn = flow.apply(params, jax.random.key(2), (20_000, 2), many, method="sample")
        low, centre, high = jnp.quantile(drawn, jnp.array([0.25, 0.5, 0.75]), axis=0)
        spread = high - low
        reach = jnp.arcsinh(3 * jnp.abs((drawn - centre) / spread).max(axis=0))
        steps = jnp.linspace(-reach, reach, 2_000)  # (2000, 2), one column for each axis
        axes, widths = centre + spread * jnp.sinh(steps), spread * jnp.cosh(steps) * (steps[1] - steps[0])

        def column(number):
            points = jnp.stack([jnp.full(len(axes), axes[number, 0]), axes[:, 1]], axis=1)
            many = None if given is None else jnp.broadcast_to(given, (len(axes), 3))
            return (jnp.exp(flow.apply(params, points, many)) * widths[:, 1]).sum() * widths[number, 0]

        total = jax.lax.map(column, jnp.arange(len(axes))).sum()
        assert total == pytest.approx(1.0, abs=1e-3)


def test_log_prob_is_that_of_the_normals_that_samples_are_made_of():
    flow = RealNVP(hidden=SMALL)
    context = jax.random.normal(jax.random.key(0), (50, 2))
    params = randomised(flow.init(jax.random.key(0), jnp.zeros((50, 3)), context), jax.random.key(1))
    drawn = flow.apply(params, jax.random.key(2), (50, 3), context, method="sample")
    z, log_det = flow.apply(params, drawn, context, method="forward_and_log_det")
    np.testing.assert_allclose(z, jax.random.normal(jax.random.key(2), (50, 3)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(flow.apply(params, drawn, context), normal(z).sum(axis=1) + log_det, rtol=1e-5)


def test_conditional_gaussian_is_numpys():
    rng = np.random.default_rng(0)
    x, context = rng.standard_normal((2, 9, 3))
    density = ConditionalGaussian(hidden=())
    kernel, bias = 0.5 * rng.standard_normal((3, 6)), 0.1 * rng.standard_normal(6)
    layer = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    params = {"params": {"affine": {"conditioner": {"Dense_0": layer}}}}
    shift, raw = np.split(context @ kernel + bias, 2, axis=1)
    sigma = np.exp(-6 * np.tanh(raw / 6))
    mean = -sigma * shift
    expected = (-0.5 * ((x - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(density.apply(params, jnp.float32(x), jnp.float32(context)), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 4, 5), (6, 2, 3, 2)])
def test_any_row_shape(shape):
    flow, rows = RealNVP(hidden=SMALL), jax.random.normal(jax.random.key(0), shape)
    context = rows[..., None]
    params = flow.init(jax.random.key(0), rows, context)
    np.testing.assert_allclose(flow.apply(params, rows, context), normal(rows).reshape(6, -1).sum(axis=1), rtol=1e-5)
    assert flow.apply(params, jax.random.key(1), shape, context, method="sample").shape == shape
    joint = JointRealNVP(hidden=SMALL)
    assert joint.apply(joint.init(jax.random.key(0), rows, context), rows, context).shape == (6,)


def test_in_one_dimension_it_is_a_gaussian():
    flow = RealNVP(layers=2, hidden=SMALL)
    params = trained(flow, lambda key, n: 3.0 + 2.0 * jax.random.normal(key, (n, 1)), 1_000, 1e-2)
    points = jnp.linspace(-3.0, 9.0, 20)[:, None]
    np.testing.assert_allclose(flow.apply(params, points), normal(points[:, 0], 3.0, 2.0), atol=0.1)


@pytest.mark.parametrize("joint", [False, True])
def test_standardisation_counts_in_the_density_at_any_parameters(joint):
    """log p(x) = log p_z((x - mean) / scale) - Σ log scale, the flow coming after the standardisation."""
    rows = 100.0 + 50.0 * jax.random.normal(jax.random.key(0), (1_000, 3))
    fixed = Standardize.of(rows)
    z, log_det = fixed.forward_and_log_det(rows)
    split = (lambda r: (r[:, :1], r[:, 1:])) if joint else (lambda r: (r,))
    kind = JointRealNVP if joint else RealNVP
    start = kind(hidden=SMALL).init(jax.random.key(0), *split(z))
    for params in (start, randomised(start, jax.random.key(1), gain=0.5)):
        expected = kind(hidden=SMALL).apply(params, *split(z)) + log_det
        ours = kind(hidden=SMALL, standardize=fixed).apply(params, *split(rows))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    if not joint:
        drawn = RealNVP(standardize=fixed).apply(
            RealNVP().init(jax.random.key(0), z), jax.random.key(1), (100_000, 3), method="sample"
        )
        np.testing.assert_allclose(drawn.mean(axis=0), rows.mean(axis=0), atol=1.0)
        np.testing.assert_allclose(drawn.std(axis=0), rows.std(axis=0), rtol=0.02)


DENSITIES = {
    "realnvp": (RealNVP(hidden=SMALL), 1),
    "conditional": (RealNVP(hidden=SMALL), 2),
    "gaussian": (ConditionalGaussian(hidden=SMALL), 2),
    "joint": (JointRealNVP(hidden=SMALL), 2),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_half_precision_and_numpy_rows_are_scored_in_float32_and_integers_refused(name):
    density, arguments = DENSITIES[name]
    rows = [jax.random.normal(jax.random.key(k), (6, 3)).astype(jnp.bfloat16) for k in range(arguments)]
    plain = [row.astype(jnp.float32) for row in rows]
    params = randomised(density.init(jax.random.key(0), *plain), jax.random.key(1))
    expected = density.apply(params, *plain)
    assert expected.dtype == jnp.float32
    np.testing.assert_array_equal(density.apply(params, *rows), expected)
    np.testing.assert_array_equal(density.apply(params, *map(np.asarray, plain)), expected)
    for kind in (jnp.int32, jnp.uint8, jnp.complex64):
        with pytest.raises(ValueError, match=f"x must be floating, got dtype {kind.__name__}"):
            density.apply(params, plain[0].astype(kind), *plain[1:])


@pytest.mark.parametrize("name", ["conditional", "gaussian", "joint"])
def test_rows_that_do_not_pair_are_refused(name):
    density, rows = DENSITIES[name][0], jnp.ones((6, 3))
    params = density.init(jax.random.key(0), rows, rows)
    for one, other in ((rows, rows[:1]), (rows[:1], rows), (rows, rows[:5]), (rows[:0], rows[:0])):
        with pytest.raises(ValueError, match=r"must hold the same number of rows, at least 1, got \[\d, \d\]"):
            density.apply(params, one, other)


def test_a_flow_fitted_with_a_context_is_not_used_without():
    params = ConditionalGaussian(hidden=SMALL).init(jax.random.key(0), jnp.ones((6, 3)), jnp.ones((6, 1)))
    with pytest.raises(Exception, match="unconditional"):  # Flax's own error: there are no such parameters
        ConditionalGaussian(hidden=SMALL).apply(params, jnp.ones((6, 3)))


@pytest.mark.parametrize("kind", [jnp.int32, bool])
def test_a_context_may_hold_integers(kind):
    rows, context = jnp.ones((6, 3)), jnp.arange(6) % 2
    density = ConditionalGaussian(hidden=SMALL)
    params = randomised(density.init(jax.random.key(0), rows, context.astype(float)), jax.random.key(1))
    np.testing.assert_array_equal(
        density.apply(params, rows, context.astype(kind)), density.apply(params, rows, context.astype(float))
    )
    with pytest.raises(ValueError, match="context must be floating, got dtype complex64"):
        density.apply(params, rows, context.astype(complex))


def test_what_to_draw_is_checked():
    density, context = ConditionalGaussian(hidden=SMALL), jnp.ones((6, 1))
    params = density.init(jax.random.key(0), jnp.ones((6, 3)), context)
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


@pytest.mark.parametrize(("dx", "dy"), [(2, 8), (4, 12), (5, 1)])
def test_the_joint_flow_sets_x_against_y_first(dx, dy):
    """Where x and y part, so do the halves; a flow cut in the middle would have x_k and y_k on one side."""
    density = JointRealNVP(layers=1, hidden=SMALL)
    x, y = jax.random.normal(jax.random.key(0), (9, dx)), jax.random.normal(jax.random.key(1), (9, dy))
    params = randomised(density.init(jax.random.key(0), x, y), jax.random.key(1))
    # One layer leaves x as it is, and moves y by what x says: log p = log N(x) + log q(y | x).
    of_y = density.apply(params, x, y) - normal(x).sum(axis=1)
    inner = {"params": params["params"]["RealNVP_0"]["couplings_0"]}
    conditional = ConditionalGaussian(hidden=SMALL, log_scale_bound=3.0)
    np.testing.assert_allclose(of_y, conditional.apply(inner, y, x), rtol=1e-3, atol=1e-4)
