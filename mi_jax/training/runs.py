"""Many seeds at once: compile a trainer for a layout, run it in chunks, and `fit`, which does both.

A seed is a key, and its training is a pure function of the key and of its inputs, so seeds never communicate. Under
`lax.map` the same key gives the same bits alone and among others, in any chunking and after any resume.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from mi_jax import _checks
from mi_jax.training import checkpoints
from mi_jax.training.checkpoints import Checkpoint
from mi_jax.training.layout import Layout, Mapped, environment, layout
from mi_jax.training.trainer import NO_INPUTS, Inputs, Trainer, scan_steps


class Program(NamedTuple):
    """The compiled training of a number of seeds: `run` it on keys as often as you like.

    Attributes:
      init: compiled `(keys, inputs) -> states`, all split by the layout.
      chunks: the run as compiled `(states, inputs) -> (states, histories)`, one entry a chunk, in order.
      lengths: the steps of each chunk.
      layout: where the seeds run.
      states: the shapes of the states of all seeds, as `trainer.init` makes them.
      trainer: what was compiled.
      key: the shape of one key.
      inputs: the shapes of the inputs of one run, as `trainer.init` takes them.
      compile_seconds: what compiling took; without what goes on in threads, if that was not waited for.
    """

    init: Any
    chunks: tuple[Any, ...]
    lengths: tuple[int, ...]
    layout: Layout
    states: Any
    trainer: Trainer
    key: Any
    inputs: Inputs
    compile_seconds: float

    @property
    def steps(self) -> int:
        """How many steps the run makes."""
        return sum(self.lengths)

    def wait(self) -> None:
        """Wait until everything is compiled."""
        for each in {self.init, *self.chunks}:
            each.wait()

    def identity(self, keys: Any, inputs: Inputs, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What decides the numbers of these runs, as JSON; `config` adds what a person would call them by."""
        return {
            "steps": self.steps,
            "mapped": self.layout.mapped,
            "seeds": self.layout.num_seeds,
            "runs": checkpoints.digest((keys, inputs)),
            "program": fingerprint(self.trainer, self.key, self.inputs),
            "config": dict(config or {}),
        }


def fingerprint(trainer: Trainer, key: Any, inputs: Inputs = NO_INPUTS) -> str:
    """A digest of the program texts of one seed's start and step, constants included: it identifies what is trained.

    Args:
      trainer: the trainer.
      key: one key, or its shape.
      inputs: the inputs of one run, or their shapes.
    """
    key, inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (key, inputs))
    state = jax.eval_shape(trainer.init, key, inputs)
    texts = jax.jit(trainer.init).lower(key, inputs).as_text(), jax.jit(trainer.step).lower(state, inputs).as_text()
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


class Fit(NamedTuple):
    """Trained seeds.

    Attributes:
      states: the final `TrainState`, or the state of another trainer, on the host, each leaf with a leading axis of seeds.
      history: name -> (seeds, steps) read-outs, in nats, each of the parameters before that step's update.
      diverged: (seeds,) whether a seed's parameters would have left the finite numbers; `states.step` says at which step.
      compile_seconds: time to compile.
      run_seconds: time to run, without the time to compile.
    """

    states: Any
    history: Mapping[str, np.ndarray]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float


class Report(NamedTuple):
    """What a caller learns between chunks: steps done, of how many, and the chunk's read-outs, name -> (seeds, chunk)."""

    done: int
    steps: int
    nats: Mapping[str, np.ndarray]


