import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import evaluation, models, networks, tasks, training
from tests.networks.test_bijections import randomised

normal = jax.scipy.stats.norm.logpdf


def log_normal(x):
    """log N(x; 0, I) of each row: the marginal of x in both tasks."""
    return normal(x).sum(axis=1)


SMALL = {
    "gm": models.gm(*[networks.JointRealNVP(hidden=(16,)), *[networks.RealNVP(hidden=(16,))] * 2]),
    "ba": models.ba(log_normal, networks.RealNVP(hidden=(16,))),
    "doe": models.doe(networks.RealNVP(hidden=(16,)), networks.RealNVP(hidden=(16,))),
}
every_model = pytest.mark.parametrize("name", SMALL)


class ExactConditional(nn.Module):
    """p(x | y) of the Gaussian task, N(rho y, 1 - rho²) in every coordinate; it has nothing to learn."""

    rho: float

    @nn.compact
    def __call__(self, x, y):
        return normal(x, self.rho * y, jnp.sqrt(1 - self.rho**2)).sum(axis=1)


def setup(name, dx=3, dy=3, n=16):
    x, y = jax.random.normal(jax.random.key(0), (n, dx)), jax.random.normal(jax.random.key(1), (n, dy))
    model = SMALL[name]
    return model, randomised(model.init(jax.random.key(2), x, y), jax.random.key(3)), x, y


def log_densities(name, params, x, y):
    """Role -> log density, by the networks themselves."""
    flow = networks.RealNVP(hidden=(16,))
    values = {
        "joint": lambda p: networks.JointRealNVP(hidden=(16,)).apply(p, x, y),
        "marginal_x": lambda p: flow.apply(p, x),
        "marginal_y": lambda p: flow.apply(p, y),
        "conditional": lambda p: flow.apply(p, x, y),
        "marginal": lambda p: flow.apply(p, x),
    }
    return {role: values[role](own) for role, own in params.items()}


