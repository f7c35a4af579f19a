"""What becomes of what the worker for anomalies has found: it is journaled as part of its run.

Each finding is one row, `anomaly/RULE` with how many there were of that rule, and one alert, by a
writer without a name: the sidecar. Rules that the operator has named also ask the run's trainers to
stop; whether they do is theirs. Used from the event loop only.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.anomalies import PREFIX, Finding
from pillion_sidecar.errors import PillionError
from pillion_sidecar.journal import Journal
from pillion_sidecar.notices import Notices
from pillion_sidecar.records import Alert, CheckedBatch, RunId, WriterId, encode_alert

_LOG_LEVELS = {"INFO": logging.INFO, "WARN": logging.WARNING, "ERROR": logging.ERROR}

log = logging.getLogger(__name__)


class Findings:
    """See the module."""

    def __init__(
        self,
        journal: Journal,
        notices: Notices,
        stopping: Collection[str],
        is_live: Callable[[RunId], bool],
    ) -> None:
        """Take what is found from now on.

        Args:
            journal: Keeps it.
            notices: Tells trainers.
            stopping: The rules that ask them to stop.
            is_live: Tells whether a run has a trainer.
        """
        self._journal, self._notices = journal, notices
        self._stopping, self._is_live = frozenset(stopping), is_live

    def take(self, run_id: RunId, fields: dict[str, Any]) -> None:
        """Take a `Finding`, as its fields."""
        finding = Finding(**fields)
        durable = asyncio.wrap_future(self._journal.note(finding_batch(run_id, finding)))

        def settle(done: asyncio.Future[None]) -> None:
            told = {"run_id": run_id, "level": finding.level.name, "title": _title(finding)}
            if done.cancelled():
                return
            if error := done.exception():
                kept = isinstance(error, PillionError)
                log.warning("a finding was not kept", extra=told | {"error": error if kept else ""})
                return
            log.log(_LOG_LEVELS[finding.level.name], "alert", extra=told)

        durable.add_done_callback(settle)
        if finding.rule in self._stopping and self._is_live(run_id):
            self._notices.advise(run_id, f"Rule {finding.rule}: {finding.sentence}")


def finding_batch(run_id: RunId, finding: Finding) -> CheckedBatch:
    """Return a finding as what a writer could have said."""
    key = PREFIX + finding.rule
    batch = record_pb2.Batch(run_id=run_id)
    frame = batch.records.add().metric_frame
    frame.steps.append(finding.step)
    frame.times_unix_nano.append(finding.time_unix_nano)
    frame.columns.add(key=key).int64s.values.append(finding.number)
    text = finding.sentence.removeprefix(f"{finding.metric}: ")  # the title has it
    alert = Alert(_title(finding), text, finding.level, _alert_time(finding))
    batch.records.add().alert.CopyFrom(encode_alert(alert))
    payload = batch.SerializeToString(deterministic=True)
    return CheckedBatch(run_id, WriterId(""), 0, payload, row_count=1, keys=frozenset({key}))


def _alert_time(finding: Finding) -> int:
    """Return when it showed: silence does long after the last row, whose time a stall bears."""
    return time.time_ns() if finding.rule == "stalled" else finding.time_unix_nano


def _title(finding: Finding) -> str:
    return f"{finding.rule} in {finding.metric}" if finding.metric else finding.rule
