"""The conformance test: what every model in the registry must do, whatever it is."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import models, networks, projections, tasks, training
from tests.selection import select_default

PAIRS, DIM = 16, 2
FREE_IN_X = ("infonce", "cpc")  # their log ratio is known up to a function of x only
every_model = pytest.mark.parametrize("name", models.names())


def make_sized(name, hidden, layers):
    """The model of this name with networks of this size: a critic, or for a generative model its densities."""
    flow = networks.RealNVP(hidden=hidden, layers=layers)
    joint = networks.JointRealNVP(hidden=hidden, layers=layers)
    options = {
        "gm": {"joint": joint, "marginal_x": flow, "marginal_y": flow},
        "ba": {"conditional": flow, "log_marginal": lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1)},
        "doe": {"conditional": flow, "marginal": flow},
    }
    return models.make(name, **options.get(name, {"critic": networks.JointCritic(hidden=hidden)}))


def make_small(name):
    return make_sized(name, hidden=(8,), layers=2)


def draw_pairs(*shape, seed=0):
    """Pairs of the Gaussian task."""
    rho = float(tasks.mi_to_rho(1.0, DIM))
    x, noise = np.random.default_rng(seed).standard_normal((2, *shape, DIM), np.float32)
    return x, np.float32(rho) * x + np.float32((1 - rho**2) ** 0.5) * noise


def permute(rows):
    return rows[np.random.default_rng(1).permutation(PAIRS)]


def add_noise(params):
    """The parameters with noise, so that no layer is left at zero, as the last one of a flow is at the start."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32), params)


@functools.cache
def run_small(name):
    """What the tests look at: initial parameters, and the loss and the log ratio of noisy ones.

    `model.init` runs without jit: the models then share its compiled operations, which costs less than a program for each.
    """
    model, traces = make_small(name), []
    x, y = map(jnp.asarray, draw_pairs(PAIRS))
    log_ratio = jax.jit(model.log_ratio)

    @jax.jit
    def loss(*given):
        traces.append(name)
        return model.loss(*given)

    initial = model.init(jax.random.key(1), x, y)
    params, state = add_noise(initial), model.init_state(jax.random.key(7))
    first_loss = loss(params, state, x, y)
    return SimpleNamespace(
        model=model,
        initial=initial,
        initial_of_other_rows=model.init(jax.random.key(1), x + 5, y - 2),
        initial_of_other_key=model.init(jax.random.key(2), x, y),
        initial_shapes_of_two_rows=jax.eval_shape(model.init, jax.random.key(1), x[:2], y[:2]),
        params=params,
        state=state,
        pairs=(x, y),
        loss=first_loss,
        loss_of_permuted=loss(params, state, permute(x), permute(y)),
        loss_after_a_step=loss(params, first_loss[1][0], x, y),
        traces=traces,
        log_ratio=log_ratio(params, x, y),
        log_ratio_of_permuted=log_ratio(params, permute(x), permute(y)),
    )


@every_model
def test_shapes_and_types(name):
    run = run_small(name)
    loss, (state, nats) = run.loss
    chex.assert_shape(loss, ())
    chex.assert_tree_all_finite((loss, nats, run.initial))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, run.state)
    assert nats
    for value in nats.values():
        chex.assert_shape(value, ())
        assert value.dtype == jnp.float32
    chex.assert_shape(run.log_ratio, (PAIRS,))
    if run.model.critic is not None:
        x, y = run.pairs
        chex.assert_shape(jax.eval_shape(run.model.critic.scores, run.params, x, y[:5]), (PAIRS, 5))


@every_model
def test_init_depends_on_the_key_and_on_shapes_only(name):
    run = run_small(name)
    chex.assert_trees_all_equal(run.initial, run.initial_of_other_rows)
    chex.assert_trees_all_equal_shapes_and_dtypes(run.initial, run.initial_shapes_of_two_rows)
    assert not all(map(np.array_equal, jax.tree.leaves(run.initial), jax.tree.leaves(run.initial_of_other_key)))


