"""The cells of the image experiment: what is trained, on which pairs, and how it is read out.

X is an image and Y its top t rows; or both twice; or those of two images. Cells that differ in t alone share a program.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from benchmarks.lib import training as lib_training
from mi_jax import estimators, evaluation, models, networks, sub_batches, training

TAUS = (1.0, 5.0)
LABELS = 10
IMPORTANCE_SAMPLES, IMPORTANCE_IMAGES = 32, 512
Nats: TypeAlias = Float[Array, ""]

# One run is trained for each; its read-outs carry the names of the figures.
DISCRIMINATIVE: dict[str, Callable[[], estimators.Estimator]] = {
    "infonce": lambda: estimators.share_training(cpc=estimators.infonce()),
    "mine": estimators.mine,
    "logistic": lambda: estimators.share_training(**{f"smile_{tau:g}": estimators.smile(tau) for tau in TAUS}),
}
OBJECTIVES = (*DISCRIMINATIVE, "gm", "labels")
SETTINGS = ("rows", "processing", "additivity")


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
    """One setting of the experiment; the defaults are the paper's protocol (B.2), and our own where the paper is silent.

    `setting` is one of `SETTINGS`, and t is the number of rows of Y. `critic` is "separable" or "joint"; a joint critic may
    score only the pairs within groups of `group` pairs, and None scores all. Epochs count images, drawn with replacement.
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

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cell":
        """The cell of a row's configuration."""
        own = {field.name: config[field.name] for field in fields(cls)}
        return cls(**own | {"channels": tuple(own["channels"]), "hidden": tuple(own["hidden"])})

    def config(self, seed: int) -> dict[str, Any]:
        """Everything that decides a run's numbers."""
        return {**json.loads(json.dumps(asdict(self))), "seed": seed, "key": lib_training.key_text(seed)}

    def program(self) -> "Cell":
        """The cell that stands for all cells with the same program: t is traced, and so is which image the second one is."""
        return replace(self, t=0, setting="rows" if self.setting == "rows" else "additivity")

    def model(self) -> models.Model:
        """The model that is trained."""
        if self.objective == "gm":
            vae = networks.VAE(channels=self.channels, hidden=self.hidden, decoder=self._decoder())
            return models.gm(vae, vae, vae)
        if self.objective == "labels":
            marginal = lambda labels: jnp.full(len(labels), -jnp.log(LABELS))  # noqa: E731  # classes of equal size, nearly
            return models.ba(marginal, LabelGiven(self.channels, self.hidden))
        critics = {"joint": networks.JointConvCritic, "separable": networks.SeparableConvCritic}
        critic = critics[self.critic](channels=self.channels, hidden=self.hidden)
        return models.discriminative(critic, DISCRIMINATIVE[self.objective](), sub_batch=self.group)

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

    def trainer(self, settings: training.Settings) -> training.Trainer:
        """How a seed is trained, on the images among its settings."""

        def batch(key: Array, step: Array) -> tuple[Array, Array]:
            del step
            places = jax.random.randint(key, (2, self.batch), 0, len(settings["images"]))
            x, y = self.pair(settings, *(settings["images"][place] for place in places))
            return (settings["labels"][places[0]], y) if self.objective == "labels" else (x, y)

        return training.trainer(self.model(), batch, training.adam(self.learning_rate))

    def held_out(self, variables: models.Variables, inputs: training.Inputs) -> dict[str, dict[str, Nats]]:
        """Reads out one seed's variables on the test images: name -> value and standard error."""
        settings = inputs.shared
        half = len(settings["images"]) // 2
        x, y = self.pair(settings, settings["images"][:half], settings["images"][half : 2 * half])
        if self.objective == "labels":
            return self._read_labels(variables, settings["labels"][:half], y)
        if self.objective == "gm":
            return self._read_densities(variables, x, y)
        critic = self.model().critic
        assert critic is not None
        encode, pair = functools.partial(critic.encode, variables), functools.partial(critic.pair, variables)
        max_pairs = half * (self.group or self.batch)
        sums = functools.partial(evaluation.pair_sums, pair, x, y, encode=encode, max_pairs=max_pairs)
        if self.objective == "logistic":
            return {f"smile_{tau:g}": _read(evaluation.read_outs(sums(tau=tau))["smile"]) for tau in TAUS}
        name, read_out = ("cpc", "infonce") if self.objective == "infonce" else ("mine", "dv")
        return {name: _read(evaluation.read_outs(sums())[read_out])}

    def _read_labels(self, variables: models.Variables, labels: Array, y: Array) -> dict[str, dict[str, Nats]]:
        module, conditional = LabelGiven(self.channels, self.hidden), models.select_role(variables, "conditional")
        blocks = y.reshape(-1, self.batch, *y.shape[1:]) if len(y) % self.batch == 0 else y[None]
        logs = jax.lax.map(
            lambda block: jax.vmap(lambda k: module.apply(conditional, jnp.full(len(block), k), block))(jnp.arange(LABELS)),
            blocks,
        )
        right = jnp.argmax(jnp.moveaxis(logs, 1, 2).reshape(-1, LABELS), axis=1) == labels
        return {"accuracy": _mean(right.astype(jnp.float32))}

    def _read_densities(self, variables: models.Variables, x: Array, y: Array) -> dict[str, dict[str, Nats]]:
        def of(samples: int, block: int, x: Array, y: Array) -> dict[str, Array]:
            """Role -> bounds of each image, blocks one after the other, so that memory stays small."""
            vae = networks.VAE(channels=self.channels, hidden=self.hidden, decoder=self._decoder(), samples=samples)
            key = jax.random.key(lib_training.ROOT_KEY)

            def one(numbered: tuple[Array, tuple[Array, Array]]) -> dict[str, Array]:
                number, (x, y) = numbered
                stream = {"sample": jax.random.fold_in(key, number)}
                arguments = {"joint": (x, y), "marginal_x": (x,), "marginal_y": (y,)}
                apply = lambda role, given: vae.apply(models.select_role(variables, role), *given, rngs=stream)  # noqa: E731
                return {role: cast(Array, apply(role, given)) for role, given in arguments.items()}

            cut = sub_batches.drop_remainder(x, block), sub_batches.drop_remainder(y, block)
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
