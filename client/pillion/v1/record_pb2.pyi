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
    __slots__ = ("metric_frame", "config_update", "summary_update", "metric_definition", "console_lines", "alert", "lost_range", "blob_chunk", "artifact_use")
    METRIC_FRAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_UPDATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_UPDATE_FIELD_NUMBER: _ClassVar[int]
    METRIC_DEFINITION_FIELD_NUMBER: _ClassVar[int]
    CONSOLE_LINES_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    LOST_RANGE_FIELD_NUMBER: _ClassVar[int]
    BLOB_CHUNK_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_USE_FIELD_NUMBER: _ClassVar[int]
    metric_frame: MetricFrame
    config_update: ConfigUpdate
    summary_update: SummaryUpdate
    metric_definition: MetricDefinition
    console_lines: ConsoleLines
    alert: Alert
    lost_range: LostRange
    blob_chunk: BlobChunk
    artifact_use: ArtifactUse
    def __init__(self, metric_frame: _Optional[_Union[MetricFrame, _Mapping]] = ..., config_update: _Optional[_Union[ConfigUpdate, _Mapping]] = ..., summary_update: _Optional[_Union[SummaryUpdate, _Mapping]] = ..., metric_definition: _Optional[_Union[MetricDefinition, _Mapping]] = ..., console_lines: _Optional[_Union[ConsoleLines, _Mapping]] = ..., alert: _Optional[_Union[Alert, _Mapping]] = ..., lost_range: _Optional[_Union[LostRange, _Mapping]] = ..., blob_chunk: _Optional[_Union[BlobChunk, _Mapping]] = ..., artifact_use: _Optional[_Union[ArtifactUse, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("key", "doubles", "int64s", "bools", "texts", "histograms", "media")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    BOOLS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAMS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    key: str
    doubles: DoubleValues
    int64s: Int64Values
    bools: BoolValues
    texts: TextValues
    histograms: HistogramValues
    media: MediaValues
    def __init__(self, key: _Optional[str] = ..., doubles: _Optional[_Union[DoubleValues, _Mapping]] = ..., int64s: _Optional[_Union[Int64Values, _Mapping]] = ..., bools: _Optional[_Union[BoolValues, _Mapping]] = ..., texts: _Optional[_Union[TextValues, _Mapping]] = ..., histograms: _Optional[_Union[HistogramValues, _Mapping]] = ..., media: _Optional[_Union[MediaValues, _Mapping]] = ...) -> None: ...

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

class TextValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class HistogramValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Histogram]
    def __init__(self, values: _Optional[_Iterable[_Union[Histogram, _Mapping]]] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("edges", "counts")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, edges: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[float]] = ...) -> None: ...

class MediaValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[MediaGroup]
    def __init__(self, values: _Optional[_Iterable[_Union[MediaGroup, _Mapping]]] = ...) -> None: ...

class MediaGroup(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Media]
    def __init__(self, items: _Optional[_Iterable[_Union[Media, _Mapping]]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("media_type", "sha256", "size_bytes", "attributes")
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    media_type: str
    sha256: bytes
    size_bytes: int
    attributes: KeyValueList
    def __init__(self, media_type: _Optional[str] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., attributes: _Optional[_Union[KeyValueList, _Mapping]] = ...) -> None: ...

class BlobChunk(_message.Message):
    __slots__ = ("sha256", "offset_bytes", "size_bytes", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    offset_bytes: int
    size_bytes: int
    data: bytes
    def __init__(self, sha256: _Optional[bytes] = ..., offset_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ArtifactUse(_message.Message):
    __slots__ = ("artifact", "time_unix_nano")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    artifact: str
    time_unix_nano: int
    def __init__(self, artifact: _Optional[str] = ..., time_unix_nano: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("run_id", "writer_id", "project", "name", "group", "job_type", "tags", "notes", "config", "environment", "time_unix_nano", "wandb", "model", "dataset", "use_case")
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
    WANDB_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    USE_CASE_FIELD_NUMBER: _ClassVar[int]
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
    wandb: WandbTarget
    model: str
    dataset: str
    use_case: str
    def __init__(self, run_id: _Optional[str] = ..., writer_id: _Optional[str] = ..., project: _Optional[str] = ..., name: _Optional[str] = ..., group: _Optional[str] = ..., job_type: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ..., config: _Optional[_Union[KeyValueList, _Mapping]] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., time_unix_nano: _Optional[int] = ..., wandb: _Optional[_Union[WandbTarget, _Mapping]] = ..., model: _Optional[str] = ..., dataset: _Optional[str] = ..., use_case: _Optional[str] = ...) -> None: ...

class WandbTarget(_message.Message):
    __slots__ = ("mode", "entity", "credential")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[WandbTarget.Mode]
        MODE_ONLINE: _ClassVar[WandbTarget.Mode]
        MODE_OFFLINE: _ClassVar[WandbTarget.Mode]
        MODE_DISABLED: _ClassVar[WandbTarget.Mode]
    MODE_UNSPECIFIED: WandbTarget.Mode
    MODE_ONLINE: WandbTarget.Mode
    MODE_OFFLINE: WandbTarget.Mode
    MODE_DISABLED: WandbTarget.Mode
    MODE_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    mode: WandbTarget.Mode
    entity: str
    credential: str
    def __init__(self, mode: _Optional[_Union[WandbTarget.Mode, str]] = ..., entity: _Optional[str] = ..., credential: _Optional[str] = ...) -> None: ...

class Environment(_message.Message):
    __slots__ = ("host", "process", "program", "python_version", "platform", "client_version", "arguments", "git", "packages", "gpus", "cpu_count", "memory_bytes")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    GIT_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    host: str
    process: ProcessIdentity
    program: str
    python_version: str
    platform: str
    client_version: str
    arguments: _containers.RepeatedScalarFieldContainer[str]
    git: GitState
    packages: _containers.RepeatedCompositeFieldContainer[Package]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    cpu_count: int
    memory_bytes: int
    def __init__(self, host: _Optional[str] = ..., process: _Optional[_Union[ProcessIdentity, _Mapping]] = ..., program: _Optional[str] = ..., python_version: _Optional[str] = ..., platform: _Optional[str] = ..., client_version: _Optional[str] = ..., arguments: _Optional[_Iterable[str]] = ..., git: _Optional[_Union[GitState, _Mapping]] = ..., packages: _Optional[_Iterable[_Union[Package, _Mapping]]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., cpu_count: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class GitState(_message.Message):
    __slots__ = ("commit", "branch", "remote_url")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    REMOTE_URL_FIELD_NUMBER: _ClassVar[int]
    commit: str
    branch: str
    remote_url: str
    def __init__(self, commit: _Optional[str] = ..., branch: _Optional[str] = ..., remote_url: _Optional[str] = ...) -> None: ...

class Package(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("name", "memory_bytes", "index", "uuid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    name: str
    memory_bytes: int
    index: int
    uuid: str
    def __init__(self, name: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., index: _Optional[int] = ..., uuid: _Optional[str] = ...) -> None: ...

class RunUpdate(_message.Message):
    __slots__ = ("run_id", "name", "notes", "add_tags", "remove_tags", "config", "project")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    ADD_TAGS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    notes: str
    add_tags: _containers.RepeatedScalarFieldContainer[str]
    remove_tags: _containers.RepeatedScalarFieldContainer[str]
    config: KeyValueList
    project: str
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., notes: _Optional[str] = ..., add_tags: _Optional[_Iterable[str]] = ..., remove_tags: _Optional[_Iterable[str]] = ..., config: _Optional[_Union[KeyValueList, _Mapping]] = ..., project: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("name", "type", "version", "aliases", "metadata", "files", "run_id", "time_unix_nano", "project", "description", "sha256", "registry_links", "file_count", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_LINKS_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    version: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    metadata: KeyValueList
    files: _containers.RepeatedCompositeFieldContainer[ArtifactFile]
    run_id: str
    time_unix_nano: int
    project: str
    description: str
    sha256: bytes
    registry_links: _containers.RepeatedScalarFieldContainer[str]
    file_count: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., version: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Union[KeyValueList, _Mapping]] = ..., files: _Optional[_Iterable[_Union[ArtifactFile, _Mapping]]] = ..., run_id: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., project: _Optional[str] = ..., description: _Optional[str] = ..., sha256: _Optional[bytes] = ..., registry_links: _Optional[_Iterable[str]] = ..., file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ArtifactFile(_message.Message):
    __slots__ = ("name", "sha256", "size_bytes", "reference_uri")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_URI_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: bytes
    size_bytes: int
    reference_uri: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., reference_uri: _Optional[str] = ...) -> None: ...

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
