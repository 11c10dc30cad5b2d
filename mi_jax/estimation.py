"""`estimate`: the mutual information of two arrays, with an interval, and a warning where the number means nothing."""

import dataclasses
import functools
import itertools
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from mi_jax import _checks, cross_fitting, diagnostics, networks, preprocessing
from mi_jax.cross_fitting import EVERY, READ_OUTS, Fitted, HeldOut, Recipe, Seconds
from mi_jax.diagnostics import Diagnostics
from mi_jax.preprocessing import Columns, Transform
from mi_jax.training import Report

FORMAT = 1  # of saved estimates
LEAST_ROWS = 20
MOST_COLUMNS = 1_000  # with more, the Gaussian critic's matrices cost more than its training
ROWS_AT_ONCE = 2**25  # of permuted sets that train side by side, over their seeds; a row takes some 20 bytes of numbers
CRITICS: Mapping[str, Callable[[], nn.Module]] = {
    "gaussian": networks.GaussianCritic,
    "joint": networks.JointCritic,
    "separable": networks.SeparableCritic,
    "bilinear": networks.BilinearCritic,
}


class Independence(NamedTuple):
    """A permutation test of independence.

    Attributes:
      p_value: (1 + k) / (1 + m), with k the number of the m permuted data sets whose estimate is not below that of the data;
        ties, which a critic that finds nothing makes, are broken at random, and a permuted set without an estimate counts
        against the data. NaN if the data have no estimate.
      statistics: (m,) the estimates of the permuted sets, in nats; NaN where all seeds diverged.
    """

    p_value: float
    statistics: Float[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """An estimate of mutual information, from `estimate`.

    Attributes:
      mi: the mean over the seeds, in nats.
      stderr: its standard error: from the sampling of the test rows (each row's influence, summed over the seeds that
        tested it) and from what the seeds differ by beyond that (splits, starts, training).
      interval: (low, high), mi ∓ z stderr, widened by `allowance`, with z of the level `confidence`.
      allowance: (down, up), in nats. Down, what SMILE's clipping may have added: its difference from DV, but no more than
        -log(1 - p), with p the share of joint pairs that is clipped. Up, what the fit is known to miss: the difference of
        training and test read-outs, if positive, and |log E_Q[r]|. A held-out estimate errs downwards as far as the critic
        does, which no resampling shows. What no critic of this kind would find in so many samples, it does not cover.
      confidence: the nominal level of the interval.
      per_seed: (seeds,) estimates, each from its own test rows; NaN of a seed that diverged, or whose estimate is not
        finite. Seeds share data, so that their spread over √seeds is no standard error.
      history: name -> (seeds, rounds): "validation_loss", and read-outs of training batches, a round being 50 steps; NaN
        after the stop. Of the training rows: nothing in it is an estimate.
      diagnostics: what the estimate rests on.
      warnings: name -> what is wrong; empty if nothing is known to be.
      independence: the permutation test, if one was asked for.
      recipe: what was trained, and how.
      seconds: where the time went.
    """

    mi: float
    stderr: float
    interval: tuple[float, float]
    allowance: tuple[float, float]
    confidence: float
    per_seed: Float[np.ndarray, " seeds"]
    history: Mapping[str, Float[np.ndarray, "seeds rounds"]]
    diagnostics: Diagnostics
    warnings: Mapping[str, str]
    independence: Independence | None
    recipe: Recipe
    seconds: Seconds
    columns: tuple[Columns, Columns]
    params: Any
    unit: str = "nats"

    def __repr__(self) -> str:
        low, high = self.interval
        interval = f"{100 * self.confidence:.6g}% interval {low:.3f} to {high:.3f}"
        lines = [f"{self.mi:.3f} {self.unit} ± {self.stderr:.3f}, {interval} ({self._how()})"]
        if self.independence is not None:
            lines.append(
                f"independence: p = {self.independence.p_value:.3g} ({self.independence.statistics.size} permutations)"
            )
        return "\n".join([*lines, *(f"warning, {name}: {text}" for name, text in self.warnings.items())])

    def _how(self) -> str:
        critic = "" if self.recipe.critic is None else f", {type(self.recipe.critic).__name__}"
        return f"{self.recipe.estimator}{critic}, {len(self.per_seed)} seed{'s' if len(self.per_seed) > 1 else ''}"

    def in_bits(self) -> "Estimate":
        """The same estimate with `mi`, `stderr`, `interval`, `allowance` and `per_seed` in bits, and the rest in nats."""
        bits = 1.0 if self.unit == "bits" else 1 / math.log(2)
        return dataclasses.replace(
            self,
            mi=self.mi * bits,
            stderr=self.stderr * bits,
            interval=(self.interval[0] * bits, self.interval[1] * bits),
            allowance=(self.allowance[0] * bits, self.allowance[1] * bits),
            per_seed=self.per_seed * bits,
            unit="bits",
        )

    def pointwise(self, x: Any, y: Any) -> Float[np.ndarray, " n"]:
        """The log density ratio of paired rows, averaged over the seeds.

        Formula: log p(x_i, y_i) / (p(x_i) p(y_i)), as the critics that learn it give it. Its mean over the joint is the MI
        as far as the ratio is a valid one; `mi` normalises it as the estimator does.

        Args:
          x: (n, *x_shape) rows.
          y: (n, *y_shape) their partners.

        Returns:
          (n,) nats; NaN if all seeds diverged. Of rows that the seeds trained on it is too favourable.

        Raises:
          ValueError: if the rows have other shapes than those of the data; or the estimator is InfoNCE, which knows the
            ratio only up to a function of x, or DV or MINE, which know it up to a constant.
        """
        if READ_OUTS[self.recipe.estimator] in ("infonce", "dv"):
            text = (
                f"pointwise needs an estimator that learns the log ratio itself, such as smile, got {self.recipe.estimator}"
            )
            raise ValueError(text)
        rows = tuple(columns(rows) for columns, rows in zip(self.columns, (x, y), strict=True))
        _checks.same_rows(x=rows[0], y=rows[1])
        ratios = jax.jit(jax.vmap(self.recipe.model().log_ratio, in_axes=(0, None, None)))(self.params, *rows)
        usable = np.isfinite(self.per_seed)
        return np.mean(np.asarray(ratios)[usable], axis=0) if usable.any() else np.full(len(rows[0]), np.nan)

    def save(self, path: str | Path) -> None:
        """Write everything to an .npz file of arrays and JSON; `load` reads it.

        Args:
          path: the file, which is replaced if it is there, whole or not at all.
        """
        leaves = {f"params/{place}": np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(self.params))}
        arrays = {
            "per_seed": self.per_seed,
            **leaves,
            **{f"history/{name}": values for name, values in self.history.items()},
        }
        for columns in self.columns:
            parts = {"kept": columns.kept, "constant": columns.constant, "duplicated": columns.duplicated}
            parts |= {f"knots/{place}": knots for place, knots in enumerate(columns.knots)}
            parts |= {f"images/{place}": images for place, images in enumerate(columns.images)}
            arrays |= {f"{columns.name}/{part}": values for part, values in parts.items()}
        if self.independence is not None:
            arrays["statistics"] = self.independence.statistics
        scratch = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(self._about())), **arrays)
        os.replace(scratch, path)

    def _about(self) -> dict[str, Any]:
        """What `save` writes as JSON."""
        recipe = self.recipe._replace(critic=None)._asdict()
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("mi", "stderr", "interval", "allowance", "confidence", "unit")},
            "warnings": dict(self.warnings),
            "p_value": None if self.independence is None else self.independence.p_value,
            "diagnostics": self.diagnostics._asdict(),
            "recipe": recipe | {"critic": None if self.recipe.critic is None else _described(self.recipe.critic)},
            "seconds": self.seconds._asdict(),
            "shapes": [list(columns.shape) for columns in self.columns],
        }

    def plot(self) -> Any:
        """The validation losses of the seeds, and their estimates beside the interval, as a Matplotlib figure.

        Raises:
          ImportError: if Matplotlib is not installed (`pip install 'mi-jax[plot]'`).
        """
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        losses = self.history["validation_loss"]
        for seed, (values, best) in enumerate(zip(losses, self.diagnostics.best_step, strict=True)):
            steps = EVERY * (1 + np.arange(values.size))
            (line,) = left.plot(steps, values, lw=1, label=f"seed {seed}")
            if best:
                left.plot(best, values[best // EVERY - 1], "o", ms=4, color=line.get_color())
        left.set(xlabel="step", ylabel="validation loss", title="Training (dot: read out there; none: at the start)")
        right.axhspan(*self.interval, color="C0", alpha=0.15, lw=0, label=f"{self.confidence:.0%} interval")
        right.axhline(self.mi, color="C0", lw=1, label="estimate")
        right.plot(np.arange(len(self.per_seed)), self.per_seed, "o", color="C0", label="seeds")
        right.set(xlabel="seed", ylabel=self.unit, title=f"{self.mi:.3f} {self.unit}", xticks=np.arange(len(self.per_seed)))
        right.legend(frameon=False, fontsize="small")
        return figure


def load(path: str | Path, critic: nn.Module | None = None) -> Estimate:
    """Read an estimate that `Estimate.save` wrote. No pickle is ever loaded.

    Args:
      path: the file.
      critic: the module that was given to `estimate`, if it was one of your own.

    Returns:
      An `Estimate`.

    Raises:
      ValueError: if the file is no such estimate, or damaged, or its critic is not one of `mi_jax.networks` and not given.
      OSError: if it cannot be read.

    Example:
      >>> import os, tempfile
      >>> import jax
      >>> import mi_jax
      >>> x, y = mi_jax.tasks.gaussian(dim=1, mi=1.0).sample(jax.random.key(0), 500)
      >>> result = mi_jax.estimate(x, y, critic="bilinear", seeds=1, steps=50)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     result.save(os.path.join(folder, "mi.npz"))
      ...     again = mi_jax.estimation.load(os.path.join(folder, "mi.npz"))
      >>> again.mi == result.mi
      True
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
        if about.pop("format") != FORMAT:
            raise ValueError("another format")
        return _restored(about, arrays, critic)
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no estimate that this version of mi_jax wrote, or is damaged ({error})") from error


def _restored(about: dict[str, Any], arrays: Mapping[str, np.ndarray], critic: nn.Module | None) -> Estimate:
    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}

    def numbered(prefix: str) -> tuple[np.ndarray, ...]:
        return tuple(values for _, values in sorted(under(prefix).items(), key=lambda item: int(item[0])))

    columns = tuple(
        Columns(
            name=name,
            shape=tuple(shape),
            knots=numbered(f"{name}/knots/"),
            images=numbered(f"{name}/images/"),
            **{part: arrays[f"{name}/{part}"] for part in ("kept", "constant", "duplicated")},
        )
        for name, shape in zip(("x", "y"), about.pop("shapes"), strict=True)
    )
    told = about.pop("diagnostics")
    told |= {name: tuple(told[name]) for name in ("best_step", "last_step", "diverged")}
    written = about.pop("recipe")
    recipe = Recipe(**written | {"critic": None if written["critic"] is None else critic or _module(written["critic"])})
    p_value = about.pop("p_value")
    rows = [jax.ShapeDtypeStruct((2, columns.kept.size), np.float32) for columns in columns]
    structure = jax.tree.structure(jax.eval_shape(recipe.model().init, jax.random.key(0), *rows))
    return Estimate(
        interval=tuple(about.pop("interval")),
        allowance=tuple(about.pop("allowance")),
        seconds=Seconds(**about.pop("seconds")),
        **about,
        per_seed=arrays["per_seed"],
        history=under("history/"),
        diagnostics=Diagnostics(**told),
        independence=None if p_value is None else Independence(p_value, arrays["statistics"]),
        recipe=recipe,
        columns=(columns[0], columns[1]),
        params=jax.tree.unflatten(structure, numbered("params/")),
    )


def _described(critic: nn.Module) -> dict[str, Any]:
    """A critic as JSON: its class, and its fields if it is one of `mi_jax.networks`."""
    name = type(critic).__name__
    if type(critic) is not getattr(networks, name, None):
        return {"name": name, "fields": None}
    fields = {field.name: getattr(critic, field.name) for field in dataclasses.fields(critic)}
    own = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    plain = all(isinstance(value, int | float | str | Sequence) for value in own.values())
    return {"name": name, "fields": own if plain else None}


def _module(described: Mapping[str, Any]) -> nn.Module:
    if described["fields"] is None:
        raise ValueError(f"its critic is a {described['name']} of your own: give it as critic")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in described["fields"].items()}
    module: nn.Module = getattr(networks, described["name"])(**fields)
    return module


def estimate(
    x: Any,
    y: Any,
    *,
    estimator: str = "smile",
    critic: str | nn.Module | None = None,
    seeds: int = 5,
    key: PRNGKeyArray | None = None,
    transform: Transform = "ranks",
    tau: float | None = None,
    steps: int = 2_500,
    batch: int | None = None,
    negatives: int | None = None,
    learning_rate: float = 2e-3,
    patience: int = 300,
    pairs: int = 2**22,
    permutations: int = 0,
    confidence: float = 0.95,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[Report], None] | None = None,
) -> Estimate:
    """Estimate the mutual information of paired samples, with an interval and warnings.

    Each seed splits the rows into training (70 %), validation (10 %) and test rows (20 %), trains a critic on the first,
    keeps the parameters that validate best on the second, and is read out once, on the third, which it never saw. Five
    seeds test every row once (of a number that 5 does not divide, all but the remainder).

    Args:
      x: (n,), (n, d) or (n, *shape) samples: floats, integers or bools, of NumPy or JAX.
      y: their n partners, of the same or another shape.
      estimator: "smile", "js", "infonce" ("cpc"), "dv", "mine", "nwj", "tuba", "gm" or "doe".
      critic: "gaussian", which starts from the closed-form Gaussian log ratio, "joint", "separable", "bilinear", or a
        module, of `mi_jax.networks` or your own. By default "gaussian", and "separable" with over 1,000 columns.
      seeds: how many splits and starts; 5 test each row once, 10 twice, 1 a fifth of them.
      key: a typed key; by default `jax.random.key(0)`. The same key gives the same estimate.
      transform: what is done to each column first, without changing MI: "ranks" (normal scores; heavy tails do no harm),
        "standardize", or "none".
      tau: where SMILE clips. By default the 95th percentile of T on validation pairs, at least the paper's 5: then at most
        about a twentieth of E_Q[r] is clipped away, and the estimate is at most 0.05 nats too high for it.
      steps: most steps of training, to the nearest 50.
      batch: joint pairs a step. By default 512 for the logistic estimators with a critic that pays for every pair, 256 for
        separable ones, and 128 otherwise.
      negatives: how many other rows of its batch each x is scored against. By default 7 for the logistic estimators with a
        critic that pays for every pair, and otherwise all.
      learning_rate: Adam's.
      patience: steps without a better validation after which a seed stops.
      pairs: how many pairs the read-out of a seed may score; memory does not grow with it. InfoNCE's ceiling is the log of
        the number of pairs a row: `Estimate.diagnostics.ceiling`.
      permutations: how many permuted data sets go through the same pipeline, for a test of independence; 19 or more.
      confidence: level of the interval.
      devices: where the seeds run; by default all local devices.
      on_chunk: called with a `Report` as training goes on.

    Returns:
      An `Estimate`, in nats.

    Raises:
      ValueError: if an argument is out of range, x and y do not hold the same number of rows, at least 20, or hold an entry
        that is not finite, or all columns of one are constant.
      TypeError: if x or y is no array of numbers, or an argument has another type.

    Example:
      >>> import jax
      >>> import mi_jax
      >>> x, y = mi_jax.tasks.gaussian(dim=3, mi=1.0).sample(jax.random.key(1), 5_000)
      >>> result = mi_jax.estimate(x, y**3, seeds=2)
      >>> print(f"{result.mi:.1f} nats")
      1.0 nats
      >>> result.interval[0] < 1.0 < result.interval[1], dict(result.warnings)
      (True, {})

    Source: Song & Ermon (2020), Eq. 17, for SMILE; Chernozhukov et al. (2018), "Double/debiased machine learning", for
    cross-fitting.
    """
    if tau is not None:
        _checks.non_negative(tau, "tau")
        if estimator != "smile":
            raise ValueError(f"tau is SMILE's, got {tau} with {estimator}")
    _checks.positive_int(seeds, "seeds")
    if not 0 < _checks.scalar(confidence, "confidence") < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if on_chunk is not None and not callable(on_chunk):
        raise TypeError(f"on_chunk must be a function of a Report, got {type(on_chunk).__name__}")
    key, devices = one_key(key), _devices(devices)
    raw = check_rows(x, y)
    columns = preprocessing.columns(x, "x", transform), preprocessing.columns(y, "y", transform)
    rows = columns[0](x), columns[1](y)
    recipe = _recipe(
        estimator,
        _critic(estimator, critic, rows[0].shape[1], rows[1].shape[1]),
        num_train=cross_fitting.sizes(len(rows[0]))[0],
        steps=steps,
        batch=batch,
        negatives=negatives,
        learning_rate=learning_rate,
        patience=patience,
        pairs=pairs,
    )
    split_key, seed_key, permutation_key = jax.random.split(key, 3)
    parts = cross_fitting.splits(len(rows[0]), seeds, generator(split_key))
    rng = generator(permutation_key)
    orders = _orders(len(rows[0]), permutations, rng)
    fit = functools.partial(
        cross_fitting.fit,
        recipe,
        rows,
        parts,
        jax.random.split(seed_key, seeds),
        tau=tau,
        devices=devices,
        on_chunk=on_chunk,
    )
    fitted, statistics, seconds = _fit_all(fit, orders, 1 + permutations, seeds * len(rows[0]))
    combined = _combined(fitted, parts, len(rows[0]), confidence)
    usable = np.isfinite(combined.per_seed)
    told = diagnostics.diagnose(fitted, usable, combined.training_error)
    warnings = diagnostics.of_columns(*columns)
    if transform != "ranks":  # which keep values apart
        for side in zip(columns, rows, raw, strict=True):
            warnings |= diagnostics.of_transform(*side)
    warnings |= {
        **diagnostics.of_rows(*rows, raw),
        **diagnostics.of_estimate(recipe, combined.mi, combined.stderr, combined.per_seed, told),
    }
    return Estimate(
        mi=combined.mi,
        stderr=combined.stderr,
        interval=combined.interval,
        allowance=combined.allowance,
        confidence=confidence,
        per_seed=combined.per_seed,
        history=fitted.history,
        diagnostics=told,
        warnings=warnings,
        independence=_independence(combined.mi, statistics, rng) if permutations else None,
        recipe=recipe,
        seconds=seconds,
        columns=columns,
        params=fitted.params,
    )


def check_rows(x: Any, y: Any, least: int = LEAST_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of rows as float64 matrices, refused if they are no pairs, or too few."""
    rows = preprocessing.as_rows(x, "x"), preprocessing.as_rows(y, "y")
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"x and y must hold the same number of rows, got {len(rows[0])} and {len(rows[1])}")
    if len(rows[0]) < least:
        raise ValueError(f"x and y must hold at least {least} rows, to train on some and test on others, got {len(rows[0])}")
    return rows


def _critic(estimator: str, critic: str | nn.Module | None, dim_x: int, dim_y: int) -> nn.Module | None:
    if not isinstance(estimator, str) or estimator not in READ_OUTS:
        raise ValueError(f"estimator must be one of {', '.join(READ_OUTS)}, got {estimator!r}")
    if READ_OUTS[estimator] == "log_ratio":
        if critic is not None:
            raise ValueError(f"critic must not be given with {estimator}, which learns densities, got {critic!r}")
        return None
    if critic is None:
        critic = "gaussian" if dim_x + dim_y <= MOST_COLUMNS else "separable"
    if isinstance(critic, nn.Module):
        _check_scores(critic, dim_x, dim_y)
        return critic
    if not isinstance(critic, str):
        raise TypeError(f"critic must be a name or a Flax module, got {_checks.kind_of(critic)}")
    if critic not in CRITICS:
        raise ValueError(f"critic must be one of {', '.join(CRITICS)}, or a Flax module, got {critic!r}")
    return CRITICS[critic]()


def _check_scores(critic: nn.Module, dim_x: int, dim_y: int) -> None:
    """Refuse a module that does not score every row of x against every row of y."""
    name = type(critic).__name__
    x, partners, y = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, dim_x), (2, dim_y), (3, dim_y)))
    try:
        scores = jax.eval_shape(critic.apply, jax.eval_shape(critic.init, jax.random.key(0), x, partners), x, y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"critic must take n rows of x and m of y as critic(x, y), got {name}: {error}") from error
    shape = getattr(scores, "shape", None)
    if shape != (2, 3):
        text = f"critic must score n rows of x against m of y, shape (n, m), got shape {shape} of 2 and 3"
        raise ValueError(f"{text} by {name}")


