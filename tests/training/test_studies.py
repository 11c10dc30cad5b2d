import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import seeds, studies
from tests import simple

KEYS = jax.random.split(jax.random.key(0), 3)
TAUS = (1.0, 5.0, np.inf)


def some(*numbers):
    return KEYS[np.array(numbers)]


def recipe(settings):
    """Two read-outs; what is called MI is the slope of the data."""
    batch = lambda key, step: simple.draw_batch(key, settings["mi"])  # noqa: E731
    return training.trainer(simple.make_model("first", "second"), batch, training.adam(settings.get("rate", 1e-3)))


def smile_recipe(settings, critic, dim, rows):
    task = tasks.gaussian(dim, settings["mi"])
    model = models.discriminative(critic, estimators.combined(**{f"smile_{tau:g}": estimators.smile(tau) for tau in TAUS}))
    return training.trainer(model, lambda key, step: task.sample(key, rows), training.adam(1e-3))


def study(settings=None, keys=KEYS, recipe=recipe, **options):
    options = {"steps": 8, "chunk": 4, "batches": 5, "mapped": "map", "truth": lambda s: s["mi"]} | options
    return training.study(recipe, settings or training.grid(mi=[0.5, 1.0]), keys, **options)


@functools.cache
def whole_study():
    return study()


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    """A folder with the runs of `whole_study`; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("whole")
    study(folder=folder)
    return folder


@pytest.fixture(scope="module")
def folder_of_one_run(tmp_path_factory):
    """A folder with the first run of `whole_study`; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("one")
    study(training.grid(mi=[0.5]), some(0), folder=folder)
    return folder


def equal(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def numbers(result):
    return result.history, result.fixed, result.states.params, result.states.step, result.finished, result.diverged


def test_grid_is_every_combination():
    made = training.grid(mi=[1.0, 2.0], tau=[3.0, 4.0, 5.0])
    assert list(zip(*(made[name].tolist() for name in ("mi", "tau")), strict=True)) == [
        (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)
    ]  # fmt: skip


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="grid needs at least one name"):
        training.grid(mi=[])


def test_summaries_are_the_formulas():
    rng = np.random.default_rng(0)
    history = rng.normal(size=(1, 4, 10)).astype(np.float32)
    fixed = rng.normal(size=(1, 4, 7)).astype(np.float32)
    finished, diverged = np.array([[True, True, True, False]]), np.array([[False, True, False, False]])
    state = jax.eval_shape(recipe({"mi": 1.0}).init, some(0)[0])
    states = jax.tree.map(lambda leaf: np.full((1, 4), 3), state)
    result = training.Study({"mi": np.array([2.0])}, np.array([2.0]), {"smile": history}, {"smile": fixed}, states, finished,
                            diverged, 6, 0.0, 0.0)  # fmt: skip
    (row,) = result.summaries()
    last = history[0, [0, 2], 4:].astype(np.float64)
    means = last.mean(axis=1)
    assert row.settings == {"mi": 2.0}
    assert (row.read_out, row.truth, row.runs, row.left_out) == ("smile", 2.0, 2, 1)
    assert row.mean == pytest.approx(last.mean())
    assert row.bias == pytest.approx(last.mean() - 2.0)
    assert row.mean_error == pytest.approx(abs(means[0] - means[1]) / 2)
    assert row.batch_variance == pytest.approx(fixed[0, [0, 2]].var(axis=1, ddof=1).mean())
    assert row.seed_variance == pytest.approx(((last[0] - last[1]) ** 2 / 2).mean())
    assert row.iteration_variance == pytest.approx((last.var(axis=1)).mean())
    assert row.mse == pytest.approx(((last - 2.0) ** 2).mean())  # over iterations and runs, as bias² + variance is
    assert result.left_out() == ["mi 2, seed 1: diverged at step 3 (smile)"]
    assert result.table()[0]["mi"] == 2.0
    assert result.table()[0]["mse"] == row.mse


def test_one_run_has_no_spread_and_none_no_numbers():
    result = study(training.grid(mi=[0.5]), some(0))
    assert all(np.isnan([row.seed_variance, row.mean_error]).all() and np.isfinite(row.mse) for row in result.summaries())
    lost = result._replace(diverged=np.ones_like(result.diverged))
    assert all((row.runs, row.left_out) == (0, 1) and np.isnan([row.mean, row.mse]).all() for row in lost.summaries())


def test_a_study_is_its_runs_whatever_goes_on_beside_them():
    """A run alone on one device, and beside others on two: the same bits."""
    whole = whole_study()
    alone = study(training.grid(mi=[1.0]), some(1), devices=jax.devices()[:1], together=1)
    equal(jax.tree.map(lambda leaf: leaf[1:, 1:2], numbers(whole)), numbers(alone))
    assert whole.history["first"].shape == (2, 3, 8)
    assert whole.fixed["first"].shape == (2, 3, 5)
    assert (whole.window, whole.finished.all(), whole.diverged.any()) == (6, True, False)
    np.testing.assert_array_equal(whole.truth, [0.5, 1.0])


