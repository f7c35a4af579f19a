"""Which writers still live: by their process on this host, else by a lease.

A trainer that dies says nothing. Where its process can be seen from here (same boot, same pid
namespace) it is looked up once a second; elsewhere a writer counts as gone when it has had no
stream open and said nothing for `LEASE_S`. Only monotonic time is used. Why a process has gone
nobody here can see, but whether memory ran out in its control group meanwhile.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pillion.process import ProcessIdentity, is_alive, process_identity
from pillion_sidecar.environment import Gpu
from pillion_sidecar.memory_kills import MemoryKills
from pillion_sidecar.records import Environment, RunId, WriterId

LEASE_S = 60.0
"""How long a writer that cannot be seen may be silent."""
SILENCE_S = 2.0
"""After so long without a batch an open stream of a dead process counts as read."""
WRITER_METADATA = ("pillion-run-id", "pillion-writer-id")
"""By these a LogMetrics call may name its writer before the first batch."""


@dataclass(slots=True)
class _Writer:
    process: ProcessIdentity | None
    """Set if it can be seen from here."""
    heard_s: float
    stream_count: int = 0
    memory_kills: MemoryKills | None = None
    """Of its control group, since it was seen first; set with `process`."""
    gpus: tuple[Gpu, ...] = ()
    """That it may use."""
    is_launcher: bool = False
    """Whether it is a `pillion run`, which only runs the run's command."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream that keeps a writer alive; to be given back when it ends."""

    writer: _Writer


class Liveness:
    """Knows the writers that have not ended. Used from the event loop only."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._writers: dict[tuple[RunId, WriterId], _Writer] = {}
        self._here = process_identity(os.getpid())
        self._changed_s = monotonic()
        """When a writer came or went last."""

    def add(self, run_id: RunId, writer_id: WriterId, environment: Environment) -> None:
        """Begin to look after a writer, or go on to."""
        process = environment.process
        if process is not None and not self._is_visible(process):
            process = None
        writer = self._writers.setdefault((run_id, writer_id), _Writer(None, 0.0))
        if process is not None and process != writer.process:
            writer.memory_kills = MemoryKills(process.pid)
        writer.process, writer.heard_s = process, self._monotonic()
        writer.gpus, writer.is_launcher = environment.gpus, environment.is_of_command
        self._changed_s = writer.heard_s

    def known_in(self, metadata: Iterable[tuple[str, str | bytes]]) -> set[tuple[RunId, WriterId]]:
        """Return the writer that a call's metadata names, if it is known.

        A stream that says so (`WRITER_METADATA`) keeps its writer alive before it sends anything:
        loading a model may take longer than the lease.
        """
        named = dict(metadata)
        run_id, writer_id = (str(named.get(key, "")) for key in WRITER_METADATA)
        writer = (RunId(run_id), WriterId(writer_id))
        return {writer} & self._writers.keys()

    def stream_opened(self, run_id: RunId, writer_id: WriterId) -> OpenStream:
        """Note that a stream of this writer is open; one that had ended lives again."""
        self._changed_s = self._monotonic()
        writer = self._writers.setdefault((run_id, writer_id), _Writer(None, self._changed_s))
        writer.stream_count += 1
        return OpenStream(writer)

    def heard(self, stream: OpenStream) -> None:
        """Note that a batch came on this stream."""
        stream.writer.heard_s = self._monotonic()

    def stream_closed(self, stream: OpenStream) -> None:
        """Note that a stream has ended."""
        stream.writer.heard_s = self._monotonic()
        stream.writer.stream_count -= 1

    def knows(self, run_id: RunId, writer_id: WriterId) -> bool:
        """Tell whether this writer is looked after."""
        return (run_id, writer_id) in self._writers

    def is_live(self, run_id: RunId) -> bool:
        """Tell whether a run has a writer that has not ended."""
        return any(run_id == known for known, _ in self._writers)

    def visible(self) -> dict[RunId, list[tuple[ProcessIdentity, tuple[Gpu, ...]]]]:
        """Return the processes that log to each run and can be seen from here, and their GPUs."""
        found: dict[RunId, list[tuple[ProcessIdentity, tuple[Gpu, ...]]]] = {}
        for (run_id, _), writer in self._writers.items():
            if writer.process is not None:
                found.setdefault(run_id, []).append((writer.process, writer.gpus))
        return found

    def launchers(self, run_id: RunId) -> list[ProcessIdentity]:
        """Return the processes that can be seen from here and only run a command of the run."""
        return [
            writer.process
            for (known, _), writer in self._writers.items()
            if known == run_id and writer.is_launcher and writer.process is not None
        ]

    def remove(self, run_id: RunId, writer_id: WriterId) -> None:
        """Look after a writer no longer: it has ended."""
        self._writers.pop((run_id, writer_id), None)
        self._changed_s = self._monotonic()

    def idle_s(self) -> float:
        """Tell for how long there has been no writer; 0 while there is one."""
        return 0.0 if self._writers else self._monotonic() - self._changed_s

    def gone(self) -> list[tuple[RunId, WriterId, str]]:
        """Return the writers that are gone, each with the reason, for people.

        A dead process's stream is read to its end first. A child that it forked may hold the stream
        open for ever, so the end is also where nothing has come for `SILENCE_S`.
        """
        found = []
        alive = functools.cache(is_alive)  # many writers may be of one process
        now_s = self._monotonic()
        for (run_id, writer_id), writer in self._writers.items():
            if writer.process is not None:
                is_read = writer.stream_count == 0 or now_s - writer.heard_s > SILENCE_S
                if is_read and not alive(writer.process):
                    found.append((run_id, writer_id, _reason(writer)))
            elif writer.stream_count == 0 and now_s - writer.heard_s > LEASE_S:
                reason = f"Nothing was heard of it for {LEASE_S:.0f} s."
                found.append((run_id, writer_id, reason))
        return found

    def _is_visible(self, process: ProcessIdentity) -> bool:
        return (
            self._here is not None
            and process.boot_id == self._here.boot_id
            and process.pid_namespace == self._here.pid_namespace
        )


def _reason(writer: _Writer) -> str:
    assert writer.process is not None
    gone = f"Its process {writer.process.pid} vanished without finishing"
    if writer.memory_kills is not None and writer.memory_kills.have_risen():
        return f"{gone}; memory had run out in its control group."
    return f"{gone}."
