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
