from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pillion.v1 import record_pb2 as _record_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    DIRECTION_LOWER: _ClassVar[Direction]
    DIRECTION_HIGHER: _ClassVar[Direction]
DIRECTION_UNSPECIFIED: Direction
DIRECTION_LOWER: Direction
DIRECTION_HIGHER: Direction

class Run(_message.Message):
    __slots__ = ("run_id", "project", "name", "state", "reason", "exit_code", "group", "job_type", "tags", "notes", "config", "summary", "environment", "start_time", "end_time", "row_count", "last_step", "lost_row_count", "url", "model", "dataset", "use_case", "definitions", "alerts", "wandb")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    JOB_TYPE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    LOST_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    USE_CASE_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    WANDB_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    project: str
    name: str
    state: _record_pb2.RunState
    reason: str
    exit_code: int
    group: str
    job_type: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    notes: str
    config: _record_pb2.KeyValueList
    summary: _record_pb2.KeyValueList
    environment: _record_pb2.Environment
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    row_count: int
    last_step: int
    lost_row_count: int
    url: str
    model: str
    dataset: str
    use_case: str
    definitions: _containers.RepeatedCompositeFieldContainer[_record_pb2.MetricDefinition]
    alerts: _containers.RepeatedCompositeFieldContainer[_record_pb2.Alert]
    wandb: _record_pb2.WandbTarget
    def __init__(self, run_id: _Optional[str] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[_record_pb2.RunState, str]] = ..., reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., group: _Optional[str] = ..., job_type: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ..., config: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ..., summary: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ..., environment: _Optional[_Union[_record_pb2.Environment, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., row_count: _Optional[int] = ..., last_step: _Optional[int] = ..., lost_row_count: _Optional[int] = ..., url: _Optional[str] = ..., model: _Optional[str] = ..., dataset: _Optional[str] = ..., use_case: _Optional[str] = ..., definitions: _Optional[_Iterable[_Union[_record_pb2.MetricDefinition, _Mapping]]] = ..., alerts: _Optional[_Iterable[_Union[_record_pb2.Alert, _Mapping]]] = ..., wandb: _Optional[_Union[_record_pb2.WandbTarget, _Mapping]] = ...) -> None: ...

class MetricComparison(_message.Message):
    __slots__ = ("key", "direction", "statistics", "best_run_id", "group_figure", "groups", "group_differences")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    BEST_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIGURE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUP_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    key: str
    direction: Direction
    statistics: _containers.RepeatedCompositeFieldContainer[MetricStatistics]
    best_run_id: str
    group_figure: str
    groups: _containers.RepeatedCompositeFieldContainer[GroupStatistics]
    group_differences: _containers.RepeatedCompositeFieldContainer[GroupDifference]
    def __init__(self, key: _Optional[str] = ..., direction: _Optional[_Union[Direction, str]] = ..., statistics: _Optional[_Iterable[_Union[MetricStatistics, _Mapping]]] = ..., best_run_id: _Optional[str] = ..., group_figure: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[GroupStatistics, _Mapping]]] = ..., group_differences: _Optional[_Iterable[_Union[GroupDifference, _Mapping]]] = ...) -> None: ...

class MetricStatistics(_message.Message):
    __slots__ = ("run_id", "point_count", "nan_count", "first", "last", "min", "max", "mean", "best", "best_step")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    POINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    NAN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    BEST_STEP_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    point_count: int
    nan_count: int
    first: float
    last: float
    min: float
    max: float
    mean: float
    best: float
    best_step: int
    def __init__(self, run_id: _Optional[str] = ..., point_count: _Optional[int] = ..., nan_count: _Optional[int] = ..., first: _Optional[float] = ..., last: _Optional[float] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., mean: _Optional[float] = ..., best: _Optional[float] = ..., best_step: _Optional[int] = ...) -> None: ...

