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
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
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


def write(runs: Sequence[RunRows], form: Format, path: Path | None) -> int:
    """Write the rows of runs to a file, or to standard output.

    The rows of one run at a time are in memory; for Parquet, those of all.

    Args:
        runs: What is written, in order.
        form: What is written.
        path: The file; None: standard output.

    Returns:
        How many rows they had.

    Raises:
        SettingsError: pyarrow is needed and not installed, or the file cannot be made.
        DiskError: The file cannot be written.
    """
    with _opened(path) as file:
        if form is Format.PARQUET:
            return _write_parquet([row for run in runs for row in run.rows()], file)
        return _write_csv(runs, file) if form is Format.CSV else _write_lines(runs, file)


def _write_lines(runs: Iterable[RunRows], file: IO[bytes]) -> int:
    row_count = 0
    for run in runs:
        for row in run.rows():
            file.write(f"{json.dumps(_jsonable(row), ensure_ascii=False)}\n".encode())
            row_count += 1
    return row_count


def _write_csv(runs: Sequence[RunRows], file: IO[bytes]) -> int:
    class Lines:
        write = staticmethod(lambda line: file.write(line.encode()))

    names = dict.fromkeys((*AXES, *(key for run in runs for key in run.metrics())))
    writer = csv.DictWriter(Lines, list(names), lineterminator="\n")
    writer.writeheader()
    row_count = 0
    for run in runs:
        # What came after the names were told may have others, and is left out.
        for row in takewhile(lambda row: row.keys() <= names.keys(), run.rows()):
            writer.writerow({name: _cell(value) for name, value in row.items()})
            row_count += 1
    return row_count


def _write_parquet(rows: Sequence[dict[str, Any]], file: IO[bytes]) -> int:
    try:
        import pyarrow as pa  # noqa: PLC0415 - large, and only this needs it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "Parquet is written by pyarrow, which is not installed here. Run `pip install "
            "pyarrow`, or export --format csv or jsonl."
        ) from None
    names = dict.fromkeys((*AXES, *(key for row in rows for key in row)))
    columns = {name: _uniform([row.get(name) for row in rows]) for name in names}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    parquet.write_table(pa.table(arrays), file)
    return len(rows)


def _uniform(values: list[Any]) -> list[Any]:
    """Return a column's values in one type that holds them all exactly."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        is_exact = all(abs(value) <= EXACT_MAX for value in values if type(value) is int)
        make: Any = float if is_exact else str
    elif len(types) > 1 or not types.isdisjoint({dict, list, Histogram}):
        make = _text
    else:
        return values
    return [None if value is None else make(value) for value in values]


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
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        with file:
            yield file
        new.replace(path)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}. Make room.") from error
    finally:
        new.unlink(missing_ok=True)
