"""A sink that keeps everything in memory: the reference for the contract, and a fake for tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pillion.values import Value
from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.columns import Logged
from pillion_sidecar.records import (
    Alert,
    BlobChunk,
    ConfigUpdate,
    ConsoleLines,
    Frame,
    LostRange,
    MetricDefinition,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    SummaryUpdate,
)
from pillion_sidecar.sinks import News, Trouble


@dataclass
class MemoryRun:
    """One run as the sink has it. A row is (ordinal, step, time in ns, values)."""

    start: RunStart
    tags: list[str]
    config: dict[str, Value]
    summary: dict[str, Value] = field(default_factory=dict)
    rows: list[tuple[int, int, int, dict[str, Logged]]] = field(default_factory=list)
    state: RunState = RunState.RUNNING
    finish: RunFinish | None = None
    lost_row_count: int = 0
    console: list[ConsoleLines] = field(default_factory=list)
    definitions: dict[str, MetricDefinition] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    chunks: list[BlobChunk] = field(default_factory=list)
    artifacts: list[Artifact | ArtifactUse] = field(default_factory=list)
    cursor: Offset = field(default=Offset(0))


class MemorySink:
    """See `Sink`. `runs` is open to look at."""

    def __init__(self) -> None:
        self.runs: dict[RunId, MemoryRun] = {}

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        run = None if anew else self.runs.get(start.run_id)
        if run is None:
            run = MemoryRun(start=start, tags=list(start.tags), config=dict(start.config))
            self.runs[start.run_id] = run
        else:
            run.tags += [tag for tag in start.tags if tag not in run.tags]
            run.config.update(start.config)
            run.state, run.finish = RunState.RUNNING, None
        run.cursor = offset

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        run = self.runs[run_id]
        if not all(isinstance(record, RunUpdate | Artifact) for record in records):
            run.state, run.finish = RunState.RUNNING, None
        for record in records:
            match record:
                case Frame():
                    run.rows.extend(record.rows())
                case ConfigUpdate():
                    run.config.update(record.values)
                case SummaryUpdate():
                    run.summary.update(record.values)
                case LostRange():
                    run.lost_row_count += record.row_count
                case ConsoleLines():
                    run.console.append(record)
                case MetricDefinition():
                    run.definitions[record.name] = record
                case Alert():
                    run.alerts.append(record)
                case BlobChunk():
                    run.chunks.append(record)
                case Artifact() | ArtifactUse():
                    run.artifacts.append(record)
                case RunUpdate():
                    run.tags = list(record.tags(run.tags))
                    run.config.update(record.config)
                    named = {"project": record.project, "name": record.name, "notes": record.notes}
                    news: dict[str, Any] = {
                        field: text for field, text in named.items() if text is not None
                    }
                    run.start = replace(run.start, **news)
        run.cursor = offset

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        run = self.runs[finish.run_id]
        run.summary.update(finish.summary)
        run.state, run.finish = finish.state, finish
        run.cursor = offset

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        if self.position(run_id) == cursor:
            self.runs.pop(run_id, None)

    def takes(self, run_id: RunId) -> bool:  # noqa: ARG002 - it always does
        return True

    def trouble(self, run_id: RunId) -> Trouble:  # noqa: ARG002 - what keeps it fails a call
        return Trouble()

    def news(self) -> Iterator[News]:
        yield from ()

    def position(self, run_id: RunId) -> Offset:
        run = self.runs.get(run_id)
        return run.cursor if run else Offset(0)

    def row_count(self, run_id: RunId) -> int:
        run = self.runs.get(run_id)
        return len(run.rows) if run else 0

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held."""
