"""Training steps side by side, in one process: what the joint critic's first layer saves, and what generative models cost.

    python -m benchmarks.throughput.steps --out DIR

prints and writes step times as ratios (the two take turns, so that a noisy machine is noisy for both), and the temporary
memory that the compiler plans for each.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.gaussian.experiment import GENERATIVE
from benchmarks.lib import cli, machine, page
from benchmarks.lib import training as lib_training
from benchmarks.lib.training import Step
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


class StackedConvCritic(nn.Module):
    """The joint critic of images the plain way: the encoder on all n² stacks of channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w cx"], y: Float[Array, "m h w cy"]) -> Float[Array, "n m"]:
        n, m = x.shape[0], y.shape[0]
        pairs = jnp.concatenate([jnp.repeat(x, m, axis=0), jnp.tile(y, (n, 1, 1, 1))], axis=-1)
        return networks.ConvEncoder(1)(pairs).reshape(n, m)


def smile(critic: nn.Module) -> models.Model:
    """SMILE with this critic."""
    return models.discriminative(critic, estimators.smile())


def compiled_step(model: models.Model, sample: Callable[[Array], tuple[Array, Array]]) -> Step:
    """One training step of a model."""
    return lib_training.compile_step(training.trainer(model, lambda key, _: sample(key)))


def take_turns(one: Step, other: Step, rounds: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds a step of each, (rounds,), measured alternately."""
    times = []
    for _ in range(rounds):
        for step in (one, other):
            start = time.perf_counter()
            step.call(steps)
            times.append((time.perf_counter() - start) / steps * 1e3)
    return np.array(times[::2]), np.array(times[1::2])


class Comparison(NamedTuple):
    """Two models whose training steps are timed against each other.

    Attributes:
      inputs: what they are trained on, for people.
      sample: key -> a batch of it.
      ours, other: their names, and the models.
      slow: a turn makes this many times fewer steps.
    """

    inputs: str
    sample: Callable[[Array], tuple[Array, Array]]
    ours: tuple[str, models.Model]
    other: tuple[str, models.Model]
    slow: int = 1


def on_gaussian(dim: int, ours: tuple[str, models.Model], other: tuple[str, models.Model]) -> Comparison:
    """Two models on the Gaussian task."""
    task = tasks.gaussian(dim, 2.0)
    return Comparison(f"{dim} + {dim}, n = {BATCH}", lambda key: task.sample(key, BATCH), ours, other)


def on_images(ours: tuple[str, models.Model], other: tuple[str, models.Model], n: int = 32) -> Comparison:
    """Two models on random images of MNIST's size."""

    def sample(key: Array) -> tuple[Array, Array]:
        x, y = jax.random.uniform(key, (2, n, 28, 28, 1))
        return x, y

    return Comparison(f"28 x 28 + 28 x 28, n = {n}", sample, ours, other, slow=10)


def line(comparison: Comparison, rounds: int, steps: int) -> list[str]:
    """The table's line for a comparison."""
    (our_name, our_model), (other_name, other_model) = comparison.ours, comparison.other
    one, other = (compiled_step(model, comparison.sample) for model in (our_model, other_model))
    for step in (one, other):
        step.call(1)
    ours, theirs = take_turns(one, other, rounds, max(1, steps // comparison.slow))
    ratios = theirs / ours
    return [
        comparison.inputs,
        f"{our_name} / {other_name}",
        f"{np.median(ours):.2f} / {np.median(theirs):.2f}",
        f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
        f"{one.temporary_bytes / 2**20:.1f} / {other.temporary_bytes / 2**20:.1f}",
        f"{one.compile_seconds:.1f} / {other.compile_seconds:.1f}",
    ]


HEADER = ["x + y", "one / other", "a step, ms", "other / one", "temporary MiB", "compile, s"]


def comparisons() -> dict[str, list[Comparison]]:
    """Heading -> its comparisons."""
    joint, concatenated = smile(networks.JointCritic()), smile(ConcatenatedCritic((256, 256)))
    first_layer = [on_gaussian(dim, ("ours", joint), ("concatenated", concatenated)) for dim in (20, 512)]
    convolved, stacked = smile(networks.JointConvCritic()), smile(StackedConvCritic())
    critics = {f"joint {n}x256": smile(networks.JointCritic((256,) * n)) for n in (2, 3)}
    critics["separable 2x256"] = smile(networks.SeparableCritic())
    generative = {name: build((100, 100)) for name, build in GENERATIVE.items()}
    against = [("gm", critic) for critic in critics] + [(name, "joint 2x256") for name in ("ba", "doe")]
    return {
        "The joint critic's first layer: ours, and the same critic on concatenated rows": first_layer,
        "The joint critic of images: ours, and the same critic on stacked channels": [
            on_images(("ours", convolved), ("stacked", stacked))
        ],
        "Generative models, with the paper's flows, and critics": [
            on_gaussian(tasks.PAPER_DIM, (name, generative[name]), (critic, critics[critic])) for name, critic in against
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = cli.parser("throughput.steps", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table")
    parser.add_argument("--rounds", type=cli.positive_int, default=9, help="turns that each critic takes")
    parser.add_argument("--steps", type=cli.positive_int, default=10, help="training steps a turn")
    options = parser.parse_args(arguments)
    parts = [
        "# Training steps, side by side",
        "A training step of n pairs, sampling, optimiser and read-outs included, on one device. Times are medians of\n"
        f"{options.rounds} turns of {options.steps} steps (a tenth of them for images); the ratio is their median and\n"
        f"range; memory is the compiler's temporary memory. On {machine.description()}.\n"
        "Written by `python -m benchmarks.throughput.steps`.",
    ]
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
        for heading, compared in comparisons().items():
            lines = [line(comparison, options.rounds, options.steps) for comparison in compared]
            parts += [f"## {heading}", page.table(lines, HEADER)]
        path = page.write(options.out / "steps.md", parts)
    print(path.read_text())


if __name__ == "__main__":
    main()