def compile_training(
    trainer: Trainer,
    plan: Layout,
    *,
    steps: int,
    chunk: int = 500,
    key: Any = None,
    inputs: Inputs = NO_INPUTS,
    wait: bool = True,
) -> Program:
    """Compile the training of `plan.num_seeds` seeds.

    Args:
      trainer: the trainer.
      plan: where the seeds run, from `layout`.
      steps: number of training steps.
      chunk: about how many steps one scanned program makes. Between chunks progress is reported, and checkpoints are
        written. It changes no bit of the result.
      key: one key, or its shape; by default a key of JAX's default implementation.
      inputs: the inputs of one run, or their shapes.
      wait: whether to wait for what is compiled in threads, so that `compile_seconds` is the time of all; `Program.wait`
        does so later.

    Returns:
      A `Program` for `run`.

    Raises:
      ValueError: if `steps` or `chunk` is less than 1.
      TypeError: if `trainer` is no `Trainer`.
    """
    _checks.instance(trainer, Trainer, "trainer")
    lengths = _chunk_lengths(_checks.positive_int(steps, "steps"), _checks.positive_int(chunk, "chunk"))
    start = time.perf_counter()
    key = jax.eval_shape(lambda: jax.random.key(0)) if key is None else key
    state = jax.eval_shape(trainer.init, key, inputs)
    keys, states, per_run = _with_axis((key, state, inputs.per_run), plan.num_seeds)
    split_keys, split_states = jax.eval_shape(plan.split, (keys, states))
    placed = plan.placed_shapes(inputs._replace(per_run=per_run))
    scans = {
        length: plan.compile(functools.partial(_scan, trainer, length), split_states, placed, donate=True)
        for length in set(lengths)
    }
    init = plan.compile(trainer.init, split_keys, placed)
    chunks = tuple(scans[length] for length in lengths)
    program = Program(init, chunks, lengths, plan, states, trainer, key, inputs, time.perf_counter() - start)
    if not wait:
        return program
    program.wait()
    return program._replace(compile_seconds=time.perf_counter() - start)


def _scan(trainer: Trainer, length: int, state: Any, inputs: Inputs) -> tuple[Any, Mapping[str, Any]]:
    return scan_steps(trainer, state, length, inputs)


def _with_axis(tree: Any, size: int) -> Any:
    """The shapes of a tree whose leaves get a leading axis of this size."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), tree)


def run(
    program: Program,
    keys: Key[Array, " seeds"],
    on_chunk: Callable[[Report], None] | None = None,
    checkpoint: Checkpoint | None = None,
    inputs: Inputs = NO_INPUTS,
) -> Fit:
    """Train the seeds of these keys.

    Args:
      program: from `compile_training`.
      keys: (seeds,) typed keys, as many as the program's layout has seeds.
      on_chunk: called with a `Report` between chunks.
      checkpoint: where to write checkpoints between chunks. If there is one, the run continues from it, and ends with the
        same bits.
      inputs: what the trainer is given beside its state; the leaves of `per_run` have a leading axis of seeds.

    Returns:
      A `Fit`.

    Raises:
      ValueError: if the number of keys is not the layout's; or if the checkpoint is damaged, or of other runs.
      TypeError: if `keys` are not typed keys.
    """
    plan = program.layout
    _check_runs(keys, inputs, plan.num_seeds)
    start = time.perf_counter()
    keeper = None if checkpoint is None else _Keeper(checkpoint, program, program.identity(keys, inputs, checkpoint.config))
    placed = plan.place_inputs(inputs)
    saved = None if keeper is None else keeper.resume()
    done, states, histories = saved or (0, program.init(plan.split(keys), placed), [])
    for scan, stop, length in zip(program.chunks, np.cumsum(program.lengths), program.lengths, strict=True):
        if stop <= done:
            continue
        states, nats = scan(states, placed)
        histories.append(plan.join(nats))
        done += length
        if keeper is not None:
            keeper.keep(done, states, histories)
        if on_chunk is not None:
            on_chunk(Report(done, program.steps, histories[-1]))
    states = plan.join(states)
    seconds = time.perf_counter() - start
    return Fit(states, _joined(histories), states.diverged, program.compile_seconds, seconds)


class _Keeper:
    """Writes a run's checkpoints, not too often, and reads the one that is there."""

    def __init__(self, checkpoint: Checkpoint, program: Program, identity: Mapping[str, Any]):
        self.checkpoint, self.program, self.identity = checkpoint, program, identity
        self.last, self.cost = time.perf_counter(), 0.0

    def resume(self) -> tuple[int, Any, list[Mapping[str, np.ndarray]]] | None:
        """The steps done, the states on their devices, and the history; None if there is no checkpoint."""
        saved = checkpoints.load(self.checkpoint.folder, self.identity, environment())
        if saved is None:
            return None
        if saved.step not in np.cumsum(self.program.lengths):
            text = f"{self.checkpoint.folder} stands at step {saved.step}, where no chunk ends now"
            raise ValueError(f"{text}; take the chunk that it was written with, or move it away")
        program = self.program
        state = jax.eval_shape(program.trainer.init, program.key, program.inputs)
        scan = functools.partial(_scan, program.trainer, saved.step)
        history = _with_axis(jax.eval_shape(scan, state, program.inputs)[1], program.layout.num_seeds)
        tree = saved.into({"states": program.states, "history": history})
        return saved.step, program.layout.place(tree["states"]), [tree["history"]]

    def keep(self, done: int, states: Any, histories: list[Mapping[str, np.ndarray]]) -> None:
        """Write a checkpoint if it is time for one, or the run has ended."""
        # Writing takes at most a twentieth of the time, whatever the size.
        wait = max(self.checkpoint.every, 20.0 * self.cost) if self.checkpoint.every else 0.0
        start = time.perf_counter()
        if done < self.program.steps and start - self.last < wait:
            return
        tree = {"states": self.program.layout.join(states), "history": _joined(histories)}
        checkpoints.save(self.checkpoint.folder, done, tree, self.identity, environment())
        self.last = time.perf_counter()
        self.cost = self.last - start


