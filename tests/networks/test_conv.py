import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mi_jax import bounds
from mi_jax.networks import ConvEncoder, JointConvCritic, SeparableConvCritic, conv

SMALL = {"channels": (4, 6), "hidden": (8,)}
CRITICS = {"joint": JointConvCritic(**SMALL), "separable": SeparableConvCritic(embed=3, **SMALL)}


def images(*shape, seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def stacked(params, x, y, **sizes):
    """The joint critic the plain way: the encoder on every stack of channels."""
    n, m = len(x), len(y)
    pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1, 1, 1))], axis=-1)
    renamed = {"Conv_0": params["PairConv_0"], "Conv_1": params["Conv_0"]}
    dense = {name: value for name, value in params.items() if name.startswith("Dense")}
    return ConvEncoder(1, **sizes).apply({"params": renamed | dense}, pairs).reshape(n, m)


def randomised(params):
    """Biases start at 0, where a misplaced one would not show."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize("shape", [(8, 8), (9, 14)])
def test_joint_is_the_encoder_of_stacked_channels_with_the_same_parameters(shape):
    x, y = images(3, *shape, 2), images(4, *shape, 1, seed=1)
    critic = CRITICS["joint"]
    params = randomised(critic.init(jax.random.key(2), x, y)["params"])
    plain = lambda p: stacked(p, x, y, **SMALL)  # noqa: E731
    ours = lambda p: critic.apply({"params": p}, x, y)  # noqa: E731
    np.testing.assert_allclose(ours(params), plain(params), rtol=1e-4, atol=1e-5)
    slopes = [jax.grad(lambda p, of=of: (of(p) ** 2).sum())(params) for of in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), *slopes)


def test_convolutions_are_the_papers():
    """5 x 5, stride 2, padding 2, of 64 and 128 channels; 1,024 neurons; in float64 NumPy, one output pixel."""
    x = images(1, 28, 28, 1)
    params = ConvEncoder(1).init(jax.random.key(0), x)["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["Conv_0"]["kernel"] == (5, 5, 1, 64)
    assert shapes["Conv_1"]["kernel"] == (5, 5, 64, 128)
    assert shapes["Dense_0"]["kernel"] == (7 * 7 * 128, 1024)
    assert shapes["Dense_1"]["kernel"] == (1024, 1)
    first = nn.Conv(64, (5, 5), (2, 2), ((2, 2), (2, 2))).apply({"params": params["Conv_0"]}, x)
    padded = np.pad(np.float64(x[0, :, :, 0]), 2)
    patch = padded[6:11, 10:15]  # around the input's pixel (6, 10), which is the output's (3, 5)
    expected = np.einsum("hw,hwf->f", patch, np.float64(params["Conv_0"]["kernel"][:, :, 0]))
    np.testing.assert_allclose(first[0, 3, 5], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (9, 14), (5, 3)])
def test_gradients_of_a_convolution_are_xlas_own(shape):
    """In a loop and out of it; on CPUs they are products of our own."""
    rows, kernel = images(3, *shape, 2), jax.random.normal(jax.random.key(1), (5, 5, 2, 4))

    def native(rows, kernel):
        padding = [(2, 2), (2, 2)]
        return jax.lax.conv_general_dilated(rows, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    np.testing.assert_array_equal(conv.convolve(rows, kernel), native(rows, kernel))
    ours, xlas = (jax.grad(lambda r, k, of=of: jnp.sum(of(r, k) ** 3), argnums=(0, 1)) for of in (conv.convolve, native))
    for found, expected in zip(ours(rows, kernel), xlas(rows, kernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    _, (in_loop, _) = jax.lax.scan(lambda carry, _: (carry, ours(rows, kernel)), 0, length=2)
    np.testing.assert_allclose(in_loop[1], xlas(rows, kernel)[0], rtol=1e-4, atol=1e-4 * np.abs(in_loop[1]).max())


def test_a_transposed_convolution_is_the_adjoint_of_a_convolution():
    """<convolve(a), b> = <a, transposed(b)>, and its gradients are those of the adjoint."""
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 2, 4))
    rows, z = images(3, 8, 12, 2), images(3, 4, 6, 4, seed=2)
    there, back = jnp.vdot(conv.convolve(rows, kernel), z), jnp.vdot(rows, conv.transposed(z, kernel))
    assert float(there) == pytest.approx(float(back), rel=1e-5)

    def by_autodiff(z, kernel):
        return jax.vjp(lambda rows: conv.convolve(rows, kernel), jnp.zeros((3, 8, 12, 2)))[1](z)[0]

    weights = images(3, 8, 12, 2, seed=3)
    ours = jax.grad(lambda z, k: jnp.vdot(conv.transposed(z, k), weights), argnums=(0, 1))(z, kernel)
    expected = jax.grad(lambda z, k: jnp.vdot(by_autodiff(z, k), weights), argnums=(0, 1))(z, kernel)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize(("x_shape", "y_shape"), [((5, 28, 28), (5, 28, 28)), ((4, 12, 12, 2), (6, 12, 12, 4))])
def test_scores_every_x_against_every_y(name, x_shape, y_shape):
    critic, x, y = CRITICS[name], images(*x_shape), images(*y_shape, seed=1)
    params = critic.init(jax.random.key(1), x, y)
    found = critic.apply(params, x, y)
    assert found.shape == (len(x), len(y))
    np.testing.assert_allclose(critic.apply(params, x[-1:], y[:1])[0, 0], found[-1, 0], rtol=1e-4, atol=1e-5)


def test_a_separable_critic_takes_images_of_different_sizes():
    x, y = images(3, 28, 28), images(5, 32, 30, 3)
    critic = CRITICS["separable"]
    assert critic.apply(critic.init(jax.random.key(0), x, y), x, y).shape == (3, 5)


def test_it_embeds_each_image_once():
    """Its scores have the rank of the embedding."""
    x, y = images(6, 8, 8), images(6, 8, 8, seed=1)
    critic = CRITICS["separable"]
    values = np.linalg.svd(critic.apply(randomised(critic.init(jax.random.key(0), x, y)), x, y), compute_uv=False)
    assert values[3] < 1e-5 * values[0]


@pytest.mark.parametrize("name", CRITICS)
def test_bytes_are_parts_of_255(name):
    x, y = (np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8) for seed in (0, 1))
    critic = CRITICS[name]
    params = critic.init(jax.random.key(0), x, y)
    np.testing.assert_allclose(
        critic.apply(params, x, y), critic.apply(params, jnp.float32(x) / 255, jnp.float32(y) / 255), rtol=1e-5, atol=1e-6
    )


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"x must be \(n, height, width\) or .*, got shape \(4, 20\)"):
        CRITICS["joint"].init(jax.random.key(0), jnp.zeros((4, 20)), jnp.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match=r"same height and width, got \(8, 8\) and \(8, 9\)"):
        CRITICS["joint"].init(jax.random.key(0), jnp.zeros((4, 8, 8)), jnp.zeros((4, 8, 9)))


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


@pytest.mark.parametrize("name", CRITICS)
def test_in_bfloat16_products_are_short_and_parameters_and_scores_are_not(name):
    x, y = images(16, 12, 12), images(16, 12, 12, 2, seed=1)
    full = CRITICS[name]
    low = full.clone(dtype=jnp.bfloat16)
    params = randomised(full.init(jax.random.key(1), x, y))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(low.init(jax.random.key(1), x, y)))
    assert low.apply(params, x, y).dtype == jnp.float32
    # Eight bits of a number, and four layers that round; in the products of embeddings the larger part may cancel.
    method = {"joint": None, "separable": "encode"}[name]
    rounded, exact = (jax.tree.leaves(critic.apply(params, x, y, method=method)) for critic in (low, full))
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == jnp.float32
        assert 1e-5 < float(jnp.abs(one - other).max() / jnp.abs(other).max()) < 4 * 2.0**-8
    slopes = [jax.jit(jax.grad(lambda p, one=one: (one.apply(p, x, y) ** 2).sum()))(params) for one in (low, full)]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(slopes[0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_less(np.linalg.norm(a - b), 0.15 * np.linalg.norm(b)), *slopes)


def test_in_bfloat16_the_gradient_of_images_is_summed_in_float32():
    """4 of the 25 offsets, or 6 or 9, meet in a pixel: 256 + 1 + 1 + … would stay 256."""
    kernel = jnp.ones((5, 5, 1, 1)).at[4, 4].set(256.0)
    slope = jnp.ones((1, 8, 8, 1))
    low = conv.image_gradient(jnp.bfloat16(slope), jnp.bfloat16(kernel), (16, 16))
    exact = conv.image_gradient(slope, kernel, (16, 16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, jnp.bfloat16(exact))


@pytest.mark.parametrize("name", CRITICS)
def test_lowers_for_every_platform(name):
    x = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(CRITICS[name].init, jax.random.key(0), x, x)
    step = jax.jit(jax.grad(lambda p, x, y: bounds.infonce(CRITICS[name].apply(p, x, y))))
    assert set(export.export(step, platforms=["cpu", "cuda", "tpu"])(params, x, x).platforms) == {"cpu", "cuda", "tpu"}
