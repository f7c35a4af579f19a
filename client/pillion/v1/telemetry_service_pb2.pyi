from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pillion.v1 import record_pb2 as _record_pb2
from pillion.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResumePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESUME_POLICY_UNSPECIFIED: _ClassVar[ResumePolicy]
    RESUME_POLICY_ALLOW: _ClassVar[ResumePolicy]
    RESUME_POLICY_NEVER: _ClassVar[ResumePolicy]
    RESUME_POLICY_MUST: _ClassVar[ResumePolicy]

class Axis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AXIS_UNSPECIFIED: _ClassVar[Axis]
    AXIS_STEP: _ClassVar[Axis]
    AXIS_TIME: _ClassVar[Axis]
    AXIS_METRIC: _ClassVar[Axis]
RESUME_POLICY_UNSPECIFIED: ResumePolicy
RESUME_POLICY_ALLOW: ResumePolicy
RESUME_POLICY_NEVER: ResumePolicy
RESUME_POLICY_MUST: ResumePolicy
AXIS_UNSPECIFIED: Axis
AXIS_STEP: Axis
AXIS_TIME: Axis
AXIS_METRIC: Axis

class StartRunRequest(_message.Message):
    __slots__ = ("run_id", "writer_id", "project", "name", "group", "job_type", "tags", "notes", "config", "environment", "resume", "start_time", "model", "dataset", "use_case", "wandb_mode")
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
    RESUME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    USE_CASE_FIELD_NUMBER: _ClassVar[int]
    WANDB_MODE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    project: str
    name: str
    group: str
    job_type: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    notes: str
    config: _record_pb2.KeyValueList
    environment: _record_pb2.Environment
    resume: ResumePolicy
    start_time: _timestamp_pb2.Timestamp
    model: str
    dataset: str
    use_case: str
    wandb_mode: _record_pb2.WandbTarget.Mode
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., group: _Optional[str] = ..., job_type: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ..., config: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ..., environment: _Optional[_Union[_record_pb2.Environment, _Mapping]] = ..., resume: _Optional[_Union[ResumePolicy, str]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., dataset: _Optional[str] = ..., use_case: _Optional[str] = ..., wandb_mode: _Optional[_Union[_record_pb2.WandbTarget.Mode, str]] = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run_id", "writer_id", "journal_id", "last_sequence", "is_resumed", "next_ordinal", "project", "name", "system_interval_s")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IS_RESUMED_FIELD_NUMBER: _ClassVar[int]
    NEXT_ORDINAL_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    journal_id: str
    last_sequence: int
    is_resumed: bool
    next_ordinal: int
    project: str
    name: str
    system_interval_s: float
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., journal_id: _Optional[str] = ..., last_sequence: _Optional[int] = ..., is_resumed: bool = ..., next_ordinal: _Optional[int] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., system_interval_s: _Optional[float] = ...) -> None: ...

class LogMetricsRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: _record_pb2.Batch
    def __init__(self, batch: _Optional[_Union[_record_pb2.Batch, _Mapping]] = ...) -> None: ...

class LogMetricsResponse(_message.Message):
    __slots__ = ("run_id", "writer_id", "acked_sequence", "url", "should_stop", "stop_reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    SHOULD_STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    acked_sequence: int
    url: str
    should_stop: bool
    stop_reason: str
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., acked_sequence: _Optional[int] = ..., url: _Optional[str] = ..., should_stop: bool = ..., stop_reason: _Optional[str] = ...) -> None: ...

