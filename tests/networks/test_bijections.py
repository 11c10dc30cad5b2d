import functools
import itertools

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
SHORT = {"realnvp of 2 layers": RealNVP(layers=2, hidden=SMALL)}  # compiles in a third of the time
# Their masks apart they are the "halves".
SLOW = {"coupling, other half", "coupling, every other"}


def randomised(params, key, gain=1.0):
    """Random numbers in place of the initial parameters, so that no bias or last layer is left at zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    fan_in = [leaf.shape[0] if leaf.ndim > 1 else 1 for leaf in leaves]
    drawn = [
        gain * jax.random.normal(k, leaf.shape, leaf.dtype) / n**0.5 for k, leaf, n in zip(keys, leaves, fan_in, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def draw_parameters(module, *rows, seed=0, gain=1.0, number=None, method=None):
    """What `randomised` makes, but drawn by NumPy and without `init`: both would take a second to compile.

    With a number, so many draws are stacked along a first axis.
    """
    rng = np.random.default_rng(seed)
    batch = () if number is None else (number,)

    def draw(leaf):
        fan_in = leaf.shape[0] if leaf.ndim > 1 else 1
        return (gain * rng.standard_normal((*batch, *leaf.shape)) / fan_in**0.5).astype(leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(functools.partial(module.init, method=method), jax.random.key(0), *rows))


def draw_rows(n, *dims, seed=0, dtype=np.float32):
    """Normal rows, one array for each of the dimensions, and None for None."""
    rng = np.random.default_rng(seed)
    return [None if dim is None else rng.standard_normal((n, dim)).astype(dtype) for dim in dims]


def apply_method(module, way, params, rows, context):
    return module.apply(params, rows, context, method=f"{way}_and_log_det")


def there_and_back(module, params, rows, context):
    """What a bijection is checked by: its image, the way back, both log-determinants, and autodiff's Jacobian."""

    def one(row, own):
        image, change = apply_method(module, "forward", params, row[None], None if own is None else own[None])
        return image[0], (image[0], change[0])

    by_row = jax.vmap(jax.jacfwd(one, has_aux=True), in_axes=(0, None if context is None else 0))
    jacobian, (image, change) = by_row(rows, context)
    back, change_back = apply_method(module, "inverse", params, image, context)
    return image, back, change, change_back, jacobian


def rounding(image, jacobian):
    """(draws, rows, 1): what rounding the image costs on the way back, eps |z| / σ_min(Jacobian); no inverse does better."""
    smallest = np.linalg.svd(np.float64(jacobian), compute_uv=False)[..., -1]
    return (np.finfo(image.dtype).eps * np.linalg.norm(image, axis=-1) / smallest)[..., None]


def slow_unless(kept):
    """Every (module, conditional, dim, dtype); those that are not in `kept` are slow."""
    cases = {*itertools.product(MODULES, [False, True], range(1, 8), ["float64", "float32"])} | kept
    return [pytest.param(*case, marks=() if case in kept else pytest.mark.slow) for case in sorted(cases)]


# With a context and without; in one dimension, where no coordinate is kept, in two, and in five, whose halves differ.
REPRESENTATIVE = {
    ("affine", True, 2, "float32"),
    ("coupling, halves", False, 5, "float64"),
    ("coupling, other half", True, 1, "float64"),
    ("coupling, every other", True, 5, "float64"),
    ("gaussian", False, 5, "float64"),
    ("realnvp of 2 layers", False, 1, "float32"),
    ("realnvp", True, 5, "float64"),
}


