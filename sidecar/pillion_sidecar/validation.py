"""Checks of what callers send, before anything of it is kept.

Each function returns the checked values or raises `PeerError`, saying what is wrong and where. They
run on the event loop, so each looks at a column, never at a value, where it can.
"""

import re
import time
import uuid
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pillion._version import __version__
from pillion.v1 import record_pb2, telemetry_service_pb2
from pillion.values import from_key_values
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import (
    CheckedBatch,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
    decode_environment,
)

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_BYTES_MAX = 1024
TEXT_BYTES_MAX = 64 * 1024
TAGS_MAX = 256
COUNT_MAX = 10**12
"""Of rows or values that a writer says it lost or refused."""
LINES_MAX = 16_384
"""Of console output in one record."""
RECORDS_MAX = 16_384
"""Per batch: each is looked at by itself."""
VALUES_MAX = 20_000
"""Config or summary values per message, nested ones included."""
PATH_CHARACTERS_MAX = 4096
"""Of the keys that lead to a nested value, together."""
VALUES_DEPTH_MAX = 40
"""Nesting of config and summary that is taken; what our own client makes is less deep."""

_Request = TypeVar("_Request", bound=Message)
_BIG_INT = re.compile(r"-?[0-9]{1,4000}")
_ENDS = frozenset(RunState) - {RunState.RUNNING}
_TAKEN_RECORDS = frozenset(
    {"metric_frame", "config_update", "summary_update", "console_lines", "lost_range"}
)


def decode(raw: bytes, request_class: type[_Request]) -> _Request:
    """Decode a request."""
    try:
        return request_class.FromString(raw)
    except DecodeError as error:
        raise PeerError(f"This is no {request_class.__name__}: {error}.", "MALFORMED") from None


def check_start(request: telemetry_service_pb2.StartRunRequest) -> RunStart:
    """Check a StartRun; ids that are left out are made."""
    run_id = check_run_id(request.run_id or uuid.uuid4().hex[:8])
    for field in ("project", "name", "group", "job_type"):
        _check_text(getattr(request, field), field, KEY_BYTES_MAX)
    _check_text(request.notes, "notes", TEXT_BYTES_MAX)
    if len(request.tags) > TAGS_MAX:
        raise PeerError(f"tags: {len(request.tags)} of them; at most {TAGS_MAX} are taken.")
    for tag in request.tags:
        _check_text(tag, "tags", KEY_BYTES_MAX)
    _check_key_values(request.config, "config")
    start_time_unix_nano = time.time_ns()
    if request.HasField("start_time"):
        start_time_unix_nano = request.start_time.seconds * 10**9 + request.start_time.nanos
        if not 0 <= start_time_unix_nano < 2**63:
            raise PeerError("start_time: between the years 1970 and 2262, please.")
    return RunStart(
        run_id=run_id,
        writer_id=_check_writer_id(request.writer_id or uuid.uuid4().hex),
        project=request.project or "uncategorized",
        name=request.name or run_id,
        group=request.group,
        job_type=request.job_type,
        tags=tuple(dict.fromkeys(request.tags)),
        notes=request.notes,
        config=from_key_values(request.config),
        environment=decode_environment(request.environment),
        time_unix_nano=start_time_unix_nano,
    )


def check_log(raw: bytes) -> CheckedBatch:
    """Decode and check a LogMetrics message."""
    batch = decode(raw, telemetry_service_pb2.LogMetricsRequest).batch
    run_id, writer_id = check_run_id(batch.run_id), _check_writer_id(batch.writer_id)
    if not 0 < batch.sequence < 2**63:
        raise PeerError("batch.sequence: batches are numbered from 1 on, per writer.")
    if not batch.records:
        raise PeerError("batch.records: there is nothing in this batch.")
    if len(batch.records) > RECORDS_MAX:
        raise PeerError(f"batch.records: {len(batch.records)}; at most {RECORDS_MAX} are taken.")
    first_sequence = batch.sequence
    row_count = dropped_row_count = 0
    keys: set[str] = set()
    for field in ("refused_row_count", "refused_value_count"):
        _check_count(getattr(batch, field), f"batch.{field}")
    for index, record in enumerate(batch.records):
        kind = record.WhichOneof("kind")
        where = f"batch.records[{index}].{kind}"
        if kind not in _TAKEN_RECORDS:
            raise PeerError(
                f"batch.records[{index}]: this sidecar, version {__version__}, does not take "
                f"{kind or 'a record without content that it knows'}. "
                "Upgrade the sidecar, or leave it out.",
                "RECORD_UNSUPPORTED",
            )
        if kind == "metric_frame":
            row_count += _check_frame(record.metric_frame, where, keys)
        elif kind == "config_update":
            _check_key_values(record.config_update.values, where)
        elif kind == "summary_update":
            _check_key_values(record.summary_update.values, where)
        elif kind == "console_lines":
            _check_lines(record.console_lines, where)
        else:
            first_sequence = _check_lost(record.lost_range, batch, where)
            dropped_row_count = record.lost_range.row_count
    return CheckedBatch(
        run_id=run_id,
        writer_id=writer_id,
        sequence=batch.sequence,
        payload=batch.SerializeToString(deterministic=True),
        row_count=row_count,
        first_sequence=first_sequence,
        keys=frozenset(keys),
        dropped_row_count=dropped_row_count,
        refused_row_count=batch.refused_row_count,
        refused_value_count=batch.refused_value_count,
    )


