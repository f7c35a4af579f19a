"""Formats of the store: older ones are brought up to date, newer ones are left alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from postgresql import PostgresqlServer

from pillion_sidecar import store_database
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    ConsoleLines,
    ConsoleStream,
    Frame,
    MetricDefinition,
    Offset,
    RunId,
    Summarizing,
)
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.store_artifacts import find, id_of, links_of
from pillion_sidecar.store_tables import FORMAT, metadata, store_version

RUN = RunId("run")
FORMAT_3 = Path(__file__).parent / "golden" / "store_format_3.sql"
"""A store as it was before Alembic, dumped: a run of three rows, with all that there was."""
LATER_THAN_2 = {
    "runs": ("model", "dataset", "use_case", "definitions", "wandb"),
    "signatures": ("first_ordinal", "figures"),
}
PRINTED, ALERT = ConsoleLines(ConsoleStream.STDOUT, 5, ("x",)), Alert("t", "", AlertLevel.WARN, 6)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Tell where a store may be made, in either database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_url()


def make_older(path: Path, of_format: int) -> None:
    """Make a store of an older format."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(FORMAT_3.read_text())
        if of_format < 3:
            for table, columns in LATER_THAN_2.items():
                for column in columns:
                    db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            artifacts = ("aliases", "files", "runs")
            for table in (*(f"artifact_{each}" for each in artifacts), "artifacts", "alerts"):
                db.execute(f"DROP TABLE {table}")
            db.execute("DROP TABLE chunks")
        if of_format == 1:
            db.execute("DROP TABLE console")
        db.execute(f"UPDATE meta SET value = '{of_format}'")


@pytest.mark.parametrize("of_format", [1, 2, 3])
def test_an_older_store_is_brought_up_to_date_by_its_writer(tmp_path: Path, of_format: int) -> None:
    """It can be read until then; all stays, and summaries know of the rows that were there."""
    path, url = tmp_path / "store.db", f"sqlite:///{tmp_path}/store.db"
    make_older(path, of_format)
    printed = [PRINTED] if of_format > 1 else []
    alerts = [ALERT] if of_format > 2 else []
    with closing(Store(url)) as store:
        run = store.run(RUN)
        assert run is not None
        assert (run.summary, run.next_ordinal, run.owner) == ({"loss": 0.25}, 3, "")
        assert (store.alerts(RUN), store.events(RUN)) == (alerts, [])
        assert (len(list(store.rows(RUN))), list(store.console(RUN))) == (3, printed)
    defined = MetricDefinition("loss", summaries=(Summarizing.MAX, Summarizing.FIRST))
    with closing(StoreSink(url)) as sink:
        rows = Frame(3, np.array([1]), np.array([2]), {"loss": np.array([7.0])})
        sink.apply(RUN, Offset(5), [PRINTED, ALERT, defined, rows])
    with closing(Store(url)) as store:
        run = store.run(RUN)
        assert run is not None
        assert run.summary == {"loss": {"max": 7.0, "first": 1.0}}
        assert (len(list(store.rows(RUN))), store.alerts(RUN)) == (4, [*alerts, ALERT])
        assert list(store.console(RUN)) == [*printed, PRINTED]


def test_artifacts_outlive_a_change_of_format(tmp_path: Path) -> None:
    """With their files, aliases and who has read them; ids go on behind those that were given."""
    path, url = tmp_path / "store.db", f"sqlite:///{tmp_path}/store.db"
    make_older(path, 3)
    StoreSink(url).close()
    with closing(Store(url)) as store, store.snapshot() as connection:
        place = {"owner": "", "project": "demo", "name": "model"}
        assert id_of(connection, version="latest", **place) == 1
        assert [each.artifact.version for each in find(connection, "")] == [0]
        assert len(links_of(connection, RUN, Offset(9))) == 2
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM sqlite_sequence").fetchall() == [("artifacts", 1)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_all_steps_together_make_what_a_new_store_is_made_as(url: str) -> None:
    """Tables, columns and their types, keys and indexes."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(store_database.MIGRATIONS))
        command.upgrade(config, "head")
        connection.exec_driver_sql("INSERT INTO meta VALUES ('store_format', '4')")
        options = {"version_table": "none", "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    store_database.open_for_writing(url).dispose()


def test_a_store_of_a_newer_version_is_not_opened(url: str) -> None:
    """Neither to read nor to write; the error says whose it is."""
    engine = store_database.open_for_writing(url)
    with engine.begin() as connection:
        connection.execute(store_version.update().values(version_num=f"{FORMAT + 1:04}"))
    engine.dispose()
    for open_it in (Store, StoreSink):
        with pytest.raises(SettingsError, match="newer Pillion"):
            open_it(url)


def test_an_older_pillion_leaves_a_store_alone_that_it_does_not_know(tmp_path: Path) -> None:
    """What it looks at says so, in a new store and in one that was brought up to date."""
    make_older(tmp_path / "old.db", 3)
    for name in ("old.db", "new.db"):
        StoreSink(f"sqlite:///{tmp_path}/{name}").close()
        with closing(sqlite3.connect(tmp_path / name)) as db:
            assert db.execute("SELECT value FROM meta").fetchall() == [("4",)]
