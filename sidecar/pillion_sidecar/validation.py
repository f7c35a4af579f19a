"""Checks of what callers send, before anything of it is kept.

Each function returns the checked values or raises `PeerError`, saying what is wrong and where. They
run on the event loop, so each looks at a column, never at a value, where it can.
"""

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pillion._version import __version__
from pillion.redaction import redact, redact_arguments, redact_text
from pillion.system import is_system
from pillion.v1 import record_pb2, telemetry_service_pb2
from pillion.values import from_key_values, to_key_values
from pillion_sidecar.environment import Environment, decode_environment
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import (
    PROJECT_DEFAULT,
    STATES_ENDED,
    Alert,
    CheckedBatch,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    TargetMode,
    WandbTarget,
    WriterId,
    decode_alert,
)
from pillion_sidecar.validation_values import (
    KEY_BYTES_MAX,
    TEXT_BYTES_MAX,
    check_chunk,
    check_column,
    check_key_values,
    check_keys,
    check_reference,
    check_text,
)

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TAGS_MAX = 256
COUNT_MAX = 10**12
"""Of rows or values that a writer says it lost or refused."""
LINES_MAX = 16_384
"""Of console output in one record."""
RECORDS_MAX = 16_384
"""Per batch: each is looked at by itself."""
ALERT_BYTES_MAX = 16 * 1024
"""Of its text: a hundred are in one answer."""
SUMMARIES_MAX = 16
"""Of one definition."""
ARGUMENTS_MAX, PACKAGES_MAX, GPUS_MAX = 10_000, 10_000, 1_000
"""Of one environment."""

_Request = TypeVar("_Request", bound=Message)


def decode(raw: bytes, request_class: type[_Request]) -> _Request:
    """Decode a request."""
    try:
        return request_class.FromString(raw)
    except DecodeError as error:
        raise PeerError(f"This is no {request_class.__name__}: {error}.", "MALFORMED") from None


def check_start(request: telemetry_service_pb2.StartRunRequest) -> RunStart:
    """Check a StartRun; ids that are left out are made."""
    run_id = check_run_id(request.run_id or uuid.uuid4().hex[:8])
    for field in ("project", "name", "group", "job_type", "model", "dataset", "use_case"):
        check_text(getattr(request, field), field, KEY_BYTES_MAX)
    check_text(request.notes, "notes", TEXT_BYTES_MAX)
    check_key_values(request.config, "config")
    if request.wandb_mode not in (0, *TargetMode):
        raise PeerError("wandb_mode: MODE_ONLINE, MODE_OFFLINE or MODE_DISABLED.")
    start_time_unix_nano = _check_time(request, "start_time")
    return RunStart(
        run_id=run_id,
        writer_id=_check_writer_id(request.writer_id or uuid.uuid4().hex),
        project=request.project or PROJECT_DEFAULT,
        name=request.name or _default_name(request, start_time_unix_nano) or run_id,
        group=request.group,
        job_type=request.job_type,
        tags=check_tags(request.tags, "tags"),
        notes=request.notes,
        config=redact(from_key_values(request.config)),
        environment=_check_environment(request.environment),
        time_unix_nano=start_time_unix_nano,
        model=request.model,
        dataset=request.dataset,
        use_case=request.use_case,
        wandb=WandbTarget(TargetMode(request.wandb_mode or TargetMode.ONLINE)),
        is_project_given=bool(request.project),
        is_name_given=bool(request.name),
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
    row_count = dropped_row_count = system_row_count = 0
    last_step: int | None = None
    keys: set[str] = set()
    alerts: list[Alert] = []
    for field in ("refused_row_count", "refused_value_count"):
        _check_count(getattr(batch, field), f"batch.{field}")
    for index, record in enumerate(batch.records):
        kind = record.WhichOneof("kind")
        where = f"batch.records[{index}].{kind}"
        if kind is None:
            raise PeerError(
                f"batch.records[{index}]: this sidecar, version {__version__}, does not take "
                "a record without content that it knows. Upgrade the sidecar, or leave it out.",
                "RECORD_UNSUPPORTED",
            )
        if kind == "metric_frame":
            frame = record.metric_frame
            row_count += _check_frame(frame, where, keys)
            if all(is_system(column.key) for column in frame.columns):
                system_row_count += len(frame.steps)
            else:
                last_step = frame.steps[-1]
        elif kind == "config_update":
            check_key_values(record.config_update.values, where)
            config = from_key_values(record.config_update.values)
            if (redacted := redact(config)) != config:
                record.config_update.values.CopyFrom(to_key_values(redacted))
        elif kind == "summary_update":
            check_key_values(record.summary_update.values, where)
        elif kind == "console_lines":
            _check_lines(record.console_lines, where)
        elif kind == "metric_definition":
            _check_definition(record.metric_definition, where)
        elif kind == "alert":
            alerts.append(_check_alert(record.alert, where))
        elif kind == "blob_chunk":
            check_chunk(record.blob_chunk, where)
        elif kind == "artifact_use":
            check_reference(record.artifact_use.artifact)
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
        alerts=tuple(alerts),
        last_step=last_step,
        system_row_count=system_row_count,
    )


