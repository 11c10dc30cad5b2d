"""`Estimate`: the number, its error, and everything it rests on; and the difference of two of them."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from mi_jax import _checks
from mi_jax.estimation import saving
from mi_jax.estimation.columns import Columns
from mi_jax.estimation.combine import Independence, make_interval
from mi_jax.estimation.config import EVERY, READ_OUTS, FitConfig
from mi_jax.estimation.cross_fitting import Seconds
from mi_jax.estimation.diagnostics import Diagnostics
from mi_jax.estimation.units import Units
from mi_jax.models import Variables


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """An estimate of mutual information, from `estimate`.

    Attributes:
      mi: the mean over the folds, in nats.
      stderr: its standard error. It covers the sampling of the test rows (each row's influence) and how much the folds
        differ beyond that (splits, starts, training).
      interval: (low, high): mi ∓ t stderr, widened by `allowance`, with t of the level `confidence`: Student's, with one
        degree of freedom less than there are rows, groups or blocks.
      allowance: (down, up), in nats. Down is what SMILE's clipping may have added: the difference from DV, but at most
        -log(1 - p), where p is the share of joint pairs that is clipped. Up is the train-test gap, if positive, plus
        abs(log E_Q[r]); or more, if a Gaussian relation could share more than the interval holds without its showing in the
        correlations of so few rows. A held-out estimate is too low by as much as the critic is wrong, which no resampling
        shows. Structure that this critic cannot represent is not covered.
      confidence: the nominal level of the interval.
      per_fold: (folds,) estimates, each from its own test rows, repeat after repeat; NaN for a fold that diverged, or whose
        estimate is not finite. Folds share training rows, so their spread over √folds is no standard error.
      influence: (n,) each row's influence, in nats: mi is off by about the mean of them, so the sampling part of `stderr`
        is their root mean square over √n, after sums over groups or blocks. `compare` pairs two estimates by it.
      history: name -> (folds, rounds): "validation_loss", and read-outs of training batches, a round being 50 steps; NaN
        after the stop. Where critics were stacked, those of the second follow, named "canonical_validation_loss" and so on.
        These are of training rows: nothing in it is an estimate.
      diagnostics: what the estimate rests on.
      warnings: name -> what is wrong; empty if nothing is known to be.
      independence: the permutation test, if one was asked for.
      config: what was trained, and how.
      seconds: where the time went.
      columns: the maps from rows to the columns that were used, of x and of y.
      units: which rows count as one, by `groups` or `blocks`.
      variables: the model's variables of each fold, each leaf with a leading axis of folds.
      unit: "nats" or "bits".
    """

    mi: float
    stderr: float
    interval: tuple[float, float]
    allowance: tuple[float, float]
    confidence: float
    per_fold: Float[np.ndarray, " folds"]
    influence: Float[np.ndarray, " n"]
    history: Mapping[str, Float[np.ndarray, "folds rounds"]]
    diagnostics: Diagnostics
    warnings: Mapping[str, str]
    independence: Independence | None
    config: FitConfig
    seconds: Seconds
    columns: tuple[Columns, Columns]
    units: Units
    variables: Variables
    unit: str = "nats"

    def __repr__(self) -> str:
        low, high = self.interval
        interval = f"{100 * self.confidence:.6g}% interval {low:.3f} to {high:.3f}"
        lines = [f"{self.mi:.3f} {self.unit} ± {self.stderr:.3f}, {interval} ({self._describe_fit()})"]
        if self.independence is not None:
            test = self.independence
            lines.append(f"independence: p = {test.p_value:.3g} ({test.permutations} permutations)")
        return "\n".join([*lines, *(f"warning, {name}: {text}" for name, text in self.warnings.items())])

    def _describe_fit(self) -> str:
        folds = f"{len(self.per_fold)} fold{'s' if len(self.per_fold) > 1 else ''}"
        return f"{self.config.estimator}{self.describe_critic()}{self.describe_components()}, {folds}"

    def describe_critic(self) -> str:
        """The critic, or those candidates that have any weight, with its mean over the folds."""
        weights = list(self.diagnostics.weights.values())
        names = [type(one.critic).__name__ for one in self.config.candidates]
        kept = [(name, each) for name, each in zip(names, weights, strict=True) if any(each)]
        if not kept:
            untrained = "" if self.config.rounds else " in closed form"
            return "" if self.config.critic is None else f", {type(self.config.critic).__name__}{untrained}"
        if len(kept) == 1 and set(kept[0][1]) == {1.0}:
            return f", {kept[0][0]}"
        return ", " + " + ".join(f"{np.mean(each):.2f} {name}" for name, each in kept)

    def describe_components(self) -> str:
        """Of which sides independent components were taken for columns."""
        unmixed = [columns.name for columns in self.columns if columns.unmixing is not None]
        return f", components of {' and '.join(unmixed)}" if unmixed else ""

    def in_bits(self) -> "Estimate":
        """The same estimate in bits; `diagnostics`, `history` and `independence` stay in nats."""
        bits = 1.0 if self.unit == "bits" else 1 / math.log(2)
        return dataclasses.replace(
            self,
            mi=self.mi * bits,
            stderr=self.stderr * bits,
            interval=(self.interval[0] * bits, self.interval[1] * bits),
            allowance=(self.allowance[0] * bits, self.allowance[1] * bits),
            per_fold=self.per_fold * bits,
            influence=self.influence * bits,
            unit="bits",
        )

    def pointwise(self, x: Any, y: Any) -> Float[np.ndarray, " n"]:
        """The log density ratio of paired rows, averaged over the folds.

        Formula: log p(x_i, y_i) / (p(x_i) p(y_i)), as the critics that learn it give it. Its mean over the joint is the MI
        as far as the ratio is a valid one; `mi` normalises it as the estimator does.

        Args:
          x: (n, *x_shape) rows.
          y: (n, *y_shape) their partners.

        Returns:
          (n,) nats; NaN if all folds diverged. For rows that the folds trained on it is too favourable.

        Raises:
          ValueError: if the rows have other shapes than those of the data; or if the estimator is InfoNCE, which knows the
            ratio only up to a function of x, or DV or MINE, which know it up to a constant.
        """
        if READ_OUTS[self.config.estimator] in ("infonce", "dv"):
            text = "pointwise needs an estimator that learns the log ratio itself, such as smile"
            raise ValueError(f"{text}, got {self.config.estimator}")
        rows = tuple(columns(rows) for columns, rows in zip(self.columns, (x, y), strict=True))
        _checks.same_rows(x=rows[0], y=rows[1])
        ratios = jax.jit(jax.vmap(self.config.model().log_ratio, in_axes=(0, None, None)))(self.variables, *rows)
        usable = np.isfinite(self.per_fold)
        return np.mean(np.asarray(ratios)[usable], axis=0) if usable.any() else np.full(len(rows[0]), np.nan)

    def save(self, path: str | Path) -> None:
        """Writes everything to an .npz file of arrays and JSON; `mi_jax.load` reads it.

        Args:
          path: the file. If it is there, it is replaced, whole or not at all.
        """
        saving.save(self, path)

    def plot(self) -> Any:
        """The validation losses of the folds, and their estimates beside the interval, as a Matplotlib figure.

        Raises:
          ImportError: if Matplotlib is not installed (`pip install 'mi-jax[plot]'`).
        """
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        losses = self.history["validation_loss"]
        for fold, (values, best) in enumerate(zip(losses, self.diagnostics.best_step, strict=True)):
            steps = EVERY * (1 + np.arange(values.size))
            (line,) = left.plot(steps, values, lw=1, label=f"fold {fold}")
            if 0 < best <= EVERY * values.size:  # of a stack, it may be another critic's
                left.plot(best, values[best // EVERY - 1], "o", ms=4, color=line.get_color())
        trained = "Training (dot: read out there; none: at the start)"
        left.set(xlabel="step", ylabel="validation loss", title=trained if self.config.rounds else "Nothing to train")
        right.axhspan(*self.interval, color="C0", alpha=0.15, lw=0, label=f"{self.confidence:.0%} interval")
        right.axhline(self.mi, color="C0", lw=1, label="estimate")
        right.plot(np.arange(len(self.per_fold)), self.per_fold, "o", color="C0", label="folds")
        right.set(xlabel="fold", ylabel=self.unit, title=f"{self.mi:.3f} {self.unit}", xticks=np.arange(len(self.per_fold)))
        right.legend(frameon=False, fontsize="small")
        return figure


def load(path: str | Path, critic: nn.Module | None = None) -> Estimate:
    """Reads an estimate that `Estimate.save` wrote. It never loads a pickle.

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
      >>> result = mi_jax.estimate(x, y, critic="bilinear", steps=50)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     result.save(os.path.join(folder, "mi.npz"))
      ...     again = mi_jax.load(os.path.join(folder, "mi.npz"))
      >>> again.mi == result.mi
      True
    """
    return Estimate(**saving.read_fields(path, critic))


class Difference(NamedTuple):
    """The difference of two estimates of the same rows, from `compare`.

    Attributes:
      mi: a.mi - b.mi.
      stderr: its standard error: the sampling of the rows, which both share, and the training of each.
      interval: (low, high): mi ∓ t stderr, widened by `allowance`, as that of `Estimate`.
      allowance: (down, up): down what a may be too high and b too low by, up the reverse; see `Estimate`.
      confidence: the nominal level of the interval.
      unit: "nats" or "bits".
    """

    mi: float
    stderr: float
    interval: tuple[float, float]
    allowance: tuple[float, float]
    confidence: float
    unit: str

    def __repr__(self) -> str:
        low, high = self.interval
        interval = f"{100 * self.confidence:.6g}% interval {low:.3f} to {high:.3f}"
        return f"difference {self.mi:.3f} {self.unit} ± {self.stderr:.3f}, {interval}"


def compare(a: Estimate, b: Estimate) -> Difference:
    """The difference of two estimates of the same rows, with a paired interval.

    Formula: a.mi - b.mi, with the variance Σ_i (ψ_i - φ_i)² / n² + v_a + v_b, where ψ and φ are the influences of row i on
    both, and v is what each estimate's own variance has beyond its rows (splits, starts, training).

    Row i of both estimates must be the same sample, such as two sets of columns of one table, or the same data under two
    estimators. What a row adds to both cancels; two separate intervals would count it twice.

    Args:
      a: an estimate.
      b: another one, of as many rows, in the same unit and at the same confidence.

    Returns:
      A `Difference`, in the unit of both.

    Raises:
      TypeError: if one is no `Estimate`.
      ValueError: if they have other numbers of rows, groups or blocks, units of information, or confidences.

    Example:
      >>> import jax
      >>> import mi_jax
      >>> x, y = mi_jax.tasks.gaussian(dim=2, mi=1.0).sample(jax.random.key(0), 500)
      >>> options = {"critic": "bilinear", "steps": 50}
      >>> both, first = mi_jax.estimate(x, y, **options), mi_jax.estimate(x[:, :1], y, **options)
      >>> difference = mi_jax.compare(both, first)
      >>> difference.stderr < (both.stderr**2 + first.stderr**2) ** 0.5
      True

    Source: van der Vaart (1998), "Asymptotic Statistics", Section 20.1, for influence functions.
    """
    for name, given in (("a", a), ("b", b)):
        _checks.instance(given, Estimate, name)
    for name in ("unit", "confidence"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(f"a and b must have the same {name}, got {getattr(a, name)} and {getattr(b, name)}")
    if a.influence.size != b.influence.size:
        text = f"a and b must be estimates of the same rows, got {a.influence.size} and {b.influence.size} rows"
        raise ValueError(text)
    if not np.array_equal(a.units.of_row, b.units.of_row):
        raise ValueError("a and b must have the same groups or blocks, got different ones")
    training = sum(max(0.0, one.stderr**2 - _sampling_variance(one.influence, a.units)) for one in (a, b))
    mi, stderr = a.mi - b.mi, math.sqrt(_sampling_variance(a.influence - b.influence, a.units) + training)
    allowance = a.allowance[0] + b.allowance[1], a.allowance[1] + b.allowance[0]
    interval = make_interval(mi, stderr, allowance, a.confidence, a.units.number - 1)
    return Difference(mi, stderr, interval, allowance, a.confidence, a.unit)


def _sampling_variance(influence: Float[np.ndarray, " n"], units: Units) -> float:
    """The variance of an estimate by the sampling of its rows, or groups, or blocks."""
    sums = units.sums(influence) / influence.size
    return float(sums @ sums) * units.number / (units.number - 1)
