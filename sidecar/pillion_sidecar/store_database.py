"""How the store is opened, to read or to write, and brought up to date.

Its tables: `store_tables.py`.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from pillion_sidecar.errors import DiskError, SettingsError
from pillion_sidecar.store_tables import ADDED, FORMAT, meta, metadata

BUSY_TIMEOUT_S = 5.0
"""How long an operation waits for a lock of SQLite's before it fails."""

WAL_BYTES_MAX = 64 * 1024 * 1024
"""To this size SQLite cuts its write-ahead log back after a burst."""

_CODES_NO_RIGHTS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_IS_FORMAT = meta.c.key == "store_format"


def open_for_reading(url: str) -> sa.Engine:
    """Open the store to read from it, in any number of processes and threads.

    Raises:
        SettingsError: There is none, it is no store, or it is of a newer Pillion.
        DiskError: It cannot be read.
    """
    path = _path(url)
    if not path.exists():
        raise SettingsError(
            f"There is no store at {path}. Either nothing was logged yet, or the data directory "
            "is another one; check the setting."
        )
    engine = _engine(url, lambda: _connect_read_only(path), "BEGIN")
    _check_format(engine, path)
    return engine


def open_for_writing(url: str) -> sa.Engine:
    """Open the store for its one writer, and make it if there is none.

    A commit is on disk when it returns.

    Raises:
        SettingsError: The place is wrong, it is no store, or it is of a newer Pillion.
        DiskError: It cannot be opened or made.
    """
    path = _path(url)
    engine = _engine(url, lambda: _connect_writable(path), "BEGIN IMMEDIATE")
    try:
        with engine.begin() as connection:
            if not sa.inspect(connection).get_table_names():
                metadata.create_all(connection)
                connection.execute(meta.insert().values(key="store_format", value=str(FORMAT)))
    except DBAPIError as error:
        engine.dispose()
        raise _cannot_open(path, error) from error
    if _check_format(engine, path) < FORMAT:
        _bring_up_to_date(engine, path)
    return engine


def error_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code; 0 if the error is none of SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _path(url: str) -> Path:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise SettingsError(
            f"{url!r} is no URL of a store. Set one such as sqlite:////DIR/store.db."
        )
    return Path(parsed.database)


def _engine(url: str, connect: Callable[[], sqlite3.Connection], begin: str) -> sa.Engine:
    """Make an engine whose transactions really begin, which Python's sqlite3 leaves to chance."""
    engine = sa.create_engine(url, creator=connect, poolclass=sa.QueuePool)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


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
        if error_code(error) not in _CODES_NO_RIGHTS or Path(f"{path}-wal").exists():
            raise
        db = _connect(path, "mode=ro&immutable=1")
    return db


def _check_format(engine: sa.Engine, path: Path) -> int:
    try:
        with engine.begin() as connection:
            found = connection.scalar(sa.select(meta.c.value).where(_IS_FORMAT))
    except DBAPIError as error:
        engine.dispose()
        raise _cannot_open(path, error) from error
    if found is None or int(found) > FORMAT:
        engine.dispose()
        if found is None:
            raise _not_a_store(path)
        raise SettingsError(
            f"The store {path} is of format {found}, and this version knows {FORMAT}. "
            "Use the newer Pillion that wrote it, or set another data directory."
        )
    return int(found)


def _bring_up_to_date(engine: sa.Engine, path: Path) -> None:
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)  # those that there are stay as they are
            for column in ADDED:
                added = sa.schema.CreateColumn(column).compile(dialect=engine.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {added}")
            connection.execute(meta.update().where(_IS_FORMAT).values(value=str(FORMAT)))
    except DBAPIError as error:
        engine.dispose()
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: DBAPIError) -> SettingsError | DiskError:
    code = error_code(error.orig)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return _not_a_store(path)
    if code in _CODES_NO_RIGHTS:
        return SettingsError(
            f"The store {path} cannot be opened: {error.orig}. Check the rights of its directory."
        )
    return DiskError(f"The store {path} cannot be opened: {error.orig}. Check its disk.")


def _not_a_store(path: Path) -> SettingsError:
    return SettingsError(f"{path} is not a store of Pillion's; move it away.")
