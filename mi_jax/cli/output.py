"""What the command line tells: progress while it trains, a table to read, and JSON for programs."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from mi_jax.cli.files import Samples, list_names
from mi_jax.consistency import SelfConsistency
from mi_jax.cross_fitting import EVERY
from mi_jax.estimation import Estimate
from mi_jax.training.seeds import Report

# Without tqdm's steps a second, which would count the compilation.
BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} steps, {elapsed}{postfix}"
PAUSE = 5.0  # seconds between the first two lines of a log; each pause is half as long again as the last


class Progress:
    """Training as it goes on: a bar on a terminal; elsewhere a few plain lines, the longer it takes the rarer.

    A context manager, called with each `Report`. Where a report counts fewer steps than the last, the next data set has
    begun. A log has no line before the first report, so that bad input leaves nothing but the error in it.
    """

    def __init__(self, what: str, part: str = "data set", file: TextIO | None = None) -> None:
        self.what, self.part = what, part
        self.file = sys.stderr if file is None else file
        self.bar: tqdm | None = None
        self.number, self.done = 0, 0
        self.start = time.monotonic()
        self.next_line, self.pause = 0.0, PAUSE

    def __enter__(self) -> "Progress":
        if self.file.isatty():
            self.bar = tqdm(desc=f"{self.what}: compiling", bar_format="{desc}", leave=False, file=self.file, disable=False)
        return self

    def __call__(self, report: Report) -> None:
        done, steps = report.done * EVERY, report.steps * EVERY
        self.number += not 0 < self.done < done
        self.done = done
        part = "" if self.number == 1 else f" of {self.part} {self.number}"
        ends = report.nats["validation_loss"][:, -1]
        seeds = f"{np.isfinite(ends).sum()} of {ends.size} fits still train"
        if self.bar is not None:
            self.bar.total, self.bar.n, self.bar.bar_format = steps, done, BAR
            self.bar.set_description(f"{self.what}{part}", refresh=False)
            self.bar.set_postfix_str(seeds, refresh=False)
            self.bar.refresh()
        elif self._elapsed() >= self.next_line:
            self._print(f"step {done:,} of at most {steps:,}{part}, {seeds}, {self._elapsed():.0f} s")
            self.next_line, self.pause = self._elapsed() + self.pause, 1.5 * self.pause

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None:
            self._print(f"done, {self._elapsed():.0f} s")

    def _elapsed(self) -> float:
        return time.monotonic() - self.start

    def _print(self, text: str) -> None:
        print(f"{self.what}: {text}", file=self.file, flush=True)


def format_samples(samples: Samples) -> str:
    """What was read, in a line.

    Example:
      >>> import numpy as np
      >>> from mi_jax.cli import files, output
      >>> output.format_samples(files.Samples(np.zeros((9, 2)), np.zeros(9), ("a", "b"), ("c",), dropped=1))
      '9 rows (1 with a missing entry left out); x: a, b; y: c'
    """
    dropped = f" ({samples.dropped:,} with a missing entry left out)" if samples.dropped else ""
    parts = (
        f"{name}: {list_names(names)}{_shape(rows, names)}"
        for name, rows, names in (("x", samples.x, samples.x_names), ("y", samples.y, samples.y_names))
    )
    return "; ".join([f"{len(samples.x):,} rows{dropped}", *parts])


def _shape(rows: np.ndarray, names: Sequence[str]) -> str:
    """Of an array the shape of its rows, of a table's columns nothing."""
    return "" if rows.shape[1:] in ((), (len(names),)) else f" of shape {rows.shape[1:]}"


def format_estimate(result: Estimate, samples: Samples, seconds: Mapping[str, float], *, bits: bool = False) -> str:
    """A table of what an estimate says, for people, and the warnings in full.

    Args:
      result: the estimate, in nats.
      samples: what it is of.
      seconds: name -> where the time went.
      bits: whether to tell the estimate in bits; the diagnostics are in nats.
    """
    shown = result.in_bits() if bits else result
    low, high = shown.interval
    values = ", ".join(f"{value:.3f}" for value in shown.per_seed)
    lines = [
        ("mutual information", f"{shown.mi:.3f} {shown.unit}, standard error {shown.stderr:.3f}"),
        (f"{shown.confidence * 100:g} % interval", f"{low:.3f} to {high:.3f}"),
        ("that covers", _covers(shown)),
        ("and not", "what no critic of this kind would find in so many rows"),
        *_of_independence(result),
        ("seeds", f"{len(shown.per_seed)}: {values}"),
        ("data", format_samples(samples)),
        ("fit", _of_fit(result)),
        *_of_diagnostics(result),
        ("seconds", ", ".join(f"{value:.1f} {name}" for name, value in seconds.items())),
        ("warnings", "none" if not result.warnings else f"{len(result.warnings)}"),
    ]
    table = tabulate(lines, tablefmt="plain", disable_numparse=True)
    return "\n".join([table, *(f"warning, {name}: {text}" for name, text in result.warnings.items())])


