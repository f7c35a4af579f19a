"""The store's tables, and how values lie in them. How it is opened: `store_database.py`.

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
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from pillion_sidecar.columns import NUMBER_KINDS, rich_of, rich_to_plain, to_column

FORMAT = 3
"""The version of the tables. A store of a newer one is not opened; an older one is brought up to
date by the first who opens it to write."""

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


def readable(connection: sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """Return those of a table's columns that there are, in a store of format 2 too."""
    is_current = sa.inspect(connection).has_table(alerts.name)
    return [column for column in table.c if is_current or column not in set(ADDED)]


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
