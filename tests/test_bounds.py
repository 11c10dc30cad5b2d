import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mi_jax import bounds, projections, tasks
from mi_jax.sub_batches import SubBatches
from tests import reference

# A bound of scores and of what a study sweeps (tau, alpha), so that all values of it are one program.
BOUNDS = {
    "infonce": lambda s, _: bounds.infonce(s),
    "dv": lambda s, _: bounds.dv(s),
    "nwj": lambda s, _: bounds.nwj(s),
    "logistic_objective": lambda s, _: bounds.logistic_objective(s),
    "tuba": lambda s, _: bounds.tuba(s, log_baseline(len(s))),
    "smile": bounds.smile,
    "interpolated": lambda s, alpha: bounds.interpolated(s, log_baseline(len(s)), alpha),
}
FORMULAS = {
    "infonce": lambda s, _: reference.infonce(s),
    "dv": lambda s, _: reference.dv(s),
    "nwj": lambda s, _: reference.nwj(s),
    "logistic_objective": lambda s, _: reference.logistic_objective(s),
    "tuba": lambda s, _: reference.tuba(s, np.float64(log_baseline(len(s)))),
    "smile": reference.smile,
    "interpolated": lambda s, alpha: reference.interpolated(s, np.float64(log_baseline(len(s))), alpha),
}
VALUES = {"smile": (0.0, 1.0, 5.0, 10.0, np.inf), "interpolated": (0.0, 0.01, 0.5, 1.0)}
CASES = {f"{name}-{value:g}": (name, value) for name in BOUNDS for value in VALUES.get(name, (0.0,))}
MATRICES = dict(reference.matrices())
UNBOUNDED = ("nwj-0", "tuba-0", "interpolated-0", "interpolated-0.01")

case = pytest.mark.parametrize("name", CASES)
matrix = pytest.mark.parametrize("kind", MATRICES)


def log_baseline(n):
    return np.float32(reference.baseline(n))


@functools.cache
def value_and_gradient(name):
    """One program for each shape of the scores."""
    return jax.jit(jax.value_and_grad(BOUNDS[name]))


def gradient_cases():
    """The float64 formula of the interpolated bound takes seconds for the differences of 64 rows."""
    for kind in MATRICES:
        for name in CASES:
            slow = kind.endswith("64") and name.startswith("interpolated")
            yield pytest.param(kind, name, marks=[pytest.mark.slow] if slow else [])


@case
@matrix
def test_value_is_that_of_the_float64_formula(name, kind):
    name, value = CASES[name]
    scores = MATRICES[kind]
    expected = FORMULAS[name](scores, value)
    found, _ = value_and_gradient(name)(np.float32(scores), value)
    assert abs(float(found) - expected) <= reference.tolerance(expected, scores)


@pytest.mark.parametrize(("kind", "name"), [*gradient_cases()])
def test_gradient_is_that_of_float64_finite_differences(name, kind):
    name, value = CASES[name]
    scores = MATRICES[kind]
    formula = FORMULAS[name]
    n = len(scores)
    entries = [(i, j) for i in range(n) for j in range(n)]
    if n == 64:  # a sample, with the diagonal in it
        rng = np.random.default_rng(0)
        entries = [(0, 0), (63, 63), *((int(i), int(j)) for i, j in rng.integers(0, n, (6, 2)))]
    expected = reference.finite_differences(lambda s: formula(s, value), scores, entries)
    gradient = np.asarray(value_and_gradient(name)(np.float32(scores), value)[1])
    actual = np.array([gradient[entry] for entry in entries])
    # Central differences of a value v in float64 carry a rounding error of about 1e-16 |v| / 1e-5.
    assert np.all(np.abs(actual - expected) <= 1e-4 * (1 + np.abs(expected)) + 1e-10 * abs(formula(scores, value)))


@pytest.mark.parametrize("name", BOUNDS)
def test_batched_by_vmap(name):
    value = VALUES.get(name, (0.0,))[-1]
    batch = np.float32(np.random.default_rng(0).standard_normal((3, 5, 5)))
    expected = [value_and_gradient(name)(scores, value)[0] for scores in batch]
    np.testing.assert_allclose(jax.vmap(BOUNDS[name], (0, None))(batch, value), expected, rtol=1e-5, atol=1e-6)


