"""The store's tables, and how its file is opened.

Tables (format 3):

    meta        key, value: `store_format`
    runs        a run as its records made it, and `cursor`: the last journal offset that is in here
    signatures  which metrics, in which order and kind, rows of a run have; the first and last such
                row; and `figures`, five doubles per metric: count and sum without NaN, the least,
                the largest, the first; NaN where there is none
    segments    rows of one signature that came together: the axes that they share
    columns     the values of a segment, one row per metric, by its position in the signature
    console     what was printed, a row per record, numbered from 0 in its run; `cursor` is the
                run's when it came. Format 1 did not have this table
    alerts      the latest of each run, numbered as the above
    chunks      pieces of files that are not complete; those that are lie in the blob store
    artifacts   a version of an artifact each; its files and aliases in the next two tables
    artifact_files, artifact_aliases
    artifact_runs
                which run has made, or read, which version: `reference` is NAME:vN, or what was
                asked for if there was none such

Format 2 did not have the tables from `alerts` on, nor the last columns of runs and signatures.

Arrays are little-endian blobs: int64 axes, values by kind: `d` float64, `q` int64, `?` one byte
each; texts (`s`), histograms (`h`) and files (`m`) are lines of JSON. Segments of a signature never
overlap, and larger ids hold later rows. `minimum` and `maximum` leave NaN out and are rounded to
doubles. Config, summary and the like are JSON text with Python's NaN, Infinity and integers of any
size; bytes are `{"$bytes": base64}`, and a user's key that begins with `$` gets another one in
front.
"""

import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from pillion_sidecar.columns import NUMBER_KINDS, rich_of, rich_to_plain, to_column
from pillion_sidecar.errors import DiskError, SettingsError

FORMAT = 3
"""The version of the tables. A store of a newer one is not opened; an older one is brought up to
date by the first who opens it to write."""

BUSY_TIMEOUT_S = 5.0
"""How long an operation waits for a lock of SQLite's before it fails."""

WAL_BYTES_MAX = 64 * 1024 * 1024
"""To this size SQLite cuts its write-ahead log back after a burst."""

_CODES_NO_RIGHTS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_DTYPES: Mapping[str, npt.DTypeLike] = {"d": "<f8", "q": "<i8", "?": "?"}

Metrics: TypeAlias = tuple[tuple[str, str], ...]
"""The (key, kind) of every metric of a signature, in the order in which they were logged."""


