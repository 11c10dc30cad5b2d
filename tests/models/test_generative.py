import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import evaluation, models, networks, tasks, training
from tests.draws import draw_normal, draw_params

normal = jax.scipy.stats.norm.logpdf


def log_normal(x):
    """log N(x; 0, I) of each row: the marginal of x in both tasks."""
    return normal(x).sum(axis=1)


HIDDEN = (8,)
FLOW = networks.RealNVP(hidden=HIDDEN, layers=2)
JOINT = networks.JointRealNVP(hidden=HIDDEN, layers=2)
SMALL = {"gm": models.gm(JOINT, FLOW, FLOW), "ba": models.ba(log_normal, FLOW), "doe": models.doe(FLOW, FLOW)}
every_model = pytest.mark.parametrize("name", SMALL)


class ExactConditional(nn.Module):
    """p(x | y) of the Gaussian task, N(rho y, 1 - rho²) in every coordinate; it has nothing to learn."""

    rho: float

    @nn.compact
    def __call__(self, x, y):
        return normal(x, self.rho * y, jnp.sqrt(1 - self.rho**2)).sum(axis=1)


def setup(name, n=16):
    x, y = draw_normal(2, n, 3)
    model = SMALL[name]
    return model, draw_params(model.init, jax.random.key(2), x, y), x, y


def log_densities(params, x, y):
    """Role -> log density, by the networks themselves."""
    values = {
        "joint": lambda p: JOINT.apply(p, x, y),
        "marginal_x": lambda p: FLOW.apply(p, x),
        "marginal_y": lambda p: FLOW.apply(p, y),
        "conditional": lambda p: FLOW.apply(p, x, y),
        "marginal": lambda p: FLOW.apply(p, x),
    }
    return {role: values[role](models.select_role(params, role)) for role in params["params"]}


@every_model
def test_loss_is_the_likelihood_and_the_ratio_a_quotient_that_does_not_train(name):
    model, params, x, y = setup(name)

    @jax.jit
    def look(params):
        slope_of_read_out = jax.grad(lambda p: model.loss(p, (), x, y)[1][1][name])(params)
        state = model.init_state(jax.random.key(7))
        return log_densities(params, x, y), model.loss(params, state, x, y), model.log_ratio(params, x, y), slope_of_read_out

    logs, (loss, (state, nats)), log_ratio, slope_of_read_out = jax.tree.map(np.asarray, look(params))
    ratio = {
        "gm": lambda: logs["joint"] - logs["marginal_x"] - logs["marginal_y"],
        "ba": lambda: logs["conditional"] - np.asarray(log_normal(x)),
        "doe": lambda: logs["conditional"] - logs["marginal"],
    }[name]()
    assert state == ()
    assert model.critic is None
    np.testing.assert_allclose(loss, -sum(log.mean() for log in logs.values()), rtol=1e-4)
    np.testing.assert_allclose(log_ratio, ratio, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(nats[name], ratio.mean(), rtol=1e-3, atol=1e-3)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope_of_read_out))


@every_model
def test_no_pairs_off_the_diagonal(name):
    """The cost is n and not n²: no intermediate of n·n entries."""
    model, params, x, y = setup(name, n=512)
    text = jax.jit(jax.value_and_grad(model.loss, has_aux=True)).lower(params, (), x, y).as_text()
    assert "512x512" not in text
    assert f"512x{HIDDEN[0]}" in text


@pytest.mark.parametrize("name", ["gm", "ba", pytest.param("doe", marks=pytest.mark.slow)])  # its densities are of ba and gm
@pytest.mark.parametrize(("x_shape", "y_shape"), [((6,), (6,)), ((6, 3), (6, 2, 2)), ((6, 4, 4), (6,))])
def test_any_shape_of_x_and_y(name, x_shape, y_shape):
    of_any_shape = models.ba(lambda x: normal(x).reshape(len(x), -1).sum(axis=1), FLOW)
    model = of_any_shape if name == "ba" else SMALL[name]
    x, y = draw_normal(*x_shape), draw_normal(*y_shape, seed=1)
    params = draw_params(
        model.init, jax.random.key(2), x, y, gain=0.0
    )  # with all layers at zero a flow is a standard normal
    np.testing.assert_allclose(jax.jit(model.log_ratio)(params, x, y), np.zeros(6), atol=1e-4)


def check_exact_conditional(mi, dim, n, batches=10_000):
    """The mean is the MI within 4 standard errors, and the variance over batches dρ²/n."""
    rho = float(tasks.mi_to_rho(mi, dim))
    model = models.ba(log_normal, ExactConditional(rho))
    x, noise = draw_normal(2, n * batches, dim)
    y = np.float32(rho) * x + np.float32((1 - rho**2) ** 0.5) * noise
    values = np.asarray(jax.jit(model.log_ratio)({"conditional": {}}, x, y), np.float64).reshape(batches, n).mean(axis=1)
    variance = dim * rho**2 / n
    assert abs(values.mean() - mi) <= 4 * np.sqrt(variance / batches)
    # The standard error of a variance, by the sample's fourth moment.
    error = np.sqrt((((values - values.mean()) ** 2 - values.var()) ** 2).mean() / batches)
    assert abs(values.var(ddof=1) - variance) <= 4 * error
    assert 4 * error < 0.1 * variance


