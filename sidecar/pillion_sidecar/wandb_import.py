"""Reads runs that W&B's SDK has logged, from their `.wandb` files, to import them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pillion._batch import Row, Update
from pillion._counts import Refused
from pillion._definitions import Definitions
from pillion._histogram import Histogram
from pillion._media import Audio, Html, Image, Video
from pillion._row import read_row
from pillion._table import Table
from pillion.plain import Value, to_plain_dict
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import to_key_values
from pillion_sidecar.errors import DiskError
from pillion_sidecar.sinks.wandb_file import RecordReader, merge_items, put_items

SUFFIX = ".wandb"

_SUMMARIES = ("MIN", "MAX", "MEAN", "LAST", "FIRST", "NONE")
_LEVELS = {"WARN": "LEVEL_WARN", "ERROR": "LEVEL_ERROR"}
_STREAMS: Mapping[object, int] = {0: 2, 1: 1}
"""Ours by W&B's: standard error, standard output."""
_MEDIA: Mapping[str, Callable[..., Any]] = {
    "image-file": Image,
    "audio-file": Audio,
    "video-file": Video,
    "html-file": Html,
}
_ITS_OWN = frozenset(
    {"run", "header", "footer", "final", "files", "telemetry", "environment", "request", None}
)
"""Records that W&B keeps for itself, or that the run begins with."""
_LEFT_OUT = {
    "stats": "system samples",
    "artifact": "artifacts",
    "use_artifact": "artifacts that it used",
}


