"""What a study trains: its runs, in order, and their one compiled program."""

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from mi_jax import _checks
from mi_jax.training import runs
from mi_jax.training.layout import Layout, Mapped, layout
from mi_jax.training.trainer import Inputs, Trainer, TrainState, fixed_read_outs, from_inputs

Settings = Mapping[str, Any]
Place = tuple[int, int]  # (setting, seed) of a run


class Result(NamedTuple):
    """One run, as it is kept: the final state, the history, and the read-outs of fresh batches at that state."""

    state: TrainState
    history: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]


class Programs(NamedTuple):
    """The compiled training of some runs at once, and the compiled read-outs at their final parameters."""

    train: runs.Program
    fixed: Any


class Plan:
    """What a study trains. Its programs are compiled when the first run needs them."""

    def __init__(
        self,
        make_trainer: Callable[[Settings], Trainer],
        columns: Mapping[str, np.ndarray],
        keys: Key[Array, " seeds"],
        *,
        steps: int,
        batches: int,
        chunk: int,
        at_once: int | None,
        devices: Sequence[jax.Device] | None,
        mapped: Mapped | None,
    ):
        self.trainer = from_inputs(lambda inputs: make_trainer(dict(inputs.per_run)))
        self.columns, self.keys = columns, keys
        self.steps, self.batches, self.chunk = steps, batches, chunk
        self.num_settings, self.num_seeds = len(next(iter(columns.values()))), len(keys)
        self.at_once = None if at_once is None else _checks.positive_int(at_once, "at_once")
        self.layout: Callable[[int], Layout] = functools.partial(layout, devices=devices, mapped=mapped)
        self.programs = functools.cache(self._compile)
        self.compile_seconds = 0.0

    def size(self, missing: int) -> int:
        """How many of so many missing runs are trained at once."""
        plan = self.layout(missing)
        default = len(plan.devices) if plan.mapped == "map" else missing
        return min(missing, self.at_once or default)

    def _compile(self, size: int) -> Programs:
        start, plan, (key, inputs) = time.perf_counter(), self.layout(size), self.example()
        options: dict[str, Any] = {"steps": self.steps, "chunk": self.chunk, "key": key, "inputs": inputs}
        train = runs.compile_training(self.trainer, plan, **options, wait=False)
        read = lambda state, inputs: fixed_read_outs(self.trainer, state, self.batches, inputs)  # noqa: E731
        placed = plan.placed_shapes(jax.eval_shape(lambda: self.inputs([(0, 0)] * size)))
        fixed = plan.compile(read, jax.eval_shape(plan.split, train.states), placed)
        train.wait()
        fixed.wait()
        self.compile_seconds += time.perf_counter() - start
        return Programs(train, fixed)

    def places(self) -> list[Place]:
        """Every run of the study."""
        return list(itertools.product(range(self.num_settings), range(self.num_seeds)))

    def values(self, setting: int) -> dict[str, float]:
        """The settings of this number: name -> value."""
        return {name: float(values[setting]) for name, values in self.columns.items()}

    def select_keys(self, places: Sequence[Place]) -> Key[Array, " runs"]:
        """The keys of these runs."""
        return self.keys[np.array([seed for _, seed in places])]

    def inputs(self, places: Sequence[Place]) -> Inputs:
        """The settings of these runs, each leaf with a leading axis of runs."""
        settings = np.array([setting for setting, _ in places])
        return Inputs(per_run={name: jnp.asarray(values[settings]) for name, values in self.columns.items()})

    def example(self) -> tuple[Any, Inputs]:
        """The key and the inputs of one run."""
        first = [(0, 0)]
        key, per_run = jax.tree.map(lambda leaf: leaf[0], (self.select_keys(first), self.inputs(first).per_run))
        return key, Inputs(per_run=per_run)

    def result_shapes(self) -> Result:
        """The shapes of a result."""
        key, inputs = self.example()
        state = jax.eval_shape(self.trainer.init, key, inputs)
        nats = jax.eval_shape(self.trainer.step, state, inputs)[1]
        vectors = lambda length: {name: np.empty(length, leaf.dtype) for name, leaf in nats.items()}  # noqa: E731
        return Result(state, vectors(self.steps), vectors(self.batches))
