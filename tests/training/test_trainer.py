import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax import estimators, models, networks, tasks, training


def recipe(estimator=None, optimizer=None, mi=1.0):
    model = models.discriminative(networks.SeparableCritic(hidden=(16,)), estimator or estimators.mine())
    return training.trainer(model, lambda key, step: tasks.gaussian(2, mi).sample(key, 32), optimizer)


def test_chunks_change_nothing():
    r = recipe()
    start = r.init(jax.random.key(0))
    whole, history = jax.jit(lambda s: training.scan_steps(r, s, 12))(start)
    state, parts = start, []
    for length in (5, 5, 2):
        state, part = jax.jit(lambda s, n=length: training.scan_steps(r, s, n))(state)
        parts.append(part["mine"])
    chex.assert_trees_all_equal(state.params, whole.params)
    chex.assert_trees_all_equal(state.opt_state, whole.opt_state)
    np.testing.assert_array_equal(jnp.concatenate(parts), history["mine"])
    assert int(whole.step) == 12


def test_read_outs_are_of_the_parameters_before_the_update_on_the_steps_own_batch():
    model = models.discriminative(networks.SeparableCritic(hidden=(16,)), estimators.infonce())
    task = tasks.gaussian(2, 1.0)
    r = training.trainer(model, lambda key, step: task.sample(key, 32))
    state = r.init(jax.random.key(0))
    for step in range(3):
        x, y = task.sample(jax.random.fold_in(state.key, step), 32)
        _, (_, expected) = model.loss(state.params, state.model_state, x, y)
        state, nats = r.step(state)
        np.testing.assert_allclose(nats["infonce"], expected["infonce"], rtol=1e-5)


def test_the_first_update_is_adams():
    """Adam's first step is -learning rate · sign(gradient), up to its epsilon."""
    # NWJ's gradient is nowhere 0; InfoNCE's is, for a constant added to every h(y).
    r = recipe(estimators.nwj(), training.adam(1e-2))
    state = r.init(jax.random.key(0))
    after, _ = r.step(state)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, state.params)
    np.testing.assert_allclose(jax.tree.leaves(moved), 1e-2, rtol=1e-2)


def test_every_step_draws_a_fresh_batch_and_seeds_differ():
    r = recipe(estimators.infonce(), optax.sgd(0.0))  # parameters stay: only the batch changes the read-out
    _, history = training.scan_steps(r, r.init(jax.random.key(0)), 6)
    assert len(np.unique(history["infonce"])) == 6
    _, other = training.scan_steps(r, r.init(jax.random.key(1)), 6)
    assert not np.intersect1d(history["infonce"], other["infonce"]).size


def test_the_task_may_change_with_the_step():
    levels = []

    def batch(key, step):
        mi = tasks.staircase(step, levels=(1.0, 3.0), every=2)
        levels.append(mi)
        return tasks.gaussian(2, mi).sample(key, 16)

    model = models.discriminative(networks.SeparableCritic(hidden=(16,)), estimators.infonce())
    r = training.trainer(model, batch)
    state = r.init(jax.random.key(0))
    for _ in range(4):
        state, _ = r.step(state)
    assert [float(level) for level in levels[1:]] == [1.0, 1.0, 3.0, 3.0]


def test_what_a_study_sweeps_may_be_traced():
    """Learning rate, tau and MI swept in one program: each setting is a training of its own."""

    @jax.jit
    @chex.assert_max_traces(n=1)
    def final(learning_rate, tau, mi):
        model = models.discriminative(networks.SeparableCritic(hidden=(16,)), estimators.smile(tau))
        r = training.trainer(model, lambda key, step: tasks.gaussian(2, mi).sample(key, 32), training.adam(learning_rate))
        _, history = training.scan_steps(r, r.init(jax.random.key(0)), 5)
        return history["smile"][-1]

    settings = [(1e-3, 1.0, 0.5), (1e-2, 1.0, 0.5), (1e-3, 0.01, 0.5), (1e-3, 1.0, 2.0)]
    values = [float(final(*setting)) for setting in settings]
    assert len(set(values)) == len(settings)


