"""Sinks: where journaled records are delivered to.

A sink lives in a worker process of its own (`supervisor.py` starts it, `worker.py` drives it) and
is called from one thread. It keeps a cursor per run, together with its data: what it has confirmed,
not what it was handed. After a restart delivery goes on behind that cursor, so whatever a sink has
not confirmed it gets again, from the same place and in the same order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pillion_sidecar.anomalies import Finding
from pillion_sidecar.records import Offset, Record, RunFinish, RunId, RunStart

__all__ = ["Found", "News", "Sink", "Trouble"]


@dataclass(frozen=True, slots=True)
class News:
    """What a destination says of a run."""

    run_id: RunId
    url: str
    """Its page."""
    should_stop: bool
    """Whether somebody asks there that its trainers stop."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule has found in a run."""

    run_id: RunId
    finding: Finding


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a run."""

    sentence: str = ""
    """For people; empty: nothing does."""
    reason: str = ""
    """For programs, as far as it has a name."""


class Sink(Protocol):
    """A destination. All sinks pass `tests/contract/test_sinks.py`.

    Every call may raise `SinkError`: nothing of that call counts, and it is repeated
    later with the same arguments. For one run, offsets only grow; each names the last journal entry
    that the call covers.
    """

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        """Open the run, join another writer to it, or open it again after its end.

        Of the first writer everything is taken; of later ones config (merged) and tags (added).
        With `anew` the run begins once more, in place of what is here: a replay follows, of calls
        with this same offset, until one brings the offset up to which all was replayed.
        """

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        """Take records in order; a frame's rows carry their ordinals.

        May come after `finish`: the run is then open again.
        """

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        """End the run: its last writer has gone."""

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        """Forget a run that was deleted, and was confirmed up to this cursor.

        Who keeps it for its users deletes it, unless its cursor is another one by now. What was
        passed on to somebody else, as to W&B, stays there.
        """

    def takes(self, run_id: RunId) -> bool:
        """Tell whether the run can be handed more now; if not, it is asked again a little later.

        Between two entries that are handed over it may cease to.
        """

    def trouble(self, run_id: RunId) -> Trouble:
        """Say what keeps the run though no call fails."""

    def news(self) -> Iterator[News | Found]:
        """Yield what the destination said of runs, or was found there, and was not told before."""

    def position(self, run_id: RunId) -> Offset:
        """Return the cursor: all entries of the run up to here are confirmed. 0 for unknown runs.

        It may fall back, to 0 if need be: after a SinkError it is read again, and entries behind it
        are handed over once more. After a restart it may be lower too.
        """

    def row_count(self, run_id: RunId) -> int:
        """Return how many rows of the run are confirmed here."""

    def flush(self) -> None:
        """Confirm what was handed over, as far as that goes without waiting for a network.

        Raises anything but SinkError if this process is of no more use and is to be replaced.
        """

    def close(self) -> None:
        """Let go of everything. Runs that have not ended can be gone on with later."""
