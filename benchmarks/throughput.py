"""What the joint critic's first layer saves: a training step against the same critic on concatenated rows, in one process.

    python -m benchmarks.throughput --out DIR

prints and writes step times as ratios (the two take turns, so that a noisy machine is noisy for both), and the temporary
memory that the compiler plans for each.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tabulate import tabulate

from benchmarks import cli, machine
from mi_jax import estimators, models, networks, tasks, training

BATCH = 64


class ConcatenatedCritic(nn.Module):
    """The joint critic the plain way: an MLP on all n² concatenated pairs."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "n dx"], y: Float[Array, "m dy"]) -> Float[Array, "n m"]:
        n, m = x.shape[0], y.shape[0]
        pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1))], axis=1)
        return networks.MLP(self.hidden, 1)(pairs).reshape(n, m)


class Step(NamedTuple):
    """A compiled training step.

    Attributes:
      call: runs a number of steps, and waits for them.
      compile_seconds: what compiling took.
      temporary_bytes: by the compiler's own memory analysis.
    """

    call: Callable[[int], None]
    compile_seconds: float
    temporary_bytes: int


def compiled_step(critic: nn.Module, dim: int) -> Step:
    """One training step of SMILE at batch 64, sampling and optimiser included."""
    model = models.discriminative(critic, estimators.smile())
    task = tasks.gaussian(dim, 2.0)
    recipe = training.trainer(model, lambda key, _: task.sample(key, BATCH))
    state: Any = jax.jit(recipe.init)(jax.random.key(0))
    start = time.perf_counter()
    step = jax.jit(recipe.step).lower(state).compile()
    seconds = time.perf_counter() - start

    def call(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state)
        jax.block_until_ready(state)

    memory: Any = step.memory_analysis()
    return Step(call, seconds, memory.temp_size_in_bytes)


def take_turns(one: Step, other: Step, rounds: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds a step of each, (rounds,), measured alternately."""
    times = []
    for _ in range(rounds):
        for step in (one, other):
            start = time.perf_counter()
            step.call(steps)
            times.append((time.perf_counter() - start) / steps * 1e3)
    return np.array(times[::2]), np.array(times[1::2])


def line(dim: int, hidden: tuple[int, ...], rounds: int, steps: int) -> list[str]:
    """The table's line for inputs of `dim` + `dim` dimensions."""
    split, plain = compiled_step(networks.JointCritic(hidden), dim), compiled_step(ConcatenatedCritic(hidden), dim)
    for step in (split, plain):
        step.call(2)
    ours, theirs = take_turns(split, plain, rounds, steps)
    ratios = theirs / ours
    return [
        f"{dim} + {dim}",
        f"{len(hidden)}x{hidden[0]}",
        f"{np.median(ours):.1f}",
        f"{np.median(theirs):.1f}",
        f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
        f"{split.temporary_bytes / 2**20:.1f}",
        f"{plain.temporary_bytes / 2**20:.1f}",
        f"{split.compile_seconds:.1f} / {plain.compile_seconds:.1f}",
    ]


HEADER = ["d", "hidden", "ours, ms", "concatenated, ms", "ratio", "ours, MiB", "concatenated, MiB", "compile, s"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the table")
    parser.add_argument("--rounds", type=cli.positive_int, default=9, help="turns that each critic takes")
    parser.add_argument("--steps", type=cli.positive_int, default=10, help="training steps a turn")
    options = parser.parse_args(arguments)
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
    lines = [line(dim, (256, 256), options.rounds, options.steps) for dim in (20, 512)]
    text = (
        "# The joint critic's first layer\n\n"
        f"A training step at n = {BATCH}: ours, and the same critic on concatenated rows.\n"
        f"Times are medians of {options.rounds} turns of {options.steps} steps, the ratio is their median (and range);\n"
        f"memory is the compiler's temporary memory. On {machine.description()}.\n"
        "Written by `python -m benchmarks.throughput`.\n\n"
        + tabulate(lines, HEADER, tablefmt="github", disable_numparse=True)
        + "\n"
    )
    print(text)
    (options.out / "joint_critic.md").write_text(text)


if __name__ == "__main__":
    main()
