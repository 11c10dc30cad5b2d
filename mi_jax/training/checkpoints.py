"""Checkpoints of training, by orbax: written whole or not at all, and read only where they belong.

A checkpoint is a folder with one numbered step in it. Beside the arrays it holds what it is of, its *identity*, and a digest
of every array, so that a damaged file, a foreign one, or one of another configuration is refused and left as it is. Needs
the extra `mi-jax[checkpoints]`; orbax is loaded as the first checkpoint is written.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import _checks

FORMAT = "mi_jax checkpoint, 1"
CHECKPOINT_SECONDS = 10.0
_REWORDS = frozenset({"jax", "jaxlib", "platform"})  # another one of these may write another text of the same program
_ITEM = "default"  # orbax's name for what a step holds


class Checkpoint(NamedTuple):
    """Where and how a run is kept between chunks.

    Attributes:
      folder: the folder; one for each run.
      every: seconds between checkpoints, at least, and more if writing would take over a twentieth of the time; 0 writes one
        after each chunk.
      config: a description of the run, of what JSON can hold. Before a checkpoint is read, it must equal the saved one, as
        keys, steps and the text of the program must.
    """

    folder: str | Path
    every: float = CHECKPOINT_SECONDS
    config: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, place: "Checkpoint | str | Path | None") -> "Checkpoint | None":
        """A folder's name as a `Checkpoint`; others as they are."""
        return cls(place) if isinstance(place, str | Path) else place


class Saved(NamedTuple):
    """A checkpoint as it was read, whole and undamaged.

    Attributes:
      step: its number.
      arrays: path in the tree -> array.
      kept: path -> what was written of `arrays[path]`: shape, dtype, digest.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    kept: Mapping[str, Mapping[str, Any]]

    def into(self, like: Any) -> Any:
        """The tree that was saved, with the structure, shapes and dtypes of `like`.

        Raises:
          ValueError: if the saved tree has others.
        """
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        wanted = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
        if wanted.keys() != self.arrays.keys():
            odd = sorted(wanted.keys() ^ self.arrays.keys())
            raise ValueError(f"it holds another tree: {odd[0]} is only in one of the two")
        for path, leaf in wanted.items():
            ours, theirs = _form(leaf), {name: self.kept[path][name] for name in ("shape", "dtype")}
            if ours != theirs:
                raise ValueError(f"its {path} has shape {theirs['shape']} and dtype {theirs['dtype']}, not {ours}")
        leaves = [self.arrays[path] if "key_impl" not in self.kept[path] else self._key(path) for path in wanted]
        return jax.tree.unflatten(structure, leaves)

    def _key(self, path: str) -> jax.Array:
        return jax.random.wrap_key_data(jnp.asarray(self.arrays[path]), impl=self.kept[path]["key_impl"])


def save(
    folder: str | Path,
    step: int,
    tree: Any,
    identity: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all; only then does the one before it go.

    Args:
      folder: where; made if it is not there.
      step: its number, larger than that of the one before.
      tree: arrays, typed keys among them.
      identity: what it is of, as JSON has it: read back only for the same.
      environment: what its bits depend on besides; read back under another with a warning.

    Raises:
      ValueError: if the folder holds something else, or the checkpoint of another identity.
    """
    folder, identity = Path(folder), as_json(identity)
    latest = max(_steps(folder), default=None)  # an older one may be half removed
    if latest is not None:
        path = folder / str(latest)
        _check_identity(path, _about(path)["identity"], identity, environment, environment)
        if latest >= step:
            raise ValueError(f"{path} is there already; step {step} would not come after it")
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    arrays = {path: _data(leaf) for path, leaf in flat.items()}
    kept = {path: _form(leaf) | _data_form(arrays[path]) | _key_impl(leaf) for path, leaf in flat.items()}
    about = {"format": FORMAT, "identity": identity, "environment": environment, "arrays": kept}
    with _manager(folder) as manager:
        manager.save(step, args=_handler()(about, list(arrays.values())))