@pytest.mark.slow
@pytest.mark.parametrize("mi", [2.0, 6.0, 10.0])
def test_ba_with_the_exact_conditional_is_exact(mi):
    """At the paper's dimension and at any number of pairs."""
    check_exact_conditional(mi, dim=20, n=64)


@pytest.mark.parametrize("mi", [1.0, 5.0])
def test_ba_with_the_exact_conditional_is_exact_in_few_dimensions(mi):
    check_exact_conditional(mi, dim=4, n=16)


def test_a_linear_conditional_gaussian_holds_the_exact_conditional():
    """The library's own conditional Gaussian, its parameters set by hand, is p(x | y) of the task."""
    dim, rho = 3, 0.7
    scale = np.sqrt(1 - rho**2)
    kernel = np.hstack([-rho / scale * np.eye(dim), np.zeros((dim, dim))])
    bias = np.concatenate([np.zeros(dim), np.full(dim, 6 * np.arctanh(-np.log(scale) / 6))])
    layer = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    params = {"params": {"conditional": {"affine": {"conditioner": {"Dense_0": layer}}}}}
    model = models.ba(log_normal, networks.ConditionalGaussian(hidden=()))
    task = tasks.gaussian(dim, float(tasks.rho_to_mi(rho, dim)))
    x, noise = draw_normal(2, 100, dim)
    y = np.float32(rho) * x + np.float32(scale) * noise

    @jax.jit
    def look(x, y):
        return model.log_ratio(params, x, y), model.loss(params, (), x, y), task.log_ratio(x, y), log_normal(x)

    log_ratio, (loss, (_, nats)), exact, log_marginal = jax.tree.map(np.asarray, look(x, y))
    np.testing.assert_allclose(log_ratio, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(nats["ba"], exact.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, -(exact + log_marginal).mean(), rtol=1e-4)


def test_the_normaliser_is_one_for_ba_whatever_its_parameters_and_not_for_gm():
    """Eq. 7 and Table 1: valid ratios for BA at any parameters; for I_GM not at these."""
    x, y = draw_normal(2, 400_000, 1)

    def find_normaliser(model, params):
        return jax.jit(lambda params, x, y: evaluation.normaliser(model, params, x, y))(params, x, y)

    ba = models.ba(log_normal, networks.ConditionalGaussian(hidden=HIDDEN))
    # A little off the marginal: with σ(y)² > 2 the ratio has no variance, and no mean of it could be checked.
    params = draw_params(ba.init, jax.random.key(1), x[:2], y[:2], gain=0.2)
    of_ba = find_normaliser(ba, params)
    assert jnp.abs(jax.jit(ba.log_ratio)(params, x[:1_000], y[:1_000])).max() > 0.2
    assert of_ba.effective_pairs > 1e5
    assert abs(of_ba.log_mean) < 4 * (1 / of_ba.effective_pairs - 1 / len(x)) ** 0.5

    gm = SMALL["gm"]
    params = draw_params(gm.init, jax.random.key(1), x[:2], y[:2], gain=0.3)
    assert abs(find_normaliser(gm, params).log_mean) > 0.1


def check_training(name, hidden, layers, steps, learning_rate):
    """x of two coordinates, y of two that depend on them and two of noise: x and y are not the halves of [x; y]."""
    mi, rows, rho = 1.5, 64, float(tasks.mi_to_rho(1.5, 2))
    x, noise, more_noise = draw_normal(3, steps, rows, 2)
    y = np.concatenate([np.float32(rho) * x + np.float32((1 - rho**2) ** 0.5) * noise, more_noise], axis=-1)
    flow = networks.RealNVP(hidden=hidden, layers=layers)
    model = {
        "gm": lambda: models.gm(networks.JointRealNVP(hidden=hidden, layers=layers), flow, flow),
        "ba": lambda: models.ba(log_normal, flow),
        "doe": lambda: models.doe(flow, flow),
    }[name]()

    @jax.jit
    def train(key, x, y):
        recipe = training.trainer(model, lambda key, step: (x[step], y[step]), training.adam(learning_rate))
        return training.scan_steps(recipe, recipe.init(key), steps)[1]

    history = train(jax.random.key(0, impl="unsafe_rbg"), x, y)  # half the time to compile
    assert history[name][0] == pytest.approx(0.0, abs=1e-5)
    assert mi - 0.2 < history[name][-steps // 3 :].mean() < mi + 0.05


@every_model
@pytest.mark.slow
def test_trained_on_pairs_of_unequal_dimensions(name):
    check_training(name, hidden=(32, 32), layers=5, steps=1_500, learning_rate=2e-3)


def test_ba_trained_briefly_on_pairs_of_unequal_dimensions():
    check_training("ba", hidden=HIDDEN, layers=2, steps=600, learning_rate=1e-2)


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
    trace_loss(model, jnp.zeros((5, 2)), jnp.zeros((1, 2)))


def first_loss(model):
    trace_loss(model, jnp.zeros((5, 2)), jnp.zeros((5, 2)))


def trace_loss(model, x, y):
    """The loss without its numbers: nothing is compiled."""
    jax.eval_shape(lambda key: model.loss(model.init(key, x, x), (), x, y), jax.random.key(0))
