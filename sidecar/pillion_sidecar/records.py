"""What trainers say, as the sidecar's own values: decoded from the journal, handed to sinks.

This is the one place that turns `record.proto` into values and back, so that nothing behind it sees
a protobuf message. Arrays are numpy's, in the type in which the trainer logged them.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

import numpy as np
import numpy.typing as npt

from pillion.v1 import record_pb2
from pillion.values import Value, from_key_values, to_key_values
from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.columns import Column, Logged, decode_column
from pillion_sidecar.environment import Environment as Environment  # noqa: PLC0414 - part of a start
from pillion_sidecar.environment import decode_environment, encode_environment

RunId = NewType("RunId", str)
WriterId = NewType("WriterId", str)
Offset = NewType("Offset", int)
"""A place in the journal; every entry has one, larger than all before it. 0: before the first."""


PROJECT_DEFAULT = "uncategorized"
"""Of runs that name none."""


class RunState(IntEnum):
    """How a run stands; of several writers' ends the largest is the run's."""

    RUNNING = record_pb2.RUN_STATE_RUNNING
    FINISHED = record_pb2.RUN_STATE_FINISHED
    STOPPED = record_pb2.RUN_STATE_STOPPED
    FAILED = record_pb2.RUN_STATE_FAILED
    CRASHED = record_pb2.RUN_STATE_CRASHED

    @property
    def proto_name(self) -> str:
        """Its name in the contract, which messages take where a number would do."""
        return f"RUN_STATE_{self.name}"


class TargetMode(IntEnum):
    """How a run is delivered to W&B; a larger one reaches less far."""

    ONLINE = record_pb2.WandbTarget.MODE_ONLINE
    OFFLINE = record_pb2.WandbTarget.MODE_OFFLINE
    DISABLED = record_pb2.WandbTarget.MODE_DISABLED


@dataclass(frozen=True, slots=True)
class WandbTarget:
    """Where a run goes at W&B."""

    mode: TargetMode = TargetMode.OFFLINE
    entity: str = ""
    """The team or user; empty: the key's default."""
    credential: str = ""
    """The name of the key; empty: the default one."""

    @property
    def sink(self) -> str:
        """The sink that delivers the run; empty: none."""
        if self.mode is TargetMode.DISABLED:
            return ""
        return f"wandb-{self.credential}" if self.credential else "wandb"


@dataclass(frozen=True, slots=True)
class RunStart:
    """A writer starts or joins a run."""

    run_id: RunId
    writer_id: WriterId
    project: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    notes: str
    config: Mapping[str, Value]
    environment: Environment
    time_unix_nano: int
    wandb: WandbTarget = WandbTarget()
    model: str = ""
    dataset: str = ""
    use_case: str = ""
    is_project_given: bool = True
    is_name_given: bool = True
    """Whether the writer asked for this project and this name. Not kept."""


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """A run is changed from outside its trainer, or by the sidecar; None for what stays."""

    run_id: RunId
    project: str | None = None
    name: str | None = None
    notes: str | None = None
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    config: Mapping[str, Value] = field(default_factory=dict)

    def tags(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return a run's tags after this."""
        left = (tag for tag in known if tag not in self.remove_tags)
        return tuple(dict.fromkeys([*left, *self.add_tags]))


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch that can be journaled, and what the journal has to know of it."""

    run_id: RunId
    writer_id: WriterId
    sequence: int
    payload: bytes
    """An encoded `Batch`."""
    row_count: int = 0
    first_sequence: int | None = None
    """Of a batch that stands for lost ones: the first of those."""
    keys: frozenset[str] = frozenset()
    """The metrics in its frames."""
    dropped_row_count: int = 0
    """Rows of the lost ones."""
    refused_row_count: int = 0
    """Rows that the writer could not keep so far, as it says."""
    refused_value_count: int = 0
    alerts: tuple["Alert", ...] = ()
    last_step: int | None = None
    """Of the last row with more in it than how the system does."""
    system_row_count: int = 0
    """Rows with nothing else in them; see `pillion.system`."""


@dataclass(frozen=True, slots=True)
class RunFinish:
    """A writer has ended."""

    run_id: RunId
    writer_id: WriterId
    state: RunState
    exit_code: int | None
    reason: str
    summary: Mapping[str, Value]
    time_unix_nano: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Consecutive rows with the same keys. All arrays are of shape (rows,)."""

    first_ordinal: int
    steps: npt.NDArray[np.int64]
    times_unix_nano: npt.NDArray[np.int64]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.steps)

    def rows(self) -> Iterator[tuple[int, int, int, dict[str, Logged]]]:
        """Yield (ordinal, step, time in ns, values as plain Python) row by row."""
        columns = [column.tolist() for column in self.columns.values()]
        keys = tuple(self.columns)
        axes = zip(self.steps.tolist(), self.times_unix_nano.tolist(), strict=True)
        for index, (step, time_unix_nano) in enumerate(axes):
            values = {key: column[index] for key, column in zip(keys, columns, strict=True)}
            yield self.first_ordinal + index, step, time_unix_nano, values