class WandbRun:
    """One `.wandb` file. See `Source`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._summary: dict[str, Any] = {}
        """What was set explicitly. What W&B makes of the rows has nested keys, even of one part."""
        self._definitions = Definitions()
        self._state: record_pb2.RunState = record_pb2.RUN_STATE_UNSPECIFIED
        self._exit_code = 0
        self._first_time_unix_nano = self._last_time_unix_nano = 0

    def start(self) -> pb2.StartRunRequest:
        records = RecordReader(self.path).read()
        kinds = (record.run for record in records if record.WhichOneof("record_type") == "run")
        run = next(kinds, None)
        if run is None:
            raise DiskError(f"{self.path}: no run has begun in it.")
        self._first_time_unix_nano = run.start_time.ToNanoseconds()
        self._last_time_unix_nano = self._first_time_unix_nano
        config: dict[str, Any] = {}
        merge_items(config, run.config)
        request = pb2.StartRunRequest(
            run_id=run.run_id,
            project=run.project,
            name=run.display_name,
            group=run.run_group,
            job_type=run.job_type,
            tags=run.tags,
            notes=run.notes,
            config=to_key_values(_config_of(config)),
            environment=record_pb2.Environment(host=run.host),
        )
        request.start_time.CopyFrom(run.start_time)
        return request

    def items(self) -> Iterator[Row | Update]:
        self.left_out.clear()
        self._last_time_unix_nano = self._first_time_unix_nano
        self._definitions = Definitions()
        try:
            for record in RecordReader(self.path).read():
                yield from self._items(record)
        except DiskError as error:
            self.left_out[f"the rest of the file ({str(error).rstrip('.')})"] += 1

    def finish(self) -> pb2.FinishRunRequest:
        finish = pb2.FinishRunRequest(exit_code=self._exit_code, state=self._state)
        if not self._state:
            finish.state = record_pb2.RUN_STATE_CRASHED
            finish.reason = "Its file says nothing of its end."
        finish.end_time.FromNanoseconds(self._last_time_unix_nano)
        finish.summary.CopyFrom(to_key_values(to_plain_dict(self._summary)))
        return finish

    def _items(self, record: Any) -> Iterator[Row | Update]:
        kind = record.WhichOneof("record_type")
        match kind:
            case "history":
                yield from self._row(record.history)
            case "config":
                changed: dict[str, Any] = {}
                merge_items(changed, record.config)
                if values := _config_of(changed):
                    yield Update("config_update", values)
            case "summary":
                explicit = [item for item in record.summary.update if item.key[:1] not in ("", "_")]
                put_items(self._summary, explicit)
            case "metric":
                yield from self._definition(record.metric)
            case "output" | "output_raw" | "output_logger":
                yield self._printed(getattr(record, kind))
            case "alert":
                yield self._alert(record.alert)
            case "exit":
                self._take_exit(record.exit)
            case _ if kind not in _ITS_OWN:
                self.left_out[_LEFT_OUT.get(kind, f"records of kind {kind}")] += 1

    def _row(self, history: Any) -> Iterator[Row]:
        values: dict[str, Any] = {}
        put_items(values, history.item)
        step = int(values.get("_step", history.step.num))
        seconds = values.get("_timestamp")
        if isinstance(seconds, int | float):
            self._last_time_unix_nano = round(seconds * 1e9)
        names = sorted(name for name in values if not name.startswith("_"))  # W&B's come at random
        refused = Refused()
        read = read_row({name: self._value(values[name]) for name in names}, refused)
        if refused.values:
            self.left_out["values that are no numbers, texts or known files"] += refused.values
        if read:
            yield Row(step, self._last_time_unix_nano, read)  # type: ignore[arg-type]

    def _value(self, value: Any) -> Any:
        """Return what `log` takes for a value as W&B writes it."""
        if not isinstance(value, dict):
            return value
        kind = str(value.get("_type", ""))
        if not kind:
            return {key: self._value(each) for key, each in value.items()}
        if kind == "histogram":
            return _histogram(value)
        if kind == "images/separated":
            names = value.get("filenames") or []
            captions = value.get("captions") or [None] * len(names)
            pairs = zip(names, captions, strict=False)
            return [self._file(Image, name, caption) for name, caption in pairs]
        if kind == "table-file":
            return self._table(str(value.get("path")))
        if kind in _MEDIA:
            return self._file(_MEDIA[kind], value.get("path"), value.get("caption"))
        return None

    def _file(self, make: Callable[..., Any], name: Any, caption: Any) -> Any:
        """Return a file of the run's folder; None if there is none."""
        path = self._path(str(name))
        return path and make(path, caption=caption)

    def _table(self, name: str) -> Table | None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if path := self._path(name):
                table = json.loads(path.read_text(encoding="utf-8"))
                return Table(columns=table["columns"], data=table["data"])
        return None

    def _path(self, name: str) -> Path | None:
        """Return where a file of the run is; None if it is not there, or elsewhere."""
        folder = (self.path.parent / "files").resolve()
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None

    def _printed(self, output: Any) -> Update:
        stream = _STREAMS.get(getattr(output, "output_type", None), 0)
        lines = output.line.removesuffix("\n").split("\n")
        fields = {"stream": stream, "time_unix_nano": self._last_time_unix_nano, "lines": lines}
        return Update("console_lines", fields)

    def _alert(self, alert: Any) -> Update:
        level = _LEVELS.get(alert.level, "LEVEL_INFO")
        fields = {"title": alert.title or "-", "text": alert.text, "level": level}
        return Update("alert", {**fields, "time_unix_nano": self._last_time_unix_nano})

    def _definition(self, metric: Any) -> Iterator[Update]:
        if metric.expanded_from_glob:
            return
        said = [f"SUMMARY_{name}" for name in _SUMMARIES if getattr(metric.summary, name.lower())]
        if metric.summary.best:
            said.append("SUMMARY_MAX" if metric.goal == metric.GOAL_MAXIMIZE else "SUMMARY_MIN")
        name = metric.glob_name or metric.name
        is_new = metric._control.overwrite  # noqa: SLF001 - a field that W&B calls so
        if name and (metric.step_metric or said or is_new):
            fields = self._definitions.add(name, metric.step_metric, said, overwrite=is_new)
            yield Update("metric_definition", fields)

    def _take_exit(self, record: Any) -> None:
        self._exit_code = record.exit_code
        is_well = record.exit_code == 0
        self._state = record_pb2.RUN_STATE_FINISHED if is_well else record_pb2.RUN_STATE_FAILED
        ended = self._first_time_unix_nano + record.runtime * 10**9
        self._last_time_unix_nano = max(self._last_time_unix_nano, ended)


def _config_of(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return a config without what W&B keeps there for itself."""
    return to_plain_dict({key: value for key, value in values.items() if key != "_wandb"})


def _histogram(value: Mapping[str, Any]) -> Histogram:
    edges = value.get("bins")
    packed = value.get("packedBins")
    if edges is None and isinstance(packed, dict):
        least, size, count = packed["min"], packed["size"], packed["count"]
        edges = [least + size * index for index in range(count + 1)]
    return Histogram(np_histogram=(value.get("values") or [], edges or []))
