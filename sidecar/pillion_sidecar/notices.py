"""What a run's trainers are to be told: the run's page at W&B, and that somebody asks them to stop.

Told on the run's open streams, with an ack or without one. Used from the event loop only.
"""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pillion_sidecar.records import RunId


@dataclass(frozen=True, slots=True)
class Notice:
    """What is known of one run."""

    url: str = ""
    stop_reason: str = ""
    """Who asks its trainers to stop, and why; empty: nobody does."""


NOTHING = Notice()


class Notices:
    """See the module."""

    def __init__(self) -> None:
        self._notices: dict[RunId, Notice] = {}
        self._advice: dict[RunId, str] = {}
        """Why we ourselves ask a run's trainers to stop."""
        self._streams: defaultdict[RunId, set[asyncio.Queue[Any]]] = defaultdict(set)

    def of(self, run_id: RunId) -> Notice:
        """Return what is known of a run."""
        notice = self._notices.get(run_id, NOTHING)
        if run_id in self._advice and not notice.stop_reason:
            return Notice(notice.url, self._advice[run_id])
        return notice

    def note(self, run_id: RunId, notice: Notice) -> None:
        """Tell a run's trainers from now on."""
        if self._notices.get(run_id, NOTHING) != notice:
            self._notices[run_id] = notice
            self._tell(run_id)

    def advise(self, run_id: RunId, reason: str) -> None:
        """Ask a run's trainers to stop, until it has ended; a run's first reason stands."""
        if run_id not in self._advice:
            self._advice[run_id] = reason
            self._tell(run_id)

    def forget(self, run_id: RunId) -> None:
        """Take it that a run has ended."""
        self._notices.pop(run_id, None)
        self._advice.pop(run_id, None)

    def join(self, run_id: RunId, stream: asyncio.Queue[Any]) -> None:
        """Have a stream find a run's id in its queue whenever there is something to tell."""
        self._streams[run_id].add(stream)
        if self.of(run_id) != NOTHING:
            with suppress(asyncio.QueueFull):
                stream.put_nowait(run_id)

    def leave(self, stream: asyncio.Queue[Any], run_ids: set[RunId]) -> None:
        """Take it that a stream of these runs has ended."""
        for run_id in run_ids:
            self._streams[run_id].discard(stream)
            if not self._streams[run_id]:
                del self._streams[run_id]

    def _tell(self, run_id: RunId) -> None:
        for stream in self._streams.get(run_id, ()):
            with suppress(asyncio.QueueFull):  # then there are acks to tell it with
                stream.put_nowait(run_id)
