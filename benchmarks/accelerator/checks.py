"""Bounds and training steps on this machine beside the same in float64 on its CPU, with float32 products and the default's.

A VAE draws random numbers, which differ in float64; so it is compared with float32 on the CPU.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mi_jax
from benchmarks.lib import machine, page, rows, runner
from benchmarks.lib.rows import Row
from mi_jax import estimators, models, networks, tasks

DIM, MI, ROWS = 5, 2.0, 64
# "highest" keeps float32 in products. The default is TensorFloat-32 on an NVIDIA GPU, bfloat16 on a TPU, float32 on a CPU.
PRECISIONS = ("highest", "default")
# What float32 arithmetic may differ by from float64: of a read-out, in nats, and of a gradient, of its norm.
TOLERANCE = 2e-5

BOUNDS: Mapping[str, Callable[[Any], Any]] = {
    "infonce": mi_jax.infonce,
    "nwj": mi_jax.nwj,
    "dv": mi_jax.dv,
    "smile, tau = 1": functools.partial(mi_jax.smile, tau=1.0),
    "smile, tau = 5": mi_jax.smile,
    "logistic_objective": mi_jax.logistic_objective,
    "tuba": lambda scores: mi_jax.tuba(scores, scores[:, 0]),
    "interpolated": lambda scores: mi_jax.interpolated(scores, scores[:, 0], 0.5),
}
IMAGES: Mapping[str, Callable[[], models.Model]] = {
    "joint convolutions": lambda: models.discriminative(networks.JointConvCritic(), estimators.infonce()),
    "separable convolutions": lambda: models.discriminative(networks.SeparableConvCritic(), estimators.smile()),
    "VAEs": lambda: models.gm(networks.VAE(), networks.VAE(), networks.VAE()),
}


def _model(name: str) -> models.Model:
    if name in IMAGES:
        return IMAGES[name]()
    known = {"log_marginal": lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1)} if name == "ba" else {}
    return models.make(name, **known)


@dataclass(frozen=True)
class Check:
    """A bound of `BOUNDS`, or one training step of a model: of the registry, or of `IMAGES`."""

    kind: str
    name: str
    precision: str

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.kind} {self.name}, {self.precision} precision"

    def measure(self) -> Row:
        """The row: the differences of the values and of the gradient."""
        started = time.perf_counter()
        with jax.default_matmul_precision(self.precision):
            results = (self._bound if self.kind == "bound" else self._step)()
        seconds = {"run": round(time.perf_counter() - started, 3)}
        return Row("accelerator", asdict(self), machine.environment(), 0, seconds, rows.rounded(results))

    def _bound(self) -> dict[str, Any]:
        scores = np.random.default_rng(0).normal(0.0, 3.0, (ROWS, ROWS))
        function = jax.value_and_grad(BOUNDS[self.name])
        ours = jax.jit(function)(jnp.asarray(scores, jnp.float32))
        return _compare({self.name: ours[0]}, ours[1], *_exact(lambda: _named(self.name, function(jnp.asarray(scores)))))

    def _step(self) -> dict[str, Any]:
        model = _model(self.name)
        if self.name in IMAGES:
            x, y = np.random.default_rng(0).integers(0, 256, (2, ROWS // 4, 28, 28, 1), np.uint8)
        else:
            x, y = map(np.asarray, tasks.gaussian(DIM, MI).sample(jax.random.key(0), ROWS))
        variables = jax.jit(model.init)(jax.random.key(1), x, y)
        state = model.init_state(jax.random.key(2))

        def step(params: Any, constants: Any, x: Any, y: Any) -> Any:
            (_, (_, nats)), slopes = jax.value_and_grad(
                lambda params: model.loss({**constants, "params": params}, state, x, y), has_aux=True
            )(params)
            return nats, slopes

        constants = {name: values for name, values in variables.items() if name != "params"}
        arguments = jax.device_get((variables["params"], constants, x, y))
        ours = jax.jit(step)(*arguments)
        stochastic = self.name == "VAEs"
        return _compare(*ours, *_exact(lambda: jax.jit(step)(*_wide(arguments, not stochastic)), not stochastic))


def _named(name: str, pair: Any) -> Any:
    return {name: pair[0]}, pair[1]


def _exact(function: Callable[[], Any], float64: bool = True) -> Any:
    """What a function gives on the CPU, in float64."""
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(float64):
        return jax.device_get(function())


def _wide(tree: Any, float64: bool) -> Any:
    """A tree with its floating numbers in float64."""
    widen = lambda leaf: np.float64(leaf) if float64 and leaf.dtype == np.float32 else leaf  # noqa: E731
    return jax.tree.map(widen, tree)


def _compare(values: Any, slopes: Any, exact_values: Any, exact_slopes: Any) -> dict[str, Any]:
    """The largest difference of a value, in nats or relative where it is above 1; and of the gradient, of its norm."""
    slopes, exact_slopes = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (slopes, exact_slopes))
    norm = lambda tree: np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))  # noqa: E731
    pairs = np.array([[float(values[name]), float(exact)] for name, exact in exact_values.items()])
    return {
        "value": {name: float(value) for name, value in exact_values.items()},
        "difference": float(np.max(np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(1.0, np.abs(pairs[:, 1])))),
        "gradient": float(norm(jax.tree.map(np.subtract, slopes, exact_slopes)) / norm(exact_slopes)),
    }


def cells(names: Sequence[str] = (*models.names(), *IMAGES)) -> list[Check]:
    """Every bound, and a step of every model that is named, in both precisions."""
    kinds = [*(("bound", name) for name in BOUNDS), *(("step", name) for name in names if name != "cpc")]
    return [Check(kind, name, precision) for precision in PRECISIONS for kind, name in kinds]


def experiment(wanted: Iterable[Check]) -> runner.Experiment:
    """The checks, for the runner."""
    return runner.Experiment(
        name="accelerator",
        wanted=dict.fromkeys(wanted, 1),
        covers=lambda config: (Check(**config), [0]),
        predict=_predict,
        run=runner.measuring(Check.measure),
        unit="",
        describe=lambda made: "; ".join(_number(row.results["difference"]) for row in made),
    )


def _number(value: float | None) -> str:
    """A difference, for people; rows hold None where it is not finite."""
    return "not finite" if value is None else f"{value:.1e}"


def _predict(on_disk: Sequence[Row]) -> Callable[[Any], float]:
    """The mean of the rows of this kind of check, or a guess; nearly all of it is compiling."""
    seconds = {"bound": [2.0], "step": [5.0]}
    for row in on_disk:
        seconds[row.config["kind"]].append(row.seconds["run"])
    return lambda cell: float(np.mean(seconds[cell.kind][1:] or seconds[cell.kind]))


def draw(out: Path) -> list[Path]:
    """Write the page from the rows."""
    found = rows.read_all(out / "rows", "accelerator")
    lines = []
    for row in sorted(found, key=lambda row: [row.config[name] for name in ("kind", "name", "precision")]):
        differences = [row.results[name] for name in ("difference", "gradient")]
        near = all(value is not None and value <= TOLERANCE for value in differences)
        within = ("yes" if near else "**no**") if row.config["precision"] == "highest" else ""
        lines.append([row.config["kind"], row.config["name"], row.config["precision"], *map(_number, differences), within])
    parts = [
        "# This machine beside float64",
        f"Written by `python -m benchmarks.accelerator` on {machine.description(*(row.environment for row in found))}.\n"
        f"Each bound, on {ROWS} x {ROWS} scores, and one training step of each model, beside the same in float64 on the CPU "
        "of the machine. The VAEs, which draw random numbers, stand beside float32 on it. The difference of a value is in "
        'nats, or relative where the value is above 1; that of the gradient is relative to its norm. Products: "highest" '
        "keeps float32; the default is TensorFloat-32 on an NVIDIA GPU. With float32 products both differences ought to be "
        f"below {TOLERANCE:g}.",
        page.table(lines, ["", "name", "products", "value", "gradient", f"below {TOLERANCE:g}"]),
    ]
    return [page.write(out / "checks.md", parts)]
