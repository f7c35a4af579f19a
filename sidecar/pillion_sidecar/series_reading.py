"""Reads points of a run's metrics, in pieces: all, every n-th, or few that show the shape.

A piece is read within a snapshot of its own, and none is held between two: a reader that takes its
time keeps neither the store's log from being cut nor more in memory than one piece. Reading goes on
by ordinals, which never change, however segments are folded meanwhile. What is logged after the
read began is not in it.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from pillion_sidecar.columns import NUMBER_KINDS
from pillion_sidecar.downsampling import Buckets
from pillion_sidecar.records import RunId
from pillion_sidecar.segment_reading import (
    Axis,
    Piece,
    Signature,
    look_ahead,
    numbers_of,
    read_rows,
    within,
)
from pillion_sidecar.selection import Selection, chosen_keys
from pillion_sidecar.shape_reading import read_shape
from pillion_sidecar.store import Store
from pillion_sidecar.store_tables import Metrics, segments, signatures

ROWS_AT_ONCE = 16_384
"""Of one piece; of several sets of metrics together, about."""
VALUES_AT_ONCE = 65_536
"""Of one piece."""


def read_points(store: Store, run_id: RunId, selection: Selection) -> Generator[Piece]:
    """Yield the points of a run's metrics.

    Frames of one set of metrics come by ordinal. A metric that is logged with different others in
    different rows has its points in several pieces, which together reach equally far; where their
    exact order counts, sort by ordinal. With `max_points` metrics that have few points come first,
    the others one by one.

    Raises:
        PeerError: The run has no metric of a name that was given, or a glob is malformed.
        DiskError: The store cannot be read.
    """
    known, end = _known(store, run_id, selection)
    if not selection.max_points:
        yield from _rows(store, known, selection, end)
        return
    for signature in known:
        signature.wanted = numbers_of(signature.wanted)
    extents = _extents(store, known, selection, end)
    few = {key for key, extent in extents.items() if extent.count <= selection.max_points}
    yield from _rows(store, [_only(each, few) for each in known], selection, end)
    for key in [key for key in extents if key not in few]:
        buckets = Buckets.within(
            extents[key].first_ordinal, extents[key].last_ordinal, selection.max_points
        )
        yield from read_shape(store, [_only(each, {key}) for each in known], selection, buckets)


def _known(store: Store, run_id: RunId, selection: Selection) -> tuple[list[Signature], int]:
    """Return where the wanted metrics are, and the last ordinal of the run."""
    query = sa.select(signatures.c.signature_id, signatures.c.metrics, signatures.c.last_ordinal)
    query = query.where(signatures.c.run_id == run_id).order_by(signatures.c.signature_id)
    with store.snapshot() as connection:
        found = [
            (each.signature_id, each.metrics, each.last_ordinal)
            for each in connection.execute(query)
        ]
    names = dict.fromkeys(key for _, metrics, _ in found for key, _ in metrics)
    chosen = chosen_keys(run_id, names, selection.keys)
    known = [
        Signature(signature_id, _wanted(metrics, chosen), selection.min_ordinal)
        for signature_id, metrics, _ in found
    ]
    return [each for each in known if each.wanted], max((last for *_, last in found), default=-1)


def _wanted(metrics: Metrics, chosen: set[str]) -> dict[int, tuple[str, str]]:
    return {position: (key, kind) for position, (key, kind) in enumerate(metrics) if key in chosen}


def _rows(
    store: Store, known: Sequence[Signature], selection: Selection, end: int
) -> Iterator[Piece]:
    """Yield all rows of several signatures up to an ordinal, or every n-th point."""
    left = [each for each in known if each.wanted]
    rows_at_once = ROWS_AT_ONCE // max(1, len(left))
    with store.snapshot() as connection:
        for signature in left:
            look_ahead(connection, signature, rows_at_once, end)
    seen: Counter[str] = Counter()
    while left := [each for each in left if each.ends]:
        last = min(each.last_ordinal for each in left)
        here = [each for each in left if each.next_ordinal <= last]
        strides = _strides(store, here, last, selection, seen) if selection.stride > 1 else None
        for signature in here:
            for piece in _pieces(store, signature, last):
                chosen = within(piece, selection)
                yield from [chosen] if strides is None else _thinned(chosen, strides)
        with store.snapshot() as connection:
            for signature in here:
                signature.advance(last)
                if not signature.ends:
                    look_ahead(connection, signature, rows_at_once, end)


def _pieces(store: Store, signature: Signature, last: int) -> Iterator[Piece]:
    """Yield what is next of a signature up to an ordinal, some of its metrics at a time."""
    numbers = [*numbers_of(signature.wanted).items()]
    row_count = last - signature.next_ordinal + 1
    width = max(1, VALUES_AT_ONCE // min(row_count, ROWS_AT_ONCE))
    for start in range(0, len(numbers), width):
        with store.snapshot() as connection:
            piece = read_rows(connection, signature, dict(numbers[start : start + width]), last)
        yield piece
    for position, named in signature.wanted.items():
        if named[1] not in NUMBER_KINDS:  # values of any size: a segment at a time
            first = signature.next_ordinal
            for _, last_of_segment in signature.ends:
                until = min(last_of_segment, last)
                if first <= until:
                    part = replace(signature, next_ordinal=first)
                    with store.snapshot() as connection:
                        piece = read_rows(connection, part, {position: named}, until)
                    yield piece
                    first = until + 1


def _strides(
    store: Store, here: Sequence[Signature], last: int, selection: Selection, seen: Counter[str]
) -> dict[str, Axis]:
    """Return the ordinals of every n-th point of each metric, counted over all its rows."""
    ordinals: dict[int, Axis] = {}
    places: dict[str, list[int]] = {}
    for signature in here:
        with store.snapshot() as connection:
            axes = read_rows(connection, signature, {}, last)
        ordinals[signature.signature_id] = within(axes, selection).ordinals
        for key, _ in signature.wanted.values():
            places.setdefault(key, []).append(signature.signature_id)
    thinned: dict[tuple[int, ...], Axis] = {}
    chosen: dict[str, Axis] = {}
    for key, signature_ids in places.items():
        together = (seen[key] % selection.stride, *signature_ids)
        if together not in thinned:
            of_key = np.sort(np.concatenate([ordinals[each] for each in signature_ids]))
            thinned[together] = of_key[-seen[key] % selection.stride :: selection.stride]
        chosen[key] = thinned[together]
        seen[key] += sum(len(ordinals[each]) for each in signature_ids)
    return chosen


def _thinned(piece: Piece, strides: Mapping[str, Axis]) -> Iterator[Piece]:
    """Yield the chosen points; metrics with the same ones stay together."""
    groups: dict[int, list[str]] = {}
    for key in piece.columns:
        groups.setdefault(id(strides[key]), []).append(key)
    for keys in groups.values():
        yield piece.of(keys).rows(np.isin(piece.ordinals, strides[keys[0]]))


def _only(signature: Signature, keys: set[str]) -> Signature:
    """Return a signature as it is before reading, with some of its metrics."""
    wanted = {position: each for position, each in signature.wanted.items() if each[0] in keys}
    return Signature(signature.signature_id, wanted, signature.next_ordinal)


@dataclass(slots=True)
class _Extent:
    """Where a metric's points are."""

    count: int
    first_ordinal: int
    last_ordinal: int


