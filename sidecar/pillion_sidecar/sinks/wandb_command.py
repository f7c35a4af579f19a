"""Runs of `pillion run` whose command may still say to which project they belong.

The run starts before its command does. The trainer in there may give a project as it joins, and at
W&B a run cannot change its own. So such a run is opened only when somebody has said
something that tells, or will not: then it is handed over once more, and begins with what is known.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import (
    PROJECT_DEFAULT,
    ConsoleLines,
    Record,
    RunId,
    RunStart,
    RunUpdate,
)

WAIT_S = 30.0
"""How long a run may have printed lines only before it is opened as it is."""


class Commands:
    """Knows which runs wait. One thread."""

    def __init__(self) -> None:
        self._waiting: dict[RunId, tuple[RunStart, float]] = {}
        self._settled: dict[RunId, RunStart] = {}

    def start(self, start: RunStart, *, is_open: bool) -> RunStart | None:
        """Return how a run is to begin; None if it waits. Raises SinkError once that is settled."""
        run_id = start.run_id
        if is_open:
            return start
        if (known := self._settled.get(run_id)) is not None:
            return known
        if (waiting := self._waiting.get(run_id)) is not None:
            self._settle(run_id, replace(waiting[0], project=start.project))
        environment = start.environment
        is_command = environment.is_of_command
        if start.project != PROJECT_DEFAULT or not is_command:
            return start
        self._waiting[run_id] = (start, time.monotonic())
        return None

    def waits(self, run_id: RunId, records: Sequence[Record]) -> bool:
        """Tell whether a run still waits, whatever it says. Raises SinkError once it does not."""
        if run_id not in self._waiting:
            return False
        start, _ = self._waiting[run_id]
        for record in records:
            match record:
                case RunUpdate() if record.project:
                    self._settle(run_id, replace(start, project=record.project))
                case RunUpdate() | ConsoleLines():
                    pass  # it comes again
                case _:
                    self._settle(run_id, start)
        return True

    def end(self, run_id: RunId) -> None:
        """Take it that a run has ended. Raises SinkError if it has waited until then."""
        if run_id in self._waiting:
            self._settle(run_id, self._waiting[run_id][0])

    def overdue(self) -> Iterator[tuple[RunId, SinkError]]:
        """Yield runs that have waited long enough, and what is to be raised of them."""
        now_s = time.monotonic()
        for run_id, (start, since_s) in list(self._waiting.items()):
            if now_s - since_s > WAIT_S:
                try:
                    self._settle(run_id, start)
                except SinkError as error:
                    yield run_id, error

    def _settle(self, run_id: RunId, start: RunStart) -> None:
        del self._waiting[run_id]
        self._settled[run_id] = start
        raise SinkError(
            f"It is known now where run {run_id} belongs; W&B is handed it over from its start.",
            reason="RUN_REOPENED",
        )
