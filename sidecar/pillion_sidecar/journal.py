"""The journal: all that was acked, in order, on disk. The spine of the sidecar.

One SQLite database in WAL mode with `synchronous=FULL`, written by one thread of one process.
Whatever has queued up while the last commit ran goes into the next one (group commit), and a future
is resolved only after the commit that holds its entry has been synced. Appending, dropping
duplicates, numbering rows and moving watermarks happen in that same transaction, so that they are
one fact: there is no moment at which one of them is on disk without the others.

Tables (format 1):

    meta      key, value: `format`, `journal_id`, `first_offset`
    runs      run_id, state, next_ordinal
    writers   run_id, writer_id, last_sequence, state, environment (an encoded `Environment`)
    entries   offset, run_id, writer_id, sequence, kind, first_ordinal, row_count, crc32, payload

Offsets never repeat, even after entries are deleted (AUTOINCREMENT), and begin at the microsecond
in which the journal was made: cursors depend on it.
Everything else reads through `journal_reader.py`, which also defines what an entry is.
"""

import queue
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.errors import DiskError, LimitError, SettingsError, StateError
from pillion_sidecar.journal_reader import EntryKind, connect
from pillion_sidecar.records import (
    Environment,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
    decode_environment,
    encode_environment,
    encode_finish,
    encode_start,
)

FORMAT = 1
"""The version of the tables. A journal of a newer one is not opened."""

GROUP_ENTRIES_MAX = 512
"""At most this many appends share a commit; the rest wait for the next."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, state INTEGER NOT NULL, next_ordinal INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE writers (
    run_id TEXT NOT NULL, writer_id TEXT NOT NULL, last_sequence INTEGER NOT NULL,
    state INTEGER NOT NULL, environment BLOB NOT NULL, PRIMARY KEY (run_id, writer_id)
) WITHOUT ROWID;
CREATE TABLE entries (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, writer_id TEXT NOT NULL,
    sequence INTEGER NOT NULL, kind INTEGER NOT NULL, first_ordinal INTEGER NOT NULL,
    row_count INTEGER NOT NULL, crc32 INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX entries_by_run ON entries (run_id, offset);
CREATE INDEX entries_by_writer ON entries (run_id, writer_id, sequence);
"""


