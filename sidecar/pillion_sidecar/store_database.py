"""How the store is opened, to read or to write, made, and brought up to date.

It is a file of SQLite's (`store_sqlite.py`) or lies in PostgreSQL (`store_postgresql.py`). Its
tables: `store_tables.py`; the way there from older ones: `store_migrations`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from pillion_sidecar import store_postgresql, store_sqlite
from pillion_sidecar.errors import DiskError, SettingsError, SinkError
from pillion_sidecar.store_tables import FORMAT, meta, metadata, store_version

MIGRATIONS = Path(__file__).parent / "store_migrations"
"""Where Alembic finds the steps."""


def open_for_reading(url: str) -> sa.Engine:
    """Open the store to read from it, in any number of processes and threads.

    Raises:
        SettingsError: There is none, it is no store, or it is of a newer Pillion.
        DiskError: It cannot be read.
    """
    place = _Place(url)
    if place.path is not None and not place.path.exists():
        raise place.is_empty()
    engine = place.engine(is_writing=False)
    with place.opening(engine) as connection:
        found = _format(connection)
        if found is None:
            raise place.is_empty() if _is_empty(connection) else place.is_foreign()
        place.check(found)
    engine.update_execution_options(store_format=found)
    return engine


def open_for_writing(url: str) -> sa.Engine:
    """Open the store to write to it, and make it if there is none.

    A commit is on disk when it returns. Into a file only one may write at a time.

    Raises:
        SettingsError: The place is wrong, it is no store, or it is of a newer Pillion.
        DiskError: It cannot be opened or made.
    """
    place = _Place(url)
    engine = place.engine(is_writing=True)
    with place.opening(engine) as connection:
        if place.path is None:
            store_postgresql.hold_opening_lock(connection)
        found = _format(connection)
        if found is None:
            if not _is_empty(connection):
                raise place.is_foreign()
            _make(connection)
        elif place.check(found) < FORMAT:
            _bring_up_to_date(connection, found)
    return engine


def is_shared(url: str) -> bool:
    """Tell whether other sidecars may write to a store: not if it is a file.

    Raises:
        SettingsError: This is no URL of a store.
    """
    return _Place(url).path is None


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Begin an INSERT that may say what to do about a row that is there."""
    is_sqlite = connection.dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)


def cannot_read(error: DBAPIError) -> DiskError:
    """Say why a read failed."""
    if isinstance(error.orig, sqlite3.Error):
        return store_sqlite.cannot_read(error)
    return store_postgresql.cannot_read(error)


def cannot_write(error: DBAPIError) -> SinkError | DiskError:
    """Say why a write failed, and whether it may pass."""
    if isinstance(error.orig, sqlite3.Error):
        return store_sqlite.cannot_write(error)
    return store_postgresql.cannot_write(error)


class _Place:
    """Where a store is, as its URL says."""

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
        except (ArgumentError, ValueError):  # what they say may hold the password
            raise _is_no_url() from None
        self.path: Path | None = None
        """None: it is in PostgreSQL."""
        if self._url.drivername in {"sqlite", "sqlite+pysqlite"} and self._url.database:
            self.path = Path(self._url.database)
        elif self._url.drivername not in {"postgresql", store_postgresql.DRIVER}:
            raise _is_no_url()

    def engine(self, *, is_writing: bool) -> sa.Engine:
        if self.path is None:
            return store_postgresql.engine_of(self._url, is_writing=is_writing)
        return store_sqlite.engine_of(self.path, is_writing=is_writing)

    @contextmanager
    def opening(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """Look at a store, and make or change tables; what fails closes it."""
        try:
            with engine.begin() as connection:
                yield connection
        except BaseException as error:
            engine.dispose()
            if isinstance(error, DBAPIError):
                raise self._cannot_open(error) from error
            raise

    def check(self, found: int) -> int:
        """Return a format that this version can open."""
        if found > FORMAT:
            raise SettingsError(
                f"The store {self} is of format {found}, and this version knows {FORMAT}. "
                "Use the newer Pillion that wrote it, or set another store."
            )
        return found

    def is_empty(self) -> SettingsError:
        return SettingsError(
            f"There is no store at {self}. Either nothing was logged yet, or it is elsewhere; "
            "check --data-dir and --store.",
            reason="STORE_MISSING",
        )

    def is_foreign(self) -> SettingsError:
        if self.path is not None:
            return store_sqlite.not_a_store(self.path)
        return SettingsError(
            f"{self} has tables of something else, named as those of a store of Pillion's. Give "
            "Pillion a database, or a schema, of its own."
        )

    def _cannot_open(self, error: DBAPIError) -> SettingsError | DiskError:
        if self.path is None:
            return store_postgresql.cannot_open(self._url, error)
        return store_sqlite.cannot_open(self.path, error)

    def __str__(self) -> str:
        return store_postgresql.place_of(self._url) if self.path is None else str(self.path)


def _is_no_url() -> SettingsError:
    return SettingsError(
        "The setting `store` is no URL of a store. Set one such as sqlite:////DIR/store.db or "
        f"{store_postgresql.DRIVER}://USER@HOST/DATABASE; in names and passwords write '@', ':' "
        "and '/' as %40, %3A and %2F."
    )


def _format(connection: sa.Connection) -> int | None:
    """Return the format of a store; None if there is none."""
    tables = sa.inspect(connection)
    if tables.has_table(store_version.name):
        found = connection.scalar(sa.select(store_version.c.version_num))
    elif tables.has_table(meta.name):  # from before format 4
        is_format = meta.c.key == "store_format"
        found = connection.scalar(sa.select(meta.c.value).where(is_format))
    else:
        return None
    return None if found is None else int(found)


def _is_empty(connection: sa.Connection) -> bool:
    """Tell whether tables can be made: in a file there is nothing else."""
    names = set(sa.inspect(connection).get_table_names())
    return not (names if connection.dialect.name == "sqlite" else names & metadata.tables.keys())


def _make(connection: sa.Connection) -> None:
    metadata.create_all(connection)
    connection.execute(meta.insert().values(key="store_format", value="4"))
    connection.execute(store_version.insert().values(version_num=f"{FORMAT:04}"))


def _bring_up_to_date(connection: sa.Connection, found: int) -> None:
    from alembic import command  # noqa: PLC0415 - it takes a while, and is needed once per store
    from alembic.config import Config  # noqa: PLC0415 - as above

    if not sa.inspect(connection).has_table(store_version.name):
        store_version.create(connection)
        connection.execute(store_version.insert().values(version_num=f"{found:04}"))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
