"""The journal: all that was acked, in order, on disk. The spine of the sidecar.

One SQLite database in WAL mode with `synchronous=FULL`, written by one thread of one process.
Whatever has queued up while the last commit ran goes into the next one (group commit), and a future
is resolved only after the commit that holds its entry has been synced. Appending, dropping
duplicates, numbering rows and moving watermarks happen in that same transaction, so that they are
one fact: there is no moment at which one of them is on disk without the others.

What stands in it: `journal_tables.py`. What a change does there: `journal_ledger.py`. Everything
else reads through `journal_reader.py`, which also defines what an entry is.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar import journal_deletion, salvage
from pillion_sidecar.artifact_records import Artifact
from pillion_sidecar.environment import decode_environment
from pillion_sidecar.errors import DiskError, LimitError, StateError
from pillion_sidecar.journal_ledger import KEYS_MAX, Ended, Ledger, Standing, Started
from pillion_sidecar.journal_reader import BUSY_TIMEOUT_MS
from pillion_sidecar.journal_room import Gauge, Room
from pillion_sidecar.journal_tables import meta, open_journal
from pillion_sidecar.journal_trimmer import Trimmer
from pillion_sidecar.journal_versions import VersionRow, know
from pillion_sidecar.metrics import COMMIT_ENTRIES, COMMIT_SECONDS
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    WriterId,
)

GROUP_ENTRIES_MAX = 512
"""At most this many appends share a commit; the rest wait for the next."""
GROUP_BYTES_MAX = 16 * 1024 * 1024
"""No more appends share a commit once their payloads are so large together."""
CARRY_OVER_BYTES = 4 * 1024 * 1024
"""After so much the log is carried over into the database."""
LOG_BYTES_MAX = 64 * 1024 * 1024
"""From this size on that waits for readers, so that the log begins anew."""
LOG_BYTES_KEPT = 16 * 1024 * 1024
"""To this size it is cut then; that room stays ours on a disk that fills up."""
LOG_BYTES_PER_COMMIT = 32 * 1024
"""About what a commit writes beside payloads."""
READERS_TIMEOUT_MS = 100
"""How long readers are waited for; they read for some milliseconds."""
TRIM_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Change:
    """Something to be made in the next transaction."""

    make: Callable[[], Any]
    future: Future[Any]
    size_bytes: int


class _Damage(Exception):  # noqa: N818 - never leaves this module
    """A reader found that a page of the journal is damaged."""


class Journal:
    """The writing end. Any thread may call it; its futures resolve when what they tell is durable.

    A future fails with `StateError` if the entry does not fit what is journaled, with `LimitError`
    if the disk is full or nearly so (nothing was written; try again later), and with `DiskError` if
    the disk failed: then the journal has stopped, `on_fatal` was called, and only a restart, which
    reads what is really on disk, helps.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_commit: Callable[[], Any],
        on_fatal: Callable[[DiskError], Any],
        disk_reserve_bytes: int = 0,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """Open or create the journal; salvage it first if it was found damaged.

        Args:
            path: The database file; its directory exists.
            on_commit: Called in the journal's thread after each commit.
            on_fatal: Called in the journal's thread, once, when it cannot go on.
            disk_reserve_bytes: Intake is refused while the disk has less room than that.
            keys_max: Metrics per run.

        Raises:
            SettingsError: The file is of a newer Pillion, or no journal.
            DiskError: It cannot be opened.
        """
        self._path = path
        self._db = _open(path)
        self._db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
        self.id: str = meta(self._db, "journal_id")
        self._gauge = Gauge(self._db, path, disk_reserve_bytes)
        self._ledger = Ledger(self._db, self._gauge, keys_max)
        self._trimmer = Trimmer(self._db)
        self._identities = _identities(path)
        self._trim_at_s = 0.0
        """When entries may be deleted again, after that has failed."""
        self._log_bytes = 0
        """About what was written to the log since it was carried over."""
        self._on_commit, self._on_fatal = on_commit, on_fatal
        self._queue: queue.SimpleQueue[_Change | None]
        self._queue = queue.SimpleQueue()
        self._fatal: DiskError | None = None
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def start(
        self, start: RunStart, *, may_resume: bool = True, must_resume: bool = False
    ) -> Future[Started]:
        """Start a run, join it, or come back to it. Nothing is written for a writer that lives."""
        return self._submit(
            lambda: self._ledger.start(start, may_resume=may_resume, must_resume=must_resume)
        )

    def standing(self, run_id: RunId, writer_id: WriterId) -> Future[Standing | None]:
        """Tell how a writer stands; None: it is not known."""
        return self._submit(lambda: self._ledger.standing(run_id, writer_id))

    def append(self, batch: CheckedBatch) -> Future[int]:
        """Append a batch; resolves to the writer's last sequence on disk.

        A batch that is on disk already changes nothing.
        """
        return self._submit(lambda: self._ledger.append(batch), len(batch.payload))

    def finish(
        self,
        finish: RunFinish,
        *,
        last_sequence: int | None,
        refused_row_count: int = 0,
        refused_value_count: int = 0,
    ) -> Future[Ended]:
        """End a writer whose last batch is `last_sequence`; None if nobody knows.

        The counts are the writer's own; see `CheckedBatch`.
        """
        return self._submit(
            lambda: self._ledger.finish(
                finish,
                last_sequence=last_sequence,
                refused_row_count=refused_row_count,
                refused_value_count=refused_value_count,
            )
        )

    def update(self, update: RunUpdate) -> Future[None]:
        """Change a run from outside its trainer."""
        return self._submit(lambda: self._ledger.update(update))

    def note(self, batch: CheckedBatch) -> Future[None]:
        """Append what the sidecar itself has to say of a run; it does not live again by that."""
        return self._submit(lambda: self._ledger.note(batch), len(batch.payload))

    def sample(self, batch: CheckedBatch) -> Future[None]:
        """Append how a run's system does, if it has not ended and takes the metrics."""
        return self._submit(lambda: self._ledger.sample(batch), len(batch.payload))

    def log_artifact(self, artifact: Artifact) -> Future[Artifact]:
        """Take an artifact whose files are kept; resolves to it with its version."""
        return self._submit(lambda: self._ledger.log_artifact(artifact))

    def knows(self, run_id: RunId) -> Future[bool]:
        """Tell whether there is such a run."""
        return self._submit(lambda: self._ledger.knows(run_id))

    def delete(self, run_id: RunId, cursor: Offset) -> Future[None]:
        """Delete a run that has ended, if this is its last offset and so every sink's cursor.

        Until `end_deletion` nobody can start a run of this id.
        """
        return self._submit(lambda: self._ledger.delete(run_id, cursor))

    def end_deletion(self, run_id: RunId, cursor: Offset) -> Future[None]:
        """Take it that the store has deleted the run that had this cursor."""
        return self._submit(lambda: journal_deletion.end(self._db, run_id, cursor))

    def pending_deletions(self) -> dict[RunId, Offset]:
        """Return what the store has yet to delete. To be called before anything is appended."""
        return journal_deletion.pending(self._db)

    def know_versions(self, versions: Sequence[VersionRow]) -> Future[None]:
        """Take versions of artifacts that are known elsewhere: they are not given again."""
        return self._submit(lambda: know(self._db, versions))

    def trim(self, points: Mapping[RunId, Offset]) -> None:
        """Have these runs' entries up to these offsets deleted, bit by bit: every sink has them."""
        self._submit(lambda: self._trimmer.aim(points))

    def quarantine(self, offset: Offset) -> Future[bool]:
        """Put an entry aside that a reader found damaged; resolves to whether it is.

        Its rows count as dropped, and what stands in its place says so to every sink.
        """
        return self._submit(lambda: self._ledger.quarantine(offset))

    def condemn(self, cause: str) -> Future[None]:
        """Stop for good since a reader found a page damaged; the next start salvages the rest."""

        def fail() -> None:
            raise _Damage(cause)

        return self._submit(fail)

    def catch_up(
        self, cursors: Mapping[RunId, tuple[Offset, int, str]], *, is_store: bool
    ) -> Future[None]:
        """Go on behind cursors that are beyond `last_offset`; see `Ledger.catch_up`."""
        return self._submit(lambda: self._ledger.catch_up(cursors, is_store=is_store))

    def room(self) -> Future[Room]:
        """Look how much room there is."""
        return self._submit(lambda: self._gauge.room)

    def last_offset(self) -> Offset:
        """Return the last offset that was given away. To be called before anything is appended."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'entries'"
        (offset,) = self._db.execute(query).fetchone()
        return Offset(offset)

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

    def _submit(self, make: Callable[[], Any], size_bytes: int = 0) -> Future[Any]:
        future: Future[Any] = Future()
        if self._fatal is not None:
            future.set_exception(self._fatal)
        else:
            self._queue.put(_Change(make, future, size_bytes))
        return future

    # The rest runs in the journal's thread.

    def _write(self) -> None:
        is_closing = False
        while not is_closing:
            group = self._next_group()
            is_closing = None in group
            # A caller that has gone is left out; from here on it cannot take anything back.
            self._commit(
                [item for item in group if item and item.future.set_running_or_notify_cancel()]
            )
        self._db.close()

    def _next_group(self) -> list[_Change | None]:
        """Return what has queued up; nothing if there are entries to delete meanwhile."""
        group: list[_Change | None] = []
        group_bytes = 0
        wait_s = None
        if self._trimmer.is_due and self._fatal is None:
            wait_s = max(0.0, self._trim_at_s - time.monotonic())
        with suppress(queue.Empty):
            item = self._queue.get(timeout=wait_s)
            while True:
                group.append(item)
                group_bytes += item.size_bytes if item else 0
                if len(group) >= GROUP_ENTRIES_MAX or group_bytes >= GROUP_BYTES_MAX:
                    break
                item = self._queue.get_nowait()
        return group

    def _commit(self, group: list[_Change]) -> None:
        """Make a group of changes in one transaction, then tell each caller how its own went.

        One slice of what every sink has is deleted with them: that costs no sync of its own.
        """
        if self._fatal is not None:
            for change in group:
                change.future.set_exception(self._fatal)
            return
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            self._gauge.measure()
            self._db.execute("BEGIN IMMEDIATE")
            for change in group:
                try:
                    outcomes.append((change.future, change.make(), None))
                except (StateError, LimitError) as error:  # raised before anything was written
                    outcomes.append((change.future, None, error))
            if self._trimmer.is_due and time.monotonic() >= self._trim_at_s:
                self._trimmer.cut()
            COMMIT_ENTRIES.observe(len(group))
            with COMMIT_SECONDS.time():
                self._db.execute("COMMIT")
            self._check_files()
        except (sqlite3.Error, OSError, _Damage) as cause:
            failure = self._failed(cause)
            for change in group:
                change.future.set_exception(failure)
        except Exception as mistake:  # noqa: BLE001 - our own, in the thread's outermost frame
            self._roll_back()
            if len(group) == 1:
                group[0].future.set_exception(mistake)
            else:  # it concerns one of them; the others are innocent
                for change in group:
                    self._commit([change])
        else:
            for future, result, refusal in outcomes:
                if refusal is None:
                    future.set_result(result)
                else:
                    future.set_exception(refusal)
            if group:
                self._on_commit()
            self._carry_over(sum(change.size_bytes for change in group))

    def _check_files(self) -> None:
        """Raise if what was written is not what the next start will read."""
        if _identities(self._path) != self._identities:
            raise OSError(f"{self._path} or its log was deleted or replaced while in use")

    def _carry_over(self, committed_bytes: int) -> None:
        """Copy the log into the database now and then, so that neither it nor a start grows long.

        Not left to SQLite, which would hide a sync that failed. Readers are waited for only when
        the log has grown beyond its bound.
        """
        self._log_bytes += committed_bytes + LOG_BYTES_PER_COMMIT
        if self._log_bytes < CARRY_OVER_BYTES:
            return
        self._log_bytes = 0
        how = "PASSIVE"
        try:
            if Path(f"{self._path}-wal").stat().st_size > LOG_BYTES_MAX:
                how = "RESTART"
                self._db.execute(f"PRAGMA busy_timeout = {READERS_TIMEOUT_MS}")
            self._db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        except (sqlite3.Error, OSError) as cause:
            self._failed(cause)

    def _failed(self, cause: Exception) -> LimitError | DiskError:
        """Forget what was not committed; stop for good unless it may go well later."""
        self._roll_back()
        self._trim_at_s = time.monotonic() + TRIM_RETRY_S
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
        if isinstance(cause, _Damage) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            with suppress(OSError):  # then it is found damaged once more
                salvage.mark(self._path, str(cause))
            self._fatal = DiskError(
                f"The journal is damaged ({cause}). The sidecar stops. Start it again: what can be "
                "read is kept, and what is missing is named.",
                reason="JOURNAL_DAMAGED",
            )
        else:
            self._fatal = DiskError(
                f"The journal could not be written ({cause}). The sidecar stops and acks nothing "
                "more. Check the disk, then start it again.",
                reason="JOURNAL_FAILED",
            )
        self._on_fatal(self._fatal)
        return self._fatal

    def _roll_back(self) -> None:
        self._ledger.forget()
        with suppress(sqlite3.Error):  # a disk that failed may fail this too; nothing depends on it
            self._db.rollback()


def _open(path: Path) -> sqlite3.Connection:
    """Open the journal; one that is known to be damaged, or found to be, is made anew first."""
    salvage.salvage_if_marked(path)
    try:
        return open_journal(path)
    except DiskError as error:
        if error.reason != "JOURNAL_DAMAGED":
            raise
    salvage.salvage(path)
    return open_journal(path)


def _identities(path: Path) -> list[tuple[int, int]]:
    """Tell which files a database and its log are, whatever has their names."""
    found = []
    for name in (path, Path(f"{path}-wal")):
        with suppress(FileNotFoundError):
            status = name.stat()
            found.append((status.st_dev, status.st_ino))
    return found
