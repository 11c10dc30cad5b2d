"""The machine that a benchmark runs on: its cores as devices, its speed and memory, and what a row records of it."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mi_jax
from mi_jax.training import layout

# A CPU's flags for its vector instructions, the widest first.
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# What the bits of a row depend on, besides its configuration.
_BITS_DEPEND_ON = ("machine", "platform", "device_kind", "threads", "xla_flags", "matmul_precision", "versions")


def use_all_cores() -> None:
    """Make every core of a CPU a device of its own, so that seeds run side by side.

    On two cores that is faster than one device with a batch. Call it before anything runs on a device. A number of devices
    that the user has set in XLA_FLAGS or JAX_NUM_CPU_DEVICES stands; accelerators are left as they are.
    """
    set_by_user = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not set_by_user and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def product_speed(devices: Sequence[jax.Device] | None = None, repeats: int = 20) -> Callable[[], float]:
    """Returns a function that measures operations a second in float32 products (4096, 256) x (256, 256), on all devices."""
    devices = jax.local_devices() if devices is None else devices
    rows = jnp.ones((len(devices), 4096, 256))
    kernel = jnp.full((256, 256), 1.0 / 256)
    product = jax.pmap(lambda a: jax.lax.fori_loop(0, repeats, lambda _, b: b @ kernel, a), devices=devices)
    jax.block_until_ready(product(rows))

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready(product(rows))
        return 2.0 * float(np.prod(rows.shape)) * 256 * repeats / (time.perf_counter() - start)

    return measure


@functools.cache
def speed() -> float:
    """Operations a second in matrix products, measured once: what costs are predicted by where no row is on disk."""
    return product_speed()()


def peak_memory() -> float:
    """The largest resident memory that this process has had, in MiB."""
    # On Linux `getrusage` counts the process that started this one, too, up to the fork.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1_024
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def in_a_process(*command: str, **environment: str) -> str:
    """The last line that a Python process of its own prints; its errors go where this one's go."""
    arguments = [sys.executable, *command]
    done = subprocess.run(arguments, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def duration(seconds: float) -> str:
    """A length of time as people write it: 42 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@functools.cache
def processor() -> str:
    """The CPU by its own name, and the widest vectors that it adds."""
    name = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        lines = (line.split(":", 1) for line in about.read_text().splitlines() if ":" in line)
        fields = {field.strip(): value.strip() for field, value in lines}
        name = fields.get("model name", name)
        flags = fields.get("flags", "").split()
        name += next((f", {vectors}" for flag, vectors in VECTORS.items() if flag in flags), "")
    return name


def devices() -> str:
    """How many devices there are, in words."""
    number = jax.device_count()
    return f"{number} device{'s' * (number > 1)}"


def accelerator() -> str:
    """A short name of this machine's accelerator, such as "h200" or "tpu-v4", for the names of folders; empty on a CPU."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return ""
    words = [word for word in device.device_kind.lower().split() if word != "nvidia"]
    return "-".join(words[: 2 if words[0] == "tpu" else 1])


@functools.cache
def _versions() -> Mapping[str, str]:
    """Package -> version. Reading them takes 8 ms, and a benchmark may write thousands of rows."""
    # Ours is read from the package: on a borrowed machine it runs from the checkout, without being installed.
    return {"mi-jax": mi_jax.__version__} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def environment() -> dict[str, Any]:
    """This machine, its devices, the versions and the commit, as a row records them."""
    return {
        **layout.environment(),
        "processor": processor(),
        # None is the backend's default: float32 on a CPU, TensorFloat-32 on an NVIDIA GPU.
        "matmul_precision": matmul_precision(),
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "commit": _commit(),
    }


def matmul_precision() -> str | None:
    """The precision of matrix products that is set; None is the backend's default."""
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009  # mypy knows no options of jax.config
    return None if precision == "default" else precision


@contextlib.contextmanager
def float32_products() -> Iterator[None]:
    """Keeps float32 in matrix products on accelerators, unless the user has set a precision; a context for all threads."""
    if accelerator() and matmul_precision() is None:
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            yield
        finally:
            jax.config.update("jax_default_matmul_precision", None)
    else:
        yield


def same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the same configuration should give the same bits in both environments; so if one was not recorded."""
    return not (one and other) or all(one.get(name) == other.get(name) for name in _BITS_DEPEND_ON)


@functools.cache
def _commit() -> str:
    """The commit of the code, with "-dirty" if it was changed since; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def description(*environments: Mapping[str, Any]) -> str:
    """Machines and versions, for a results page: those that rows recorded (`environment`), or else this one."""
    recorded = [each for each in environments if each]
    return "; ".join(dict.fromkeys(map(_describe, recorded or [environment()])))


def _describe(recorded: Mapping[str, Any]) -> str:
    cpu = f"{recorded.get('processor') or recorded['machine']}, {recorded['threads']} cores"
    return f"{recorded['devices']} x {recorded['device_kind']} ({cpu}), jax {recorded['versions']['jax']}"
