"""Reads few points of one metric that show its shape, decoding as few segments as that takes."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import sqlalchemy as sa

from pillion.plain import EXACT_MAX
from pillion_sidecar.columns import Numbers
from pillion_sidecar.downsampling import Buckets, Extremes, Point, worth_reading
from pillion_sidecar.segment_reading import (
    Axis,
    Piece,
    Signature,
    between,
    read_segments,
    within,
)
from pillion_sidecar.selection import Selection
from pillion_sidecar.store import Store
from pillion_sidecar.store_tables import columns, from_blob, segments

SEGMENTS_AT_ONCE = 128


def read_shape(
    store: Store, known: Sequence[Signature], selection: Selection, buckets: Buckets
) -> Iterator[Piece]:
    """Yield the points of one metric that are kept, by ordinal; each type by itself.

    Args:
        store: What is read.
        known: Where the metric is, and nothing else.
        selection: The range.
        buckets: The metric's.
    """
    extremes = Extremes(buckets)
    (key,) = {key for signature in known for key, _ in signature.wanted.values()}
    for signature in known:
        for position, (_, kind) in signature.wanted.items():
            with store.snapshot() as connection:
                column = _Column(connection, signature.signature_id, position, kind)
                chosen = column.segments(buckets, is_whole=not selection.has_range)
                for start in range(0, len(chosen), SEGMENTS_AT_ONCE):
                    column.add_to(
                        extremes, chosen[start : start + SEGMENTS_AT_ONCE], selection, buckets
                    )
    by_type: dict[type, list[Point]] = {}
    for point in extremes.points():
        by_type.setdefault(type(point.value), []).append(point)
    for points in by_type.values():
        yield Piece(
            np.array([point.ordinal for point in points], np.int64),
            np.array([point.step for point in points], np.int64),
            np.array([point.time_unix_nano for point in points], np.int64),
            {key: np.array([point.value for point in points])},
        )


class _Column:
    """A metric's values in one signature, within a snapshot."""

    def __init__(
        self, connection: sa.Connection, signature_id: int, position: int, kind: str
    ) -> None:
        self._connection, self._signature_id = connection, signature_id
        self._position, self._kind = position, kind

    def segments(self, buckets: Buckets, *, is_whole: bool) -> list[sa.Row[Any]]:
        """Return the segments that may hold a point that is kept.

        Args:
            buckets: The metric's.
            is_whole: Whether all rows of a segment count.
        """
        query = (
            sa.select(
                *(segments.c.segment_id, segments.c.first_ordinal, segments.c.last_ordinal),
                *(segments.c.row_count, columns.c.minimum, columns.c.maximum),
            )
            .join(columns, columns.c.segment_id == segments.c.segment_id)
            .where(
                segments.c.signature_id == self._signature_id,
                segments.c.last_ordinal >= buckets.first_ordinal,
                segments.c.first_ordinal <= buckets.last_ordinal,
                columns.c.position == self._position,
            )
            .order_by(segments.c.segment_id)
        )
        found = [*self._connection.execute(query)]
        first = np.array([each.first_ordinal for each in found], np.int64)
        last = np.array([each.last_ordinal for each in found], np.int64)
        minima = np.array([each.minimum for each in found], np.float64)  # NaN for None
        maxima = np.array([each.maximum for each in found], np.float64)
        largest = np.fmax.reduce(np.abs(np.concatenate([minima, maxima])), initial=0.0)
        if not found or not is_whole or (self._kind == "q" and largest >= EXACT_MAX):
            return found  # extremes are kept as doubles: those of larger integers were rounded
        wanted = worth_reading(buckets, first, last, minima, maxima)
        return [each for each, is_wanted in zip(found, wanted, strict=True) if is_wanted]

    def add_to(
        self,
        extremes: Extremes,
        found: Sequence[sa.Row[Any]],
        selection: Selection,
        buckets: Buckets,
    ) -> None:
        """Look at the points of some segments."""
        ids = [each.segment_id for each in found]
        first, last = buckets.first_ordinal, buckets.last_ordinal
        is_dense = all(
            each.last_ordinal - each.first_ordinal + 1 == each.row_count for each in found
        )
        if selection.has_range or not is_dense:
            read = read_segments(self._connection, ids, {self._position: ("", self._kind)})
            piece = within(between(read, first, last), selection)
            extremes.add(
                piece.ordinals,
                cast("Numbers", piece.columns[""]),
                lambda chosen: (piece.steps[chosen], piece.times_unix_nano[chosen]),
            )
            return
        # Ordinals without a hole need not be read, and steps and times only of what is chosen.
        row_count = sum(each.row_count for each in found)
        if found[-1].last_ordinal - found[0].first_ordinal + 1 == row_count:
            ordinals = np.arange(found[0].first_ordinal, found[-1].last_ordinal + 1)
        else:
            ordinals = np.concatenate(
                [np.arange(each.first_ordinal, each.last_ordinal + 1) for each in found]
            )
        start, stop = np.searchsorted(ordinals, [first, last + 1])
        ends = np.cumsum([each.row_count for each in found])
        extremes.add(
            ordinals[start:stop],
            self._values(ids)[start:stop],
            lambda chosen: self._axes(ids, ends, chosen + start),
        )

    def _values(self, segment_ids: Sequence[int]) -> Numbers:
        query = sa.select(columns.c.data).where(
            columns.c.segment_id.in_(segment_ids), columns.c.position == self._position
        )
        blobs = self._connection.scalars(query.order_by(columns.c.segment_id))
        return cast("Numbers", from_blob(self._kind, b"".join(blobs)))

    def _axes(self, segment_ids: Sequence[int], ends: Axis, chosen: Axis) -> tuple[Axis, Axis]:
        """Return steps and times of some points.

        Args:
            segment_ids: Of segments that follow each other.
            ends: How many points they have up to and with each.
            chosen: Indices of points, counted over all of them; they ascend.
        """
        hit, starts = np.unique(np.searchsorted(ends, chosen, side="right"), return_index=True)
        query = sa.select(segments.c.steps, segments.c.times_unix_nano)
        query = query.where(segments.c.segment_id.in_([segment_ids[index] for index in hit]))
        steps, times = np.empty(len(chosen), np.int64), np.empty(len(chosen), np.int64)
        rows = self._connection.execute(query.order_by(segments.c.segment_id))
        stops = [*starts[1:], len(chosen)]
        for row, segment, start, stop in zip(rows, hit, starts, stops, strict=True):
            places = chosen[start:stop] - (ends[segment - 1] if segment else 0)
            steps[start:stop] = from_blob("q", row.steps)[places]
            times[start:stop] = from_blob("q", row.times_unix_nano)[places]
        return steps, times