class WithAndWithoutJit(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_same_inside_and_outside_a_jitted_step(self):
        scores = MATRICES["diagonal-heavy-5"]
        for name, bound in BOUNDS.items():
            value = VALUES.get(name, (0.0,))[-2:][0]
            expected = FORMULAS[name](scores, value)
            found = self.variant(bound)(jnp.float32(scores), value)
            assert abs(float(found) - expected) <= reference.tolerance(expected, scores), name


def test_a_sweep_of_tau_and_of_alpha_compiles_once():
    scores = jnp.float32(MATRICES["random-5"])

    @jax.jit
    @chex.assert_max_traces(n=1)
    def swept(value):
        return bounds.smile(scores, 10 * value), bounds.interpolated(scores, jnp.zeros(5), value)

    for value in (0.0, 0.25, 1.0):
        smile, interpolated = swept(value)
        np.testing.assert_allclose(smile, bounds.smile(scores, 10 * value), rtol=1e-6)
        np.testing.assert_allclose(interpolated, bounds.interpolated(scores, jnp.zeros(5), value), rtol=1e-6)


@functools.cache
def gradient_in_the_baseline(bound):
    """One program for each shape, and for alpha as a float and as an integer."""
    return jax.jit(jax.grad(bound, argnums=1))


def baseline_cases():
    for kind in MATRICES:
        for alpha in (None, 0.0, 0.01, 0.5, 1.0, 0, 1):  # None is TUBA; the ends are written as integers too
            slow = alpha is not None and kind.endswith("64")
            yield pytest.param(kind, alpha, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("kind", "alpha"), [*baseline_cases()])
def test_gradient_in_the_baseline(kind, alpha):
    scores = MATRICES[kind]
    n = len(scores)
    a = reference.baseline(n) + np.diag(scores) / 2
    if alpha is None:
        bound, formula, given = bounds.tuba, reference.tuba, ()
    else:
        bound, formula, given = bounds.interpolated, functools.partial(reference.interpolated, alpha=alpha), (alpha,)
    entries = [(0, 0), (0, n - 1)]
    expected = reference.finite_differences(lambda row: formula(scores, row[0]), a[None], entries)
    gradient = np.asarray(gradient_in_the_baseline(bound)(np.float32(scores), np.float32(a), *given))[[0, n - 1]]
    assert np.all(np.abs(gradient - expected) <= 1e-4 * (1 + np.abs(expected)) + 1e-10 * abs(formula(scores, a)))


def test_gradient_in_tau():
    scores = MATRICES["wide-5"]
    for tau in (1.0, 5.0):
        expected = (reference.smile(scores, tau + 1e-6) - reference.smile(scores, tau - 1e-6)) / 2e-6
        assert jax.grad(bounds.smile, argnums=1)(jnp.float32(scores), tau) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "number",
    [1, np.uint8(1), *(pytest.param(one, marks=pytest.mark.slow) for one in (np.int32(1), jnp.array(1), np.float64(1.0)))],
)
def test_integers_are_numbers_too(number):
    scores, a = jnp.float32(3 * MATRICES["random-5"]), jnp.zeros(5)
    assert bounds.smile(scores, number) == bounds.smile(scores, 1.0)
    assert bounds.interpolated(scores, a, number) == bounds.interpolated(scores, a, 1.0)
    assert jnp.isfinite(jax.grad(bounds.interpolated)(scores, a, number)).all()


# Invariances

random_scores = st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([2, 5]), st.sampled_from([0.1, 1.0, 8.0]))


def draw(spec):
    seed, n, scale = spec
    return np.float32(scale * np.random.default_rng(seed).standard_normal((n, n)))


def allowed(value, scores):
    return reference.tolerance(float(value), np.asarray(scores))


@given(random_scores)
@settings(deadline=None, max_examples=40)
def test_smile_at_infinity_is_dv(spec):
    scores = draw(spec)
    assert bounds.smile(scores, jnp.inf) == bounds.dv(scores)


@given(random_scores, st.floats(-30, 30))
@settings(deadline=None, max_examples=40)
def test_dv_is_unchanged_by_a_constant_and_nwj_is_not(spec, constant):
    scores = draw(spec)
    shifted = scores + np.float32(constant)
    value = bounds.dv(scores)
    assert abs(bounds.dv(shifted) - value) <= allowed(value, shifted)
    # NWJ is dv at its best constant, and below it elsewhere.
    assert bounds.nwj(shifted) <= value + allowed(value, shifted)