def check_finish(request: telemetry_service_pb2.FinishRunRequest) -> RunFinish:
    """Check a FinishRun; the state that is left out follows from the exit code."""
    state = RunState.FAILED if request.exit_code else RunState.FINISHED
    if request.state:
        if request.state not in {state.value for state in STATES_ENDED}:
            raise PeerError("state: a run ends as FINISHED, STOPPED, FAILED or CRASHED.")
        state = RunState(request.state)
    check_text(request.reason, "reason", TEXT_BYTES_MAX)
    check_key_values(request.summary, "summary")
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
        time_unix_nano=_check_time(request, "end_time"),
    )


def check_update(request: telemetry_service_pb2.UpdateRunRequest) -> RunUpdate:
    """Check an UpdateRun."""
    check_text(request.name, "name", KEY_BYTES_MAX)
    check_text(request.notes, "notes", TEXT_BYTES_MAX)
    check_key_values(request.config, "config")
    if request.HasField("name") and not request.name:
        raise PeerError("name: a run has one.")
    return RunUpdate(
        run_id=check_run_id(request.run_id),
        name=request.name if request.HasField("name") else None,
        notes=request.notes if request.HasField("notes") else None,
        add_tags=_check_changed_tags(request.add_tags, "add_tags"),
        remove_tags=check_tags(request.remove_tags, "remove_tags"),
        config=redact(from_key_values(request.config)),
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


def _default_name(request: telemetry_service_pb2.StartRunRequest, time_unix_nano: int) -> str:
    """Return `MODEL_USE-CASE_TIME` of those that are said; empty if neither is."""
    model = request.model.rstrip("/").rpartition("/")[2]  # of a hub id, or a path
    said = [label for label in (model, request.use_case) if label]
    if not said:
        return ""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time_unix_nano // 10**9))
    return "_".join([*said, stamp])


def check_tags(tags: Iterable[str], field: str) -> tuple[str, ...]:
    """Check tags; return each once."""
    different = tuple(dict.fromkeys(tags))
    if len(different) > TAGS_MAX:
        raise PeerError(f"{field}: {len(different)} of them; at most {TAGS_MAX} are taken.")
    for tag in different:
        check_text(tag, field, KEY_BYTES_MAX)
    return different


def _check_changed_tags(tags: Iterable[str], field: str) -> tuple[str, ...]:
    different = check_tags(tags, field)
    if "" in different:
        raise PeerError(f"{field}: a tag is empty. Write one, or leave it out.")
    return different


def _check_time(request: Message, field: str) -> int:
    """Return a time in nanoseconds; the present one if the field is not set."""
    if not request.HasField(field):
        return time.time_ns()
    stamp = getattr(request, field)
    time_unix_nano: int = stamp.seconds * 10**9 + stamp.nanos
    if not 0 <= time_unix_nano < 2**63:
        raise PeerError(f"{field}: between the years 1970 and 2262, please.")
    return time_unix_nano


def _check_environment(message: record_pb2.Environment) -> Environment:
    """Check where a writer runs; the message itself bounds its texts."""
    for field, most in (
        ("arguments", ARGUMENTS_MAX),
        ("packages", PACKAGES_MAX),
        ("gpus", GPUS_MAX),
    ):
        if (count := len(getattr(message, field))) > most:
            raise PeerError(f"environment.{field}: {count:,} of them; at most {most:,} are taken.")
    environment = decode_environment(message)
    git = environment.git
    return replace(
        environment,
        arguments=tuple(redact_arguments(environment.arguments)),
        git=git and replace(git, remote_url=redact_text(git.remote_url)),
    )


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
    keys |= check_keys((column.key for column in frame.columns), f"{where}.columns")
    for column in frame.columns:
        check_column(column, row_count, f"{where}.columns")
    return row_count


def _check_definition(definition: record_pb2.MetricDefinition, where: str) -> None:
    if not definition.name:
        raise PeerError(f"{where}.name: a metric's name, or the beginning of some and `*`.")
    check_text(definition.name, f"{where}.name", KEY_BYTES_MAX)
    check_text(definition.step_metric, f"{where}.step_metric", KEY_BYTES_MAX)
    if len(definition.summaries) > SUMMARIES_MAX:
        raise PeerError(f"{where}.summaries: at most {SUMMARIES_MAX} are taken.")


def _check_alert(alert: record_pb2.Alert, where: str) -> Alert:
    if not alert.title:
        raise PeerError(f"{where}.title: an alert has a title.")
    check_text(alert.title, f"{where}.title", KEY_BYTES_MAX)
    check_text(alert.text, f"{where}.text", ALERT_BYTES_MAX)
    return decode_alert(alert)


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
        check_text(line, f"{where}.lines", TEXT_BYTES_MAX)


def _check_count(count: int, field: str) -> None:
    if count > COUNT_MAX:
        raise PeerError(f"{field}: {COUNT_MAX:,} at most.")
