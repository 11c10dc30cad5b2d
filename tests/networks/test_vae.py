import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy import special, stats

from mi_jax import models, training
from mi_jax.networks import MLP, VAE, ConvEncoder, vae

SMALL = {"channels": (4, 6), "hidden": (16,)}


def images(n, *shape, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (n, *shape), np.uint8)


def log_probability(module, params, *rows, key=1):
    return module.apply(params, *rows, rngs={"sample": jax.random.key(key)})


@pytest.mark.parametrize("levels", [1, 7, 255])
@pytest.mark.parametrize(
    ("log_alpha", "log_beta"), [(0.0, 0.0), (-3.0, 1.0), (5.0, 6.0), (-11.0, 0.5), (3.0, -8.0), (7.0, 7.0)]
)
def test_beta_binomial_is_scipys_and_sums_to_1(levels, log_alpha, log_beta):
    values = np.arange(levels + 1)
    found = vae.beta_binomial(jnp.asarray(values), levels, jnp.float32(log_alpha), jnp.float32(log_beta))
    expected = stats.betabinom.logpmf(values, levels, np.exp(log_alpha), np.exp(log_beta))
    # Of lgamma's values float32 keeps 1e-7 relative, and the largest is lgamma(N + α + β).
    rounding = 4 * np.finfo(np.float32).eps * special.gammaln(levels + np.exp(log_alpha) + np.exp(log_beta) + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 + rounding)
    assert special.logsumexp(np.float64(found)) == pytest.approx(0.0, abs=1e-4 + rounding)


def test_log_gamma_and_its_gradient_are_scipys():
    x = np.float32(np.exp(np.linspace(vae.LOWEST, np.log(1e4), 1_000)))
    np.testing.assert_allclose(vae._log_gamma(x), special.gammaln(np.float64(x)), rtol=2e-6, atol=2e-6)
    slope = jax.vmap(jax.grad(vae._log_gamma))(x)
    np.testing.assert_allclose(slope, special.digamma(np.float64(x)), rtol=2e-6, atol=2e-6)


def test_a_pixel_can_be_certain_and_none_is_outside_of_the_levels():
    of = lambda value, alpha, beta: float(vae.beta_binomial(jnp.array(value), 255, jnp.array(alpha), jnp.array(beta)))  # noqa: E731
    assert of(0, -50.0, 0.0) == pytest.approx(0.0, abs=1e-4)
    assert of(255, 0.0, -50.0) == pytest.approx(0.0, abs=1e-4)
    assert of(256, 0.0, 0.0) == of(-1, 0.0, 0.0) == -np.inf


@pytest.mark.parametrize("value", [0, 3, 128, 255])
def test_beta_binomials_gradient_is_that_of_float64_finite_differences(value):
    at, step = np.array([0.7, -1.3]), 1e-5

    def exact(logs):
        return stats.betabinom.logpmf(value, 255, *np.exp(logs))

    found = jax.grad(lambda logs: vae.beta_binomial(jnp.array(value), 255, logs[0], logs[1]))(jnp.float32(at))
    expected = [(exact(at + step * unit) - exact(at - step * unit)) / (2 * step) for unit in np.eye(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decoder", [(12,), None])
@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3), (9, 13, 2)])
def test_one_log_probability_an_image_of_any_size(decoder, shape):
    module, rows = VAE(decoder=decoder, **SMALL), images(5, *shape)
    params = module.init(jax.random.key(0), rows)
    found = log_probability(module, params, rows)
    assert found.shape == (5,)
    assert np.all(np.isfinite(found))
    assert np.all(found < 0)


def shapes_of(module, rows):
    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(module.init, jax.random.key(0), rows)["params"])


