"""The columns of a frame: numbers as numpy's arrays, and texts, histograms and files beside them.

What is no number stands in an array of objects: `str`, `Histogram`, or a tuple of `Media`. A
column's kind is one letter: `d` float64, `q` int64, `?` booleans, `s` texts, `h` histograms, `m`
files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pillion.v1 import record_pb2
from pillion.values import Value, from_key_values, to_key_values


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell between edges; there is one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Media:
    """A file that belongs to a row. Its bytes are a blob."""

    media_type: str
    sha256: str
    """The digest of its bytes, in hexadecimal."""
    size_bytes: int
    attributes: Mapping[str, Value]


Numbers: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]
Column: TypeAlias = Numbers | npt.NDArray[np.object_]
Logged: TypeAlias = float | int | bool | str | Histogram | tuple[Media, ...]
"""What one row holds under one name."""

NUMBER_KINDS = frozenset("dq?")

_KINDS_BY_DTYPE = {"f": "d", "i": "q", "b": "?"}
_KINDS_BY_TYPE = {str: "s", Histogram: "h", tuple: "m"}


def kind_of(column: Column) -> str:
    """Return the letter of a column that is not empty."""
    return _KINDS_BY_DTYPE.get(column.dtype.kind) or _KINDS_BY_TYPE[type(column[0])]


def to_column(values: Sequence[Logged]) -> Column:
    """Make a column of values of one kind."""
    if isinstance(values[0], bool | int | float):
        return np.array(values)
    return _objects(values)


def rich_to_plain(value: str | Histogram | tuple[Media, ...]) -> Value:
    """Make plain values of what is no number; `rich_of` makes it of them again."""
    match value:
        case Histogram():
            return {"edges": list(value.edges), "counts": list(value.counts)}
        case tuple():
            return [
                {
                    "media_type": file.media_type,
                    "sha256": file.sha256,
                    "size_bytes": file.size_bytes,
                    "attributes": dict(file.attributes),
                }
                for file in value
            ]
    return value


def rich_of(kind: str, plain: Any) -> str | Histogram | tuple[Media, ...]:
    """Return the value of a kind that `rich_to_plain` has made plain."""
    if kind == "h":
        return Histogram(tuple(plain["edges"]), tuple(plain["counts"]))
    if kind == "m":
        return tuple(Media(**file) for file in plain)
    return str(plain)


def decode_column(message: record_pb2.MetricColumn) -> Column:
    """Decode a journaled column."""
    match message.WhichOneof("values"):
        case "doubles":
            return np.array(message.doubles.values, np.float64)
        case "int64s":
            return np.array(message.int64s.values, np.int64)
        case "bools":
            return np.array(message.bools.values, np.bool_)
        case "texts":
            return _objects(message.texts.values)
        case "histograms":
            return _objects(
                [Histogram(tuple(h.edges), tuple(h.counts)) for h in message.histograms.values]
            )
        case "media":
            return _objects([tuple(map(_media, group.items)) for group in message.media.values])
        case kind:
            raise AssertionError(f"a column of kind {kind} passed validation")


def encode_column(key: str, column: Column) -> record_pb2.MetricColumn:
    """Encode a column that is not empty, exactly."""
    message = record_pb2.MetricColumn(key=key)
    match kind_of(column):
        case "d":
            message.doubles.MergeFromString(packed(1, column.astype("<f8", copy=False)))
        case "q":
            message.int64s.values.extend(column.tolist())
        case "?":
            message.bools.MergeFromString(packed(1, column))
        case "s":
            message.texts.values.extend(column)
        case "h":
            message.histograms.values.extend(
                record_pb2.Histogram(edges=each.edges, counts=each.counts) for each in column
            )
        case _:
            for group in column:
                message.media.values.add(items=map(_media_message, group))
    return message


def packed(field: int, values: npt.NDArray[Any]) -> bytes:
    """Return a packed field of values of fixed size, encoded: no element is looked at."""
    data = values.tobytes()
    size, length = len(data), bytearray()
    while size > 0x7F:  # noqa: PLR2004 - a varint: https://protobuf.dev/programming-guides/encoding
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([field << 3 | 2]) + length + data


def _media(message: record_pb2.Media) -> Media:
    return Media(
        message.media_type,
        message.sha256.hex(),
        message.size_bytes,
        from_key_values(message.attributes),
    )


def _media_message(file: Media) -> record_pb2.Media:
    return record_pb2.Media(
        media_type=file.media_type,
        sha256=bytes.fromhex(file.sha256),
        size_bytes=file.size_bytes,
        attributes=to_key_values(file.attributes),
    )


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    column = np.empty(len(values), np.object_)
    for index, value in enumerate(values):  # at once, numpy would take tuples for rows
        column[index] = value
    return column
