"""Runs and series as the store returns them, made by hand; and a real store to lay some down in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pillion_sidecar.blobs import Blobs
from pillion_sidecar.records import (
    Environment,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Series, Store
from pillion_sidecar.stored_run import StoredRun


def stored_run(run_id: str, config: dict[str, Any] | None = None, **fields: Any) -> StoredRun:
    """Make a run that has ended after a second."""
    known: dict[str, Any] = {
        "run_id": RunId(run_id),
        "project": "demo",
        "name": run_id,
        "group": "",
        "job_type": "",
        "tags": (),
        "notes": "",
        "config": config or {},
        "summary": {},
        "environment": Environment(),
        "state": RunState.FINISHED,
        "reason": "",
        "exit_code": 0,
        "start_time_unix_nano": 0,
        "end_time_unix_nano": 10**9,
        "row_count": 0,
        "last_step": None,
        "lost_row_count": 0,
        "cursor": Offset(1),
    }
    return StoredRun(**known | fields)


def series_of(
    values: Sequence[float | int | bool],
    steps: Sequence[int] | None = None,
    times: Sequence[int] | None = None,
    ordinals: Sequence[int] | None = None,
) -> Series:
    """Make a series; by default its steps are 100, 110, 120 and so on."""
    counted = np.arange(len(values))
    return Series(
        counted if ordinals is None else np.array(ordinals, np.int64),
        100 + 10 * counted if steps is None else np.array(steps, np.int64),
        counted if times is None else np.array(times, np.int64),
        np.array(values),
    )


class Shelf:
    """A store and its writer."""

    def __init__(self, directory: Path, url: str = "") -> None:
        self.url = url or f"sqlite:///{directory}/store.db"
        self.sink = StoreSink(self.url, Blobs(directory / "blobs"))
        self.store = Store(self.url)
        self._offset = Offset(0)

    def start(self, run_id: str, time_unix_nano: int = 1, **changed: Any) -> None:
        """Keep a run."""
        fields: dict[str, Any] = {
            "project": "demo",
            "name": run_id,
            "group": "",
            "job_type": "",
            "tags": (),
            "notes": "",
            "config": {},
            "environment": Environment(),
        }
        start = RunStart(
            run_id=RunId(run_id),
            writer_id=WriterId("w"),
            time_unix_nano=time_unix_nano,
            **fields | changed,
        )
        self.sink.start(self._next(), start)

    def apply(self, run_id: str, *records: Record) -> None:
        """Keep records of a run."""
        self.sink.apply(RunId(run_id), self._next(), records)

    def log(self, run_id: str, first: int, **columns: Sequence[Any]) -> None:
        """Keep rows from an ordinal on; steps are ten times that, and so are times in seconds."""
        count = len(next(iter(columns.values())))
        axis = np.arange(first, first + count)
        values = {key: np.array(column) for key, column in columns.items()}
        self.apply(run_id, Frame(first, axis * 10, axis * 10**10, values))

    def finish(self, run_id: str, state: RunState, exit_code: int | None) -> None:
        """End a run."""
        finish = RunFinish(RunId(run_id), WriterId("w"), state, exit_code, "why", {"best": 1}, 9)
        self.sink.finish(self._next(), finish)

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()
        self.sink.close()

    def _next(self) -> Offset:
        self._offset = Offset(self._offset + 1)
        return self._offset


Metrics = Mapping[str, Sequence[float | int | bool]]
