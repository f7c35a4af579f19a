"""Segments: how the store's writer lays rows down, in the transaction of its caller.

Rows that share their metrics and come in one call go into one segment. Few rows make a small one;
when a signature's small segments and the new rows reach `SEGMENT_ROWS` together, they become one
full segment. So every row is written at most twice, and only a signature's last segments are small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from pillion.values import Value
from pillion_sidecar.columns import NUMBER_KINDS, kind_of
from pillion_sidecar.records import Frame, RunId
from pillion_sidecar.store_figures import FIGURES, Figures, figures_of, merged, no_figures
from pillion_sidecar.store_tables import (
    SEGMENT_IDS,
    Metrics,
    columns,
    from_blob,
    segment_ids,
    segments,
    signatures,
    to_blob,
)

SEGMENT_ROWS = 1_024
"""A segment of at least as many rows is full and never touched again."""

_UPDATE_LAST_ROW = signatures.update().where(
    signatures.c.signature_id == sa.bindparam("of_signature")
)

TEXT_CHARACTERS_MAX = 1_024
"""Of a text in a run's summary; longer ones are cut there."""


@dataclass(slots=True)
class Tail:
    """A signature: its figures, and the small segments at its end; none: both numbers are 0."""

    signature_id: int
    figures: Figures
    first_ordinal: int
    first_segment_id: int = 0
    row_count: int = 0


Tails: TypeAlias = dict[Metrics, Tail]
"""All signatures of a run."""


@dataclass(slots=True)
class _Segment:
    """Rows of one signature, as blobs."""

    ordinals: bytes
    steps: bytes
    times_unix_nano: bytes
    columns: list[bytes]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ordinals) // 8


