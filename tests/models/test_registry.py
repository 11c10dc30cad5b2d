"""The conformance test: what every model in the registry must do, whatever it is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import models, networks, projections, tasks, training

every_model = pytest.mark.parametrize("name", models.names())


def sized(name, *hidden):
    """The model of this name with networks of this size: a critic, or for a generative model its densities."""
    flow = networks.RealNVP(hidden=hidden)
    options = {
        "gm": {"joint": networks.JointRealNVP(hidden=hidden), "marginal_x": flow, "marginal_y": flow},
        "ba": {"conditional": flow, "log_marginal": lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1)},
        "doe": {"conditional": flow, "marginal": flow},
    }
    return models.make(name, **options.get(name, {"critic": networks.JointCritic(hidden=hidden)}))


def small(name):
    return sized(name, 16, 16)


def batch(n=16, dim=3):
    return tasks.gaussian(dim, 1.0).sample(jax.random.key(0), n)


@every_model
def test_shapes_and_types(name):
    model = small(name)
    x, y = batch()
    params = model.init(jax.random.key(1), x, y)
    loss, (state, nats) = model.loss(params, model.init_state(jax.random.key(7)), x, y)
    chex.assert_shape(loss, ())
    chex.assert_tree_all_finite((loss, nats, params))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, model.init_state(jax.random.key(7)))
    assert nats
    for value in nats.values():
        chex.assert_shape(value, ())
        assert value.dtype == jnp.float32
    chex.assert_shape(model.log_ratio(params, x, y), (16,))
    if model.scores is not None:
        chex.assert_shape(model.scores(params, x, y[:5]), (16, 5))


@every_model
def test_init_depends_on_the_key_and_on_shapes_only(name):
    model = small(name)
    x, y = batch()
    chex.assert_trees_all_equal(model.init(jax.random.key(1), x, y), model.init(jax.random.key(1), x[:2] + 5, y[:2]))
    other = model.init(jax.random.key(2), x, y)
    assert not all(map(jnp.array_equal, jax.tree.leaves(model.init(jax.random.key(1), x, y)), jax.tree.leaves(other)))


@every_model
def test_unchanged_by_permuting_the_pairs(name):
    model = small(name)
    x, y = batch()
    params = model.init(jax.random.key(1), x, y)
    order = jax.random.permutation(jax.random.key(2), 16)
    loss, (_, nats) = model.loss(params, model.init_state(jax.random.key(7)), x, y)
    permuted, (_, permuted_nats) = model.loss(params, model.init_state(jax.random.key(7)), x[order], y[order])
    chex.assert_trees_all_close((loss, nats), (permuted, permuted_nats), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.log_ratio(params, x[order], y[order]), model.log_ratio(params, x, y)[order], rtol=1e-4, atol=1e-5
    )


@every_model
def test_the_second_call_does_not_compile(name):
    model = small(name)
    loss = jax.jit(chex.assert_max_traces(model.loss, n=1))
    x, y = batch()
    params = model.init(jax.random.key(1), x, y)
    state = model.init_state(jax.random.key(7))
    for _ in range(2):
        _, (state, _) = loss(params, state, x, y)


@every_model
def test_same_with_and_without_jit_and_under_vmap(name):
    model = small(name)
    x, y = batch()
    params = model.init(jax.random.key(1), x, y)
    state = model.init_state(jax.random.key(7))
    plain = model.loss(params, state, x, y)
    chex.assert_trees_all_close(jax.jit(model.loss)(params, state, x, y), plain, rtol=1e-4, atol=1e-5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, state, x, y))
    for place in (0, 1):
        mapped = jax.tree.map(lambda leaf, place=place: leaf[place], jax.vmap(model.loss)(*stacked))
        chex.assert_trees_all_close(mapped, plain, rtol=1e-4, atol=1e-5)


@every_model
def test_training_finds_information(name):
    """Every estimate rises from 0 to most of the 1 nat that is there, and the log ratio explains most of the exact one."""
    model = sized(name, 32, 32)
    task = tasks.gaussian(2, 1.0)
    recipe = training.trainer(model, lambda key, step: task.sample(key, 64), training.adam(2e-3))
    state, history = jax.jit(lambda key: training.scan_steps(recipe, recipe.init(key), 1_000))(jax.random.key(0))
    for nats in history.values():
        assert abs(nats[0]) < 0.5
        assert 0.85 < nats[-100:].mean() < 1.05
    x, y = task.sample(jax.random.key(9), 1_000)
    learned, exact = model.log_ratio(state.params, x, y), task.log_ratio(x, y)
    if name in ("infonce", "cpc"):  # it leaves a function of x free: take it out of both
        matrices = model.scores(state.params, x, y), task.log_ratio(x[:, None], y[None, :])
        learned, exact = (jnp.diagonal(projections.infonce(matrix)) for matrix in matrices)
    elif name not in ("dv", "mine"):  # they leave a constant free
        assert abs(learned.mean() - exact.mean()) < 0.15
    assert np.corrcoef(learned, exact)[0, 1] ** 2 > 0.85


@every_model
def test_options_reach_the_model(name):
    with pytest.raises(TypeError, match="no_such_option"):
        models.make(name, no_such_option=1)


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of infonce, .*, got 'infonse'"):
        models.make("infonse")


def test_cpc_is_infonce():
    x, y = batch()
    one, other = small("cpc"), small("infonce")
    params = one.init(jax.random.key(1), x, y)
    chex.assert_trees_all_equal(one.loss(params, (), x, y)[0], other.loss(params, (), x, y)[0])
