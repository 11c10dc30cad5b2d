"""The law of variance (Theorem 2, Corollary 1; Theorems 3 and 4) measured, at the exact log ratio: nothing is trained.

    python -m benchmarks.variance --preset quick --out DIR

draws many replicates of each estimate on the Gaussian task, with n *independent* pairs from Q as the theorems have it, and
with the n(n - 1) off-diagonal pairs of one batch, as everyone uses it; writes the moments of fixed chunks of replicates; and
draws them beside the printed bounds and the exact laws. What is on disk is not drawn again: more replicates are added to it.

With independent pairs log r* is drawn through its sufficient statistics: under Q it is I + ½ (a U - b V), and under P
I + ½ rho (U - V), with U and V chi-squares of d degrees of freedom, which do not depend on the MI and so serve all of them.
"""

import argparse
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import moments, rows, variance_figures
from benchmarks.lib import cli, machine
from benchmarks.moments import Moments
from mi_jax import bounds, projections, tasks, theory
from mi_jax.training import seeds

SCHEMA = 1
ROOT_KEY = 0
MIS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
TAUS = (1.0, 5.0, 10.0)
# Pairs of a chunk: a few seconds, and few enough chunks that their moments stay small on disk.
_CHUNK_PAIRS: dict[theory.Pairs, int] = {"independent": 2**24, "off_diagonal": 2**26}
_PART = 64  # chunks of a file at most: what is held in memory, and lost by a kill

Logs = Mapping[str, Float[Array, " mis"]]


