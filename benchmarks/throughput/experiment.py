"""The cells of the throughput benchmark, and how each is timed.

After each chunk of our steps the same process times the product (4096, 256) x (256, 256) alone, and a plain version of the
training: concatenated rows, a Python loop over a jitted step, one seed after the other. So every figure is a ratio within
one run. Measurements that need a process of their own are in `processes`.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array

from benchmarks.lib import machine, rows, runner
from benchmarks.lib import training as lib_training
from benchmarks.lib.rows import Row
from benchmarks.throughput import page, processes, steps
from mi_jax import estimators, models, networks, tasks, training
from mi_jax.training import layout, runs

DIM, MI, WIDTH, EMBED = processes.DIM, processes.MI, 256, 32
IMAGE = (28, 28, 1)
NS, SEEDS, DEVICES = (16, 64, 256, 1_024), (1, 2, 4, 8, 16, 64), ("one", "all")
CHUNK_SECONDS = 0.5
# To predict what a cell will take: a guess at the share of the peak that a step reaches, and what compiling takes.
EFFICIENCY, COMPILE_SECONDS = 0.6, 4.0

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
    """A critic of `OURS`, trained as SMILE is on batches of n, with so many seeds at once on one device or on all."""

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

    def trainer(self, critics: Mapping[str, Callable[[], nn.Module]] = OURS) -> training.Trainer:
        """How a seed is trained."""
        return training.trainer(models.discriminative(critics[self.critic](), estimators.smile()), self.sample)

    def products(self) -> float:
        """Operations of the matrix products that a seed's step cannot do without.

        For a joint critic these are the products between hidden layers on n² rows: forward, and backward to the weights and
        to the inputs. For a separable critic they are those of all layers, without the inputs of the first. For the image
        critic they are those of the n² stacks.
        """
        pairs = self.n**2
        if self.critic == "separable 2x256":
            later = 2 * self.n * 2 * (WIDTH * WIDTH + WIDTH * EMBED) + 2 * pairs * EMBED
            return 2.0 * 2 * self.n * 2 * DIM * WIDTH + 3.0 * later
        if self.critic == "image":
            (first, second), (dense,) = networks.conv.PAPER_CHANNELS, networks.conv.PAPER_DENSE
            # Seven outputs have 35 taps along a side, and 32 of them lie on the image.
            return 3.0 * 2 * pairs * second * (32**2 * first + 49 * dense)
        hidden = 2 if self.critic == "joint 2x256" else 3
        return 3.0 * (hidden - 1) * 2 * pairs * WIDTH**2


class Clock:
    """Is called between chunks: notes what our chunk took, then times the plain steps and the peak in their turn."""

    def __init__(self, peak: Callable[[], float], plain: Callable[[], float]):
        self.peak, self.plain = peak, plain
        self.ours: list[float] = []
        self.peaks: list[float] = []
        self.plains: list[float] = []
        self.left: float | None = None

    def __call__(self, report: training.Report) -> None:
        del report
        if self.left is not None:  # the first chunk holds the start as well
            self.ours.append(time.perf_counter() - self.left)
            self.plains.append(self.plain())
        self.peaks.append(self.peak())
        self.left = time.perf_counter()


@functools.cache
def plain_steps(critic: str, n: int, budget: float) -> Callable[[], float]:
    """Returns a function that measures the seconds of a step of the plain version, over some steps within the budget."""
    trainer = Cell(critic, n, 1, "one").trainer(PLAIN)
    state = jax.jit(trainer.init)(jax.random.key(0))
    step = jax.jit(trainer.step)

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


@functools.cache
def _peak_once(devices: Sequence[jax.Device]) -> float:
    """The peak, measured once, for predictions."""
    return peak_of(devices)()


class Plan(NamedTuple):
    """How a cell is timed: steps a chunk, and the seconds that all of it should take."""

    length: int
    seconds: float


def plan_of(cell: Cell, rounds: int, length: int | None = None) -> Plan:
    """How to time a cell; by default a chunk has the steps that at most four seeds make in `CHUNK_SECONDS`."""
    peak = _peak_once(layout.layout(cell.seeds, cell.local_devices()).devices)
    seconds = cell.products() / (EFFICIENCY * peak)
    length = length or max(2, min(500, int(CHUNK_SECONDS / (min(cell.seeds, 4) * seconds))))
    plain = max(CHUNK_SECONDS / 2, cell.products() * len(cell.local_devices()) / (EFFICIENCY * peak))
    return Plan(length, COMPILE_SECONDS + (rounds + 1) * (length * cell.seeds * seconds + plain))


def measure(cell: Cell, rounds: int, length: int) -> Row:
    """The row of a cell, timed over some chunks of so many steps."""
    trainer, plan = cell.trainer(), layout.layout(cell.seeds, cell.local_devices())
    program = runs.compile_training(trainer, plan, steps=length * (rounds + 1), chunk=length)
    clock = Clock(peak_of(plan.devices), plain_steps(cell.critic, cell.n, CHUNK_SECONDS / 2))
    fit = runs.run(program, jax.random.split(jax.random.key(0), cell.seeds), clock)
    memory: Any = program.chunks[0].wait().memory_analysis()
    results = {
        "steps": program.lengths[0],
        "step_seconds": rows.rounded([seconds / program.lengths[0] for seconds in clock.ours]),
        "plain_step_seconds": rows.rounded(clock.plains),
        # A chunk's peak is the mean of those before and after it.
        "peaks": rows.rounded([(one + two) / 2 for one, two in zip(clock.peaks, clock.peaks[1:], strict=False)]),
        "peak_devices": len(plan.devices),
        "products": cell.products(),
        "operations": lib_training.operations(lambda _: trainer, {}),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }
    seconds = {"compile": round(program.compile_seconds, 3)}
    return Row("throughput", cell.config(), machine.environment(), int(fit.diverged.sum()), seconds, results)


def experiment(cells: Sequence[Cell | processes.Part], rounds: int, length: int | None = None) -> runner.Experiment:
    """The cells, for the runner; `length` is the steps of a chunk, by default as `plan_of` has it."""

    def predict(on_disk: Sequence[Row]) -> Callable[[Any], float]:
        del on_disk  # the speed of products now is nearer to a cell's cost than rows of another day
        return lambda cell: plan_of(cell, rounds, length).seconds if isinstance(cell, Cell) else math.nan

    def row(cell: Any) -> Row:
        return measure(cell, rounds, plan_of(cell, rounds, length).length) if isinstance(cell, Cell) else cell.measure()

    return runner.Experiment(
        name="throughput",
        wanted=dict.fromkeys(cells, 1),
        covers=_covers,
        predict=predict,
        run=runner.measuring(row),
        unit="",
        describe=lambda made: "; ".join(map(page.describe, made)),
    )


def grid(
    critics: Sequence[str] = tuple(OURS),
    ns: Sequence[int] = NS,
    seeds: Sequence[int] = SEEDS,
    devices: Sequence[str] = DEVICES,
) -> list[Cell]:
    """The cells of these critics, batch sizes, numbers of seeds and devices; one seed can only be on one device."""
    several = devices if jax.local_device_count() > 1 else ["all"]
    return [
        Cell(critic, n, number, where)
        for critic in critics
        for n in ns
        for number in seeds
        for where in several
        if number > 1 or where == several[0]
    ]


def _covers(config: Mapping[str, Any]) -> tuple[Any, Sequence[int]]:
    """The cell of a row. A row of another number or kind of devices does not count for this machine."""
    if "critic" not in config:
        ((kind, about),) = config.items()
        return processes.Part(kind, about), [0]
    cell = Cell(config["critic"], config["n"], config["seeds"], config["devices"])
    return cell, [0] if config == cell.config() else []
