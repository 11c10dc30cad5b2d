"""How fast seeds train: the share of the machine's own matrix products, seeds and devices, compile time and memory.

    python -m benchmarks.throughput --out DIR

times training steps (sampling, optimiser and read-outs included) of critics, batch sizes, numbers of seeds and devices; a
row a cell, and a page and a figure from the rows. After each chunk of our steps the same process times the product
(4096, 256) x (256, 256) alone, and a plain version of the training (concatenated rows, a Python loop over a jitted step, one
seed after the other), so that every figure is a ratio in one run. The memory of large batches is measured in processes of
their own.
Cells predicted to take too long are listed, not run; cells whose row is on disk are not run again.
"""

import argparse
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array

from benchmarks import processes, rows, steps, throughput_figures
from benchmarks.lib import cli, machine
from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import seeds

DIM, MI, WIDTH, EMBED = processes.DIM, processes.MI, 256, 32
IMAGE = (28, 28, 1)
NS, SEEDS, DEVICES = (16, 64, 256, 1_024), (1, 2, 4, 8, 16, 64), ("one", "all")
CHUNK_SECONDS = 0.5
# At a guess, for cells whose like was not run yet: the share of the peak that a step reaches.
EFFICIENCY = 0.6

OURS: dict[str, Callable[[], nn.Module]] = {
    "joint 2x256": networks.JointCritic,
    "joint 3x256": lambda: networks.JointCritic((WIDTH,) * 3),
    "separable 2x256": networks.SeparableCritic,
    "image": networks.JointConvCritic,
}
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "joint 2x256": lambda: steps.ConcatenatedCritic((WIDTH,) * 2),
    "joint 3x256": lambda: steps.ConcatenatedCritic((WIDTH,) * 3),
    "separable 2x256": networks.SeparableCritic,
    "image": steps.StackedConvCritic,
}


@dataclass(frozen=True)
class Cell:
    """What is timed: a critic of `OURS`, trained as SMILE is on batches of n, so many seeds at once on one device or all."""

    critic: str
    n: int
    seeds: int
    devices: str

    @property
    def label(self) -> str:
        """Its name for people."""
        number = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
        return f"{self.critic}, n = {self.n}, {number}, {self.devices} device{'s' * (self.devices == 'all')}"

    def config(self) -> dict[str, Any]:
        """What decides its figures, besides the machine."""
        return {**asdict(self), "device_count": len(self.local_devices()), "platform": jax.devices()[0].platform}

    def local_devices(self) -> list[jax.Device]:
        """Where it runs."""
        return jax.local_devices() if self.devices == "all" else jax.local_devices()[:1]

    def sample(self, key: Array, step: Any = None) -> tuple[Array, Array]:
        """A batch: of the Gaussian task, or of random images."""
        del step
        if self.critic == "image":
            x, y = jax.random.uniform(key, (2, self.n, *IMAGE))
            return x, y
        return tasks.gaussian(DIM, MI).sample(key, self.n)

    def recipe(self, critics: Mapping[str, Callable[[], nn.Module]] = OURS) -> training.Trainer:
        """How a seed is trained."""
        return training.trainer(models.discriminative(critics[self.critic](), estimators.smile()), self.sample)

    def products(self) -> float:
        """Operations of the matrix products that a seed's step cannot do without.

        Of a joint critic those of the n² rows between hidden layers, forward, of weights and of inputs; of a separable one
        those of all layers, but for the inputs of the first; of the image critic those of the n² stacks.
        """
        pairs = self.n**2
        if self.critic == "separable 2x256":
            later = 2 * self.n * 2 * (WIDTH * WIDTH + WIDTH * EMBED) + 2 * pairs * EMBED
            return 2.0 * 2 * self.n * 2 * DIM * WIDTH + 3.0 * later
        if self.critic == "image":
            (first, second), (dense,) = networks.conv.PAPER_CHANNELS, networks.conv.PAPER_DENSE
            # Of the 35 taps that seven outputs have along a side, 32 lie on the image.
            return 3.0 * 2 * pairs * second * (32**2 * first + 49 * dense)
        hidden = 2 if self.critic == "joint 2x256" else 3
        return 3.0 * (hidden - 1) * 2 * pairs * WIDTH**2


class Clock:
    """Called between chunks: what our chunk took, and then the peak and the plain steps in their turn."""

    def __init__(self, peak: Callable[[], float], plain: Callable[[], float]):
        self.peak, self.plain = peak, plain
        self.ours: list[float] = []
        self.peaks: list[float] = []
        self.plains: list[float] = []
        self.left: float | None = None

    def __call__(self, report: seeds.Report) -> None:
        del report
        if self.left is not None:  # the first chunk holds the start as well
            self.ours.append(time.perf_counter() - self.left)
            self.plains.append(self.plain())
        self.peaks.append(self.peak())
        self.left = time.perf_counter()