def test_the_networks_are_the_papers():
    shapes = shapes_of(VAE(), images(1, 28, 28))
    assert shapes["encoder"]["Dense_1"]["kernel"] == (1024, 20)
    assert [shapes["decoder"][f"Dense_{k}"]["kernel"] for k in range(3)] == [(10, 400), (400, 400), (400, 28 * 28 * 2)]
    mirror = shapes_of(VAE(decoder=None), images(1, 32, 32, 3))["decoder"]
    assert mirror["Dense_0"]["kernel"] == (10, 1024)
    assert mirror["Dense_1"]["kernel"] == (1024, 8 * 8 * 128)
    assert [mirror[f"ConvTranspose_{k}"]["kernel"] for k in range(2)] == [(5, 5, 64, 128), (5, 5, 6, 64)]


def decoded(module, params, z, shape):
    """Log α and log β of every pixel."""
    mlp = MLP(module.decoder, 2 * np.prod(shape))
    return mlp.apply({"params": params["params"]["decoder"]}, jnp.float32(z)).reshape(-1, *shape, 2)


def exact(module, params, rows):
    """log p(x) of a VAE with one latent, by a sum over a fine grid of z."""
    z = np.linspace(-8, 8, 4_001)
    shape = (*rows.shape[1:], 1)
    raw = decoded(module, params, z[:, None], shape)
    pixels = jnp.int32(rows)[:, None, ..., None]
    log_pixels = vae.beta_binomial(pixels, module.levels, raw[None, ..., 0], raw[None, ..., 1]).sum(axis=(2, 3, 4))
    return special.logsumexp(np.float64(log_pixels) + stats.norm.logpdf(z), axis=1) + np.log(z[1] - z[0])


@pytest.fixture(scope="module")
def one_latent():
    """A VAE of one latent that has learned a little, so that its posterior and its prior are not alike."""
    rows = images(64, 4, 4, high=4)
    rows[:32] += 2
    module = VAE(latents=1, levels=5, decoder=(8,), channels=(4,), hidden=(8,))
    state = module.init(jax.random.key(0), rows)
    optimizer = training.adam(1e-2)
    carry = (state, optimizer.init(state))

    @jax.jit
    def step(carry, key):
        params, opt = carry
        grads = jax.grad(lambda p: -module.apply(p, rows, rngs={"sample": key}).mean())(params)
        updates, opt = optimizer.update(grads, opt)
        return (jax.tree.map(jnp.add, params, updates), opt), None

    (params, _), _ = jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 400))
    return module, params, rows[:8]


def repeated(module, params, rows, number=2_000):
    """Mean over draws, and its standard error, of each image."""
    keys = jax.random.split(jax.random.key(2), number)
    found = np.float64(jax.jit(jax.vmap(lambda key: module.apply(params, rows, rngs={"sample": key})))(keys))
    return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(number)


def test_the_bounds_rise_with_the_number_of_samples_to_the_exact_value(one_latent):
    module, params, rows = one_latent
    truth = exact(module, params, rows)
    means = []
    for samples in (1, 4, 64):
        mean, error = repeated(module.clone(samples=samples), params, rows)
        assert np.all(mean < truth + 4 * error)
        means.append(mean)
    gaps = truth - np.array(means)
    assert np.all(gaps[0] > gaps[1])
    assert np.all(gaps[1] > gaps[2])
    assert gaps[0].mean() > 0.02  # there is a gap to close,
    assert gaps[2].mean() < 0.1 * gaps[0].mean()  # and it closes


