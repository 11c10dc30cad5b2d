"""Samples from files, for the command line: arrays of .npz and .npy, columns of CSV and Parquet. No pickle is loaded."""

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

    x: Shaped[np.ndarray, "n ..."]
    y: Shaped[np.ndarray, "n ..."]
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    dropped: int = 0


def read(files: Sequence[Path], x: Sequence[str] = (), y: Sequence[str] = (), *, drop_missing: bool = False) -> Samples:
    r"""Read paired samples.

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
      ...     _ = path.write_text("a,b,c\n1,2,3\n4,5,6\n")
      ...     samples = tables.read([path], x=["a,b"], y=["c"])
      >>> samples.x.tolist(), samples.y.tolist()
      ([[1.0, 2.0], [4.0, 5.0]], [[3.0], [6.0]])
    """
    for path in files:
        _check_file(path)
    samples, source = _reader(files)(*files, x=x, y=y), ", ".join(map(str, files))
    _check_same_rows(samples, source)
    return _complete(samples, source, drop_missing)


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
    readers: dict[tuple[str, ...], Callable[..., Samples]] = {
        (".npz",): _npz,
        (".npy", ".npy"): _npy,
        (".csv",): _csv,
        (".parquet",): _parquet,
    }
    if tuple(kinds) not in readers:
        raise ValueError(f"files must be one .npz, .csv or .parquet, or two .npy, got {' '.join(map(str, files))}")
    return readers[tuple(kinds)]


def _npz(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    # Opened here, for NumPy leaves a file open that turns out to be damaged.
    with path.open("rb") as raw:
        with _told(path):
            file = np.load(raw, allow_pickle=False)
        keys = _key(x or ["x"], file, "--x", path), _key(y or ["y"], file, "--y", path)
        if keys[0] == keys[1]:
            raise ValueError(_shared(keys[:1]))
        with _told(path):
            arrays = [file[key] for key in keys]
    for key, array in zip(keys, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # bytes, of a member that is no .npy
            raise ValueError(f"{path}: {key!r} must be an array, got a file of another kind in the archive")
    return Samples(arrays[0], arrays[1], keys[:1], keys[1:])


def _key(wanted: Sequence[str], file: Any, option: str, path: Path) -> str:
    if len(wanted) > 1:
        raise ValueError(f"{option} must be one array of {path}, got {', '.join(wanted)}")
    if wanted[0] not in file.files:
        raise ValueError(f"{option}: {path} has no array {wanted[0]!r}; it has {listed(file.files)}")
    return wanted[0]


def _npy(*paths: Path, x: Sequence[str], y: Sequence[str]) -> Samples:
    if x or y:
        raise ValueError(
            f"{'--x' if x else '--y'} names an array or columns, and an .npy file holds one array without a name"
        )
    if paths[0].samefile(paths[1]):
        raise ValueError(_shared([str(paths[0])]))
    arrays = []
    for path in paths:
        with _told(path):
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return Samples(arrays[0], arrays[1], (str(paths[0]),), (str(paths[1]),))


def _csv(path: Path, *, x: Sequence[str], y: Sequence[str]) -> Samples:
    with _told(path), path.open(newline="", encoding="utf-8-sig") as file:
        header = next((line for line in csv.reader(file) if line), [])
    # After "a, b" comes " b", and nobody means the space.
    spelled = {name.strip(): name for name in header}
    stripped = [name.strip() for name in header]
    return _of_columns(stripped, x, y, path, lambda names: _csv_columns(path, [spelled[name] for name in names]))


def _csv_columns(path: Path, names: Sequence[str]) -> list[Any]:
    pa, csv = _arrow("csv")

    def columns(kind: Any, **options: Any) -> list[Any]:
        # Types are given: Arrow guesses them from the first MB, and 1.5 after a MB of integers would be an error.
        convert = csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, kind), strings_can_be_null=True
        )
        return csv.read_csv(path, csv.ReadOptions(**options), convert_options=convert).columns

    try:
        with _told(path):
            return columns(pa.float64())
    except ValueError:
        # Again as text, to find the entry that is no number; by one thread, or Arrow does not say which row it cannot parse.
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
        return _of_columns(file.schema_arrow.names, x, y, path, lambda names: _parquet_columns(file, path, names))


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
    header: Sequence[str],
    x: Sequence[str],
    y: Sequence[str],
    path: Path,
    columns: Callable[[Sequence[str]], list[Any]],
) -> Samples:
    """The x and y of a table with these columns, of which `columns` reads those named."""
    x_names, y_names = _chosen(x or ["x"], header, "--x", path), _chosen(y or ["y"], header, "--y", path)
    both = [name for name in x_names if name in y_names]
    if both:
        raise ValueError(_shared(both))
    names = [*x_names, *y_names]
    found = columns(names)
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
    for text in (part for some in wanted for part in ([some] if some in counts else some.split(","))):
        name = text if text in counts else text.strip()
        if name in found:
            raise ValueError(f"{option} names column {name!r} twice")
        matching = [name] if name in counts else fnmatch.filter(header, name)
        if not matching:
            raise ValueError(f"{option}: {path} has no column {name!r}; it has {listed(header)}")
        found.update(dict.fromkeys(matching))
    for name in found:
        if counts[name] > 1:
            raise ValueError(f"{option}: {path} has {counts[name]} columns called {name!r}; give them names of their own")
    return tuple(found)


def listed(names: Sequence[str]) -> str:
    """Names with commas between them; of many the first.

    Example:
      >>> from mi_jax import tables
      >>> tables.listed([f"x{place}" for place in range(20)])
      'x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11 and 8 more'
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _shared(names: Sequence[str]) -> str:
    return f"--x and --y must differ, both hold {listed(names)}: the mutual information of data with itself is infinite"


def _check_same_rows(samples: Samples, source: str) -> None:
    x, y = samples.x, samples.y
    if x.ndim and y.ndim and len(x) != len(y):
        raise ValueError(f"{source}: x and y must hold the same number of rows, got {len(x)} and {len(y)}")


def _complete(samples: Samples, source: str, drop: bool) -> Samples:
    """The samples without the rows that have a missing entry; an error if there are such, and they are not to be dropped."""
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


def _missing(rows: Shaped[np.ndarray, "n ..."]) -> Bool[np.ndarray, " n"]:
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
