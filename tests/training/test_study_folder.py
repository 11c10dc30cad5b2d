import shutil

import jax
import numpy as np
import pytest

from mi_jax import training
from mi_jax.training import hosts, layout, study_folder
from tests.small_study import assert_equal, numbers, select_keys, study, whole_study


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
    study(training.grid(mi=[0.5]), select_keys(0), folder=folder)
    return folder


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
    assert_equal(jax.tree.map(lambda leaf: leaf[:1], numbers(whole_study())), numbers(resumed))
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert len(names) == 3
    assert all(name.startswith("mi0.5-") for name in names)
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize("written", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_between_the_end_of_runs_and_their_writing(tmp_path, monkeypatch, written):
    """The checkpoint of both is there still: nothing is trained again, and nothing is left behind."""
    real, calls = study_folder.StudyFolder.write, []

    def write(self, place, result):
        if len(calls) == written:
            raise StoppedError
        calls.append(place)
        real(self, place, result)

    monkeypatch.setattr(study_folder.StudyFolder, "write", write)
    with pytest.raises(StoppedError):
        study(folder=tmp_path)
    monkeypatch.setattr(study_folder.StudyFolder, "write", real)
    labels = []
    resumed = study(folder=tmp_path, on_chunk=lambda name, report: labels.append(name))
    assert len(set(labels)) == 2  # the third of three groups was finished
    assert_equal(numbers(whole_study()), numbers(resumed))
    assert not list((tmp_path / "partial").iterdir())


def test_killed_before_a_finished_checkpoint_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(study_folder.StudyFolder, "tidy", lambda *_: None)
    first = study(folder=tmp_path)
    assert len(list((tmp_path / "partial").iterdir())) == 3
    monkeypatch.undo()
    assert_equal(numbers(first), numbers(study(folder=tmp_path)))
    assert not list((tmp_path / "partial").iterdir())


def test_killed_while_a_finished_checkpoint_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(study_folder.shutil, "rmtree", lambda *_, **__: None)
    first = study(folder=tmp_path)
    for path in tmp_path.glob("partial/*/8/default/about.json"):
        path.unlink()
    monkeypatch.undo()
    assert_equal(numbers(first), numbers(study(folder=tmp_path)))
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
    monkeypatch.setattr(hosts, "host", lambda: hosts.Host(0, 2))
    assert study(keys=keys, folder=tmp_path).finished.sum() == 2


def test_what_stands_for_a_missing_run_has_keys_of_its_implementation(tmp_path, monkeypatch):
    """This process has no run to train, so nothing is compiled."""
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    monkeypatch.setattr(hosts, "host", lambda: hosts.Host(4, 5))
    missing = study(keys=keys, folder=tmp_path)
    assert not missing.finished.any()
    assert missing.states.key.dtype == keys.dtype


def test_runs_of_another_environment_are_told_once(whole_folder, monkeypatch):
    elsewhere = layout.environment() | {"threads": 1_000}
    monkeypatch.setattr(study_folder, "environment", lambda: elsewhere)
    with pytest.warns(UserWarning, match="6 runs of another environment, the first: ") as caught:
        study(folder=whole_folder)
    assert len(caught) == 1


def test_settings_that_are_not_numbers_are_found_again(tmp_path):
    settings = training.grid(mi=[1.0], rate=[np.nan, np.inf])
    first = study(settings, folder=tmp_path)
    assert first.diverged.all()
    assert_equal(numbers(first), numbers(study(settings, folder=tmp_path)))
    with pytest.raises(ValueError, match="no two runs may have the same settings and key, got two that have"):
        study(training.grid(mi=[1.0, 1.0]), folder=tmp_path)


def test_more_seeds_and_settings_are_added_to_what_is_there(tmp_path):
    study(training.grid(mi=[0.5]), select_keys(0, 1), folder=tmp_path)
    labels = []
    more = study(folder=tmp_path, on_chunk=lambda name, report: labels.append(name))
    assert list(dict.fromkeys(labels)) == ["mi 0.5, seed 2 and 1 more", "mi 1, seed 1 and 1 more"]
    assert_equal(numbers(whole_study()), numbers(more))
    done = study(folder=tmp_path, on_chunk=lambda name, report: labels.append("again"))
    assert "again" not in labels
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
    monkeypatch.setattr(hosts, "host", lambda: hosts.Host(1, 2))
    with pytest.raises(ValueError, match="folder must be given where several processes share a study"):
        study()
    half = study(folder=tmp_path)
    np.testing.assert_array_equal(half.finished, [[False, True, False], [True, False, True]])
    assert np.isnan(half.history["first"][~half.finished]).all()
    assert [row.runs for row in half.summaries()] == [1, 1, 2, 2]
    monkeypatch.setattr(hosts, "host", lambda: hosts.Host(0, 2))
    assert_equal(numbers(study(folder=tmp_path)), numbers(study(folder=tmp_path)))
    assert study(folder=tmp_path).finished.all()
