import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import bounds, estimators, models, networks, tasks


@pytest.fixture
def pairs():
    return tasks.gaussian(3, 1.0).sample(jax.random.key(0), 16)


def test_loss_is_minus_the_objective_and_read_outs_are_of_the_same_scores(pairs):
    model = models.discriminative(networks.JointCritic(), estimators.combined(js=estimators.js(), s=estimators.smile(1.0)))
    params = model.init(jax.random.key(1), *pairs)
    scores = model.scores(params, *pairs)
    loss, (state, nats) = model.loss(params, model.init_state(jax.random.key(7)), *pairs)
    np.testing.assert_allclose(loss, -bounds.logistic_objective(scores), rtol=1e-6)
    np.testing.assert_allclose(nats["js"], bounds.nwj(scores + 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nats["s"], bounds.smile(scores, 1.0), rtol=1e-5, atol=1e-6)
    assert state == ()


@pytest.mark.parametrize("critic", [networks.JointCritic(), networks.SeparableCritic(), networks.BilinearCritic()])
@pytest.mark.parametrize("estimator", [estimators.infonce(), estimators.nwj(), estimators.js()])
def test_log_ratio_is_the_diagonal_less_the_offset(critic, estimator, pairs):
    model = models.discriminative(critic, estimator)
    params = model.init(jax.random.key(1), *pairs)
    expected = jnp.diagonal(model.scores(params, *pairs)) - (1.0 if estimator.read_out.keys() == {"nwj"} else 0.0)
    np.testing.assert_allclose(model.log_ratio(params, *pairs), expected, rtol=1e-4, atol=1e-5)


def test_log_ratio_does_not_build_the_matrix(pairs):
    """n rows through the critic, not n²: no intermediate of n·n entries or more."""
    model = models.discriminative(networks.JointCritic(hidden=(8,)), estimators.js())
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 512)
    params = model.init(jax.random.key(1), x, y)
    text = jax.jit(model.log_ratio).lower(params, x, y).as_text()
    assert "512x512" not in text


def test_state_of_mine_is_carried(pairs):
    model = models.discriminative(networks.SeparableCritic(), estimators.mine(decay=0.5))
    params = model.init(jax.random.key(1), *pairs)
    _, (first, _) = model.loss(params, model.init_state(jax.random.key(7)), *pairs)
    _, (second, _) = model.loss(params, first + 1.0, *pairs)
    assert second > first


@pytest.mark.parametrize(
    ("critic", "estimator", "message"),
    [
        ("joint", estimators.js(), "critic must be a Module, got str"),
        (networks.JointCritic, estimators.js(), "critic must be a Module, got the class JointCritic"),
        (networks.JointCritic(), estimators.js, "estimator must be an Estimator, got function"),
        (estimators.js(), networks.JointCritic(), "critic must be a Module, got Estimator"),
    ],
)
def test_bad_input(critic, estimator, message):
    with pytest.raises(TypeError, match=message):
        models.discriminative(critic, estimator)