@dataclass(frozen=True, slots=True)
class Started:
    """What a writer learns when it starts."""

    last_sequence: int
    is_resumed: bool
    next_ordinal: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run stands after one of its writers has ended."""

    state: RunState
    row_count: int


@dataclass(slots=True)
class _Writer:
    """A row of `writers`, cached."""

    last_sequence: int
    state: RunState


@dataclass(slots=True)
class _Run:
    """A row of `runs`, cached."""

    state: RunState
    next_ordinal: int


class Journal:
    """The writing end. Any thread may call it; its futures resolve when what they tell is durable.

    A future fails with `StateError` if the entry does not fit what is journaled, with `LimitError`
    if the disk is full (nothing was written; try again later), and with `DiskError` if the disk
    failed: then the journal has stopped, `on_fatal` was called, and only a restart, which reads
    what is really on disk, helps.
    """

    def __init__(
        self, path: Path, *, on_commit: Callable[[], Any], on_fatal: Callable[[DiskError], Any]
    ) -> None:
        """Open or create the journal.

        Args:
            path: The database file; its directory exists.
            on_commit: Called in the journal's thread after each commit.
            on_fatal: Called in the journal's thread, once, when it cannot go on.

        Raises:
            SettingsError: The file is of a newer Pillion, or no journal.
            DiskError: It cannot be opened.
        """
        self._db = _open(path)
        self.id: str = _meta(self._db, "journal_id")
        self._on_commit, self._on_fatal = on_commit, on_fatal
        self._runs: dict[RunId, _Run] = {}
        self._writers: dict[tuple[RunId, WriterId], _Writer] = {}
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._fatal: DiskError | None = None
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def start(
        self, start: RunStart, *, may_resume: bool = True, must_resume: bool = False
    ) -> Future[Started]:
        """Start a run, join it, or come back to it. Nothing is written for a writer that lives."""
        return self._submit(lambda: self._start(start, may_resume, must_resume))

    def append(
        self,
        run_id: RunId,
        writer_id: WriterId,
        sequence: int,
        payload: bytes,
        *,
        row_count: int,
        first_sequence: int | None = None,
    ) -> Future[int]:
        """Append a batch; resolves to the writer's last sequence on disk.

        A batch that is on disk already changes nothing. `first_sequence` is given for a batch that
        stands for a range of lost ones.
        """
        first = sequence if first_sequence is None else first_sequence
        return self._submit(
            lambda: self._append(run_id, writer_id, first, sequence, payload, row_count)
        )

    def finish(self, finish: RunFinish, *, last_sequence: int | None) -> Future[Ended]:
        """End a writer whose last batch is `last_sequence`; None if nobody knows."""
        return self._submit(lambda: self._finish(finish, last_sequence))

    def live_writers(self) -> list[tuple[RunId, WriterId, Environment]]:
        """Return the writers that have not ended. To be called before anything is appended."""
        rows = self._db.execute(
            "SELECT run_id, writer_id, environment FROM writers WHERE state = ?",
            (RunState.RUNNING,),
        )
        return [
            (
                RunId(run_id),
                WriterId(writer_id),
                decode_environment(record_pb2.Environment.FromString(environment)),
            )
            for run_id, writer_id, environment in rows
        ]

    def close(self) -> None:
        """Commit what has been handed over, then close the file."""
        self._queue.put(None)
        self._thread.join()

    def _submit(self, change: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self._fatal is not None:
            future.set_exception(self._fatal)
        else:
            self._queue.put((change, future))
        return future

    # The rest runs in the journal's thread.

    def _write(self) -> None:
        is_closing = False
        while not is_closing:
            group = [self._queue.get()]
            while len(group) < GROUP_ENTRIES_MAX and not self._queue.empty():
                group.append(self._queue.get())
            is_closing = None in group
            # A caller that has gone is left out; from here on it cannot take anything back.
            self._commit(
                [item for item in group if item and item[1].set_running_or_notify_cancel()]
            )
        self._db.close()

    def _commit(self, group: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
        """Make a group of changes in one transaction, then tell each caller how its own went."""
        if self._fatal is not None:
            for _, future in group:
                future.set_exception(self._fatal)
            return
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for change, future in group:
                try:
                    outcomes.append((future, change(), None))
                except StateError as error:  # raised before anything of it was written
                    outcomes.append((future, None, error))
            self._db.execute("COMMIT")
        except sqlite3.Error as cause:
            failure = self._failed(cause)
            for _, future in group:
                future.set_exception(failure)
        except Exception as mistake:  # noqa: BLE001 - our own, in the thread's outermost frame
            self._roll_back()
            if len(group) == 1:
                group[0][1].set_exception(mistake)
            else:  # it concerns one of them; the others are innocent
                for item in group:
                    self._commit([item])
        else:
            for future, result, refusal in outcomes:
                if refusal is None:
                    future.set_result(result)
                else:
                    future.set_exception(refusal)
            self._on_commit()

    def _failed(self, cause: sqlite3.Error) -> LimitError | DiskError:
        """Forget what was not committed; stop for good unless it may go well later."""
        self._roll_back()
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # without what extends it
        if code == sqlite3.SQLITE_FULL:
            return LimitError(
                "The disk that holds the journal is full; nothing of this was kept. "
                "Free some room: intake goes on by itself.",
                reason="DISK_FULL",
            )
        if code == sqlite3.SQLITE_BUSY:
            return LimitError(
                "Another process holds the journal's lock; nothing of this was kept. "
                "See who has journal.db open: intake goes on by itself.",
                reason="JOURNAL_BUSY",
            )
        self._fatal = DiskError(
            f"The journal could not be written ({cause}). The sidecar stops; what was acked is on "
            "disk. Check the disk, then start it again.",
            reason="JOURNAL_FAILED",
        )
        self._on_fatal(self._fatal)
        return self._fatal

    def _roll_back(self) -> None:
        self._runs.clear()
        self._writers.clear()
        with suppress(sqlite3.Error):  # a disk that failed may fail this too; nothing depends on it
            self._db.rollback()

    def _start(self, start: RunStart, may_resume: bool, must_resume: bool) -> Started:
        run = self._run(start.run_id)
        writer = self._writer(start.run_id, start.writer_id)
        if run is None and must_resume:
            raise StateError(
                f"Run {start.run_id} does not exist, and resume is set to `must`. "
                "Check the id, or let resume be `allow`.",
                reason="RUN_UNKNOWN",
            )
        if run is not None and writer is None and not may_resume:
            raise StateError(
                f"Run {start.run_id} exists already, and resume is set to `never`. "
                "Take another id, or let resume be `allow`.",
                reason="RUN_EXISTS",
            )
        is_resumed = run is not None
        if run is None:
            run = _Run(RunState.RUNNING, 0)
        if writer is None or writer.state != RunState.RUNNING:
            writer = _Writer(writer.last_sequence if writer else 0, RunState.RUNNING)
            run.state = RunState.RUNNING
            environment = encode_environment(start.environment).SerializeToString()
            self._save_run(start.run_id, run)
            self._db.execute(
                "INSERT INTO writers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "state = excluded.state, environment = excluded.environment",
                (start.run_id, start.writer_id, writer.last_sequence, writer.state, environment),
            )
            self._writers[start.run_id, start.writer_id] = writer
            self._insert(
                start.run_id, start.writer_id, 0, EntryKind.START, run, 0, encode_start(start)
            )
        return Started(writer.last_sequence, is_resumed, run.next_ordinal)

    def _append(
        self,
        run_id: RunId,
        writer_id: WriterId,
        first_sequence: int,
        sequence: int,
        payload: bytes,
        row_count: int,
    ) -> int:
        run, writer = self._run(run_id), self._writer(run_id, writer_id)
        if run is None or writer is None:
            raise StateError(
                f"Writer {writer_id} of run {run_id} is not known here. Call StartRun first.",
                reason="WRITER_UNKNOWN",
            )
        if sequence <= writer.last_sequence:
            self._check_duplicate(run_id, writer_id, sequence, payload)
            return writer.last_sequence
        if first_sequence > writer.last_sequence + 1:
            expected = writer.last_sequence + 1
            raise StateError(
                f"Batch {first_sequence} of writer {writer_id} of run {run_id} came where "
                f"{expected} is next. Send {expected} first.",
                reason="SEQUENCE_GAP",
                facts={"expected_sequence": str(expected)},
            )
        if writer.state != RunState.RUNNING:
            writer.state = run.state = RunState.RUNNING
        self._insert(run_id, writer_id, sequence, EntryKind.BATCH, run, row_count, payload)
        run.next_ordinal += row_count
        writer.last_sequence = sequence
        self._save_run(run_id, run)
        self._save_writer(run_id, writer_id, writer)
        return sequence

    def _check_duplicate(
        self, run_id: RunId, writer_id: WriterId, sequence: int, payload: bytes
    ) -> None:
        row = self._db.execute(
            "SELECT payload FROM entries "
            "WHERE run_id = ? AND writer_id = ? AND sequence = ? AND kind = ?",
            (run_id, writer_id, sequence, EntryKind.BATCH),
        ).fetchone()
        if row is not None and row[0] != payload:
            raise StateError(
                f"Batch {sequence} of writer {writer_id} of run {run_id} is on disk with another "
                "content. Two processes use one writer id; give each its own.",
                reason="SEQUENCE_CONFLICT",
            )

    def _finish(self, finish: RunFinish, last_sequence: int | None) -> Ended:
        run = self._run(finish.run_id)
        writer = self._writer(finish.run_id, finish.writer_id)
        if run is None or writer is None:
            raise StateError(
                f"Writer {finish.writer_id} of run {finish.run_id} is not known here. "
                "Call StartRun first.",
                reason="WRITER_UNKNOWN",
            )
        if last_sequence is not None and writer.last_sequence < last_sequence:
            expected = writer.last_sequence + 1
            raise StateError(
                f"Writer {finish.writer_id} of run {finish.run_id} ends with batch "
                f"{last_sequence}, but {expected} is not on disk yet. Send it first.",
                reason="SEQUENCE_GAP",
                facts={"expected_sequence": str(expected)},
            )
        if writer.state == RunState.RUNNING:
            writer.state = finish.state
            self._save_writer(finish.run_id, finish.writer_id, writer)
            states = [
                RunState(state)
                for (state,) in self._db.execute(
                    "SELECT state FROM writers WHERE run_id = ?", (finish.run_id,)
                )
            ]
            ends_run = RunState.RUNNING not in states
            if ends_run:
                run.state = max(states)
                self._save_run(finish.run_id, run)
                if run.state != finish.state:
                    reason = f"Another writer had ended as {run.state.name}."
                    finish = replace(finish, state=run.state, exit_code=None, reason=reason)
            self._insert(
                finish.run_id,
                finish.writer_id,
                writer.last_sequence,
                EntryKind.END if ends_run else EntryKind.FINISH,
                run,
                0,
                encode_finish(finish),
            )
            self._writers.pop((finish.run_id, finish.writer_id))
            if ends_run:
                self._runs.pop(finish.run_id)
        return Ended(run.state, run.next_ordinal)

    def _run(self, run_id: RunId) -> _Run | None:
        if run_id not in self._runs:
            row = self._db.execute(
                "SELECT state, next_ordinal FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
            if row is None:
                return None
            self._runs[run_id] = _Run(RunState(row[0]), row[1])
        return self._runs[run_id]

    def _writer(self, run_id: RunId, writer_id: WriterId) -> _Writer | None:
        if (run_id, writer_id) not in self._writers:
            row = self._db.execute(
                "SELECT last_sequence, state FROM writers WHERE run_id = ? AND writer_id = ?",
                (run_id, writer_id),
            ).fetchone()
            if row is None:
                return None
            self._writers[run_id, writer_id] = _Writer(row[0], RunState(row[1]))
        return self._writers[run_id, writer_id]

    def _save_run(self, run_id: RunId, run: _Run) -> None:
        self._runs[run_id] = run
        self._db.execute(
            "INSERT INTO runs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "state = excluded.state, next_ordinal = excluded.next_ordinal",
            (run_id, run.state, run.next_ordinal),
        )

    def _save_writer(self, run_id: RunId, writer_id: WriterId, writer: _Writer) -> None:
        self._db.execute(
            "UPDATE writers SET last_sequence = ?, state = ? WHERE run_id = ? AND writer_id = ?",
            (writer.last_sequence, writer.state, run_id, writer_id),
        )

    def _insert(
        self,
        run_id: RunId,
        writer_id: WriterId,
        sequence: int,
        kind: EntryKind,
        run: _Run,
        row_count: int,
        payload: bytes,
    ) -> None:
        self._db.execute(
            "INSERT INTO entries (run_id, writer_id, sequence, kind, first_ordinal, row_count, "
            "crc32, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                writer_id,
                sequence,
                kind,
                run.next_ordinal,
                row_count,
                zlib.crc32(payload),
                payload,
            ),
        )


def _open(path: Path) -> sqlite3.Connection:
    try:
        db = connect(str(path))
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            _create(db)
        found = int(_meta(db, "format"))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise SettingsError(f"{path} is not a journal of Pillion's; move it away.") from error
        raise DiskError(f"The journal {path} cannot be opened: {error}.") from error
    if found > FORMAT:
        db.close()
        raise SettingsError(
            f"The journal {path} is of format {found}, and this version knows {FORMAT}. "
            "Start the newer Pillion that wrote it."
        )
    return db


def _create(db: sqlite3.Connection) -> None:
    # Beyond every offset of an earlier journal, so that a cursor that is not of this one is told.
    first = time.time_ns() // 1000
    db.executescript(
        "BEGIN IMMEDIATE;"
        + _SCHEMA
        + f"INSERT INTO meta VALUES ('format', '{FORMAT}');"
        + f"INSERT INTO meta VALUES ('journal_id', '{secrets.token_hex(16)}');"
        + f"INSERT INTO meta VALUES ('first_offset', '{first}');"
        + f"INSERT INTO sqlite_sequence VALUES ('entries', {first - 1});"
        + "COMMIT;"
    )


def _meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        (file,) = (row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
        raise SettingsError(f"{file} has a journal's tables, but not what stands in them.")
    return str(row[0])
