"""What the search for anomalies keeps on disk: what it has told, and how far it is with runs.

One SQLite file. A mark is committed before what it stands for is told, so that nothing is told
twice; what dies in between is not told. Of a run that goes on no cursor is kept: after a restart it
is looked through from its beginning once more, and the marks keep that quiet.

Made by the sidecar before it listens, so that runs that were there before are not looked through,
and used by the worker alone from then on.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pillion_sidecar.errors import SinkError
from pillion_sidecar.journal_reader import JournaledRun
from pillion_sidecar.records import Alert, Offset, RunId

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, cursor INTEGER NOT NULL, first_ordinal INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE told (
    run_id TEXT NOT NULL, what TEXT NOT NULL, PRIMARY KEY (run_id, what)
) WITHOUT ROWID;
"""

ALERTS_MAX = 1_000
"""Of a run so many marks of alerts are kept: more than are passed on within an hour, and older
alerts never are."""

log = logging.getLogger(__name__)


def make_marks(path: Path, runs: Callable[[], Iterable[JournaledRun]]) -> None:
    """Make the file, with these runs as looked through, unless there is one that can be read.

    Where it cannot be made, it is logged, and nothing is looked for until a later start.
    """
    try:
        if path.exists():
            if _can_be_read(path):
                return
            log.warning("the marks of anomalies are damaged, put aside", extra={"path": path})
            path.replace(f"{path}-damaged-{time.time_ns()}")
        _make(path, runs())
    except (sqlite3.Error, OSError) as error:
        log.warning("anomalies are not looked for", extra={"path": path, "error": error})


def drop_marks(path: Path) -> None:
    """Remove the file: what is logged while nobody looks for anomalies is not looked through later.

    Where it cannot be removed, it is logged.
    """
    try:
        for suffix in ("", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        log.warning("the marks of anomalies stay", extra={"path": path, "error": error})


def _can_be_read(path: Path) -> bool:
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as db:
        db.execute("SELECT count(*) FROM told")
        return bool(db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    return False


def _make(path: Path, runs: Iterable[JournaledRun]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(_SCHEMA)
        db.executemany(
            "INSERT INTO runs VALUES (?, ?, ?)",
            ((run.run_id, run.last_offset, run.row_count) for run in runs),
        )
        db.execute("COMMIT")


class Marks:
    """See the module. One thread. Every call may raise `SinkError`."""

    def __init__(self, path: Path) -> None:
        """Open the file, which `make_marks` has made."""
        with _failures():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
            self._db.execute("SELECT 1 FROM told LIMIT 1")

    def cursor(self, run_id: RunId) -> Offset:
        """Return up to where a run was looked through when it ended; 0: it is from the start."""
        with _failures():
            query = "SELECT cursor FROM runs WHERE run_id = ?"
            return Offset((self._db.execute(query, (run_id,)).fetchone() or (0,))[0])

    def first_ordinal(self, run_id: RunId) -> int:
        """Return the first row of a run of which anything is told."""
        with _failures():
            query = "SELECT first_ordinal FROM runs WHERE run_id = ?"
            return int((self._db.execute(query, (run_id,)).fetchone() or (0,))[0])

    def end(self, run_id: RunId, cursor: Offset) -> None:
        """Take it that a run has ended and was looked through; durable with the next commit."""
        with _failures():
            self._db.execute(
                "INSERT INTO runs VALUES (?, ?, 0) "
                "ON CONFLICT (run_id) DO UPDATE SET cursor = excluded.cursor",
                (run_id, cursor),
            )

    def mark(self, run_id: RunId, what: str) -> bool:
        """Tell whether this was not marked before, and mark it; durable with the next commit."""
        with _failures():
            done = self._db.execute("INSERT OR IGNORE INTO told VALUES (?, ?)", (run_id, what))
            return bool(done.rowcount)

    def has_alert(self, run_id: RunId, alert: Alert) -> bool:
        """Tell whether an alert was marked before."""
        with _failures():
            query = "SELECT 1 FROM told WHERE run_id = ? AND what = ?"
            return self._db.execute(query, (run_id, _what(alert))).fetchone() is not None

    def mark_alert(self, run_id: RunId, alert: Alert) -> None:
        """Mark an alert, durable with the next commit; the latest `ALERTS_MAX` marks are kept."""
        self.mark(run_id, _what(alert))
        with _failures():
            self._db.execute(
                "DELETE FROM told WHERE run_id = ?1 AND what IN (SELECT what FROM told "
                "WHERE run_id = ?1 AND what GLOB 'alert *' ORDER BY what DESC LIMIT -1 OFFSET ?2)",
                (run_id, ALERTS_MAX),
            )

    def forget(self, run_id: RunId) -> None:
        """Forget a run; durable with the next commit."""
        with _failures():
            for table in ("runs", "told"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

    def commit(self) -> None:
        """Make all of it durable."""
        with _failures():
            self._db.commit()

    def close(self) -> None:
        """Let go of the file; what was not committed is not there."""
        self._db.close()


def _what(alert: Alert) -> str:
    return f"alert {alert.time_unix_nano} {alert.title}"


@contextmanager
def _failures() -> Iterator[None]:
    """Raise the file's errors as ours: a worker takes others for the journal's."""
    try:
        yield
    except sqlite3.Error as error:
        raise SinkError(
            f"What was told of anomalies cannot be read or written: {error}. Free some room if the "
            "disk is full; else start the sidecar again, which makes the file anew.",
            reason="MARKS_FAILED",
        ) from error
