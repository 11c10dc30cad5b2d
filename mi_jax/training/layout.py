"""Where seeds run: over the devices of a process by `pmap`, and on each device by `lax.map` or `vmap`.

This is the only file that names `pmap` and devices. Under `lax.map` a seed has the same bits alone and among others, on any
number of devices. Under `vmap` batched products round differently: there a seed is the same statistically.
"""

import concurrent.futures
import functools
import math
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import _checks
from mi_jax.training.trainer import Inputs

Mapped = Literal["map", "vmap"]
Step = Callable[[Any, Inputs], Any]


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
    """How seeds are laid out: `devices` x `per_device`; the last places are padded with copies of the first seed.

    Attributes:
      num_seeds: how many seeds there are.
      devices: the devices used, none of them idle.
      mapped: how the seeds of one device run: "map", one after the other, each with the bits that it has
        alone; or "vmap", batched.
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
        # We move the arrays first: a reshape on the devices would be a collective, and could wait for another process.
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.num_seeds], to_host(tree))

    def place(self, tree: Any) -> Any:
        """Puts (seeds, ...) leaves, from the host or from any devices, on these devices, split."""
        return self._put(self.split(to_host(tree)))

    def place_inputs(self, inputs: Inputs) -> Inputs:
        """Puts inputs on the devices: what is shared once on each, what is per run beside its run."""
        copies = lambda leaf: np.broadcast_to(leaf, (len(self.devices), *np.shape(leaf)))  # noqa: E731
        return Inputs(self._put(jax.tree.map(copies, to_host(inputs.shared))), self.place(inputs.per_run))

    def spread(self, step: Step, donate: bool = False) -> Any:
        """`step` of one seed's tree and its inputs, as a pmapped function of a split tree and placed inputs."""

        def on_device(tree: Any, inputs: Inputs) -> Any:
            step_seed = lambda seed: step(seed[0], Inputs(inputs.shared, seed[1]))  # noqa: E731
            over_seeds = functools.partial(jax.lax.map, step_seed) if self.mapped == "map" else jax.vmap(step_seed)
            return over_seeds((tree, inputs.per_run))

        return jax.pmap(on_device, devices=self.devices, donate_argnums=0 if donate else ())

    def compile(self, step: Step, tree: Any, inputs: Inputs, donate: bool = False) -> "Compiled":
        """`step` spread, and compiled for split trees and placed inputs of these shapes, in a thread: `Compiled.wait`."""
        # As types: with several processes pmap would try to move anything else to its devices.
        return Compiled(self.spread(step, donate).lower(*jax.tree.map(jax.typeof, (tree, inputs))))

    def placed_shapes(self, inputs: Inputs) -> Inputs:
        """The shapes of `place_inputs(inputs)`, from those of inputs whose `per_run` leaves have an axis of seeds."""
        copies = lambda leaf: jax.ShapeDtypeStruct((len(self.devices), *leaf.shape), leaf.dtype)  # noqa: E731
        return Inputs(jax.tree.map(copies, inputs.shared), jax.eval_shape(self.split, inputs.per_run))

    def _put(self, split: Any) -> Any:
        """Puts (devices, ...) leaves on the devices."""
        return _copier(self.devices)(split) if jax.tree.leaves(split) else split


class Compiled:
    """A program that XLA compiles in a thread beside others; a call waits for it."""

    def __init__(self, lowered: Any):
        self._lowered = lowered
        self._program: Any = _threads().submit(lowered.compile)

    def __call__(self, *arguments: Any) -> Any:
        return self.wait()(*arguments)

    def wait(self) -> Any:
        """Wait until it is compiled; returns JAX's compiled program. If that failed, it is tried again."""
        if self._program is None:
            self._program = _threads().submit(self._lowered.compile)
        try:
            return self._program.result()
        except Exception:
            self._program = None  # these programs are kept, and a failure, such as too little memory, must not be
            raise


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "compile")


@functools.cache
def _copier(devices: tuple[jax.Device, ...]) -> Any:
    """The pmapped identity, kept so that the same shapes compile once."""
    return jax.pmap(lambda leaves: leaves, devices=devices)


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
      >>> from mi_jax.training import layout
      >>> plan = layout.layout(5, mapped="map")
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


def to_host(tree: Any) -> Any:
    """A tree's arrays as NumPy arrays. NumPy has no typed keys; those stay JAX arrays, committed to no device."""

    def move(leaf: Any) -> Any:
        if not _checks.is_key(leaf):
            return np.asarray(leaf)
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf))

    return jax.tree.map(move, tree)