class RunGroup(_message.Message):
    __slots__ = ("name", "run_ids")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    run_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., run_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GroupStatistics(_message.Message):
    __slots__ = ("name", "run_count", "mean", "standard_deviation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    run_count: int
    mean: float
    standard_deviation: float
    def __init__(self, name: _Optional[str] = ..., run_count: _Optional[int] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ...) -> None: ...

class GroupDifference(_message.Message):
    __slots__ = ("name", "baseline", "difference", "low", "high", "p_value", "degrees_of_freedom", "remark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    DEGREES_OF_FREEDOM_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    baseline: str
    difference: float
    low: float
    high: float
    p_value: float
    degrees_of_freedom: float
    remark: str
    def __init__(self, name: _Optional[str] = ..., baseline: _Optional[str] = ..., difference: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., p_value: _Optional[float] = ..., degrees_of_freedom: _Optional[float] = ..., remark: _Optional[str] = ...) -> None: ...

class RunCost(_message.Message):
    __slots__ = ("run_id", "duration_s", "is_running", "gpu_count", "gpu_s", "rows_per_s", "throughput")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    IS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    GPU_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    THROUGHPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    duration_s: float
    is_running: bool
    gpu_count: int
    gpu_s: float
    rows_per_s: float
    throughput: float
    def __init__(self, run_id: _Optional[str] = ..., duration_s: _Optional[float] = ..., is_running: bool = ..., gpu_count: _Optional[int] = ..., gpu_s: _Optional[float] = ..., rows_per_s: _Optional[float] = ..., throughput: _Optional[float] = ...) -> None: ...

class AlignedMetric(_message.Message):
    __slots__ = ("key", "x", "series")
    KEY_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    key: str
    x: _containers.RepeatedScalarFieldContainer[float]
    series: _containers.RepeatedCompositeFieldContainer[AlignedSeries]
    def __init__(self, key: _Optional[str] = ..., x: _Optional[_Iterable[float]] = ..., series: _Optional[_Iterable[_Union[AlignedSeries, _Mapping]]] = ...) -> None: ...

class AlignedSeries(_message.Message):
    __slots__ = ("run_id", "values")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, run_id: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ConfigDifference(_message.Message):
    __slots__ = ("key", "settings")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    key: str
    settings: _containers.RepeatedCompositeFieldContainer[ConfigSetting]
    def __init__(self, key: _Optional[str] = ..., settings: _Optional[_Iterable[_Union[ConfigSetting, _Mapping]]] = ...) -> None: ...

class ConfigSetting(_message.Message):
    __slots__ = ("run_id", "value")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    value: _record_pb2.AnyValue
    def __init__(self, run_id: _Optional[str] = ..., value: _Optional[_Union[_record_pb2.AnyValue, _Mapping]] = ...) -> None: ...

class SinkStatus(_message.Message):
    __slots__ = ("sink", "delivered_row_count", "lag_row_count", "last_error", "oldest_undelivered_age_s", "last_error_reason")
    SINK_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAG_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNDELIVERED_AGE_S_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    sink: str
    delivered_row_count: int
    lag_row_count: int
    last_error: str
    oldest_undelivered_age_s: float
    last_error_reason: str
    def __init__(self, sink: _Optional[str] = ..., delivered_row_count: _Optional[int] = ..., lag_row_count: _Optional[int] = ..., last_error: _Optional[str] = ..., oldest_undelivered_age_s: _Optional[float] = ..., last_error_reason: _Optional[str] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run_id", "state", "journaled_row_count", "sinks", "refused_row_count", "refused_value_count", "dropped_row_count")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    JOURNALED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VALUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: _record_pb2.RunState
    journaled_row_count: int
    sinks: _containers.RepeatedCompositeFieldContainer[SinkStatus]
    refused_row_count: int
    refused_value_count: int
    dropped_row_count: int
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[_Union[_record_pb2.RunState, str]] = ..., journaled_row_count: _Optional[int] = ..., sinks: _Optional[_Iterable[_Union[SinkStatus, _Mapping]]] = ..., refused_row_count: _Optional[int] = ..., refused_value_count: _Optional[int] = ..., dropped_row_count: _Optional[int] = ...) -> None: ...

class StatusTotals(_message.Message):
    __slots__ = ("run_count", "running_run_count", "journaled_row_count", "refused_row_count", "refused_value_count", "dropped_row_count", "sinks")
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    JOURNALED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VALUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    run_count: int
    running_run_count: int
    journaled_row_count: int
    refused_row_count: int
    refused_value_count: int
    dropped_row_count: int
    sinks: _containers.RepeatedCompositeFieldContainer[SinkTotals]
    def __init__(self, run_count: _Optional[int] = ..., running_run_count: _Optional[int] = ..., journaled_row_count: _Optional[int] = ..., refused_row_count: _Optional[int] = ..., refused_value_count: _Optional[int] = ..., dropped_row_count: _Optional[int] = ..., sinks: _Optional[_Iterable[_Union[SinkTotals, _Mapping]]] = ...) -> None: ...

class SinkTotals(_message.Message):
    __slots__ = ("sink", "delivered_row_count", "lag_row_count", "undelivered_run_count", "failing_run_count", "oldest_undelivered_age_s", "last_error", "stuck_run_count")
    SINK_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAG_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILING_RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNDELIVERED_AGE_S_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    STUCK_RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    sink: str
    delivered_row_count: int
    lag_row_count: int
    undelivered_run_count: int
    failing_run_count: int
    oldest_undelivered_age_s: float
    last_error: str
    stuck_run_count: int
    def __init__(self, sink: _Optional[str] = ..., delivered_row_count: _Optional[int] = ..., lag_row_count: _Optional[int] = ..., undelivered_run_count: _Optional[int] = ..., failing_run_count: _Optional[int] = ..., oldest_undelivered_age_s: _Optional[float] = ..., last_error: _Optional[str] = ..., stuck_run_count: _Optional[int] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("sink", "pid", "restart_count", "last_error")
    SINK_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTART_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    sink: str
    pid: int
    restart_count: int
    last_error: str
    def __init__(self, sink: _Optional[str] = ..., pid: _Optional[int] = ..., restart_count: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class DiskStatus(_message.Message):
    __slots__ = ("free_bytes", "journal_bytes", "reusable_bytes", "reserve_bytes", "is_refusing")
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    REUSABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_REFUSING_FIELD_NUMBER: _ClassVar[int]
    free_bytes: int
    journal_bytes: int
    reusable_bytes: int
    reserve_bytes: int
    is_refusing: bool
    def __init__(self, free_bytes: _Optional[int] = ..., journal_bytes: _Optional[int] = ..., reusable_bytes: _Optional[int] = ..., reserve_bytes: _Optional[int] = ..., is_refusing: bool = ...) -> None: ...

class SpoolStatus(_message.Message):
    __slots__ = ("directory", "file_count", "size_bytes", "last_error")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    directory: str
    file_count: int
    size_bytes: int
    last_error: str
    def __init__(self, directory: _Optional[str] = ..., file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class WandbStatus(_message.Message):
    __slots__ = ("enabled", "available", "mode", "entity", "active_run_ids", "project", "tags", "problem", "credential", "credentials", "waiting_upload_count", "upload_problem")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    WAITING_UPLOAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    available: bool
    mode: str
    entity: str
    active_run_ids: _containers.RepeatedScalarFieldContainer[str]
    project: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    problem: str
    credential: str
    credentials: _containers.RepeatedCompositeFieldContainer[WandbCredential]
    waiting_upload_count: int
    upload_problem: str
    def __init__(self, enabled: bool = ..., available: bool = ..., mode: _Optional[str] = ..., entity: _Optional[str] = ..., active_run_ids: _Optional[_Iterable[str]] = ..., project: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ..., credential: _Optional[str] = ..., credentials: _Optional[_Iterable[_Union[WandbCredential, _Mapping]]] = ..., waiting_upload_count: _Optional[int] = ..., upload_problem: _Optional[str] = ...) -> None: ...

class WandbCredential(_message.Message):
    __slots__ = ("name", "base_url", "has_key", "problem")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_URL_FIELD_NUMBER: _ClassVar[int]
    HAS_KEY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: str
    base_url: str
    has_key: bool
    problem: str
    def __init__(self, name: _Optional[str] = ..., base_url: _Optional[str] = ..., has_key: bool = ..., problem: _Optional[str] = ...) -> None: ...
