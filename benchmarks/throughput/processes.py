"""Measurements in processes of their own: memory of large batches, a start, and what the compilation cache saves."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

import mi_jax
from benchmarks.lib import machine
from benchmarks.lib import training as lib_training
from benchmarks.lib.rows import Row
from mi_jax import estimators, evaluation, lazy_scores, models, networks, tasks, training

# The task of `benchmarks.throughput`.
DIM, MI = 20, 2.0


def _train(n: int, block: int) -> None:
    model = models.discriminative(networks.JointCritic(), estimators.smile(), row_block=block)
    trainer = training.trainer(model, lambda key, _: tasks.gaussian(DIM, MI).sample(key, n))
    lib_training.compile_step(trainer).call(2)


def _held_out(critic: nn.Module, n: int) -> None:
    model = models.discriminative(critic, estimators.smile())
    x, y = tasks.gaussian(DIM, MI).sample(jax.random.key(0), n)
    variables = jax.jit(model.init)(jax.random.key(1), x[:2], y[:2])
    scorer = model.critic
    assert scorer is not None

    @jax.jit
    def read(variables: models.Variables, x: Array, y: Array) -> dict[str, Float[Array, ""]]:
        encode, pair = (jax.tree_util.Partial(part, variables) for part in scorer)
        sums = evaluation.pair_sums(pair, x, y, encode=encode, tau=5.0, max_pairs=n**2)
        return {name: found.value for name, found in evaluation.read_outs(sums).items()}

    jax.block_until_ready(read(variables, x, y))


def _smile(n: int, block: int) -> None:
    model = models.discriminative(networks.SeparableCritic(), estimators.smile())
    x, y = tasks.gaussian(DIM, MI).sample(jax.random.key(0), n)
    variables = jax.jit(model.init)(jax.random.key(1), x[:2], y[:2])
    assert model.critic is not None
    codes_x, codes_y = jax.jit(model.critic.encode)(variables, x, y)
    scores = lazy_scores.make(jax.tree_util.Partial(model.critic.pair, variables), codes_x, codes_y, row_block=block)
    jax.block_until_ready(mi_jax.smile(scores, 5.0))


MEMORY: dict[str, tuple[Callable[[], None], float]] = {
    "joint 2x256, two training steps, n = 1,024, block = 64": (lambda: _train(1_024, 64), 1.5 * 1_024),
    "joint 2x256, two training steps, n = 2,048, block = 32": (lambda: _train(2_048, 32), 2.5 * 1_024),
    "joint 2x256, every read-out of 8,192 held-out pairs, all n²": (lambda: _held_out(networks.JointCritic(), 8_192), 1_024),
    "separable, SMILE of 65,536 pairs, all n², block = 64": (lambda: _smile(65_536, 64), 1_024),
    "separable, every read-out of 65,536 held-out pairs, all n²": (
        lambda: _held_out(networks.SeparableCritic(), 65_536),
        1_024,
    ),
}


def measure_memory(name: str) -> dict[str, Any]:
    """Seconds, compiling included, and the largest resident memory of a process that does one of `MEMORY`."""
    found: dict[str, Any] = json.loads(
        machine.in_a_process("-m", "benchmarks.throughput.processes", name, JAX_NUM_CPU_DEVICES="1")
    )
    return found


def measure_here(name: str) -> dict[str, float]:
    """The same in this process: what `measure_memory` starts."""
    before, start = machine.peak_memory(), time.perf_counter()
    MEMORY[name][0]()
    return {"seconds": round(time.perf_counter() - start, 2), "before": before, "peak": machine.peak_memory()}


# What a user waits for before the first number, each part timed in one process; and what importing costs in one of its own.
STARTUP = """
import json, os, time
marks = {"interpreter": time.time() - float(os.environ["STARTED"])}
last = time.perf_counter()
def mark(name):
    global last
    marks[name], last = time.perf_counter() - last, time.perf_counter()
import jax
mark("jax")
import flax.linen, optax
mark("flax.linen, optax")
import mi_jax
mark("mi_jax")
scores = jax.numpy.eye(64)
scores.block_until_ready()
mark("the first array")
mi_jax.smile(scores).block_until_ready()
mark("smile(scores), compiling")
mi_jax.smile(scores).block_until_ready()
mark("smile(scores) again")
print(json.dumps(marks))
"""
IMPORTS = ("import jax, flax.linen, optax", "import mi_jax")


def measure_startup(rounds: int) -> dict[str, Any]:
    """Seconds of each part of a start, and of the imports in turn, each in processes of their own."""

    def once(code: str) -> str:
        return machine.in_a_process("-c", code, STARTED=repr(time.time()))

    timed = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    parts, imports = [], []
    for _ in range(rounds):
        imports.append({code: float(once(timed.format(code))) for code in IMPORTS})
        parts.append(json.loads(once(STARTUP)))
    return {"parts": parts, "imports": imports}


def measure_cache(rounds: int, num_rows: int = 2_000) -> dict[str, Any]:
    """Seconds of `mi-jax estimate` on the same file: with no cache, and with one that the run before it has filled."""
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder) / "data.npz", Path(folder) / "cache"
        x, y = tasks.gaussian(5, 1.0).sample(jax.random.key(0), num_rows)
        np.savez(data, x=x, y=y)

        def once(*options: str) -> dict[str, float]:
            start = time.perf_counter()
            found = json.loads(machine.in_a_process("-m", "mi_jax", "estimate", str(data), "--json", *options))
            return {"all": time.perf_counter() - start, "compile": found["seconds"]["compile"], "mi": found["mi"]}

        kept = ("--compilation-cache", str(cache))
        once(*kept)
        found = [{"without": once("--no-compilation-cache"), "with": once(*kept)} for _ in range(rounds)]
        size = sum(path.stat().st_size for path in cache.iterdir())
    return {"num_rows": num_rows, "runs": found, "bytes": size}


MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "memory": measure_memory,
    "cache": measure_cache,
    "startup": measure_startup,
}


@dataclass(frozen=True)
class Part:
    """One such measurement: its kind, a key of `MEASURES`; and for memory the name in `MEMORY`, else the rounds."""

    kind: str
    about: str | int

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.kind}, {self.about}{' rounds' if self.kind != 'memory' else ''}"

    def config(self) -> dict[str, Any]:
        """What decides its figures, besides the machine."""
        return {self.kind: self.about}

    def measure(self) -> Row:
        """The row."""
        results = MEASURES[self.kind](self.about)
        seconds = {"all": results.pop("seconds")} if "seconds" in results else {}
        return Row("throughput", self.config(), machine.environment(), 0, seconds, results)


def parts(rounds: int, memory: bool) -> list[Part]:
    """What is measured; memory and the compilation cache, which take minutes, if asked to."""
    costly = [*(Part("memory", name) for name in MEMORY), Part("cache", rounds)]
    return [*(costly if memory else []), Part("startup", rounds)]


if __name__ == "__main__":
    print(json.dumps(measure_here(sys.argv[1])))
