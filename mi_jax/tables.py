"""Samples from files, for the command line: arrays of .npz and .npy, numeric columns of CSV and Parquet. No pickle is loaded."""

import contextlib
import csv
import fnmatch
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

MAGIC = {".npz": b"PK", ".npy": b"\x93NUMPY", ".csv": b"", ".parquet": b"PAR1"}
MOST_NAMES = 12  # in a message


class Samples(NamedTuple):
    """Paired samples, and where they are from.

    Attributes:
      x: (n, *x_shape) samples; of a table (n, columns).
      y: their n partners.
      x_names: the columns that x is made of, or the one array.
      y_names: the same for y.
      dropped: how many rows were left out for a missing entry.
    """

    x: Shaped[np.ndarray, "n *x_shape"]
    y: Shaped[np.ndarray, "n *y_shape"]
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    dropped: int = 0


def read(files: Sequence[Path], x: Sequence[str] = (), y: Sequence[str] = (), *, drop_missing: bool = False) -> Samples:
    """Read paired samples.

    Args:
      files: one .npz, .csv or .parquet file, or two .npy files, x and y.
      x: of an .npz file, its key; of a table, column names, several with commas between them or one by one, or patterns such
        as "x*". By default "x".
      y: the same for y; by default "y".
      drop_missing: whether to leave out rows with an empty or NaN entry, instead of refusing them.

    Returns:
      `Samples`. Arrays of .npy files are mapped, not loaded, and of other files no more is read than is asked for.

    Raises:
      ValueError: if a file is missing, damaged, of another kind or holds Python objects; a key or column is missing, named
        twice, not unique, not numeric, or in both x and y; the numbers of rows differ; or an entry is missing.

    Example:
      >>> import pathlib, tempfile
      >>> from mi_jax import tables
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "data.csv")
      ...     _ = path.write_text("a,b,c\\n1,2,3\\n4,5,6\\n")
      ...     samples = tables.read([path], x=["a,b"], y=["c"])
      >>> samples.x.tolist(), samples.y.tolist()
      ([[1.0, 2.0], [4.0, 5.0]], [[3.0], [6.0]])
    """
    for path in files:
        _check_file(path)
    samples = _reader(files)(*files, x=x, y=y)
    _check_same_rows(samples)
    return _complete(samples, ", ".join(map(str, files)), drop_missing)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: must be a file, got a {'directory' if path.is_dir() else 'device or pipe'}")
    kind = path.suffix.lower()
    if kind not in MAGIC:
        raise ValueError(f"{path}: must be one of {', '.join(MAGIC)}, got the suffix {kind!r}")
    with _told(path), path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path}: the file is empty")
    # Asked of the bytes, not of NumPy, which takes all that is neither for a pickle and says how to load it.
    if not start.startswith(MAGIC[kind]):
        raise ValueError(f"{path}: not in the {kind} format; no pickle is ever loaded")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the readers of the formats raise becomes a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8, got byte {error.object[error.start]:#x}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    # NotImplementedError and RuntimeError are zipfile's, of compressions it lacks and of encrypted members.
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: damaged, or not what can be read ({error or type(error).__name__})") from error


def _reader(files: Sequence[Path]) -> Callable[..., Samples]:
    kinds = [path.suffix.lower() for path in files]
    readers = {(".npz",): _npz, (".npy", ".npy"): _npy, (".csv",): _csv, (".parquet",): _parquet}
    if tuple(kinds) not in readers:
        raise ValueError(f"files must be one .npz, .csv or .parquet, or two .npy, got {' '.join(map(str, files))}")
    return readers[tuple(kinds)]


def _npz(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    with _told(path):
        file = np.load(path, allow_pickle=False)
    with file:
        keys = _key(x or ["x"], file, "--x", path), _key(y or ["y"], file, "--y", path)
        if keys[0] == keys[1]:
            raise ValueError(_shared(keys[:1]))
        with _told(path):
            return Samples(file[keys[0]], file[keys[1]], keys[:1], keys[1:])


def _key(wanted: Sequence[str], file: Any, option: str, path: Path) -> str:
    if len(wanted) > 1:
        raise ValueError(f"{option} must be one array of {path}, got {', '.join(wanted)}")
    if wanted[0] not in file.files:
        raise ValueError(f"{option}: {path} has no array {wanted[0]!r}; it has {_listed(file.files)}")
    return wanted[0]


def _npy(*paths: Path, x: Sequence[str], y: Sequence[str]) -> Samples:
    if x or y:
        raise ValueError(f"{'--x' if x else '--y'} names an array or columns, and an .npy file holds one array without a name")
    if paths[0].samefile(paths[1]):
        raise ValueError(_shared([str(paths[0])]))
    arrays = []
    for path in paths:
        with _told(path):
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return Samples(*arrays, *((str(path),) for path in paths))


def _csv(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    with _told(path), path.open(newline="", encoding="utf-8-sig") as file:
        header = next((line for line in csv.reader(file) if line), [])
    return _of_columns(path, header, x, y, _csv_columns)


def _csv_columns(path: Path, names: Sequence[str]) -> list[Any]:
    pa, csv = _arrow("csv")

    def columns(kind: Any, **options: Any) -> list[Any]:
        # Types are given: Arrow guesses them from the first MB, and 1.5 after a MB of integers would be an error.
        convert = csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, kind), strings_can_be_null=True)
        return csv.read_csv(path, csv.ReadOptions(**options), convert_options=convert).columns

    try:
        with _told(path):
            return columns(pa.float64())
    except ValueError:
        # Again as text, to find the entry that is no number; by one thread, as only then Arrow can name a row it cannot parse.
        with _told(path):
            texts = columns(pa.string(), use_threads=False)
        return [_numbers(column, name, path) for column, name in zip(texts, names, strict=True)]


def _numbers(column: Any, name: str, path: Path) -> Any:
    """A column of text as numbers, or as true and false."""
    pa, _ = _arrow("csv")
    for kind in (pa.float64(), pa.bool_()):
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(kind).cast(pa.float64())
    row, value = next((row, value) for row, value in enumerate(column.to_pylist(), 1) if not _is_number(value))
    raise ValueError(f"{path}: column {name!r} must hold numbers, got {value[:40]!r} in row {row} below the header")


def _is_number(text: str | None) -> bool:
    pa, _ = _arrow("csv")
    with contextlib.suppress(pa.ArrowInvalid):
        pa.scalar(text, pa.string()).cast(pa.float64())
        return True
    return False


def _parquet(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    _, parquet = _arrow("parquet")
    with _told(path):
        file = parquet.ParquetFile(path, memory_map=True)
    with file:
        return _of_columns(path, file.schema_arrow.names, x, y, lambda _, names: _parquet_columns(file, path, names))


def _parquet_columns(file: Any, path: Path, names: Sequence[str]) -> list[Any]:
    pa, _ = _arrow("parquet")
    kinds = pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal
    for name in names:
        kind = file.schema_arrow.field(name).type
        if not any(is_kind(kind) for is_kind in kinds):
            raise ValueError(f"{path}: column {name!r} must hold numbers, got {kind}")
    with _told(path):
        table = file.read(columns=names)
        return [table.column(name).cast(pa.float64(), safe=False) for name in names]


def _arrow(module: str) -> tuple[Any, Any]:
    """Arrow, and its module of this name; imported here, so that arrays are read without."""
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(f".csv and .parquet files need {error.name}: pip install 'mi-jax[cli]'") from error
    return pyarrow, getattr(pyarrow, module)


def _of_columns(
    path: Path, header: Sequence[str], x: Sequence[str], y: Sequence[str], columns: Callable[[Path, Sequence[str]], list[Any]]
) -> Samples:
    x_names, y_names = _chosen(x or ["x"], header, "--x", path), _chosen(y or ["y"], header, "--y", path)
    both = [name for name in x_names if name in y_names]
    if both:
        raise ValueError(_shared(both))
    names = [*x_names, *y_names]
    found = columns(path, names)
    # One matrix, each column contiguous in it, as all that follows goes by columns; x and y are views of it.
    matrix = np.empty((len(found[0]), len(names)), order="F")
    for place in range(len(names)):
        matrix[:, place] = found.pop(0).to_numpy()
    if not len(matrix):
        raise ValueError(f"{path}: holds the header and no rows")
    return Samples(matrix[:, : len(x_names)], matrix[:, len(x_names) :], x_names, y_names)


def _chosen(wanted: Sequence[str], header: Sequence[str], option: str, path: Path) -> tuple[str, ...]:
    """The columns that names and patterns mean, in their order, each once."""
    found: dict[str, None] = {}
    counts = Counter(header)
    # A name that holds a comma is meant as it stands, and so is one that holds a star.
    for text in (part for text in wanted for part in ([text] if text in counts else text.split(","))):
        name = text if text in counts else text.strip()
        if name in found:
            raise ValueError(f"{option} names column {name!r} twice")
        matching = [name] if name in counts else fnmatch.filter(header, name)
        if not matching:
            raise ValueError(f"{option}: {path} has no column {name!r}; it has {_listed(header)}")
        found.update(dict.fromkeys(matching))
    for name in found:
        if counts[name] > 1:
            raise ValueError(f"{option}: {path} has {counts[name]} columns called {name!r}; give them names of their own")
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _shared(names: Sequence[str]) -> str:
    return f"--x and --y must differ, both hold {_listed(names)}: the mutual information of data with itself is infinite"


def _check_same_rows(samples: Samples) -> None:
    x, y = samples.x, samples.y
    if x.ndim and y.ndim and len(x) != len(y):
        raise ValueError(
            f"x and y must hold the same number of rows, got {len(x)} in {samples.x_names[0]} and {len(y)} in "
            f"{samples.y_names[0]}"
        )


def _complete(samples: Samples, source: str, drop: bool) -> Samples:
    """The samples without rows that have a missing entry; or an error, if there are such rows and they are not to be left out."""
    if not samples.x.ndim or not samples.y.ndim:
        return samples
    missing = _missing(samples.x) | _missing(samples.y)
    count = int(missing.sum())
    if not count:
        return samples
    if drop:
        return samples._replace(x=samples.x[~missing], y=samples.y[~missing], dropped=count)
    row = int(np.argmax(missing))
    raise ValueError(
        f"{source}: row {row + 1} (the first is 1) has an empty or NaN entry in {_where(samples, row)}, and so have "
        f"{count - 1} others; leave such rows out with --drop-missing, or fill them in"
    )


def _missing(rows: Shaped[np.ndarray, "n *shape"]) -> Bool[np.ndarray, " n"]:
    if rows.dtype.kind != "f" or not rows.size:
        return np.zeros(len(rows), bool)
    return np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))


def _where(samples: Samples, row: int) -> str:
    """The first column of a table, or else the array, in which this row is missing."""
    for rows, names in ((samples.x, samples.x_names), (samples.y, samples.y_names)):
        if _missing(rows[row : row + 1]).any():
            entries: Float[np.ndarray, " entries"] = np.ravel(rows[row])
            return names[int(np.argmax(np.isnan(entries)))] if len(names) == entries.size else names[0]
    raise AssertionError("no entry of this row is missing")
