"""Reads samples from files: arrays from .npz and .npy, columns from CSV and Parquet. It never loads a pickle."""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import importlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # jaxtyping takes a tenth of a second to import
    from jaxtyping import Bool, Float, Shaped

MAGIC = {".npz": b"PK", ".npy": b"\x93NUMPY", ".csv": b"", ".parquet": b"PAR1"}
MOST_NAMES = 12  # in a message


class Samples(NamedTuple):
    """Paired samples, and where they come from.

    Attributes:
      x: (n, *x_shape) samples; from a table, (n, columns).
      y: their n partners.
      x_names: the columns of x, or the name of the one array.
      y_names: the same for y.
      dropped: how many rows were left out because an entry was missing.
    """

    x: Shaped[np.ndarray, "n ..."]
    y: Shaped[np.ndarray, "n ..."]
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    dropped: int = 0


def read_samples(
    files: Sequence[Path], x: Sequence[str] = (), y: Sequence[str] = (), *, drop_missing: bool = False
) -> Samples:
    r"""Read paired samples.

    Args:
      files: one .npz, .csv or .parquet file; or two .npy files, first x and then y.
      x: for an .npz file, the name of an array. For a table, names of columns, separated by commas or one by one, or
        patterns such as "x*". The default is "x".
      y: the same for y; the default is "y".
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
    samples, source = _choose_reader(files)(*files, x=x, y=y), ", ".join(map(str, files))
    _check_same_rows(samples, source)
    return _handle_missing(samples, source, drop_missing)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: must be a file, got a {'directory' if path.is_dir() else 'device or pipe'}")
    suffix = path.suffix.lower()
    if suffix not in MAGIC:
        raise ValueError(f"{path}: must be one of {', '.join(MAGIC)}, got the suffix {suffix!r}")
    with _name_file_in_errors(path), path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path}: the file is empty")
    # We look at the first bytes ourselves, because NumPy takes every other file for a pickle and explains how to load it.
    if not start.startswith(MAGIC[suffix]):
        raise ValueError(f"{path}: not in the {suffix} format; no pickle is ever loaded")


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn what the readers of the formats raise into a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8, got byte {error.object[error.start]:#x}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    # zipfile raises NotImplementedError for a compression that it lacks, and RuntimeError for an encrypted member.
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: damaged, or in a form that cannot be read ({error or type(error).__name__})") from error


def _choose_reader(files: Sequence[Path]) -> Callable[..., Samples]:
    suffixes = tuple(path.suffix.lower() for path in files)
    readers: dict[tuple[str, ...], Callable[..., Samples]] = {
        (".npz",): _read_npz,
        (".npy", ".npy"): _read_npy,
        (".csv",): _read_csv,
        (".parquet",): _read_parquet,
    }
    if suffixes not in readers:
        raise ValueError(f"files must be one .npz, .csv or .parquet, or two .npy, got {' '.join(map(str, files))}")
    return readers[suffixes]


def _read_npz(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    # We open the file, because NumPy does not close one that turns out to be damaged.
    with path.open("rb") as opened:
        with _name_file_in_errors(path):
            archive = np.load(opened, allow_pickle=False)
        keys = _find_key(x or ["x"], archive, "--x", path), _find_key(y or ["y"], archive, "--y", path)
        if keys[0] == keys[1]:
            raise ValueError(_describe_overlap(keys[:1]))
        with _name_file_in_errors(path):
            arrays = [archive[key] for key in keys]
    for key, array in zip(keys, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy returns a member that is no .npy file as bytes
            raise ValueError(f"{path}: {key!r} must be an array, got a file of another kind in the archive")
    return Samples(arrays[0], arrays[1], keys[:1], keys[1:])


def _find_key(names: Sequence[str], archive: Any, option: str, path: Path) -> str:
    if len(names) > 1:
        raise ValueError(f"{option} must be one array of {path}, got {', '.join(names)}")
    if names[0] not in archive.files:
        raise ValueError(f"{option}: {path} has no array {names[0]!r}; it has {list_names(archive.files)}")
    return names[0]


def _read_npy(*paths: Path, x: Sequence[str], y: Sequence[str]) -> Samples:
    if x or y:
        raise ValueError(
            f"{'--x' if x else '--y'} names an array or columns, and an .npy file holds one array without a name"
        )
    if paths[0].samefile(paths[1]):
        raise ValueError(_describe_overlap([str(paths[0])]))
    arrays = []
    for path in paths:
        with _name_file_in_errors(path):
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return Samples(arrays[0], arrays[1], (str(paths[0]),), (str(paths[1]),))


def _read_csv(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    with _name_file_in_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        header = next((line for line in csv.reader(file) if line), [])
    # The header "a, b" names the columns "a" and " b", but nobody means the space.
    originals = {name.strip(): name for name in header}
    stripped = [name.strip() for name in header]
    return _read_table(stripped, x, y, path, lambda names: _read_csv_columns(path, [originals[name] for name in names]))


def _read_csv_columns(path: Path, names: Sequence[str]) -> list[Any]:
    arrow, arrow_csv = _import_arrow("csv")

    def read_columns(kind: Any, **options: Any) -> list[Any]:
        # We give the types. Arrow would guess them from the first MB, and 1.5 after a MB of integers would be an error.
        convert = arrow_csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, kind), strings_can_be_null=True
        )
        return arrow_csv.read_csv(path, arrow_csv.ReadOptions(**options), convert_options=convert).columns

    try:
        with _name_file_in_errors(path):
            return read_columns(arrow.float64())
    except ValueError:
        # Read again as text, to find the entry that is no number. With several threads, Arrow does not say in which row.
        with _name_file_in_errors(path):
            texts = read_columns(arrow.string(), use_threads=False)
        return [_parse_column(column, name, path) for column, name in zip(texts, names, strict=True)]


def _parse_column(column: Any, name: str, path: Path) -> Any:
    """Parse a column of text as numbers, or else as true and false."""
    arrow, _ = _import_arrow("csv")
    for kind in (arrow.float64(), arrow.bool_()):
        with contextlib.suppress(arrow.ArrowInvalid):
            return column.cast(kind).cast(arrow.float64())
    row, value = next((row, value) for row, value in enumerate(column.to_pylist(), 1) if not _is_number(value))
    raise ValueError(f"{path}: column {name!r} must hold numbers, got {value[:40]!r} in row {row} below the header")


def _is_number(text: str | None) -> bool:
    arrow, _ = _import_arrow("csv")
    with contextlib.suppress(arrow.ArrowInvalid):
        arrow.scalar(text, arrow.string()).cast(arrow.float64())
        return True
    return False


def _read_parquet(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    _, parquet = _import_arrow("parquet")
    with _name_file_in_errors(path):
        file = parquet.ParquetFile(path, memory_map=True)
    with file:
        header = file.schema_arrow.names
        return _read_table(header, x, y, path, lambda names: _read_parquet_columns(file, path, names))


def _read_parquet_columns(file: Any, path: Path, names: Sequence[str]) -> list[Any]:
    arrow, _ = _import_arrow("parquet")
    checks = arrow.types.is_floating, arrow.types.is_integer, arrow.types.is_boolean, arrow.types.is_decimal
    for name in names:
        kind = file.schema_arrow.field(name).type
        if not any(check(kind) for check in checks):
            raise ValueError(f"{path}: column {name!r} must hold numbers, got {kind}")
    with _name_file_in_errors(path):
        table = file.read(columns=names)
        return [table.column(name).cast(arrow.float64(), safe=False) for name in names]


def _import_arrow(module: str) -> tuple[Any, Any]:
    """Import Arrow and one of its modules, here, so that arrays can be read without Arrow."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module(f"pyarrow.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(f".csv and .parquet files need {error.name}: pip install 'mi-jax[cli]'") from error


