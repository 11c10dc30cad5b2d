import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.networks import AffineCoupling, ConditionalAffine, ConditionalGaussian, RealNVP, Standardize, alternating_mask

SMALL = (16, 16)
MODULES = {
    "affine": ConditionalAffine(hidden=SMALL),
    "coupling, halves": AffineCoupling(functools.partial(alternating_mask, 0), hidden=SMALL),
    "coupling, other half": AffineCoupling(functools.partial(alternating_mask, 1), hidden=SMALL),
    "coupling, every other": AffineCoupling(functools.partial(alternating_mask, 2), hidden=SMALL),
    "gaussian": ConditionalGaussian(hidden=SMALL),
    "realnvp": RealNVP(hidden=SMALL),
}


def randomised(params, key, gain=1.0):
    """Random numbers in place of the initial parameters, so that no bias or last layer is left at zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    fan_in = [leaf.shape[0] if leaf.ndim > 1 else 1 for leaf in leaves]
    drawn = [
        gain * jax.random.normal(k, leaf.shape, leaf.dtype) / n**0.5 for k, leaf, n in zip(keys, leaves, fan_in, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def bijection(module, rows, context):
    """(initial parameters, (params, rows, context) -> forward, and the same -> inverse)."""
    params = module.init(jax.random.key(0), rows, context, method="forward_and_log_det")
    ways = [functools.partial(module.apply, method=f"{way}_and_log_det") for way in ("forward", "inverse")]
    return params, *ways


def there_and_back(forward, inverse, params, rows, context):
    """What a bijection is checked by: its image, the way back, both log-determinants, and autodiff's Jacobian."""

    def one(row, own):
        image, change = forward(params, row[None], None if own is None else own[None])
        return image[0], (image[0], change[0])

    by_row = jax.vmap(jax.jacfwd(one, has_aux=True), in_axes=(0, None if context is None else 0))
    jacobian, (image, change) = by_row(rows, context)
    back, change_back = inverse(params, image, context)
    return image, back, change, change_back, jacobian


def rounding(image, jacobian):
    """(rows, 1): what rounding the image does on the way back, eps |z| / σ_min of the Jacobian: no inverse does better."""
    smallest = jnp.linalg.svd(jacobian, compute_uv=False)[:, -1]
    return (jnp.finfo(image.dtype).eps * jnp.linalg.norm(image, axis=1) / smallest)[:, None]


@pytest.mark.parametrize("dim", range(1, 8))
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_inverse_and_log_det(name, conditional, dim):
    """Must-show 1: at initial and random parameters, in float64 to 1e-8 and in float32 to 1e-3.

    Some of these random flows have, at some rows, Jacobians of condition 1e5 and more, where float32 allows less than 1e-3.
    """
    for dtype, tolerance in ((jnp.float64, 1e-8), (jnp.float32, 1e-3)):
        with jax.enable_x64(dtype == jnp.float64):
            x_key, c_key, p_key = jax.random.split(jax.random.key(dim), 3)
            rows = jax.random.normal(x_key, (9, dim), dtype)
            context = jax.random.normal(c_key, (9, 2), dtype) if conditional else None
            initial, forward, inverse = bijection(MODULES[name], rows, context)
            check = jax.jit(functools.partial(there_and_back, forward, inverse))
            drawn = [randomised(initial, key) for key in jax.random.split(p_key, 3)]
            largest = 0.0
            for params in (initial, *drawn):
                image, back, change, change_back, jacobian = check(params, rows, context)
                assert image.dtype == change.dtype == dtype
                error = jnp.abs(back - rows)
                assert (error <= tolerance + rounding(image, jacobian)).all()
                assert (error <= tolerance).mean() > 0.9
                np.testing.assert_allclose(change, jnp.linalg.slogdet(jacobian)[1], rtol=tolerance, atol=tolerance)
                np.testing.assert_allclose(change_back, -change, rtol=tolerance, atol=tolerance)
                if params is initial:
                    np.testing.assert_array_equal(image, rows)
                else:
                    assert jnp.abs(image - rows).max() > 0.1
                    largest = max(largest, jnp.abs(change).max())
            assert largest > 0.5  # the scales matter


