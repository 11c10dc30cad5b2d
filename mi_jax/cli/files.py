"""Reads samples from files: arrays from .npz and .npy, columns from CSV and Parquet. It never loads a pickle."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.cli.samples import Samples, describe_overlap, handle_missing, list_names, name_file_in_errors
from mi_jax.cli.tables import read_csv, read_parquet

MAGIC = {".npz": b"PK", ".npy": b"\x93NUMPY", ".csv": b"", ".parquet": b"PAR1"}


def read_samples(
    files: Sequence[Path],
    x: Sequence[str] = (),
    y: Sequence[str] = (),
    *,
    groups: str | None = None,
    drop_missing: bool = False,
) -> Samples:
    r"""Read paired samples.

    Args:
      files: one .npz, .csv or .parquet file; or two .npy files, first x and then y.
      x: for an .npz file, the name of an array. For a table, names of columns, separated by commas or one by one, or
        patterns such as "x*". The default is "x".
      y: the same for y; the default is "y".
      groups: the column, or array, of labels of rows that belong together, if there is one; also of text.
      drop_missing: leave out rows with an empty or NaN entry. Otherwise such rows are an error.

    Returns:
      `Samples`. Arrays of .npy files are mapped into memory, not loaded. Other files are read as far as the names ask.

    Raises:
      ValueError: if a file is missing, damaged, of another kind or holds Python objects; if a name is missing, given twice,
        not unique, not numeric, or in both x and y; if the numbers of rows differ; or if an entry is missing.

    Example:
      >>> import pathlib, tempfile
      >>> from mi_jax.cli import files
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "data.csv")
      ...     _ = path.write_text("a,b,c\n1,2,3\n4,5,6\n")
      ...     samples = files.read_samples([path], x=["a,b"], y=["c"])
      >>> samples.x.tolist(), samples.y.tolist()
      ([[1.0, 2.0], [4.0, 5.0]], [[3.0], [6.0]])
    """
    for path in files:
        _check_file(path)
    samples, source = _choose_reader(files)(*files, x=x, y=y, groups=groups), ", ".join(map(str, files))
    _check_same_rows(samples, source)
    return handle_missing(samples, source, drop_missing)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: must be a file, got a {'directory' if path.is_dir() else 'device or pipe'}")
    suffix = path.suffix.lower()
    if suffix not in MAGIC:
        raise ValueError(f"{path}: must be one of {', '.join(MAGIC)}, got the suffix {suffix!r}")
    with name_file_in_errors(path), path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path}: the file is empty")
    # We look at the first bytes ourselves, because NumPy takes every other file for a pickle and explains how to load it.
    if not start.startswith(MAGIC[suffix]):
        raise ValueError(f"{path}: not in the {suffix} format; no pickle is ever loaded")


def _choose_reader(files: Sequence[Path]) -> Callable[..., Samples]:
    suffixes = tuple(path.suffix.lower() for path in files)
    readers: dict[tuple[str, ...], Callable[..., Samples]] = {
        (".npz",): _read_npz,
        (".npy", ".npy"): _read_npy,
        (".csv",): read_csv,
        (".parquet",): read_parquet,
    }
    if suffixes not in readers:
        raise ValueError(f"files must be one .npz, .csv or .parquet, or two .npy, got {' '.join(map(str, files))}")
    return readers[suffixes]


def _read_npz(path: Path, *, x: Sequence[str], y: Sequence[str], groups: str | None) -> Samples:
    # We open the file, because NumPy does not close one that turns out to be damaged.
    with path.open("rb") as opened:
        with name_file_in_errors(path):
            archive = np.load(opened, allow_pickle=False)
        keys = [_find_key(x or ["x"], archive, "--x", path), _find_key(y or ["y"], archive, "--y", path)]
        if keys[0] == keys[1]:
            raise ValueError(describe_overlap(keys[:1]))
        if groups is not None:
            keys.append(_find_key([groups], archive, "--groups", path))
        with name_file_in_errors(path):
            arrays = [archive[key] for key in keys]
    for key, array in zip(keys, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy returns a member that is no .npy file as bytes
            raise ValueError(f"{path}: {key!r} must be an array, got a file of another kind in the archive")
    return Samples(arrays[0], arrays[1], (keys[0],), (keys[1],), groups=None if groups is None else arrays[2])


def _find_key(names: Sequence[str], archive: Any, option: str, path: Path) -> str:
    if len(names) > 1:
        raise ValueError(f"{option} must be one array of {path}, got {', '.join(names)}")
    if names[0] not in archive.files:
        raise ValueError(f"{option}: {path} has no array {names[0]!r}; it has {list_names(archive.files)}")
    return names[0]


def _read_npy(*paths: Path, x: Sequence[str], y: Sequence[str], groups: str | None) -> Samples:
    for option, named in (("--x", x), ("--y", y), ("--groups", groups)):
        if named:
            raise ValueError(f"{option} names an array or columns, and an .npy file holds one array without a name")
    if paths[0].samefile(paths[1]):
        raise ValueError(describe_overlap([str(paths[0])]))
    arrays = []
    for path in paths:
        with name_file_in_errors(path):
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return Samples(arrays[0], arrays[1], (str(paths[0]),), (str(paths[1]),))


def _check_same_rows(samples: Samples, source: str) -> None:
    x, y = samples.x, samples.y
    if x.ndim and y.ndim and len(x) != len(y):
        raise ValueError(f"{source}: x and y must hold the same number of rows, got {len(x)} and {len(y)}")
