"""The sink that looks for anomalies, and passes alerts on.

It keeps none of the data: of what it was handed only marks stay, so that nothing is told twice
(`anomaly_marks.py`). What it finds it tells the sidecar, as news, which journals it; as a run's
alert that comes back here, like every other alert, and goes to the webhook and the command.

The journal does not wait for it before it deletes entries: of a run that it has not seen the
beginning of, it is given the rows from the store.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pillion_sidecar.alert_gate import AlertGate
from pillion_sidecar.alert_messenger import Messenger
from pillion_sidecar.anomalies import Anomalies, Finding, is_of_trainer
from pillion_sidecar.anomaly_marks import Marks
from pillion_sidecar.anomaly_thresholds import Threshold
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunUpdate,
)
from pillion_sidecar.sinks import Found, Trouble

ALERT_AGE_MAX_S = 3600
"""Older alerts are passed on to nobody: they are from a spool file, or imported."""


@dataclass(slots=True)
class _Run:
    anomalies: Anomalies
    first_ordinal: int
    cursor: Offset
    heard_s: float
    """When its trainer's last row came here."""
    project: str = ""
    name: str = ""
    row_count: int = 0


class AnomalySink:
    """See `Sink`. As nobody reads data from it, the suite of all sinks has nothing to look at."""

    def __init__(
        self,
        marks_path: Path,
        *,
        thresholds: Sequence[Threshold] = (),
        stall_min_s: float = 900.0,
        messenger: Messenger | None = None,
        level_min: AlertLevel = AlertLevel.WARN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open it.

        Args:
            marks_path: What `make_marks` has made.
            thresholds: The user's own rules.
            stall_min_s: A run that is silent for less is not stalled.
            messenger: Takes alerts; None: nobody does.
            level_min: Alerts of less are not given to the messenger.
            monotonic: The clock by which a run is silent.
        """
        self._marks = Marks(marks_path)
        self._thresholds, self._stall_min_s = thresholds, stall_min_s
        self._messenger, self._level_min = messenger, level_min
        self._monotonic = monotonic
        self._gate, self._arrivals = AlertGate(), AlertGate()
        """By the alerts' own times, so that a restart lets the same ones pass, and by ours."""
        self._runs: dict[RunId, _Run] = {}
        self._found: list[Found] = []
        """What is marked, and is told once that is durable."""
        self._alerts: list[tuple[_Run, RunId, Alert]] = []
        """The same, for the messenger."""

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        if anew:
            self._runs.pop(start.run_id, None)
        is_new = start.run_id not in self._runs
        run = self._run(start.run_id)
        run.cursor = offset
        if is_new:  # of a run's first writer they count
            run.project, run.name = start.project, start.name

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        run = self._run(run_id)
        for record in records:
            match record:
                case Frame():
                    run.row_count += len(record)
                    if is_of_trainer(record):
                        run.heard_s = self._monotonic()
                    self._note(run_id, run, run.anomalies.take(record))
                case Alert():
                    self._pass_on(run_id, run, record)
                case RunUpdate():
                    run.project = record.project or run.project
                    run.name = record.name or run.name
        run.cursor = offset

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        self._marks.end(finish.run_id, offset)
        self._runs.pop(finish.run_id, None)

    def delete(self, run_id: RunId, cursor: Offset) -> None:  # noqa: ARG002 - only marks are kept
        self._marks.forget(run_id)
        self._runs.pop(run_id, None)

    def takes(self, run_id: RunId) -> bool:  # noqa: ARG002 - it always does
        return True

    def trouble(self, run_id: RunId) -> Trouble:  # noqa: ARG002 - what keeps it fails a call
        return Trouble()

    def news(self) -> Iterator[Found]:
        """Yield what was found, and have alerts passed on; nothing of it is told again."""
        self.flush()
        found, self._found = self._found, []
        yield from found

    def position(self, run_id: RunId) -> Offset:
        run = self._runs.get(run_id)
        return run.cursor if run else self._marks.cursor(run_id)

    def row_count(self, run_id: RunId) -> int:
        run = self._runs.get(run_id)
        return run.row_count if run else 0

    def flush(self) -> None:
        """Look which runs are stalled, and make the marks durable."""
        now_s = self._monotonic()
        for run_id, run in self._runs.items():
            self._note(run_id, run, run.anomalies.stalled(now_s - run.heard_s))
        self._marks.commit()
        alerts, self._alerts = self._alerts, []
        for run, run_id, alert in alerts:
            if self._messenger is not None:
                self._messenger.send(run_id, run.project, run.name, alert)

    def close(self) -> None:
        if self._messenger is not None:
            self._messenger.close()
        self._marks.close()

    def _run(self, run_id: RunId) -> _Run:
        if run_id not in self._runs:
            anomalies = Anomalies(self._thresholds, stall_min_s=self._stall_min_s)
            first, cursor = self._marks.first_ordinal(run_id), self._marks.cursor(run_id)
            self._runs[run_id] = _Run(anomalies, first, cursor, self._monotonic())
        return self._runs[run_id]

    def _note(self, run_id: RunId, run: _Run, findings: Sequence[Finding]) -> None:
        for finding in findings:
            what = f"{finding.rule} {finding.ordinal} {finding.metric}"
            if finding.ordinal >= run.first_ordinal and self._marks.mark(run_id, what):
                self._found.append(Found(run_id, finding))

    def _pass_on(self, run_id: RunId, run: _Run, alert: Alert) -> None:
        is_wanted = alert.level >= self._level_min and self._messenger is not None
        is_late = time.time_ns() - alert.time_unix_nano > ALERT_AGE_MAX_S * 10**9
        if is_wanted and not is_late and self._gate.admit(run_id, alert.time_unix_nano):
            is_told = self._marks.has_alert(run_id, alert)
            if not is_told and self._arrivals.admit(run_id, int(self._monotonic() * 1e9)):
                self._marks.mark_alert(run_id, alert)
                self._alerts.append((run, run_id, alert))
