import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax import estimators, models, networks, tasks, training
from tests import simple
from tests.draws import draw_normal

SMALL_CRITIC = networks.BilinearCritic()


def make_simple_recipe(optimizer=None):
    return training.trainer(simple.make_model(), lambda key, step: simple.draw_batch(key), optimizer)


def make_recipe(estimator=None, optimizer=None, mi=1.0):
    model = models.discriminative(SMALL_CRITIC, estimator or estimators.mine())
    return training.trainer(model, lambda key, step: tasks.gaussian(2, mi).sample(key, 8), optimizer)


def start(recipe, seed=0):
    return jax.jit(recipe.init)(jax.random.key(seed))


@functools.partial(jax.jit, static_argnames=("recipe", "length"))
def scan(recipe, state, length):
    return training.scan_steps(recipe, state, length)


@pytest.mark.parametrize("make_recipe", [make_simple_recipe, pytest.param(make_recipe, marks=pytest.mark.slow)])
def test_chunks_change_nothing(make_recipe):
    """Not the model's state either: the slow case is MINE, the simple model's state is like its."""
    recipe = make_recipe()
    whole, history = scan(recipe, start(recipe), 10)
    state, parts = start(recipe), []
    for length in (4, 4, 2):
        state, part = scan(recipe, state, length)
        parts.append(next(iter(part.values())))
    chex.assert_trees_all_equal(state.params, whole.params)
    chex.assert_trees_all_equal(state.opt_state, whole.opt_state)
    chex.assert_trees_all_equal(state.model_state, whole.model_state)
    np.testing.assert_array_equal(np.concatenate(parts), next(iter(history.values())))
    assert np.isfinite(whole.model_state)
    assert int(whole.step) == 10


def test_read_outs_are_of_the_parameters_before_the_update_on_the_steps_own_batch():
    model, recipe = simple.make_model(), make_simple_recipe()

    @jax.jit
    def look(state, step):
        x, y = simple.draw_batch(jax.random.fold_in(state.key, step))
        _, (_, expected) = model.loss(state.variables, state.model_state, x, y)
        return recipe.step(state), expected

    state = start(recipe)
    for step in range(3):
        (state, nats), expected = look(state, step)
        np.testing.assert_allclose(nats["error"], expected["error"], rtol=1e-5)


def test_the_first_update_is_adams():
    """Adam's first step is -learning rate · sign(gradient), up to its epsilon."""
    recipe = make_simple_recipe(training.adam(1e-2))
    state = start(recipe)
    after, _ = jax.jit(recipe.step)(state)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), after.params, state.params)
    np.testing.assert_allclose(jax.tree.leaves(moved), 1e-2, rtol=1e-2)


def test_every_step_draws_a_fresh_batch_and_seeds_differ():
    # The parameters stay where they are, and those of both seeds are the same: only the batch changes the read-out.
    recipe = make_simple_recipe(optax.sgd(0.0))
    states = [start(recipe, seed)._replace(params={"w": jnp.ones(2)}) for seed in (0, 1)]
    histories = [scan(recipe, state, 6)[1]["error"] for state in states]
    assert len(np.unique(histories[0])) == 6
    assert not np.intersect1d(*histories).size


def make_model_of_one_number(loss):
    """A model of one number, whose state is a key."""
    return models.Model(lambda key, x, y: {"params": {"w": jnp.zeros(())}}, lambda key: key, loss, None)


def test_the_task_may_change_with_the_step():
    def batch(key, step):
        level = tasks.staircase(step, levels=(1.0, 3.0), every=2)
        return jnp.full((4, 2), level), jnp.zeros((4, 2))

    def loss(variables, state, x, y):
        return variables["params"]["w"] ** 2, (state, {"level": x.mean()})

    model = make_model_of_one_number(loss)
    recipe = training.trainer(model, batch)
    np.testing.assert_array_equal(scan(recipe, start(recipe), 4)[1]["level"], [1.0, 1.0, 3.0, 3.0])


