"""An experiment that only counts, for tests of what runs experiments."""

import threading
from dataclasses import dataclass

from benchmarks.lib import machine, rows, runner


@dataclass(frozen=True)
class Cell:
    """A cell whose repeats cost so many seconds, as its rows say."""

    name: str
    cost: float = 1.0

    @property
    def label(self):
        return f"cell {self.name}"


class Counting:
    """Rows whose result is their seed; keeps what was compiled and run."""

    def __init__(self):
        self.compiled, self.ran, self.threads = [], [], set()

    def compile(self, cell, number):
        self.compiled.append((cell.name, number))
        self.threads.add(threading.current_thread())
        return f"program of {number}"

    def run(self, group, program, progress):
        assert program == f"program of {len(group.repeats)}"
        self.ran.append((group.cell.name, list(group.repeats)))
        for done, seed in enumerate(group.repeats, 1):
            progress(done, len(group.repeats))
            config = {"name": group.cell.name, "cost": group.cell.cost, "seed": seed}
            seconds = {"compile": 1.0, "run": group.cell.cost}
            yield rows.Row("counting", config, machine.environment(), 0, seconds, {"seed": seed})

    def experiment(self, wanted, **changes):
        experiment = runner.Experiment(
            name="counting",
            wanted=wanted,
            covers=lambda config: (Cell(config["name"], config["cost"]), [config["seed"]]),
            predict=lambda on_disk: lambda cell: cell.cost,
            run=self.run,
            compile=self.compile,
            compile_guess=0.0,
        )
        return experiment._replace(**changes)