@given(random_scores)
@settings(deadline=None, max_examples=40)
def test_ceilings(spec):
    scores = draw(spec)
    n = len(scores)
    assert bounds.infonce(scores) <= np.log(n) + allowed(np.log(n), scores)
    assert bounds.interpolated(scores, np.zeros(n, np.float32), 1.0) <= np.log(n - 1) + allowed(np.log(n), scores)
    assert bounds.logistic_objective(scores) <= 0


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("tuba", "interpolated"))])
@given(spec=random_scores)
@settings(deadline=None, max_examples=15)
def test_unchanged_by_permuting_the_pairs(name, spec):
    name, given_value = CASES[name]
    bound = lambda s: value_and_gradient(name)(s, given_value)[0]  # noqa: E731
    scores = draw(spec)
    order = np.random.default_rng(spec[0]).permutation(len(scores))
    value = bound(scores)
    assert abs(bound(scores[order][:, order]) - value) <= allowed(value, scores)


@given(random_scores)
@settings(deadline=None, max_examples=40)
def test_unchanged_by_permuting_the_pairs_with_their_baseline(spec):
    scores = draw(spec)
    a = np.linspace(-1.0, 1.0, len(scores), dtype=np.float32)
    order = np.random.default_rng(spec[0]).permutation(len(scores))
    for bound in (bounds.tuba, functools.partial(bounds.interpolated, alpha=0.3)):
        value = bound(scores, a)
        assert abs(bound(scores[order][:, order], a[order]) - value) <= allowed(value, scores)


@pytest.mark.parametrize("n", [2, 5, pytest.param(64, marks=pytest.mark.slow)])
def test_independent_scores_give_zero(n):
    scores = jnp.zeros((n, n))
    zero = jnp.zeros(n)
    for value in (
        bounds.infonce(scores),
        bounds.dv(scores),
        bounds.smile(scores, 1.0),
        bounds.nwj(scores + 1),
        bounds.tuba(scores, zero),
        *(bounds.interpolated(scores, zero, alpha) for alpha in (0.0, 0.5, 1.0)),
    ):
        assert abs(value) <= 1e-6
    assert bounds.nwj(scores) == pytest.approx(-np.exp(-1), abs=1e-6)
    assert bounds.logistic_objective(scores) == pytest.approx(-2 * np.log(2), abs=1e-6)


@given(random_scores)
@settings(deadline=None, max_examples=40)
def test_identities_between_the_bounds(spec):
    scores = draw(spec)
    n = len(scores)
    a = np.linspace(-1.0, 1.0, n, dtype=np.float32)
    tuba = bounds.tuba(scores, a)
    assert abs(bounds.nwj(scores - a[:, None] + 1) - tuba) <= allowed(tuba, scores)
    assert abs(bounds.interpolated(scores, a, 0.0) - tuba) <= allowed(tuba, scores)
    # alpha = 1 is InfoNCE on the n - 1 columns that each left-out negative leaves.
    left_out = [
        scores[i, i] - special.logsumexp(np.float64(np.delete(scores[i], j))) + np.log(n - 1)
        for i in range(n)
        for j in range(n)
        if j != i
    ]
    mean = np.mean(left_out)
    assert abs(bounds.interpolated(scores, a, 1.0) - mean) <= allowed(mean, scores)


def test_projections_are_the_bounds_before_the_mean():
    scores = np.float32(MATRICES["random-5"])
    for bound, projection in (
        (bounds.infonce, projections.infonce),
        (bounds.dv, projections.dv),
        (bounds.smile, projections.smile),
    ):
        np.testing.assert_allclose(bound(scores), np.diagonal(projection(scores)).mean(), rtol=1e-6)


# Extremes


def extreme_matrices(n):
    """(6, n, n): the scores of 6 batches."""
    normal, ones = np.random.default_rng(0).standard_normal((n, n)), np.ones((n, n))
    kinds = normal / np.abs(normal).max(), np.eye(n), -np.eye(n), ones, -ones, 1 - 2 * np.eye(n)
    return 1e4 * np.float32(kinds)


def extreme_cases():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        for n in (2, 3, 5, 64):
            slow = n in (3, 64) or dtype == jnp.float16 or (n == 2 and dtype != jnp.float32)
            yield pytest.param(dtype, n, marks=[pytest.mark.slow] if slow else [])