def check_finish(request: telemetry_service_pb2.FinishRunRequest) -> RunFinish:
    """Check a FinishRun; the state that is left out follows from the exit code."""
    state = RunState.FAILED if request.exit_code else RunState.FINISHED
    if request.state:
        if request.state not in {state.value for state in _ENDS}:
            raise PeerError("state: a run ends as FINISHED, STOPPED, FAILED or CRASHED.")
        state = RunState(request.state)
    _check_text(request.reason, "reason", TEXT_BYTES_MAX)
    _check_key_values(request.summary, "summary")
    for field in ("refused_row_count", "refused_value_count"):
        _check_count(getattr(request, field), field)
    return RunFinish(
        run_id=check_run_id(request.run_id),
        writer_id=_check_writer_id(request.writer_id),
        state=state,
        # Who crashed has no exit code of 0: nobody knows it.
        exit_code=None
        if state is RunState.CRASHED and not request.exit_code
        else request.exit_code,
        reason=request.reason,
        summary=from_key_values(request.summary),
        time_unix_nano=time.time_ns(),
    )


def check_run_id(text: str) -> RunId:
    """Check a run id."""
    return RunId(_check_id(text, "run_id"))


def _check_writer_id(text: str) -> WriterId:
    return WriterId(_check_id(text, "writer_id"))


def _check_id(text: str, field: str) -> str:
    if not ID_PATTERN.fullmatch(text):
        raise PeerError(
            f"{field}: {text[:80]!r} is none. Take 1 to 64 letters, digits, '.', '_' and '-', the "
            "first a letter or digit."
        )
    return text


def _check_frame(frame: record_pb2.MetricFrame, where: str, keys: set[str]) -> int:
    """Check a frame, add its keys to those of the batch, and return its rows."""
    row_count = len(frame.steps)
    if row_count == 0:
        raise PeerError(f"{where}.steps: a frame has at least one row.")
    if len(frame.times_unix_nano) != row_count:
        raise PeerError(
            f"{where}.times_unix_nano: {len(frame.times_unix_nano)} times for {row_count} steps."
        )
    if not frame.columns:
        raise PeerError(f"{where}.columns: a row has at least one value.")
    keys |= _check_keys((column.key for column in frame.columns), f"{where}.columns")
    for column in frame.columns:
        kind = column.WhichOneof("values")
        value_count = len(getattr(column, kind).values) if kind else 0
        if value_count != row_count:
            raise PeerError(
                f"{where}.columns[{column.key!r}]: {value_count} values for {row_count} steps."
            )
    return row_count


def _check_lost(lost: record_pb2.LostRange, batch: record_pb2.Batch, where: str) -> int:
    """Check a lost range; return its first sequence."""
    if len(batch.records) > 1 or lost.last_sequence != batch.sequence:
        raise PeerError(f"{where}: it is alone in its batch, which has the last lost number.")
    if not 0 < lost.first_sequence <= lost.last_sequence:
        raise PeerError(f"{where}: first_sequence is 1 to last_sequence.")
    _check_count(lost.row_count, f"{where}.row_count")
    return lost.first_sequence


def _check_lines(lines: record_pb2.ConsoleLines, where: str) -> None:
    if not 0 < len(lines.lines) <= LINES_MAX:
        raise PeerError(f"{where}.lines: {len(lines.lines)}; 1 to {LINES_MAX:,} are taken.")
    for line in lines.lines:
        _check_text(line, f"{where}.lines", TEXT_BYTES_MAX)


def _check_count(count: int, field: str) -> None:
    if count > COUNT_MAX:
        raise PeerError(f"{field}: {COUNT_MAX:,} at most.")


def _check_key_values(values: record_pb2.KeyValueList, where: str) -> None:
    """Check nested values, each in turn and without recursion."""
    pending: list[tuple[record_pb2.KeyValueList | record_pb2.ArrayValue, str, int]] = [
        (values, where, 0)
    ]
    count = 0
    while pending:
        nest, path, depth = pending.pop()
        count += len(nest.values)
        if count > VALUES_MAX:
            raise PeerError(f"{where}: more than {VALUES_MAX:,} values.")
        if depth > VALUES_DEPTH_MAX or len(path) > PATH_CHARACTERS_MAX:
            raise PeerError(
                f"{where}: nested more than {VALUES_DEPTH_MAX} deep, or by keys of more than "
                f"{PATH_CHARACTERS_MAX:,} characters together."
            )
        if isinstance(nest, record_pb2.KeyValueList):
            _check_keys((entry.key for entry in nest.values), path)
            named = [(f"{path}.{entry.key}", entry.value) for entry in nest.values]
        else:
            named = [(path, element) for element in nest.values]
        for name, value in named:
            kind = value.WhichOneof("value")
            if kind in {"kvlist_value", "array_value"}:
                pending.append((getattr(value, kind), name, depth + 1))
            elif kind == "big_int_value" and not _BIG_INT.fullmatch(value.big_int_value):
                raise PeerError(f"{name}: big_int_value is decimal text, at most 4,000 digits.")


def _check_keys(keys: Iterable[str], where: str) -> set[str]:
    """Check keys that belong together; return them."""
    seen: set[str] = set()
    for key in keys:
        if not key:
            raise PeerError(f"{where}: a key is empty.", "KEY_EMPTY")
        _check_text(key, f"{where}: the key {key[:40]!r}", KEY_BYTES_MAX)
        if key in seen:
            raise PeerError(f"{where}: the key {key!r} is there twice.", "KEY_REPEATED")
        seen.add(key)
    return seen


def _check_text(text: str, field: str, bytes_max: int) -> None:
    if len(text) * 4 > bytes_max and len(text.encode()) > bytes_max:
        raise PeerError(f"{field}: longer than {bytes_max} bytes.")
