"""What a call of `log` holds, read at the call. The slow way, for all but plain numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pillion._batch import Logged
from pillion._counts import Refused
from pillion._file import FILES_MAX, File, Files
from pillion._histogram import Histogram
from pillion._refusals import tell_refusal
from pillion._table import Table
from pillion._tensors import Copy, read_number
from pillion.plain import DEPTH_MAX, VALUES_MAX, to_text

PLAIN_TYPES = frozenset({float, int, bool})


TEXT_BYTES_MAX = 64 * 1024


def read_row(data: Mapping[Any, Any], refused: Refused) -> dict[str, Logged | Copy]:
    """Flatten nested mappings with `/`, and read what can be taken; count and tell what cannot."""
    read: dict[str, Logged | Copy] = {}
    for key, value in _flat(data, "", DEPTH_MAX, [VALUES_MAX]):
        taken = value if type(value) in PLAIN_TYPES else _read(value)
        if taken is None or isinstance(taken, _Problem):
            refused.values += 1
            tell_refusal(key, value, taken or "", refused)
        else:
            read[key] = taken
    return read


class _Problem(str):
    """Why something is not taken, for people."""

    __slots__ = ()


def _read(value: Any) -> "Logged | Copy | _Problem | None":
    """Read one value; None, or why, if it cannot be taken."""
    match value:
        case str():
            text = to_text(value)
            if len(text.encode()) > TEXT_BYTES_MAX:
                return _Problem("a text takes 64 KiB at most; log it as pillion.Html")
            return text
        case Histogram():
            return _Problem(value.problem) if value.problem else value
        case File() | Table():
            return _read_files([value])
        case list() | tuple() if value and all(isinstance(each, File | Table) for each in value):
            return _read_files(value)
    return read_number(value)


def _read_files(values: Sequence[File | Table]) -> "Files | _Problem":
    if len(values) > FILES_MAX:
        return _Problem(f"a row takes {FILES_MAX} files under one name")
    files = Files(each.snapshot() if isinstance(each, Table) else each for each in values)
    problem = next((file.problem for file in files if file.problem), "")
    return _Problem(problem) if problem else files


def _flat(
    row: Mapping[Any, Any], prefix: str, depth: int, room: list[int]
) -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold; one that cannot be read, or is too much, as it is."""
    for key, value in row.items():
        name = f"{prefix}{to_text(key)}"
        room[0] -= 1
        if type(value) in PLAIN_TYPES:
            yield name, value
            continue
        nested = None
        try:
            if depth and isinstance(value, Mapping) and len(value) <= room[0]:
                nested = list(_flat(value, f"{name}/", depth - 1, room))
        except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
            nested = None
        if nested is None:
            yield name, value
        else:
            yield from nested
