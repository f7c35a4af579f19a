"""Writes the rows of runs for other programs: what `pillion export` does.

Every row that was logged, exactly, by run and ordinal: `_run`, `_ordinal`, `_step`, `_time`, then a
column per metric. Histograms and files stand there as JSON. A file appears under its name when it
is complete.
"""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice, takewhile
from pathlib import Path
from types import NoneType
from typing import IO, Any, Protocol

from pillion._histogram import Histogram
from pillion.plain import EXACT_MAX
from pillion_sidecar.errors import DiskError, SettingsError
from pillion_sidecar.rendering import plain_value

AXES = ("_run", "_ordinal", "_step", "_time")


class Format(StrEnum):
    """What a file is."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


def format_of(path: Path | None) -> Format:
    """Return what a file is by the end of its name; CSV for standard output.

    Raises:
        SettingsError: The name does not say.
    """
    if path is None:
        return Format.CSV
    try:
        return Format(path.suffix.removeprefix("."))
    except ValueError:
        raise SettingsError(
            f"{path} does not say what it is to be. Name it .parquet, .csv or .jsonl, or say "
            "--format."
        ) from None


class RunRows(Protocol):
    """The rows of one run. Each call reads them anew: a run that goes on has more each time."""

    def metrics(self) -> Iterable[str]:
        """Return the names of its metrics."""

    def rows(self) -> Sequence[dict[str, Any]]:
        """Return its rows, each with `AXES`; of whatever else it holds, the names are metrics."""


def write(runs: Sequence[RunRows], form: Format, path: Path | None) -> list[int]:
    """Write the rows of runs to a file, or to standard output. Those of one at a time are held.

    Args:
        runs: What is written, in order.
        form: What is written.
        path: The file; None: standard output.

    Returns:
        How many rows of each run were written.

    Raises:
        SettingsError: pyarrow is needed and not installed, or the file cannot be made.
        DiskError: The file cannot be written.
    """
    write_form = {
        Format.PARQUET: _write_parquet,
        Format.CSV: _write_csv,
        Format.JSONL: _write_lines,
    }[form]
    with _opened(path) as file:
        return write_form(runs, file)


def _write_lines(runs: Sequence[RunRows], file: IO[bytes]) -> list[int]:
    row_counts = []
    for run in runs:
        row_count = 0
        for row in run.rows():
            file.write(f"{json.dumps(_jsonable(row), ensure_ascii=False)}\n".encode())
            row_count += 1
        row_counts.append(row_count)
    return row_counts


def _write_csv(runs: Sequence[RunRows], file: IO[bytes]) -> list[int]:
    class Lines:
        write = staticmethod(lambda line: file.write(line.encode()))

    names = dict.fromkeys((*AXES, *(key for run in runs for key in run.metrics())))
    writer = csv.DictWriter(Lines, list(names), lineterminator="\n")
    writer.writeheader()
    row_counts = []
    for run in runs:
        row_count = 0
        # What came after the names were told may have others, and is left out.
        for row in takewhile(lambda row: row.keys() <= names.keys(), run.rows()):
            writer.writerow({name: _cell(value) for name, value in row.items()})
            row_count += 1
        row_counts.append(row_count)
    return row_counts


def _write_parquet(runs: Sequence[RunRows], file: IO[bytes]) -> list[int]:
    """Write a row group, or several, per run; the columns' types are looked up in all runs before.

    What comes after that may have others, and is left out.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - large, and only this needs it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "Parquet is written by pyarrow, which is not installed here. Run `pip install "
            "pyarrow`, or export --format csv or jsonl."
        ) from None
    columns: dict[str, _Column] = {name: _Column() for name in AXES}
    row_counts = [_look_through(run, columns) for run in runs]
    arrow_types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()} | {
        datetime: pa.timestamp("us", tz="UTC"),
        NoneType: pa.null(),
    }
    types = {name: column.type() for name, column in columns.items()}
    schema = pa.schema({name: arrow_types[each] for name, each in types.items()})
    with parquet.ParquetWriter(file, schema) as writer:
        for run, row_count in zip(runs, row_counts, strict=True):
            rows = run.rows()
            arrays = [
                pa.array(
                    [_typed(row.get(name), types[name]) for row in islice(rows, row_count)],
                    schema.field(name).type,
                )
                for name in types
            ]
            del rows  # before the next run's are read
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return row_counts


@dataclass
class _Column:
    """What a column of Parquet has to hold."""

    types: set[type] = field(default_factory=set)
    is_exact: bool = True
    """Whether all of its integers are exact as doubles."""

    def take_in(self, value: Any) -> None:
        self.types.add(type(value))
        if type(value) is int and abs(value) > EXACT_MAX:
            self.is_exact = False

    def type(self) -> type:
        """Return the type that holds all values exactly; texts hold what nothing else does."""
        types = self.types - {NoneType}
        if types == {int, float}:
            return float if self.is_exact else str
        if len(types) > 1 or not types.isdisjoint({dict, list, Histogram}):
            return str
        return types.pop() if types else NoneType


def _look_through(run: RunRows, columns: dict[str, _Column]) -> int:
    """Have columns take in what a run's rows hold; return how many rows it has."""
    row_count = 0
    for row in run.rows():
        for name, value in row.items():
            columns.setdefault(name, _Column()).take_in(value)
        row_count += 1
    return row_count


def _typed(value: Any, wanted: type) -> Any:
    """Return a value as its column has it."""
    if value is None or type(value) is wanted:
        return value
    return float(value) if wanted is float else _text(value)


def _cell(value: Any) -> Any:
    """Return a value as CSV has it: numbers with all their digits, times in ISO 8601."""
    return value.isoformat() if hasattr(value, "isoformat") else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(_jsonable(value), ensure_ascii=False).strip('"')


def _jsonable(value: Any) -> Any:
    match value:
        case Histogram():
            return {"edges": list(value.edges), "counts": list(value.counts)}
        case dict():
            return {name: _jsonable(each) for name, each in value.items()}
        case list():
            return [_jsonable(each) for each in value]
    return value.isoformat() if hasattr(value, "isoformat") else plain_value(value)


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    """Open what is written to; a file has its name only once it is whole."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        file = new.open("wb")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}. Name a file in a directory that is there."
        ) from error
    try:
        with file:
            yield file
        new.replace(path)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}. Make room.") from error
    finally:
        new.unlink(missing_ok=True)