@pytest.mark.slow
def test_a_study_of_critics_is_its_runs():
    critics = functools.partial(smile_recipe, critic=networks.SeparableCritic(hidden=(16,)), dim=2, rows=32)
    whole = study(recipe=critics)
    alone = study(training.grid(mi=[1.0]), some(1), recipe=critics, devices=jax.devices()[:1], together=1)
    equal(jax.tree.map(lambda leaf: leaf[1:, 1:2], numbers(whole)), numbers(alone))
    equal(numbers(whole), numbers(study(recipe=critics, together=5, chunk=2)))


@pytest.mark.slow
def test_a_study_is_its_runs_however_many_go_on_together_and_in_any_chunks():
    equal(numbers(whole_study()), numbers(study(together=5, chunk=2)))


def test_the_history_is_that_of_fit():
    result = whole_study()
    runs = training.Run(some(0, 1), {"mi": jnp.full(2, 0.5)})
    plan = seeds.layout(2, mapped="map")
    example = jax.tree.map(lambda leaf: leaf[0], runs)
    program = seeds.compile_training(training.swept(recipe), plan, steps=8, chunk=4, example=example)
    equal(seeds.run(program, runs).history, jax.tree.map(lambda leaf: leaf[0, :2], result.history))


def test_what_is_swept_compiles_once(monkeypatch):
    compiled = []
    inner = seeds.compile_training
    monkeypatch.setattr(studies.seeds, "compile_training", lambda *a, **k: compiled.append(1) or inner(*a, **k))
    result = study(training.grid(mi=[0.5, 1.0, 1.5], rate=[1e-4, 1e-2]), steps=4)
    assert compiled == [1]
    assert result.finished.shape == (6, 3)
    # A seed has the same key in every setting: the same first batch, but for the MI.
    first = result.history["first"][:, :, 0]
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).all()
    assert (result.history["first"][0, :, -1] != result.history["first"][1, :, -1]).all()


@pytest.mark.slow
def test_at_a_fixed_critic_a_falling_tau_is_a_falling_variance():
    def large(settings):
        return smile_recipe(settings, networks.SeparableCritic(hidden=(128,)), dim=20, rows=32)

    options = {"steps": 600, "batches": 1_000, "truth": lambda s: s["mi"]}
    made = training.study(large, training.grid(mi=[10.0]), some(0, 1), **options)
    # The standard error of each is under a tenth of it.
    check_falling_variance({row.read_out: row.batch_variance for row in made.summaries()})


def check_falling_variance(variance):
    assert variance["smile_1"] < 0.7 * variance["smile_inf"]
    assert variance["smile_5"] < 0.7 * variance["smile_inf"]


def test_at_a_critic_set_by_hand_a_falling_tau_is_a_falling_variance():
    """Scores of the size that a critic learns at many nats: 5 x·y."""
    by_hand = smile_recipe({"mi": 3.0}, networks.BilinearCritic(), dim=2, rows=16)

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


class StoppedError(Exception):
    pass


