import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy import special, stats

from mi_jax import models, training
from mi_jax.networks import MLP, VAE, ConvEncoder, vae
from tests.networks.test_bijections import draw_parameters

SMALL = {"channels": (4, 6), "hidden": (16,)}
TINY = {"channels": (2,), "hidden": (4,)}  # compiles faster

beta_binomial = jax.jit(vae.beta_binomial, static_argnums=1)


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
    found = beta_binomial(values, levels, np.float32(log_alpha), np.float32(log_beta))
    expected = stats.betabinom.logpmf(values, levels, np.exp(log_alpha), np.exp(log_beta))
    # Of lgamma's values float32 keeps 1e-7 relative, and the largest is lgamma(N + α + β).
    rounding = 4 * np.finfo(np.float32).eps * special.gammaln(levels + np.exp(log_alpha) + np.exp(log_beta) + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 + rounding)
    assert special.logsumexp(np.float64(found)) == pytest.approx(0.0, abs=1e-4 + rounding)


def test_log_gamma_and_its_gradient_are_scipys():
    x = np.float32(np.exp(np.linspace(vae.LOWEST, np.log(1e4), 1_000)))
    np.testing.assert_allclose(jax.jit(vae._log_gamma)(x), special.gammaln(np.float64(x)), rtol=2e-6, atol=2e-6)
    slope = jax.jit(jax.vmap(jax.grad(vae._log_gamma)))(x)
    np.testing.assert_allclose(slope, special.digamma(np.float64(x)), rtol=2e-6, atol=2e-6)


def test_a_pixel_can_be_certain_and_none_is_outside_of_the_levels():
    values, log_alphas = np.array([0, 255, 256, -1]), np.float32([-50.0, 0.0, 0.0, 0.0])
    found = beta_binomial(values, 255, log_alphas, np.float32([0.0, -50.0, 0.0, 0.0]))
    np.testing.assert_allclose(found[:2], 0.0, atol=1e-4)
    np.testing.assert_array_equal(found[2:], -np.inf)


def test_beta_binomials_gradient_is_that_of_float64_finite_differences():
    at, step = np.array([0.7, -1.3]), 1e-5
    slope = jax.jit(jax.grad(lambda logs, value: vae.beta_binomial(value, 255, logs[0], logs[1])))
    for value in (0, 3, 128, 255):
        above, below = (
            [stats.betabinom.logpmf(value, 255, *np.exp(at + sign * unit)) for unit in step * np.eye(2)] for sign in (1, -1)
        )
        expected = np.subtract(above, below) / (2 * step)
        np.testing.assert_allclose(slope(np.float32(at), value), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "decoder", "sizes"),
    [
        ((9, 13, 2), None, TINY),
        ((6, 6), (12,), TINY),
        *(
            pytest.param(shape, decoder, SMALL, marks=pytest.mark.slow)
            for shape in [(28, 28), (32, 32, 3), (9, 13, 2)]
            for decoder in [(12,), None]
        ),
    ],
)
def test_one_log_probability_an_image_of_any_size(shape, decoder, sizes):
    module, rows = VAE(decoder=decoder, **sizes), images(5, *shape)

    found = jax.jit(functools.partial(log_probability, module))(draw_parameters(module, rows, gain=0.3), rows)
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


@jax.jit(static_argnums=0)
def log_likelihoods(module, params, rows, z):
    """log p(x | z) of every image and every z."""
    raw = decoded(module, params, z, rows.shape[1:])
    pixels = jnp.int32(rows)[:, None]
    return vae.beta_binomial(pixels, module.levels, raw[None, ..., 0], raw[None, ..., 1]).sum(axis=(2, 3, 4))


def exact(module, params, rows):
    """log p(x) of a VAE with one latent, by a sum over a fine grid of z."""
    z = np.linspace(-8, 8, 2_001)
    log_pixels = np.float64(log_likelihoods(module, params, rows, z[:, None]))
    return special.logsumexp(log_pixels + stats.norm.logpdf(z), axis=1) + np.log(z[1] - z[0])