@pytest.mark.parametrize("name", MODULES)
def test_the_context_matters_and_rows_do_not_mix(name):
    rows, context = jax.random.normal(jax.random.key(0), (2, 9, 5))
    initial, forward, _ = bijection(MODULES[name], rows, context)
    params = randomised(initial, jax.random.key(1))
    image, change = forward(params, rows, context)
    alone, change_alone = forward(params, rows[4:5], context[4:5])
    np.testing.assert_allclose(alone[0], image[4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(change_alone[0], change[4], rtol=1e-4, atol=1e-5)
    assert jnp.abs(forward(params, rows, context + 1.0)[0] - image).max() > 0.1


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("distance", [1e3, 1e6])
def test_gradients_stay_finite_far_out(name, distance):
    rows, context = distance * jnp.sign(jax.random.normal(jax.random.key(0), (2, 9, 5)))
    initial, forward, _ = bijection(MODULES[name], rows, context)

    def log_prob(params, rows, context):
        image, change = forward(params, rows, context)
        return (jax.scipy.stats.norm.logpdf(image).sum(axis=1) + change).mean()

    for params in (initial, randomised(initial, jax.random.key(1)), randomised(initial, jax.random.key(1), gain=3.0)):
        value, gradients = jax.value_and_grad(log_prob, argnums=(0, 1, 2))(params, rows, context)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_coupling_leaves_its_mask_alone():
    rows = jax.random.normal(jax.random.key(0), (9, 5))
    for layer in range(4):
        mask = functools.partial(alternating_mask, layer)
        initial, forward, _ = bijection(AffineCoupling(mask, hidden=SMALL), rows, None)
        image, _ = forward(randomised(initial, jax.random.key(1)), rows, None)
        np.testing.assert_array_equal(image[:, mask(5)], rows[:, mask(5)])
        assert (jnp.abs(image - rows)[:, ~mask(5)].max(axis=0) > 0).all()


def test_the_log_scale_is_bounded():
    module = ConditionalAffine(hidden=(), log_scale_bound=2.0)
    rows, context = jnp.ones((1, 1)), jnp.ones((1, 1))
    params = {"params": {"conditioner": {"Dense_0": {"kernel": jnp.array([[0.0, 1e6]]), "bias": jnp.zeros(2)}}}}
    image, log_det = module.apply(params, rows, context, method="forward_and_log_det")
    assert log_det[0] == 2.0
    assert image[0, 0] == pytest.approx(np.exp(2.0))


@pytest.mark.parametrize("dim", range(2, 42))
@pytest.mark.parametrize("boundary", [None, 1])
def test_every_coordinate_is_moved_and_each_of_one_half_is_set_against_each_of_the_other(dim, boundary):
    kept = np.array([alternating_mask(layer, dim, boundary) for layer in range(4)])
    assert (~kept).any(axis=0).all()
    assert kept.any(axis=1).all()
    halves = dim // 2 if boundary is None else boundary
    apart = (kept[:, :halves, None] != kept[:, None, halves:]).any(axis=0)
    assert apart.all()


def test_the_masks_come_in_opposite_twos():
    for dim in range(2, 8):
        for layer in (0, 2, 4):
            np.testing.assert_array_equal(alternating_mask(layer, dim), ~alternating_mask(layer + 1, dim))
        assert not np.array_equal(alternating_mask(0, 5), alternating_mask(2, 5))
    assert not alternating_mask(0, 1).any()
    assert not alternating_mask(1, 1).any()


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 4)])
def test_standardize(shape):
    rows = 5.0 + 3.0 * jax.random.normal(jax.random.key(0), shape)
    flat = rows.reshape(50, -1)
    fixed = Standardize.of(rows)
    z, log_det = fixed.forward_and_log_det(flat)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-5)
    jacobian = jax.jacfwd(lambda row: fixed.forward_and_log_det(row[None])[0][0])(flat[0])
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-5)
    back, log_det_back = fixed.inverse_and_log_det(z)
    np.testing.assert_allclose(back, flat, rtol=1e-5)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (jnp.array([[1.0, 2.0], [3.0, 2.0]]), ValueError, "rows must be finite and vary .* not so in coordinate 1"),
        (jnp.array([[1.0, jnp.nan], [3.0, 2.0]]), ValueError, "rows must be finite and vary .* not so in coordinate 1"),
        (jnp.array([[jnp.inf, 2.0], [3.0, 1.0]]), ValueError, "rows must be finite and vary .* not so in coordinate 0"),
        (jnp.full((1_000, 2), 0.1), ValueError, "rows must be finite and vary .* not so in coordinate 0"),
        (jnp.full((7, 1), 1e6 / 3), ValueError, "rows must be finite and vary .* not so in coordinate 0"),
        (jnp.array([[1, 2], [3, 2]]), ValueError, "rows must be floating, got dtype int32"),
        ([[1.0, 2.0]], TypeError, "rows must be an array, got list"),
    ],
)
def test_standardize_refuses(rows, error, message):
    with pytest.raises(error, match=message):
        Standardize.of(rows)


@pytest.mark.parametrize(
    ("mean", "scale", "dim"), [((1,), (1,), 3), ((), (), 3), ((3,), (1,), 3), ((3,), (3,), 1), ((2,), (2,), 3)]
)
def test_standardize_does_not_spread_over_other_dimensions(mean, scale, dim):
    fixed = Standardize(jnp.zeros(mean), jnp.ones(scale))
    for method in (fixed.forward_and_log_det, fixed.inverse_and_log_det):
        with pytest.raises(ValueError, match=rf"mean and scale must have one entry per coordinate, shape \({dim},\)"):
            method(jnp.ones((4, dim)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alternating_mask(0, 0), "dim must be at least 1, got 0"),
        (lambda: alternating_mask(0, 3, 0), "boundary must lie from 1 to 2, .* got 0"),
        (lambda: alternating_mask(2, 3, 3), "boundary must lie from 1 to 2, .* got 3"),
        (lambda: start(ConditionalAffine(log_scale_bound=0.0)), "log_scale_bound must be positive and finite, got 0.0"),
        (lambda: start(ConditionalAffine(log_scale_bound=jnp.inf)), "log_scale_bound must be positive and finite, got inf"),
        (lambda: start(ConditionalAffine(), 4), r"rows and context must hold the same number of rows, .* got \[3, 4\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def start(module, context_rows=3):
    return module.init(jax.random.key(0), jnp.ones((3, 2)), jnp.ones((context_rows, 1)), method="forward_and_log_det")
