"""The store's writer: every record of every run into SQL, in order and exactly once.

Each call is one transaction that changes data and cursor together, on disk when it returns. What
lies at or before the cursor is in the store already and is ignored. How rows
are laid down: `store_segments.py`.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pillion.values import Value
from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, SinkError
from pillion_sidecar.records import (
    Alert,
    BlobChunk,
    ConfigUpdate,
    ConsoleLines,
    Frame,
    LostRange,
    MetricDefinition,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    SummaryUpdate,
)
from pillion_sidecar.sinks import News, Trouble
from pillion_sidecar.sinks.store_artifacts import keep_artifact, keep_use
from pillion_sidecar.sinks.store_chunks import ChunkWriter
from pillion_sidecar.sinks.store_segments import SegmentWriter, Tails
from pillion_sidecar.store_database import error_code, open_for_writing
from pillion_sidecar.store_tables import alerts, console, runs

ALERTS_MAX = 100
"""Of a run's alerts the latest are kept."""
DEFINITIONS_MAX = 1_000
"""Of one run; more are left out."""

_RUNNING = {"state": RunState.RUNNING, "reason": "", "exit_code": None, "end_time_unix_nano": None}
_CODES_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})


@dataclass(slots=True)
class _Run:
    """What the writer remembers of a run that has not ended; the same as on disk."""

    cursor: Offset
    row_count: int
    last_step: int | None
    lost_row_count: int
    console_count: int
    """How many records of console lines there are."""
    tails: Tails


class StoreSink:
    """See `Sink`. The only one that writes to the store; for one thread."""

    def __init__(self, url: str, blobs: Blobs | None = None) -> None:
        """Open the store at a URL, `sqlite:///PATH`, or make it. Raises as `open_for_writing`.

        Files of rows go to the blob store, by default one beside the database.
        """
        self._engine = open_for_writing(url)
        self._connection = self._engine.connect()
        self._runs: dict[RunId, _Run] = {}
        self._segments = SegmentWriter(self._connection)
        self._chunks = ChunkWriter(self._connection, blobs or _blobs_beside(url))

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        assert not anew, "the store is what is replayed"
        with self._transaction(start.run_id):
            run = self._remembered(start.run_id)
            if run is None:
                self._connection.execute(runs.insert().values(_new_run(offset, start)))
            elif offset > run.cursor:
                known = self._read(start.run_id, runs.c.tags, runs.c.config, runs.c.environment)
                tags = list(dict.fromkeys([*known.tags, *start.tags]))
                config = known.config | dict(start.config)
                environment = known.environment
                if not environment["python_version"]:  # `pillion run` speaks for its command
                    environment = asdict(start.environment)
                changes = {"tags": tags, "config": config, "environment": environment}
                self._update(start.run_id, run, offset, **changes, **_RUNNING)

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        with self._transaction(run_id):
            run = self._remembered(run_id)
            assert run is not None, "records come after the start of their run"
            if offset > run.cursor:
                frames = [r for r in records if isinstance(r, Frame) and len(r)]
                self._segments.append(run_id, run.tails, frames)
                self._print(run_id, run, offset, records)
                run.row_count += sum(map(len, frames))
                steps = [int(frame.steps.max()) for frame in frames]
                known = [] if run.last_step is None else [run.last_step]
                run.last_step = max(known + steps, default=None)
                run.lost_row_count += sum(r.row_count for r in records if isinstance(r, LostRange))
                self._keep_alerts(run_id, offset, records)
                self._chunks.append(run_id, [r for r in records if isinstance(r, BlobChunk)])
                self._keep_artifacts(run_id, offset, records)
                changes = self._merged(run_id, records)
                if not all(isinstance(record, RunUpdate | Artifact) for record in records):
                    changes |= _RUNNING
                self._update(run_id, run, offset, **changes)

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        run_id = finish.run_id
        with self._transaction(run_id):
            run = self._remembered(run_id)
            assert run is not None, "a run ends after its start"
            if offset > run.cursor:
                changes = self._merged(run_id, [SummaryUpdate(finish.summary)])
                changes |= {"state": finish.state, "reason": finish.reason}
                changes |= {"exit_code": finish.exit_code}
                self._chunks.forget(run_id)
                changes |= {"end_time_unix_nano": finish.time_unix_nano}
                self._update(run_id, run, offset, **changes)
        self._runs.pop(run_id, None)

    def takes(self, run_id: RunId) -> bool:  # noqa: ARG002 - it always does
        return True

    def trouble(self, run_id: RunId) -> Trouble:  # noqa: ARG002 - what keeps it fails a call
        return Trouble()

    def news(self) -> Iterator[News]:
        yield from ()

    def position(self, run_id: RunId) -> Offset:
        run = self._runs.get(run_id)
        return run.cursor if run else Offset(self._figure(run_id, runs.c.cursor))

    def row_count(self, run_id: RunId) -> int:
        run = self._runs.get(run_id)
        return run.row_count if run else self._figure(run_id, runs.c.row_count)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    @contextmanager
    def _transaction(self, run_id: RunId) -> Iterator[None]:
        """Commit what is done within; on failure undo it and forget what is known of the run."""
        try:
            with self._connection.begin():
                yield
        except BaseException as error:
            self._runs.pop(run_id, None)
            if isinstance(error, DBAPIError):
                raise _failure(error) from error
            raise

    def _figure(self, run_id: RunId, column: sa.Column[Any]) -> int:
        with self._transaction(run_id):
            query = sa.select(column).where(runs.c.run_id == run_id)
            return self._connection.scalar(query) or 0

    def _remembered(self, run_id: RunId) -> _Run | None:
        if run_id not in self._runs:
            of_run = console.c.run_id == run_id
            next_number = sa.func.coalesce(sa.func.max(console.c.number) + 1, 0)
            counters = (
                *(runs.c.cursor, runs.c.row_count, runs.c.last_step, runs.c.lost_row_count),
                sa.select(next_number).where(of_run).scalar_subquery(),
            )
            query = sa.select(*counters).where(runs.c.run_id == run_id)
            row = self._connection.execute(query).one_or_none()
            if row is None:
                return None
            self._runs[run_id] = _Run(*row, tails=self._segments.tails(run_id))
        return self._runs[run_id]

    def _print(self, run_id: RunId, run: _Run, offset: Offset, records: Iterable[Record]) -> None:
        pieces = [record for record in records if isinstance(record, ConsoleLines)]
        if pieces:
            new = [
                {"run_id": run_id, "number": number, "cursor": offset} | asdict(piece)
                for number, piece in enumerate(pieces, start=run.console_count)
            ]
            self._connection.execute(console.insert(), new)
            run.console_count += len(pieces)

    def _read(self, run_id: RunId, *wanted: sa.Column[Any]) -> sa.Row[Any]:
        return self._connection.execute(sa.select(*wanted).where(runs.c.run_id == run_id)).one()

    def _merged(self, run_id: RunId, records: Iterable[Record]) -> dict[str, Any]:
        """Return config and summary with these records' values in, as far as they change."""
        news: dict[str, dict[str, Value]] = {"config": {}, "summary": {}}
        definitions: list[MetricDefinition] = []
        updates: list[RunUpdate] = []
        for record in records:
            match record:
                case ConfigUpdate():
                    news["config"].update(record.values)
                case SummaryUpdate():
                    news["summary"].update(record.values)
                case MetricDefinition():
                    definitions.append(record)
                case RunUpdate():
                    updates.append(record)
                    news["config"].update(record.config)
        changes: dict[str, Any] = {
            name: self._read(run_id, runs.c[name])[0] | new for name, new in news.items() if new
        }
        if definitions:
            (known,) = self._read(run_id, runs.c.definitions)
            changes["definitions"] = _with_definitions(known, definitions)
        for update in updates:
            tags = changes["tags"] if "tags" in changes else self._read(run_id, runs.c.tags)[0]
            changes["tags"] = list(update.tags(tags))
            named = {"project": update.project, "name": update.name, "notes": update.notes}
            changes |= {field: text for field, text in named.items() if text is not None}
        return changes

    def _keep_alerts(self, run_id: RunId, offset: Offset, records: Iterable[Record]) -> None:
        """Keep a run's alerts, the latest of them."""
        new = [record for record in records if isinstance(record, Alert)]
        if not new:
            return
        of_run = alerts.c.run_id == run_id
        last = self._connection.scalar(sa.select(sa.func.max(alerts.c.number)).where(of_run))
        number = 0 if last is None else last + 1
        rows = [
            {"run_id": run_id, "number": number + index, "cursor": offset} | asdict(alert)
            for index, alert in enumerate(new)
        ]
        self._connection.execute(alerts.insert(), rows[-ALERTS_MAX:])
        outdated = alerts.c.number < number + len(new) - ALERTS_MAX
        self._connection.execute(alerts.delete().where(of_run, outdated))

    def _keep_artifacts(self, run_id: RunId, offset: Offset, records: Iterable[Record]) -> None:
        for record in records:
            match record:
                case Artifact():
                    keep_artifact(self._connection, offset, record)
                case ArtifactUse():
                    (project,) = self._read(run_id, runs.c.project)
                    keep_use(self._connection, run_id, project, offset, record)

    def _update(self, run_id: RunId, run: _Run, offset: Offset, **changes: Any) -> None:
        run.cursor = offset
        self._connection.execute(
            runs.update()
            .where(runs.c.run_id == run_id)
            .values(
                cursor=offset,
                row_count=run.row_count,
                last_step=run.last_step,
                lost_row_count=run.lost_row_count,
                **changes,
            )
        )


