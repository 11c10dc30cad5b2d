"""Writing a file whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replace(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file that takes the place of `path` when the context ends; after an error `path` is as it was.

    Example:
      >>> import os, tempfile
      >>> from mi_jax import _files
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with _files.replace(os.path.join(folder, "a.txt"), "w") as file:
      ...         _ = file.write("whole")
      ...     os.listdir(folder)
      ['a.txt']
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open(mode) as file:
            yield file
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