@dataclass(frozen=True, slots=True)
class ConfigUpdate:
    """Hyperparameters to merge at the top level."""

    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SummaryUpdate:
    """Summary values to merge at the top level; they stand against last logged values."""

    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class LostRange:
    """Batches that a writer had to give up."""

    first_sequence: int
    last_sequence: int
    row_count: int


class ConsoleStream(IntEnum):
    """Where a line was printed."""

    UNKNOWN = record_pb2.ConsoleLines.STREAM_UNSPECIFIED
    STDOUT = record_pb2.ConsoleLines.STREAM_STDOUT
    STDERR = record_pb2.ConsoleLines.STREAM_STDERR


@dataclass(frozen=True, slots=True)
class ConsoleLines:
    """Lines that the trainer printed, without their line ends."""

    stream: ConsoleStream
    time_unix_nano: int
    """When the first of them was seen."""
    lines: tuple[str, ...]


class Summarizing(IntEnum):
    """What a run's summary keeps of a metric."""

    MIN = record_pb2.MetricDefinition.SUMMARY_MIN
    MAX = record_pb2.MetricDefinition.SUMMARY_MAX
    MEAN = record_pb2.MetricDefinition.SUMMARY_MEAN
    LAST = record_pb2.MetricDefinition.SUMMARY_LAST
    FIRST = record_pb2.MetricDefinition.SUMMARY_FIRST
    NONE = record_pb2.MetricDefinition.SUMMARY_NONE


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """How a metric is to be read."""

    name: str
    """A trailing `*` stands for every name that begins so."""
    step_metric: str = ""
    """The metric that is its x-axis; empty: the step."""
    summaries: tuple[Summarizing, ...] = ()
    """What the summary keeps, under these names; nothing said: the last value as it is."""


class AlertLevel(IntEnum):
    """How much an alert matters."""

    INFO = record_pb2.Alert.LEVEL_INFO
    WARN = record_pb2.Alert.LEVEL_WARN
    ERROR = record_pb2.Alert.LEVEL_ERROR


@dataclass(frozen=True, slots=True)
class Alert:
    """A message for people."""

    title: str
    text: str
    level: AlertLevel
    time_unix_nano: int


@dataclass(frozen=True, slots=True)
class BlobChunk:
    """A piece of a file that a later frame refers to."""

    sha256: str
    """The digest of the whole file, in hexadecimal."""
    offset_bytes: int
    size_bytes: int
    """Length of the whole file."""
    data: bytes


Record = (
    Frame
    | ConfigUpdate
    | SummaryUpdate
    | LostRange
    | ConsoleLines
    | MetricDefinition
    | Alert
    | BlobChunk
    | RunUpdate
    | Artifact
    | ArtifactUse
)

STATES_ENDED = frozenset(RunState) - {RunState.RUNNING}