def _extents(
    store: Store, known: Sequence[Signature], selection: Selection, end: int
) -> dict[str, _Extent]:
    extents: dict[str, _Extent] = {}
    for signature in known:
        found = _extent(store, signature, selection, end)
        if found is None:
            continue
        for key, _ in signature.wanted.values():
            if key in extents:
                extent = extents[key]
                extent.count += found.count
                extent.first_ordinal = min(extent.first_ordinal, found.first_ordinal)
                extent.last_ordinal = max(extent.last_ordinal, found.last_ordinal)
            else:
                extents[key] = replace(found)
    return extents


def _extent(store: Store, signature: Signature, selection: Selection, end: int) -> _Extent | None:
    """Find where the wanted rows of a signature are; None: it has none."""
    if not selection.has_range and not selection.min_ordinal:
        query = sa.select(
            sa.func.sum(segments.c.row_count),
            sa.func.min(segments.c.first_ordinal),
            sa.func.max(segments.c.last_ordinal),
        ).where(segments.c.signature_id == signature.signature_id, segments.c.first_ordinal <= end)
        with store.snapshot() as connection:
            count, first, last = connection.execute(query).one()
        return _Extent(int(count), first, min(last, end)) if count else None
    extent = None
    left = Signature(signature.signature_id, {}, signature.next_ordinal)
    while True:
        with store.snapshot() as connection:
            look_ahead(connection, left, ROWS_AT_ONCE, end)
            if not left.ends:
                return extent
            found = within(read_rows(connection, left, {}, left.last_ordinal), selection).ordinals
        left.advance(left.last_ordinal)
        if len(found):
            extent = extent or _Extent(0, int(found[0]), 0)
            extent.count += len(found)
            extent.last_ordinal = int(found[-1])
