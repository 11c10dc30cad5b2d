import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.training import checkpoints

IDENTITY = {"steps": 7, "program": "abc"}
ENVIRONMENT = {"jax": "0.10"}
TREE = {
    "keys": jax.random.split(jax.random.key(0), 3),
    "rbg": jax.random.key(1, impl="rbg"),
    "float": jnp.array([1.5, jnp.nan, -0.0, 1e-45], jnp.float32),
    "half": jnp.ones((2, 2), jnp.bfloat16),
    "bool": np.array(True),
    "empty": jnp.zeros((3, 0)),
    "nested": ({"int": jnp.arange(4, dtype=jnp.int32)}, ()),
}
LIKE = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data(tree):
    return [np.asarray(jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else a)
            for a in jax.tree.leaves(tree)]  # fmt: skip


def test_a_tree_survives_the_disk_bit_for_bit(tmp_path):
    checkpoints.save(tmp_path / "a", 3, TREE, IDENTITY, ENVIRONMENT)
    saved = checkpoints.load(tmp_path / "a", IDENTITY, ENVIRONMENT)
    assert saved.step == 3
    restored = saved.into(LIKE)
    assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    for ours, theirs in zip(data(restored), data(TREE), strict=True):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
    np.testing.assert_array_equal(jax.random.normal(restored["rbg"], 3), jax.random.normal(TREE["rbg"], 3))


def test_a_later_step_takes_the_place_of_an_earlier_one(tmp_path):
    for step in (3, 5):
        checkpoints.save(tmp_path, step, {"a": np.full(2, step)}, IDENTITY, ENVIRONMENT)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]
    assert checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT).arrays["['a']"].tolist() == [5, 5]
    with pytest.raises(ValueError, match="5 is there already; step 5 would not come after it"):
        checkpoints.save(tmp_path, 5, TREE, IDENTITY, ENVIRONMENT)


def test_nothing_there_and_a_half_written_one_are_no_checkpoint(tmp_path):
    assert checkpoints.load(tmp_path / "none", IDENTITY, ENVIRONMENT) is None
    assert checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT) is None
    half = tmp_path / "3.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "arrays.npz").write_bytes(b"half")
    assert checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT) is None
    checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
    assert checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT).step == 3


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_an_array_and_its_checksum(path):
    """What a checksum of the archive alone would not find."""
    with np.load(path) as content:
        arrays = [content[name] for name in content.files]
    arrays[-1] = arrays[-1].copy()
    arrays[-1][0] ^= 1
    np.savez(path, *arrays)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("arrays.npz", flip),
        ("arrays.npz", change_an_array_and_its_checksum),
        ("arrays.npz", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("arrays.npz", lambda path: path.unlink()),
        ("about.json", lambda path: path.write_text(path.read_text()[:50])),
        ("about.json", lambda path: path.write_text("{}")),
        ("about.json", lambda path: path.unlink()),
        ("about.json", lambda path: path.write_text(json.dumps({"format": "another"}))),
    ],
)
def test_a_damaged_one_is_refused_and_left_as_it_is(tmp_path, name, damage):
    checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
    damage(tmp_path / "3" / "default" / name)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"3 is damaged, or no checkpoint of mi_jax \(.*\); move it away"):
        checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda place: checkpoints.load(place, IDENTITY, ENVIRONMENT),
        lambda place: checkpoints.save(place, 3, TREE, IDENTITY, ENVIRONMENT),
    ],
)
def test_a_foreign_folder_or_file_is_refused_and_left_as_it_is(tmp_path, call):
    (tmp_path / "thesis.tex").write_text("years of work")
    for place, message in ((tmp_path, "it holds 'thesis.tex'"), (tmp_path / "thesis.tex", "is no folder")):
        with pytest.raises(ValueError, match=message):
            call(place)
    assert [(path.name, content) for path, content in files(tmp_path).items()] == [("thesis.tex", b"years of work")]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "steps": 8}, "its steps is 7, not 8"),
        ({**IDENTITY, "task": "cubic"}, "its task is None, not 'cubic'"),
        ({"steps": 7}, "its program is 'abc', not None"),
        ({**IDENTITY, "program": "x" * 200}, r"its program is 'abc', not 'x+\.\.\."),
    ],
)
def test_one_of_another_configuration_is_refused_and_left_as_it_is(tmp_path, identity, message):
    checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=f"3 is of another configuration: {message}; choose another folder"):
        checkpoints.load(tmp_path, identity, ENVIRONMENT)
    with pytest.raises(ValueError, match=message):
        checkpoints.save(tmp_path, 4, TREE, identity, ENVIRONMENT)
    assert files(tmp_path) == before


def test_one_of_another_environment_is_read_with_a_warning(tmp_path):
    checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
    # Another version writes the same program in other words, so its digest says nothing there.
    with pytest.warns(UserWarning, match=r"jax '0.10', here '0.11'\): it cannot be checked that the same program wrote it"):
        assert checkpoints.load(tmp_path, {**IDENTITY, "program": "cde"}, {"jax": "0.11"}).step == 3
    with pytest.raises(ValueError, match="its steps is 7, not 8"):
        checkpoints.load(tmp_path, {**IDENTITY, "steps": 8}, {"jax": "0.11"})
    # The number of threads changes bits and no words.
    threads = ENVIRONMENT | {"threads": 64}
    with pytest.warns(UserWarning, match=r"threads None, here 64\): the last bits may differ"):
        assert checkpoints.load(tmp_path, IDENTITY, threads).step == 3
    with pytest.raises(ValueError, match="its program is 'abc', not 'cde'"):
        checkpoints.load(tmp_path, {**IDENTITY, "program": "cde"}, threads)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(2, np.float32)}, r"\['b'\] is only in one of the two"),
        ({"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}, r"its \['a'\] has shape \[2\] and dtype float32"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.int32)}, r"its \['b'\] has shape \[2\] and dtype float32"),
    ],
)
def test_another_tree_is_refused(tmp_path, like, message):
    checkpoints.save(tmp_path, 1, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, IDENTITY, ENVIRONMENT)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(tmp_path, IDENTITY, ENVIRONMENT).into(like)


def test_check_compares_a_part(tmp_path):
    checkpoints.check(tmp_path, {"steps": 8})  # nothing there
    checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
    checkpoints.check(tmp_path, {"steps": 7})
    with pytest.raises(ValueError, match="its steps is 7, not 8"):
        checkpoints.check(tmp_path, {"steps": 8})


def test_a_digest_knows_names_shapes_dtypes_and_bytes():
    trees = [
        {"a": np.zeros(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.array([0, 0, 0, 1], np.float32)},
        {"a": jax.random.key(0)},
        {"a": jax.random.key(1)},
    ]
    assert len({checkpoints.digest(tree) for tree in trees}) == len(trees)
    assert checkpoints.digest(trees[0]) == checkpoints.digest({"a": jnp.zeros(4)})


def test_without_orbax_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    checkpoints._handler.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"install mi-jax\[checkpoints\]"):
        checkpoints.save(tmp_path, 3, TREE, IDENTITY, ENVIRONMENT)