def test_state_of_mine_is_carried_through_training():
    r = recipe(estimators.mine())
    state, _ = training.scan_steps(r, r.init(jax.random.key(0)), 3)
    assert jnp.isfinite(state.model_state)


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
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.infonce())

    def batch(key, step):
        x, y = tasks.gaussian(2, 1.0).sample(key, 16)
        return jnp.where(step == 3, jnp.inf, x), y

    recipe = training.trainer(model, batch, optax.sgd(0.1))
    start = recipe.init(jax.random.key(0))
    before, _ = training.scan_steps(recipe, start, 3)
    after, history = training.scan_steps(recipe, start, 10)
    assert not before.diverged
    assert after.diverged
    assert int(after.step) == 3
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(history["infonce"][:3]).all()
    assert np.isnan(history["infonce"][3:]).all()
    assert np.isnan(training.fixed_read_outs(recipe, after, 5)["infonce"]).all()


def test_fixed_read_outs_are_those_of_fresh_batches_at_the_same_parameters():
    task = tasks.gaussian(2, 1.0)
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.mine())
    recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
    state, history = training.scan_steps(recipe, recipe.init(jax.random.key(0)), 20)
    values = np.asarray(training.fixed_read_outs(recipe, state, 400)["mine"])
    assert len(np.unique(values)) == 400
    assert not np.isin(values, history["mine"]).any()
    draws = jax.random.split(jax.random.key(9), 400)
    read = jax.vmap(lambda key: model.loss(state.params, state.model_state, *task.sample(key, 64))[1][1]["mine"])
    expected = np.asarray(read(draws))
    error = np.sqrt((values.var() + expected.var()) / 400)
    assert abs(values.mean() - expected.mean()) < 4 * error
    assert values.var() == pytest.approx(expected.var(), rel=0.4)  # 4 standard errors of each, sqrt(2/400), and both


def test_fixed_read_outs_of_a_model_that_draws_draw_afresh_for_each_batch():
    images = jnp.zeros((4, 8, 8), jnp.uint8)
    vae = networks.VAE(latents=2, channels=(2,), hidden=(4,), decoder=(4,))
    recipe = training.trainer(models.gm(vae, vae, vae), lambda key, step: (images, images))
    values = training.fixed_read_outs(recipe, recipe.init(jax.random.key(0)), 5)["gm"]
    assert len(np.unique(values)) == 5


def test_swept_settings_are_traced_and_act():
    def recipe(settings):
        task = tasks.gaussian(2, settings["mi"])
        model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.smile(settings["tau"]))
        return training.trainer(model, lambda key, step: task.sample(key, 64), training.adam(settings["rate"]))

    swept = training.swept(recipe)
    step = jax.jit(chex.assert_max_traces(swept.step, n=1))
    for settings in ({"mi": 1.0, "tau": 5.0, "rate": 1e-3}, {"mi": 2.0, "tau": 0.1, "rate": 1e-2}):
        traced = {name: jnp.float32(value) for name, value in settings.items()}
        ours = swept.init(training.Run(jax.random.key(0), traced))
        theirs = recipe(settings).init(jax.random.key(0))
        for _ in range(3):
            ours, found = step(ours)
            theirs, expected = recipe(settings).step(theirs)
        np.testing.assert_allclose(found["smile"], expected["smile"], rtol=1e-4)
        assert ours.settings == traced


def test_a_gradient_that_overflows_when_squared_freezes_a_run():
    """Adam would keep an infinite second moment, and never move again, without a word."""
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.infonce())

    def loss(params, state, x, y):
        value, aux = model.loss(params, state, x, y)
        return 1e22 * value, aux

    recipe = training.trainer(model._replace(loss=loss), lambda key, step: tasks.gaussian(2, 1.0).sample(key, 16))
    after, _ = training.scan_steps(recipe, recipe.init(jax.random.key(0)), 3)
    assert after.diverged
    assert int(after.step) == 0


def test_a_model_is_initialised_on_the_example_rows_if_there_are_any():
    """A Gaussian critic keeps their means; without an example, those of a batch."""
    model = models.discriminative(networks.GaussianCritic(hidden=(8,)), estimators.js())
    batch, rows = (tasks.gaussian(2, 1.0).sample(jax.random.key(seed), n) for seed, n in ((1, 32), (2, 500)))
    for example, (x, y) in ((rows, rows), (None, batch)):
        state = jax.jit(training.trainer(model, lambda key, step: batch, example=example).init)(jax.random.key(0))
        fit = state.params["gaussian"]["fit"]
        np.testing.assert_allclose(fit.mean_x, np.mean(x, axis=0, dtype=float), atol=1e-6)
        np.testing.assert_allclose(fit.mean_y, np.mean(y, axis=0, dtype=float), atol=1e-6)
        chex.assert_trees_all_equal_shapes(optax.tree.get(state.opt_state, "mu"), state.params)
