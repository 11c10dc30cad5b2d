"""A study's folder: finished runs in `runs`, and checkpoints of unfinished ones in `partial`."""

import contextlib
import hashlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_jax.training import checkpoints, runs
from mi_jax.training.checkpoints import Checkpoint
from mi_jax.training.layout import environment
from mi_jax.training.study_plan import Place, Plan, Result

_GONE = ".gone"  # suffix of a checkpoint that is being removed


class StudyFolder:
    """Reads and writes the runs of a plan in a folder."""

    def __init__(self, folder: Path, plan: Plan, config: Mapping[str, Any] | None, every: float):
        self.folder, self.plan, self.every = folder, plan, every
        self.environment = environment()
        self.study = {
            "steps": plan.steps,
            "batches": plan.batches,
            "program": runs.fingerprint(plan.trainer, *plan.example()),
            "config": checkpoints.as_json(config or {}),
        }
        self.places = {self.path(place).name: place for place in plan.places()}
        if len(self.places) < len(plan.places()):
            raise ValueError("with a folder, no two runs may have the same settings and key, got two that have")

    def identity(self, place: Place) -> dict[str, Any]:
        """What decides the numbers of a run."""
        key = checkpoints.digest(self.plan.select_keys([place]))
        return {**self.study, "settings": self.plan.values(place[0]), "key": key}

    def path(self, place: Place) -> Path:
        identity = self.identity(place)
        values = "-".join(f"{name}{value:g}" for name, value in identity["settings"].items())
        return self.folder / "runs" / f"{re.sub('[^a-zA-Z0-9._-]', '_', values)}-{_digest(identity)}"

    def read(self, places: Sequence[Place]) -> dict[Place, Result]:
        """Reads those of these runs that are finished; refuses a folder with runs of another study."""
        self._refuse_others()
        shapes, found = self.plan.result_shapes(), {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for place in places:
                saved = checkpoints.load(self.path(place), self.identity(place), self.environment)
                if saved is not None:
                    found[place] = saved.into(shapes)
        if caught:
            warnings.warn(f"{len(caught)} runs of another environment, the first: {caught[0].message}", stacklevel=4)
        return found

    def _refuse_others(self) -> None:
        known = self.folder / "runs", self.folder / "partial"
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path not in known:
                raise ValueError(f"{self.folder} is no folder of a study: it holds {path.name!r}; choose another folder")
        for path in sorted(known[0].iterdir()) if known[0].exists() else ():
            checkpoints.check(path, self.study)

    def write(self, place: Place, result: Result) -> None:
        identity = self.identity(place)
        checkpoints.save(self.path(place), self.plan.steps, result, identity, self.environment)

    def partial(self, group: Sequence[Place]) -> Checkpoint:
        """The checkpoint of runs that are trained together."""
        names = [self.path(place).name for place in group]
        config = {"study": self.study, "members": names}
        return Checkpoint(self.folder / "partial" / _digest(names), self.every, config)

    def begun(self, share: Sequence[Place]) -> Iterator[list[Place]]:
        """The runs of this share that have a checkpoint, as they were trained together."""
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

    def tidy(self, group: Sequence[Place]) -> None:
        """Removes the checkpoint of runs that are written; renames it first, since a kill may interrupt the removal."""
        folder = Path(self.partial(group).folder)
        if folder.exists():
            shutil.rmtree(folder.rename(folder.with_suffix(_GONE)), ignore_errors=True)


def _patiently(read: Callable[[Path], Any], path: Path) -> Any:
    """Calls `read(path)`, and again if it fails: another process may just have replaced the checkpoint by a later one."""
    for _ in range(3):
        with contextlib.suppress(ValueError, OSError):
            return read(path)
        time.sleep(0.2)
    return read(path)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
