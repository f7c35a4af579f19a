"""The store's tables, and how values lie in them. How it is opened: `store_database.py`.

Tables (format 4):

    store_version
                the format, for Alembic
    meta        key, value: `store_format`, the format before there was the above; it has stood
                still since then, so that older Pillions leave the store alone
    runs        a run as its records made it, and `cursor`: the last offset of its sidecar's journal
                that is in here. `owner` is that sidecar where several share the store, else empty
    signatures  which metrics, in which order and kind, rows of a run have; the first and last such
                row; and `figures`, five doubles per metric: count and sum without NaN, the least,
                the largest, the first; NaN where there is none
    segments    rows of one signature that came together: the axes that they share
    columns     the values of a segment, one row per metric, by its position in the signature
    console     what was printed, a row per record, numbered from 0 in its run; `cursor` is the
                run's when it came. Format 1 did not have this table
    alerts      the latest of each run, numbered as the above
    chunks      pieces of files that are not complete; those that are lie in the blob store
    events      what became of each run when, numbered as the above; its kinds: `EventKind`
    artifacts   a version of an artifact each; its files and aliases in the next two tables.
                Versions count per owner, whose sidecar alone has the files
    artifact_files, artifact_aliases
    artifact_runs
                which run has made, or read, which version: `reference` is NAME:vN, or what was
                asked for if there was none such

Tables and columns say in `info` since which format there are such, if not since the first.

Arrays are little-endian blobs: int64 axes, values by kind: `d` float64, `q` int64, `?` one byte
each; texts (`s`), histograms (`h`) and files (`m`) are lines of JSON. Segments of a signature never
overlap, and larger ids of one signature hold later rows; several who share a store take ids from
`segment_ids`, a thousand at a time. `minimum` and `maximum` leave NaN out and are rounded to
doubles. Config, summary and the like are JSON text with Python's NaN, Infinity and integers of any
size; bytes are `{"$bytes": base64}`, and a user's key that begins with `$` gets another one in
front.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pillion_sidecar.columns import NUMBER_KINDS, rich_of, rich_to_plain, to_column

FORMAT = 4
"""The version of the tables. A store of a newer one is not opened; an older one is brought up to
date by the first who opens it to write."""

_DTYPES: Mapping[str, npt.DTypeLike] = {"d": "<f8", "q": "<i8", "?": "?"}

POSITIONS_MAX = 500
"""More metrics than this are picked from a query's result, not by its text, which is bounded."""
SEGMENT_IDS = 1_024
"""So many ids of segments are taken at once."""


class EventKind(StrEnum):
    """What may become of a run."""

    STARTED = "started"
    JOINED = "joined"
    """Another writer has come, or one once more."""
    RESUMED = "resumed"
    """After its end."""
    ENDED = "ended"
    """`text` is its state, and the reason."""


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