def test_what_a_study_sweeps_may_be_traced():
    """Learning rate, tau and MI swept in one program: each setting is a training of its own."""

    @jax.jit
    @chex.assert_max_traces(n=1)
    def final(learning_rate, tau, mi):
        recipe = make_recipe(estimators.smile(tau), training.adam(learning_rate), mi)
        return training.scan_steps(recipe, recipe.init(jax.random.key(0)), 5)[1]["smile"][-1]

    settings = [(1e-3, 1.0, 0.5), (1e-2, 1.0, 0.5), (1e-3, 0.01, 0.5), (1e-3, 1.0, 2.0)]
    values = [float(final(*setting)) for setting in settings]
    assert len(set(values)) == len(settings)


def test_bad_input():
    model = models.make("infonce")
    with pytest.raises(TypeError, match="model must be a Model, got str"):
        training.trainer("infonce", lambda key, step: None)
    with pytest.raises(TypeError, match="optimizer must be a GradientTransformation, got float"):
        training.trainer(model, lambda key, step: None, 1e-3)


@pytest.mark.parametrize("learning_rate", [1e-3, jnp.float32(1e-3)])
def test_adam_has_the_papers_betas(learning_rate):
    grads = {"w": jnp.array([2.0])}
    optimizer = training.adam(learning_rate)
    _, state = optimizer.update(grads, optimizer.init(grads))
    np.testing.assert_allclose(optax.tree.get(state, "mu")["w"], 0.1 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(state, "nu")["w"], 0.001 * 4.0, rtol=1e-4)


def test_a_run_that_would_leave_the_finite_numbers_is_frozen():
    """Data that overflow at step 3, and are harmless again afterwards."""

    def batch(key, step):
        x, y = simple.draw_batch(key)
        return jnp.where(step == 3, jnp.inf, x), y

    recipe = training.trainer(simple.make_model(), batch, optax.sgd(0.1))
    before, _ = scan(recipe, start(recipe), 3)
    after, history = scan(recipe, start(recipe), 10)
    assert not before.diverged
    assert after.diverged
    assert int(after.step) == 3
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(history["error"][:3]).all()
    assert not np.isfinite(history["error"][3])
    assert np.isnan(history["error"][4:]).all()
    assert np.isnan(read_fixed(recipe, after, 5)["error"]).all()


@functools.partial(jax.jit, static_argnames=("recipe", "batches"))
def read_fixed(recipe, state, batches):
    return training.fixed_read_outs(recipe, state, batches)


def test_fixed_read_outs_are_those_of_fresh_batches_at_the_same_parameters():
    model, recipe = simple.make_model(), make_simple_recipe()
    state, history = scan(recipe, start(recipe), 20)
    values = np.asarray(read_fixed(recipe, state, 400)["error"])
    assert len(np.unique(values)) == 400
    assert not np.isin(values, history["error"]).any()

    @jax.jit
    def read_fresh(state, key):
        read = lambda key: model.loss(state.variables, state.model_state, *simple.draw_batch(key))[1][1]["error"]  # noqa: E731
        return jax.vmap(read)(jax.random.split(key, 400))

    expected = np.asarray(read_fresh(state, jax.random.key(9)))
    error = np.sqrt((values.var() + expected.var()) / 400)
    assert abs(values.mean() - expected.mean()) < 4 * error
    assert values.var() == pytest.approx(expected.var(), rel=0.4)  # 4 standard errors of each, sqrt(2/400), and both


def test_fixed_read_outs_of_a_model_that_draws_draw_afresh_for_each_batch():
    def loss(variables, key, x, y):
        key, own = jax.random.split(key)
        return variables["params"]["w"] ** 2, (key, {"drawn": jax.random.uniform(own)})

    rows = jnp.zeros((4, 2))
    recipe = training.trainer(make_model_of_one_number(loss), lambda key, step: (rows, rows))
    assert len(np.unique(read_fixed(recipe, start(recipe), 5)["drawn"])) == 5


@pytest.mark.slow
def test_fixed_read_outs_of_a_vae_draw_afresh_for_each_batch():
    images = jnp.zeros((4, 8, 8), jnp.uint8)
    vae = networks.VAE(latents=2, channels=(2,), hidden=(4,), decoder=(4,))
    recipe = training.trainer(models.gm(vae, vae, vae), lambda key, step: (images, images))
    assert len(np.unique(read_fixed(recipe, start(recipe), 5)["gm"])) == 5


