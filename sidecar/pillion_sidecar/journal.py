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
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.errors import DiskError, LimitError, StateError
from pillion_sidecar.journal_ledger import Ended, Ledger, Started
from pillion_sidecar.journal_tables import meta, open_journal
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
    decode_environment,
)

GROUP_ENTRIES_MAX = 512
"""At most this many appends share a commit; the rest wait for the next."""


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
        self._db = open_journal(path)
        self.id: str = meta(self._db, "journal_id")
        self._ledger = Ledger(self._db)
        self._on_commit, self._on_fatal = on_commit, on_fatal
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
        return self._submit(
            lambda: self._ledger.start(start, may_resume=may_resume, must_resume=must_resume)
        )

    def append(self, batch: CheckedBatch) -> Future[int]:
        """Append a batch; resolves to the writer's last sequence on disk.

        A batch that is on disk already changes nothing.
        """
        return self._submit(lambda: self._ledger.append(batch))

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
        self._ledger.forget()
        with suppress(sqlite3.Error):  # a disk that failed may fail this too; nothing depends on it
            self._db.rollback()
