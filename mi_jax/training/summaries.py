"""What a study found: the bias, the variances and the MSE of every read-out under every setting.

There are three variances, and they are never mixed: over batches at a fixed critic; over seeds at a fixed iteration; and
over the iterations of a run, which is what Table 2 of the paper prints.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from mi_jax.training.trainer import TrainState


class Summary(NamedTuple):
    """One read-out under one setting, over its runs; all in nats, or nats squared.

    Attributes:
      settings: name -> value.
      read_out: its name.
      truth: the true mutual information, or NaN.
      mean: of the estimates, over the iterations of the window and the runs.
      mean_error: the standard error of `mean`, by the spread of the runs' own means; NaN for one run.
      bias: mean - truth; negative is too low.
      batch_variance: over fresh batches at the *fixed*, final critic; the mean over runs. Theorem 2 is about this one.
      seed_variance: over runs at a *fixed iteration*, averaged over the window: the variance that someone who trains once
        gets; NaN for one run.
      iteration_variance: over the *iterations* of one run's window, ddof = 0; the mean over runs. Table 2 prints this one.
      mse: the mean over runs of (the run's bias)² + its iteration variance.
      runs: how many runs these are taken over.
      left_out: how many finished runs are not, because they diverged or gave a non-finite estimate.
    """

    settings: Mapping[str, float]
    read_out: str
    truth: float
    mean: float
    mean_error: float
    bias: float
    batch_variance: float
    seed_variance: float
    iteration_variance: float
    mse: float
    runs: int
    left_out: int


class Study(NamedTuple):
    """The runs of a study, by setting and seed.

    Attributes:
      settings: name -> (settings,) values.
      truth: (settings,) true mutual information, in nats; NaN where it is not known.
      history: name -> (settings, seeds, steps) read-outs in nats, each of the parameters before that step's update.
      fixed: name -> (settings, seeds, batches) read-outs of fresh batches at the final parameters.
      states: the final `TrainState`s, each leaf with leading axes (settings, seeds).
      finished: (settings, seeds) whether a run is here. Runs of another process are not; they are NaN and zeros.
      diverged: (settings, seeds) whether it diverged, and was frozen.
      window: how many of the last iterations count.
      compile_seconds: time to compile.
      run_seconds: time to run what this call ran, without the time to compile.
    """

    settings: Mapping[str, np.ndarray]
    truth: np.ndarray
    history: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    states: TrainState
    finished: Bool[np.ndarray, "settings seeds"]
    diverged: Bool[np.ndarray, "settings seeds"]
    window: int
    compile_seconds: float
    run_seconds: float

    def summaries(self) -> list[Summary]:
        """Bias, the three variances and MSE of every read-out under every setting; see `Summary`."""
        return [self._summary(place, name) for place in range(len(self.truth)) for name in self.history]

    def table(self) -> list[dict[str, Any]]:
        """`summaries` as flat rows, for `tabulate(rows, headers="keys")`, pandas or a CSV writer."""
        return [{**row.settings, **{k: v for k, v in row._asdict().items() if k != "settings"}} for row in self.summaries()]

    def left_out(self) -> list[str]:
        """The names of the runs that are in no average, each with the reason."""
        names = []
        for place, seed in np.argwhere(self.finished):
            read_outs = [name for name in self.history if not self._usable(name)[place, seed]]
            if read_outs:
                reason = (
                    f"diverged at step {int(self.states.step[place, seed])}" if self.diverged[place, seed] else "not finite"
                )
                where = "".join(f"{name} {values[place]:g}, " for name, values in self.settings.items())
                names.append(f"{where}seed {seed}: {reason} ({', '.join(read_outs)})")
        return names

    def _usable(self, name: str) -> Bool[np.ndarray, "settings seeds"]:
        last, fixed = self.history[name][..., -self.window :], self.fixed[name]
        return self.finished & ~self.diverged & np.isfinite(last).all(axis=-1) & np.isfinite(fixed).all(axis=-1)

    def _summary(self, place: int, name: str) -> Summary:
        usable = self._usable(name)[place]
        last = np.asarray(self.history[name][place, usable, -self.window :], np.float64)
        fixed = np.asarray(self.fixed[name][place, usable], np.float64)
        truth, runs, several = float(self.truth[place]), len(last), len(last) > 1
        means, variances = (last.mean(axis=1), last.var(axis=1)) if runs else (np.array([math.nan]),) * 2
        return Summary(
            settings={setting: float(values[place]) for setting, values in self.settings.items()},
            read_out=name,
            truth=truth,
            mean=float(means.mean()),
            mean_error=float(means.std(ddof=1) / math.sqrt(runs)) if several else math.nan,
            bias=float(means.mean() - truth),
            batch_variance=float(fixed.var(axis=1, ddof=1).mean()) if runs else math.nan,
            seed_variance=float(last.var(axis=0, ddof=1).mean()) if several else math.nan,
            iteration_variance=float(variances.mean()),
            mse=float(((means - truth) ** 2 + variances).mean()),
            runs=runs,
            left_out=int(self.finished[place].sum()) - runs,
        )