def _blobs_beside(url: str) -> Blobs:
    return Blobs(Path(sa.make_url(url).database or "").parent / "blobs")


def _new_run(offset: Offset, start: RunStart) -> dict[str, Any]:
    return {
        "run_id": start.run_id,
        "project": start.project,
        "name": start.name,
        "group": start.group,
        "job_type": start.job_type,
        "tags": list(dict.fromkeys(start.tags)),
        "notes": start.notes,
        "config": start.config,
        "summary": {},
        "environment": asdict(start.environment),
        "start_time_unix_nano": start.time_unix_nano,
        "row_count": 0,
        "last_step": None,
        "lost_row_count": 0,
        "model": start.model,
        "dataset": start.dataset,
        "use_case": start.use_case,
        "wandb": asdict(start.wandb),
        "cursor": offset,
        **_RUNNING,
    }


def _with_definitions(
    known: list[dict[str, Any]], new: Iterable[MetricDefinition]
) -> list[dict[str, Any]]:
    """Return a run's definitions, the last one of each name, as JSON has them."""
    by_name = {fields["name"]: fields for fields in known}
    for definition in new:
        if definition.name in by_name or len(by_name) < DEFINITIONS_MAX:
            by_name[definition.name] = asdict(definition)
    return list(by_name.values())


def _failure(error: DBAPIError) -> SinkError | DiskError:
    if error_code(error.orig) in _CODES_PASSING:
        return SinkError(
            f"The store took nothing now: {error.orig}. It is tried again; free some room if the "
            "disk is full, or end what else writes to the store.",
            reason="STORE_BUSY",
        )
    return DiskError(f"The store could not be written: {error.orig}. Check its disk.")
