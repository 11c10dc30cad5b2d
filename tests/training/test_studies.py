import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import runs
from tests.small_study import KEYS, assert_equal, make_trainer, numbers, select_keys, study, whole_study

TAUS = (1.0, 5.0, np.inf)


def make_smile_trainer(settings, critic, dim, rows):
    task = tasks.gaussian(dim, settings["mi"])
    model = models.discriminative(
        critic, estimators.share_training(**{f"smile_{tau:g}": estimators.smile(tau) for tau in TAUS})
    )
    return training.trainer(model, lambda key, step: task.sample(key, rows), training.adam(1e-3))


def test_grid_is_every_combination():
    made = training.grid(mi=[1.0, 2.0], tau=[3.0, 4.0, 5.0])
    assert list(zip(*(made[name].tolist() for name in ("mi", "tau")), strict=True)) == [
        (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)
    ]  # fmt: skip


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="grid needs at least one name"):
        training.grid(mi=[])


def test_a_study_is_its_runs_whatever_goes_on_beside_them():
    """A run alone on one device, and beside others on two: the same bits."""
    whole = whole_study()
    alone = study(training.grid(mi=[1.0]), select_keys(1), devices=jax.devices()[:1], at_once=1)
    assert_equal(jax.tree.map(lambda leaf: leaf[1:, 1:2], numbers(whole)), numbers(alone))
    assert whole.history["first"].shape == (2, 3, 8)
    assert whole.fixed["first"].shape == (2, 3, 5)
    assert (whole.window, whole.finished.all(), whole.diverged.any()) == (6, True, False)
    np.testing.assert_array_equal(whole.truth, [0.5, 1.0])


@pytest.mark.slow
def test_a_study_of_critics_is_its_runs():
    critics = functools.partial(make_smile_trainer, critic=networks.SeparableCritic(hidden=(16,)), dim=2, rows=32)
    whole = study(make_trainer=critics)
    alone = study(training.grid(mi=[1.0]), select_keys(1), make_trainer=critics, devices=jax.devices()[:1], at_once=1)
    assert_equal(jax.tree.map(lambda leaf: leaf[1:, 1:2], numbers(whole)), numbers(alone))
    assert_equal(numbers(whole), numbers(study(make_trainer=critics, at_once=5, chunk=2)))


@pytest.mark.slow
def test_a_study_is_its_runs_however_many_go_on_together_and_in_any_chunks():
    assert_equal(numbers(whole_study()), numbers(study(at_once=5, chunk=2)))


def test_the_history_is_that_of_fit():
    result = whole_study()
    trainer = training.from_inputs(lambda inputs: make_trainer(inputs.per_run))
    inputs = training.Inputs(per_run={"mi": np.full(2, 0.5, np.float32)})
    fit = training.fit(trainer, select_keys(0, 1), steps=8, chunk=4, mapped="map", inputs=inputs)
    assert_equal(fit.history, jax.tree.map(lambda leaf: leaf[0, :2], result.history))


def test_what_is_swept_compiles_once(monkeypatch):
    compiled = []
    inner = runs.compile_training
    monkeypatch.setattr(runs, "compile_training", lambda *a, **k: compiled.append(1) or inner(*a, **k))
    result = study(training.grid(mi=[0.5, 1.0, 1.5], rate=[1e-4, 1e-2]), steps=4)
    assert compiled == [1]
    assert result.finished.shape == (6, 3)
    # A seed has the same key in every setting: the same noise in the first batch.
    first = result.history["first"][:, :, 0]
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).all()
    assert (result.history["first"][0, :, -1] != result.history["first"][1, :, -1]).all()


@pytest.mark.slow
def test_at_a_fixed_critic_a_falling_tau_is_a_falling_variance():
    def large(settings):
        return make_smile_trainer(settings, networks.SeparableCritic(hidden=(128,)), dim=20, rows=32)

    options = {"steps": 600, "batches": 1_000, "truth": lambda s: s["mi"]}
    made = training.study(large, training.grid(mi=[10.0]), select_keys(0, 1), **options)
    # The standard error of each is under a tenth of it.
    check_falling_variance({row.read_out: row.batch_variance for row in made.summaries()})


def check_falling_variance(variance):
    assert variance["smile_1"] < 0.7 * variance["smile_inf"]
    assert variance["smile_5"] < 0.7 * variance["smile_inf"]


def test_at_a_critic_set_by_hand_a_falling_tau_is_a_falling_variance():
    """Scores of the size that a critic learns at many nats: 5 x·y."""
    by_hand = make_smile_trainer({"mi": 3.0}, networks.BilinearCritic(), dim=2, rows=16)

    @jax.jit
    def read(key):
        state = by_hand.init(key)
        params = jax.tree.map(lambda leaf: 5.0 * jnp.eye(*leaf.shape), state.params)
        return training.fixed_read_outs(by_hand, state._replace(params=params), 400)

    check_falling_variance({name: values.var() for name, values in read(jax.random.key(0)).items()})


def test_a_diverged_run_is_named_and_in_no_average():
    settings = training.grid(mi=[1.0], rate=[1e-3, np.nan])
    result = study(settings)
    np.testing.assert_array_equal(result.diverged, [[False] * 3, [True] * 3])
    healthy, sick = result.summaries()[:2], result.summaries()[2:]
    assert all((row.runs, row.left_out) == (3, 0) and np.isfinite(row.mse) for row in healthy)
    assert all((row.runs, row.left_out) == (0, 3) and np.isnan(row.mean) for row in sick)
    assert result.left_out()[0] == "mi 1, rate nan, seed 0: diverged at step 0 (first, second)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"settings": {"mi": 1.0}}, ValueError, r"settings must be vectors of one length, .* got mi of shape \(\)"),
        ({"settings": {"mi": [1.0], "rate": [1.0, 2.0]}}, ValueError, r"got rate of shape \(2,\)"),
        ({"settings": {"mi": []}}, ValueError, r"got mi of shape \(0,\)"),
        ({"keys": jnp.arange(3)}, TypeError, "keys must be typed keys"),
        ({"keys": jax.random.key(0)}, ValueError, r"keys must be a vector .* got shape \(\)"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
        ({"batches": 1}, ValueError, "batches must be at least 2, to have a variance, got 1"),
        ({"at_once": 0}, ValueError, "at_once must be at least 1, got 0"),
        ({"window": 9}, ValueError, "window must be from 1 to steps, 8, got 9"),
        ({"mapped": "both"}, ValueError, "mapped must be 'map' or 'vmap', got 'both'"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        study(**options)


def test_no_settings_are_refused():
    with pytest.raises(ValueError, match="settings must name at least one setting, got none"):
        training.study(make_trainer, {}, KEYS, steps=1)