def _covers(shown: Estimate) -> str:
    down, up = shown.allowance
    text = "sampling of test rows, splits, starts and training"
    if down > 0:
        text += f"; downwards {down:.3f} more, for what clipping may have added"
    if up > 0:
        text += f"; upwards {up:.3f} more, for what the fit is known to miss"
    return text


def _of_independence(result: Estimate) -> list[tuple[str, str]]:
    if result.independence is None:
        return []
    p_value, statistics = result.independence
    return [("independence", f"p = {p_value:.3g}, of {statistics.size} permuted data sets")]


def _of_fit(result: Estimate) -> str:
    recipe = result.recipe
    critic = "densities" if recipe.critic is None else type(recipe.critic).__name__
    against = "" if recipe.critic is None else f" against {recipe.group - 1} others each"
    return f"{recipe.estimator}, {critic}, batches of {recipe.batch} pairs{against}, at most {recipe.rounds * EVERY:,} steps"


def _of_diagnostics(result: Estimate) -> list[tuple[str, str]]:
    """Those that have a meaning for this estimator."""
    told = result.diagnostics
    clipped = f"{told.tau:.3g}: clips {told.clipped_joint:.1%} of the joint pairs, {told.clipped_pairs:.2%} of the others"
    steps = f"{', '.join(map(str, told.best_step))} of {', '.join(map(str, told.last_step))}"
    others = ", ".join(f"{value:.3f} {name}" for name, value in told.read_outs.items())
    lines = [
        ("ceiling", told.ceiling, f"{told.ceiling:.2f} nats, which InfoNCE cannot exceed"),
        ("tau", told.tau, clipped),
        ("E_Q[r]", told.log_normaliser, f"{math.exp(min(told.log_normaliser, 99.0)):.3g}, and 1 of a density ratio"),
        ("effective pairs", told.effective_pairs, f"{told.effective_pairs:,.0f} of {told.pairs:,.0f} a seed"),
        ("train, test", told.train, f"{told.train:.3f}, {result.mi:.3f} nats"),
        ("others", 0.0 if others else math.nan, f"{others} nats, read out of the same critic"),
        ("best steps", 0.0, steps),
    ]
    # InfoNCE's ceiling is no concern of the others, and E_Q[r] none of InfoNCE's.
    unless = {"E_Q[r]", "effective pairs"} if result.recipe.estimator in ("infonce", "cpc") else {"ceiling"}
    return [(name, text) for name, value, text in lines if name not in unless and not math.isnan(value)]


def format_check(found: SelfConsistency, samples: Samples, seconds: Mapping[str, float]) -> str:
    """The verdicts of the self-consistency tests as a table, each with its estimates below it."""
    rows, estimates = [], []
    for row in found.table():
        name, says, ratio, low, high, verdict = (
            row.pop(key) for key in ("property", "says", "ratio", "low", "high", "verdict")
        )
        rows.append([name, says, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", verdict])
        estimates.append(f"{name}: " + ", ".join(f"{what} = {value:.3f} nats" for what, value in row.items()))
    table = tabulate(rows, ["property", "says", "ratio", "interval", "verdict"], tablefmt="simple", disable_numparse=True)
    spent = ", ".join(f"{value:.1f} {name}" for name, value in seconds.items())
    return "\n".join([table, "", *estimates, "", f"data: {format_samples(samples)}", f"seconds: {spent}"])


def to_json(
    result: Estimate | SelfConsistency, samples: Samples, seconds: Mapping[str, float], *, bits: bool = False
) -> dict[str, Any]:
    """The same for programs, as what `json` writes; null where a number is not finite."""
    told = _consistency(result) if isinstance(result, SelfConsistency) else _estimate(result, bits)
    data = {"rows": len(samples.x), "x": samples.x_names, "y": samples.y_names, "dropped": samples.dropped}
    found: dict[str, Any] = plain(told | {"data": data, "seconds": seconds})
    return found


def _estimate(result: Estimate, bits: bool) -> dict[str, Any]:
    shown = result.in_bits() if bits else result
    recipe = result.recipe
    trained = {
        "estimator": recipe.estimator,
        "critic": None if recipe.critic is None else type(recipe.critic).__name__,
        "batch": recipe.batch,
        "negatives": recipe.group - 1,
        "steps": recipe.rounds * EVERY,
        "patience": recipe.patience * EVERY,
        "learning_rate": recipe.learning_rate,
        "pairs": recipe.pairs,
    }
    names = ("mi", "stderr", "interval", "allowance", "confidence", "unit", "per_seed", "warnings")
    return {name: getattr(shown, name) for name in names} | {
        "independence": result.independence,
        "diagnostics": {"unit": "nats"} | result.diagnostics._asdict(),
        "recipe": trained,
    }


def _consistency(found: SelfConsistency) -> dict[str, Any]:
    return {"passes": found.passes, "unit": "nats", "properties": list(found)}


def plain(value: Any) -> Any:
    """Named tuples and arrays as dicts and lists, and None for a number that is not finite.

    Example:
      >>> import numpy as np
      >>> from mi_jax.cli import output
      >>> output.plain({"per_seed": np.array([0.5, np.nan])})
      {'per_seed': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
