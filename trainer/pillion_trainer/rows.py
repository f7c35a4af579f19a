"""A file of training data, read as rows: JSON lines, a JSON list, CSV, Parquet or plain text.

Knows how files are made, not what the rows mean; that is `samples.py`. Whole files are held in
memory. What is wrong is told with file, line or row, for the first few.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pillion_trainer.config import ConfigurationError

BUILT_IN_TEXT = "logbook.txt"
MISTAKES_MAX = 5
"""So many damaged rows are named; the rest is only more of the same."""

_SHOWN_MAX = 40
"""So many characters of a wrong value are shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """Values by their columns, and where they stand in their file: `line 3` or `row 3`."""

    place: str
    values: dict[str, Any]
    damage: str = ""
    """What keeps it from being read, to be told behind its place; then it has no values."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file and its rows. `option` is the name of the option that gave it."""

    option: str
    name: str
    sha256: str
    size_bytes: int
    rows: tuple[Row, ...]
    is_plain_text: bool


class MistakenRowsError(Exception):
    """Rows that cannot be used, each in a sentence that begins with its place."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = sentences


def read_file(option: str, path: str | None) -> DataFile:
    """Read a file by the ending of its name; any other than those known is one plain text.

    Args:
        option: the name of the option, for mistakes.
        path: the file; None: the built-in logbook.

    Raises:
        ConfigurationError: it cannot be read; a row that cannot be is there, with its damage.
    """
    file = (
        Path(path).expanduser() if path else resources.files(__package__) / "texts" / BUILT_IN_TEXT
    )
    reader = _READERS.get(Path(file.name).suffix.lower(), _read_text)
    try:
        content = file.read_bytes()
        rows = tuple(reader(content))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{option} is {str(file)!r}, and {error.name} is missing: pip install {error.name}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ConfigurationError(
            f"{option} is {str(file)!r}: {told}; give {_REMEDIES[reader]}"
        ) from error
    return DataFile(
        option=option,
        name=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        rows=rows,
        is_plain_text=reader is _read_text,
    )


def in_words(option: str, name: str, sentences: tuple[str, ...]) -> list[str]:
    """Return the first sentences on rows with their file in front, and how many are left out."""
    told = [f"{option} {name}, {sentence}" for sentence in sentences[:MISTAKES_MAX]]
    if len(sentences) > MISTAKES_MAX:
        more = len(sentences) - MISTAKES_MAX
        are = "is" if more == 1 else "are"
        told.append(f"{option} {name}: {in_rows(more).replace(' ', ' more ')} {are} wrong")
    return told


def in_rows(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count} row" if count == 1 else f"{count} rows"


def shown(value: Any) -> str:
    """Return a value for a sentence, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _read_text(content: bytes) -> Iterator[Row]:
    yield Row("line 1", {"text": content.decode("utf-8-sig")})


def _read_json_lines(content: bytes) -> list[Row]:
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        rows.append(_object(f"line {number}", value, line))
    return rows


def _object(place: str, value: Any, shows: Any) -> Row:
    if isinstance(value, dict):
        return Row(place, value)
    return Row(place, {}, f" is {shown(shows)}: give a JSON object")


def _read_json(content: bytes) -> list[Row]:
    values = json.loads(content.decode("utf-8-sig"))
    if not isinstance(values, list):
        raise ValueError(f"it holds a {type(values).__name__}")  # noqa: TRY004 - the file's
    return [_object(f"row {number}", value, value) for number, value in enumerate(values, start=1)]


def _read_csv(content: bytes) -> list[Row]:
    """Read rows below a line of column names. Lines are those of the file, where a row ends."""
    limit = csv.field_size_limit(sys.maxsize)  # documents are longer than the 128 KiB of old
    rows: list[Row] = []
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = next(reader, [])
        if not columns or not all(columns) or len(set(columns)) < len(columns):
            raise ValueError(f"its first line is {shown(columns)}, which names no columns")
        for cells in reader:
            place = f"line {reader.line_num}"
            if len(cells) == len(columns):
                rows.append(Row(place, dict(zip(columns, cells, strict=True))))
            elif cells:
                rows.append(Row(place, {}, f" has {len(cells)} cells: give {len(columns)}"))
    except csv.Error as error:
        rows.append(Row(f"line {reader.line_num}", {}, f" is no CSV: {error}"))
    finally:
        csv.field_size_limit(limit)
    return rows


def _read_parquet(content: bytes) -> list[Row]:
    from pyarrow import parquet  # noqa: PLC0415 - needed for such files only

    values = parquet.read_table(io.BytesIO(content)).to_pylist()
    return [Row(f"row {number}", value) for number, value in enumerate(values, start=1)]


_READERS: dict[str, Callable[[bytes], Any]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}

_REMEDIES: dict[Callable[[bytes], Any], str] = {
    _read_text: "UTF-8 text",
    _read_json_lines: "UTF-8 text with a JSON object on each line",
    _read_json: "a JSON list of objects",
    _read_csv: "UTF-8 text with the names of the columns in its first line",
    _read_parquet: "a Parquet file",
}
