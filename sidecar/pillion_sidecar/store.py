"""The store: every run and every point, long-term. Here are its reads.

One process writes to a file, and several to PostgreSQL (`sinks/store.py`); any number read, each
call in one snapshot, so that nobody ever sees half a change. What is on disk: `store_tables.py`.
"""

import heapq
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pillion_sidecar.columns import NUMBER_KINDS, Logged, Numbers
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    BlobChunk,
    ConsoleLines,
    ConsoleStream,
    Offset,
    RunId,
)
from pillion_sidecar.store_database import cannot_read, open_for_reading
from pillion_sidecar.store_tables import (
    POSITIONS_MAX,
    EventKind,
    Metrics,
    alerts,
    chunks,
    columns,
    console,
    events,
    from_blob,
    is_there,
    runs,
    segments,
    signatures,
)
from pillion_sidecar.stored_run import PageKey, StoredRun, read_runs, target_of

CONSOLE_RECORDS = 16
"""So many records of console lines are read at once; one may be of 1 MiB."""

Row: TypeAlias = tuple[int, int, int, dict[str, Logged]]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that became of a run."""

    kind: EventKind
    text: str
    time_unix_nano: int


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The points of one metric, by ordinal. All arrays are read-only and of shape (points,)."""

    ordinals: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    times_unix_nano: npt.NDArray[np.int64]
    values: Numbers

    def __len__(self) -> int:
        """The number of points."""
        return len(self.ordinals)


