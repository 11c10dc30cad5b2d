"""Many seeds at once: over hosts, on each over devices by `pmap`, and on each device by `lax.map` or `vmap`.

The only file that names devices and hosts. A seed is a key, and its training a pure function of it, so seeds never
communicate: under `lax.map` the same key gives the same bits alone and among others, on any number of devices, in any
chunking and after any resume. Under `vmap` batched products round differently: there a seed is the same statistically.
"""

import contextlib
import functools
import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from mi_jax import _checks
from mi_jax.training import checkpoints
from mi_jax.training.checkpoints import Checkpoint
from mi_jax.training.trainer import Trainer, scan_steps

# Processes meet before they shut down, so a longer wait means that one has failed: then this ends the others.
SHUTDOWN_SECONDS = 30
Mapped = Literal["map", "vmap"]


class Host(NamedTuple):
    """This process among those that share a study: its number, from 0, and how many there are."""

    process: int
    processes: int

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of a list: one item, then as many left out as there are other processes, and so on."""
        return list(items[self.process :: self.processes])


def host() -> Host:
    """This process among those that `hosts` joined; alone if it joined none."""
    return Host(jax.process_index(), jax.process_count())


@contextlib.contextmanager
def hosts(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process: int | None = None,
    *,
    heartbeat_timeout: int = 60,
    finish_timeout: int = 7 * 24 * 3600,
) -> Iterator[Host]:
    """Join the processes that share a study, as a context; call it before anything runs on a device.

    Each process trains its share of the runs on its own devices and writes its own files, so nothing is communicated but
    that all are alive. If one dies the others end, too, with an error: what they finished is on disk, and the same
    command goes on from there. A process that has done its share waits for the others.

    Args:
      coordinator: `host:port` of process 0; on a TPU pod, under Slurm and under Open MPI found out by JAX.
      num_processes: how many there are; found out likewise.
      process: the number of this one; found out likewise.
      heartbeat_timeout: seconds without a sign of life after which a process counts as dead.
      finish_timeout: seconds that a process that is done waits for the others; a week.

    Yields:
      A `Host`.

    Raises:
      ValueError: if JAX cannot find out what is not given.
      RuntimeError: if the processes do not find one another.
    """
    timeouts: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_timeout, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    try:
        jax.distributed.initialize(coordinator, num_processes, process, **timeouts)
    except ValueError as error:
        found = "no TPU pod, Slurm or Open MPI tells of other processes, so"
        raise ValueError(f"{found} coordinator, num_processes and process must be given ({error})") from error
    yield host()
    # Not after an error: waiting would hide it, and the others learn of it as this process ends.
    checkpoints.meet(jax.process_count(), finish_timeout)
    jax.distributed.shutdown()


def environment() -> dict[str, Any]:
    """What the bits of a run depend on, besides the run itself."""
    device = jax.local_devices()[0]
    return {
        "machine": platform.machine(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
    }


class Layout(NamedTuple):
    """How seeds are laid out: `devices` x `per_device`, the last places padded with copies of the first seed.

    Attributes:
      num_seeds: how many seeds there are.
      devices: the devices used, none of them idle.
      mapped: how the seeds of one device run: "map", one after the other, bits kept; or "vmap", batched.
    """

    num_seeds: int
    devices: tuple[jax.Device, ...]
    mapped: Mapped

    @property
    def per_device(self) -> int:
        """Seeds on each device, the padding included."""
        return math.ceil(self.num_seeds / len(self.devices))

    def split(self, tree: Any) -> Any:
        """(seeds, ...) leaves become (devices, per_device, ...), padded."""
        places = np.arange(len(self.devices) * self.per_device)
        order = np.where(places < self.num_seeds, places, 0).reshape(-1, self.per_device)
        return jax.tree.map(lambda leaf: leaf[order], tree)

    def join(self, tree: Any) -> Any:
        """The inverse of `split`, on the host; drops the padding."""
        # Moved first: on the devices it would take a collective, and with several processes could wait for another's.
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.num_seeds], to_host(tree))

    def place(self, tree: Any) -> Any:
        """(seeds, ...) leaves, from the host or from any devices, split and put on these."""
        return self.spread(lambda leaves: leaves)(self.split(to_host(tree)))

    def spread(self, function: Callable[[Any], Any], donate: bool = False) -> Any:
        """`function` of one seed's tree, as a pmapped function of `split` trees."""
        over_seeds = functools.partial(jax.lax.map, function) if self.mapped == "map" else jax.vmap(function)
        return jax.pmap(over_seeds, devices=self.devices, donate_argnums=0 if donate else ())

    def compile(self, function: Callable[[Any], Any], like: Any, donate: bool = False) -> Any:
        """`function` spread, and compiled for `split` trees of these shapes."""
        # As types: with several processes pmap takes anything else for an array to be moved.
        return self.spread(function, donate).lower(jax.tree.map(jax.typeof, like)).compile()


