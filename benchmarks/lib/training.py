"""How benchmarks train the seeds of a cell as one compiled program: the only file that knows how trainers take inputs."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.lib.runner import Progress
from mi_jax import training
from mi_jax.training import Fit, Inputs, Report, Settings, Trainer, layout, runs

ROOT_KEY = 0


def key_text(seed: int) -> str:
    """The key of a seed, as a row's configuration has it."""
    return f"fold_in(key({ROOT_KEY}), {seed})"


def together(wanted: int) -> int:
    """How many seeds are run together: on CPUs one a device, so that rows come early; accelerators take all in one batch."""
    return jax.local_device_count() if jax.devices()[0].platform == "cpu" else max(1, wanted)


def compile_seeds(
    make_trainer: Callable[[Settings], Trainer], settings: Settings, number: int, *, steps: int, chunk: int = 500
) -> runs.Program:
    """Compile the training of so many seeds.

    Args:
      make_trainer: settings -> trainer; the settings are traced, so that cells which differ in them share the program.
      settings: those of one run, or others of the same shapes.
      number: how many seeds are trained at once.
      steps: training steps.
      chunk: about how many steps there are between two reports of progress.
    """
    trainer, plan = take_settings(make_trainer), layout.layout(number)
    return runs.compile_training(trainer, plan, steps=steps, chunk=chunk, inputs=share(settings))


def take_settings(make_trainer: Callable[[Settings], Trainer]) -> Trainer:
    """The trainer that takes the settings of a cell as inputs, which all its seeds share."""
    return training.from_inputs(lambda inputs: make_trainer(dict(inputs.shared)))


def share(settings: Settings) -> Inputs:
    """Settings as inputs that all seeds share."""
    return Inputs(shared=jax.tree.map(np.asarray, dict(settings)))


def train(program: runs.Program, numbers: Sequence[int], settings: Settings, progress: Progress) -> Fit:
    """Train these seeds under the same settings."""
    keys = jnp.stack([jax.random.fold_in(jax.random.key(ROOT_KEY), seed) for seed in numbers])
    return runs.run(program, keys, functools.partial(_report, progress), inputs=share(settings))


def _report(progress: Progress, report: Report) -> None:
    progress(report.done, report.steps)


class Step(NamedTuple):
    """A compiled training step, sampling and optimiser included.

    Attributes:
      call: runs a number of steps, and waits for them.
      compile_seconds: what compiling took.
      temporary_bytes: by the compiler's own memory analysis.
    """

    call: Callable[[int], None]
    compile_seconds: float
    temporary_bytes: int


def compile_step(trainer: Trainer) -> Step:
    """One seed's training step, compiled alone."""
    state: Any = jax.jit(trainer.init)(jax.random.key(0))
    start = time.perf_counter()
    step = jax.jit(trainer.step, donate_argnums=0).lower(state).compile()
    seconds = time.perf_counter() - start

    def call(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state)
        jax.block_until_ready(state)

    memory: Any = step.memory_analysis()
    return Step(call, seconds, memory.temp_size_in_bytes)


def operations(make_trainer: Callable[[Settings], Trainer], settings: Settings) -> float | None:
    """Floating-point operations of one seed's training step, as XLA counts them; None where it does not."""
    trainer, inputs = take_settings(make_trainer), share(settings)
    state = jax.eval_shape(trainer.init, jax.random.key(0), inputs)
    analysis: Any = jax.jit(trainer.step).lower(state, inputs).cost_analysis()
    return (analysis or {}).get("flops")
