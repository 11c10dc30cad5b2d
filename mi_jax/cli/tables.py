"""Reads columns of CSV and Parquet files, by names and patterns."""

import contextlib
import csv
import fnmatch
import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.cli.samples import Samples, describe_overlap, list_names, name_file_in_errors


def read_csv(path: Path, *, x: Sequence[str], y: Sequence[str], groups: str | None) -> Samples:
    """Read columns of a CSV file with a header."""
    with name_file_in_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        header = next((line for line in csv.reader(file) if line), [])
    # The header "a, b" names the columns "a" and " b", but nobody means the space.
    originals = {name.strip(): name for name in header}
    stripped = [name.strip() for name in header]
    read_columns = lambda names: _read_csv_columns(path, [originals[name] for name in names])  # noqa: E731
    read_labels = lambda name: _read_csv_as(_import_arrow("csv")[0].string(), path, [originals[name]])[0]  # noqa: E731
    return _read_table(stripped, x, y, groups, path, read_columns, read_labels)


def _read_csv_as(kind: Any, path: Path, names: Sequence[str], **options: Any) -> list[Any]:
    """Columns of a CSV file, read as one type."""
    _, arrow_csv = _import_arrow("csv")
    # We give the types. Arrow would guess them from the first MB, and 1.5 after a MB of integers would be an error.
    convert = arrow_csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, kind), strings_can_be_null=True
    )
    columns: list[Any]
    with name_file_in_errors(path):
        columns = arrow_csv.read_csv(path, arrow_csv.ReadOptions(**options), convert_options=convert).columns
    return columns


def _read_csv_columns(path: Path, names: Sequence[str]) -> list[Any]:
    arrow, _ = _import_arrow("csv")
    try:
        return _read_csv_as(arrow.float64(), path, names)
    except ValueError:
        # Read again as text, to find the entry that is no number. With several threads, Arrow does not say in which row.
        texts = _read_csv_as(arrow.string(), path, names, use_threads=False)
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


def read_parquet(path: Path, *, x: Sequence[str], y: Sequence[str], groups: str | None) -> Samples:
    """Read columns of a Parquet file."""
    _, parquet = _import_arrow("parquet")
    with name_file_in_errors(path):
        file = parquet.ParquetFile(path, memory_map=True)
    with file:
        header = file.schema_arrow.names
        read_columns = lambda names: _read_parquet_columns(file, path, names)  # noqa: E731
        read_labels = lambda name: _read_parquet_labels(file, path, name)  # noqa: E731
        return _read_table(header, x, y, groups, path, read_columns, read_labels)


def _read_parquet_labels(file: Any, path: Path, name: str) -> Any:
    arrow, _ = _import_arrow("parquet")
    with name_file_in_errors(path):
        return file.read(columns=[name]).column(name).cast(arrow.string())


def _read_parquet_columns(file: Any, path: Path, names: Sequence[str]) -> list[Any]:
    arrow, _ = _import_arrow("parquet")
    checks = arrow.types.is_floating, arrow.types.is_integer, arrow.types.is_boolean, arrow.types.is_decimal
    for name in names:
        kind = file.schema_arrow.field(name).type
        if not any(check(kind) for check in checks):
            raise ValueError(f"{path}: column {name!r} must hold numbers, got {kind}")
    with name_file_in_errors(path):
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
    groups: str | None,
    path: Path,
    read_columns: Callable[[Sequence[str]], list[Any]],
    read_labels: Callable[[str], Any],
) -> Samples:
    """Read the x and y columns of a table, and that of groups if it is named.

    Args:
      header: the names of all columns.
      x: names or patterns of the x columns.
      y: names or patterns of the y columns.
      groups: the name of the column of groups.
      path: the file, for messages.
      read_columns: reads the columns with these names as numbers.
      read_labels: reads the column with this name as text, with null where it is missing.
    """
    x_names, y_names = _select_columns(x or ["x"], header, "--x", path), _select_columns(y or ["y"], header, "--y", path)
    overlap = [name for name in x_names if name in y_names]
    if overlap:
        raise ValueError(describe_overlap(overlap))
    names = [*x_names, *y_names]
    columns = read_columns(names)
    # x and y are views of one matrix, whose columns are contiguous, because everything that follows reads whole columns.
    matrix = np.empty((len(columns[0]), len(names)), order="F")
    for number in range(len(names)):
        matrix[:, number] = columns.pop(0).to_numpy()  # popped, so that memory holds each column once
    if not len(matrix):
        raise ValueError(f"{path}: holds the header and no rows")
    labels = None
    if groups is not None:
        selected = _select_columns([groups], header, "--groups", path)
        if len(selected) > 1:
            raise ValueError(f"--groups must be one column, got {list_names(selected)}")
        labels = np.array(read_labels(selected[0]).to_pylist(), object)
    return Samples(matrix[:, : len(x_names)], matrix[:, len(x_names) :], x_names, y_names, groups=labels)


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