def layout(num_seeds: int, devices: Sequence[jax.Device] | None = None, mapped: Mapped | None = None) -> Layout:
    """The layout of this many seeds on these devices.

    Args:
      num_seeds: how many seeds; any number, more or fewer than the devices.
      devices: by default all local ones.
      mapped: "map" or "vmap"; by default "map" on CPUs, where it is as fast, and "vmap" on accelerators.

    Returns:
      A `Layout`. Devices that an even share would leave idle are left out.

    Raises:
      ValueError: if `num_seeds` is less than 1, `devices` is empty, or `mapped` is neither.

    Example:
      >>> from mi_jax.training import seeds
      >>> plan = seeds.layout(5, mapped="map")
      >>> plan.per_device * len(plan.devices) >= 5
      True
    """
    available = tuple(jax.local_devices() if devices is None else devices)
    if not available:
        raise ValueError("devices must name at least one device, got none")
    mapped = mapped or ("map" if available[0].platform == "cpu" else "vmap")
    if mapped not in ("map", "vmap"):
        raise ValueError(f"mapped must be 'map' or 'vmap', got {mapped!r}")
    per_device = math.ceil(_checks.positive_int(num_seeds, "num_seeds") / len(available))
    return Layout(num_seeds, available[: math.ceil(num_seeds / per_device)], mapped)


class Program(NamedTuple):
    """The compiled training of a number of seeds: `run` it on keys as often as you like.

    Attributes:
      init: compiled `keys -> states`, both split by the layout.
      chunks: the run as compiled `states -> (states, histories)`, one entry a chunk, in order.
      lengths: the steps of each chunk.
      layout: where the seeds run.
      states: the shapes of the states of all seeds, as `recipe.init` makes them.
      recipe: what was compiled.
      example: the shapes of one run, as `recipe.init` takes it.
      compile_seconds: what compiling took.
    """

    init: Any
    chunks: tuple[Any, ...]
    lengths: tuple[int, ...]
    layout: Layout
    states: Any
    recipe: Trainer
    example: Any
    compile_seconds: float

    @property
    def steps(self) -> int:
        """How many steps the run makes."""
        return sum(self.lengths)

    def identity(self, runs: Any, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What decides the numbers of these runs, as JSON has it; `config` adds what a person would call them by."""
        return {
            "steps": self.steps,
            "mapped": self.layout.mapped,
            "seeds": self.layout.num_seeds,
            "runs": checkpoints.digest(runs),
            "program": fingerprint(self.recipe, self.example),
            "config": dict(config or {}),
        }


def to_host(tree: Any) -> Any:
    """A tree's arrays as NumPy's, and its typed keys, which NumPy does not have, as committed to no device."""

    def move(leaf: Any) -> Any:
        if not _checks.is_key(leaf):
            return np.asarray(leaf)
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf))

    return jax.tree.map(move, tree)


def fingerprint(recipe: Trainer, run: Any) -> str:
    """A digest of the texts of one seed's start and step, with the numbers and data in them: the recipe, as far as it acts.

    Args:
      recipe: the trainer.
      run: one run, as `recipe.init` takes it, or its shapes.
    """
    run = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), run)
    texts = jax.jit(recipe.init).lower(run).as_text(), jax.jit(recipe.step).lower(jax.eval_shape(recipe.init, run)).as_text()
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


class Fit(NamedTuple):
    """Trained seeds.

    Attributes:
      states: the final `TrainState` (or what else the recipe carries), on the host, each leaf with a leading axis of seeds.
      history: name -> (seeds, steps) read-outs, in nats, each of the parameters before that step's update.
      diverged: (seeds,) whether a seed's parameters would have left the finite numbers; `states.step` says at which step.
      compile_seconds: time to compile, apart from
      run_seconds: time to run.
    """

    states: Any
    history: Mapping[str, np.ndarray]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float


class Report(NamedTuple):
    """What is told between chunks: steps done, of how many, and the chunk's read-outs, name -> (seeds, chunk)."""

    done: int
    steps: int
    nats: Mapping[str, np.ndarray]


def compile_training(recipe: Trainer, plan: Layout, *, steps: int, chunk: int = 500, example: Any = None) -> Program:
    """Compile the training of `plan.num_seeds` seeds.

    Args:
      recipe: the trainer.
      plan: where the seeds run, from `layout`.
      steps: number of training steps.
      chunk: about how many steps one scanned program makes; between chunks progress is told, and checkpoints are written.
        It changes no bit of the result.
      example: one run, as `recipe.init` takes it, or its shapes; by default a key of JAX's default implementation.

    Returns:
      A `Program` for `run`.

    Raises:
      ValueError: if `steps` or `chunk` is less than 1.
      TypeError: if `recipe` is no `Trainer`.
    """
    _checks.instance(recipe, Trainer, "recipe")
    lengths = _chunk_lengths(_checks.positive_int(steps, "steps"), _checks.positive_int(chunk, "chunk"))
    start = time.perf_counter()
    example = jax.eval_shape(lambda: jax.random.key(0)) if example is None else example
    runs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((plan.num_seeds, *leaf.shape), leaf.dtype), example)
    joined = jax.eval_shape(jax.vmap(recipe.init), runs)
    runs, states = jax.eval_shape(plan.split, (runs, joined))
    scan = functools.partial(scan_steps, recipe)
    scans = {length: plan.compile(functools.partial(scan, length=length), states, donate=True) for length in set(lengths)}
    compiled = plan.compile(recipe.init, runs)
    seconds = time.perf_counter() - start
    return Program(compiled, tuple(scans[length] for length in lengths), lengths, plan, joined, recipe, example, seconds)


