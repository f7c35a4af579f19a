"""The journal's tables, and how its file is opened, made and brought to this version's format.

Format 4:

    meta      key, value: `format`, `journal_id`, `first_offset`; and `deleting RUN_ID` with the
              store's cursor for each run that the store has yet to delete
    runs      run_id, state, next_ordinal, last_offset, trimmed_offset, trimmed_ordinal,
              refused_row_count, refused_value_count, dropped_row_count, noted_row_count,
              project, name, is_project_given, is_name_given, end (an encoded `RunFinish`),
              wandb_sink: the sink that delivers the run to W&B; empty: none does
    writers   run_id, writer_id, last_sequence, state, environment (an encoded `Environment`),
              refused_row_count, refused_value_count, dropped_row_count,
              exit_code, reason, end_offset
    entries   offset, run_id, writer_id, sequence, kind, first_ordinal, row_count, crc32,
              time_unix_nano, payload
    damaged   the same as entries, for what was put aside: its payload is not what was written
    keys      run_id, key: the metrics that a run has
    artifacts project, name, version, sha256: the versions that were given; never deleted

Offsets never repeat, even after entries are deleted (AUTOINCREMENT), and begin at the microsecond
in which the journal was made: cursors depend on it.

A run's entries up to its `trimmed_offset` are deleted, with them all rows before `trimmed_ordinal`.
A run's project and name are empty where they are not known: it is from before format 3. Whether
they are given tells whether a writer that joins may still give them. Its `end` is the last one.
`noted_row_count` of its rows are no trainer's own: the sidecar noted them, or they only tell how
the system does.
What a run has refused or dropped was so here. A writer's counts are what it told itself; what it
dropped includes what was damaged here. How it ended stands in `end_offset`, `exit_code` and
`reason` until it lives again; an `end_offset` of -1 says that the run was resumed behind that end.
"""

import secrets
import sqlite3
import time
from pathlib import Path

from pillion_sidecar.errors import DiskError, SettingsError
from pillion_sidecar.journal_reader import connect

FORMAT = 4
"""The version of the tables. A journal of a newer one is not opened."""

# Small columns stand before the payload: behind it they would be read through all of it.
_ENTRY = """
    run_id TEXT NOT NULL, writer_id TEXT NOT NULL, sequence INTEGER NOT NULL, kind INTEGER NOT NULL,
    first_ordinal INTEGER NOT NULL, row_count INTEGER NOT NULL, crc32 INTEGER NOT NULL,
    time_unix_nano INTEGER NOT NULL, payload BLOB NOT NULL
"""
_BESIDE_ENTRIES = f"""
CREATE TABLE damaged (offset INTEGER PRIMARY KEY, {_ENTRY});
CREATE INDEX damaged_by_writer ON damaged (run_id, writer_id, sequence);
CREATE TABLE keys (
    run_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run_id, key)
) WITHOUT ROWID;
CREATE INDEX entries_by_run ON entries (run_id, offset, first_ordinal, time_unix_nano);
CREATE INDEX runs_by_last_offset ON runs (last_offset);
"""
_ARTIFACTS = """
CREATE TABLE artifacts (
    project TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, sha256 BLOB NOT NULL,
    PRIMARY KEY (project, name, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX artifacts_by_digest ON artifacts (project, name, sha256);
"""
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, state INTEGER NOT NULL, next_ordinal INTEGER NOT NULL,
    last_offset INTEGER NOT NULL DEFAULT 0, trimmed_offset INTEGER NOT NULL DEFAULT 0,
    trimmed_ordinal INTEGER NOT NULL DEFAULT 0, refused_row_count INTEGER NOT NULL DEFAULT 0,
    refused_value_count INTEGER NOT NULL DEFAULT 0, dropped_row_count INTEGER NOT NULL DEFAULT 0,
    noted_row_count INTEGER NOT NULL DEFAULT 0,
    project TEXT NOT NULL DEFAULT '', name TEXT NOT NULL DEFAULT '',
    is_project_given INTEGER NOT NULL DEFAULT 1, is_name_given INTEGER NOT NULL DEFAULT 1,
    end BLOB NOT NULL DEFAULT x'',
    wandb_sink TEXT NOT NULL DEFAULT 'wandb'
) WITHOUT ROWID;
CREATE TABLE writers (
    run_id TEXT NOT NULL, writer_id TEXT NOT NULL, last_sequence INTEGER NOT NULL,
    state INTEGER NOT NULL, environment BLOB NOT NULL,
    refused_row_count INTEGER NOT NULL DEFAULT 0, refused_value_count INTEGER NOT NULL DEFAULT 0,
    dropped_row_count INTEGER NOT NULL DEFAULT 0, exit_code INTEGER,
    reason TEXT NOT NULL DEFAULT '', end_offset INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, writer_id)
) WITHOUT ROWID;
CREATE TABLE entries (offset INTEGER PRIMARY KEY AUTOINCREMENT, {_ENTRY});
CREATE INDEX entries_by_writer ON entries (run_id, writer_id, sequence);
{_BESIDE_ENTRIES}
{_ARTIFACTS}
"""


def open_journal(path: Path) -> sqlite3.Connection:
    """Open the journal for writing, made or brought to this format if need be.

    Raises:
        SettingsError: The file is of a newer Pillion, or no journal.
        DiskError: It cannot be opened.
    """
    try:
        db = connect(str(path))
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # `journal.py` does it
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            _create(db)
        found = int(meta(db, "format"))
        if found < 2:  # noqa: PLR2004 - the formats there were
            _migrate_to_2(db)
        if found < 3:  # noqa: PLR2004
            _migrate_to_3(db)
        if found < FORMAT:
            _migrate_to_4(db)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise SettingsError(f"{path} is not a journal of Pillion's; move it away.") from error
        cannot = f"The journal {path} cannot be opened: {error}."
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
            raise DiskError(cannot, reason="JOURNAL_DAMAGED") from error
        raise DiskError(cannot, reason="JOURNAL_FAILED") from error
    if found > FORMAT:
        db.close()
        raise SettingsError(
            f"The journal {path} is of format {found}, and this version knows {FORMAT}. "
            "Start the newer Pillion that wrote it."
        )
    return db


def meta(db: sqlite3.Connection, key: str) -> str:
    """Return what stands under a key of `meta`."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        (file,) = (row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
        raise SettingsError(f"{file} has a journal's tables, but not what stands in them.")
    return str(row[0])


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


