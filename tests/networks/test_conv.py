import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mi_jax import bounds
from mi_jax.networks import ConvEncoder, JointConvCritic, SeparableConvCritic, conv
from tests.networks.test_bijections import draw_parameters

SMALL = {"channels": (4, 6), "hidden": (8,)}
TINY = {"channels": (4,), "hidden": (8,)}  # each convolution's gradient is 25 products, which take seconds to compile
CRITICS = {"joint": JointConvCritic(**SMALL), "separable": SeparableConvCritic(embed=3, **SMALL)}


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def stacked(params, x, y, **sizes):
    """The joint critic the plain way: the encoder on every stack of channels."""
    n, m = len(x), len(y)
    pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1, 1, 1))], axis=-1)
    new_names = {"PairConv_0": "Conv_0", "Conv_0": "Conv_1"}
    renamed = {new_names.get(name, name): value for name, value in params.items()}
    return ConvEncoder(1, **sizes).apply({"params": renamed}, pairs).reshape(n, m)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("shape", "sizes"), [((9, 14), TINY), pytest.param((8, 8), SMALL, marks=slow), pytest.param((9, 14), SMALL, marks=slow)]
)
def test_joint_is_the_encoder_of_stacked_channels_with_the_same_parameters(shape, sizes):
    """Its scores are those of two convolutions, and their gradients those of so many as there are channels in `sizes`."""
    x, y = images(3, *shape, 2), images(4, *shape, 1, seed=1)
    small, critic = (JointConvCritic(**each) for each in (SMALL, sizes))
    of_small, params = (draw_parameters(each, x, y, gain=0.3)["params"] for each in (small, critic))

    @jax.jit
    def look(of_small, params):
        scores = small.apply({"params": of_small}, x, y), stacked(of_small, x, y, **SMALL)
        ours = jax.grad(lambda p: (critic.apply({"params": p}, x, y) ** 2).sum())(params)
        return scores, ours, jax.grad(lambda p: (stacked(p, x, y, **sizes) ** 2).sum())(params)

    scores, ours, plain = look(of_small, params)
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), ours, plain)


def test_convolutions_are_the_papers():
    """5 x 5, stride 2, padding 2, of 64 and 128 channels; 1,024 neurons; in float64 NumPy, one output pixel."""
    x = images(1, 28, 28, 1)
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(ConvEncoder(1).init, jax.random.key(0), x)["params"])
    assert shapes["Conv_0"]["kernel"] == (5, 5, 1, 64)
    assert shapes["Conv_1"]["kernel"] == (5, 5, 64, 128)
    assert shapes["Dense_0"]["kernel"] == (7 * 7 * 128, 1024)
    assert shapes["Dense_1"]["kernel"] == (1024, 1)
    module = conv.Conv(64)
    params = draw_parameters(module, x)
    first = jax.jit(module.apply)(params, x)
    padded = np.pad(np.float64(x[0, :, :, 0]), 2)
    patch = padded[6:11, 10:15]  # around the input's pixel (6, 10), which is the output's (3, 5)
    expected = np.einsum("hw,hwf->f", patch, np.float64(params["params"]["kernel"][:, :, 0])) + params["params"]["bias"]
    np.testing.assert_allclose(first[0, 3, 5], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 14), pytest.param((8, 8), marks=slow), pytest.param((5, 3), marks=slow)])
def test_gradients_of_a_convolution_are_xlas_own(shape):
    """In a loop and out of it; on CPUs they are products of our own."""
    rows, kernel = images(3, *shape, 2), np.random.default_rng(1).standard_normal((5, 5, 2, 4), np.float32)

    def native(rows, kernel):
        padding = [(2, 2), (2, 2)]
        return jax.lax.conv_general_dilated(rows, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def look(rows, kernel):
        ours, xlas = (jax.grad(lambda r, k, of=of: jnp.sum(of(r, k) ** 3), argnums=(0, 1)) for of in (conv.convolve, native))
        _, (in_loop, _) = jax.lax.scan(lambda carry, _: (carry, ours(rows, kernel)), 0, length=2)
        return (conv.convolve(rows, kernel), native(rows, kernel)), ours(rows, kernel), xlas(rows, kernel), in_loop[1]

    values, ours, xlas, in_loop = look(rows, kernel)
    np.testing.assert_array_equal(*values)
    for found, expected in zip((*ours, in_loop), (*xlas, xlas[0]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_transposed_convolution_is_the_adjoint_of_a_convolution():
    """<convolve(a), b> = <a, transposed(b)>, and its gradients are those of the adjoint."""
    kernel = np.random.default_rng(1).standard_normal((5, 5, 2, 4), np.float32)
    rows, z, weights = images(3, 8, 12, 2), images(3, 4, 6, 4, seed=2), images(3, 8, 12, 2, seed=3)

    def by_autodiff(z, kernel):
        return jax.vjp(lambda rows: conv.convolve(rows, kernel), jnp.zeros((3, 8, 12, 2)))[1](z)[0]

    @jax.jit
    def look(z, kernel):
        products = jnp.vdot(conv.convolve(rows, kernel), z), jnp.vdot(rows, conv.transposed(z, kernel))
        slopes = [
            jax.grad(lambda z, k, of=of: jnp.vdot(of(z, k), weights), argnums=(0, 1))(z, kernel)
            for of in (conv.transposed, by_autodiff)
        ]
        return products, slopes

    (there, back), (ours, expected) = look(z, kernel)
    assert float(there) == pytest.approx(float(back), rel=1e-5)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((3, 6, 5, 2), (4, 6, 5, 4)), pytest.param((5, 28, 28), (5, 28, 28), marks=slow)],
)
def test_scores_every_x_against_every_y(name, x_shape, y_shape):
    critic, x, y = CRITICS[name], images(*x_shape), images(*y_shape, seed=1)
    params = draw_parameters(critic, x, y, gain=0.3)
    score = jax.jit(lambda params: (critic.apply(params, x, y), critic.apply(params, x[-1:], y[:1])))
    scores, last_and_first = score(params)
    assert scores.shape == (len(x), len(y))
    np.testing.assert_allclose(last_and_first[0, 0], scores[-1, 0], rtol=1e-4, atol=1e-5)


def test_a_separable_critic_takes_images_of_different_sizes():
    x, y = images(3, 28, 28), images(5, 32, 30, 3)
    critic = CRITICS["separable"]
    assert jax.eval_shape(lambda key: critic.apply(critic.init(key, x, y), x, y), jax.random.key(0)).shape == (3, 5)


def test_it_embeds_each_image_once():
    """Its scores have the rank of the embedding."""
    x, y = images(6, 8, 8), images(6, 8, 8, seed=1)
    critic = CRITICS["separable"]
    values = np.linalg.svd(jax.jit(critic.apply)(draw_parameters(critic, x, y), x, y), compute_uv=False)
    assert values[3] < 1e-5 * values[0]


@pytest.mark.parametrize("name", CRITICS)
def test_bytes_are_parts_of_255(name):
    x, y = (np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8) for seed in (0, 1))
    critic = CRITICS[name]
    params = draw_parameters(critic, x, y, gain=0.3)
    parts = [np.float32(rows) / 255 for rows in (x, y)]
    score = jax.jit(lambda params: (critic.apply(params, x, y), critic.apply(params, *parts)))
    np.testing.assert_allclose(*score(params), rtol=1e-5, atol=1e-6)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"x must be \(n, height, width\) or .*, got shape \(4, 20\)"):
        CRITICS["joint"].init(jax.random.key(0), np.zeros((4, 20)), np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match=r"same height and width, got \(8, 8\) and \(8, 9\)"):
        CRITICS["joint"].init(jax.random.key(0), np.zeros((4, 8, 8)), np.zeros((4, 8, 9)))