@every_model
def test_loss_is_the_likelihood_and_the_ratio_a_quotient(name):
    model, params, x, y = setup(name)
    logs = log_densities(name, params, x, y)
    ratio = {
        "gm": lambda: logs["joint"] - logs["marginal_x"] - logs["marginal_y"],
        "ba": lambda: logs["conditional"] - log_normal(x),
        "doe": lambda: logs["conditional"] - logs["marginal"],
    }[name]()
    loss, (state, nats) = model.loss(params, model.init_state(jax.random.key(7)), x, y)
    assert state == ()
    assert model.scores is None
    np.testing.assert_allclose(loss, -sum(log.mean() for log in logs.values()), rtol=1e-4)
    np.testing.assert_allclose(model.log_ratio(params, x, y), ratio, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(nats[name], ratio.mean(), rtol=1e-3, atol=1e-3)


@every_model
def test_the_read_out_does_not_train(name):
    model, params, x, y = setup(name)
    gradient = jax.grad(lambda p: model.loss(p, (), x, y)[1][1][name])(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@every_model
def test_no_pairs_off_the_diagonal(name):
    """The cost is n and not n²: no intermediate of n·n entries."""
    model, params, x, y = setup(name, n=512)
    text = jax.jit(jax.value_and_grad(model.loss, has_aux=True)).lower(params, (), x, y).as_text()
    assert "512x512" not in text
    assert "512x16" in text


@every_model
@pytest.mark.parametrize(("x_shape", "y_shape"), [((6,), (6,)), ((6, 3), (6, 2, 2)), ((6, 4, 4), (6,))])
def test_any_shape_of_x_and_y(name, x_shape, y_shape):
    if name == "ba":
        model = models.ba(lambda x: normal(x).reshape(len(x), -1).sum(axis=1), networks.RealNVP(hidden=(16,)))
    else:
        model = SMALL[name]
    x, y = jax.random.normal(jax.random.key(0), x_shape), jax.random.normal(jax.random.key(1), y_shape)
    params = model.init(jax.random.key(2), x, y)
    np.testing.assert_allclose(model.log_ratio(params, x, y), np.zeros(6), atol=1e-4)  # all start as standard normals


def test_ba_with_the_exact_conditional_is_exact():
    """Must-show 3: its mean is the MI within 4 standard errors, and its batch variance dρ²/n, at any number of pairs."""
    dim, n, batches = 20, 64, 10_000
    for mi in (2.0, 6.0, 10.0):
        task, rho = tasks.gaussian(dim, mi), float(tasks.mi_to_rho(mi, dim))
        model = models.ba(log_normal, ExactConditional(rho))
        x, y = task.sample(jax.random.key(0), n * batches)
        params = model.init(jax.random.key(1), x[:1], y[:1])
        values = np.asarray(model.log_ratio(params, x, y), np.float64).reshape(batches, n).mean(axis=1)
        variance = dim * rho**2 / n
        assert abs(values.mean() - mi) <= 4 * np.sqrt(variance / batches)
        # The standard error of a variance, by the sample's fourth moment.
        error = np.sqrt((((values - values.mean()) ** 2 - values.var()) ** 2).mean() / batches)
        assert abs(values.var(ddof=1) - variance) <= 4 * error
        assert 4 * error < 0.1 * variance


def test_a_linear_conditional_gaussian_holds_the_exact_conditional():
    """The library's own conditional Gaussian, its parameters set by hand, is p(x | y) of the task."""
    dim, rho = 3, 0.7
    scale = np.sqrt(1 - rho**2)
    kernel = np.hstack([-rho / scale * np.eye(dim), np.zeros((dim, dim))])
    bias = np.concatenate([np.zeros(dim), np.full(dim, 6 * np.arctanh(-np.log(scale) / 6))])
    layer = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    params = {"conditional": {"params": {"affine": {"conditioner": {"Dense_0": layer}}}}}
    model = models.ba(log_normal, networks.ConditionalGaussian(hidden=()))
    task = tasks.gaussian(dim, float(tasks.rho_to_mi(rho, dim)))
    x, y = task.sample(jax.random.key(0), 100)
    np.testing.assert_allclose(model.log_ratio(params, x, y), task.log_ratio(x, y), rtol=1e-4, atol=1e-4)
    loss, (_, nats) = model.loss(params, (), x, y)
    np.testing.assert_allclose(nats["ba"], task.log_ratio(x, y).mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, -(task.log_ratio(x, y) + log_normal(x)).mean(), rtol=1e-4)


def test_the_normaliser_is_one_for_ba_whatever_its_parameters_and_not_for_gm():
    """Eq. 7 and Table 1: valid ratios for BA at any parameters; for I_GM not at these."""
    x, y = jax.random.normal(jax.random.key(0), (2, 400_000, 1))
    conditional = networks.ConditionalGaussian(hidden=(16,))
    ba = models.ba(log_normal, conditional)
    # A little off the marginal: with σ(y)² > 2 the ratio has no variance, and no mean of it could be checked.
    params = jax.tree.map(lambda leaf: 0.2 * leaf, randomised(ba.init(jax.random.key(1), x[:2], y[:2]), jax.random.key(2)))
    of_ba = evaluation.normaliser(ba, params, x, y)
    assert jnp.abs(ba.log_ratio(params, x, y)).max() > 0.2
    assert of_ba.effective_pairs > 1e5
    assert abs(of_ba.log_mean) < 4 * (1 / of_ba.effective_pairs - 1 / len(x)) ** 0.5

    gm = SMALL["gm"]
    start = gm.init(jax.random.key(1), x[:2], y[:2])
    params = jax.tree.map(lambda leaf, drawn: leaf + 0.3 * drawn, start, randomised(start, jax.random.key(2)))
    assert abs(evaluation.normaliser(gm, params, x, y).log_mean) > 0.1


@every_model
def test_trained_on_pairs_of_unequal_dimensions(name):
    """x of two coordinates, y of two that depend on them and two of noise: x and y are not the halves of [x; y]."""
    task, noise_dim = tasks.gaussian(2, 1.5), 2

    def batch(key, _):
        pair_key, noise_key = jax.random.split(key)
        x, y = task.sample(pair_key, 64)
        return x, jnp.concatenate([y, jax.random.normal(noise_key, (64, noise_dim))], axis=1)

    hidden = (32, 32)
    model = {
        "gm": lambda: models.gm(networks.JointRealNVP(hidden=hidden), *[networks.RealNVP(hidden=hidden)] * 2),
        "ba": lambda: models.ba(log_normal, networks.RealNVP(hidden=hidden)),
        "doe": lambda: models.doe(networks.RealNVP(hidden=hidden), networks.RealNVP(hidden=hidden)),
    }[name]()
    recipe = training.trainer(model, batch, training.adam(2e-3))
    _, history = jax.jit(lambda key: training.scan_steps(recipe, recipe.init(key), 1_500))(jax.random.key(0))
    assert history[name][0] == pytest.approx(0.0, abs=1e-5)
    assert 1.3 < history[name][-500:].mean() < 1.55


class NotOneARow(nn.Module):
    @nn.compact
    def __call__(self, *arguments):
        return arguments[0][:, :1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.gm("flow"), TypeError, "joint must be a Module, got str"),
        (lambda: models.gm(None, networks.RealNVP), TypeError, "marginal_x must be a Module, got the class RealNVP"),
        (lambda: models.ba(log_normal, 3), TypeError, "conditional must be a Module, got int"),
        (lambda: models.ba(networks.RealNVP()), TypeError, "log_marginal must be a function of x, got RealNVP"),
        (lambda: models.ba(None), TypeError, "log_marginal must be a function of x, got NoneType"),
        (lambda: models.doe(marginal=log_normal), TypeError, "marginal must be a Module, got function"),
        (lambda: models.make("ba"), TypeError, "log_marginal"),
        (
            lambda: models.gm(networks.RealNVP()),
            TypeError,
            r"joint must be a density of pairs \(x, y\), like JointRealNVP, got RealNVP",
        ),
        (lambda: models.gm(0), TypeError, "joint must be a Module, got int"),
        (
            lambda: models.doe(networks.JointRealNVP()),
            TypeError,
            "conditional must be a density of one variable, .* like RealNVP, got JointRealNVP",
        ),
        (lambda: models.ba(log_normal, networks.JointRealNVP()), TypeError, "conditional must be a density of one variable"),
        (lambda: unpaired(models.gm()), ValueError, r"x and y must hold the same number of rows, .* got \[5, 1\]"),
        (
            lambda: unpaired(models.ba(log_normal, networks.ConditionalGaussian())),
            ValueError,
            r"x and y must .* got \[5, 1\]",
        ),
        (
            lambda: first_loss(models.ba(normal)),
            ValueError,
            r"log_marginal must give one log density a row, shape \(5,\), got \(5, 2\)",
        ),
        (lambda: first_loss(models.ba(lambda x: 0.0)), ValueError, r"log_marginal must give .* shape \(5,\), got None"),
        (
            lambda: first_loss(models.doe(NotOneARow())),
            ValueError,
            r"conditional must give one log density a row, shape \(5,\), got \(5, 1\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def unpaired(model):
    x = jnp.zeros((5, 2))
    return model.loss(model.init(jax.random.key(0), x, x), (), x, x[:1])


def first_loss(model):
    x = jnp.zeros((5, 2))
    return model.loss(model.init(jax.random.key(0), x, x), (), x, x)