def test_inputs_are_traced_and_act():
    def make_trainer(inputs):
        batch = lambda key, step: simple.draw_batch(key, inputs.shared)  # noqa: E731
        return training.trainer(simple.make_model(), batch, training.adam(inputs.per_run["rate"]))

    traced = training.from_inputs(make_trainer)
    init, step = jax.jit(traced.init), jax.jit(chex.assert_max_traces(traced.step, n=1))
    for slope, rate in ((1.0, 1e-3), (2.0, 1e-2)):
        inputs = training.Inputs(jnp.float32(slope), {"rate": jnp.float32(rate)})
        concrete = make_trainer(training.Inputs(slope, {"rate": rate}))
        ours, theirs = init(jax.random.key(0), inputs), start(concrete)
        own_step = jax.jit(concrete.step)
        for _ in range(3):
            ours, found = step(ours, inputs)
            theirs, expected = own_step(theirs)
        np.testing.assert_allclose(found["error"], expected["error"], rtol=1e-4)


def test_a_gradient_that_overflows_when_squared_freezes_a_run():
    """Adam would keep an infinite second moment, and never move again, without a word."""

    def loss(variables, state, x, y):
        return 1e22 * (variables["params"]["w"] - 1.0), (state, {"drawn": x.mean()})

    rows = jnp.zeros((4, 2))
    recipe = training.trainer(make_model_of_one_number(loss), lambda key, step: (rows, rows))
    after, _ = scan(recipe, start(recipe), 3)
    assert after.diverged
    assert int(after.step) == 0


def check_means(model, read_means):
    """Without an example, the rows are those of a batch."""
    batch, rows = draw_normal(2, 32, 2, seed=1), draw_normal(2, 32, 2, seed=2)

    @jax.jit
    def look(keys, batch, rows):
        make = lambda example: training.trainer(model, lambda key, step: batch, example=example)  # noqa: E731
        return [make(example).init(key) for key, example in zip(keys, (rows, None), strict=True)]

    keys = jax.random.key(0), jax.random.key(1)
    for state, pair in zip(look(keys, tuple(batch), tuple(rows)), (rows, batch), strict=True):
        for mean, values in zip(read_means(state.variables), pair, strict=True):
            np.testing.assert_allclose(mean, np.mean(values, axis=0, dtype=float), atol=1e-6)
        chex.assert_trees_all_equal_shapes(optax.tree.get(state.opt_state, "mu"), state.params)


def test_a_model_is_initialised_on_the_example_rows_if_there_are_any():
    model = simple.make_model()._replace(init=lambda key, x, y: {"params": {"means": (x.mean(axis=0), y.mean(axis=0))}})
    check_means(model, lambda variables: variables["params"]["means"])


@pytest.mark.slow
def test_a_gaussian_critic_keeps_the_means_of_the_example_rows():
    model = models.discriminative(networks.GaussianCritic(hidden=(8,)), estimators.js())

    def read_means(variables):
        fit = variables["gaussian"]["fit"]
        return fit.mean_x, fit.mean_y

    check_means(model, read_means)


def test_constants_are_neither_trained_nor_decayed():
    """Weight decay moves every parameter, with or without a gradient; constants are no parameters."""

    def loss(variables, state, x, y):
        error = (variables["params"]["w"] - variables["fitted"]["mean"]) ** 2
        return error, (state, {"error": jax.lax.stop_gradient(error)})

    model = simple.make_model()._replace(
        init=lambda key, x, y: {"params": {"w": jnp.ones(())}, "fitted": {"mean": x.mean()}}, loss=loss
    )
    rows = jnp.full((4, 2), 3.0)
    trainer = training.trainer(model, lambda key, step: (rows, rows), optax.adamw(0.1, weight_decay=0.5))
    after, history = scan(trainer, start(trainer), 5)
    assert float(after.constants["fitted"]["mean"]) == 3.0
    assert history["error"][-1] < history["error"][0] == 4.0
    chex.assert_trees_all_equal_structs(optax.tree.get(after.opt_state, "mu"), {"w": 0.0}, after.params)
    assert set(after.variables) == {"params", "fitted"}
