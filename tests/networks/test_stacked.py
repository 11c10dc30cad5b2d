import jax
import numpy as np
import pytest

from mi_jax.networks import BilinearCritic, GaussianCritic, SeparableCritic, StackedCritic, stacked

CRITIC = StackedCritic((BilinearCritic(), GaussianCritic(hidden=()), SeparableCritic(hidden=(4,), embed=2)))
X, Y = np.float32(np.random.default_rng(0).standard_normal((2, 30, 3)))


@pytest.fixture(scope="module")
def parts():
    return [jax.jit(critic.init)(jax.random.key(place), X, Y) for place, critic in enumerate(CRITIC.critics)]


def test_the_scores_are_the_weighted_sum(parts):
    weights = np.float32([0.5, 2.0, 0.25])
    ours = jax.jit(CRITIC.apply)(stacked.stack_variables(parts, weights, np.float32(0.7)), X, Y[:9])
    each = [np.float64(critic.apply(part, X, Y[:9])) for critic, part in zip(CRITIC.critics, parts, strict=True)]
    np.testing.assert_allclose(
        ours, 0.7 + sum(w * scores for w, scores in zip(weights, each, strict=True)), rtol=1e-4, atol=1e-5
    )


def test_a_critic_without_weight_says_nothing(parts):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), parts[0])
    weights = np.float32([0.0, 1.0, 0.0])
    ours = jax.jit(CRITIC.apply)(stacked.stack_variables([broken, *parts[1:]], weights, np.float32(0.0)), X, Y)
    np.testing.assert_allclose(ours, CRITIC.critics[1].apply(parts[1], X, Y), rtol=1e-6)


def test_variables_are_stacked_as_init_makes_them(parts):
    made = jax.jit(CRITIC.init)(jax.random.key(0), X, Y)
    ours = stacked.stack_variables(parts, np.full(3, 1 / 3, np.float32), np.float32(0.0))
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, made)
    np.testing.assert_allclose(made["params"]["weights"], 1 / 3)
    for place, part in enumerate(parts):
        again = stacked.part_variables(ours, place)
        assert jax.tree.structure(again) == jax.tree.structure(dict(part))
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(dict(part)), strict=True))