@functools.cache
def plain_steps(critic: str, n: int, budget: float) -> Callable[[], float]:
    """Seconds a step of the plain version, measured anew at each call, over some steps within the budget."""
    recipe = Cell(critic, n, 1, "one").recipe(PLAIN)
    state = jax.jit(recipe.init)(jax.random.key(0))
    step = jax.jit(recipe.step)

    def run(number: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(number):
            state, _ = step(state)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / number

    run(1)
    number = max(1, int(budget / run(1)))
    return lambda: run(number)


peak_of = functools.cache(machine.product_speed)


class Plan(NamedTuple):
    """How a cell is timed: steps a chunk, and the seconds that all of it should take."""

    length: int
    seconds: float


def plan_of(cell: Cell, rounds: int, length: int | None = None) -> Plan:
    """By default the steps that four seeds make in `CHUNK_SECONDS`, of more seeds as many: they share a start of a chunk."""
    peak = peak_of(seeds.layout(cell.seeds, cell.local_devices()).devices)()
    seconds = cell.products() / (EFFICIENCY * peak)
    length = length or max(2, min(500, int(CHUNK_SECONDS / (min(cell.seeds, 4) * seconds))))
    plain = max(CHUNK_SECONDS / 2, cell.products() * len(cell.local_devices()) / (EFFICIENCY * peak))
    return Plan(length, (rounds + 1) * (length * cell.seeds * seconds + plain))


def measure(cell: Cell, rounds: int, length: int) -> dict[str, Any]:
    """The row of a cell, timed over some chunks of so many steps."""
    recipe, plan = cell.recipe(), seeds.layout(cell.seeds, cell.local_devices())
    program = seeds.compile_training(recipe, plan, steps=length * (rounds + 1), chunk=length)
    clock = Clock(peak_of(plan.devices), plain_steps(cell.critic, cell.n, CHUNK_SECONDS / 2))
    fit = seeds.run(program, jax.random.split(jax.random.key(0), cell.seeds), clock)
    state = jax.eval_shape(recipe.init, jax.random.key(0))
    analysis: Any = jax.jit(recipe.step).lower(state).cost_analysis()
    memory: Any = program.chunks[0].memory_analysis()
    return {
        "config": cell.config(),
        "environment": machine.environment(),
        "diverged": int(fit.diverged.sum()),
        "compile_seconds": round(program.compile_seconds, 3),
        "steps": program.lengths[0],
        "step_seconds": [rows.number(seconds / program.lengths[0]) for seconds in clock.ours],
        "plain_step_seconds": [rows.number(seconds) for seconds in clock.plains],
        # Before and after each chunk: the mean of both.
        "peaks": [rows.number((before + after) / 2) for before, after in zip(clock.peaks, clock.peaks[1:], strict=False)],
        "peak_devices": len(plan.devices),
        "products": cell.products(),
        "operations": (analysis or {}).get("flops"),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }


def row_path(folder: Path, config: Mapping[str, Any]) -> Path:
    """Where a row is kept."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    if "critic" in config:
        name = f"{config['critic']}-n{config['n']}-{config['seeds']}-{config['devices']}"
    else:
        ((kind, found),) = config.items()
        name = found if kind == "memory" else kind
    plain = "".join(letter if letter.isalnum() else "-" for letter in name.split(",")[0])
    return folder / "rows" / f"{plain}-{digest}.json"


def run_missing(cells: Sequence[Cell], folder: Path, rounds: int, limit: float, chunk: int | None = None) -> None:
    """Time the cells whose rows are not in the folder; those predicted to take more than `limit` seconds are listed."""
    skipped: dict[str, list[tuple[int, float]]] = {}
    for cell in cells:
        path = row_path(folder, cell.config())
        if path.exists():
            continue
        plan = plan_of(cell, rounds, chunk)
        if plan.seconds > limit:
            print(f"skipped, over the limit: {cell.label} (predicted {machine.duration(plan.seconds)})")
            skipped.setdefault(f"{cell.critic}, n = {cell.n:,}", []).append((cell.seeds, plan.seconds))
            continue
        row = measure(cell, rounds, plan.length)
        rows.store(path, row)
        print(throughput_figures.told(row), flush=True)
    lines = []
    for name, left in skipped.items():
        numbers = ", ".join(str(number) for number in sorted({number for number, _ in left}))
        shortest = machine.duration(min(seconds for _, seconds in left))
        lines.append(f"{name}: {numbers} seeds (from {shortest})\n")
    (folder / "skipped.txt").write_text("".join(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then write the page and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for rows, the page and the figure")
    parser.add_argument("--rounds", type=cli.positive_int, default=5, help="chunks timed in each cell")
    parser.add_argument("--steps", type=cli.positive_int, help="steps of a chunk; by default as many as take half a second")
    parser.add_argument(
        "--limit", type=cli.positive_float, default=60.0, help="skip, and list, cells predicted over so many seconds"
    )
    parser.add_argument("--critics", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--n", nargs="+", type=cli.positive_int, default=list(NS), help="batch sizes")
    parser.add_argument("--seeds", nargs="+", type=cli.positive_int, default=list(SEEDS), help="seeds at once")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out memory and compilation cache, minutes on 2 cores"
    )
    options = parser.parse_args(arguments)
    if options.out is None:
        parser.error("the following arguments are required: --out")
    machine.use_all_cores()
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True, exist_ok=True)
        several = options.devices if jax.local_device_count() > 1 else ["all"]
        grid = [
            Cell(critic, n, number, devices)
            for critic in options.critics
            for n in options.n
            for number in options.seeds
            for devices in several
            if number > 1 or devices == several[0]  # one seed has one device
        ]
        run_missing(grid, options.out, options.rounds, options.limit, options.steps)
        for config, measured in processes.parts(options.rounds, memory=not options.no_memory):
            path = row_path(options.out, config)
            if not path.exists():
                print("; ".join(f"{name}: {value}" for name, value in config.items()), flush=True)
                rows.store(path, {"config": config, "environment": machine.environment(), **measured()})
        limits = {name: limit for name, (_, limit) in processes.MEMORY.items()}
        for path in throughput_figures.draw(options.out, limits):
            print(path)


if __name__ == "__main__":
    main()