def run(
    program: Program,
    runs: Any,
    on_chunk: Callable[[Report], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train the seeds of these keys, or the runs of a sweep.

    Args:
      program: from `compile_training`.
      runs: (seeds,) typed keys, as many as the program's layout has seeds; of a sweep, a `Run` of keys and settings, each
        with a leading axis of seeds.
      on_chunk: called with a `Report` between chunks.
      checkpoint: where to write checkpoints between chunks. What is there is gone on from, and ends with the same bits.

    Returns:
      A `Fit`.

    Raises:
      ValueError: if the number of keys is not the layout's; or if the checkpoint is damaged, or of other runs.
      TypeError: if `runs` holds no typed keys.
    """
    plan = program.layout
    _check_runs(runs, plan.num_seeds)
    start = time.perf_counter()
    keeper = None if checkpoint is None else _Keeper(checkpoint, program, runs)
    saved = None if keeper is None else keeper.resume()
    done, states, histories = saved or (0, program.init(plan.split(runs)), [])
    for scan, stop, length in zip(program.chunks, np.cumsum(program.lengths), program.lengths, strict=True):
        if stop <= done:
            continue
        states, nats = scan(states)
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

    def __init__(self, checkpoint: Checkpoint, program: Program, runs: Any):
        self.checkpoint, self.program = checkpoint, program
        self.identity = program.identity(runs, checkpoint.config)
        self.last, self.cost = time.perf_counter(), 0.0

    def resume(self) -> tuple[int, Any, list[Mapping[str, np.ndarray]]] | None:
        """The steps done, the states on their devices, and the history; None if there is no checkpoint."""
        saved = checkpoints.load(self.checkpoint.folder, self.identity, environment())
        if saved is None:
            return None
        if saved.step not in np.cumsum(self.program.lengths):
            text = f"{self.checkpoint.folder} stands at step {saved.step}, where no chunk ends now"
            raise ValueError(f"{text}; take the chunk that it was written with, or move it away")
        scan = jax.vmap(functools.partial(scan_steps, self.program.recipe, length=saved.step))
        _, history = jax.eval_shape(scan, self.program.states)
        tree = saved.into({"states": self.program.states, "history": history})
        return saved.step, self.program.layout.place(tree["states"]), [tree["history"]]

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
    recipe: Trainer,
    keys: Key[Array, " seeds"],
    *,
    steps: int,
    chunk: int = 500,
    devices: Sequence[jax.Device] | None = None,
    mapped: Mapped | None = None,
    on_chunk: Callable[[Report], None] | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
) -> Fit:
    """Train one seed for each key, on all devices.

    Args:
      recipe: the trainer.
      keys: (seeds,) typed keys, from `jax.random.split`: any number, on any number of devices.
      steps: number of training steps.
      chunk: about how many steps one scanned program makes; it changes no bit of the result.
      devices: by default all local ones.
      mapped: how the seeds of one device run; see `layout`.
      on_chunk: called with a `Report` between chunks.
      checkpoint: a folder, or a `Checkpoint`, to write to between chunks. If the run is killed, the same call goes on from
        there and ends with the same bits. Needs `mi-jax[checkpoints]`.

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
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> result = training.fit(recipe, jax.random.split(jax.random.key(0), 3), steps=20)
      >>> result.history["infonce"].shape
      (3, 20)
    """
    _checks.key_vector(keys, "keys")
    plan = layout(keys.shape[0], devices, mapped)
    program = compile_training(recipe, plan, steps=steps, chunk=chunk, example=jax.ShapeDtypeStruct((), keys.dtype))
    return run(program, keys, on_chunk, Checkpoint.of(checkpoint))


def _chunk_lengths(steps: int, chunk: int) -> tuple[int, ...]:
    """Chunks as equal as can be, none shorter than `chunk`, nor than 2 steps, unless the run is."""
    # Of a loop of one step the compiler makes straight-line code, and lays out, and so rounds, its products in another way.
    number = max(1, min(steps // chunk, steps // 2))
    return tuple(steps // number + (place < steps % number) for place in range(number))


def _check_runs(runs: Any, num_seeds: int) -> None:
    leaves = jax.tree.leaves(runs)
    keys = next(filter(_checks.is_key, leaves), None)
    if keys is None:
        raise TypeError(_checks.not_a_key(leaves[0] if leaves else runs, "keys"))
    for leaf in leaves:
        if leaf.shape[:1] != (num_seeds,):
            name = "keys" if leaf is keys else "settings"
            raise ValueError(f"{name} must have shape ({num_seeds},), one for each seed, got {leaf.shape}")