def test_a_stopped_study_goes_on_and_ends_with_the_same_bits(tmp_path):
    stops = 0
    for _ in range(5):  # three runs in two groups of two chunks: each time stopped after one chunk more

        def stop(name, report):
            raise StoppedError

        try:
            resumed = study(training.grid(mi=[0.5]), folder=tmp_path, checkpoint_every=0.0, on_chunk=stop)
        except StoppedError:
            stops += 1
    assert stops == 4
    equal(jax.tree.map(lambda leaf: leaf[:1], numbers(whole_study())), numbers(resumed))
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert len(names) == 3
    assert all(name.startswith("mi0.5-") for name in names)
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize("written", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_between_the_end_of_runs_and_their_writing(tmp_path, monkeypatch, written):
    """The checkpoint of both is there still: nothing is trained again, and nothing is left behind."""
    real, calls = studies._Shelf.write, []

    def write(self, place, result):
        if len(calls) == written:
            raise StoppedError
        calls.append(place)
        real(self, place, result)

    monkeypatch.setattr(studies._Shelf, "write", write)
    with pytest.raises(StoppedError):
        study(folder=tmp_path)
    monkeypatch.setattr(studies._Shelf, "write", real)
    told = []
    resumed = study(folder=tmp_path, on_chunk=lambda name, report: told.append(name))
    assert len(set(told)) == 2  # of three groups
    equal(numbers(whole_study()), numbers(resumed))
    assert not list((tmp_path / "partial").iterdir())


def test_killed_before_a_finished_checkpoint_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(studies._Shelf, "tidy", lambda *_: None)
    first = study(folder=tmp_path)
    assert len(list((tmp_path / "partial").iterdir())) == 3
    monkeypatch.undo()
    equal(numbers(first), numbers(study(folder=tmp_path)))
    assert not list((tmp_path / "partial").iterdir())


def test_killed_while_a_finished_checkpoint_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(studies.shutil, "rmtree", lambda *_, **__: None)
    first = study(folder=tmp_path)
    for path in tmp_path.glob("partial/*/8/default/about.json"):
        path.unlink()
    monkeypatch.undo()
    equal(numbers(first), numbers(study(folder=tmp_path)))
    assert not list((tmp_path / "partial").iterdir())


def test_a_folder_with_only_checkpoints_of_another_study_is_refused(tmp_path):
    def stop(name, report):
        raise StoppedError

    with pytest.raises(StoppedError):
        study(folder=tmp_path, checkpoint_every=0.0, on_chunk=stop)
    with pytest.raises(ValueError, match="is of another study; choose another folder"):
        study(folder=tmp_path, batches=6)


@pytest.mark.slow
def test_missing_runs_with_keys_of_another_implementation(tmp_path, monkeypatch):
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    monkeypatch.setattr(studies.seeds, "host", lambda: seeds.Host(0, 2))
    assert study(keys=keys, folder=tmp_path).finished.sum() == 2


def test_what_stands_for_a_missing_run_has_keys_of_its_implementation(tmp_path, monkeypatch):
    """This process has no run to train, so nothing is compiled."""
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    monkeypatch.setattr(studies.seeds, "host", lambda: seeds.Host(4, 5))
    missing = study(keys=keys, folder=tmp_path)
    assert not missing.finished.any()
    assert missing.states.key.dtype == keys.dtype


def test_runs_of_another_environment_are_told_once(whole_folder, monkeypatch):
    elsewhere = seeds.environment() | {"threads": 1_000}
    monkeypatch.setattr(studies.seeds, "environment", lambda: elsewhere)
    with pytest.warns(UserWarning, match="6 runs of another environment, the first: ") as told:
        study(folder=whole_folder)
    assert len(told) == 1


def test_settings_that_are_not_numbers_are_found_again(tmp_path):
    settings = training.grid(mi=[1.0], rate=[np.nan, np.inf])
    first = study(settings, folder=tmp_path)
    assert first.diverged.all()
    equal(numbers(first), numbers(study(settings, folder=tmp_path)))
    with pytest.raises(ValueError, match="must name each run once where a folder keeps them, got one twice"):
        study(training.grid(mi=[1.0, 1.0]), folder=tmp_path)


def test_more_seeds_and_settings_are_added_to_what_is_there(tmp_path):
    study(training.grid(mi=[0.5]), some(0, 1), folder=tmp_path)
    told = []
    more = study(folder=tmp_path, on_chunk=lambda name, report: told.append(name))
    assert list(dict.fromkeys(told)) == ["mi 0.5, seed 2 and 1 more", "mi 1, seed 1 and 1 more"]
    equal(numbers(whole_study()), numbers(more))
    done = study(folder=tmp_path, on_chunk=lambda name, report: told.append("again"))
    assert "again" not in told
    assert (done.compile_seconds, done.run_seconds) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 9}, "its steps is 8, not 9"),
        ({"batches": 6}, "its batches is 5, not 6"),
        ({"config": {"program": "cubic"}}, "its config is {}, not {'program': 'cubic'}"),
    ],
)
def test_a_folder_of_another_study_is_refused(folder_of_one_run, options, message):
    with pytest.raises(ValueError, match=message):
        study(folder=folder_of_one_run, **options)


def test_a_foreign_folder_and_a_damaged_run_are_refused(tmp_path, folder_of_one_run):
    shutil.copytree(folder_of_one_run, tmp_path / "a")
    (path,) = (tmp_path / "a" / "runs").glob("*/8/default/arrays.npz")
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(ValueError, match="8 is damaged, or no checkpoint of mi_jax"):
        study(folder=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"b is no folder of a study: it holds 'notes.txt'; choose another"):
        study(folder=tmp_path / "b")


def test_runs_of_others_are_missing_and_several_processes_need_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(studies.seeds, "host", lambda: seeds.Host(1, 2))
    with pytest.raises(ValueError, match="folder must be given where several processes share a study"):
        study()
    half = study(folder=tmp_path)
    np.testing.assert_array_equal(half.finished, [[False, True, False], [True, False, True]])
    assert np.isnan(half.history["first"][~half.finished]).all()
    assert [row.runs for row in half.summaries()] == [1, 1, 2, 2]
    monkeypatch.setattr(studies.seeds, "host", lambda: seeds.Host(0, 2))
    equal(numbers(study(folder=tmp_path)), numbers(study(folder=tmp_path)))
    assert study(folder=tmp_path).finished.all()


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
        ({"together": 0}, ValueError, "together must be at least 1, got 0"),
        ({"window": 9}, ValueError, "window must be from 1 to steps, 8, got 9"),
        ({"mapped": "both"}, ValueError, "mapped must be 'map' or 'vmap', got 'both'"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        study(**options)


def test_no_settings_are_refused():
    with pytest.raises(ValueError, match="settings must name at least one setting, got none"):
        training.study(recipe, {}, KEYS, steps=1)