def _migrate_to_2(db: sqlite3.Connection) -> None:
    """Bring a journal of format 1 to format 2: columns are added, nothing is rewritten."""
    counter = "INTEGER NOT NULL DEFAULT 0"
    added = {
        "runs": (
            *("last_offset", "trimmed_offset", "trimmed_ordinal"),
            *("refused_row_count", "refused_value_count", "dropped_row_count"),
        ),
        "writers": (
            *("refused_row_count", "refused_value_count", "dropped_row_count", "end_offset"),
        ),
    }
    columns = [
        f"ALTER TABLE {table} ADD COLUMN {name} {counter};"
        for table, names in added.items()
        for name in names
    ]
    # When what is there was journaled is not known; it waits from now on.
    now = time.time_ns()
    db.executescript(
        "BEGIN IMMEDIATE;"
        + "".join(columns)
        + "ALTER TABLE writers ADD COLUMN exit_code INTEGER;"
        + "ALTER TABLE writers ADD COLUMN reason TEXT NOT NULL DEFAULT '';"
        + f"ALTER TABLE entries ADD COLUMN time_unix_nano INTEGER NOT NULL DEFAULT {now};"
        + "UPDATE runs SET last_offset = (SELECT coalesce(max(offset), 0) FROM entries "
        + "WHERE entries.run_id = runs.run_id);"
        + "DROP INDEX entries_by_run;"
        + _BESIDE_ENTRIES
        + "UPDATE meta SET value = '2' WHERE key = 'format';"
        + "COMMIT;"
    )


def _migrate_to_3(db: sqlite3.Connection) -> None:
    """Bring a journal of format 2 to format 3: columns are added, nothing is rewritten."""
    db.executescript(
        "BEGIN IMMEDIATE;"
        "ALTER TABLE runs ADD COLUMN project TEXT NOT NULL DEFAULT '';"
        "ALTER TABLE runs ADD COLUMN name TEXT NOT NULL DEFAULT '';"
        "ALTER TABLE runs ADD COLUMN is_project_given INTEGER NOT NULL DEFAULT 1;"
        "ALTER TABLE runs ADD COLUMN is_name_given INTEGER NOT NULL DEFAULT 1;"
        "ALTER TABLE runs ADD COLUMN end BLOB NOT NULL DEFAULT x'';"
        "ALTER TABLE runs ADD COLUMN wandb_sink TEXT NOT NULL DEFAULT 'wandb';"
        + _ARTIFACTS
        + "UPDATE meta SET value = '3' WHERE key = 'format';"
        "COMMIT;"
    )


def _migrate_to_4(db: sqlite3.Connection) -> None:
    """Bring a journal of format 3 to format 4: rows that were noted are counted, as far as known.

    Those of entries that are deleted are not.
    """
    db.executescript(
        "BEGIN IMMEDIATE;"
        "ALTER TABLE runs ADD COLUMN noted_row_count INTEGER NOT NULL DEFAULT 0;"
        "UPDATE runs SET noted_row_count = (SELECT coalesce(sum(row_count), 0) FROM entries "
        "WHERE entries.run_id = runs.run_id AND writer_id = '');"
        "UPDATE meta SET value = '4' WHERE key = 'format';"
        "COMMIT;"
    )
