from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
    RUN_STATE_STOPPED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CRASHED: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_FINISHED: RunState
RUN_STATE_STOPPED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CRASHED: RunState

class AnyValue(_message.Message):
    __slots__ = ("string_value", "bool_value", "int_value", "double_value", "array_value", "kvlist_value", "bytes_value", "big_int_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    ARRAY_VALUE_FIELD_NUMBER: _ClassVar[int]
    KVLIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    BIG_INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    bool_value: bool
    int_value: int
    double_value: float
    array_value: ArrayValue
    kvlist_value: KeyValueList
    bytes_value: bytes
    big_int_value: str
    def __init__(self, string_value: _Optional[str] = ..., bool_value: bool = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., array_value: _Optional[_Union[ArrayValue, _Mapping]] = ..., kvlist_value: _Optional[_Union[KeyValueList, _Mapping]] = ..., bytes_value: _Optional[bytes] = ..., big_int_value: _Optional[str] = ...) -> None: ...

class ArrayValue(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[AnyValue]
    def __init__(self, values: _Optional[_Iterable[_Union[AnyValue, _Mapping]]] = ...) -> None: ...

class KeyValueList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[KeyValue]
    def __init__(self, values: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ...) -> None: ...

class KeyValue(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: AnyValue
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AnyValue, _Mapping]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("run_id", "writer_id", "sequence", "records", "refused_row_count", "refused_value_count")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VALUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    sequence: int
    records: _containers.RepeatedCompositeFieldContainer[Record]
    refused_row_count: int
    refused_value_count: int
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., sequence: _Optional[int] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ..., refused_row_count: _Optional[int] = ..., refused_value_count: _Optional[int] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("metric_frame", "config_update", "summary_update", "metric_definition", "text_value", "console_lines", "media", "alert", "system_sample", "lost_range")
    METRIC_FRAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_UPDATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_UPDATE_FIELD_NUMBER: _ClassVar[int]
    METRIC_DEFINITION_FIELD_NUMBER: _ClassVar[int]
    TEXT_VALUE_FIELD_NUMBER: _ClassVar[int]
    CONSOLE_LINES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    LOST_RANGE_FIELD_NUMBER: _ClassVar[int]
    metric_frame: MetricFrame
    config_update: ConfigUpdate
    summary_update: SummaryUpdate
    metric_definition: MetricDefinition
    text_value: TextValue
    console_lines: ConsoleLines
    media: Media
    alert: Alert
    system_sample: SystemSample
    lost_range: LostRange
    def __init__(self, metric_frame: _Optional[_Union[MetricFrame, _Mapping]] = ..., config_update: _Optional[_Union[ConfigUpdate, _Mapping]] = ..., summary_update: _Optional[_Union[SummaryUpdate, _Mapping]] = ..., metric_definition: _Optional[_Union[MetricDefinition, _Mapping]] = ..., text_value: _Optional[_Union[TextValue, _Mapping]] = ..., console_lines: _Optional[_Union[ConsoleLines, _Mapping]] = ..., media: _Optional[_Union[Media, _Mapping]] = ..., alert: _Optional[_Union[Alert, _Mapping]] = ..., system_sample: _Optional[_Union[SystemSample, _Mapping]] = ..., lost_range: _Optional[_Union[LostRange, _Mapping]] = ...) -> None: ...

class MetricFrame(_message.Message):
    __slots__ = ("steps", "times_unix_nano", "columns")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TIMES_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    times_unix_nano: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedCompositeFieldContainer[MetricColumn]
    def __init__(self, steps: _Optional[_Iterable[int]] = ..., times_unix_nano: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[_Union[MetricColumn, _Mapping]]] = ...) -> None: ...

class MetricColumn(_message.Message):
    __slots__ = ("key", "doubles", "int64s", "bools")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    BOOLS_FIELD_NUMBER: _ClassVar[int]
    key: str
    doubles: DoubleValues
    int64s: Int64Values
    bools: BoolValues
    def __init__(self, key: _Optional[str] = ..., doubles: _Optional[_Union[DoubleValues, _Mapping]] = ..., int64s: _Optional[_Union[Int64Values, _Mapping]] = ..., bools: _Optional[_Union[BoolValues, _Mapping]] = ...) -> None: ...

class DoubleValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Int64Values(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class BoolValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class ConfigUpdate(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: KeyValueList
    def __init__(self, values: _Optional[_Union[KeyValueList, _Mapping]] = ...) -> None: ...

class SummaryUpdate(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: KeyValueList
    def __init__(self, values: _Optional[_Union[KeyValueList, _Mapping]] = ...) -> None: ...

class MetricDefinition(_message.Message):
    __slots__ = ("name", "step_metric", "summaries")
    class Summary(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SUMMARY_UNSPECIFIED: _ClassVar[MetricDefinition.Summary]
        SUMMARY_MIN: _ClassVar[MetricDefinition.Summary]
        SUMMARY_MAX: _ClassVar[MetricDefinition.Summary]
        SUMMARY_MEAN: _ClassVar[MetricDefinition.Summary]
        SUMMARY_LAST: _ClassVar[MetricDefinition.Summary]
        SUMMARY_FIRST: _ClassVar[MetricDefinition.Summary]
        SUMMARY_NONE: _ClassVar[MetricDefinition.Summary]
    SUMMARY_UNSPECIFIED: MetricDefinition.Summary
    SUMMARY_MIN: MetricDefinition.Summary
    SUMMARY_MAX: MetricDefinition.Summary
    SUMMARY_MEAN: MetricDefinition.Summary
    SUMMARY_LAST: MetricDefinition.Summary
    SUMMARY_FIRST: MetricDefinition.Summary
    SUMMARY_NONE: MetricDefinition.Summary
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEP_METRIC_FIELD_NUMBER: _ClassVar[int]
    SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    step_metric: str
    summaries: _containers.RepeatedScalarFieldContainer[MetricDefinition.Summary]
    def __init__(self, name: _Optional[str] = ..., step_metric: _Optional[str] = ..., summaries: _Optional[_Iterable[_Union[MetricDefinition.Summary, str]]] = ...) -> None: ...

class TextValue(_message.Message):
    __slots__ = ("key", "step", "time_unix_nano", "text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    key: str
    step: int
    time_unix_nano: int
    text: str
    def __init__(self, key: _Optional[str] = ..., step: _Optional[int] = ..., time_unix_nano: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class ConsoleLines(_message.Message):
    __slots__ = ("stream", "time_unix_nano", "lines")
    class Stream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STREAM_UNSPECIFIED: _ClassVar[ConsoleLines.Stream]
        STREAM_STDOUT: _ClassVar[ConsoleLines.Stream]
        STREAM_STDERR: _ClassVar[ConsoleLines.Stream]
    STREAM_UNSPECIFIED: ConsoleLines.Stream
    STREAM_STDOUT: ConsoleLines.Stream
    STREAM_STDERR: ConsoleLines.Stream
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    stream: ConsoleLines.Stream
    time_unix_nano: int
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream: _Optional[_Union[ConsoleLines.Stream, str]] = ..., time_unix_nano: _Optional[int] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("key", "step", "time_unix_nano", "media_type", "sha256", "size_bytes", "attributes")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    key: str
    step: int
    time_unix_nano: int
    media_type: str
    sha256: bytes
    size_bytes: int
    attributes: KeyValueList
    def __init__(self, key: _Optional[str] = ..., step: _Optional[int] = ..., time_unix_nano: _Optional[int] = ..., media_type: _Optional[str] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., attributes: _Optional[_Union[KeyValueList, _Mapping]] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("title", "text", "level", "time_unix_nano")
    class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LEVEL_UNSPECIFIED: _ClassVar[Alert.Level]
        LEVEL_INFO: _ClassVar[Alert.Level]
        LEVEL_WARN: _ClassVar[Alert.Level]
        LEVEL_ERROR: _ClassVar[Alert.Level]
    LEVEL_UNSPECIFIED: Alert.Level
    LEVEL_INFO: Alert.Level
    LEVEL_WARN: Alert.Level
    LEVEL_ERROR: Alert.Level
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    title: str
    text: str
    level: Alert.Level
    time_unix_nano: int
    def __init__(self, title: _Optional[str] = ..., text: _Optional[str] = ..., level: _Optional[_Union[Alert.Level, str]] = ..., time_unix_nano: _Optional[int] = ...) -> None: ...

class SystemSample(_message.Message):
    __slots__ = ("time_unix_nano", "readings")
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    time_unix_nano: int
    readings: _containers.RepeatedCompositeFieldContainer[SystemReading]
    def __init__(self, time_unix_nano: _Optional[int] = ..., readings: _Optional[_Iterable[_Union[SystemReading, _Mapping]]] = ...) -> None: ...

class SystemReading(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: float
    def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class LostRange(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "row_count")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    row_count: int
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., row_count: _Optional[int] = ...) -> None: ...

class RunStart(_message.Message):
    __slots__ = ("run_id", "writer_id", "project", "name", "group", "job_type", "tags", "notes", "config", "environment", "time_unix_nano")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    JOB_TYPE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    project: str
    name: str
    group: str
    job_type: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    notes: str
    config: KeyValueList
    environment: Environment
    time_unix_nano: int
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., group: _Optional[str] = ..., job_type: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ..., config: _Optional[_Union[KeyValueList, _Mapping]] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., time_unix_nano: _Optional[int] = ...) -> None: ...

class Environment(_message.Message):
    __slots__ = ("host", "process", "program", "python_version", "platform", "client_version")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    host: str
    process: ProcessIdentity
    program: str
    python_version: str
    platform: str
    client_version: str
    def __init__(self, host: _Optional[str] = ..., process: _Optional[_Union[ProcessIdentity, _Mapping]] = ..., program: _Optional[str] = ..., python_version: _Optional[str] = ..., platform: _Optional[str] = ..., client_version: _Optional[str] = ...) -> None: ...

class ProcessIdentity(_message.Message):
    __slots__ = ("boot_id", "pid_namespace", "pid", "start_time_ticks")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    pid_namespace: int
    pid: int
    start_time_ticks: int
    def __init__(self, boot_id: _Optional[str] = ..., pid_namespace: _Optional[int] = ..., pid: _Optional[int] = ..., start_time_ticks: _Optional[int] = ...) -> None: ...

class RunFinish(_message.Message):
    __slots__ = ("run_id", "writer_id", "state", "exit_code", "reason", "summary", "time_unix_nano")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    state: RunState
    exit_code: int
    reason: str
    summary: KeyValueList
    time_unix_nano: int
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., exit_code: _Optional[int] = ..., reason: _Optional[str] = ..., summary: _Optional[_Union[KeyValueList, _Mapping]] = ..., time_unix_nano: _Optional[int] = ...) -> None: ...