def decode_start(payload: bytes) -> RunStart:
    """Decode a journaled `RunStart`."""
    message = record_pb2.RunStart.FromString(payload)
    return RunStart(
        run_id=RunId(message.run_id),
        writer_id=WriterId(message.writer_id),
        project=message.project,
        name=message.name,
        group=message.group,
        job_type=message.job_type,
        tags=tuple(message.tags),
        notes=message.notes,
        config=from_key_values(message.config),
        environment=decode_environment(message.environment),
        time_unix_nano=message.time_unix_nano,
        wandb=decode_target(message.wandb),
        model=message.model,
        dataset=message.dataset,
        use_case=message.use_case,
    )


def encode_start(start: RunStart) -> bytes:
    """Encode a `RunStart` for the journal."""
    return record_pb2.RunStart(
        run_id=start.run_id,
        writer_id=start.writer_id,
        project=start.project,
        name=start.name,
        group=start.group,
        job_type=start.job_type,
        tags=start.tags,
        notes=start.notes,
        config=to_key_values(start.config),
        environment=encode_environment(start.environment),
        time_unix_nano=start.time_unix_nano,
        wandb=encode_target(start.wandb),
        model=start.model,
        dataset=start.dataset,
        use_case=start.use_case,
    ).SerializeToString(deterministic=True)


def decode_target(message: record_pb2.WandbTarget) -> WandbTarget:
    """Decode where a run goes at W&B."""
    mode = TargetMode(message.mode or record_pb2.WandbTarget.MODE_OFFLINE)
    return WandbTarget(mode, message.entity, message.credential)


def encode_target(target: WandbTarget) -> record_pb2.WandbTarget:
    """Encode where a run goes at W&B."""
    return record_pb2.WandbTarget(
        mode=target.mode.value, entity=target.entity, credential=target.credential
    )


def decode_finish(payload: bytes) -> RunFinish:
    """Decode a journaled `RunFinish`."""
    message = record_pb2.RunFinish.FromString(payload)
    return RunFinish(
        run_id=RunId(message.run_id),
        writer_id=WriterId(message.writer_id),
        state=RunState(message.state),
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        reason=message.reason,
        summary=from_key_values(message.summary),
        time_unix_nano=message.time_unix_nano,
    )


def encode_finish(finish: RunFinish) -> bytes:
    """Encode a `RunFinish` for the journal."""
    assert finish.state in STATES_ENDED
    return record_pb2.RunFinish(
        run_id=finish.run_id,
        writer_id=finish.writer_id,
        state=finish.state.value,
        exit_code=finish.exit_code,
        reason=finish.reason,
        summary=to_key_values(finish.summary),
        time_unix_nano=finish.time_unix_nano,
    ).SerializeToString(deterministic=True)


def decode_update(payload: bytes) -> RunUpdate:
    """Decode a journaled `RunUpdate`."""
    message = record_pb2.RunUpdate.FromString(payload)
    return RunUpdate(
        run_id=RunId(message.run_id),
        project=message.project if message.HasField("project") else None,
        name=message.name if message.HasField("name") else None,
        notes=message.notes if message.HasField("notes") else None,
        add_tags=tuple(message.add_tags),
        remove_tags=tuple(message.remove_tags),
        config=from_key_values(message.config),
    )


def encode_update(update: RunUpdate) -> bytes:
    """Encode a `RunUpdate` for the journal."""
    return record_pb2.RunUpdate(
        run_id=update.run_id,
        project=update.project,
        name=update.name,
        notes=update.notes,
        add_tags=update.add_tags,
        remove_tags=update.remove_tags,
        config=to_key_values(update.config),
    ).SerializeToString(deterministic=True)


def decode_alert(message: record_pb2.Alert) -> Alert:
    """Decode an alert."""
    known = {level.value: level for level in AlertLevel}
    level = known.get(message.level, AlertLevel.INFO)
    return Alert(message.title, message.text, level, message.time_unix_nano)


def encode_alert(alert: Alert) -> record_pb2.Alert:
    """Encode an alert."""
    return record_pb2.Alert(
        title=alert.title,
        text=alert.text,
        level=record_pb2.Alert.Level.Name(alert.level),
        time_unix_nano=alert.time_unix_nano,
    )