@dataclass(frozen=True)
class Cell:
    """Replicates of one design at one n, for all MIs."""

    pairs: theory.Pairs
    n: int
    dim: int = tasks.PAPER_DIM
    mis: tuple[float, ...] = MIS
    taus: tuple[float, ...] = TAUS

    @property
    def pairs_a_replicate(self) -> int:
        """How many pairs from Q a replicate looks at."""
        return self.n if self.pairs == "independent" else self.n * (self.n - 1)

    @property
    def chunk(self) -> int:
        """Replicates in a chunk, fixed: between 4 and 1,000, so that one never takes long."""
        return min(1_000, max(4, _CHUNK_PAIRS[self.pairs] // self.pairs_a_replicate))

    @property
    def label(self) -> str:
        """Its name for people, and for files."""
        return f"{self.pairs}-n{self.n}-d{self.dim}"

    def config(self) -> dict[str, Any]:
        """Everything that decides its numbers: chunk k is drawn with fold_in(fold_in(key, n), k)."""
        return {**asdict(self), "mis": list(self.mis), "taus": list(self.taus), "chunk": self.chunk, "key": ROOT_KEY}

    def replicate(self, key: PRNGKeyArray) -> Logs:
        """One replicate, for every MI: the mean of log r* over P, and the logs of its partitions."""
        return (_independent if self.pairs == "independent" else _off_diagonal)(self, key)

    def draw(self, key: PRNGKeyArray) -> Logs:
        """A chunk of replicates, each entry (chunk, mis)."""
        together = max(1, 2**16 // self.pairs_a_replicate)  # as many side by side as stay in the cache
        return jax.lax.map(self.replicate, jax.random.split(key, self.chunk), batch_size=min(together, self.chunk))


def _independent(cell: Cell, key: PRNGKeyArray) -> Logs:
    pair_key, joint_key = jax.random.split(key)
    u, v = _chi_square(pair_key, (2, cell.n), cell.dim)
    # The sum over n joint pairs of a chi-square is one of n·d degrees of freedom.
    sums = 2.0 * jax.random.gamma(joint_key, 0.5 * cell.dim * cell.n, (2,))

    def at(mi: Float[Array, ""]) -> Logs:
        rho = tasks.mi_to_rho(mi, cell.dim)
        log_ratio = mi + 0.5 * (rho / (1.0 + rho) * u - rho / (1.0 - rho) * v)
        logs = {f"clipped_{tau:g}": _log_mean_exp(jnp.clip(log_ratio, -tau, tau)) for tau in cell.taus}
        return logs | {"joint": mi + 0.5 * rho * (sums[0] - sums[1]) / cell.n, "partition": _log_mean_exp(log_ratio)}

    return jax.lax.map(at, jnp.array(cell.mis))


def _off_diagonal(cell: Cell, key: PRNGKeyArray) -> Logs:
    x, noise = jax.random.normal(key, (2, cell.n, cell.dim))

    def at(mi: Float[Array, ""]) -> Logs:
        rho2 = -jnp.expm1(-2.0 * mi / cell.dim)
        rho, rest = jnp.sqrt(rho2), jnp.exp(-2.0 * mi / cell.dim)
        y = rho * x + jnp.sqrt(rest) * noise
        squares = 0.5 * rho2 * ((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :])
        scores = mi + (rho * x @ y.T - squares) / rest  # tasks.gaussian's log ratio, as one product
        logs = {f"clipped_{tau:g}": projections.log_partition(scores, tau) for tau in cell.taus}
        joint = jnp.diagonal(scores).mean()
        return logs | {"joint": joint, "partition": projections.log_partition(scores), "infonce": bounds.infonce(scores)}

    return jax.lax.map(at, jnp.array(cell.mis))


def _chi_square(key: PRNGKeyArray, shape: tuple[int, ...], dim: int) -> Array:
    """Chi-squares: twice a sum of exponentials, and the square of a normal if `dim` is odd."""
    even_key, odd_key = jax.random.split(key)
    total = 2.0 * jax.random.exponential(even_key, (*shape, dim // 2)).sum(axis=-1)
    return total + jax.random.normal(odd_key, shape) ** 2 if dim % 2 else total


def _log_mean_exp(values: Float[Array, " n"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(values) - math.log(values.shape[0])


def quantities(cell: Cell, logs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The estimates of each replicate from its logs, in float64: r* overflows float32."""
    logs = {name: np.asarray(values, np.float64) for name, values in logs.items()}
    joint, partition = logs["joint"], np.exp(logs["partition"])
    made = {"partition": partition, "log_partition": logs["partition"]}
    made |= {"dv": joint - logs["partition"], "nwj": 1.0 + joint - partition}
    for tau in cell.taus:
        log_clipped = logs[f"clipped_{tau:g}"]
        made |= {f"clipped_{tau:g}": np.exp(log_clipped), f"smile_{tau:g}": joint - log_clipped}
    return made | ({"infonce": logs["infonce"]} if "infonce" in logs else {})


class Part(NamedTuple):
    """Some chunks of a cell, as one file holds them.

    Attributes:
      cell: whose.
      start: the first chunk's number.
      chunks: for each chunk, quantity -> `Moments`, each of shape (mis,).
      environment: where they were drawn.
      compile_seconds: what compiling took, apart from
      run_seconds: drawing.
    """

    cell: Cell
    start: int
    chunks: Sequence[Mapping[str, Moments]]
    environment: Mapping[str, Any]
    compile_seconds: float
    run_seconds: float


def write(folder: Path, part: Part) -> Path:
    """Write a part, whole or not at all; a file that is there is left as it is."""
    stop = part.start + len(part.chunks)
    content = {
        "schema": SCHEMA,
        "config": part.cell.config(),
        "start": part.start,
        "chunks": [
            {name: [m.size, *(np.asarray(a).tolist() for a in m[1:])] for name, m in chunk.items()} for chunk in part.chunks
        ],
        "environment": part.environment,
        "compile_seconds": round(part.compile_seconds, 3),
        "run_seconds": round(part.run_seconds, 3),
    }
    return rows.store(folder / f"{part.cell.label}-{_digest(part.cell)}-chunks{part.start:05d}-{stop:05d}.json", content)


def _digest(cell: Cell) -> str:
    return hashlib.sha256(json.dumps(cell.config(), sort_keys=True).encode()).hexdigest()[:8]


def read(path: Path) -> Part:
    """Read a part that `write` wrote.

    Raises:
      ValueError: if the file is no such part.
    """
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError("another schema")
        config = content["config"]
        cell = Cell(config["pairs"], config["n"], config["dim"], tuple(config["mis"]), tuple(config["taus"]))
        if cell.config() != config or _digest(cell) not in path.name:
            raise ValueError("its name is not that of its configuration")
        chunks = [
            {name: Moments(m[0], *(np.array(a, np.float64) for a in m[1:])) for name, m in chunk.items()}
            for chunk in content["chunks"]
        ]
        own = content["environment"], content["compile_seconds"], content["run_seconds"]
        return Part(cell, content["start"], chunks, *own)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is not a part of this benchmark ({error}); move it away") from error


class Kept(NamedTuple):
    """A part that is on disk: all but its moments, which are read when they are merged, so that memory does not grow."""

    path: Path
    cell: Cell
    start: int
    chunks: int
    environment: Mapping[str, Any]
    run_seconds: float


def read_all(folder: Path) -> dict[Cell, list[Kept]]:
    """Cell -> its parts in the order of their chunks, of which none may be missing or twice there."""
    found: dict[Cell, list[Kept]] = {}
    for path in sorted(folder.glob("*.json")):
        part = read(path)
        kept = Kept(path, part.cell, part.start, len(part.chunks), part.environment, part.run_seconds)
        found.setdefault(part.cell, []).append(kept)
    for cell, parts in found.items():
        parts.sort(key=lambda part: part.start)
        stops = [0, *(part.start + part.chunks for part in parts)]
        if any(part.start != stop for part, stop in zip(parts, stops, strict=False)):
            raise ValueError(f"{folder} misses chunks of {cell.label}, or has some twice; move its parts away")
    return found


def merged(parts: Iterable[Part]) -> dict[str, Moments]:
    """Quantity -> the moments of all its replicates; the parts may come one by one."""
    chunks = (dict(chunk) for part in parts for chunk in part.chunks)
    return functools.reduce(lambda one, other: {name: moments.merge([one[name], other[name]]) for name in one}, chunks)


@functools.cache
def _program(cell: Cell, together: int) -> tuple[seeds.Layout, Any]:
    """The compiled drawing of so many chunks at once."""
    plan = seeds.layout(together, mapped="map")
    shape = jax.eval_shape(lambda: plan.split(jax.random.split(jax.random.key(ROOT_KEY), plan.num_seeds)))
    return plan, plan.compile(cell.draw, shape)


def draw_chunks(cell: Cell, start: int, stop: int, advance: Callable[[int], Any] = lambda _: None) -> Part:
    """Draw the chunks of these numbers, spread over all devices."""
    root = jax.random.fold_in(jax.random.key(ROOT_KEY), cell.n)
    began = time.perf_counter()
    plan, program = _program(cell, min(jax.local_device_count(), stop - start))
    compiled = time.perf_counter()
    chunks: list[Mapping[str, Moments]] = []
    for first in range(start, stop, plan.num_seeds):
        numbers = [min(number, stop - 1) for number in range(first, first + plan.num_seeds)]
        keys = jnp.stack([jax.random.fold_in(root, number) for number in numbers])
        logs = plan.join(program(plan.split(keys)))
        for place in range(min(plan.num_seeds, stop - first)):
            made = quantities(cell, {name: values[place] for name, values in logs.items()})
            chunks.append({name: moments.of(values) for name, values in made.items()})
        advance(min(plan.num_seeds, stop - first))
    ended = time.perf_counter()
    return Part(cell, start, chunks, machine.environment(), compiled - began, ended - compiled)


def coverage(cell: Cell, repeats: int) -> np.ndarray:
    """The share of repeats, a chunk each, whose 95 % interval of Var[E_{Q_n}[r*]] holds the exact law, for each MI."""
    chunks = [chunk["partition"] for chunk in draw_chunks(cell, 0, repeats).chunks]
    law = theory.gaussian_partition_variance(np.array(cell.mis), cell.dim, cell.n, pairs=cell.pairs)
    held = [np.abs(chunk.variance - law) <= 1.96 * chunk.variance_error for chunk in chunks]
    return np.mean(held, axis=0)


def write_coverage(preset: str, repeats: int, out: Path, limit: float) -> Path:
    """The table of `coverage`, at MIs where r* has a fourth moment; sizes predicted to be over the limit are listed."""
    lines = []
    for n in (cell.n for cell in PRESETS[preset] if cell.pairs == "independent"):
        cell = Cell("independent", n, mis=(0.1, 0.25, 0.5), taus=())
        predicted = repeats * cell.chunk * cell.n * _seconds_a_pair(cell, {})
        if predicted > 60.0 * limit:
            print(f"skipped, over the limit: coverage at n = {n}, predicted {machine.duration(predicted)}")
            continue
        lines.append([str(n), str(cell.chunk), *(f"{share:.1%}" for share in coverage(cell, repeats))])
        print(f"coverage at n = {n}: {', '.join(lines[-1][2:])}", flush=True)
    text = (
        "# How often a 95 % interval of a measured variance holds the exact law\n\n"
        f"Written by `python -m benchmarks.variance --preset {preset} --coverage {repeats}`: {repeats} repeats a cell, n\n"
        "independent pairs from Q; the interval is the measured variance of E_{Q_n}[r*] ± 1.96 standard errors, by its\n"
        "fourth moment.\n\n"
    )
    table = tabulate(lines, ["n", "replicates", "MI 0.1", "MI 0.25", "MI 0.5"], tablefmt="github", disable_numparse=True)
    (out / "coverage.md").write_text(text + table + "\n")
    return out / "coverage.md"


def run_missing(wanted: Mapping[Cell, int], folder: Path, limit: float = math.inf) -> None:
    """Draw what is missing of so many replicates of each cell.

    Args:
      wanted: cell -> replicates, rounded up to whole chunks.
      folder: where the parts are.
      limit: minutes; cells predicted to take longer are skipped, and listed.
    """
    here, on_disk = machine.environment(), read_all(folder)
    foreign = sum(not machine.same_bits(part.environment, here) for parts in on_disk.values() for part in parts)
    if foreign:
        print(f"warning: {foreign} parts on disk come from another machine or version", file=sys.stderr)
    for cell, replicates in wanted.items():
        done = sum(part.chunks for part in on_disk.get(cell, ()))
        stop = math.ceil(replicates / cell.chunk)
        if stop <= done:
            continue
        missing = (stop - done) * cell.chunk * cell.pairs_a_replicate
        predicted = missing * _seconds_a_pair(cell, on_disk)
        if predicted > 60.0 * limit:
            print(f"skipped, over the limit: {cell.label}, predicted {machine.duration(predicted)}")
            continue
        with tqdm(total=stop - done, desc=cell.label, unit="chunk", disable=None) as bar:
            compiled = ran = 0.0
            for start in range(done, stop, _PART):
                part = draw_chunks(cell, start, min(start + _PART, stop), bar.update)
                path = write(folder, part)
                kept = Kept(path, cell, start, len(part.chunks), part.environment, part.run_seconds)
                on_disk.setdefault(cell, []).append(kept)
                compiled, ran = compiled + part.compile_seconds, ran + part.run_seconds
        rate = (stop - done) * cell.chunk / ran
        text = f"compiled in {machine.duration(compiled)}, ran in {machine.duration(ran)}"
        print(f"{cell.label}: {(stop - done) * cell.chunk} replicates, {text}, {rate:.3g} replicates a second", flush=True)


def _seconds_a_pair(cell: Cell, on_disk: Mapping[Cell, Sequence[Kept]]) -> float:
    """Measured on the cell most like it, or else on a chunk of the smallest n of its design."""
    like = [part for other, parts in on_disk.items() if other.pairs == cell.pairs for part in parts]
    if not like:
        part = draw_chunks(Cell(cell.pairs, 64, cell.dim, cell.mis, cell.taus), 0, jax.local_device_count())
        like = [Kept(Path(), part.cell, 0, len(part.chunks), part.environment, part.run_seconds)]
    nearest = min(like, key=lambda part: abs(math.log(part.cell.n / cell.n)))
    return nearest.run_seconds / (nearest.chunks * nearest.cell.chunk * nearest.cell.pairs_a_replicate)


def _preset(replicates: int, budget: float, sizes: Mapping[theory.Pairs, Sequence[int]]) -> dict[Cell, int]:
    """So many replicates a cell, or as many as the budget of pairs allows."""
    cells = [Cell(pairs, n) for pairs, ns in sizes.items() for n in ns]
    return {cell: max(2 * cell.chunk, int(min(replicates, budget / cell.pairs_a_replicate))) for cell in cells}


PRESETS = {
    "quick": _preset(10_000, 6e7, {"independent": (64, 1_024, 16_384), "off_diagonal": (64, 256, 1_024)}),
    "paper": _preset(
        10_000, math.inf, {"independent": (64, 256, 1_024, 4_096, 16_384, 65_536), "off_diagonal": (64, 256, 1_024, 4_096)}
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what is missing, then the figure and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variance", description=__doc__.split("\n")[0])
    preset_help = "quick: minutes on 2 cores; paper: every n, 10,000 replicates"
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=preset_help)
    parser.add_argument("--out", type=Path, required=True, help="folder for parts, figure and table")
    parser.add_argument(
        "--replicates", type=cli.positive_int, help="at most so many a cell; more are added to what is there"
    )
    coverage_help = "instead: of so many repeats, how many 95 %% intervals of the variance hold the exact law"
    parser.add_argument("--coverage", type=cli.positive_int, metavar="REPEATS", help=coverage_help)
    limit_help = "skip, and list, cells predicted to take more than this many minutes"
    parser.add_argument("--limit", type=cli.positive_float, default=math.inf, help=limit_help)
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    folder = options.out / "parts"
    with cli.clear_errors(parser):
        folder.mkdir(parents=True, exist_ok=True)
        if options.coverage is not None:
            print(write_coverage(options.preset, options.coverage, options.out, options.limit))
            return
        wanted = {cell: options.replicates or replicates for cell, replicates in PRESETS[options.preset].items()}
        run_missing(wanted, folder, options.limit)
        for path in variance_figures.draw(results(folder), options.out):
            print(path)


def results(folder: Path) -> Iterator[variance_figures.Result]:
    """What the figure and the table are drawn from."""
    for cell, parts in read_all(folder).items():
        yield variance_figures.Result(
            cell.pairs, cell.n, cell.dim, cell.mis, cell.taus, merged(read(part.path) for part in parts)
        )


if __name__ == "__main__":
    main()