class Store:
    """The reading end, safe for any thread. All reads may raise `DiskError`."""

    def __init__(self, url: str, *, owner: str = "") -> None:
        """Open the store, which must exist.

        Args:
            url: `sqlite:///PATH`, or `postgresql+psycopg://USER@HOST/DATABASE`.
            owner: Whose cursors and artifacts are asked for; see `sidecar_id.py`.

        Raises:
            SettingsError: There is none, it is no store, or it is of a newer Pillion.
            DiskError: It cannot be read.
        """
        self._engine, self.owner = open_for_reading(url), owner

    @property
    def format(self) -> int:
        """Of which format it was when it was opened."""
        found: int = self._engine.get_execution_options()["store_format"]
        return found

    def runs(
        self, project: str | None = None, *, limit: int = 100, before: PageKey | None = None
    ) -> list[StoredRun]:
        """Return runs by the time they started, the latest first.

        Args:
            project: Only runs of this project; None: of all.
            limit: At most this many.
            before: Only runs behind this one's `page_key`, so that pages neither repeat nor skip
                a run that existed when the first was read.
        """
        time, run_id = runs.c.start_time_unix_nano, runs.c.run_id
        query = runs.select().order_by(time.desc(), run_id.desc()).limit(limit)
        if project is not None:
            query = query.where(runs.c.project == project)
        if before is not None:
            query = query.where((time < before[0]) | ((time == before[0]) & (run_id < before[1])))
        with self.snapshot() as connection:
            return read_runs(connection, query)

    def chosen_runs(self, run_ids: Sequence[RunId]) -> list[StoredRun]:
        """Return these runs, in this order; those that are not known are left out."""
        with self.snapshot() as connection:
            found = read_runs(connection, runs.select().where(runs.c.run_id.in_(run_ids)))
        by_id = {run.run_id: run for run in found}
        return [by_id[run_id] for run_id in run_ids if run_id in by_id]

    def run(self, run_id: RunId) -> StoredRun | None:
        """Return one run; None if it is not known here."""
        with self.snapshot() as connection:
            found = read_runs(connection, runs.select().where(runs.c.run_id == run_id))
        return found[0] if found else None

    def has_run(self, run_id: RunId) -> bool:
        """Tell whether a run is known here."""
        query = sa.select(sa.literal(1)).where(runs.c.run_id == run_id)
        with self.snapshot() as connection:
            return connection.scalar(query) is not None

    def owner_of(self, run_id: RunId) -> str | None:
        """Tell whose run this is; None if it is not known here."""
        with self.snapshot() as connection:
            owner: str | None = connection.scalar(
                sa.select(runs.c.owner).where(runs.c.run_id == run_id)
            )
        return owner

    def cursor(self, run_id: RunId) -> Offset | None:
        """Return the cursor of an own run; None if there is none such."""
        is_own = (runs.c.run_id == run_id) & (runs.c.owner == self.owner)
        with self.snapshot() as connection:
            cursor: Offset | None = connection.scalar(sa.select(runs.c.cursor).where(is_own))
        return cursor

    def cursors(self, *, beyond: Offset) -> dict[RunId, tuple[Offset, int, str]]:
        """Return each own run whose cursor is beyond an offset.

        With each its cursor, its next row's ordinal, and the W&B sink that it goes to.
        """
        last_ordinal = sa.func.max(signatures.c.last_ordinal)
        query = (
            sa.select(runs.c.run_id, runs.c.cursor, runs.c.wandb, last_ordinal)
            .outerjoin(signatures)
            .where(runs.c.cursor > beyond, runs.c.owner == self.owner)
            .group_by(runs.c.run_id)
        )
        with self.snapshot() as connection:
            return {
                RunId(run_id): (
                    Offset(cursor),
                    0 if ordinal is None else ordinal + 1,
                    target_of(wandb).sink,
                )
                for run_id, cursor, wandb, ordinal in connection.execute(query)
            }

    def keys(self, run_id: RunId) -> list[str]:
        """Return the names of the run's metrics, in the order in which they were first logged."""
        with self.snapshot() as connection:
            names = [key for _, keys in _read_signatures(connection, run_id) for key, _ in keys]
        return list(dict.fromkeys(names))

    def series(self, run_id: RunId, key: str) -> Series:
        """Return one metric; without points if there is none of this name."""
        none = np.empty(0, np.int64)
        empty = Series(none, none, none, np.empty(0, np.float64))
        return self.read_series(run_id, [key]).get(key, empty)

    def read_series(self, run_id: RunId, keys: Collection[str] | None = None) -> dict[str, Series]:
        """Return several metrics, None: all. Unknown ones are left out, and what is no number.

        A metric whose type changed comes in the type that holds all: integers among floats as
        float64, booleans among integers as int64.
        """
        with self.snapshot() as connection:
            return read_series(connection, run_id, keys)

    def rows(self, run_id: RunId, first_ordinal: int = 0) -> Generator[Row]:
        """Yield (ordinal, step, time in ns, values exactly as logged), by ordinal.

        Holds one segment per signature in memory, and its snapshot until it is closed.
        """
        with self.snapshot() as connection:
            streams = [
                _read_rows(connection, signature_id, named, first_ordinal)
                for signature_id, named in _read_signatures(connection, run_id)
            ]
            yield from heapq.merge(*streams, key=itemgetter(0))

    def console(
        self, run_id: RunId, first: int = 0, through: Offset | None = None
    ) -> Generator[ConsoleLines]:
        """Yield what the run's trainers printed, as it came.

        Holds some of it in memory, and its snapshot until it is closed.

        Args:
            run_id: The run.
            first: So many records are left out at the beginning.
            through: Only what came up to this cursor of the run.
        """
        with self.snapshot() as connection:
            if not is_there(connection, console):
                return  # no one has written to this store since it was of format 1
            query = console.select().where(console.c.run_id == run_id, console.c.number >= first)
            if through is not None:
                query = query.where(console.c.cursor <= through)
            query = query.order_by(console.c.number)
            with connection.execution_options(yield_per=CONSOLE_RECORDS).execute(query) as found:
                for row in found:
                    stream = ConsoleStream(row.stream)
                    yield ConsoleLines(stream, row.time_unix_nano, tuple(row.lines))

    def alerts(self, run_id: RunId) -> list[Alert]:
        """Return the run's latest alerts, as they came."""
        with self.snapshot() as connection:
            if not is_there(connection, alerts):
                return []
            query = alerts.select().where(alerts.c.run_id == run_id).order_by(alerts.c.number)
            return [
                Alert(row.title, row.text, AlertLevel(row.level), row.time_unix_nano)
                for row in connection.execute(query)
            ]

    def events(self, run_id: RunId) -> list[Event]:
        """Return what became of the run, as it came: the latest of it."""
        with self.snapshot() as connection:
            if not is_there(connection, events):
                return []
            query = events.select().where(events.c.run_id == run_id).order_by(events.c.number)
            return [
                Event(EventKind(row.kind), row.text, row.time_unix_nano)
                for row in connection.execute(query)
            ]

    def chunks(self, run_id: RunId) -> Generator[BlobChunk]:
        """Yield the pieces of the run's files that are not complete, as they came."""
        with self.snapshot() as connection:
            if not is_there(connection, chunks):
                return
            query = chunks.select().where(chunks.c.run_id == run_id).order_by(chunks.c.chunk_id)
            with connection.execution_options(yield_per=CONSOLE_RECORDS).execute(query) as found:
                for row in found:
                    yield BlobChunk(row.sha256, row.offset_bytes, row.size_bytes, row.data)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Read the store as it is now, whatever is written meanwhile."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise cannot_read(error) from error


