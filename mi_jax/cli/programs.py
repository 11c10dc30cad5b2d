"""Compiled programs, kept on disk, so that the next run of the command starts sooner."""

import contextlib
import hashlib
import platform
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 2**29  # those that were not used for longest are deleted
BEING_WRITTEN = 60.0  # seconds within which another process may be at it
_HIT, _ASKED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"


class Programs(NamedTuple):
    """How many programs a run needed, and how many of them were on disk."""

    needed: int
    kept: int


def default_folder() -> Path:
    """The folder of this user for this jaxlib on this kind of processor, for which alone programs are right."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("mi_jax", False)) / f"jaxlib-{metadata.version('jaxlib')}-{_name_processor()}"


def keep(folder: Path | None, *, off: bool = False) -> None:
    """Let JAX keep every program in a folder, however small, and take it from there the next time.

    Args:
      folder: by default `default_folder`, if it can be written to; but if JAX was given a folder of its own, such as by
        JAX_COMPILATION_CACHE_DIR, that one stays.
      off: keep nothing.
    """
    import jax

    if off:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if folder is None:
        if jax.config.values["jax_compilation_cache_dir"]:
            return
        try:
            folder = default_folder()
            check_folder(folder)
        except (OSError, RuntimeError):  # it cannot be written to, or this user has no home
            jax.config.update("jax_enable_compilation_cache", False)
            return
        _clear_halves(folder)
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # A full disk costs seconds, and is not worth a warning for each program.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def check_folder(folder: Path) -> None:
    """Raises OSError if no files can be made in a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _clear_halves(folder: Path) -> None:
    """Deletes programs that a kill left without the file of their last use; beside one, JAX keeps no more programs."""
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):
            used = path.with_name(path.name.removesuffix("-cache") + "-atime")
            if not used.exists() and time.time() - path.stat().st_mtime > BEING_WRITTEN:
                path.unlink()


class Counter:
    """Counts the programs that JAX compiles or takes from disk, from now on."""

    def __init__(self) -> None:
        import jax

        self._seen = {_ASKED: 0, _HIT: 0}
        jax.monitoring.register_event_listener(self._note)

    def _note(self, event: str, **_: object) -> None:
        if event in self._seen:
            self._seen[event] += 1

    def count(self) -> Programs:
        """How many there were so far; none where no programs are kept."""
        return Programs(self._seen[_ASKED], self._seen[_HIT])


def _name_processor() -> str:
    """A short name for what a compiler makes of this processor: its model and its instructions."""
    about = [platform.system(), platform.machine(), platform.processor()]
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").split("\n\n")[0].splitlines()
        about += [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