@pytest.mark.parametrize(("name", "conditional", "dim", "dtype"), slow_unless(REPRESENTATIVE))
def test_inverse_and_log_det(name, conditional, dim, dtype):
    """At random parameters, in float64 to 1e-8 and in float32 to 1e-3.

    Some of these random flows have, at some rows, Jacobians of condition 1e5 and more, where float32 allows less than 1e-3.
    """
    module, tolerance = (MODULES | SHORT)[name], {"float64": 1e-8, "float32": 1e-3}[dtype]
    with jax.enable_x64(dtype == "float64"):
        rows, context = draw_rows(9, dim, 2 if conditional else None, seed=dim, dtype=dtype)
        params = draw_parameters(module, rows, context, seed=dim, number=3, method="forward_and_log_det")
        check = jax.jit(jax.vmap(functools.partial(there_and_back, module), in_axes=(0, None, None)))
        image, back, change, change_back, jacobian = map(np.asarray, check(params, rows, context))
    assert image.dtype == change.dtype == dtype
    error = np.abs(back - rows)
    assert np.all(error <= tolerance + rounding(image, jacobian))
    assert np.all((error <= tolerance).mean(axis=(1, 2)) > 0.9)
    log_dets = np.linalg.slogdet(np.float64(jacobian))[1]
    np.testing.assert_allclose(change, log_dets, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(change_back, -change, rtol=tolerance, atol=tolerance)
    assert np.all(np.abs(image - rows).max(axis=(1, 2)) > 0.1)
    assert np.abs(change).max() > 0.5  # the scales matter


IDENTITIES = {
    ("affine", True, 5, "float32"),
    ("coupling, halves", False, 5, "float32"),
    ("realnvp of 2 layers", True, 1, "float64"),
}


@pytest.mark.parametrize(("name", "conditional", "dim", "dtype"), slow_unless(IDENTITIES))
def test_starts_as_the_identity(name, conditional, dim, dtype):
    module = (MODULES | SHORT)[name]

    @jax.jit
    def start(rows, context):
        params = module.init(jax.random.key(0), rows, context, method="forward_and_log_det")
        return [apply_method(module, way, params, rows, context) for way in ("forward", "inverse")]

    with jax.enable_x64(dtype == "float64"):
        rows, context = draw_rows(9, dim, 2 if conditional else None, seed=dim, dtype=dtype)
        for image, change in start(rows, context):
            assert image.dtype == change.dtype == dtype
            np.testing.assert_array_equal(image, rows)
            np.testing.assert_array_equal(change, 0.0)


@pytest.mark.parametrize("name", MODULES)
def test_the_context_matters_and_rows_do_not_mix(name):
    rows, context = draw_rows(9, 5, 5)
    params = draw_parameters(MODULES[name], rows, context, method="forward_and_log_det")
    forward = jax.jit(functools.partial(apply_method, MODULES[name], "forward"))
    image, change = forward(params, rows, context)
    others = np.arange(9)[:, None] != 4
    alone, change_alone = forward(params, rows + 2.0 * others, context - 3.0 * others)
    np.testing.assert_allclose(alone[4], image[4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(change_alone[4], change[4], rtol=1e-4, atol=1e-5)
    assert np.abs(np.delete(alone - image, 4, axis=0)).max() > 0.1
    assert np.abs(forward(params, rows, context + np.float32(1.0))[0] - image).max() > 0.1


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODULES])
def test_gradients_stay_finite_far_out(name):
    module = MODULES[name]

    def log_prob(params, rows, context):
        image, change = apply_method(module, "forward", params, rows, context)
        return (jax.scipy.stats.norm.logpdf(image).sum(axis=1) + change).mean()

    slopes = jax.jit(jax.value_and_grad(log_prob, argnums=(0, 1, 2)))
    signs = [np.sign(rows) for rows in draw_rows(9, 5, 5)]
    random, wild = (draw_parameters(module, *signs, seed=1, gain=gain, method="forward_and_log_det") for gain in (1.0, 3.0))
    # As at the start: the last layers are 0, and the others are not.
    start = jax.tree.map_with_path(lambda path, leaf: 0 * leaf if "Dense_2" in jax.tree_util.keystr(path) else leaf, random)
    for distance, params in itertools.product([1e3, 1e6], [start, random, wild]):
        value, gradients = slopes(params, *(np.float32(distance) * sign for sign in signs))
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_coupling_leaves_its_mask_alone():
    (rows,) = draw_rows(9, 5)
    masks = [functools.partial(alternating_mask, layer) for layer in range(4)]
    modules = [AffineCoupling(mask, hidden=(4,)) for mask in masks]
    params = [draw_parameters(module, rows, seed=1, method="forward_and_log_det") for module in modules]

    @jax.jit
    def move(params, rows):
        return [apply_method(module, "forward", p, rows, None)[0] for module, p in zip(modules, params, strict=True)]

    for mask, image in zip(masks, move(params, rows), strict=True):
        np.testing.assert_array_equal(image[:, mask(5)], rows[:, mask(5)])
        assert (np.abs(image - rows)[:, ~mask(5)].max(axis=0) > 0).all()


def test_the_log_scale_is_bounded():
    module = ConditionalAffine(hidden=(), log_scale_bound=2.0)
    rows, context = jnp.ones((1, 1)), jnp.ones((1, 1))
    params = {"params": {"conditioner": {"Dense_0": {"kernel": jnp.array([[0.0, 1e6]]), "bias": jnp.zeros(2)}}}}
    image, log_det = jax.jit(functools.partial(apply_method, module, "forward"))(params, rows, context)
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
    rows = np.float32(5.0 + 3.0 * np.random.default_rng(0).standard_normal(shape))
    flat = rows.reshape(50, -1)
    fixed = Standardize.of(rows)

    @jax.jit
    def check(fixed, flat):
        jacobian = jax.jacfwd(lambda row: fixed.forward_and_log_det(row[None])[0][0])(flat[0])
        z, log_det = fixed.forward_and_log_det(flat)
        return z, log_det, jacobian, *fixed.inverse_and_log_det(z)

    z, log_det, jacobian, back, log_det_back = map(np.asarray, check(fixed, flat))
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-5)
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