def read_series(
    connection: sa.Connection, run_id: RunId, keys: Collection[str] | None = None
) -> dict[str, Series]:
    """Return several metrics, as `Store.read_series` does, within a snapshot."""
    parts: dict[str, list[Series]] = {}
    for signature_id, named in _read_signatures(connection, run_id):
        wanted = {
            position: (key, kind)
            for position, (key, kind) in enumerate(named)
            if kind in NUMBER_KINDS and (keys is None or key in keys)
        }
        if wanted:
            for key, part in _read_part(connection, signature_id, wanted):
                parts.setdefault(key, []).append(part)
    return {key: _merged(series) for key, series in parts.items()}


def _read_signatures(connection: sa.Connection, run_id: RunId) -> list[tuple[int, Metrics]]:
    query = sa.select(signatures.c.signature_id, signatures.c.metrics)
    query = query.where(signatures.c.run_id == run_id).order_by(signatures.c.signature_id)
    return [(signature_id, keys) for signature_id, keys in connection.execute(query)]


def _read_part(
    connection: sa.Connection, signature_id: int, wanted: Mapping[int, tuple[str, str]]
) -> Iterator[tuple[str, Series]]:
    """Yield (key, series) for some positions of a signature; they share their axes."""
    in_signature = segments.c.signature_id == signature_id
    query = sa.select(segments.c.ordinals, segments.c.steps, segments.c.times_unix_nano)
    query = query.where(in_signature).order_by(segments.c.segment_id)
    pieces = zip(*connection.execute(query), strict=True)
    ordinals, steps, times = (from_blob("q", b"".join(blobs)) for blobs in pieces)
    blobs: dict[int, list[bytes]] = {position: [] for position in wanted}
    values = sa.select(columns.c.position, columns.c.data).join(segments)
    values = values.where(in_signature).order_by(segments.c.segment_id)
    if len(wanted) <= POSITIONS_MAX:
        values = values.where(columns.c.position.in_(wanted))
    for position, blob in connection.execute(values):
        if position in blobs:
            blobs[position].append(blob)
    for position, (key, kind) in wanted.items():
        yield key, Series(ordinals, steps, times, from_blob(kind, b"".join(blobs[position])))


def _merged(parts: Sequence[Series]) -> Series:
    """Put the points of several signatures in order."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([part.ordinals for part in parts]))
    return Series(
        np.concatenate([part.ordinals for part in parts])[order],
        np.concatenate([part.steps for part in parts])[order],
        np.concatenate([part.times_unix_nano for part in parts])[order],
        np.concatenate([part.values for part in parts])[order],
    )


def _read_rows(
    connection: sa.Connection, signature_id: int, named: Metrics, first_ordinal: int
) -> Iterator[Row]:
    """Yield the rows of one signature, reading a segment at a time."""
    query = segments.select().where(segments.c.signature_id == signature_id)
    query = query.where(segments.c.last_ordinal >= first_ordinal)
    query = query.order_by(segments.c.segment_id).limit(1)
    segment = connection.execute(query).one_or_none()
    while segment is not None:
        values = sa.select(columns.c.data).where(columns.c.segment_id == segment.segment_id)
        blobs = connection.scalars(values.order_by(columns.c.position)).all()
        lists = [
            from_blob(kind, blob).tolist() for blob, (_, kind) in zip(blobs, named, strict=True)
        ]
        axes = (segment.ordinals, segment.steps, segment.times_unix_nano)
        places = zip(*(from_blob("q", axis).tolist() for axis in axes), strict=True)
        for index, (ordinal, step, time) in enumerate(places):
            row = {key: column[index] for (key, _), column in zip(named, lists, strict=True)}
            if ordinal >= first_ordinal:
                yield ordinal, step, time, row
        later = query.where(segments.c.segment_id > segment.segment_id)
        segment = connection.execute(later).one_or_none()
