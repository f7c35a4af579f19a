"""The store's writer: every record of every run into SQL, in order and exactly once.

Each call is one transaction that changes data and cursor together, on disk when it returns. What
lies at or before the cursor is in the store already and is ignored. How rows
are laid down: `store_segments.py`.

Others may write to the same store, each runs of its own: a run of another one is refused. That the
cursor is still where it was left is part of each change, so nothing is written twice even if a
former writer's last commit comes late.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pillion.values import Value
from pillion_sidecar.anomalies import PREFIX
from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import SinkError
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
from pillion_sidecar.sinks.store_deletion import delete_run
from pillion_sidecar.sinks.store_segments import SegmentWriter, Tails
from pillion_sidecar.store_database import cannot_write, insert, is_shared, open_for_writing
from pillion_sidecar.store_tables import EventKind, alerts, console, events, runs

ALERTS_MAX = 100
"""Of a run's alerts the latest are kept."""
EVENTS_MAX = 1_000
"""The same of its events."""
DEFINITIONS_MAX = 1_000
"""Of one run; more are left out."""

_RUNNING = {"state": RunState.RUNNING, "reason": "", "exit_code": None, "end_time_unix_nano": None}


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

    def __init__(self, url: str, blobs: Blobs | None = None, *, owner: str = "") -> None:
        """Open the store, or make it. Raises as `open_for_writing`.

        Args:
            url: `sqlite:///PATH`, or `postgresql+psycopg://USER@HOST/DATABASE`.
            blobs: Where files of rows go; None: beside the file.
            owner: Whose runs these are, where several sidecars share the store.
        """
        self._engine, self._owner = open_for_writing(url), owner
        self._connection = self._engine.connect()
        self._runs: dict[RunId, _Run] = {}
        self._segments = SegmentWriter(self._connection)
        self._chunks = ChunkWriter(self._connection, blobs or _blobs_beside(url))

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        assert not anew, "the store is what is replayed"
        with self._transaction(start.run_id):
            run = self._remembered(start.run_id)
            if run is None:
                self._insert(offset, start)
                self._keep_event(start.run_id, offset, EventKind.STARTED, "", start.time_unix_nano)
            elif offset > run.cursor:
                kept = (runs.c.tags, runs.c.config, runs.c.environment, runs.c.state)
                known = self._read(start.run_id, *kept)
                is_joined = known.state == RunState.RUNNING
                kind = EventKind.JOINED if is_joined else EventKind.RESUMED
                self._keep_event(start.run_id, offset, kind, "", start.time_unix_nano)
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
                if not _is_from_outside(records):
                    changes |= _RUNNING
                self._update(run_id, run, offset, **changes)

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        run_id = finish.run_id
        with self._transaction(run_id):
            run = self._remembered(run_id)
            assert run is not None, "a run ends after its start"
            if offset > run.cursor:
                known = self._read(run_id, runs.c.state, runs.c.reason, runs.c.exit_code)
                end = (finish.state, finish.reason, finish.exit_code)
                if known != end:  # else it only follows again what came from outside
                    text = f"{finish.state.name} {finish.reason}".strip()
                    self._keep_event(run_id, offset, EventKind.ENDED, text, finish.time_unix_nano)
                changes = self._merged(run_id, [SummaryUpdate(finish.summary)])
                changes |= {"state": finish.state, "reason": finish.reason}
                changes |= {"exit_code": finish.exit_code}
                changes |= {"end_time_unix_nano": finish.time_unix_nano}
                self._chunks.forget(run_id)
                self._update(run_id, run, offset, **changes)
        self._runs.pop(run_id, None)

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        with self._transaction(run_id):
            delete_run(self._connection, self._owner, run_id, cursor)
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
            self._segments.forget_ids()
            if isinstance(error, DBAPIError):
                raise cannot_write(error) from error
            raise

    def _figure(self, run_id: RunId, column: sa.Column[Any]) -> int:
        with self._transaction(run_id):
            return self._connection.scalar(sa.select(column).where(self._is_own(run_id))) or 0

    def _is_own(self, run_id: RunId) -> sa.ColumnElement[bool]:
        return (runs.c.run_id == run_id) & (runs.c.owner == self._owner)

    def _insert(self, offset: Offset, start: RunStart) -> None:
        new = _new_run(offset, start) | {"owner": self._owner}
        insertion = insert(self._connection, runs).values(new).on_conflict_do_nothing()
        if not self._connection.execute(insertion.returning(runs.c.run_id)).all():
            query = sa.select(runs.c.owner).where(runs.c.run_id == start.run_id)
            raise SinkError(
                f"The store has a run {start.run_id} of another sidecar, "
                f"{self._connection.scalar(query)}. What is logged here stays in the journal, and "
                "goes to W&B; give the run another id.",
                reason="RUN_ELSEWHERE",
            )

    def _remembered(self, run_id: RunId) -> _Run | None:
        if run_id not in self._runs:
            of_run = console.c.run_id == run_id
            next_number = sa.func.coalesce(sa.func.max(console.c.number) + 1, 0)
            counters = (
                *(runs.c.cursor, runs.c.row_count, runs.c.last_step, runs.c.lost_row_count),
                sa.select(next_number).where(of_run).scalar_subquery(),
            )
            query = sa.select(*counters).where(self._is_own(run_id))
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
        self._keep_latest(alerts, run_id, offset, [asdict(alert) for alert in new], ALERTS_MAX)

    def _keep_event(
        self, run_id: RunId, offset: Offset, kind: EventKind, text: str, time_unix_nano: int
    ) -> None:
        event = {"kind": kind, "text": text, "time_unix_nano": time_unix_nano}
        self._keep_latest(events, run_id, offset, [event], EVENTS_MAX)

    def _keep_latest(
        self, table: sa.Table, run_id: RunId, offset: Offset, new: Sequence[Any], count_max: int
    ) -> None:
        """Number and add rows; only the latest of the run are kept."""
        of_run = table.c.run_id == run_id
        last = self._connection.scalar(sa.select(sa.func.max(table.c.number)).where(of_run))
        number = 0 if last is None else last + 1
        rows = [
            {"run_id": run_id, "number": number + index, "cursor": offset} | fields
            for index, fields in enumerate(new)
        ]
        self._connection.execute(table.insert(), rows[-count_max:])
        outdated = table.c.number < number + len(new) - count_max
        self._connection.execute(table.delete().where(of_run, outdated))

    def _keep_artifacts(self, run_id: RunId, offset: Offset, records: Iterable[Record]) -> None:
        for record in records:
            match record:
                case Artifact():
                    keep_artifact(self._connection, self._owner, offset, record)
                case ArtifactUse():
                    (project,) = self._read(run_id, runs.c.project)
                    place = (self._owner, project)
                    keep_use(self._connection, run_id, place, offset, record)

    def _update(self, run_id: RunId, run: _Run, offset: Offset, **changes: Any) -> None:
        is_as_known = self._is_own(run_id) & (runs.c.cursor == run.cursor)
        run.cursor = offset
        updated = self._connection.execute(
            runs.update()
            .where(is_as_known)
            .values(
                cursor=offset,
                row_count=run.row_count,
                last_step=run.last_step,
                lost_row_count=run.lost_row_count,
                **changes,
            )
        )
        if not updated.rowcount:
            raise SinkError(
                f"Somebody else has written to run {run_id} meanwhile; it is looked up again.",
                reason="STORE_BUSY",
            )


def _is_from_outside(records: Sequence[Record]) -> bool:
    """Tell whether no trainer says any of this, so that a run that has ended stays so.

    It is a change, an artifact or what was found in the run's rows; alerts and the summary of its
    former end come along.
    """
    beside = [
        record
        for record in records
        if not isinstance(record, RunUpdate | Artifact)
        and not (isinstance(record, Frame) and all(k.startswith(PREFIX) for k in record.columns))
    ]
    is_any_from_outside = len(beside) < len(records)
    return is_any_from_outside and all(isinstance(r, Alert | SummaryUpdate) for r in beside)


def _blobs_beside(url: str) -> Blobs:
    assert not is_shared(url), "there is nothing beside PostgreSQL"
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