def _recipe(
    estimator: str,
    critic: nn.Module | None,
    *,
    num_train: int,
    steps: int,
    batch: int | None,
    negatives: int | None,
    learning_rate: float,
    patience: int,
    pairs: int,
) -> Recipe:
    """The recipe of these options, each checked; the defaults are those that `benchmarks.estimates` favours."""
    logistic, cheap = estimator in ("smile", "js"), isinstance(critic, networks.SeparableCritic | networks.BilinearCritic)
    by_pair = logistic and not cheap
    if batch is None:
        batch = min(num_train, 512 if by_pair else 256 if cheap else 128)
    if not 2 <= _checks.positive_int(batch, "batch") <= num_train:
        raise ValueError(f"batch must be at least 2 and at most the {num_train} training rows, got {batch}")
    if negatives is not None and critic is None:
        raise ValueError(f"negatives must not be given with {estimator}, which learns densities, got {negatives}")
    if negatives is None:
        negatives = min(batch, 8) - 1 if by_pair else batch - 1
    if not _checks.positive_int(negatives, "negatives") < batch:
        raise ValueError(f"negatives must be fewer than the {batch} pairs of a batch, got {negatives}")
    group = negatives + 1
    if estimator == "mine" and group < batch:
        text = f"negatives must be all {batch - 1} others with mine, whose moving average is of whole batches"
        raise ValueError(f"{text}, got {negatives}")
    _checks.positive(learning_rate, "learning_rate")
    if _checks.positive_int(pairs, "pairs") < 2:
        raise ValueError(f"pairs must be at least 2, got {pairs}")
    counts = ("steps", steps), ("patience", patience)
    rounds, patient = (max(1, round(_checks.positive_int(value, name) / EVERY)) for name, value in counts)
    return Recipe(estimator, critic, batch // group * group, group, rounds, patient, float(learning_rate), pairs)


def one_key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key, or key 0 if none is given."""
    if key is None:
        return jax.random.key(0)
    if not _checks.is_key(key):
        raise TypeError(
            f"key must be a typed key, from jax.random.key(seed), got {getattr(key, 'dtype', type(key).__name__)}"
        )
    if key.shape:
        raise ValueError(f"key must be one key, got shape {key.shape}")
    return key


def _devices(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device] | None:
    if devices is None:
        return None
    found = tuple(devices) if isinstance(devices, Iterable) else (devices,)
    if not isinstance(devices, Iterable) or not all(isinstance(device, jax.Device) for device in found):
        raise TypeError(f"devices must be a sequence of JAX devices, got {devices!r}")
    return found


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator, seeded by a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _orders(num_rows: int, permutations: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The order of y in the data, and then in data sets without dependence, one after another."""
    if isinstance(permutations, bool) or not isinstance(permutations, int | np.integer):
        raise TypeError(f"permutations must be an integer, got {type(permutations).__name__}")
    if permutations < 0:
        raise ValueError(f"permutations must not be negative, got {permutations}")
    return itertools.chain([np.arange(num_rows)], (rng.permutation(num_rows) for _ in range(permutations)))


def _fit_all(
    fit: Callable[..., tuple[list[Fitted], Seconds]], orders: Iterator[np.ndarray], count: int, rows_a_set: int
) -> tuple[Fitted, Float[np.ndarray, " m"], Seconds]:
    """Fits the data, and the permuted sets beside them, as many at once as fit the memory: `count` in all."""
    size = min(count, max(1, ROWS_AT_ONCE // rows_a_set))
    fitted: list[Fitted] = []
    means: list[float] = []
    seconds = Seconds(0.0, 0.0, 0.0)
    while group := list(itertools.islice(orders, size)):
        found, spent = fit(orders=group + group[:1] * (size - len(group)))
        if not fitted:
            fitted.append(jax.tree.map(np.array, found[0]))  # copied, so that the other sets can be freed
        means += [_mean(_per_seed(one)) for one in found[: len(group)]]
        seconds = Seconds(*(old + new for old, new in zip(seconds, spent, strict=True)))
    return fitted[0], np.array(means[1:]), seconds


class _Combined(NamedTuple):
    mi: float
    stderr: float
    interval: tuple[float, float]
    allowance: tuple[float, float]
    per_seed: Float[np.ndarray, " seeds"]
    training_error: float


def _per_seed(fitted: Fitted) -> Float[np.ndarray, " seeds"]:
    """The estimates, NaN where the seed cannot be used."""
    values = np.asarray(fitted.held_out.value, float)
    return np.where(fitted.diverged | ~np.isfinite(values), np.nan, values)


def _mean(per_seed: Float[np.ndarray, " seeds"]) -> float:
    usable = per_seed[np.isfinite(per_seed)]
    return float(usable.mean()) if usable.size else math.nan


def _combined(fitted: Fitted, parts: Sequence[cross_fitting.Split], num_rows: int, confidence: float) -> _Combined:
    """The seeds' mean and its error, of seeds that share rows."""
    from scipy import stats

    held, per_seed = fitted.held_out, _per_seed(fitted)
    usable = np.flatnonzero(np.isfinite(per_seed))
    if not usable.size:
        nothing = math.nan, math.nan
        return _Combined(math.nan, math.nan, nothing, nothing, per_seed, math.nan)
    by_row = np.zeros(num_rows)
    within = np.zeros(usable.size)
    for place, seed in enumerate(usable.tolist()):
        influence = np.asarray(held.influence[seed], float)
        tested = parts[seed].test[: influence.size]
        by_row[tested] += influence / (influence.size * usable.size)
        within[place] = np.var(influence, ddof=1) / influence.size
    values = per_seed[usable]
    # Not over the number of seeds: they train on mostly the same rows, and so err together.
    between = max(0.0, float(np.var(values, ddof=1) - within.mean())) if usable.size > 1 else 0.0
    freedom = max(1, usable.size - 1)
    by_chance = stats.chi2.isf(0.01, freedom) / freedom * within.mean()
    training_error = math.sqrt(between) if between + within.mean() > by_chance else 0.0
    mi, stderr = _mean(per_seed), math.sqrt(float(by_row @ by_row) + between)
    down, up = _allowance(held, usable)
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) * stderr
    return _Combined(mi, stderr, (mi - reach - down, mi + reach + up), (down, up), per_seed, training_error)


def _allowance(held: HeldOut, usable: np.ndarray) -> tuple[float, float]:
    """What the interval reaches further down, and up, than the estimate's standard error; see `Estimate`."""

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values[usable], dtype=float))

    mi, unnormalised = mean(held.value), abs(mean(held.log_normaliser))
    up = max(0.0, mean(held.train) - mi) + (unnormalised if math.isfinite(unnormalised) else 0.0)
    if math.isnan(mean(held.clipped_joint)):  # not SMILE
        return 0.0, up
    clipped = -math.log1p(-min(mean(held.clipped_joint), 1 - 1e-6))
    return min(clipped, max(0.0, mi - mean(held.others["dv"]))), up


def _independence(observed: float, statistics: Float[np.ndarray, " m"], rng: np.random.Generator) -> Independence:
    if math.isnan(observed):
        return Independence(math.nan, statistics)
    not_below = int(np.sum(~(statistics <= observed)))  # NaN among them
    ties = int(np.sum(statistics == observed))
    return Independence((1 + not_below + int(rng.integers(ties + 1))) / (1 + statistics.size), statistics)
