"""Many seeds at once: over devices by `pmap`, and on each device by `lax.map` or `vmap`.

The only file that names devices. A seed is a key, and its training a pure function of it, so seeds never communicate: under
`lax.map` the same key gives the same bits alone and among others, on any number of devices and in any chunking. Under `vmap`
batched products round differently, so there a seed is the same only statistically.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from mi_jax import _checks
from mi_jax.training.trainer import Trainer, TrainState, scan_steps

Mapped = Literal["map", "vmap"]


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
        """The inverse of `split`; drops the padding."""
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.num_seeds], tree)

    def spread(self, function: Callable[[Any], Any], donate: bool = False) -> Any:
        """`function` of one seed's tree, as a pmapped function of `split` trees."""
        over_seeds = functools.partial(jax.lax.map, function) if self.mapped == "map" else jax.vmap(function)
        return jax.pmap(over_seeds, devices=self.devices, donate_argnums=0 if donate else ())


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
      compile_seconds: what compiling took.
    """

    init: Any
    chunks: tuple[Any, ...]
    lengths: tuple[int, ...]
    layout: Layout
    compile_seconds: float


class Fit(NamedTuple):
    """Trained seeds.

    Attributes:
      states: the final `TrainState`, each leaf with a leading axis of seeds.
      history: name -> (seeds, steps) read-outs, in nats, each of the parameters before that step's update.
      diverged: (seeds,) whether a seed's parameters ended non-finite.
      compile_seconds: time to compile, apart from
      run_seconds: time to run.
    """

    states: TrainState
    history: Mapping[str, np.ndarray]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float


class Report(NamedTuple):
    """What is told between chunks: steps done, of how many, and the chunk's read-outs, name -> (seeds, chunk)."""

    done: int
    steps: int
    nats: Mapping[str, np.ndarray]


def compile_training(recipe: Trainer, plan: Layout, *, steps: int, chunk: int = 500, key_impl: Any = None) -> Program:
    """Compile the training of `plan.num_seeds` seeds.

    Args:
      recipe: the trainer.
      plan: where the seeds run, from `layout`.
      steps: number of training steps.
      chunk: about how many steps one scanned program makes; between chunks progress is told. It changes no bit of the
        result.
      key_impl: the implementation of the keys, as `jax.random.key` takes it; JAX's default by default.

    Returns:
      A `Program` for `run`.

    Raises:
      ValueError: if `steps` or `chunk` is less than 1.
      TypeError: if `recipe` is no `Trainer`.
    """
    _checks.instance(recipe, Trainer, "recipe")
    lengths = _chunk_lengths(_checks.positive_int(steps, "steps"), _checks.positive_int(chunk, "chunk"))
    start = time.perf_counter()
    init = plan.spread(recipe.init)
    keys = jax.eval_shape(lambda: plan.split(jax.random.split(jax.random.key(0, impl=key_impl), plan.num_seeds)))
    states = jax.eval_shape(init, keys)
    scan = functools.partial(scan_steps, recipe)
    scans = {
        length: plan.spread(functools.partial(scan, length=length), donate=True).lower(states).compile()
        for length in set(lengths)
    }
    compiled = init.lower(keys).compile()
    seconds = time.perf_counter() - start
    return Program(compiled, tuple(scans[length] for length in lengths), lengths, plan, seconds)


def run(program: Program, keys: Key[Array, " seeds"], on_chunk: Callable[[Report], None] | None = None) -> Fit:
    """Train the seeds of these keys.

    Args:
      program: from `compile_training`.
      keys: (seeds,) typed keys, as many as the program's layout has seeds.
      on_chunk: called with a `Report` between chunks.

    Returns:
      A `Fit`.

    Raises:
      ValueError: if the number of keys is not the layout's.
      TypeError: if `keys` are not typed keys.
    """
    plan = program.layout
    _check_keys(keys)
    if keys.shape != (plan.num_seeds,):
        raise ValueError(f"keys must have shape ({plan.num_seeds},), one for each seed, got {keys.shape}")
    start = time.perf_counter()
    states = program.init(plan.split(keys))
    histories: list[Mapping[str, np.ndarray]] = []
    done = 0
    for scan, length in zip(program.chunks, program.lengths, strict=True):
        states, nats = scan(states)
        histories.append(jax.tree.map(np.asarray, plan.join(nats)))
        done += length
        if on_chunk is not None:
            on_chunk(Report(done, sum(program.lengths), histories[-1]))
    states = jax.block_until_ready(plan.join(states))
    seconds = time.perf_counter() - start
    history = jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *histories)
    return Fit(states, history, _non_finite(states.params), program.compile_seconds, seconds)


def fit(
    recipe: Trainer,
    keys: Key[Array, " seeds"],
    *,
    steps: int,
    chunk: int = 500,
    devices: Sequence[jax.Device] | None = None,
    mapped: Mapped | None = None,
    on_chunk: Callable[[Report], None] | None = None,
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

    Returns:
      A `Fit`. Diverged seeds are flagged in it, not dropped: leave them out of any average.

    Raises:
      ValueError: if `keys` is not a vector, or `steps` or `chunk` is less than 1.
      TypeError: if `keys` are not typed keys.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> task = tasks.gaussian(dim=2, mi=1.0)
      >>> model = models.discriminative(networks.SeparableCritic(), estimators.infonce())
      >>> recipe = training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> result = training.fit(recipe, jax.random.split(jax.random.key(0), 3), steps=20)
      >>> result.history["infonce"].shape
      (3, 20)
    """
    _check_keys(keys)
    if keys.ndim != 1 or not keys.size:
        raise ValueError(f"keys must be a vector of at least one key, one for each seed, got shape {keys.shape}")
    plan = layout(keys.shape[0], devices, mapped)
    program = compile_training(recipe, plan, steps=steps, chunk=chunk, key_impl=jax.random.key_impl(keys))
    return run(program, keys, on_chunk)


def _chunk_lengths(steps: int, chunk: int) -> tuple[int, ...]:
    """Chunks as equal as can be, none shorter than `chunk`, nor than 2 steps, unless the run is."""
    # Of a loop of one step the compiler makes straight-line code, and lays out, and so rounds, its products in another way.
    number = max(1, min(steps // chunk, steps // 2))
    return tuple(steps // number + (place < steps % number) for place in range(number))


def _check_keys(keys: Any) -> None:
    if not (hasattr(keys, "dtype") and jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key)):
        got = getattr(keys, "dtype", type(keys).__name__)
        raise TypeError(f"keys must be typed keys, from jax.random.split(jax.random.key(seed), n), got {got}")


def _non_finite(tree: Any) -> np.ndarray:
    """(seeds,) whether any number in a seed's leaves is not finite."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.logical_or.reduce([~np.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1) for leaf in leaves])
