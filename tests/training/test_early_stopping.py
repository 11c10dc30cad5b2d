import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import layout, runs
from mi_jax.training.early_stopping import AVERAGE_DECAY, Validated
from tests import simple
from tests.draws import draw_normal


def keys(number=5):
    """Made anew for each test: the key-reuse checker takes a key of the module for used after the first."""
    return jax.random.split(jax.random.key(0), number)


def walk(path):
    """Training whose parameter goes along a path, and whose read-out is where it was."""
    path = jnp.asarray(path, jnp.float32)

    def init(key, inputs=None):
        none = jnp.zeros((), bool)
        return training.TrainState(key, jnp.zeros((), jnp.int32), {"w": path[0]}, (), (), none)

    def step(state, inputs=None):
        moved = state._replace(step=state.step + 1, params={"w": path[jnp.minimum(state.step + 1, path.size - 1)]})
        return moved, {"w": state.params["w"]}

    return training.Trainer(init, step)


def averages(path, every):
    """The moving average after each round, in float64, the start in front."""
    found, average = [path[0]], path[0]
    for step, w in enumerate(path[1:], start=1):
        average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * w
        if step % every == 0:
            found.append(average)
    return np.array(found)


def validated(path, losses, rounds, every=10, patience=100):
    """The state, and the history, of a walk under early stopping."""
    recipe = training.early_stopping(
        walk(path), lambda state, inputs: losses(state.params["w"]), every=every, patience=patience
    )
    return jax.jit(lambda key: training.scan_steps(recipe, recipe.init(key), rounds))(jax.random.key(0))


def squares(*targets):
    return lambda w: (w - jnp.array(targets)) ** 2


def linear(steps, by=0.1):
    return by * np.arange(steps + 1)


