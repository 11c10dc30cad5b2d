"""Studies: many seeds x many settings as one compiled program."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mi_jax import _checks
from mi_jax.training import hosts, runs
from mi_jax.training.checkpoints import CHECKPOINT_SECONDS
from mi_jax.training.layout import Mapped
from mi_jax.training.study_folder import StudyFolder
from mi_jax.training.study_plan import Place, Plan, Result, Settings
from mi_jax.training.summaries import Study
from mi_jax.training.trainer import Trainer


def grid(**values: Sequence[float]) -> dict[str, np.ndarray]:
    """Every combination of these values, as the settings of a `study`.

    Args:
      **values: name -> values.

    Returns:
      name -> (settings,) float32 values; the last name varies fastest.

    Raises:
      ValueError: if there is no name, or one without values.

    Example:
      >>> from mi_jax import training
      >>> training.grid(mi=[2.0, 4.0], tau=[1.0, 5.0])
      {'mi': array([2., 2., 4., 4.], dtype=float32), 'tau': array([1., 5., 1., 5.], dtype=float32)}
    """
    if not values or not all(map(len, values.values())):
        raise ValueError("grid needs at least one name, and at least one value of each")
    return {
        name: np.array(column, np.float32)
        for name, column in zip(values, zip(*itertools.product(*values.values()), strict=True), strict=True)
    }


def study(
    make_trainer: Callable[[Settings], Trainer],
    settings: Mapping[str, Any],
    keys: Key[Array, " seeds"],
    *,
    steps: int,
    truth: Callable[[Mapping[str, float]], float] | None = None,
    window: int | None = None,
    batches: int = 1_000,
    chunk: int = 500,
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    mapped: Mapped | None = None,
    folder: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    config: Mapping[str, Any] | None = None,
    on_chunk: Callable[[str, runs.Report], None] | None = None,
) -> Study:
    """Train every seed under every setting, and measure bias and the three variances.

    The settings are traced, so all runs share one compiled program. A seed has the same key, and so sees the same noise,
    under every setting: differences between settings are paired. With a folder, each run is written there as it ends, and
    checkpoints in between: after a kill the same call continues, and ends with the same bits; later calls may add seeds and
    settings. Under `training.hosts.hosts` each process trains its share, into the same folder or one of its own.

    Args:
      make_trainer: `settings -> Trainer`, with settings name -> scalar, which may not shape the program.
      settings: name -> (settings,) values, of one length; `grid` makes them.
      keys: (seeds,) typed keys.
      steps: training steps of a run.
      truth: `settings -> nats`, the true mutual information; None if it is not known.
      window: how many of the last iterations count; by default three quarters of them.
      batches: fresh batches, at the final parameters, for the batch variance.
      chunk: about how many steps one scanned program makes; it changes no bit of the result.
      at_once: how many runs are trained at once; by default one a device under "map", and all of them under "vmap".
      devices: by default all local ones.
      mapped: how the runs of one device are trained; see `training.layout.layout`.
      folder: where finished runs and checkpoints are kept. Needs `mi-jax[checkpoints]`.
      checkpoint_every: seconds between checkpoints, at least; 0 writes one after each chunk.
      config: what the study is, in its author's words; it must be that of the folder.
      on_chunk: called with the runs' names and a `runs.Report` between chunks.

    Returns:
      A `Study`.

    Raises:
      ValueError: if `settings` are no vectors of one length, `keys` no vector, or a number is less than 1; if the folder
        holds something else, or runs that are damaged or of another study; if several processes have no folder.
      TypeError: if `keys` are not typed keys, or `config` is not what JSON can hold.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> def make_trainer(settings):
      ...     task = tasks.gaussian(dim=2, mi=settings["mi"])
      ...     model = models.discriminative(networks.BilinearCritic(), estimators.smile(settings["tau"]))
      ...     return training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> settings = training.grid(mi=[0.5, 1.0], tau=[1.0, 5.0])
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> result = training.study(make_trainer, settings, keys, steps=20, batches=10, truth=lambda settings: settings["mi"])
      >>> [(row.settings["tau"], row.runs) for row in result.summaries()]
      [(1.0, 3), (5.0, 3), (1.0, 3), (5.0, 3)]

    Source: Song & Ermon (2020), Section 6.1, whose Table 2 is one such table.
    """
    _checks.key_vector(keys, "keys")
    columns = _columns(settings)
    if _checks.positive_int(batches, "batches") < 2:
        raise ValueError("batches must be at least 2, to have a variance, got 1")
    if window is not None and not 1 <= window <= steps:
        raise ValueError(f"window must be from 1 to steps, {steps}, got {window}")
    host = hosts.host()
    if host.processes > 1 and folder is None:
        raise ValueError("folder must be given where several processes share a study, for their results to meet in")
    plan = Plan(
        make_trainer,
        columns,
        keys,
        steps=steps,
        batches=batches,
        chunk=chunk,
        at_once=at_once,
        devices=devices,
        mapped=mapped,
    )
    kept = None if folder is None else StudyFolder(Path(folder), plan, config, checkpoint_every)
    results, run_seconds = _run(plan, kept, host.share(plan.places()), on_chunk)
    settings_truth = [math.nan if truth is None else float(truth(plan.values(place))) for place in range(plan.num_settings)]
    window = max(1, steps * 3 // 4) if window is None else window
    return _gather(plan, results, np.array(settings_truth), window, run_seconds)


def _run(
    plan: Plan,
    folder: StudyFolder | None,
    share: Sequence[Place],
    on_chunk: Callable[[str, runs.Report], None] | None,
) -> tuple[dict[Place, Result], float]:
    """Trains the runs of this share that are not on disk: the results of all runs, and the seconds of running."""
    results = {} if folder is None else folder.read(plan.places())
    seconds = 0.0
    for group in _groups(plan, folder, share, results):
        programs = plan.programs(len(group))
        start = time.perf_counter()
        new = [place for place in dict.fromkeys(group) if place not in results]
        report = None if on_chunk is None else functools.partial(on_chunk, _label(plan, new))
        checkpoint, inputs = None if folder is None else folder.partial(group), plan.inputs(group)
        fit = runs.run(programs.train, plan.select_keys(group), report, checkpoint, inputs)
        layout = programs.train.layout
        read_outs = layout.join(programs.fixed(layout.place(fit.states), layout.place_inputs(inputs)))
        for place in new:
            results[place] = _select_run(group.index(place), fit, read_outs)
            if folder is not None:
                folder.write(place, results[place])
        if folder is not None:
            folder.tidy(group)
        seconds += time.perf_counter() - start
    return results, seconds


def _groups(
    plan: Plan, folder: StudyFolder | None, share: Sequence[Place], results: Mapping[Place, Result]
) -> Iterator[list[Place]]:
    """The missing runs of a share, as many at once as the plan says; those that have a checkpoint come first."""
    missing = [place for place in share if place not in results]
    if folder is not None:
        for group in list(folder.begun(share)):
            if any(place in missing for place in group):
                yield group
                missing = [place for place in missing if place not in group]
            else:  # a kill came after all were written, and before this checkpoint was removed
                folder.tidy(group)
    if missing:
        size = plan.size(len(missing))
        for start in range(0, len(missing), size):
            group = missing[start : start + size]
            yield group + group[:1] * (size - len(group))  # the last group is filled up, so that all share one program


def _label(plan: Plan, places: Sequence[Place]) -> str:
    """A name for people of some runs."""
    first = ", ".join(f"{name} {value:g}" for name, value in plan.values(places[0][0]).items())
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{first}, seed {places[0][1]}{more}"


def _select_run(number: int, fit: runs.Fit, read_outs: Any) -> Result:
    """One of the runs that were trained at once, on the host."""
    return jax.tree.map(lambda leaf: leaf[number], Result(fit.states, fit.history, read_outs))


def _gather(
    plan: Plan, results: Mapping[Place, Result], truth: Float[np.ndarray, " settings"], window: int, run_seconds: float
) -> Study:
    """Puts the results side by side; NaN and zeros where one is missing."""
    empty = jax.tree.map(functools.partial(_empty, jax.random.key_impl(plan.keys)), plan.result_shapes())
    rows = [results.get(place, empty) for place in plan.places()]
    finished = np.array([place in results for place in plan.places()])

    def stack(*leaves: Any) -> Any:
        array = jnp.stack(leaves) if _checks.is_key(leaves[0]) else np.stack(leaves)
        return array.reshape(plan.num_settings, plan.num_seeds, *array.shape[1:])

    stacked = jax.tree.map(stack, *rows)
    finished = finished.reshape(plan.num_settings, plan.num_seeds)
    return Study(
        settings=plan.columns,
        truth=truth,
        history=stacked.history,
        fixed=stacked.fixed,
        states=stacked.state,
        finished=finished,
        diverged=stacked.state.diverged & finished,
        window=window,
        compile_seconds=plan.compile_seconds,
        run_seconds=run_seconds,
    )


def _empty(key_impl: Any, shape: Any) -> Any:
    """An array in the place of one of a run that is not here."""
    if _checks.is_key(shape):
        return jax.random.key(0, impl=key_impl)
    return np.full(shape.shape, math.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0, shape.dtype)


def _columns(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not settings:
        raise ValueError("settings must name at least one setting, got none")
    columns = {name: np.asarray(values, np.float32) for name, values in settings.items()}
    length = next(iter(columns.values())).size
    for name, values in columns.items():
        if values.ndim != 1 or not values.size or len(values) != length:
            raise ValueError(f"settings must be vectors of one length, at least 1, got {name} of shape {values.shape}")
    return columns
