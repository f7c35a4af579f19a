"""Reads rows of one signature, segment by segment, each piece within a snapshot of its caller's.

Reading goes on by ordinals, which never change, however segments are folded between two snapshots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pillion_sidecar.columns import NUMBER_KINDS, Column
from pillion_sidecar.selection import Selection
from pillion_sidecar.store_tables import POSITIONS_MAX, columns, from_blob, segments

SEGMENTS_AT_ONCE = 1_040
"""Looked up at once: all small ones that a set of metrics may have, and some full ones."""

Axis: TypeAlias = npt.NDArray[np.int64]
Wanted: TypeAlias = Mapping[int, tuple[str, str]]
"""The (key, kind) of what is wanted, by its position in the signature."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows with some of their metrics, by ordinal. All arrays are of shape (rows,)."""

    ordinals: Axis
    steps: Axis
    times_unix_nano: Axis
    columns: dict[str, Column]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ordinals)

    def rows(self, chosen: slice | npt.NDArray[np.bool_]) -> "Piece":
        """Return some of the rows."""
        return Piece(
            self.ordinals[chosen],
            self.steps[chosen],
            self.times_unix_nano[chosen],
            {key: column[chosen] for key, column in self.columns.items()},
        )

    def of(self, keys: Sequence[str]) -> "Piece":
        """Return some of the metrics."""
        return replace(self, columns={key: self.columns[key] for key in keys})


@dataclass(slots=True)
class Signature:
    """Rows that have the same metrics, and how far they are read."""

    signature_id: int
    wanted: dict[int, tuple[str, str]]
    next_ordinal: int
    behind: int = 0
    """The last segment of which nothing is left to read."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """The segments that are next, each with its last ordinal; none: nothing is left."""

    @property
    def last_ordinal(self) -> int:
        """The last row of those segments."""
        return self.ends[-1][1]

    def advance(self, ordinal: int) -> None:
        """Take it that all is read up to here."""
        self.next_ordinal = ordinal + 1
        read = [segment_id for segment_id, last in self.ends if last <= ordinal]
        self.behind = read[-1] if read else self.behind
        del self.ends[: len(read)]


def look_ahead(
    connection: sa.Connection, signature: Signature, rows_at_once: int, end: int
) -> None:
    """Find the segments of a signature that are to be read next, and where they begin."""
    query = sa.select(
        *(segments.c.segment_id, segments.c.first_ordinal),
        *(segments.c.last_ordinal, segments.c.row_count),
    )
    query = _in_order(query, signature).limit(SEGMENTS_AT_ONCE)
    row_count = 0
    first: int | None = None
    with connection.execute(query) as found:
        for each in found:
            if each.first_ordinal > end or row_count >= rows_at_once:
                break
            first = each.first_ordinal if first is None else first
            signature.ends.append((each.segment_id, min(each.last_ordinal, end)))
            row_count += each.row_count
    signature.next_ordinal = max(signature.next_ordinal, first or 0)


def _in_order(query: sa.Select[Any], signature: Signature) -> sa.Select[Any]:
    return query.where(
        segments.c.signature_id == signature.signature_id,
        segments.c.segment_id > signature.behind,
        segments.c.last_ordinal >= signature.next_ordinal,
    ).order_by(segments.c.segment_id)


def read_rows(connection: sa.Connection, signature: Signature, wanted: Wanted, last: int) -> Piece:
    """Read a signature's rows from its next ordinal to this one."""
    # If segments were folded since they were looked up, fewer of them hold the same rows.
    count = sum(signature.next_ordinal <= end < last for _, end in signature.ends) + 1
    ids = connection.scalars(_in_order(sa.select(segments.c.segment_id), signature).limit(count))
    piece = read_segments(connection, ids.all(), wanted)
    return between(piece, signature.next_ordinal, last)


def read_segments(connection: sa.Connection, segment_ids: Sequence[int], wanted: Wanted) -> Piece:
    """Read some metrics of whole segments."""
    query = sa.select(segments.c.ordinals, segments.c.steps, segments.c.times_unix_nano)
    query = query.where(segments.c.segment_id.in_(segment_ids)).order_by(segments.c.segment_id)
    found = connection.execute(query).all()
    if not found:  # the run was deleted meanwhile
        none = np.empty(0, np.int64)
        return Piece(none, none, none, {key: none for key, _ in wanted.values()})
    axes = zip(*found, strict=True)
    ordinals, steps, times = (from_blob("q", b"".join(blobs)) for blobs in axes)
    if not wanted:
        return Piece(ordinals, steps, times, {})
    values = sa.select(columns.c.position, columns.c.data)
    values = values.where(columns.c.segment_id.in_(segment_ids))
    if len(wanted) <= POSITIONS_MAX:
        values = values.where(columns.c.position.in_(wanted))
    else:
        values = values.where(columns.c.position.between(min(wanted), max(wanted)))
    blobs: dict[int, list[bytes]] = {position: [] for position in wanted}
    for position, blob in connection.execute(values.order_by(columns.c.segment_id)):
        if position in blobs:
            blobs[position].append(blob)
    decoded = {
        key: from_blob(kind, b"".join(blobs[position])) for position, (key, kind) in wanted.items()
    }
    return Piece(ordinals, steps, times, decoded)


def between(piece: Piece, first: int, last: int) -> Piece:
    """Return the rows with these ordinals."""
    start, stop = np.searchsorted(piece.ordinals, [first, last + 1])
    return piece.rows(slice(start, stop))


def within(piece: Piece, selection: Selection) -> Piece:
    """Return the rows that are in the range of steps and times."""
    if not selection.has_range:
        return piece
    is_in = np.ones(len(piece), np.bool_)
    for axis, least, largest in (
        (piece.steps, selection.min_step, selection.max_step),
        (piece.times_unix_nano, selection.min_time_unix_nano, selection.max_time_unix_nano),
    ):
        if least is not None:
            is_in &= axis >= least
        if largest is not None:
            is_in &= axis <= largest
    return piece.rows(is_in)


def numbers_of(wanted: Wanted) -> dict[int, tuple[str, str]]:
    """Return what is numbers of what is wanted."""
    return {
        position: (key, kind) for position, (key, kind) in wanted.items() if kind in NUMBER_KINDS
    }
