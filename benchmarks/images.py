"""The self-consistency experiment of Section 6.2: mutual information between images and their top rows.

    python -m benchmarks.images --data DIR --preset quick --out DIR

trains critics and VAEs on MNIST or CIFAR-10 in three settings: X an image and Y its top t rows; [X, X] and [Y, h(Y)], with
h(Y) the top t - 3 rows, which ought to share as much; and two independent images and the top t rows of both, which ought to
share twice as much. Estimates are read out on test images that training never saw. One row a run; Figures 3 to 6 and the
verdicts are drawn from the rows. Runs whose row is on disk are not run again.
"""

import argparse
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from benchmarks import images_figures, rows
from benchmarks.images_figures import LESS
from benchmarks.lib import cli, machine
from mi_jax import datasets, estimators, evaluation, groups, models, networks, training
from mi_jax.training import seeds

TAUS = (1.0, 5.0)
ROOT_KEY = 0
LABELS = 10
IMPORTANCE_SAMPLES, IMPORTANCE_IMAGES = 32, 512
Nats: TypeAlias = Float[Array, ""]

# One training run for each; its read-outs carry the names of the figures.
DISCRIMINATIVE: dict[str, Callable[[], estimators.Estimator]] = {
    "infonce": lambda: estimators.combined(cpc=estimators.infonce()),
    "mine": estimators.mine,
    "logistic": lambda: estimators.combined(**{f"smile_{tau:g}": estimators.smile(tau) for tau in TAUS}),
}
OBJECTIVES = (*DISCRIMINATIVE, "gm", "labels")
SETTINGS = ("rows", "processing", "additivity")
READERS: dict[str, Callable[..., datasets.Dataset]] = {
    "mnist": datasets.mnist,
    "cifar10": functools.partial(datasets.cifar10, subset=True),
}


