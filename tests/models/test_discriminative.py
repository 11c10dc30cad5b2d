import flax.linen as nn
import jax
import numpy as np
import pytest

from mi_jax import bounds, estimators, models, networks
from tests.draws import draw_normal, draw_params

JOINT, SEPARABLE = networks.JointCritic((8,)), networks.SeparableCritic((8,), 4)


@pytest.fixture
def pairs():
    x, noise = draw_normal(2, 16, 3)
    return x, 0.7 * x + noise


def test_loss_is_minus_the_objective_and_read_outs_are_of_the_same_scores(pairs):
    model = models.discriminative(JOINT, estimators.share_training(js=estimators.js(), s=estimators.smile(1.0)))

    @jax.jit
    def look(params, x, y):
        scores = model.critic.scores(params, x, y)
        expected = -bounds.logistic_objective(scores), bounds.nwj(scores + 1), bounds.smile(scores, 1.0)
        return model.loss(params, model.init_state(jax.random.key(7)), x, y), expected

    (loss, (state, nats)), (objective, js, smile) = look(draw_params(model.init, jax.random.key(1), *pairs), *pairs)
    np.testing.assert_allclose(loss, objective, rtol=1e-6)
    np.testing.assert_allclose(nats["js"], js, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nats["s"], smile, rtol=1e-5, atol=1e-6)
    assert state == ()


@pytest.mark.parametrize("critic", [JOINT, SEPARABLE, networks.BilinearCritic()])
@pytest.mark.parametrize("estimator", [estimators.infonce(), estimators.nwj(), estimators.js()])
def test_log_ratio_is_the_diagonal_less_the_offset(critic, estimator, pairs):
    model = models.discriminative(critic, estimator)
    params = draw_params(model.init, jax.random.key(1), *pairs)
    offset = 1.0 if estimator.read_out.keys() == {"nwj"} else 0.0
    expected = np.diagonal(jax.jit(model.critic.scores)(params, *pairs)) - offset
    np.testing.assert_allclose(jax.jit(model.log_ratio)(params, *pairs), expected, rtol=1e-4, atol=1e-5)


def test_log_ratio_does_not_build_the_matrix():
    """n rows through the critic, not n²: no intermediate of n·n entries or more."""
    model = models.discriminative(JOINT, estimators.js())
    x, y = draw_normal(2, 512, 3)
    params = draw_params(model.init, jax.random.key(1), x, y)
    text = jax.jit(model.log_ratio).lower(params, x, y).as_text()
    assert "512x512" not in text


def test_state_of_mine_is_carried(pairs):
    model = models.discriminative(SEPARABLE, estimators.mine(decay=0.5))
    params, loss = draw_params(model.init, jax.random.key(1), *pairs), jax.jit(model.loss)
    _, (first, _) = loss(params, model.init_state(jax.random.key(7)), *pairs)
    _, (second, _) = loss(params, first + 1.0, *pairs)
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


class Centred(nn.Module):
    """A critic that fits a constant to its rows, and cannot fit it to rows with weights."""

    @nn.compact
    def __call__(self, x, y):
        return (x - self.variable("fit", "mean", lambda: x.mean(axis=0)).value) @ y.T


def test_init_with_weights_fits_constants_to_the_rows_that_count(pairs):
    model = models.discriminative(networks.GaussianCritic(hidden=()), estimators.nwj())
    weights = np.float32(np.arange(16) < 12)
    padded = jax.jit(model.init)(
        jax.random.key(0), *(np.where(weights[:, None] > 0, rows, np.nan) for rows in pairs), weights
    )
    alone = jax.jit(model.init)(jax.random.key(0), *(rows[:12] for rows in pairs))
    np.testing.assert_allclose(*(each["gaussian"]["fit"].mean_x for each in (padded, alone)), rtol=1e-5)
    np.testing.assert_allclose(*(model.log_ratio(each, *pairs) for each in (padded, alone)), rtol=1e-3, atol=1e-3)


def test_padding_is_refused_where_constants_would_be_fitted_to_it(pairs):
    init = models.discriminative(Centred(), estimators.nwj()).init
    assert "fit" in init(jax.random.key(0), *pairs)
    with pytest.raises(
        ValueError, match=r"critic must have a method fit_constants.*as it fits fit to its rows.*Centred has none"
    ):
        init(jax.random.key(0), *pairs, np.ones(16))
    assert set(models.discriminative(JOINT, estimators.nwj()).init(jax.random.key(0), *pairs, np.ones(16))) == {"params"}