class LogArtifactRequest(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: _record_pb2.Artifact
    chunk: _record_pb2.BlobChunk
    def __init__(self, manifest: _Optional[_Union[_record_pb2.Artifact, _Mapping]] = ..., chunk: _Optional[_Union[_record_pb2.BlobChunk, _Mapping]] = ...) -> None: ...

class LogArtifactResponse(_message.Message):
    __slots__ = ("missing", "artifact")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    missing: MissingBlobs
    artifact: _record_pb2.Artifact
    def __init__(self, missing: _Optional[_Union[MissingBlobs, _Mapping]] = ..., artifact: _Optional[_Union[_record_pb2.Artifact, _Mapping]] = ...) -> None: ...

class MissingBlobs(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FinishRunRequest(_message.Message):
    __slots__ = ("run_id", "writer_id", "last_sequence", "exit_code", "state", "reason", "summary", "refused_row_count", "refused_value_count", "end_time")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VALUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    writer_id: str
    last_sequence: int
    exit_code: int
    state: _record_pb2.RunState
    reason: str
    summary: _record_pb2.KeyValueList
    refused_row_count: int
    refused_value_count: int
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., last_sequence: _Optional[int] = ..., exit_code: _Optional[int] = ..., state: _Optional[_Union[_record_pb2.RunState, str]] = ..., reason: _Optional[str] = ..., summary: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ..., refused_row_count: _Optional[int] = ..., refused_value_count: _Optional[int] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FinishRunResponse(_message.Message):
    __slots__ = ("state", "journaled_row_count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    JOURNALED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    state: _record_pb2.RunState
    journaled_row_count: int
    def __init__(self, state: _Optional[_Union[_record_pb2.RunState, str]] = ..., journaled_row_count: _Optional[int] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("run_ids", "metric", "directions", "group_by", "series", "axis", "axis_metric", "max_points", "differences_only")
    class DirectionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _run_pb2.Direction
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_run_pb2.Direction, str]] = ...) -> None: ...
    RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    AXIS_FIELD_NUMBER: _ClassVar[int]
    AXIS_METRIC_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_ONLY_FIELD_NUMBER: _ClassVar[int]
    run_ids: _containers.RepeatedScalarFieldContainer[str]
    metric: str
    directions: _containers.ScalarMap[str, _run_pb2.Direction]
    group_by: str
    series: _containers.RepeatedScalarFieldContainer[str]
    axis: Axis
    axis_metric: str
    max_points: int
    differences_only: bool
    def __init__(self, run_ids: _Optional[_Iterable[str]] = ..., metric: _Optional[str] = ..., directions: _Optional[_Mapping[str, _run_pb2.Direction]] = ..., group_by: _Optional[str] = ..., series: _Optional[_Iterable[str]] = ..., axis: _Optional[_Union[Axis, str]] = ..., axis_metric: _Optional[str] = ..., max_points: _Optional[int] = ..., differences_only: bool = ...) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("runs", "metrics", "metric", "best_run_id", "config_differences", "url", "config_difference_count", "environment_differences", "environment_difference_count", "costs", "throughput_metric", "groups", "aligned")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BEST_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DIFFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_DIFFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    THROUGHPUT_METRIC_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_run_pb2.Run]
    metrics: _containers.RepeatedCompositeFieldContainer[_run_pb2.MetricComparison]
    metric: str
    best_run_id: str
    config_differences: _containers.RepeatedCompositeFieldContainer[_run_pb2.ConfigDifference]
    url: str
    config_difference_count: int
    environment_differences: _containers.RepeatedCompositeFieldContainer[_run_pb2.ConfigDifference]
    environment_difference_count: int
    costs: _containers.RepeatedCompositeFieldContainer[_run_pb2.RunCost]
    throughput_metric: str
    groups: _containers.RepeatedCompositeFieldContainer[_run_pb2.RunGroup]
    aligned: _containers.RepeatedCompositeFieldContainer[_run_pb2.AlignedMetric]
    def __init__(self, runs: _Optional[_Iterable[_Union[_run_pb2.Run, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_run_pb2.MetricComparison, _Mapping]]] = ..., metric: _Optional[str] = ..., best_run_id: _Optional[str] = ..., config_differences: _Optional[_Iterable[_Union[_run_pb2.ConfigDifference, _Mapping]]] = ..., url: _Optional[str] = ..., config_difference_count: _Optional[int] = ..., environment_differences: _Optional[_Iterable[_Union[_run_pb2.ConfigDifference, _Mapping]]] = ..., environment_difference_count: _Optional[int] = ..., costs: _Optional[_Iterable[_Union[_run_pb2.RunCost, _Mapping]]] = ..., throughput_metric: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[_run_pb2.RunGroup, _Mapping]]] = ..., aligned: _Optional[_Iterable[_Union[_run_pb2.AlignedMetric, _Mapping]]] = ...) -> None: ...

class UpdateRunRequest(_message.Message):
    __slots__ = ("run_id", "name", "notes", "add_tags", "remove_tags", "config")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    ADD_TAGS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    notes: str
    add_tags: _containers.RepeatedScalarFieldContainer[str]
    remove_tags: _containers.RepeatedScalarFieldContainer[str]
    config: _record_pb2.KeyValueList
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., notes: _Optional[str] = ..., add_tags: _Optional[_Iterable[str]] = ..., remove_tags: _Optional[_Iterable[str]] = ..., config: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ...) -> None: ...

class UpdateRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class DeleteRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class DeleteRunResponse(_message.Message):
    __slots__ = ("is_complete",)
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    is_complete: bool
    def __init__(self, is_complete: bool = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("enabled", "project", "entity", "api_key", "mode", "base_url", "credential", "tags")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BASE_URL_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    project: str
    entity: str
    api_key: str
    mode: str
    base_url: str
    credential: str
    tags: TagList
    def __init__(self, enabled: bool = ..., project: _Optional[str] = ..., entity: _Optional[str] = ..., api_key: _Optional[str] = ..., mode: _Optional[str] = ..., base_url: _Optional[str] = ..., credential: _Optional[str] = ..., tags: _Optional[_Union[TagList, _Mapping]] = ...) -> None: ...

class TagList(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfigureResponse(_message.Message):
    __slots__ = ("wandb",)
    WANDB_FIELD_NUMBER: _ClassVar[int]
    wandb: _run_pb2.WandbStatus
    def __init__(self, wandb: _Optional[_Union[_run_pb2.WandbStatus, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("sentence", "version", "journal_id", "data_dir", "start_time", "runs", "wandb", "disk", "spool", "workers", "totals", "is_safe")
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WANDB_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    SPOOL_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    IS_SAFE_FIELD_NUMBER: _ClassVar[int]
    sentence: str
    version: str
    journal_id: str
    data_dir: str
    start_time: _timestamp_pb2.Timestamp
    runs: _containers.RepeatedCompositeFieldContainer[_run_pb2.RunStatus]
    wandb: _run_pb2.WandbStatus
    disk: _run_pb2.DiskStatus
    spool: _run_pb2.SpoolStatus
    workers: _containers.RepeatedCompositeFieldContainer[_run_pb2.WorkerStatus]
    totals: _run_pb2.StatusTotals
    is_safe: bool
    def __init__(self, sentence: _Optional[str] = ..., version: _Optional[str] = ..., journal_id: _Optional[str] = ..., data_dir: _Optional[str] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[_run_pb2.RunStatus, _Mapping]]] = ..., wandb: _Optional[_Union[_run_pb2.WandbStatus, _Mapping]] = ..., disk: _Optional[_Union[_run_pb2.DiskStatus, _Mapping]] = ..., spool: _Optional[_Union[_run_pb2.SpoolStatus, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[_run_pb2.WorkerStatus, _Mapping]]] = ..., totals: _Optional[_Union[_run_pb2.StatusTotals, _Mapping]] = ..., is_safe: bool = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("project", "page_size", "page_token", "filters", "order_by", "reference")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    project: str
    page_size: int
    page_token: str
    filters: _containers.RepeatedScalarFieldContainer[str]
    order_by: str
    reference: str
    def __init__(self, project: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filters: _Optional[_Iterable[str]] = ..., order_by: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_run_pb2.Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[_run_pb2.Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReadMetricsRequest(_message.Message):
    __slots__ = ("run_id", "keys", "min_step", "max_step", "max_points", "min_time", "max_time", "stride", "min_ordinal")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MIN_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    MIN_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_TIME_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    MIN_ORDINAL_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    min_step: int
    max_step: int
    max_points: int
    min_time: _timestamp_pb2.Timestamp
    max_time: _timestamp_pb2.Timestamp
    stride: int
    min_ordinal: int
    def __init__(self, run_id: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., min_step: _Optional[int] = ..., max_step: _Optional[int] = ..., max_points: _Optional[int] = ..., min_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., max_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., stride: _Optional[int] = ..., min_ordinal: _Optional[int] = ...) -> None: ...

class ReadMetricsResponse(_message.Message):
    __slots__ = ("ordinals", "frame")
    ORDINALS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    ordinals: _containers.RepeatedScalarFieldContainer[int]
    frame: _record_pb2.MetricFrame
    def __init__(self, ordinals: _Optional[_Iterable[int]] = ..., frame: _Optional[_Union[_record_pb2.MetricFrame, _Mapping]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("run_id", "console_lines")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CONSOLE_LINES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    console_lines: int
    def __init__(self, run_id: _Optional[str] = ..., console_lines: _Optional[int] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("run", "values", "row_count", "last_step", "console", "alerts")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    CONSOLE_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    values: _record_pb2.KeyValueList
    row_count: int
    last_step: int
    console: _containers.RepeatedCompositeFieldContainer[_record_pb2.ConsoleLines]
    alerts: _containers.RepeatedCompositeFieldContainer[_record_pb2.Alert]
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ..., values: _Optional[_Union[_record_pb2.KeyValueList, _Mapping]] = ..., row_count: _Optional[int] = ..., last_step: _Optional[int] = ..., console: _Optional[_Iterable[_Union[_record_pb2.ConsoleLines, _Mapping]]] = ..., alerts: _Optional[_Iterable[_Union[_record_pb2.Alert, _Mapping]]] = ...) -> None: ...

class ListArtifactsRequest(_message.Message):
    __slots__ = ("run_id", "page_size", "page_token", "project", "name", "version")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    page_size: int
    page_token: str
    project: str
    name: str
    version: str
    def __init__(self, run_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ListArtifactsResponse(_message.Message):
    __slots__ = ("artifacts", "next_page_token", "reader_run_ids")
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READER_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    artifacts: _containers.RepeatedCompositeFieldContainer[_record_pb2.Artifact]
    next_page_token: str
    reader_run_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, artifacts: _Optional[_Iterable[_Union[_record_pb2.Artifact, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., reader_run_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadArtifactRequest(_message.Message):
    __slots__ = ("artifact", "file", "project", "offset_bytes")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    artifact: str
    file: str
    project: str
    offset_bytes: int
    def __init__(self, artifact: _Optional[str] = ..., file: _Optional[str] = ..., project: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class ReadArtifactResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