@functools.cache
def values_and_gradients(name):
    """Of a batch of score matrices; one program for each shape and dtype."""
    return jax.jit(jax.vmap(jax.value_and_grad(BOUNDS[name]), (0, None)))


@pytest.mark.parametrize(("dtype", "n"), [*extreme_cases()])
@case
def test_scores_of_ten_thousand(name, dtype, n):
    bound, given_value = CASES[name]
    values, gradients = values_and_gradients(bound)(extreme_matrices(n).astype(dtype), given_value)
    assert values.dtype == jnp.float32
    assert gradients.dtype == dtype
    values, gradients = np.asarray(values), np.float32(gradients)
    assert not np.isnan(values).any()
    assert not np.isnan(gradients).any()
    assert (values < np.inf).all()
    if name not in UNBOUNDED:
        assert np.isfinite(values).all()
        assert np.isfinite(gradients).all()


def test_half_precision_scores_are_reduced_in_float32():
    # 4,096 equal terms: a bfloat16 sum would stop growing at 256 of them.
    scores = jnp.zeros((64, 64), jnp.bfloat16)
    assert bounds.dv(scores) == pytest.approx(0.0, abs=1e-5)
    assert bounds.infonce(scores) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_derivative_in_alpha_at_the_ends(alpha):
    scores = MATRICES["random-5"]
    a = reference.baseline(5)
    derivative = jax.grad(bounds.interpolated, argnums=2)(jnp.float32(scores), jnp.float32(a), alpha)
    step = 1e-6 if alpha == 0.0 else -1e-6  # one-sided: alpha ends here
    values = [reference.interpolated(scores, a, alpha + k * step) for k in (0, 1, 2)]
    expected = (-1.5 * values[0] + 2 * values[1] - 0.5 * values[2]) / step
    assert derivative == pytest.approx(expected, rel=1e-4)


# Bad input


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (jnp.zeros((3, 4)), r"scores must be a square matrix, got shape \(3, 4\)"),
        (jnp.zeros(3), r"scores must be a square matrix, got shape \(3,\)"),
        (jnp.zeros((2, 3, 3)), r"scores must be a square matrix, got shape \(2, 3, 3\)"),
        (jnp.zeros((1, 1)), "scores must hold at least 2 pairs"),
        (jnp.zeros((0, 0)), "scores must hold at least 2 pairs"),
        (jnp.zeros((3, 3), int), "scores must be floating, got dtype int32"),
        (jnp.zeros((3, 3), bool), "scores must be floating, got dtype bool"),
        (jnp.zeros((3, 3), complex), "scores must be floating, got dtype complex64"),
    ],
)
def test_bad_scores(name, scores, message):
    direct = {
        "tuba": lambda s: bounds.tuba(s, np.zeros(3)),
        "interpolated": lambda s: bounds.interpolated(s, np.zeros(3), 0.5),
    }
    bound = direct.get(name, lambda s: BOUNDS[name](s, 5.0))
    with pytest.raises(ValueError, match=message):
        bound(scores)
    with pytest.raises(ValueError, match=message):
        jax.jit(bound)(scores)


def test_scores_that_are_no_array():
    with pytest.raises(TypeError, match="scores must be an array, got list"):
        bounds.infonce([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize("tau", [-1.0, -1e-6, np.nan, np.float32(-2), jnp.array(-1.0)])
def test_bad_tau(tau):
    scores = jnp.zeros((3, 3))
    with pytest.raises(ValueError, match="tau must not be negative, got"):
        bounds.smile(scores, tau)
    assert jnp.isnan(jax.jit(bounds.smile)(scores, tau))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, jnp.array(2.0)])
def test_bad_alpha(alpha):
    scores, a = jnp.zeros((3, 3)), jnp.zeros(3)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got"):
        bounds.interpolated(scores, a, alpha)
    assert jnp.isnan(jax.jit(bounds.interpolated)(scores, a, alpha))


def test_options_that_are_no_number():
    scores = jnp.zeros((3, 3))
    with pytest.raises(TypeError, match="tau must be a number, got NoneType"):
        bounds.smile(scores, None)
    with pytest.raises(ValueError, match=r"tau must be a scalar, got shape \(2,\)"):
        bounds.smile(scores, jnp.ones(2))
    with pytest.raises(TypeError, match="alpha must be a number, got str"):
        bounds.interpolated(scores, jnp.zeros(3), "half")
    with pytest.raises(TypeError, match="alpha must be a number, got bool"):
        bounds.interpolated(scores, jnp.zeros(3), True)
    with pytest.raises(TypeError, match="tau must be a real number, got dtype complex64"):
        bounds.smile(scores, jnp.array(1j))