def test_what_validates_is_the_moving_average():
    path = np.random.default_rng(0).standard_normal(61).cumsum()
    state, history = validated(path, squares(1.0, 2.0), rounds=6)
    expected = averages(path, every=10)
    np.testing.assert_allclose(state.average["w"], expected[-1], rtol=1e-5)
    losses = ((expected[1:, None] - [1.0, 2.0]) ** 2).mean(axis=1)
    np.testing.assert_allclose(history["validation_loss"], losses, rtol=1e-4)
    # The read-outs are of the parameters themselves, and their mean over the round.
    np.testing.assert_allclose(history["w"], path[:60].reshape(6, 10).mean(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("target", "best_round"), [(0.3, 2), (-1.0, 0), (100.0, 8)])
def test_the_best_is_the_minimum_of_the_history_and_the_start(target, best_round):
    """A walk that passes a target, one that only leaves it, and one that has not arrived."""
    path = linear(80)
    state, history = validated(path, squares(target - 0.1, target + 0.1), rounds=8)
    expected = averages(path, every=10)
    losses = (expected - target) ** 2 + 0.1**2
    assert int(state.best_round) == best_round == np.argmin(losses)
    np.testing.assert_allclose(state.best.params["w"], expected[best_round], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jnp.mean(state.best.losses), losses[best_round], rtol=1e-4)
    # The parameters give these losses; and the start is kept beside them.
    np.testing.assert_allclose(squares(target - 0.1, target + 0.1)(state.best.params["w"]), state.best.losses, rtol=1e-5)
    np.testing.assert_allclose(state.start.losses, squares(target - 0.1, target + 0.1)(0.0), rtol=1e-6)
    assert float(jnp.mean(state.best.losses)) == min(
        float(jnp.mean(state.start.losses)), *history["validation_loss"].tolist()
    )


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_stops_after_so_many_rounds_without_a_lower_loss(patience):
    path = linear(200)
    state, history = validated(path, squares(0.3), rounds=12, patience=patience)
    last = 2 + patience  # the average comes closest to the target in the second
    assert (int(state.best_round), int(state.round)) == (2, last)
    assert bool(state.stopped)
    assert not bool(state.diverged)
    # It does no more: no step, no read-out.
    assert int(state.train.step) == 10 * last
    for values in history.values():
        assert np.isfinite(values[:last]).all()
        assert np.isnan(values[last:]).all()


def test_a_loss_that_stays_the_same_is_no_lower_one():
    state, history = validated(np.ones(100), squares(0.0), rounds=5, patience=3)
    assert (int(state.best_round), int(state.round)) == (0, 3)
    np.testing.assert_array_equal(history["validation_loss"], [1.0, 1.0, 1.0, np.nan, np.nan])


def test_a_loss_that_is_not_a_number_is_infinite():
    """The walk starts at 0; one batch's loss is undefined below 0.1, and the other's above 0.5."""

    def losses(w):
        return jnp.where(jnp.array([w < 0.1, w > 0.5]), jnp.nan, (w - jnp.array([2.0, 3.0])) ** 2)

    state, history = validated(linear(80), losses, rounds=8)
    averaged = averages(linear(80), every=10)[1:]
    defined = (averaged >= 0.1) & (averaged <= 0.5)
    assert 0 < defined.sum() < 8
    np.testing.assert_array_equal(np.isinf(history["validation_loss"]), ~defined)
    # The last that is defined is the lowest.
    assert int(state.best_round) == 1 + np.flatnonzero(defined)[-1]
    assert np.isfinite(state.best.losses).all()
    params, best_round = training.select_parameters(state)
    assert (float(params["w"]), int(best_round)) == (float(state.best.params["w"]), int(state.best_round))


def test_where_no_loss_is_a_number_the_start_stays():
    state, history = validated(linear(80), lambda w: w + jnp.array([jnp.nan, 1.0]), rounds=8, patience=3)
    assert (int(state.best_round), int(state.round)) == (0, 3)
    assert np.isinf(history["validation_loss"][:3]).all()
    params, best_round = training.select_parameters(state)
    assert (float(params["w"]), int(best_round)) == (0.0, 0)


def real(patience=2, poison=None, critic=networks.BilinearCritic()):  # noqa: B008 - a module is immutable
    """A critic that early stopping stops by rows of its own; at step `poison` its data overflow."""
    task = tasks.gaussian(2, 1.0)
    model = models.discriminative(critic, estimators.infonce())
    x, noise = draw_normal(2, 3, 16, 2, seed=1)
    rows = x, 0.8 * x + 0.6 * noise

    def batch(key, step):
        x, y = task.sample(key, 16)
        return x if poison is None else jnp.where(step == poison, jnp.inf, x), y

    def losses(state, inputs=None):
        return jax.vmap(lambda x, y: model.loss(state.variables, (), x, y)[0])(*rows)

    recipe = training.trainer(model, batch, training.adam(0.1))
    return training.early_stopping(recipe, losses, every=5, patience=patience), losses


def test_a_run_that_diverges_keeps_the_parameters_from_before():
    @jax.jit
    def run(poison):
        recipe, losses = real(patience=50, poison=poison)
        state, history = training.scan_steps(recipe, recipe.init(jax.random.key(0)), 6)
        return state, history, losses(state.train._replace(params=state.best.params))

    clean, expected, _ = run(-1)
    state, history, best_losses = run(12)
    assert (bool(clean.diverged), bool(state.diverged), bool(state.stopped)) == (False, True, True)
    # Steps 0 to 11 were made, in rounds of 5; the third was the last.
    assert (int(state.train.step), int(state.round)) == (12, 3)
    assert np.isnan(history["infonce"][2:]).all()
    np.testing.assert_array_equal(np.isnan(history["validation_loss"]), [False, False, False, True, True, True])
    chex.assert_tree_all_finite((state.best, state.average, state.train.params))
    np.testing.assert_allclose(best_losses, state.best.losses, rtol=1e-5)
    for name in history:
        np.testing.assert_array_equal(history[name][:2], expected[name][:2])


def by_hand(start, best, best_round):
    """The rule, one seed at a time."""
    gain = np.float64(start) - np.float64(best)
    error = np.std(gain, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return best_round if gain.mean() > error else 0


def given(start, best, best_round):
    """A state of these losses, whose parameters are 1 at the start and 2 at the best."""
    leading = np.shape(start)[:-1]
    params = [{"w": jnp.full((*leading, 3), value), "b": jnp.full(leading, value)} for value in (1.0, 2.0)]
    ends = [Validated(p, jnp.float32(losses)) for p, losses in zip(params, (start, best), strict=True)]
    count = jnp.asarray(best_round)
    return training.EarlyStopState((), (), *ends, count, count, jnp.full(leading, 9))


LOSSES = {
    "better by far": ([0.9, 0.7, 0.8], [0.5, 0.4, 0.45]),
    "better by less than the error": ([0.9, 0.7, 0.8], [0.8, 0.8, 0.7]),
    "better in one batch": ([1.0, 1.0, 1.0], [0.0, 1.01, 1.02]),
    "the same": ([0.9, 0.7, 0.8], [0.9, 0.7, 0.8]),
    "always by as much": ([0.75, 1.0, 1.25], [0.5, 0.75, 1.0]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_start_is_left_for_a_gain_above_its_standard_error(name):
    state = given(*LOSSES[name], 4)
    params, best_round = training.select_parameters(state)
    expected = by_hand(*LOSSES[name], 4)
    assert int(best_round) == expected
    for leaf in jax.tree.leaves(params):
        np.testing.assert_array_equal(leaf, 2.0 if expected else 1.0)


def test_each_seed_is_chosen_for_itself():
    start, best = (np.array([losses[place] for losses in LOSSES.values()]) for place in (0, 1))
    rounds = np.arange(1, 1 + len(LOSSES))
    params, chosen = training.select_parameters(given(start, best, rounds))
    expected = np.array([by_hand(*each) for each in zip(start, best, rounds, strict=True)])
    assert 0 < np.count_nonzero(expected) < len(LOSSES)
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(params["b"], np.where(expected, 2.0, 1.0))
    np.testing.assert_array_equal(params["w"], np.where(expected, 2.0, 1.0)[:, None] * np.ones(3))


@pytest.mark.parametrize(("start", "best", "expected"), [(0.5, 0.4, 3), (0.5, 0.5, 0), (np.inf, 0.5, 3)])
def test_with_one_batch_the_best_is_taken(start, best, expected):
    assert int(training.select_parameters(given([start], [best], 3))[1]) == expected
    np.testing.assert_array_equal(training.select_parameters(given([[start]] * 2, [[best]] * 2, [3, 3]))[1], expected)


def test_infinite_losses_at_the_start_are_always_left():
    params, best_round = training.select_parameters(given([np.inf, 0.1, 0.1], [5.0, 5.0, 5.0], 2))
    assert int(best_round) == 2
    np.testing.assert_array_equal(params["w"], 2.0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("padding", [np.nan, -1e9])
def test_batches_of_padding_do_not_choose(name, padding):
    start, best = (np.append(losses, [padding, padding]) for losses in LOSSES[name])
    state = given(start, best, 4)._replace(weights=jnp.arange(len(start)) < len(start) - 2)
    assert int(training.select_parameters(state)[1]) == by_hand(*LOSSES[name], 4)


def test_batches_of_padding_do_not_validate():
    """The second batch is padding, and its loss falls for ever; the weights come with the inputs."""
    losses = lambda state, inputs: jnp.append(squares(1.0)(state.params["w"]), -state.params["w"])  # noqa: E731
    recipe = training.early_stopping(
        walk(linear(40)), losses, every=10, patience=100, weights=lambda inputs: inputs.per_run["weights"]
    )
    run = jax.jit(lambda key, inputs: training.scan_steps(recipe, recipe.init(key, inputs), 4, inputs))
    state, history = run(jax.random.key(0), training.Inputs(per_run={"weights": jnp.array([1.0, 0.0])}))
    expected = (averages(linear(40), every=10) - 1.0) ** 2
    np.testing.assert_allclose(history["validation_loss"], expected[1:], rtol=1e-4)
    assert int(state.best_round) == expected.argmin()


def random_walk():
    """A walk past a target, faster or slower by its key, under early stopping."""

    def init(key, inputs):
        return walk(np.zeros(1)).init(key)

    def step(state, inputs):
        moved = state.params["w"] + 0.3 * simple.draw_uniform(jax.random.fold_in(state.key, state.step))
        return state._replace(step=state.step + 1, params={"w": moved}), {"w": moved}

    losses = lambda state, inputs: squares(0.2, 0.3)(state.params["w"])  # noqa: E731
    return training.early_stopping(training.Trainer(init, step), losses, every=5, patience=2)


@pytest.mark.parametrize(
    "make_recipe",
    [random_walk, pytest.param(lambda: real(critic=networks.SeparableCritic(hidden=(8,)))[0], marks=pytest.mark.slow)],
)
def test_a_seed_has_the_same_bits_alone_and_among_others_in_any_chunks(make_recipe):
    """Seeds that stop in different rounds, under `lax.map` on two devices."""
    recipe = make_recipe()
    together = training.fit(recipe, keys(), steps=12, chunk=5, mapped="map")
    assert len(set(together.states.round.tolist())) > 1
    alone = training.fit(recipe, keys()[3:4], steps=12, chunk=2, mapped="map", devices=jax.devices()[:1])
    for ours, theirs in zip(*(leaves(result.states) for result in (together, alone)), strict=True):
        np.testing.assert_array_equal(ours[3:4], theirs)
    for name, history in alone.history.items():
        np.testing.assert_array_equal(together.history[name][3:4], history)


def leaves(state):
    """All of a state but its keys, which NumPy cannot compare."""
    return jax.tree.leaves((state.average, state.start, state.best, state.best_round, state.round, state.train.params))


@pytest.mark.parametrize("mapped", ["map", "vmap"])
def test_seeds_stop_each_for_itself(mapped):
    """Walks of different speed past one target, whose best rounds NumPy says."""
    speeds = np.array([0.02, 0.05, 0.1, 0.2])

    def init(key, inputs):
        return walk(np.zeros(1)).init(key)

    def step(state, inputs):
        moved = {"w": state.params["w"] + inputs.per_run["speed"]}
        return state._replace(step=state.step + 1, params=moved), {"w": state.params["w"]}

    recipe = training.early_stopping(
        training.Trainer(init, step), lambda state, inputs: squares(0.2, 0.3)(state.params["w"]), every=10, patience=2
    )
    inputs = training.Inputs(per_run={"speed": np.float32(speeds)})
    example = training.Inputs(per_run={"speed": np.float32(0.0)})
    program = runs.compile_training(recipe, layout.layout(4, mapped=mapped), steps=12, inputs=example)
    found = runs.run(program, keys(4), inputs=inputs)
    losses = np.array([(averages(linear(120, speed), every=10) - 0.25) ** 2 for speed in speeds])
    best = np.argmin(losses, axis=1)
    assert len(set(best.tolist())) > 2
    np.testing.assert_array_equal(found.states.best_round, best)
    np.testing.assert_array_equal(found.states.round, np.minimum(best + 2, 12))
    np.testing.assert_array_equal(np.isfinite(found.history["w"]).sum(axis=1), found.states.round)
    np.testing.assert_allclose(found.states.best.losses.mean(axis=1), losses[range(4), best] + 0.05**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"trainer": "smile"}, TypeError, "trainer must be a Trainer, got str"),
        ({"every": 1.5}, TypeError, "every must be an integer, got float"),
        ({"patience": True}, TypeError, "patience must be an integer, got bool"),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"patience": -1}, ValueError, "patience must be at least 1, got -1"),
    ],
)
def test_bad_input(changed, error, message):
    given = {"trainer": walk(np.zeros(2)), "losses": lambda state, inputs: jnp.zeros(1), "every": 1, "patience": 1} | changed
    with pytest.raises(error, match=message):
        training.early_stopping(given.pop("trainer"), given.pop("losses"), **given)
