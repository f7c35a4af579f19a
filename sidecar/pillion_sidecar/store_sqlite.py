"""The store as a file of SQLite's: how it is connected to, and what its errors mean."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pillion_sidecar.errors import DiskError, SettingsError, SinkError

BUSY_TIMEOUT_S = 5.0
"""How long an operation waits for a lock of SQLite's before it fails."""

WAL_BYTES_MAX = 64 * 1024 * 1024
"""To this size SQLite cuts its write-ahead log back after a burst."""

_CODES_NO_RIGHTS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_CODES_FOREIGN = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_CODES_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


def engine_of(path: Path, *, is_writing: bool) -> sa.Engine:
    """Return an engine whose transactions really begin, which Python's sqlite3 leaves to chance.

    A commit is on disk when it returns.
    """
    connect: Callable[[], sqlite3.Connection] = (
        (lambda: _connect_writable(path)) if is_writing else (lambda: _connect_read_only(path))
    )
    begin = "BEGIN IMMEDIATE" if is_writing else "BEGIN"
    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def cannot_open(path: Path, error: DBAPIError) -> SettingsError | DiskError:
    """Say why a store could not be opened."""
    code = _code(error)
    if code in _CODES_FOREIGN:
        return not_a_store(path)
    if code in _CODES_NO_RIGHTS:
        return SettingsError(
            f"The store {path} cannot be opened: {error.orig}. Check the rights of its directory."
        )
    return DiskError(f"The store {path} cannot be opened: {error.orig}. Check its disk.")


def not_a_store(path: Path) -> SettingsError:
    """Say that a file is something else."""
    return SettingsError(f"{path} is not a store of Pillion's; move it away.")


def cannot_read(error: DBAPIError) -> DiskError:
    """Say why a read failed."""
    return DiskError(f"The store cannot be read: {error.orig}. Check its disk.")


def cannot_write(error: DBAPIError) -> SinkError | DiskError:
    """Say why a write failed, and whether it may pass."""
    if _code(error) in _CODES_PASSING:
        return SinkError(
            f"The store took nothing now: {error.orig}. It is tried again; free some room if the "
            "disk is full, or end what else writes to the store.",
            reason="STORE_BUSY",
        )
    return DiskError(f"The store could not be written: {error.orig}. Check its disk.")


def _code(error: DBAPIError) -> int:
    """Return SQLite's primary result code; 0 if there is none."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF


def _connect(path: Path, parameters: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{parameters}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are SQLAlchemy's
        check_same_thread=False,  # its pool hands a connection to one thread at a time
    )


def _connect_writable(path: Path) -> sqlite3.Connection:
    db = _connect(path, "mode=rwc")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
    return db


def _connect_read_only(path: Path) -> sqlite3.Connection:
    db = _connect(path, "mode=ro")
    try:
        db.execute("SELECT 1 FROM sqlite_schema")
    except sqlite3.OperationalError as error:
        db.close()
        # Where no log can be made and there is none, the file stands alone and still; SQLite has to
        # be told so, or it insists on a log. The log of a writer that died can be read as it is.
        is_without_rights = error.sqlite_errorcode & 0xFF in _CODES_NO_RIGHTS
        if not is_without_rights or Path(f"{path}-wal").exists():
            raise
        db = _connect(path, "mode=ro&immutable=1")
    return db