class LabelGiven(nn.Module):
    """Log q(label | image), by the critics' network: with `models.ba` a lower bound on I(label; image)."""

    channels: Sequence[int]
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, labels: Int[Array, " n"], images: Array) -> Float[Array, " n"]:
        logits = networks.ConvEncoder(LABELS, self.channels, self.hidden)(images)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels.astype(int)[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Cell:
    """One setting of the experiment; the paper's protocol by default (B.2), and our own where it is silent.

    `setting` is one of `SETTINGS`, t the rows of Y. `critic` is "separable" or "joint", of which a batch is cut into groups
    of `group` pairs; None scores all. Epochs count images drawn, with replacement.
    """

    data: str = "mnist"
    setting: str = "rows"
    t: int = 14
    objective: str = "logistic"
    critic: str = "separable"
    channels: tuple[int, ...] = (64, 128)
    hidden: tuple[int, ...] = (1024,)
    group: int | None = None
    batch: int = 64
    images: int = 60_000
    tests: int = 10_000
    epochs: int = 2
    epochs_gm: int = 10
    learning_rate: float = 1e-4

    @property
    def steps(self) -> int:
        """Training steps of a run."""
        return (self.epochs_gm if self.objective == "gm" else self.epochs) * self.images // self.batch

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.data} {self.objective} {self.setting} t = {self.t}"

    def config(self, seed: int) -> dict[str, Any]:
        """Everything that decides a run's numbers."""
        return {**json.loads(json.dumps(asdict(self))), "seed": seed, "key": f"fold_in(key({ROOT_KEY}), {seed})"}

    def program(self) -> "Cell":
        """The cell that stands for all whose runs are one program: t is traced, and so is which two images there are."""
        return replace(self, t=0, setting="rows" if self.setting == "rows" else "additivity")

    def model(self) -> models.Model:
        """What is trained."""
        if self.objective == "gm":
            vae = networks.VAE(channels=self.channels, hidden=self.hidden, decoder=self._decoder())
            return models.gm(vae, vae, vae)
        if self.objective == "labels":
            marginal = lambda labels: jnp.full(len(labels), -jnp.log(LABELS))  # noqa: E731  # classes of equal size, nearly
            return models.ba(marginal, LabelGiven(self.channels, self.hidden))
        critics = {"joint": networks.JointConvCritic, "separable": networks.SeparableConvCritic}
        critic = critics[self.critic](channels=self.channels, hidden=self.hidden)
        return models.discriminative(critic, DISCRIMINATIVE[self.objective](), group=self.group)

    def _decoder(self) -> tuple[int, ...] | None:
        return (400, 400) if self.data == "mnist" else None

    def pair(self, settings: training.Settings, first: Array, second: Array) -> tuple[Array, Array]:
        """(x, y) of the setting, from two images each."""
        height = first.shape[1]
        top = lambda images, t: jnp.where(jnp.arange(height)[:, None, None] < t, images, 0).astype(images.dtype)  # noqa: E731
        if self.setting == "rows":
            return first, top(first, settings["t"])
        second = jnp.where(settings["same"], first, second)
        y = [top(first, settings["t"]), top(second, settings["t_second"])]
        return jnp.concatenate([first, second], axis=-1), jnp.concatenate(y, axis=-1)

    def recipe(self, settings: training.Settings) -> training.Trainer:
        """How a seed is trained, on the images among its settings."""

        def batch(key: Array, step: Array) -> tuple[Array, Array]:
            del step
            places = jax.random.randint(key, (2, self.batch), 0, len(settings["images"]))
            x, y = self.pair(settings, *(settings["images"][place] for place in places))
            return (settings["labels"][places[0]], y) if self.objective == "labels" else (x, y)

        return training.trainer(self.model(), batch, training.adam(self.learning_rate))

    def held_out(self, run: tuple[Any, training.Settings]) -> dict[str, dict[str, Nats]]:
        """What is read out, name -> value and standard error, of one seed's parameters on its test images."""
        params, settings = run
        half = len(settings["images"]) // 2
        x, y = self.pair(settings, settings["images"][:half], settings["images"][half : 2 * half])
        if self.objective == "labels":
            return self._of_labels(params, settings["labels"][:half], y)
        if self.objective == "gm":
            return self._of_densities(params, x, y)
        model = self.model()
        assert model.encode is not None
        assert model.pair is not None
        encode, pair = functools.partial(model.encode, params), functools.partial(model.pair, params)
        sums = functools.partial(evaluation.pair_sums, pair, x, y, encode=encode, pairs=half * (self.group or self.batch))
        if self.objective == "logistic":
            return {f"smile_{tau:g}": _read(evaluation.read_outs(sums(tau=tau))["smile"]) for tau in TAUS}
        name, read_out = ("cpc", "infonce") if self.objective == "infonce" else ("mine", "dv")
        return {name: _read(evaluation.read_outs(sums())[read_out])}

    def _of_labels(self, params: Any, labels: Array, y: Array) -> dict[str, dict[str, Nats]]:
        module = LabelGiven(self.channels, self.hidden)
        blocks = y.reshape(-1, self.batch, *y.shape[1:]) if len(y) % self.batch == 0 else y[None]
        logs = jax.lax.map(
            lambda block: jax.vmap(lambda k: module.apply(params["conditional"], jnp.full(len(block), k), block))(
                jnp.arange(LABELS)
            ),
            blocks,
        )
        right = jnp.argmax(jnp.moveaxis(logs, 1, 2).reshape(-1, LABELS), axis=1) == labels
        return {"accuracy": _mean(right.astype(jnp.float32))}

    def _of_densities(self, params: Any, x: Array, y: Array) -> dict[str, dict[str, Nats]]:
        def of(samples: int, block: int, x: Array, y: Array) -> dict[str, Array]:
            """Role -> bounds of each image, blocks one after the other, so that memory stays small."""
            vae = networks.VAE(channels=self.channels, hidden=self.hidden, decoder=self._decoder(), samples=samples)
            key = jax.random.key(ROOT_KEY)

            def one(numbered: tuple[Array, tuple[Array, Array]]) -> dict[str, Array]:
                number, (x, y) = numbered
                stream = {"sample": jax.random.fold_in(key, number)}
                arguments = {"joint": (x, y), "marginal_x": (x,), "marginal_y": (y,)}
                return {role: vae.apply(params[role], *given, rngs=stream) for role, given in arguments.items()}  # type: ignore[misc]

            cut = groups.cut(x, block), groups.cut(y, block)
            made = jax.lax.map(one, (jnp.arange(len(cut[0])), cut))
            return {role: values.reshape(-1) for role, values in made.items()}

        elbos = of(1, self.batch, x, y)
        weighted = of(IMPORTANCE_SAMPLES, max(1, self.batch // 8), x[:IMPORTANCE_IMAGES], y[:IMPORTANCE_IMAGES])
        found = {}
        for name, bounds in (("gm", elbos), ("gm_iw", weighted)):
            found[name] = _mean(bounds["joint"] - bounds["marginal_x"] - bounds["marginal_y"])
            found |= {f"{name}_{role}": _mean(values) for role, values in bounds.items()}
        return found


def _mean(values: Float[Array, " n"]) -> dict[str, Nats]:
    return {"value": values.mean(), "stderr": values.std(ddof=1) / jnp.sqrt(len(values))}


def _read(found: evaluation.ReadOut) -> dict[str, Nats]:
    return {"value": found.value, "stderr": found.influence.std() / jnp.sqrt(len(found.influence))}


class _Programs(NamedTuple):
    train: seeds.Program
    held_out: Any
    compile_seconds: float


class Runner:
    """Runs cells on a dataset; those that are one program are compiled once."""

    def __init__(self, data: datasets.Dataset):
        self.data = data
        self.compiled: dict[tuple[Cell, int], _Programs] = {}

    def settings(self, cell: Cell, part: datasets.Images, number: int) -> dict[str, Any]:
        """What a run trains, or is read out, under."""
        if len(part.images) < number:
            raise ValueError(f"{cell.label} asks for {number:,} images, but the data have {len(part.images):,}")
        second = cell.t - LESS if cell.setting == "processing" else cell.t
        return {
            "images": part.images[:number],
            "labels": part.labels[:number].astype(np.int32),
            "t": np.int32(cell.t),
            "t_second": np.int32(second),
            "same": np.bool_(cell.setting == "processing"),
        }

    def __call__(self, cell: Cell, group: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows of some seeds of a cell."""
        keys = jnp.stack([jax.random.fold_in(jax.random.key(ROOT_KEY), seed) for seed in group])
        repeat = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf] * len(group)), tree)  # noqa: E731
        runs = training.Run(keys, repeat(self.settings(cell, self.data.train, cell.images)))
        tests = repeat(self.settings(cell, self.data.test, cell.tests))
        fresh = (cell.program(), len(group)) not in self.compiled
        programs = self._programs(cell.program(), runs, tests)
        with tqdm(total=cell.steps, desc=cell.label, unit="step", leave=False, disable=None) as bar:
            fit = seeds.run(programs.train, runs, functools.partial(_advance, bar))
        start = time.perf_counter()
        plan = programs.train.layout
        found = plan.join(programs.held_out(plan.place((fit.states.params, tests))))
        seconds = fit.run_seconds + time.perf_counter() - start
        for place, seed in enumerate(group):
            yield {
                "config": cell.config(seed),
                "environment": machine.environment(),
                "diverged": bool(fit.diverged[place]),
                "compile_seconds": round(programs.compile_seconds, 3) if fresh else 0.0,
                "run_seconds": round(seconds / len(group), 3),
                "held_out": jax.tree.map(lambda leaf, place=place: rows.number(leaf[place]), found),
            }

    def _programs(self, cell: Cell, runs: training.Run, tests: Any) -> _Programs:
        number = len(runs.key)
        if (cell, number) not in self.compiled:
            start = time.perf_counter()
            plan = seeds.layout(number)
            example = jax.tree.map(lambda leaf: leaf[0], runs)
            train = seeds.compile_training(training.swept(cell.recipe), plan, steps=cell.steps, chunk=100, example=example)
            like = jax.eval_shape(plan.split, (train.states.params, tests))
            held_out = plan.compile(cell.held_out, like)
            self.compiled[cell, number] = _Programs(train, held_out, time.perf_counter() - start)
        return self.compiled[cell, number]


def _advance(bar: tqdm, report: seeds.Report) -> None:
    bar.update(report.done - bar.n)


def row_path(folder: Path, config: Mapping[str, Any]) -> Path:
    """Where a row is kept."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    names = [config["data"], config["critic"], config["objective"], config["setting"], f"t{config['t']}"]
    return folder / "rows" / f"{'-'.join(names)}-seed{config['seed']}-{digest}.json"


def run_missing(cells: Sequence[Cell], num_seeds: int, data: datasets.Dataset, folder: Path, limit: float) -> None:
    """Run the seeds of each cell whose rows are not in the folder; those predicted to take too long are listed instead.

    Args:
      cells: the settings.
      num_seeds: how many seeds each should have.
      data: the images.
      folder: where the rows go.
      limit: minutes a cell.
    """
    run, spent = Runner(data), _seconds_a_step(folder)
    size = jax.device_count() if jax.devices()[0].platform == "cpu" else num_seeds
    missing = {cell: [s for s in range(num_seeds) if not row_path(folder, cell.config(s)).exists()] for cell in cells}
    missing = {cell: seeds_left for cell, seeds_left in missing.items() if seeds_left}
    known = {cell: spent.get(_kind(cell.config(0)), math.nan) * cell.steps * len(left) for cell, left in missing.items()}
    total = sum(seconds for seconds in known.values() if not math.isnan(seconds))
    unknown = sum(map(math.isnan, known.values()))
    unmeasured = f" without {unknown} cells, whose like was not run yet" if unknown else ""
    print(f"{sum(map(len, missing.values()))} runs to do; predicted {machine.duration(total)}{unmeasured}")
    for cell, left in missing.items():
        if known[cell] > 60 * limit:
            print(f"skipped, over the limit: {cell.label}, predicted {machine.duration(known[cell])}")
            continue
        for first in range(0, len(left), size):
            for row in run(cell, left[first : first + size]):
                rows.store(row_path(folder, row["config"]), row)
            shown = ", ".join(
                f"{name} {_shown(told['value'])}" for name, told in row["held_out"].items() if "marginal" not in name
            )
            print(f"{cell.label}: {shown} ({machine.duration(row['run_seconds'])} a seed)", flush=True)


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"


def _kind(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a step's cost depends on."""
    names = ("data", "objective", "critic", "group", "batch", "channels", "hidden")
    return (*(json.dumps(config[name]) for name in names), config["setting"] == "rows")


def _seconds_a_step(folder: Path) -> dict[tuple[Any, ...], float]:
    found = {}
    for row in images_figures.read(folder):
        config = row["config"]
        fields = {name: config[name] for name in Cell.__dataclass_fields__}
        found[_kind(config)] = row["run_seconds"] / Cell(**fields).steps
    return found


def _grid(cell: Cell, ts: Sequence[int], objectives: Sequence[str] = OBJECTIVES) -> list[Cell]:
    """All settings and objectives at these t; labels in the first setting alone, data processing where h(Y) has rows."""
    found = []
    for objective in objectives:
        for setting in SETTINGS[:1] if objective == "labels" else SETTINGS:
            least = {"rows": 0, "processing": LESS + 1, "additivity": 1}[setting]
            found += [replace(cell, objective=objective, setting=setting, t=t) for t in ts if t >= least]
    return found


def preset(name: str, data: str) -> tuple[list[Cell], int]:
    """The cells and the seeds of a preset."""
    height = 28 if data == "mnist" else 32
    # Of CIFAR-10's subset as many test images as make two halves of whole batches.
    whole = Cell(data=data, images=60_000 if data == "mnist" else 10_000, tests=10_000 if data == "mnist" else 1_920)
    if name == "paper":
        return _grid(replace(whole, critic="joint"), range(0, height + 1, 2)), 5
    if name == "cpu":
        return _grid(
            replace(whole, images=min(whole.images, 20_000), tests=min(whole.tests, 2_048)), (0, 4, 8, 12, 16, 20, height)
        ), 4
    small = replace(
        whole, channels=(16, 32), hidden=(128,), images=8_000, tests=min(whole.tests, 2_048), epochs_gm=2, learning_rate=1e-3
    )
    if name == "vaes":
        return _grid(replace(small, images=min(whole.images, 20_000), epochs_gm=10), (height,), ["gm"]), 4
    critics = _grid(small, (0, 7, 14, height), (*DISCRIMINATIVE, "labels"))
    critics = [cell for cell in critics if cell.setting == "rows" or cell.t != 7]
    # VAEs trained so little tell nothing of ratios; how far from 0 they are at t = 0 they do.
    return critics + [replace(small, objective="gm", t=t) for t in (0, height)], 4


PRESETS = ("quick", "vaes", "cpu", "paper")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then draw."""
    parser = _parser()
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    with cli.clear_errors(parser):
        cells, num_seeds = preset(options.preset, options.dataset)
        changes = {
            name: value for name in ("images", "epochs", "epochs_gm") if (value := getattr(options, name)) is not None
        }
        kept = [replace(cell, **changes) for cell in cells if _selected(cell, options)]
        if not kept:
            parser.error(f"no cell of preset {options.preset} is selected; its t are {sorted({cell.t for cell in cells})}")
        folder = options.data / "mnist" if options.dataset == "mnist" and (options.data / "mnist").is_dir() else options.data
        data = READERS[options.dataset](folder, download=options.download)
        run_missing(kept, options.seeds or num_seeds, data, options.out, options.limit)
        told = ("seeds", "settings", "objectives", "images", "epochs", "epochs_gm", "t")
        changed = "".join(_as_written(name, getattr(options, name), parser.get_default(name)) for name in told)
        command = f"python -m benchmarks.images --preset {options.preset} --dataset {options.dataset}{changed}"
        for path in images_figures.draw(options.out, {options.dataset: data}, command):
            print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__.split("\n")[0])
    preset_help = "quick: minutes on 2 cores; vaes: GM trained longer, an hour; cpu: an evening; paper: for a GPU"
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=preset_help)
    parser.add_argument("--dataset", choices=READERS, default="mnist")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the files, or the folder around it")
    parser.add_argument("--download", action="store_true", help="fetch files that are missing into it")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, figures and the table")
    parser.add_argument("--seeds", type=cli.positive_int, help="training runs a cell; paper 5, the others 4")
    limit_help = "skip, and list, cells predicted to take more than this many minutes"
    parser.add_argument("--limit", type=cli.positive_float, default=float("inf"), help=limit_help)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--images", type=cli.positive_int, help="training images, in place of the preset's")
    parser.add_argument("--epochs", type=cli.positive_int, help="of the critics, in place of the preset's")
    parser.add_argument("--epochs-gm", type=cli.positive_int, help="of the VAEs")
    parser.add_argument("--t", nargs="+", type=int, help="rows of Y, among the preset's")
    return parser


def _as_written(name: str, value: Any, default: Any) -> str:
    """An option of the command line that is not its default."""
    if value == default:
        return ""
    return f" --{name.replace('_', '-')} {' '.join(map(str, value if isinstance(value, list) else [value]))}"


def _selected(cell: Cell, options: argparse.Namespace) -> bool:
    return (
        cell.setting in options.settings
        and cell.objective in options.objectives
        and (options.t is None or cell.t in options.t)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
