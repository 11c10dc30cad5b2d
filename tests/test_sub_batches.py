import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import SubBatches, bounds, estimators, projections, sub_batches
from tests import reference
from tests.draws import draw_normal

GROUPS, SIZE = 3, 4
BASELINE = np.linspace(-1.0, 1.0, GROUPS * SIZE).reshape(GROUPS, SIZE)
# name -> the library's function, and the float64 value of (g, m, m) scores
CASES = {
    "infonce": (bounds.infonce, lambda s: np.mean([reference.infonce(matrix) for matrix in s])),
    "logistic_objective": (
        bounds.logistic_objective,
        lambda s: np.mean([reference.logistic_objective(matrix) for matrix in s]),
    ),
    "dv": (bounds.dv, lambda s: joint(s).mean() - np.log(np.exp(product(s)).mean())),
    "smile": (
        functools.partial(bounds.smile, tau=1.0),
        lambda s: joint(s).mean() - np.log(np.exp(np.clip(product(s), -1, 1)).mean()),
    ),
    "nwj": (bounds.nwj, lambda s: np.mean([reference.nwj(matrix) for matrix in s])),
    "tuba": (
        lambda s: bounds.tuba(s, jnp.float32(BASELINE)),
        lambda s: np.mean([reference.tuba(matrix, a) for matrix, a in zip(s, BASELINE, strict=True)]),
    ),
    "interpolated": (
        lambda s: bounds.interpolated(s, jnp.float32(BASELINE), 0.4),
        lambda s: np.mean([reference.interpolated(matrix, a, 0.4) for matrix, a in zip(s, BASELINE, strict=True)]),
    ),
}
case = pytest.mark.parametrize("name", CASES)


def joint(s):
    return np.concatenate([reference.joint(matrix) for matrix in s])


def product(s):
    return np.concatenate([reference.product(matrix) for matrix in s])


def scores(size=GROUPS):
    """Groups that differ: a mean of their partitions' logs is not the log of the mean."""
    return np.random.default_rng(0).standard_normal((size, SIZE, SIZE)) + np.arange(size)[:, None, None]


@functools.cache
def value_and_gradient(name):
    """A bound's value and gradient at the scores, from one program."""
    bound, _ = CASES[name]
    return jax.jit(jax.value_and_grad(lambda s: bound(SubBatches(s))))(jnp.float32(scores()))


@case
def test_the_pairs_of_all_groups_make_one_estimate(name):
    _, formula = CASES[name]
    np.testing.assert_allclose(value_and_gradient(name)[0], formula(scores()), rtol=1e-5)


@case
def test_gradient_is_that_of_float64_finite_differences(name):
    _, formula = CASES[name]
    s, gradient = scores(), np.asarray(value_and_gradient(name)[1])
    for entry in ((0, 0, 0), (2, 3, 3), (1, 0, 2)):
        step = np.zeros_like(s)
        step[entry] = 1e-5
        assert gradient[entry] == pytest.approx((formula(s + step) - formula(s - step)) / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["infonce", "logistic_objective", "dv", "smile", "nwj"])
def test_one_group_is_the_matrix_itself(name):
    bound, _ = CASES[name]
    (matrix,) = np.float32(scores(1))
    assert jax.jit(bound)(SubBatches(matrix[None])) == jax.jit(bound)(matrix)


@pytest.mark.parametrize("name", ["infonce", "dv", "smile", "nwj"])
def test_the_order_of_groups_and_of_pairs_does_not_matter(name):
    s = np.float32(scores())
    order = np.array([2, 0, 3, 1])
    bound = jax.jit(CASES[name][0])
    np.testing.assert_allclose(bound(SubBatches(s[::-1][:, order][:, :, order])), bound(SubBatches(s)), rtol=1e-5)


def test_projections_keep_the_groups():
    s = SubBatches(jnp.float32(scores()))
    for projection in (projections.infonce, projections.dv, projections.smile):
        assert jax.eval_shape(projection, s).shape == (GROUPS, SIZE, SIZE)
    np.testing.assert_allclose(np.exp(jax.jit(projections.infonce)(s)).mean(axis=2), 1.0, rtol=1e-5)
    assert jax.eval_shape(projections.log_partition, s).shape == ()


@pytest.mark.parametrize("name", ["infonce", "nwj", "dv", "mine", "js", "smile", "tuba"])
def test_every_estimator_takes_groups(name):
    estimator = getattr(estimators, name)()
    groups, state = SubBatches(jnp.float32(scores())), estimator.init()
    value, new_state = jax.eval_shape(estimator.objective, groups, state)
    assert value.shape == ()
    assert all(jax.eval_shape(read, groups).shape == () for read in estimator.read_out.values())
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_js_reads_log_ratios():
    s = SubBatches(jnp.float32(scores()))
    read, expected = jax.jit(lambda s: (estimators.js().read_out["js"](s), bounds.nwj(SubBatches(s.scores + 1.0))))(s)
    np.testing.assert_allclose(read, expected, rtol=1e-6)


def test_groups_are_batched_by_vmap():
    many, dv = draw_normal(5, GROUPS, SIZE, SIZE), jax.jit(bounds.dv)
    expected = [dv(SubBatches(s)) for s in many]
    np.testing.assert_allclose(jax.jit(jax.vmap(bounds.dv))(SubBatches(many)), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4), (0, 3, 3), (2, 1, 1), (2, 2, 3, 3)])
def test_what_is_no_stack_of_square_matrices_is_refused(shape):
    with pytest.raises(ValueError, match=r"scores of SubBatches must be square matrices"):
        bounds.infonce(SubBatches(jnp.zeros(shape)))


def test_a_stack_that_is_not_called_groups_is_refused():
    with pytest.raises(ValueError, match="scores must be a square matrix"):
        bounds.infonce(jnp.zeros((2, 3, 3)))


def test_a_baseline_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"log_baseline must have one entry per row of scores, shape \(3, 4\)"):
        bounds.tuba(SubBatches(jnp.float32(scores())), jnp.zeros(GROUPS * SIZE))


def test_rows_beyond_the_last_full_group_are_left_out():
    rows = jnp.arange(22).reshape(11, 2)
    found = sub_batches.drop_remainder(rows, 4)
    assert found.shape == (2, 4, 2)
    np.testing.assert_array_equal(found.reshape(8, 2), rows[:8])
