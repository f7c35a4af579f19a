"""The store's file: what is kept in it comes back exactly, and who may open it when."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion_sidecar import store_tables
from pillion_sidecar.errors import DiskError, SettingsError
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    ConsoleLines,
    ConsoleStream,
    Environment,
    Frame,
    MetricDefinition,
    Offset,
    RunId,
    RunStart,
    Summarizing,
    WriterId,
)
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$bytes"), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(config=st.dictionaries(st.text() | st.just("$bytes"), VALUES))
def test_config_values_come_back_exactly(config: dict[str, Any]) -> None:
    """NaN, infinities, integers of any size, bytes, and keys that look like the store's own."""
    column = store_tables.ValueText()
    text = column.process_bind_param(config, None)  # type: ignore[arg-type]
    assert repr(column.process_result_value(text, None)) == repr(config)  # type: ignore[arg-type]


def test_a_store_of_a_newer_version_is_not_opened(tmp_path: Path) -> None:
    """Neither to read nor to write; the error says whose it is."""
    path = tmp_path / "store.db"
    open_with_rows(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE meta SET value = '{store_tables.FORMAT + 1}'")
    for open_it in (Store, StoreSink):
        with pytest.raises(SettingsError, match="newer Pillion"):
            open_it(f"sqlite:///{path}")


def make_older(path: Path, to_format: int) -> None:
    """Take from a store what later formats have added."""
    with closing(sqlite3.connect(path)) as db, db:
        for column in store_tables.ADDED:
            db.execute(f"ALTER TABLE {column.table.name} DROP COLUMN {column.name}")
        artifacts = [name for name in store_tables.metadata.tables if name.startswith("artifact")]
        for table in ("alerts", "chunks", *artifacts):
            db.execute(f"DROP TABLE {table}")
        if to_format == 1:
            db.execute("DROP TABLE console")
        db.execute(f"UPDATE meta SET value = '{to_format}'")


@pytest.mark.parametrize("to_format", [1, 2])
def test_an_older_store_is_brought_up_to_date_by_its_writer(tmp_path: Path, to_format: int) -> None:
    """It can be read until then; all stays, and summaries know of the rows that were there."""
    path, url = tmp_path / "store.db", f"sqlite:///{tmp_path}/store.db"
    open_with_rows(path).close()
    make_older(path, to_format)
    with closing(Store(url)) as store:
        run = store.run(RUN)
        assert run is not None
        assert (run.summary, run.next_ordinal, store.alerts(RUN)) == ({"a": 1999.5}, 4_000, [])
        assert (len(list(store.rows(RUN))), list(store.console(RUN))) == (4_000, [])
    printed = ConsoleLines(ConsoleStream.STDERR, 5, ("x", ""))
    alert = Alert("a title", "", AlertLevel.WARN, 6)
    defined = MetricDefinition("a", summaries=(Summarizing.MAX, Summarizing.FIRST))
    with closing(StoreSink(url)) as sink:
        rows = Frame(4_000, np.array([1]), np.array([2]), {"a": np.array([7.0])})
        sink.apply(RUN, Offset(3), [printed, alert, defined, rows])
    with closing(Store(url)) as store:
        run = store.run(RUN)
        assert run is not None
        assert run.summary == {"a": {"max": 1999.5, "first": 0.0}}
        assert (len(list(store.rows(RUN))), list(store.console(RUN))) == (4_001, [printed])
        assert store.alerts(RUN) == [alert]


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


@pytest.mark.parametrize("url", ["store.db", "sqlite://", "postgresql://host/pillion", ""])
def test_a_url_that_is_none_of_a_store_is_refused(url: str) -> None:
    """Only files of SQLite's can be stores now."""
    with pytest.raises(SettingsError, match="URL"):
        StoreSink(url)


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