class Uniform(nn.Module):
    """Every image is as likely as every other: a density that has nothing to learn, and compiles in no time."""

    levels: int

    @nn.compact
    def __call__(self, rows):
        level = self.param("level", nn.initializers.zeros_init(), ())
        return 0.0 * level - rows[0].size * jnp.log(self.levels + 1.0) * jnp.ones(len(rows))


def train_gm(module, marginal, x, y, steps, learning_rate):
    """(model, final state, the mean log ratio of each step) of `models.gm`, trained on batches of 16."""

    def batch(key, step):
        chosen = jax.random.randint(key, (16,), 0, len(x))
        return jnp.asarray(x)[chosen], jnp.asarray(y)[chosen]

    model = models.gm(module, marginal, marginal)
    recipe = training.trainer(model, batch, training.adam(learning_rate))
    state, history = jax.jit(lambda key: training.scan_steps(recipe, recipe.init(key), steps))(jax.random.key(0))
    return model, state, np.asarray(history["gm"])


def draw_halves(side, levels):
    """Images of two brightnesses, and the same with the lower half 0."""
    x = images(64, side, side, high=levels - 1)
    x[:32] += 2
    y = x.copy()
    y[:, side // 2 :] = 0
    return x, y


@pytest.fixture(scope="module")
def trained_gm():
    """(module, model, state, ratios, x, y) of a VAE of one latent, trained until its posterior and its prior differ."""
    x, y = draw_halves(side=4, levels=5)
    module = VAE(latents=1, levels=5, decoder=(8,), channels=(4,), hidden=(8,))
    return module, *train_gm(module, Uniform(5), x, y, 400, 1e-2), x, y


@pytest.fixture(scope="module")
def one_latent(trained_gm):
    """(VAE, params, images of two channels)."""
    module, _, state, _, x, y = trained_gm
    return module, {"params": state.params["joint"]}, np.stack([x[:8], y[:8]], axis=-1)


@pytest.fixture(scope="module")
def repeated(one_latent):
    """(samples, draws) -> mean over draws of the bound, and its standard error, of each image."""
    module, params, rows = one_latent

    @functools.cache
    def repeat(samples, draws):
        bound = module.clone(samples=samples)
        keys = jax.random.split(jax.random.key(2), draws)
        found = jax.jit(jax.vmap(lambda key: bound.apply(params, rows, rngs={"sample": key})))(keys)
        return np.float64(found).mean(axis=0), np.float64(found).std(axis=0, ddof=1) / np.sqrt(draws)

    return repeat


@pytest.mark.parametrize(("numbers", "rest"), [((1, 8), 0.4), ((1, 4, 64), 0.1)], ids=["two", "three"])
@pytest.mark.slow
def test_the_bounds_rise_with_the_number_of_samples_to_the_exact_value(one_latent, repeated, numbers, rest):
    truth = exact(*one_latent)
    means = []
    for samples in numbers:
        mean, error = repeated(samples, 1_000)
        assert np.all(mean < truth + 4 * error)
        means.append(mean)
    gaps = truth - np.array(means)
    assert np.all(np.diff(gaps, axis=0) < 0)
    assert gaps[0].mean() > 0.02  # there is a gap to close,
    assert gaps[-1].mean() < rest * gaps[0].mean()  # and it closes


def test_the_elbo_is_its_formula(one_latent, repeated):
    """Against the mean of log p(x, z) / q(z | x), whose divergence is drawn and not in closed form."""
    module, params, rows = one_latent
    encoder = ConvEncoder(2, module.channels, module.hidden)
    encoded = jax.jit(encoder.apply)({"params": params["params"]["encoder"]}, np.float32(rows) / 5)
    mean, log_scale = np.split(np.float64(encoded), 2, axis=1)
    z = mean + np.exp(log_scale) * np.random.default_rng(0).standard_normal((2_000, *mean.shape))
    all_pairs = np.float64(log_likelihoods(module, params, rows, z.reshape(-1, 1))).reshape(len(rows), 2_000, len(rows))
    log_pixels = np.diagonal(all_pairs, axis1=0, axis2=2)  # each z belongs to one image
    log_q = stats.norm.logpdf(z, mean, np.exp(log_scale))[..., 0]
    terms = log_pixels + stats.norm.logpdf(z)[..., 0] - log_q
    found, error = repeated(1, 2_000)
    apart = np.hypot(error, terms.std(axis=0) / np.sqrt(len(terms)))
    assert np.all(np.abs(found - terms.mean(axis=0)) < 4 * apart)


def test_binary_images_have_bernoullis_likelihood():
    module = VAE(levels=1, latents=2, decoder=(4,), **TINY)
    rows = images(3, 8, 8, high=2)
    # With all parameters 0 every pixel is 0 or 1 with probability ½, and the posterior is the prior.
    nothing = draw_parameters(module, rows, gain=0.0)
    found = jax.jit(functools.partial(log_probability, module))(nothing, rows)
    np.testing.assert_allclose(found, -64 * np.log(2), rtol=1e-5)


def test_images_are_stacked_over_their_channels():
    x, y = images(4, 6, 6), images(4, 6, 6, 2, seed=1)
    module = VAE(decoder=(4,), **TINY)
    both = np.concatenate([x[..., None], y], axis=-1)
    params = draw_parameters(module, x, y, gain=0.3)
    score = jax.jit(lambda params: [log_probability(module, params, *rows) for rows in ((x, y), (both,))])
    np.testing.assert_array_equal(*score(params))


def test_gm_draws_afresh_each_step_and_its_log_ratio_is_a_function(trained_gm):
    _, model, state, _, x, y = trained_gm
    loss = jax.jit(model.loss)
    first, (later, _) = loss(state.variables, state.model_state, x, y)
    second, _ = loss(state.variables, later, x, y)
    assert first != second
    np.testing.assert_array_equal(
        *jax.jit(lambda params: [model.log_ratio(params, x, y) for _ in range(2)])(state.variables)
    )


def test_gm_of_a_vae_trains(trained_gm):
    _, _, state, ratios, _, y = trained_gm
    assert not state.diverged
    assert ratios.shape == (400,)
    # The marginals have nothing to learn, so what the log ratio gains is what log p(x, y) gains. There the zeros of y, half
    # of its pixels, cost log 6 each before and nothing when learned.
    assert ratios[-20:].mean() - ratios[0] > 0.8 * y[0].size / 2 * np.log(6)


@pytest.mark.slow
def test_gm_of_three_vaes_trains():
    x, y = draw_halves(side=6, levels=7)
    module = VAE(latents=2, levels=7, decoder=(16,), channels=(4,), hidden=(16,))
    model, state, ratios = train_gm(module, module, x, y, 100, 1e-2)
    loss = jax.jit(model.loss)
    before, _ = loss(model.init(jax.random.key(0), x, y), state.model_state, x, y)
    after, _ = loss(state.variables, state.model_state, x, y)
    assert not state.diverged
    assert ratios.shape == (100,)
    # The zeros of y, 18 pixels in both p(y) and p(x, y), cost log 8 each before and nothing when learned.
    assert after < before - 0.8 * 36 * np.log(8)


def test_pixels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="images must be whole numbers, 0 to the largest pixel, got dtype float32"):
        VAE(**SMALL).init(jax.random.key(0), np.zeros((2, 8, 8), np.float32))


@pytest.mark.parametrize("decoder", [(12,), None])
def test_lowers_for_every_platform(decoder):
    module = VAE(decoder=decoder, **SMALL)
    rows = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.uint8)
    params = jax.eval_shape(module.init, jax.random.key(0), rows)
    step = jax.jit(jax.grad(lambda p, rows: module.apply(p, rows, rngs={"sample": jax.random.key(0)}).mean()))
    assert set(export.export(step, platforms=["cpu", "cuda", "tpu"])(params, rows).platforms) == {"cpu", "cuda", "tpu"}