def test_a_joint_critics_first_layer_is_not_computed_for_every_pair():
    """Of 16 + 16 images and not 256 stacks: the compiler counts fewer operations, by what the layer's products are."""
    x = jnp.zeros((16, 28, 28, 1))

    def operations(score):
        params = jax.eval_shape(CRITICS["joint"].init, jax.random.key(0), x, x)["params"]
        return jax.jit(score).lower(params).compile().cost_analysis()["flops"]

    plain = operations(lambda p: stacked(p, x, x, **SMALL))
    ours = operations(lambda p: CRITICS["joint"].apply({"params": p}, x, x))
    first = 2 * 14 * 14 * 25 * 4  # operations of one image's first convolution, without the padding's share
    assert plain - ours > 0.8 * first * (256 * 2 - 32)


@pytest.mark.parametrize("sizes", [TINY, pytest.param(SMALL, marks=slow)], ids=["tiny", "small"])
@pytest.mark.parametrize("name", [pytest.param("joint", marks=slow), "separable"])
def test_in_bfloat16_products_are_short_and_parameters_and_scores_are_not(name, sizes):
    x, y = images(16, 12, 12), images(16, 12, 12, 2, seed=1)
    full = CRITICS[name].clone(**sizes)
    low = full.clone(dtype=jnp.bfloat16)
    params = draw_parameters(full, x, y, gain=0.3)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(jax.eval_shape(low.init, jax.random.key(1), x, y)))
    # Eight bits of a number, and four layers that round; in the products of embeddings the larger part may cancel.
    method = {"joint": None, "separable": "encode"}[name]

    @jax.jit
    def look(params):
        def score(critic, p):
            scores = critic.apply(p, x, y)
            return (scores**2).sum(), (scores, critic.apply(p, x, y, method=method))

        return [jax.grad(lambda p, one=one: score(one, p), has_aux=True)(params) for one in (low, full)]

    (slope, (scores, rounded)), (exact_slope, (_, exact)) = look(params)
    assert scores.dtype == np.float32
    for one, other in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert one.dtype == np.float32
        assert 1e-5 < np.abs(one - other).max() / np.abs(other).max() < 4 * 2.0**-8
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(slope))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_less(np.linalg.norm(a - b), 0.15 * np.linalg.norm(b)), slope, exact_slope
    )


def test_in_bfloat16_the_gradient_of_images_is_summed_in_float32():
    """4 of the 25 offsets, or 6 or 9, meet in a pixel: 256 + 1 + 1 + … would stay 256."""
    kernel = np.ones((5, 5, 1, 1), np.float32)
    kernel[4, 4] = 256.0
    slope = np.ones((1, 8, 8, 1), np.float32)

    @jax.jit
    def look(slope, kernel):
        low = conv.image_gradient(jnp.bfloat16(slope), jnp.bfloat16(kernel), (16, 16))
        return low, jnp.bfloat16(conv.image_gradient(slope, kernel, (16, 16)))

    low, exact = look(slope, kernel)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, exact)


@pytest.mark.parametrize("name", CRITICS)
def test_lowers_for_every_platform(name):
    x = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(CRITICS[name].init, jax.random.key(0), x, x)
    step = jax.jit(jax.grad(lambda p, x, y: bounds.infonce(CRITICS[name].apply(p, x, y))))
    assert set(export.export(step, platforms=["cpu", "cuda", "tpu"])(params, x, x).platforms) == {"cpu", "cuda", "tpu"}
