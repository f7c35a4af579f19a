"""Waits until runs have ended and everything of them is delivered: `pillion wait`.

Asks the sidecar again and again; it looks at what is told, and decides what a wait has come to.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import AskError
from pillion_sidecar.safety import REASONS_STUCK, count_text, people_name

POLL_INTERVAL_S = 0.5
STUCK_S = 90.0
"""So long nothing may go on until somebody mends something: meanwhile all is tried once more."""

_Sink = TypeVar("_Sink", run_pb2.SinkStatus, run_pb2.SinkTotals)


@dataclass(frozen=True, slots=True)
class Target:
    """What is waited for."""

    run_ids: Sequence[str] = ()
    """Empty: all runs."""
    sink: str = ""
    """Empty: all sinks."""
    delivered_only: bool = False
    """Whether runs need not have ended."""


@dataclass(slots=True)
class Progress:
    """How far it has come."""

    row_count: int = 0
    """Journaled, times the sinks that are waited for."""
    lag_row_count: int = 0
    undelivered: dict[str, int] = field(default_factory=dict)
    """Runs of which something is not delivered yet, by sink."""
    running_run_count: int = 0
    lost_row_count: int = 0
    """Refused or dropped: these never come."""
    errors: list[str] = field(default_factory=list)
    """What keeps the sinks, each once."""
    stuck_count: int = 0
    """Of `undelivered`, those that are kept until somebody mends something."""
    is_stuck: bool = False
    """Whether nothing else is left, for so long that it is not waited for."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to wait for."""
        return not (self.running_run_count or any(self.undelivered.values()))

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {"is_done": self.is_done, "sentence": self.sentence, **asdict(self)}

    @property
    def sentence(self) -> str:
        """Say what is still missing, or that nothing is."""
        parts = []
        if self.running_run_count:
            verb = "has" if self.running_run_count == 1 else "have"
            parts.append(f"{count_text(self.running_run_count, 'run')} {verb} not ended")
        for sink, run_count in self.undelivered.items():
            if run_count:
                parts.append(
                    f"{people_name(sink)} lacks something of {count_text(run_count, 'run')}"
                )
        if self.lag_row_count:
            parts.append(f"{count_text(self.lag_row_count, 'row')} to deliver")
        text = "; ".join(parts) or "everything is delivered"
        if self.is_stuck:
            text += "; nothing of that comes until somebody mends what keeps it"
        if self.lost_row_count:
            text += f", but {count_text(self.lost_row_count, 'row')} were refused or dropped"
        return text[0].upper() + text[1:] + "."


def look(ask: Callable[[pb2.GetStatusRequest], pb2.GetStatusResponse], target: Target) -> Progress:
    """Ask how far it has come now."""
    progress = Progress()
    if not target.run_ids:
        response = ask(pb2.GetStatusRequest())
        totals = response.totals
        progress.row_count = totals.journaled_row_count
        progress.lost_row_count = totals.refused_row_count + totals.dropped_row_count
        progress.running_run_count = totals.running_run_count
        for total in _chosen(totals.sinks, target):
            _add(progress, total, total.undelivered_run_count, total.stuck_run_count)
    for run_id in target.run_ids:
        response = ask(pb2.GetStatusRequest(run_id=run_id))
        (run,) = response.runs
        progress.row_count += run.journaled_row_count
        progress.lost_row_count += run.refused_row_count + run.dropped_row_count
        progress.running_run_count += run.state == record_pb2.RUN_STATE_RUNNING
        for sink in _chosen(run.sinks, target):
            is_behind = sink.oldest_undelivered_age_s > 0
            is_stuck = is_behind and sink.last_error_reason in REASONS_STUCK
            _add(progress, sink, int(is_behind), int(is_stuck))
    progress.row_count *= max(1, len(progress.undelivered))
    if target.delivered_only:
        progress.running_run_count = 0
    return progress


def wait(
    ask: Callable[[pb2.GetStatusRequest], pb2.GetStatusResponse],
    target: Target,
    timeout_s: float | None,
) -> Iterator[Progress]:
    """Yield how far it has come, until it is done, is stuck for long, or the time is over."""
    moved_s = time.monotonic()
    deadline_s = moved_s + (math.inf if timeout_s is None else timeout_s)
    while True:
        progress = look(ask, target)
        now_s = time.monotonic()
        if progress.running_run_count or progress.stuck_count < sum(progress.undelivered.values()):
            moved_s = now_s
        progress.is_stuck = not progress.is_done and now_s - moved_s > STUCK_S
        yield progress
        left_s = deadline_s - time.monotonic()
        if progress.is_done or progress.is_stuck or left_s <= 0:
            return
        time.sleep(min(POLL_INTERVAL_S, left_s))


def _chosen(sinks: Sequence[_Sink], target: Target) -> list[_Sink]:
    found = [sink for sink in sinks if target.sink in {"", sink.sink}]
    if sinks and not found:
        names = " and ".join(sink.sink for sink in sinks)
        raise AskError(f"The sidecar does not deliver to {target.sink}, only to {names}.")
    return found


def _add(progress: Progress, sink: _Sink, undelivered: int, stuck: int) -> None:
    progress.stuck_count += stuck
    progress.undelivered[sink.sink] = progress.undelivered.get(sink.sink, 0) + undelivered
    progress.lag_row_count += sink.lag_row_count
    if sink.last_error:
        error = f"{people_name(sink.sink)}: {sink.last_error}"
        progress.errors = list(dict.fromkeys([*progress.errors, error]))