class _EscapedText(sa.TypeDecorator[str]):
    r"""A text in PostgreSQL, which takes no NUL: that is `\0` there, and a backslash is `\\`."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: sa.Dialect) -> str | None:
        """Encode."""
        return value and value.replace("\\", r"\\").replace("\0", r"\0")

    def process_result_value(self, value: str | None, _dialect: sa.Dialect) -> str | None:
        """Decode."""
        if value is None or "\\" not in value:
            return value
        return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], value)


# In bytewise order in both databases.
_TEXT = sa.Text().with_variant(_EscapedText(collation="C"), "postgresql")
_SINCE_2, _SINCE_3, _SINCE_4 = ({"since": number} for number in (2, 3, 4))
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER may number rows there

metadata = sa.MetaData()
store_version = sa.Table(
    "store_version",
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="store_version_pkc"),
)
segment_ids = sa.Sequence("segment_ids", increment=SEGMENT_IDS, metadata=metadata)
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", _TEXT, primary_key=True),
    sa.Column("value", _TEXT, nullable=False),
)
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", _TEXT, primary_key=True),
    sa.Column("project", _TEXT, nullable=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("group", _TEXT, nullable=False),
    sa.Column("job_type", _TEXT, nullable=False),
    sa.Column("tags", ValueText, nullable=False),
    sa.Column("notes", _TEXT, nullable=False),
    sa.Column("config", ValueText, nullable=False),
    sa.Column("summary", ValueText, nullable=False),  # what was set explicitly, nothing else
    sa.Column("environment", ValueText, nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("reason", _TEXT, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("start_time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("end_time_unix_nano", sa.BigInteger),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger),
    sa.Column("lost_row_count", sa.BigInteger, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("model", _TEXT, nullable=False, server_default="", info=_SINCE_3),
    sa.Column("dataset", _TEXT, nullable=False, server_default="", info=_SINCE_3),
    sa.Column("use_case", _TEXT, nullable=False, server_default="", info=_SINCE_3),
    sa.Column("definitions", ValueText, nullable=False, server_default="[]", info=_SINCE_3),
    sa.Column("wandb", ValueText, nullable=False, server_default="{}", info=_SINCE_3),
    sa.Column("owner", _TEXT, nullable=False, server_default="", info=_SINCE_4),
    sa.Index("runs_by_time", "start_time_unix_nano", "run_id"),
    sa.Index("runs_by_project", "project", "start_time_unix_nano", "run_id"),
)
signatures = sa.Table(
    "signatures",
    metadata,
    sa.Column("signature_id", _Id, primary_key=True),
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), nullable=False, index=True),
    sa.Column("metrics", ValueText, nullable=False),  # [[key, kind], …]
    sa.Column("last_ordinal", sa.BigInteger, nullable=False),
    sa.Column("last_values", ValueText, nullable=False),  # one per metric
    sa.Column("first_ordinal", sa.BigInteger, info=_SINCE_3),  # this and the next: None in rows
    sa.Column("figures", sa.LargeBinary, info=_SINCE_3),  # from before
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
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("stream", sa.Integer, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("lines", ValueText, nullable=False),
    sqlite_with_rowid=False,
    info=_SINCE_2,
)
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("title", _TEXT, nullable=False),
    sa.Column("text", _TEXT, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info=_SINCE_3,
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("text", _TEXT, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info=_SINCE_4,
)
chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("chunk_id", _Id, primary_key=True),
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("sha256", _TEXT, nullable=False),
    sa.Column("offset_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("chunks_by_file", "run_id", "sha256", "offset_bytes"),
    info=_SINCE_3,
)
artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("artifact_id", _Id, primary_key=True),
    sa.Column("project", _TEXT, nullable=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("type", _TEXT, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("metadata", ValueText, nullable=False),
    sa.Column("description", _TEXT, nullable=False),
    sa.Column("registry_links", ValueText, nullable=False),
    sa.Column("run_id", _TEXT, nullable=False),  # which made it first
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sa.Column("file_count", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("owner", _TEXT, nullable=False, server_default="", info=_SINCE_4),
    sa.UniqueConstraint("owner", "project", "name", "version"),
    sqlite_autoincrement=True,  # so that pages keep their places
    info=_SINCE_3,
)
artifact_files = sa.Table(
    "artifact_files",
    metadata,
    sa.Column("artifact_id", _Id, sa.ForeignKey("artifacts.artifact_id"), primary_key=True),
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("reference_uri", _TEXT, nullable=False),
    sqlite_with_rowid=False,
    info=_SINCE_3,
)
artifact_aliases = sa.Table(
    "artifact_aliases",
    metadata,
    sa.Column("owner", _TEXT, primary_key=True, server_default="", info=_SINCE_4),
    sa.Column("project", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("alias", _TEXT, primary_key=True),
    sa.Column(
        "artifact_id", _Id, sa.ForeignKey("artifacts.artifact_id"), nullable=False, index=True
    ),
    sqlite_with_rowid=False,
    info=_SINCE_3,
)
artifact_runs = sa.Table(
    "artifact_runs",
    metadata,
    sa.Column("run_id", _TEXT, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("is_maker", sa.Boolean, primary_key=True),
    sa.Column("reference", _TEXT, primary_key=True),
    sa.Column("artifact_id", _Id, index=True),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("time_unix_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info=_SINCE_3,
)


def readable(connection: sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """Return those of a table's columns that there are: a reader may find an older store."""
    return [column for column in table.c if _is_known(connection, column)]


def is_there(connection: sa.Connection, table: sa.Table) -> bool:
    """Tell whether the store had this table when it was opened."""
    return _is_known(connection, table)


def _is_known(connection: sa.Connection, what: sa.Table | sa.Column[Any]) -> bool:
    found: int = connection.get_execution_options().get("store_format", FORMAT)
    since: int = what.info.get("since", 1)
    return since <= found


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
