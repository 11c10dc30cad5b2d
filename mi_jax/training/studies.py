"""Studies: many seeds x many settings as one compiled program, and the bias, variance and MSE of what they estimate.

Three variances are told apart, and never mixed: over batches at a fixed critic; over seeds at a fixed iteration; and over
the iterations of a run, which is what Table 2 of the paper prints.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import math
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from mi_jax import _checks
from mi_jax.training import checkpoints, seeds
from mi_jax.training.checkpoints import CHECKPOINT_SECONDS, Checkpoint
from mi_jax.training.trainer import Run, Settings, Trainer, TrainState, fixed_read_outs, swept

_GONE = ".gone"  # of a checkpoint that is being removed


class Summary(NamedTuple):
    """One read-out under one setting, over its runs; all in nats, or nats squared.

    Attributes:
      settings: name -> value.
      read_out: its name.
      truth: the true mutual information, or NaN.
      mean: of the estimates, over the iterations of the window and the runs.
      mean_error: the standard error of `mean`, by the spread of the runs' own means; NaN for one run.
      bias: mean - truth; negative is too low.
      batch_variance: over fresh batches at the *fixed*, final critic; the mean over runs. What Theorem 2 speaks of.
      seed_variance: over runs at a *fixed iteration*, averaged over the window: what someone who trains once suffers; NaN
        for one run.
      iteration_variance: over the *iterations* of one run's window, ddof = 0; the mean over runs. What Table 2 prints.
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
      finished: (settings, seeds) whether a run is here; others, the share of another process, are NaN and zeros.
      diverged: (settings, seeds) whether it diverged, and was frozen.
      window: how many of the last iterations count.
      compile_seconds: time to compile, apart from
      run_seconds: time to run, of what was run by this call.
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
        return [{**one.settings, **{k: v for k, v in one._asdict().items() if k != "settings"}} for one in self.summaries()]

    def left_out(self) -> list[str]:
        """The runs that no average holds, named with the reason."""
        named = []
        for place, seed in np.argwhere(self.finished):
            what = [name for name in self.history if not self._usable(name)[place, seed]]
            if what:
                reason = (
                    f"diverged at step {int(self.states.step[place, seed])}" if self.diverged[place, seed] else "not finite"
                )
                where = "".join(f"{name} {values[place]:g}, " for name, values in self.settings.items())
                named.append(f"{where}seed {seed}: {reason} ({', '.join(what)})")
        return named

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
    recipe: Callable[[Settings], Trainer],
    settings: Mapping[str, Any],
    keys: Key[Array, " seeds"],
    *,
    steps: int,
    truth: Callable[[Mapping[str, float]], float] | None = None,
    window: int | None = None,
    batches: int = 1_000,
    chunk: int = 500,
    together: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    mapped: seeds.Mapped | None = None,
    folder: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    config: Mapping[str, Any] | None = None,
    on_chunk: Callable[[str, seeds.Report], None] | None = None,
) -> Study:
    """Train every seed under every setting, and tell bias and the three variances apart.

    The settings are traced, so all runs are one compiled program. A seed has the same key, and so sees the same noise, under
    every setting: differences between settings are paired. With a folder, a run is written there as it ends, and checkpoints
    in between: after a kill the same call goes on, and ends with the same bits; later calls may add seeds and settings.
    Under `seeds.hosts` each process trains its share, into the same folder or one of its own.

    Args:
      recipe: `settings -> Trainer`, with settings name -> scalar, which may not shape the program.
      settings: name -> (settings,) values, of one length; `grid` makes them.
      keys: (seeds,) typed keys.
      steps: training steps of a run.
      truth: `settings -> nats`, the true mutual information; None if it is not known.
      window: how many of the last iterations count; by default three quarters of them.
      batches: fresh batches, at the final parameters, for the batch variance.
      chunk: about how many steps one scanned program makes; it changes no bit of the result.
      together: how many runs go on at once; by default one a device under "map", and all of them under "vmap".
      devices: by default all local ones.
      mapped: how the runs of one device go on; see `seeds.layout`.
      folder: where finished runs and checkpoints are kept. Needs `mi-jax[checkpoints]`.
      checkpoint_every: seconds between checkpoints, at least; 0 writes one after each chunk.
      config: what the study is, in its author's words; compared with what the folder has.
      on_chunk: called with the runs' names and a `seeds.Report` between chunks.

    Returns:
      A `Study`.

    Raises:
      ValueError: if `settings` are no vectors of one length, `keys` no vector, or a number is less than 1; if the folder
        holds something else, or runs that are damaged or of another study; if several processes have no folder.
      TypeError: if `keys` are not typed keys, or `config` is not what JSON can hold.

    Example:
      >>> import jax
      >>> from mi_jax import estimators, models, networks, tasks, training
      >>> def recipe(settings):
      ...     task = tasks.gaussian(dim=2, mi=settings["mi"])
      ...     model = models.discriminative(networks.BilinearCritic(), estimators.smile(settings["tau"]))
      ...     return training.trainer(model, lambda key, step: task.sample(key, 64))
      >>> settings = training.grid(mi=[0.5, 1.0], tau=[1.0, 5.0])
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> result = training.study(recipe, settings, keys, steps=20, batches=10, truth=lambda settings: settings["mi"])
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
    host = seeds.host()
    if host.processes > 1 and folder is None:
        raise ValueError("folder must be given where several processes share a study, for their results to meet in")
    plan = _Plan(swept(recipe), columns, keys, steps, batches, chunk, together, devices, mapped)
    shelf = None if folder is None else _Shelf(Path(folder), plan, config, checkpoint_every)
    results, times = _run(plan, shelf, host.share(plan.places()), on_chunk)
    known = np.array([math.nan if truth is None else float(truth(plan.values(place))) for place in range(plan.num_settings)])
    return _gathered(plan, results, known, max(1, steps * 3 // 4) if window is None else window, *times)


class _Result(NamedTuple):
    """One run, as it is kept."""

    state: TrainState
    history: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]


class _Plan:
    """What a study trains, and its program, compiled when the first run needs it."""

    def __init__(self, recipe, columns, keys, steps, batches, chunk, together, devices, mapped):
        self.recipe, self.columns, self.keys = recipe, columns, keys
        self.steps, self.batches = steps, batches
        self.num_settings, self.num_seeds = len(next(iter(columns.values()))), len(keys)
        self.together = None if together is None else _checks.positive_int(together, "together")
        self.layout = functools.partial(seeds.layout, devices=devices, mapped=mapped)
        self.make = functools.cache(functools.partial(self._compile, chunk))
        self.compile_seconds = 0.0

    def size(self, missing: int) -> int:
        """How many runs go on at once, of so many."""
        layout = self.layout(missing)
        default = len(layout.devices) if layout.mapped == "map" else missing
        return min(missing, self.together or default)

    def _compile(self, chunk, size):
        """The program of so many runs at once, and that of their fixed read-outs."""
        layout = self.layout(size)
        example = self.example()
        program = seeds.compile_training(self.recipe, layout, steps=self.steps, chunk=chunk, example=example)
        start = time.perf_counter()
        read = functools.partial(fixed_read_outs, self.recipe, batches=self.batches)
        fixed = layout.compile(read, jax.eval_shape(layout.split, program.states))
        self.compile_seconds += program.compile_seconds + time.perf_counter() - start
        return program, fixed

    def places(self) -> list[tuple[int, int]]:
        """(setting, seed) of every run."""
        return list(itertools.product(range(self.num_settings), range(self.num_seeds)))

    def values(self, setting: int) -> dict[str, float]:
        return {name: float(values[setting]) for name, values in self.columns.items()}

    def runs(self, places: Sequence[tuple[int, int]]) -> Run:
        """What these runs start from, each leaf with a leading axis of runs."""
        chosen, numbers = (np.array(column) for column in zip(*places, strict=True))
        return Run(self.keys[numbers], {name: jnp.asarray(values[chosen]) for name, values in self.columns.items()})

    def example(self) -> Run:
        """One run's start."""
        return jax.tree.map(lambda leaf: leaf[0], self.runs([(0, 0)]))

    def like(self) -> _Result:
        """The shapes of a result."""
        state = jax.eval_shape(self.recipe.init, self.example())
        nats = jax.eval_shape(self.recipe.step, state)[1]
        of = lambda length: {name: np.empty(length, leaf.dtype) for name, leaf in nats.items()}  # noqa: E731
        return _Result(state, of(self.steps), of(self.batches))