def _joined(histories: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    return jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *histories)


def fit(
    trainer: Trainer,
    keys: Key[Array, " seeds"],
    *,
    steps: int,
    chunk: int = 500,
    devices: Sequence[jax.Device] | None = None,
    mapped: Mapped | None = None,
    on_chunk: Callable[[Report], None] | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    inputs: Inputs = NO_INPUTS,
) -> Fit:
    """Train one seed for each key, on all devices.

    Args:
      trainer: the trainer.
      keys: (seeds,) typed keys, from `jax.random.split`: any number, on any number of devices.
      steps: number of training steps.
      chunk: about how many steps one scanned program makes; it changes no bit of the result.
      devices: by default all local ones.
      mapped: how the seeds of one device run; see `layout`.
      on_chunk: called with a `Report` between chunks.
      checkpoint: a folder, or a `Checkpoint`, to write to between chunks. If the run is killed, the same call continues from
        there and ends with the same bits. Needs `mi-jax[checkpoints]`.
      inputs: what the trainer is given beside its state: `Inputs(shared, per_run)`, where the leaves of `per_run` have a
        leading axis of seeds.

    Returns:
      A `Fit`. Diverged seeds are frozen and flagged in it, not dropped: leave them out of any average.

    Raises:
      ValueError: if `keys` is not a vector, or `steps` or `chunk` is less than 1; or if the folder holds something else
        than a checkpoint of these runs, or a damaged one: it is left as it is.
      TypeError: if `keys` are not typed keys.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.BilinearCritic(), estimators.infonce())
      >>> trainer = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> result = training.fit(trainer, jax.random.split(jax.random.key(0), 3), steps=20)
      >>> result.history["infonce"].shape
      (3, 20)
    """
    _checks.key_vector(keys, "keys")
    plan = layout(keys.shape[0], devices, mapped)
    _check_runs(keys, inputs, plan.num_seeds)
    example = inputs._replace(per_run=jax.tree.map(lambda leaf: leaf[0], inputs.per_run))
    key = jax.ShapeDtypeStruct((), keys.dtype)
    program = compile_training(trainer, plan, steps=steps, chunk=chunk, key=key, inputs=example)
    return run(program, keys, on_chunk, Checkpoint.of(checkpoint), inputs)


def _chunk_lengths(steps: int, chunk: int) -> tuple[int, ...]:
    """Chunks as equal as can be, none shorter than `chunk`, nor than 2 steps, unless the run is."""
    # The compiler turns a loop of one step into straight-line code, which rounds its products in another way.
    number = max(1, min(steps // chunk, steps // 2))
    return tuple(steps // number + (place < steps % number) for place in range(number))


def _check_runs(keys: Any, inputs: Inputs, num_seeds: int) -> None:
    """Refuse keys that are no typed keys, and keys or inputs that are not one for each seed."""
    if not _checks.is_key(keys):
        raise TypeError(_checks.not_a_key(keys, "keys"))
    for name, leaf in [("keys", keys), *(("inputs.per_run", leaf) for leaf in jax.tree.leaves(inputs.per_run))]:
        if leaf.shape[:1] != (num_seeds,):
            raise ValueError(f"{name} must have shape ({num_seeds}, ...), one for each seed, got {leaf.shape}")