def load(folder: str | Path, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> Saved | None:
    """Read a checkpoint, whole and undamaged.

    Args:
      folder: where it may be.
      identity: what it must be of.
      environment: where its bits are wanted.

    Returns:
      What was saved, or None if there is none: no folder, an empty one, or one that a writer was killed in before its first
      checkpoint was whole.

    Raises:
      ValueError: if the folder holds something else, or a checkpoint that is damaged or of another identity.

    Warns:
      UserWarning: if it was written in another environment: what follows may then differ in its last bits.
    """
    folder, identity = Path(folder), as_json(identity)
    steps = _steps(folder)
    if not steps:
        return None
    path = folder / str(max(steps))
    about = _about(path)
    _check_identity(path, about["identity"], identity, about["environment"], environment)
    return Saved(max(steps), _arrays(path, about["arrays"]), about["arrays"])


def digest(tree: Any) -> str:
    """A digest of a tree's arrays and typed keys: of their names, shapes, dtypes and bytes."""
    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _data(leaf)
        content.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {array.shape} ".encode() + array.tobytes())
    return content.hexdigest()[:16]


def check(folder: str | Path, part: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose identity does not hold this part; no checkpoint is none to refuse.

    Args:
      folder: where it may be.
      part: some of an identity: name -> value.

    Raises:
      ValueError: as `load`.
    """
    for step in sorted(_steps(Path(folder)))[-1:]:
        path = Path(folder) / str(step)
        about = _about(path)
        saved = {name: about["identity"].get(name) for name in part}
        _check_identity(path, saved, as_json(part), {}, {})


def identity_of(folder: str | Path) -> Mapping[str, Any] | None:
    """What the checkpoint in a folder is of; None if there is none.

    Raises:
      ValueError: if the folder holds something else, or a damaged one.
    """
    steps = _steps(Path(folder))
    return _about(Path(folder) / str(max(steps)))["identity"] if steps else None


def as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it comes back from the disk: lists for tuples, and so on."""
    try:
        return json.loads(json.dumps(identity))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config must be what JSON can hold: names, numbers, text, lists ({error})") from error


def _steps(folder: Path) -> list[int]:
    """The numbers of the whole checkpoints in a folder that may hold nothing else but unfinished ones."""
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder} is no folder, so no checkpoint can be there; move it away")
        return []
    names = [path.name for path in folder.iterdir()]
    strange = [name for name in names if not name.isdecimal() and ".orbax-checkpoint-tmp" not in name]
    if strange:
        raise ValueError(f"{folder} is no folder of checkpoints: it holds {min(strange)!r}; choose another")
    return [int(name) for name in names if name.isdecimal()]


def _about(path: Path) -> Mapping[str, Any]:
    """What a checkpoint says of itself."""
    with _damage_named(path):
        about = json.loads((path / _ITEM / "about.json").read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        return {name: about[name] for name in ("identity", "environment", "arrays")}


def _arrays(path: Path, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """A checkpoint's arrays, compared with their digests."""
    with _damage_named(path), (path / _ITEM / "arrays.npz").open("rb") as file:
        content, arrays = np.load(file, allow_pickle=False), {}
        for number, (name, form) in enumerate(kept.items()):
            data = np.frombuffer(content[f"arr_{number}"], jnp.dtype(form["data"])).reshape(form["data_shape"])
            if _digest(data) != form["sha256"]:
                raise ValueError(f"its {name} is not what was written")
            arrays[name] = data
        return arrays


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Whatever reading a broken file raises, as one clear error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of mi_jax ({_line(error)}); move it away") from error


def _check_identity(
    path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any], there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Refuse another identity, and warn of another environment."""
    elsewhere = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    for name in sorted(saved.keys() | wanted.keys()):
        # Another version writes the same program in another way: then the warning below says what can be said.
        unknown = name == "program" and not _REWORDS.isdisjoint(elsewhere)
        same = json.dumps(saved.get(name), sort_keys=True) == json.dumps(wanted.get(name), sort_keys=True)  # NaN, too
        if not same and not unknown:
            was, now = _short(saved.get(name)), _short(wanted.get(name))
            raise ValueError(f"{path} is of another configuration: its {name} is {was}, not {now}; choose another folder")
    if elsewhere:
        which = ", ".join(f"{name} {_short(there.get(name))}, here {_short(here.get(name))}" for name in elsewhere)
        what = (
            "the last bits may differ"
            if _REWORDS.isdisjoint(elsewhere)
            else "it cannot be checked that the same program wrote it"
        )
        warnings.warn(f"{path} was written in another environment ({which}): {what}", stacklevel=4)


@functools.cache
def _handler() -> Any:
    """What orbax calls to write a checkpoint, as it takes it: one class of arguments, with their handler.

    Orbax's own handlers write NumPy's arrays from process 0 only, and refuse those of JAX that one process has alone: they
    know one checkpoint of all processes, and here each has its own.
    """
    ocp = _orbax()

    class Handler(ocp.CheckpointHandler):  # type: ignore[name-defined]
        def save(self, directory: Any, args: Any) -> None:
            (directory / "about.json").write_text(json.dumps(args.about))
            # As bytes, which every dtype of JAX has, and NumPy's format has not.
            with (directory / "arrays.npz").open("wb") as file:
                np.savez(file, *(np.frombuffer(array.tobytes(), np.uint8) for array in args.arrays))

        def restore(self, directory: Any, args: Any = None) -> Any:
            raise NotImplementedError  # `load` reads without orbax

    @ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
    @dataclasses.dataclass
    class Save(ocp.args.CheckpointArgs):  # type: ignore[name-defined]
        about: Mapping[str, Any]
        arrays: list[np.ndarray]

    return Save


def _manager(folder: Path) -> Any:
    ocp = _orbax()
    folder.mkdir(parents=True, exist_ok=True)
    own = ocp.multihost.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,  # orbax makes no folder for a process alone
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(own, {own}, f"process{own}"),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def meet(processes: int, timeout: float) -> None:
    """Wait until this many processes, all there are, have come here.

    Args:
      processes: how many there are.
      timeout: seconds to wait for them.
    """
    wait = _orbax().multihost.get_barrier_sync_fn(processes=set(range(processes)))
    wait(key="mi_jax: all shares are done", timeout_ms=int(1_000 * timeout))


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp  # an extra, and slow to import
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("checkpoints need orbax; install mi-jax[checkpoints]") from error
    return ocp


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _checks.is_key(leaf) else leaf)


def _form(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _data_form(array: np.ndarray) -> dict[str, Any]:
    return {"data": str(array.dtype), "data_shape": list(array.shape), "sha256": _digest(array)}


def _key_impl(leaf: Any) -> dict[str, str]:
    return {"key_impl": str(jax.random.key_impl(leaf))} if _checks.is_key(leaf) else {}


def _digest(array: np.ndarray) -> str:
    header = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