def encode_definition(definition: MetricDefinition) -> record_pb2.MetricDefinition:
    """Encode how a metric is to be read."""
    name_of = record_pb2.MetricDefinition.Summary.Name
    return record_pb2.MetricDefinition(
        name=definition.name,
        step_metric=definition.step_metric,
        summaries=[name_of(summary) for summary in definition.summaries],
    )


def decode_batch(payload: bytes, first_ordinal: int) -> list[Record]:
    """Decode a journaled `Batch` whose first row has this ordinal in its run."""
    batch = record_pb2.Batch.FromString(payload)
    records: list[Record] = []
    for message in batch.records:
        record = _decode_record(message, first_ordinal)
        if isinstance(record, Frame):
            first_ordinal += len(record)
        records.append(record)
    return records


def without_metrics(payload: bytes, taken: AbstractSet[str]) -> tuple[bytes, int, int]:
    """Leave all metrics but these out of an encoded `Batch`.

    Returns the batch, how many rows it lacks because nothing was left of them, and how many values
    the others lack. The same batch always becomes the same bytes.
    """
    batch = record_pb2.Batch.FromString(payload)
    records = list(batch.records)
    row_count = value_count = 0
    del batch.records[:]
    for record in records:
        if record.WhichOneof("kind") == "metric_frame":
            frame = record.metric_frame
            left = [column for column in frame.columns if column.key in taken]
            if not left:
                row_count += len(frame.steps)
                continue
            value_count += len(frame.steps) * (len(frame.columns) - len(left))
            del frame.columns[:]
            frame.columns.extend(left)
        batch.records.append(record)
    if not batch.records:  # an entry always says something
        batch.records.add().summary_update.SetInParent()
    return batch.SerializeToString(deterministic=True), row_count, value_count


def lost_batch(run_id: RunId, writer_id: WriterId, lost: LostRange) -> bytes:
    """Encode a `Batch` that stands for lost ones."""
    batch = record_pb2.Batch(run_id=run_id, writer_id=writer_id, sequence=lost.last_sequence)
    record = batch.records.add().lost_range
    record.first_sequence, record.last_sequence = lost.first_sequence, lost.last_sequence
    record.row_count = lost.row_count
    return batch.SerializeToString(deterministic=True)


def _decode_record(message: record_pb2.Record, first_ordinal: int) -> Record:
    match message.WhichOneof("kind"):
        case "metric_frame":
            frame = message.metric_frame
            return Frame(
                first_ordinal=first_ordinal,
                steps=np.array(frame.steps, np.int64),
                times_unix_nano=np.array(frame.times_unix_nano, np.int64),
                columns={column.key: decode_column(column) for column in frame.columns},
            )
        case "config_update":
            return ConfigUpdate(from_key_values(message.config_update.values))
        case "summary_update":
            return SummaryUpdate(from_key_values(message.summary_update.values))
        case "lost_range":
            lost = message.lost_range
            return LostRange(lost.first_sequence, lost.last_sequence, lost.row_count)
        case "console_lines":
            return _decode_console(message.console_lines)
        case "metric_definition":
            return _decode_definition(message.metric_definition)
        case "alert":
            return decode_alert(message.alert)
        case "blob_chunk":
            chunk = message.blob_chunk
            return BlobChunk(chunk.sha256.hex(), chunk.offset_bytes, chunk.size_bytes, chunk.data)
        case "artifact_use":
            use = message.artifact_use
            return ArtifactUse(use.artifact, use.time_unix_nano)
        case kind:
            raise AssertionError(f"a record of kind {kind} passed validation")


def _decode_console(message: record_pb2.ConsoleLines) -> ConsoleLines:
    known = {stream.value: stream for stream in ConsoleStream}
    return ConsoleLines(
        stream=known.get(message.stream, ConsoleStream.UNKNOWN),
        time_unix_nano=message.time_unix_nano,
        lines=tuple(message.lines),
    )


def _decode_definition(message: record_pb2.MetricDefinition) -> MetricDefinition:
    known = {summary.value: summary for summary in Summarizing}
    summaries = dict.fromkeys(known[each] for each in message.summaries if each in known)
    return MetricDefinition(message.name, message.step_metric, tuple(summaries))
