"""Checks of values that callers send: texts, keys, nested values, the columns of a frame, files.

Each raises `PeerError`, saying what is wrong and where, and looks at a column, never at a value,
where it can.
"""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from pillion.artifact_names import alias_problem, name_problem, version_number
from pillion.v1 import record_pb2
from pillion_sidecar.errors import PeerError

KEY_BYTES_MAX = 1024
TEXT_BYTES_MAX = 64 * 1024
VALUES_MAX = 20_000
"""Config or summary values per message, nested ones included."""
PATH_CHARACTERS_MAX = 4096
"""Of the keys that lead to a nested value, together."""
VALUES_DEPTH_MAX = 40
"""Nesting of config and summary that is taken; what our own client makes is less deep."""
BINS_MAX = 1024
"""Of one histogram."""
FILES_MAX = 256
"""Of one row under one name."""
BLOB_BYTES_MAX = 32 * 1024 * 1024
"""A file of a row; what is larger is an artifact."""
SHA256_BYTES = 32
PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1000

_BIG_INT = re.compile(r"-?[0-9]{1,4000}")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")


def check_column(column: record_pb2.MetricColumn, row_count: int, where: str) -> None:
    """Check that a column has a value for each row, and each value."""
    kind = column.WhichOneof("values")
    value_count = len(getattr(column, kind).values) if kind else 0
    where = f"{where}[{column.key!r}]"
    if value_count != row_count:
        raise PeerError(f"{where}: {value_count} values for {row_count} steps.")
    if kind == "texts":
        for text in column.texts.values:
            check_text(text, where, TEXT_BYTES_MAX)
    elif kind == "histograms":
        for histogram in column.histograms.values:
            _check_histogram(histogram, where)
    elif kind == "media":
        for group in column.media.values:
            _check_files(group, where)


def check_chunk(chunk: record_pb2.BlobChunk, where: str) -> None:
    """Check a piece of a file; whether the pieces make it up, who writes it sees."""
    _check_digest(chunk.sha256, chunk.size_bytes, where)
    end = chunk.offset_bytes + len(chunk.data)
    if (
        chunk.offset_bytes < 0
        or end > chunk.size_bytes
        or not (chunk.data or chunk.size_bytes == 0)
    ):
        raise PeerError(f"{where}: a piece is not empty, and lies within its file.")


def check_reference(text: str) -> tuple[str, str]:
    """Check `NAME:VERSION` or `NAME:ALIAS`; return both parts. Without the latter: `latest`."""
    name, _, version = text.partition(":")
    problem = name_problem(name)
    if not problem and version and version_number(version) is None:
        problem = alias_problem(version)
    if problem:
        raise PeerError(
            f"{text[:80]!r} is no artifact: {problem} Write NAME:VERSION or NAME:ALIAS.",
            "ARTIFACT_NAME",
        )
    return name, version or "latest"


def check_key_values(values: record_pb2.KeyValueList, where: str) -> None:
    """Check nested values, each in turn and without recursion."""
    pending: list[tuple[record_pb2.KeyValueList | record_pb2.ArrayValue, str, int]] = [
        (values, where, 0)
    ]
    count = 0
    while pending:
        nest, path, depth = pending.pop()
        count += len(nest.values)
        if count > VALUES_MAX:
            raise PeerError(f"{where}: more than {VALUES_MAX:,} values.")
        if depth > VALUES_DEPTH_MAX or len(path) > PATH_CHARACTERS_MAX:
            raise PeerError(
                f"{where}: nested more than {VALUES_DEPTH_MAX} deep, or by keys of more than "
                f"{PATH_CHARACTERS_MAX:,} characters together."
            )
        if isinstance(nest, record_pb2.KeyValueList):
            check_keys((entry.key for entry in nest.values), path)
            named = [(f"{path}.{entry.key}", entry.value) for entry in nest.values]
        else:
            named = [(path, element) for element in nest.values]
        for name, value in named:
            kind = value.WhichOneof("value")
            if kind in {"kvlist_value", "array_value"}:
                pending.append((getattr(value, kind), name, depth + 1))
            elif kind == "big_int_value" and not _BIG_INT.fullmatch(value.big_int_value):
                raise PeerError(f"{name}: big_int_value is decimal text, at most 4,000 digits.")


def check_keys(keys: Iterable[str], where: str) -> set[str]:
    """Check keys that belong together; return them."""
    seen: set[str] = set()
    for key in keys:
        if not key:
            raise PeerError(f"{where}: a key is empty.", "KEY_EMPTY")
        check_text(key, f"{where}: the key {key[:40]!r}", KEY_BYTES_MAX)
        if key in seen:
            raise PeerError(f"{where}: the key {key!r} is there twice.", "KEY_REPEATED")
        seen.add(key)
    return seen


def check_text(text: str, field: str, bytes_max: int) -> None:
    """Check the length of a text."""
    if len(text) * 4 > bytes_max and len(text.encode()) > bytes_max:
        raise PeerError(f"{field}: longer than {bytes_max} bytes.")


def _check_histogram(histogram: record_pb2.Histogram, where: str) -> None:
    edges, counts = histogram.edges, histogram.counts
    if not 0 < len(counts) <= BINS_MAX or len(edges) != len(counts) + 1:
        raise PeerError(
            f"{where}: {len(edges)} edges and {len(counts)} counts; one edge more than counts, of "
            f"which {BINS_MAX:,} are taken at most."
        )
    if not all(map(math.isfinite, (*edges, *counts))):
        raise PeerError(f"{where}: edges and counts are finite.")
    if any(low > high for low, high in pairwise(edges)):
        raise PeerError(f"{where}: edges ascend.")


def _check_files(group: record_pb2.MediaGroup, where: str) -> None:
    if not 0 < len(group.items) <= FILES_MAX:
        raise PeerError(f"{where}: {len(group.items)} files; 1 to {FILES_MAX} are taken.")
    for item in group.items:
        if not _MEDIA_TYPE.fullmatch(item.media_type):
            raise PeerError(f"{where}: {item.media_type[:80]!r} is no media type.")
        _check_digest(item.sha256, item.size_bytes, where)
        check_key_values(item.attributes, where)


def _check_digest(sha256: bytes, size_bytes: int, where: str) -> None:
    if len(sha256) != SHA256_BYTES:
        raise PeerError(f"{where}.sha256: {len(sha256)} bytes; a digest has {SHA256_BYTES}.")
    if not 0 <= size_bytes <= BLOB_BYTES_MAX:
        raise PeerError(
            f"{where}.size_bytes: {size_bytes}; at most {BLOB_BYTES_MAX:,}. "
            "Log larger files as artifacts."
        )


def check_page_size(page_size: int) -> int:
    """Check how many are asked for at once; return how many are meant."""
    if not 0 <= page_size <= PAGE_SIZE_MAX:
        raise PeerError(f"page_size: 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}.")
    return page_size or PAGE_SIZE_DEFAULT
