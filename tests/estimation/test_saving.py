import dataclasses

import jax
import numpy as np

import mi_jax
from mi_jax import networks
from mi_jax.estimation.combine import Independence
from mi_jax.estimation.units import make_units
from tests import examples
from tests.estimation.same import assert_same
from tests.quick import N, closed


def test_saved_and_loaded(barely_trained, data, tmp_path):
    tested = dataclasses.replace(
        barely_trained, independence=Independence(0.05, 19, np.array([0.1, np.nan]), np.arange(19.0))
    )
    grouped = dataclasses.replace(barely_trained, units=make_units(N, groups=np.arange(N) // 4))
    for one in (barely_trained, grouped, tested, tested.in_bits()):
        one.save(tmp_path / "mi.npz")
        again = mi_jax.load(tmp_path / "mi.npz")
        assert_same(again, one)
        assert repr(again) == repr(one)
        assert (again.config, again.diagnostics) == (one.config, one.diagnostics)
    np.testing.assert_array_equal(again.pointwise(*data), barely_trained.pointwise(*data))


def test_a_saved_critic_is_made_again(found, data, tmp_path):
    found.save(tmp_path / "mi.npz")
    again = mi_jax.load(tmp_path / "mi.npz")
    assert_same(again, found)
    assert again.config == found.config


def make_stack(weights):
    """An estimate of two stacked critics, made by hand."""
    critics = networks.BilinearCritic(), networks.CanonicalCritic(hidden=(4,))
    one = examples.estimate().config
    parts = one._replace(critic=critics[0]), one._replace(critic=critics[1], estimator="infonce", symmetric=True)
    config = one._replace(critic=networks.StackedCritic(critics), candidates=parts)
    rows = [np.random.default_rng(0).standard_normal((40, d)).astype(np.float32) for d in (2, 1)]
    variables = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), jax.jit(config.model().init)(jax.random.key(0), *rows))
    return examples.estimate(config=config, variables=variables, diagnostics=examples.diagnostics(weights=weights))


def test_a_stack_is_saved_with_its_candidates(tmp_path):
    stack = make_stack({"bilinear": (0.5, 1.0), "canonical": (0.25, 0.0)})
    stack.save(tmp_path / "mi.npz")
    again = mi_jax.load(tmp_path / "mi.npz")
    assert_same(again, stack)
    assert again.config == stack.config
    assert again.diagnostics.weights == stack.diagnostics.weights


def test_a_stack_names_the_critics_that_have_weight():
    describe = lambda weights: make_stack(weights).describe_critic()  # noqa: E731
    assert describe({"bilinear": (0.5, 1.0), "canonical": (0.25, 0.0)}) == ", 0.75 BilinearCritic + 0.12 CanonicalCritic"
    assert describe({"bilinear": (1.0, 1.0), "canonical": (0.0, 0.0)}) == ", BilinearCritic"
    assert describe({"bilinear": (0.0, 0.0), "canonical": (0.5, 0.7)}) == ", 0.60 CanonicalCritic"


def test_a_closed_form_is_saved_and_named(data, tmp_path):
    ours = closed(*data)
    assert ours.describe_critic() == ", GaussianCritic in closed form"
    ours.save(tmp_path / "mi.npz")
    again = mi_jax.load(tmp_path / "mi.npz")
    assert_same(again, ours)
    assert again.config == ours.config
    np.testing.assert_array_equal(again.pointwise(*data), ours.pointwise(*data))
    left, _ = again.plot().axes
    assert left.get_title() == "Nothing to train"