def test_the_elbo_is_its_formula(one_latent):
    """Against the mean of log p(x, z) / q(z | x), whose divergence is drawn and not in closed form."""
    module, params, rows = one_latent
    encoder = ConvEncoder(2, module.channels, module.hidden)
    encoded = encoder.apply({"params": params["params"]["encoder"]}, jnp.float32(rows) / 5)
    mean, log_scale = np.split(np.float64(encoded), 2, axis=1)
    z = mean + np.exp(log_scale) * np.random.default_rng(0).standard_normal((4_000, *mean.shape))
    raw = decoded(module, params, z.reshape(-1, 1), (4, 4, 1)).reshape(4_000, len(rows), 4, 4, 1, 2)
    log_pixels = vae.beta_binomial(jnp.int32(rows)[None, ..., None], 5, raw[..., 0], raw[..., 1]).sum(axis=(2, 3, 4))
    log_q = stats.norm.logpdf(z, mean, np.exp(log_scale))[..., 0]
    terms = np.float64(log_pixels) + stats.norm.logpdf(z)[..., 0] - log_q
    found, error = repeated(module, params, rows)
    apart = np.hypot(error, terms.std(axis=0) / np.sqrt(len(terms)))
    assert np.all(np.abs(found - terms.mean(axis=0)) < 4 * apart)


def test_binary_images_have_bernoullis_likelihood():
    module = VAE(levels=1, latents=2, decoder=(4,), **SMALL)
    rows = images(3, 8, 8, high=2)
    params = module.init(jax.random.key(0), rows)
    # With all parameters 0 every pixel is 0 or 1 with probability ½, and the posterior is the prior.
    nothing = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(log_probability(module, nothing, rows), -64 * np.log(2), rtol=1e-5)


def test_images_are_stacked_over_their_channels():
    x, y = images(4, 8, 8), images(4, 8, 8, 2, seed=1)
    module = VAE(**SMALL)
    both = np.concatenate([x[..., None], y], axis=-1)
    params = module.init(jax.random.key(0), x, y)
    np.testing.assert_array_equal(log_probability(module, params, x, y), log_probability(module, params, both))


def test_gm_draws_afresh_each_step_and_its_log_ratio_is_a_function():
    module = VAE(latents=2, decoder=(8,), **SMALL)
    model = models.gm(module, module, module)
    x = images(6, 8, 8)
    params = model.init(jax.random.key(0), x, x)
    state = model.init_state(jax.random.key(1))
    first, (state, _) = model.loss(params, state, x, x)
    second, _ = model.loss(params, state, x, x)
    assert first != second
    np.testing.assert_array_equal(model.log_ratio(params, x, x), model.log_ratio(params, x, x))


def test_gm_of_vaes_trains():
    module = VAE(latents=2, levels=7, decoder=(16,), channels=(4,), hidden=(16,))
    data = jnp.asarray(images(64, 6, 6, high=8))

    def batch(key, step):
        rows = data[jax.random.randint(key, (16,), 0, 64)]
        return rows, rows.at[:, 3:].set(0)

    model = models.gm(module, module, module)
    recipe = training.trainer(model, batch, training.adam(1e-2))
    state = recipe.init(jax.random.key(0))
    before, _ = model.loss(state.params, state.model_state, data, data.at[:, 3:].set(0))
    state, history = jax.jit(lambda state: training.scan_steps(recipe, state, 100))(state)
    after, _ = model.loss(state.params, state.model_state, data, data.at[:, 3:].set(0))
    assert not state.diverged
    assert history["gm"].shape == (100,)
    # The zeros of y, 36 pixels in both p(y) and p(x, y), cost log 8 each before and nothing when learned.
    assert after < before - 0.8 * 36 * np.log(8)


def test_pixels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="images must be whole numbers, 0 to the largest pixel, got dtype float32"):
        VAE(**SMALL).init(jax.random.key(0), jnp.zeros((2, 8, 8)))


@pytest.mark.parametrize("decoder", [(12,), None])
def test_lowers_for_every_platform(decoder):
    module = VAE(decoder=decoder, **SMALL)
    rows = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.uint8)
    params = jax.eval_shape(module.init, jax.random.key(0), rows)
    step = jax.jit(jax.grad(lambda p, rows: module.apply(p, rows, rngs={"sample": jax.random.key(0)}).mean()))
    assert set(export.export(step, platforms=["cpu", "cuda", "tpu"])(params, rows).platforms) == {"cpu", "cuda", "tpu"}