class _Shelf:
    """A study's folder: finished runs in `runs`, checkpoints of those going on in `partial`."""

    def __init__(self, folder: Path, plan: _Plan, config: Mapping[str, Any] | None, every: float):
        self.folder, self.plan, self.every = folder, plan, every
        self.environment = seeds.environment()
        self.study = {
            "steps": plan.steps,
            "batches": plan.batches,
            "program": seeds.fingerprint(plan.recipe, plan.example()),
            "config": checkpoints.as_json(config or {}),
        }
        self.places = {self.path(place).name: place for place in plan.places()}
        if len(self.places) < len(plan.places()):
            raise ValueError("settings and keys must name each run once where a folder keeps them, got one twice")

    def identity(self, place: tuple[int, int]) -> dict[str, Any]:
        """What decides the numbers of a run."""
        key = checkpoints.digest(self.plan.runs([place]).key)
        return {**self.study, "settings": self.plan.values(place[0]), "key": key}

    def path(self, place: tuple[int, int]) -> Path:
        identity = self.identity(place)
        values = "-".join(f"{name}{value:g}" for name, value in identity["settings"].items())
        return self.folder / "runs" / f"{re.sub('[^a-zA-Z0-9._-]', '_', values)}-{_digest(identity)}"

    def read(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], _Result]:
        """The finished ones of these runs. A folder with runs of another study is refused."""
        self._refuse_others()
        like, found = self.plan.like(), {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for place in places:
                saved = checkpoints.load(self.path(place), self.identity(place), self.environment)
                if saved is not None:
                    found[place] = saved.into(like)
        if caught:
            warnings.warn(f"{len(caught)} runs of another environment, the first: {caught[0].message}", stacklevel=4)
        return found

    def _refuse_others(self) -> None:
        known = self.folder / "runs", self.folder / "partial"
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path not in known:
                raise ValueError(f"{self.folder} is no folder of a study: it holds {path.name!r}; choose another")
        for path in sorted(known[0].iterdir()) if known[0].exists() else ():
            checkpoints.check(path, self.study)

    def write(self, place: tuple[int, int], result: _Result) -> None:
        identity = self.identity(place)
        checkpoints.save(self.path(place), self.plan.steps, result, identity, self.environment)

    def partial(self, group: Sequence[tuple[int, int]]) -> Checkpoint:
        """Where runs that go on together are kept meanwhile."""
        names = [self.path(place).name for place in group]
        config = {"study": self.study, "members": names}
        return Checkpoint(self.folder / "partial" / _digest(names), self.every, config)

    def begun(self, share: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """The groups of runs of this share that have a checkpoint."""
        folder = self.folder / "partial"
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            if path.suffix == _GONE:
                shutil.rmtree(path, ignore_errors=True)
                continue
            about = _patiently(checkpoints.identity_of, path)
            if about is None:
                continue
            if json.dumps(about["config"]["study"], sort_keys=True) != json.dumps(self.study, sort_keys=True):
                raise ValueError(f"{path} is of another study; choose another folder")
            members = [self.places.get(name) for name in about["config"]["members"]]
            group = [place for place in members if place is not None and place in share]
            if group and len(group) == len(members):
                yield group

    def tidy(self, group: Sequence[tuple[int, int]]) -> None:
        """Remove the checkpoint of runs that are finished, and written: at once, for a kill may come while it is removed."""
        folder = Path(self.partial(group).folder)
        if folder.exists():
            shutil.rmtree(folder.rename(folder.with_suffix(_GONE)), ignore_errors=True)


def _patiently(read: Callable[[Path], Any], path: Path) -> Any:
    """`read(path)`, again if it failed: another process may just have put a later checkpoint in an earlier one's place."""
    for _ in range(3):
        with contextlib.suppress(ValueError, OSError):
            return read(path)
        time.sleep(0.2)
    return read(path)


def _run(
    plan: _Plan,
    shelf: _Shelf | None,
    share: Sequence[tuple[int, int]],
    on_chunk: Callable[[str, seeds.Report], None] | None,
) -> tuple[dict[tuple[int, int], _Result], tuple[float, float]]:
    """Results of all runs that are on disk, and of those of this share that are not; seconds of compiling and running."""
    results = {} if shelf is None else shelf.read(plan.places())
    seconds = 0.0
    for group in _groups(plan, shelf, share, results):
        program, fixed = plan.make(len(group))
        start = time.perf_counter()
        new = [place for place in dict.fromkeys(group) if place not in results]
        tell = None if on_chunk is None else functools.partial(on_chunk, _label(plan, new))
        fit = seeds.run(program, plan.runs(group), tell, None if shelf is None else shelf.partial(group))
        read_outs = program.layout.join(fixed(program.layout.place(fit.states)))
        for place in new:
            results[place] = _one(group.index(place), fit, read_outs)
            if shelf is not None:
                shelf.write(place, results[place])
        if shelf is not None:
            shelf.tidy(group)
        seconds += time.perf_counter() - start
    return results, (plan.compile_seconds, seconds)


def _groups(
    plan: _Plan, shelf: _Shelf | None, share: Sequence[tuple[int, int]], results: Mapping[tuple[int, int], _Result]
) -> Iterator[list[tuple[int, int]]]:
    """The missing runs of a share, as many together as go on at once: those first that have begun."""
    missing = [place for place in share if place not in results]
    if shelf is not None:
        for group in list(shelf.begun(share)):
            if any(place in missing for place in group):
                yield group
                missing = [place for place in missing if place not in group]
            else:  # killed when all were written, and this was not yet removed
                shelf.tidy(group)
    if missing:
        size = plan.size(len(missing))
        for start in range(0, len(missing), size):
            group = missing[start : start + size]
            yield group + group[:1] * (size - len(group))  # the last one filled up, so that all are one program


def _label(plan: _Plan, places: Sequence[tuple[int, int]]) -> str:
    """Some runs' names for people."""
    first = ", ".join(f"{name} {value:g}" for name, value in plan.values(places[0][0]).items())
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{first}, seed {places[0][1]}{more}"


def _one(number: int, fit: seeds.Fit, read_outs: Any) -> _Result:
    """One run of those that went on together, on the host."""
    return jax.tree.map(lambda leaf: leaf[number], _Result(fit.states, fit.history, read_outs))


def _gathered(
    plan: _Plan,
    results: Mapping[tuple[int, int], _Result],
    truth: Float[np.ndarray, " settings"],
    window: int,
    compile_seconds: float,
    run_seconds: float,
) -> Study:
    """The results side by side; NaN and zeros where one is missing."""
    empty = jax.tree.map(functools.partial(_nothing, jax.random.key_impl(plan.keys)), plan.like())
    rows = [results.get(place, empty) for place in plan.places()]
    finished = np.array([place in results for place in plan.places()])

    def stack(*leaves: Any) -> Any:
        stacked = jnp.stack(leaves) if _checks.is_key(leaves[0]) else np.stack(leaves)
        return stacked.reshape(plan.num_settings, plan.num_seeds, *stacked.shape[1:])

    together = jax.tree.map(stack, *rows)
    finished = finished.reshape(plan.num_settings, plan.num_seeds)
    return Study(
        settings=plan.columns,
        truth=truth,
        history=together.history,
        fixed=together.fixed,
        states=together.state,
        finished=finished,
        diverged=together.state.diverged & finished,
        window=window,
        compile_seconds=compile_seconds,
        run_seconds=run_seconds,
    )


def _nothing(key_impl: Any, like: Any) -> Any:
    """What stands for an array of a run that is not here."""
    if _checks.is_key(like):
        return jax.random.key(0, impl=key_impl)
    return np.full(like.shape, math.nan if jnp.issubdtype(like.dtype, jnp.floating) else 0, like.dtype)


def _columns(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not settings:
        raise ValueError("settings must name at least one setting, got none")
    columns = {name: np.asarray(values, np.float32) for name, values in settings.items()}
    length = next(iter(columns.values())).size
    for name, values in columns.items():
        if values.ndim != 1 or not values.size or len(values) != length:
            raise ValueError(f"settings must be vectors of one length, at least 1, got {name} of shape {values.shape}")
    return columns


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
