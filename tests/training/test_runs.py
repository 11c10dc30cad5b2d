import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import layout, runs
from tests import simple
from tests.draws import draw_normal

KEYS = jax.random.split(jax.random.key(0), 5)


def recipe(optimizer=None, model=None):
    return training.trainer(model or simple.make_model(), lambda key, step: simple.draw_batch(key), optimizer)


def critic_recipe(estimator):
    model = models.discriminative(networks.SeparableCritic(hidden=(16,)), estimator)
    return training.trainer(model, lambda key, step: tasks.gaussian(2, 1.0).sample(key, 32))


def test_fit():
    reports = []
    result = training.fit(recipe(), KEYS, steps=7, chunk=3, on_chunk=reports.append)
    assert result.history["error"].shape == (5, 7)
    assert [(report.done, report.steps) for report in reports] == [(4, 7), (7, 7)]
    assert reports[-1].nats["error"].shape == (5, 3)
    assert not result.diverged.any()
    assert result.compile_seconds > 0
    assert result.run_seconds > 0
    np.testing.assert_array_equal(result.states.step, 7)
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(result.states))
    # A second run of the same program starts from the keys again.
    program = runs.compile_training(recipe(), layout.layout(5), steps=7)
    first, second = (runs.run(program, KEYS).history["error"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, result.history["error"])


@pytest.mark.parametrize(
    ("steps", "chunk", "lengths"),
    [
        (20_000, 500, (500,) * 40),
        (7, 3, (4, 3)),
        (501, 500, (501,)),
        (1_250, 500, (625, 625)),
        (5, 1, (3, 2)),
        (1, 500, (1,)),
    ],
)
def test_chunks_cover_the_steps_and_none_has_one_step(steps, chunk, lengths):
    assert runs._chunk_lengths(steps, chunk) == lengths


def test_keys_of_another_implementation():
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    fit = training.fit(recipe(), keys, steps=2)
    assert fit.states.key.dtype == keys.dtype
    assert len(np.unique(fit.history["error"])) == 4


def test_a_diverged_seed_is_flagged_and_leaves_the_others_alone():
    """A learning rate that is NaN for one seed's key only."""
    sick = jax.random.key_data(KEYS[3])

    healthy = recipe()

    def init(key, inputs):
        state = healthy.init(key, inputs)
        poison = jnp.where((jax.random.key_data(key) == sick).all(), jnp.nan, 0.0)
        return state._replace(params=jax.tree.map(lambda leaf: leaf + poison, state.params))

    result = training.fit(training.Trainer(init, healthy.step), KEYS, steps=3)
    np.testing.assert_array_equal(result.diverged, [False, False, False, True, False])
    np.testing.assert_array_equal(result.states.step, [3, 3, 3, 0, 3])
    expected = training.fit(healthy, KEYS, steps=3)
    np.testing.assert_array_equal(result.history["error"][[0, 1, 2, 4]], expected.history["error"][[0, 1, 2, 4]])


class StoppedError(Exception):
    pass


def stop_at(done):
    def on_chunk(report):
        if report.done >= done:
            raise StoppedError

    return on_chunk


@pytest.mark.parametrize(
    "make_trainer",
    [
        recipe,
        pytest.param(lambda: critic_recipe(estimators.infonce()), marks=pytest.mark.slow),
        pytest.param(lambda: critic_recipe(estimators.mine()), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_and_ends_with_the_same_bits(tmp_path, make_trainer):
    r = make_trainer()
    whole = training.fit(r, KEYS, steps=20, chunk=5, mapped="map")
    kept = training.Checkpoint(tmp_path / "a", every=0.0)
    for done in (5, 15):
        with pytest.raises(StoppedError):
            training.fit(r, KEYS, steps=20, chunk=5, mapped="map", checkpoint=kept, on_chunk=stop_at(done))
    # On another number of devices, too.
    reports = []
    resumed = training.fit(
        r, KEYS, steps=20, chunk=5, mapped="map", checkpoint=kept, devices=jax.devices()[:1], on_chunk=reports.append
    )
    assert [report.done for report in reports] == [20]
    again = training.fit(r, KEYS, steps=20, chunk=5, mapped="map", checkpoint=str(tmp_path / "a"), on_chunk=stop_at(0))
    for ended in (resumed, again):
        for ours, theirs in zip(*(jax.tree.leaves(layout.to_host(f[:3])) for f in (whole, ended)), strict=True):
            if not jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
                np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(*(jax.random.key_data(f.states.key) for f in (whole, ended)))


class Untested:
    """A program that is not compiled, as nothing will run it."""

    def wait(self):
        pass


def test_a_checkpoint_of_other_runs_is_refused(tmp_path, monkeypatch):
    def go(r, keys=KEYS, **changed):
        options = {"steps": 4, "chunk": 2, "checkpoint": tmp_path, "mapped": "map"} | changed
        return training.fit(r, keys, **options)

    go(recipe())
    # No program of theirs may run, so none is compiled.
    monkeypatch.setattr(layout.Layout, "compile", lambda *_, **__: Untested())
    for call, what in (
        (lambda: go(recipe(), KEYS[np.arange(5)[::-1]]), "runs"),
        (lambda: go(recipe(), KEYS[np.arange(3)]), "runs"),
        (lambda: go(recipe(), steps=6), "steps"),
        (lambda: go(recipe(), mapped="vmap"), "mapped"),
        (lambda: go(recipe(optimizer=training.adam(1e-3))), "program"),
        (lambda: go(recipe(model=simple.make_model("error", "other"))), "program"),
        (lambda: go(recipe(), checkpoint=training.Checkpoint(tmp_path, config={"program": "mine"})), "config"),
    ):
        with pytest.raises(ValueError, match=f"of another configuration: its {what} is"):
            call()


def test_chunks_may_change_where_they_meet_the_checkpoint(tmp_path):
    kept = training.Checkpoint(tmp_path, every=0.0, config={"levels": (1, 2), "nothing": float("nan")})

    def go(chunk, **options):
        return training.fit(recipe(), KEYS, steps=20, chunk=chunk, mapped="map", checkpoint=kept, **options)

    with pytest.raises(StoppedError):
        go(5, on_chunk=stop_at(5))
    with pytest.raises(
        ValueError, match="stands at step 5, where no chunk ends now; take the chunk that it was written with"
    ):
        go(10)
    with pytest.raises(StoppedError):
        go(5, on_chunk=stop_at(10))
    np.testing.assert_array_equal(go(10).history["error"], training.fit(recipe(), KEYS, steps=20).history["error"])


def test_a_config_that_no_file_can_hold_is_refused_before_anything_is_trained(tmp_path):
    kept = training.Checkpoint(tmp_path, config={"key": KEYS})
    with pytest.raises(TypeError, match="config must be what JSON can hold"):
        training.fit(recipe(), KEYS, steps=4, checkpoint=kept, on_chunk=stop_at(0))


def test_checkpoints_are_spaced_in_time(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(runs.checkpoints, "save", lambda folder, step, *_: written.append(step))
    training.fit(recipe(), KEYS, steps=8, chunk=2, checkpoint=training.Checkpoint(tmp_path, every=3600.0))
    assert written == [8]
    written.clear()
    training.fit(recipe(), KEYS, steps=8, chunk=2, checkpoint=training.Checkpoint(tmp_path, every=0.0))
    assert written[-1] == 8


def test_a_fingerprint_knows_the_data_that_a_recipe_holds():
    def of(data):
        r = training.trainer(simple.make_model(), lambda key, step: (data, data[:, 0]))
        return runs.fingerprint(r, jax.random.key(0))

    x = jnp.asarray(draw_normal(32, 2))
    assert of(x) == of(jnp.array(np.asarray(x)))
    assert of(x) != of(x.at[7, 1].add(1e-6))


def test_a_fingerprint_knows_how_a_recipe_starts():
    r = recipe()
    model = simple.make_model()
    changed = recipe(model=model._replace(init=lambda *given: jax.tree.map(lambda leaf: 3.0 * leaf, model.init(*given))))
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert runs.fingerprint(r, key) == runs.fingerprint(recipe(), key) != runs.fingerprint(changed, key)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: training.fit(recipe(), jax.random.key(0), steps=3), ValueError, r"keys must be a vector .* got shape \(\)"),
        (lambda: training.fit(recipe(), jnp.arange(3), steps=3), TypeError, "keys must be typed keys, .* got int32"),
        (lambda: training.fit(recipe(), 3, steps=3), TypeError, "keys must be typed keys, .* got int"),
        (lambda: training.fit("smile", KEYS, steps=3), TypeError, "trainer must be a Trainer, got str"),
        (lambda: training.fit(recipe(), KEYS, steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: training.fit(recipe(), KEYS, steps=3, chunk=0), ValueError, "chunk must be at least 1, got 0"),
        (
            lambda: training.fit(recipe(), KEYS[:0], steps=3),
            ValueError,
            r"keys must be a vector of at least one key, .* got shape \(0,\)",
        ),
        (
            lambda: training.fit(recipe(), KEYS, steps=3, mapped="pmap"),
            ValueError,
            "mapped must be 'map' or 'vmap', got 'pmap'",
        ),
        (lambda: training.fit(recipe(), KEYS, steps=3, devices=[]), ValueError, "devices must name at least one device"),
        (
            lambda: runs.run(
                runs.Program(None, (), (), layout.layout(2), None, recipe(), None, training.Inputs(), 0.0), KEYS
            ),
            ValueError,
            r"keys must have shape \(2, ...\), one for each seed, got \(5,\)",
        ),
        (
            lambda: training.fit(recipe(), KEYS, steps=3, inputs=training.Inputs(per_run={"rate": np.ones(4)})),
            ValueError,
            r"inputs.per_run must have shape \(5, ...\), one for each seed, got \(4,\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_program_runs_other_keys_and_inputs_without_tracing_again():
    traces = []

    def make_trainer(inputs):
        def batch(key, step):
            traces.append(step)
            return simple.draw_batch(key, inputs.shared * inputs.per_run["slope"])

        return training.trainer(simple.make_model(), batch, training.adam(inputs.per_run["rate"]))

    def make_inputs(shared, slope, rate):
        return training.Inputs(np.float32(shared), {"slope": np.float32(slope), "rate": np.float32(rate)})

    trainer = training.from_inputs(make_trainer)
    program = runs.compile_training(trainer, layout.layout(3), steps=6, chunk=2, inputs=make_inputs(1.0, 1.0, 0.1))
    compiled = len(traces)
    keys = jax.random.split(jax.random.key(0), 3)
    several = [make_inputs(1.0, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]), make_inputs(0.5, [2.0, 4.0, 6.0], [0.1, 0.2, 0.3])]
    several.append(make_inputs(1.0, [0.5] * 3, [2.0] * 3))
    first, halved, other = (runs.run(program, keys, inputs=inputs).history["error"] for inputs in several)
    assert len(traces) == compiled > 0
    np.testing.assert_array_equal(first, halved)
    assert not np.allclose(first, other)


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path):
    trainer = training.from_inputs(lambda inputs: recipe(training.adam(inputs.shared)))

    def go(rate):
        inputs = training.Inputs(shared=np.float32(rate))
        return training.fit(trainer, KEYS, steps=4, chunk=2, checkpoint=tmp_path, inputs=inputs)

    first = go(1e-3)
    with pytest.raises(ValueError, match="of another configuration: its runs is"):
        go(1e-2)
    np.testing.assert_array_equal(go(1e-3).history["error"], first.history["error"])