@every_model
def test_unchanged_by_permuting_the_pairs(name):
    run = run_small(name)
    (loss, (_, nats)), (permuted, (_, permuted_nats)) = run.loss, run.loss_of_permuted
    chex.assert_trees_all_close((loss, nats), (permuted, permuted_nats), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.log_ratio_of_permuted, permute(np.asarray(run.log_ratio)), rtol=1e-4, atol=1e-5)


@every_model
def test_the_second_call_does_not_compile(name):
    assert run_small(name).traces == [name]


@select_default("mine", "ba", of=models.names())
def test_same_without_jit(name):
    run = run_small(name)
    chex.assert_trees_all_close(run.model.loss(run.params, run.state, *run.pairs), run.loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.model.log_ratio(run.params, *run.pairs), run.log_ratio, rtol=1e-4, atol=1e-5)


# By default one critic and one density: mapped, every model needs a program of its own.
@select_default("mine", "ba", of=models.names())
def test_same_under_vmap(name):
    run = run_small(name)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (run.params, run.state, *run.pairs))
    mapped = jax.jit(jax.vmap(run.model.loss))(*stacked)
    for place in (0, 1):
        one = jax.tree.map(lambda leaf, place=place: leaf[place], mapped)
        chex.assert_trees_all_close(one, run.loss, rtol=1e-4, atol=1e-5)


def check_training(name, hidden, layers, steps, rows, learning_rate, pairs):
    """Every estimate rises from 0 to most of the 1 nat that is there, and the log ratio explains most of the exact one."""
    model, (xs, ys) = make_sized(name, hidden, layers), draw_pairs(steps, rows)

    @jax.jit
    def train(params, xs, ys, x, y):
        start = model._replace(init=lambda *_: params)
        recipe = training.trainer(start, lambda key, step: (xs[step], ys[step]), training.adam(learning_rate))
        state, history = training.scan_steps(recipe, recipe.init(jax.random.key(0)), steps)
        scores = name in FREE_IN_X and model.critic.scores(state.variables, x, y)
        return history, model.log_ratio(state.variables, x, y), scores

    x, y = draw_pairs(pairs, seed=1)
    params = model.init(jax.random.key(0), xs[0, :PAIRS], ys[0, :PAIRS])
    history, learned, scores = train(params, xs, ys, x, y)
    for nats in history.values():
        assert abs(nats[0]) < 0.5
        assert 0.85 < nats[-100:].mean() < 1.05
    exact_log_ratio = tasks.gaussian(DIM, 1.0).log_ratio
    exact = exact_log_ratio(x, y)
    if name in FREE_IN_X:  # take the function of x out of both
        matrices = jnp.asarray(scores), exact_log_ratio(x[:, None], y[None, :])
        learned, exact = (jnp.diagonal(projections.infonce(matrix)) for matrix in matrices)
    elif name not in ("dv", "mine"):  # they leave a constant free
        assert abs(learned.mean() - exact.mean()) < 0.15
    assert np.corrcoef(learned, exact)[0, 1] ** 2 > 0.85


@every_model
@pytest.mark.slow
def test_training_finds_information(name):
    check_training(name, hidden=(32, 32), layers=5, steps=1_000, rows=64, learning_rate=2e-3, pairs=1_000)


# The other critics differ from these in objectives and read-outs, which tests of their own compare with formulas.
# `test_generative` trains a density.
@pytest.mark.parametrize("name", ["mine", "smile"])
def test_small_training_finds_information(name):
    check_training(name, hidden=(16,), layers=2, steps=500, rows=64, learning_rate=1e-2, pairs=400)


@every_model
def test_options_reach_the_model(name):
    with pytest.raises(TypeError, match="no_such_option"):
        models.make(name, no_such_option=1)


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of infonce, .*, got 'infonse'"):
        models.make("infonse")


def test_cpc_is_infonce():
    np.testing.assert_array_equal(run_small("cpc").loss[0], run_small("infonce").loss[0])
