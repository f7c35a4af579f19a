"""Opening the store: what is one, where it may be, and what is said if it cannot be opened."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from postgresql import PASSWORD, PostgresqlServer
from sqlalchemy.exc import DBAPIError

from pillion_sidecar.errors import DiskError, PillionError, SettingsError, SinkError
from pillion_sidecar.records import Environment, Frame, Offset, RunId, RunStart, WriterId
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.store_database import cannot_read, cannot_write, open_for_writing

RUN = RunId("run")
NOBODY = 65534


def open_with_rows(path: Path) -> StoreSink:
    """Make a store with one run of 4,000 rows."""
    sink = StoreSink(f"sqlite:///{path}")
    writer = WriterId("w")
    sink.start(
        Offset(1), RunStart(RUN, writer, "demo", "", "", "", (), "", {}, Environment(), 1_000)
    )
    rows = np.arange(4_000)
    sink.apply(RUN, Offset(2), [Frame(0, rows, rows, {"a": rows / 2})])
    return sink


def test_a_reader_says_that_there_is_no_store(tmp_path: Path) -> None:
    """It makes none."""
    with pytest.raises(SettingsError, match="no store at"):
        Store(f"sqlite:///{tmp_path}/store.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("open_it", [Store, StoreSink])
def test_another_file_is_not_taken_for_a_store(
    tmp_path: Path, open_it: type[Store] | type[StoreSink]
) -> None:
    """Be it text or a database of something else; it is left as it was."""
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db, db:
        db.executescript("CREATE TABLE meta (key, value); CREATE TABLE runs (x);")
    for path in (text, other):
        with pytest.raises(SettingsError, match="not a store"):
            open_it(f"sqlite:///{path}")
    assert text.read_text() == "no database " * 100
    with closing(sqlite3.connect(other)) as db:
        assert len(db.execute("SELECT name FROM sqlite_schema").fetchall()) == 2


@pytest.mark.parametrize(
    "url",
    [
        *(
            "store.db",
            "sqlite://",
            "",
            "mysql://u:secret@h/x",
            "postgresql+psycopg2://u:secret@h/x",
        ),
        *("postgresql://u:secret@h:secret/x", "postgresql://u:p@secret@h/x"),
    ],
)
@pytest.mark.parametrize("open_it", [Store, StoreSink])
def test_a_url_that_is_none_of_a_store_is_refused(
    url: str, open_it: type[Store] | type[StoreSink]
) -> None:
    """What is said does not repeat it: there may be a password in it."""
    with pytest.raises(SettingsError, match="URL") as refused:
        open_it(url)
    assert "secret" not in str(refused.value)


def test_what_postgresql_needs_is_named_if_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Psycopg is no dependency of those who keep the store in a file."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match="needs psycopg"):
        Store("postgresql://u:secret@h/x")


@pytest.mark.parametrize("open_it", [Store, StoreSink])
def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    postgresql: PostgresqlServer, open_it: type[Store] | type[StoreSink]
) -> None:
    """Be it that nobody listens there, that the password is wrong, or the database unknown."""
    nobody = "postgresql+psycopg://somebody:secret@127.0.0.1:1/runs"
    unknown = postgresql.new_url().replace("/postgres?", "/unknown?")
    for url in (nobody, postgresql.new_url(password="secret"), unknown):
        with pytest.raises(DiskError, match=r"cannot be reached.*See whether") as refused:
            open_it(url)
        assert not any(word in str(refused.value) for word in ("secret", PASSWORD))


def test_tables_of_something_else_are_left_alone(postgresql: PostgresqlServer) -> None:
    """Where nothing of ours lies a writer makes it, a reader says that there is nothing."""
    url = postgresql.new_url()
    with pytest.raises(SettingsError, match="no store at"):
        Store(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (x integer)")
    engine.dispose()
    for open_it in (Store, StoreSink):
        with pytest.raises(SettingsError, match="something else"):
            open_it(url)


def test_a_new_store_is_made_once_by_several_who_open_it(postgresql: PostgresqlServer) -> None:
    """Sidecars that start at the same moment wait for each other."""
    url = postgresql.new_url()
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(open_for_writing, [url] * 4):
            engine.dispose()
    with closing(Store(url)) as store:
        assert store.runs() == []


def test_a_writer_says_that_its_directory_is_missing(tmp_path: Path) -> None:
    """The settings are wrong, not the disk."""
    with pytest.raises(SettingsError, match="cannot be opened"):
        StoreSink(f"sqlite:///{tmp_path}/missing/store.db")


def test_damage_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """What cannot be read is not taken for a run without rows."""
    path = tmp_path / "store.db"
    open_with_rows(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))
    with pytest.raises(DiskError):
        Store(f"sqlite:///{path}")


@contextmanager
def without_rights_in(directory: Path) -> Iterator[None]:
    """Give up, within, the right to write into the directory; root by being nobody."""
    directory.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        directory.chmod(0o755)


@pytest.mark.parametrize("has_died", [False, True])
def test_a_store_is_read_where_nothing_can_be_written(tmp_path: Path, *, has_died: bool) -> None:
    """Whether its writer had closed it, or died and left its log behind."""
    sink = open_with_rows(tmp_path / "store.db")
    if not has_died:
        sink.close()
    directory = Path(tempfile.mkdtemp(prefix="pillion-"))  # pytest's are closed to nobody
    try:
        for path in tmp_path.iterdir():
            shutil.copy(path, directory)
        names = sorted(path.name for path in directory.iterdir())
        assert ("store.db-wal" in names) == has_died
        with without_rights_in(directory):
            assert not os.access(directory, os.W_OK, effective_ids=True)
            store = Store(f"sqlite:///{directory}/store.db")
            assert len(list(store.rows(RUN))) == 4_000
            store.close()
        assert sorted(path.name for path in directory.iterdir()) == names
    finally:
        shutil.rmtree(directory)
    sink.close()


def test_the_writer_s_commits_are_synced_to_disk(tmp_path: Path) -> None:
    """The cursor moves with a commit, so a commit has to outlive a loss of power."""
    sink = open_with_rows(tmp_path / "store.db")
    with sink._connection.begin():
        pragmas = [
            sink._connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous")
        ]
    sink.close()
    assert pragmas == ["wal", 2]


def test_commits_wait_for_the_disk_whatever_is_set_for_the_user(
    postgresql: PostgresqlServer,
) -> None:
    """What the store has is deleted from the journal."""
    url = postgresql.new_url().replace("&options=", "&options=-csynchronous_commit%3Doff%20")
    engine = open_for_writing(url)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    engine.dispose()


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (psycopg.errors.DiskFull, SinkError),
        (psycopg.errors.AdminShutdown, SinkError),
        (psycopg.errors.SerializationFailure, SinkError),
        (psycopg.errors.DeadlockDetected, SinkError),
        (psycopg.errors.UniqueViolation, SinkError),
        (psycopg.OperationalError, SinkError),
        (psycopg.errors.InsufficientPrivilege, DiskError),
        (psycopg.errors.UndefinedTable, DiskError),
    ],
)
def test_what_may_pass_is_told_from_what_needs_somebody(
    cause: type[psycopg.Error], kind: type[PillionError]
) -> None:
    """Both are tried again; of a write nothing counts, and a read says what to look at."""
    error = DBAPIError("INSERT", {"name": "a value"}, cause("why\n  it failed"))
    written = cannot_write(error)
    assert (type(written), "why it failed" in str(written)) == (kind, True)
    assert "a value" not in str(written) + str(cannot_read(error))