@dataclass(slots=True)
class _Inserts:
    """What one call adds, a list per table, so that each takes one statement."""

    segments: list[dict[str, Any]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    last_rows: list[dict[str, Any]] = field(default_factory=list)


class SegmentWriter:
    """Writes rows through a connection, whose transactions are the caller's."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._ids: Iterator[int] = iter(())
        """Those that no segment has had; larger than all that a segment of this writer has."""

    def forget_ids(self) -> None:
        """Take others from now on: those of another writer may be larger by now."""
        self._ids = iter(())

    def tails(self, run_id: RunId) -> Tails:
        """Read what `append` has to know of a run."""
        small = sa.and_(
            segments.c.signature_id == signatures.c.signature_id,
            segments.c.row_count < SEGMENT_ROWS,
        )
        query = (
            sa.select(
                signatures,
                sa.func.coalesce(sa.func.min(segments.c.segment_id), 0),
                sa.func.coalesce(sa.func.sum(segments.c.row_count), 0),
            )
            .select_from(signatures.outerjoin(segments, small))
            .where(signatures.c.run_id == run_id)
            .group_by(signatures.c.signature_id)
        )
        tails: Tails = {}
        for found in self._connection.execute(query).all():
            metrics = tuple((key, kind) for key, kind in found.metrics)
            if found.figures is None:  # from before format 3
                known = self._figures(found.signature_id, metrics)
            else:
                known = from_blob("d", found.figures).reshape(-1, FIGURES), found.first_ordinal
            tails[metrics] = Tail(found.signature_id, *known, *found[-2:])
        return tails

    def append(self, run_id: RunId, tails: Tails, frames: Sequence[Frame]) -> None:
        """Write frames, none of them empty, whose ordinals are behind all that the run has."""
        groups: dict[Metrics, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(_metrics(frame), []).append(frame)
        inserts = _Inserts()
        for metrics, group in groups.items():
            if metrics not in tails:
                signature_id = self._insert_signature(run_id, metrics)
                none = no_figures(len(metrics))
                tails[metrics] = Tail(signature_id, none, group[0].first_ordinal)
            self._append_group(tails[metrics], metrics, group, inserts)
        if groups:
            self._connection.execute(segments.insert(), inserts.segments)
            self._connection.execute(_UPDATE_LAST_ROW, inserts.last_rows)
        if inserts.columns:
            self._connection.execute(columns.insert(), inserts.columns)

    def _append_group(
        self, tail: Tail, metrics: Metrics, frames: Sequence[Frame], inserts: _Inserts
    ) -> None:
        segment = _pack(metrics, frames)
        new = [
            figures_of(from_blob(kind, data), kind)
            for (_, kind), data in zip(metrics, segment.columns, strict=True)
        ]
        tail.figures = merged(tail.figures, np.array(new).reshape(-1, FIGURES))
        segment_id = self._next_id()
        if tail.row_count + len(segment) < SEGMENT_ROWS:
            tail.first_segment_id = tail.first_segment_id or segment_id
            tail.row_count += len(segment)
        elif tail.row_count:
            segment = self._fold(tail, segment)
        place = {"segment_id": segment_id, "signature_id": tail.signature_id}
        inserts.segments.append(place | _segment_row(segment))
        for position, ((_, kind), data) in enumerate(zip(metrics, segment.columns, strict=True)):
            place = {"segment_id": segment_id, "position": position}
            inserts.columns.append(place | _column_row(kind, data))
        inserts.last_rows.append(_last_row(tail, metrics, frames[-1]))

    def _next_id(self) -> int:
        segment_id = next(self._ids, None)
        if segment_id is None:
            self._ids = self._more_ids()
            segment_id = next(self._ids)
        return segment_id

    def _more_ids(self) -> Iterator[int]:
        if self._connection.dialect.name == "sqlite":  # where nobody else writes
            last_id = self._connection.scalar(sa.select(sa.func.max(segments.c.segment_id)))
            return count((last_id or 0) + 1)
        first_id: int = self._connection.scalars(sa.select(segment_ids.next_value())).one()
        return iter(range(first_id, first_id + SEGMENT_IDS))

    def _insert_signature(self, run_id: RunId, metrics: Metrics) -> int:
        new = {"run_id": run_id, "metrics": metrics, "last_ordinal": -1, "last_values": []}
        insert = signatures.insert().values(new).returning(signatures.c.signature_id)
        return int(self._connection.execute(insert).scalar_one())

    def _figures(self, signature_id: int, metrics: Metrics) -> tuple[Figures, int]:
        """Make up the figures of a signature, and its first ordinal, from its rows."""
        figures = no_figures(len(metrics))
        in_signature = segments.c.signature_id == signature_id
        query = sa.select(columns.c.segment_id, columns.c.position, columns.c.data).join(segments)
        query = query.where(in_signature).order_by(columns.c.segment_id)
        for _, position, data in self._connection.execute(query):
            kind = metrics[position][1]
            new = np.array([figures_of(from_blob(kind, data), kind)])
            figures[position] = merged(figures[position : position + 1], new)
        first = sa.select(sa.func.min(segments.c.first_ordinal)).where(in_signature)
        return figures, self._connection.scalar(first) or 0

    def _fold(self, tail: Tail, segment: _Segment) -> _Segment:
        """Take the small segments out of the store and put `segment` behind them."""
        small = sa.and_(
            segments.c.signature_id == tail.signature_id,
            segments.c.segment_id >= tail.first_segment_id,
        )
        axes = sa.select(segments.c.ordinals, segments.c.steps, segments.c.times_unix_nano)
        pieces = self._connection.execute(axes.where(small).order_by(segments.c.segment_id))
        ordinals, steps, times = map(b"".join, zip(*pieces, strict=True))
        blobs: list[list[bytes]] = [[] for _ in segment.columns]
        values = sa.select(columns.c.position, columns.c.data).join(segments).where(small)
        for position, data in self._connection.execute(values.order_by(segments.c.segment_id)):
            blobs[position].append(data)
        ids = sa.select(segments.c.segment_id).where(small)
        self._connection.execute(columns.delete().where(columns.c.segment_id.in_(ids)))
        self._connection.execute(segments.delete().where(small))
        tail.first_segment_id = tail.row_count = 0
        return _Segment(
            ordinals + segment.ordinals,
            steps + segment.steps,
            times + segment.times_unix_nano,
            [b"".join([*old, new]) for old, new in zip(blobs, segment.columns, strict=True)],
        )


def _metrics(frame: Frame) -> Metrics:
    return tuple((key, kind_of(column)) for key, column in frame.columns.items())


def _pack(metrics: Metrics, frames: Sequence[Frame]) -> _Segment:
    return _Segment(
        to_blob("q", [np.arange(f.first_ordinal, f.first_ordinal + len(f)) for f in frames]),
        to_blob("q", [frame.steps for frame in frames]),
        to_blob("q", [frame.times_unix_nano for frame in frames]),
        [to_blob(kind, [frame.columns[key] for frame in frames]) for key, kind in metrics],
    )


def _segment_row(segment: _Segment) -> dict[str, Any]:
    return {
        "first_ordinal": int.from_bytes(segment.ordinals[:8], "little"),
        "last_ordinal": int.from_bytes(segment.ordinals[-8:], "little"),
        "row_count": len(segment),
        "ordinals": segment.ordinals,
        "steps": segment.steps,
        "times_unix_nano": segment.times_unix_nano,
    }


def _column_row(kind: str, data: bytes) -> dict[str, Any]:
    if kind not in NUMBER_KINDS:
        return {"minimum": None, "maximum": None, "nan_count": 0, "data": data}
    values = from_blob(kind, data)
    numbers = values[~np.isnan(values)] if kind == "d" else values
    return {
        "minimum": float(numbers.min()) if len(numbers) else None,
        "maximum": float(numbers.max()) if len(numbers) else None,
        "nan_count": len(values) - len(numbers),
        "data": data,
    }


def _last_row(tail: Tail, metrics: Metrics, frame: Frame) -> dict[str, Any]:
    return {
        "of_signature": tail.signature_id,
        "first_ordinal": tail.first_ordinal,
        "last_ordinal": frame.first_ordinal + len(frame) - 1,
        "last_values": [_last_value(kind, frame.columns[key][-1]) for key, kind in metrics],
        "figures": tail.figures.astype("<f8").tobytes(),
    }


def _last_value(kind: str, value: Any) -> Value:
    """Return what a summary shows of a value; None of what is no number and no text."""
    if kind in NUMBER_KINDS:
        number: Value = value.item()
        return number
    if kind == "s" and len(value) > TEXT_CHARACTERS_MAX:
        return f"{value[:TEXT_CHARACTERS_MAX]}…"
    return value if kind == "s" else None