class ValueText(sa.TypeDecorator[Any]):
    """A `pillion.values.Value` as JSON text; it comes back exactly."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: sa.Dialect) -> str:
        """Encode."""
        return json.dumps(_to_json(value), separators=(",", ":"))

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> Any:
        """Decode."""
        return json.loads(value, object_hook=_from_json)


_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER may number rows there

metadata = sa.MetaData()
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("job_type", sa.Text, nullable=False),
    sa.Column("tags", ValueText, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("config", ValueText, nullable=False),
    sa.Column("summary", ValueText, nullable=False),  # what was set explicitly, nothing else
    sa.Column("environment", ValueText, nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("start_time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("end_time_unix_nano", sa.BigInteger),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger),
    sa.Column("lost_row_count", sa.BigInteger, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False, server_default=""),
    sa.Column("dataset", sa.Text, nullable=False, server_default=""),
    sa.Column("use_case", sa.Text, nullable=False, server_default=""),
    sa.Column("definitions", ValueText, nullable=False, server_default="[]"),
    sa.Column("wandb", ValueText, nullable=False, server_default="{}"),
    sa.Index("runs_by_time", "start_time_unix_nano", "run_id"),
    sa.Index("runs_by_project", "project", "start_time_unix_nano", "run_id"),
)
signatures = sa.Table(
    "signatures",
    metadata,
    sa.Column("signature_id", _Id, primary_key=True),
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), nullable=False, index=True),
    sa.Column("metrics", ValueText, nullable=False),  # [[key, kind], …]
    sa.Column("last_ordinal", sa.BigInteger, nullable=False),
    sa.Column("last_values", ValueText, nullable=False),  # one per metric
    sa.Column("first_ordinal", sa.BigInteger),  # this and the next: not known before format 3
    sa.Column("figures", sa.LargeBinary),
)
segments = sa.Table(
    "segments",
    metadata,
    sa.Column("segment_id", _Id, primary_key=True, autoincrement=False),
    sa.Column("signature_id", _Id, sa.ForeignKey("signatures.signature_id"), nullable=False),
    sa.Column("first_ordinal", sa.BigInteger, nullable=False),
    sa.Column("last_ordinal", sa.BigInteger, nullable=False),
    sa.Column("row_count", sa.Integer, nullable=False),
    sa.Column("ordinals", sa.LargeBinary, nullable=False),
    sa.Column("steps", sa.LargeBinary, nullable=False),
    sa.Column("times_unix_nano", sa.LargeBinary, nullable=False),
    sa.Index("segments_by_signature", "signature_id", "segment_id"),
)
columns = sa.Table(
    "columns",
    metadata,
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.segment_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("minimum", sa.Double),
    sa.Column("maximum", sa.Double),
    sa.Column("nan_count", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
console = sa.Table(
    "console",
    metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("stream", sa.Integer, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("lines", ValueText, nullable=False),
    sqlite_with_rowid=False,
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("chunk_id", _Id, primary_key=True),
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("offset_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("chunks_by_file", "run_id", "sha256", "offset_bytes"),
)
artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("artifact_id", _Id, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("metadata", ValueText, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("registry_links", ValueText, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),  # which made it first
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("file_count", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("project", "name", "version"),
    sqlite_autoincrement=True,  # so that pages keep their places
)
artifact_files = sa.Table(
    "artifact_files",
    metadata,
    sa.Column("artifact_id", _Id, sa.ForeignKey("artifacts.artifact_id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("reference_uri", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
artifact_aliases = sa.Table(
    "artifact_aliases",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column(
        "artifact_id", _Id, sa.ForeignKey("artifacts.artifact_id"), nullable=False, index=True
    ),
    sqlite_with_rowid=False,
)
artifact_runs = sa.Table(
    "artifact_runs",
    metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("is_maker", sa.Boolean, primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("artifact_id", _Id, index=True),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

ADDED = (
    *(runs.c.model, runs.c.dataset, runs.c.use_case, runs.c.definitions, runs.c.wandb),
    *(signatures.c.first_ordinal, signatures.c.figures),
)
"""Columns that format 3 has added."""

_IS_FORMAT = meta.c.key == "store_format"


def readable(connection: sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """Return those of a table's columns that there are, in a store of format 2 too."""
    is_current = sa.inspect(connection).has_table(alerts.name)
    return [column for column in table.c if is_current or column not in set(ADDED)]


def error_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code; 0 if the error is none of SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def to_blob(kind: str, arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """Put arrays of one kind behind each other. So can blobs of one kind be put."""
    if kind not in NUMBER_KINDS:
        lines = (json.dumps(_to_json(rich_to_plain(value))) for array in arrays for value in array)
        return "".join(f"{line}\n" for line in lines).encode()
    return b"".join(array.astype(_DTYPES[kind], copy=False).tobytes() for array in arrays)


def from_blob(kind: str, blob: bytes) -> npt.NDArray[Any]:
    """Return a blob's values as an array; numbers as a read-only one."""
    if kind not in NUMBER_KINDS:
        lines = blob.decode().splitlines()  # JSON escapes whatever else ends a line
        return to_column(
            [rich_of(kind, json.loads(line, object_hook=_from_json)) for line in lines]
        )
    return np.frombuffer(blob, _DTYPES[kind])


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


def _to_json(value: Any) -> Any:
    match value:
        case bytes():
            return {"$bytes": b64encode(value).decode()}
        case list() | tuple():
            return [_to_json(element) for element in value]
        case Mapping():
            return {
                f"${key}" if key.startswith("$") else key: _to_json(element)
                for key, element in value.items()
            }
    return value


def _from_json(entries: dict[str, Any]) -> Any:
    if "$bytes" in entries:
        return b64decode(entries["$bytes"])
    return {key.removeprefix("$"): element for key, element in entries.items()}