def _read_table(
    header: Sequence[str],
    x: Sequence[str],
    y: Sequence[str],
    path: Path,
    read_columns: Callable[[Sequence[str]], list[Any]],
) -> Samples:
    """Read the x and y columns of a table.

    Args:
      header: the names of all columns.
      x: names or patterns of the x columns.
      y: names or patterns of the y columns.
      path: the file, for messages.
      read_columns: reads the columns with these names.
    """
    x_names, y_names = _select_columns(x or ["x"], header, "--x", path), _select_columns(y or ["y"], header, "--y", path)
    overlap = [name for name in x_names if name in y_names]
    if overlap:
        raise ValueError(_describe_overlap(overlap))
    names = [*x_names, *y_names]
    columns = read_columns(names)
    # x and y are views of one matrix, whose columns are contiguous, because everything that follows reads whole columns.
    matrix = np.empty((len(columns[0]), len(names)), order="F")
    for number in range(len(names)):
        matrix[:, number] = columns.pop(0).to_numpy()  # popped, so that memory holds each column once
    if not len(matrix):
        raise ValueError(f"{path}: holds the header and no rows")
    return Samples(matrix[:, : len(x_names)], matrix[:, len(x_names) :], x_names, y_names)


def _select_columns(texts: Sequence[str], header: Sequence[str], option: str, path: Path) -> tuple[str, ...]:
    """The columns that names and patterns select, in the order in which they are named, each once."""
    selected: dict[str, None] = {}
    counts = Counter(header)
    # A text that is the name of a column means that column, even if it holds a comma or a star.
    for text in (part for some in texts for part in ([some] if some in counts else some.split(","))):
        name = text if text in counts else text.strip()
        if name in selected:
            raise ValueError(f"{option} names column {name!r} twice")
        matching = [name] if name in counts else fnmatch.filter(header, name)
        if not matching:
            raise ValueError(f"{option}: {path} has no column {name!r}; it has {list_names(header)}")
        selected.update(dict.fromkeys(matching))
    for name in selected:
        if counts[name] > 1:
            raise ValueError(f"{option}: {path} has {counts[name]} columns called {name!r}; give them different names")
    return tuple(selected)


