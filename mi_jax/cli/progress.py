"""Progress while a command trains: a bar on a terminal, a few lines in a log."""

import sys
import time
from types import TracebackType
from typing import TextIO

import numpy as np
from tqdm import tqdm

from mi_jax.estimation.config import EVERY
from mi_jax.training import Report

# tqdm's own bar also has steps per second, which would count the seconds of the compilation.
BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} steps, {elapsed}{postfix}"
PAUSE = 5.0  # seconds between the first two lines of a log; each pause is half as long again as the one before


class Progress:
    """Shows how far the training is: a bar on a terminal, and elsewhere a few plain lines, which become rarer with time.

    Use it as a context manager, and call it with each `Report`. When a report counts fewer steps than the one before, the
    next data set has begun. A log gets no line before the first report, so if the input is bad, the error is the only line.
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
        running = f"{np.isfinite(ends).sum()} of {ends.size} folds are still training"
        if self.bar is not None:
            self.bar.total, self.bar.n, self.bar.bar_format = steps, done, BAR
            self.bar.set_description(f"{self.what}{part}", refresh=False)
            self.bar.set_postfix_str(running, refresh=False)
            self.bar.refresh()
        elif self._elapsed() >= self.next_line:
            self._print(f"step {done:,} of at most {steps:,}{part}, {running}, {self._elapsed():.0f} s")
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