@pytest.mark.parametrize("bound", [bounds.tuba, functools.partial(bounds.interpolated, alpha=0.5)])
def test_bad_baseline(bound):
    with pytest.raises(ValueError, match=r"log_baseline must have one entry per row of scores, shape \(3,\), got \(4,\)"):
        bound(jnp.zeros((3, 3)), jnp.zeros(4))
    with pytest.raises(ValueError, match="log_baseline must be floating, got dtype int32"):
        bound(jnp.zeros((3, 3)), jnp.zeros(3, int))


# The exact log ratio of the Gaussian task


MI, DIM, N, BATCHES = 2.0, 20, 64, 1_500


@functools.cache
def at_the_exact_ratio(batches=BATCHES):
    """NWJ at log r* + 1, NWJ at log r* and InfoNCE, on so many batches of 64."""
    task = tasks.gaussian(DIM, MI)

    def one(key):
        x, y = task.sample(key, N)
        scores = task.log_ratio(x[:, None], y[None, :])
        return bounds.nwj(scores + 1), bounds.nwj(scores), bounds.infonce(scores)

    keys = jax.random.split(jax.random.key(0), batches)
    return [np.asarray(value, np.float64) for value in jax.jit(lambda k: jax.lax.map(one, k, batch_size=100))(keys)]


def test_nwj_at_the_exact_ratio_has_the_mean_and_variance_of_its_law():
    values, _, _ = at_the_exact_ratio()
    square = -np.expm1(-2 * MI / DIM)  # rho²
    variance = DIM * square / N + ((1 - square) ** -DIM + (1 - square**2) ** -DIM - 2) / (N * (N - 1))
    assert abs(values.mean() - MI) <= 4 * np.sqrt(variance / BATCHES)
    # The standard error of the sample variance, from the sample's own fourth moment. That of r* is infinite at this MI, but
    # nothing of its tail shows in 1,500 batches of 64, and r* makes up a fifth of the variance.
    deviations = (values - values.mean()) ** 2
    assert abs(values.var() - variance) <= 4 * deviations.std() / np.sqrt(BATCHES)


def test_nwj_without_the_shift_is_one_over_e_short():
    _, values, _ = at_the_exact_ratio()
    assert abs(values.mean() - (MI - np.exp(-1))) <= 4 * values.std() / np.sqrt(BATCHES)


@pytest.mark.parametrize(
    ("batches", "draws", "precision"), [(BATCHES, 500, 0.02), pytest.param(10_000, 2_000, 0.01, marks=pytest.mark.slow)]
)
def test_infonce_at_the_exact_ratio_agrees_with_a_float64_monte_carlo(batches, draws, precision):
    _, _, values = at_the_exact_ratio(batches)
    rng = np.random.default_rng(0)
    square = -np.expm1(-2 * MI / DIM)
    rho = np.sqrt(square)
    other = []
    for _ in range(draws):
        x = rng.standard_normal((N, DIM))
        y = rho * x + np.sqrt(1 - square) * rng.standard_normal((N, DIM))
        # The terms in x alone cancel between numerator and denominator of Eq. 5.
        scores = (rho * x @ y.T - 0.5 * square * (y**2).sum(1)) / (1 - square)
        scores -= scores.max(axis=1, keepdims=True)
        other.append(np.mean(np.diag(scores) - np.log(np.exp(scores).mean(axis=1))))
    error = np.sqrt(values.var() / batches + np.var(other) / len(other))
    assert abs(values.mean() - np.mean(other)) <= 4 * error
    assert error < precision


@pytest.mark.parametrize("kind", MATRICES)
def test_symmetric_infonce_is_the_mean_of_both_directions(kind):
    scores = MATRICES[kind]
    s = np.float64(scores)
    expected = 0.5 * (reference.infonce(s) + reference.infonce(s.T))
    np.testing.assert_allclose(bounds.infonce(scores, symmetric=True), expected, rtol=1e-5, atol=1e-5)
    parts = jnp.stack([scores, scores.T])
    np.testing.assert_allclose(bounds.infonce(SubBatches(parts), symmetric=True), expected, rtol=1e-5, atol=1e-5)