def list_names(names: Sequence[str]) -> str:
    """Names separated by commas. If there are many, only the first ones and how many are left.

    Example:
      >>> from mi_jax.cli import files
      >>> files.list_names([f"x{number}" for number in range(20)])
      'x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11 and 8 more'
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _describe_overlap(names: Sequence[str]) -> str:
    return f"--x and --y must differ, both hold {list_names(names)}: the mutual information of data with itself is infinite"


def _check_same_rows(samples: Samples, source: str) -> None:
    x, y = samples.x, samples.y
    if x.ndim and y.ndim and len(x) != len(y):
        raise ValueError(f"{source}: x and y must hold the same number of rows, got {len(x)} and {len(y)}")


def _handle_missing(samples: Samples, source: str, drop: bool) -> Samples:
    """Leave out the rows with a missing entry if they are to be dropped, and refuse them otherwise."""
    if not samples.x.ndim or not samples.y.ndim:
        return samples
    missing = _find_missing(samples.x) | _find_missing(samples.y)
    count = int(missing.sum())
    if not count:
        return samples
    if drop:
        return samples._replace(x=samples.x[~missing], y=samples.y[~missing], dropped=count)
    row = int(np.argmax(missing))
    others = f", and so have {count - 1} other rows" if count > 1 else ""
    raise ValueError(
        f"{source}: row {row + 1} (the first is 1) has an empty or NaN entry in {_name_missing(samples, row)}{others}; "
        "leave such rows out with --drop-missing, or fill them in"
    )


def _find_missing(rows: Shaped[np.ndarray, "n ..."]) -> Bool[np.ndarray, " n"]:
    if rows.dtype.kind != "f" or not rows.size:
        return np.zeros(len(rows), bool)
    return np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))


def _name_missing(samples: Samples, row: int) -> str:
    """The first column in which this row is missing; if the samples are no table, the array."""
    for rows, names in ((samples.x, samples.x_names), (samples.y, samples.y_names)):
        if _find_missing(rows[row : row + 1]).any():
            entries: Float[np.ndarray, " entries"] = np.ravel(rows[row])
            return names[int(np.argmax(np.isnan(entries)))] if len(names) == entries.size else names[0]
    raise AssertionError("no entry of this row is missing")
