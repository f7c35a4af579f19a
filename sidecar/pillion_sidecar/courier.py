"""The courier: hands journaled entries to one sink, run by run, at the sink's own pace.

It knows nothing of processes (`worker.py` does), and keeps nothing: how far a run has come is asked
of the sink. A failure concerns one run: it is tried again later, while the others go on.
"""

import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.errors import PillionError, SinkError
from pillion_sidecar.journal_reader import Entry, EntryKind, JournalReader
from pillion_sidecar.records import (
    LostRange,
    Offset,
    Record,
    RunId,
    SummaryUpdate,
    decode_batch,
    decode_finish,
    decode_start,
)
from pillion_sidecar.sinks import Sink

SLICE_BYTES_MAX = 4 * 1024 * 1024
"""How much of one run is handed over before another run has its turn."""
FLUSH_INTERVAL_S = 1.0
ERROR_CHARACTERS_MAX = 1000
"""Of an error that is reported; the sidecar reads lines of 64 KiB at most."""
RETRY_MIN_S, RETRY_MAX_S, RETRY_DOUBLINGS_MAX = 0.5, 60.0, 10

_FOREIGN = (
    "The cursor {} is not of this journal, whose entries of this run lie between {} and {}: the "
    "journal was replaced. "
    "Bring the former one back, or start with an empty data directory."
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """How far one run has come here."""

    target: Offset
    """The last entry that was seen in the journal."""
    handed: Offset | None = None
    """The last entry that the sink was given; None: what it has confirmed is to be asked."""
    error: str = ""
    failure_count: int = 0
    retry_at_s: float = 0.0
    reported: tuple[Offset, int, str] | None = None

    @property
    def has_more(self) -> bool:
        return self.handed is None or self.handed < self.target


class Courier:
    """Hands entries to a sink, run by run; knows nothing of processes. One thread."""

    def __init__(self, reader: JournalReader, sink: Sink) -> None:
        self._reader, self._sink = reader, sink
        self._first_offset = reader.first_offset()
        self._runs: dict[RunId, _Run] = {}
        self._unfinished: set[RunId] = set()
        """Runs with entries that the sink was not given or has not confirmed."""
        self._seen = self._through = Offset(0)

    def look(self) -> None:
        """See what is new in the journal."""
        for run_id, last in self._reader.runs_behind(self._seen):
            self._runs.setdefault(run_id, _Run(last)).target = last
            self._unfinished.add(run_id)
            self._seen = max(self._seen, last)

    def deliver(self) -> bool:
        """Hand over one slice of each run that has something; tell whether any had."""
        now_s = time.monotonic()
        any_had = False
        for run_id in list(self._unfinished):
            run = self._runs[run_id]
            if run.has_more and run.retry_at_s <= now_s:
                any_had = True
                self._deliver_slice(run_id, run)
        return any_had

    def flush(self) -> None:
        """Have the sink confirm what it can."""
        try:
            self._sink.flush()
        except SinkError as error:
            log.warning("sink could not flush", extra={"error": error})

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield what the sidecar has not been told yet."""
        for run_id in list(self._unfinished):
            run = self._runs[run_id]
            report = self._report(run_id, run)
            position = report[0]
            if report != run.reported:
                run.reported = report
                offset, row_count, error = report
                yield {"run_id": run_id, "offset": offset, "row_count": row_count, "error": error}
            if position >= run.target and not run.error:
                self._unfinished.discard(run_id)
        if not self._unfinished and self._through != self._seen:
            self._through = self._seen
            yield {"through": self._through}

    def _report(self, run_id: RunId, run: _Run) -> tuple[Offset, int, str]:
        """Ask the sink how far it is; while it cannot tell, what it told last stands."""
        if run.handed is not None:
            try:
                return self._sink.position(run_id), self._sink.row_count(run_id), run.error
            except PillionError as error:
                run.handed, run.error = None, str(error)[:ERROR_CHARACTERS_MAX]
        position, row_count = run.reported[:2] if run.reported else (Offset(0), 0)
        return position, row_count, run.error

    @property
    def is_idle(self) -> bool:
        """Whether the sink has been given everything that it takes now."""
        now_s = time.monotonic()
        return not any(
            run.has_more and run.retry_at_s <= now_s
            for run in map(self._runs.__getitem__, self._unfinished)
        )

    @property
    def wait_s(self) -> float | None:
        """How long it may sleep unless woken; None: for as long as nothing comes."""
        if not self._unfinished:
            return None
        now_s = time.monotonic()
        retries = [self._runs[run_id].retry_at_s - now_s for run_id in self._unfinished]
        return min([FLUSH_INTERVAL_S, *(retry_s for retry_s in retries if retry_s > 0)])

    def _cursor(self, run_id: RunId, target: Offset) -> Offset:
        """Ask the sink where to go on."""
        cursor = self._sink.position(run_id)
        if cursor > target or 0 < cursor < self._first_offset:
            raise SinkError(_FOREIGN.format(cursor, self._first_offset, target), "CURSOR_FOREIGN")
        return cursor

    def _deliver_slice(self, run_id: RunId, run: _Run) -> None:
        try:
            if run.handed is None:
                run.handed = self._cursor(run_id, run.target)
            entries = self._reader.entries(run_id, run.handed, SLICE_BYTES_MAX)
            for offset in _hand_over(self._sink, run_id, entries, run.target):
                run.handed = offset
        except Exception as error:
            # Whatever it was, it concerns this run alone; the others go on. What the sink has
            # confirmed counts, the rest it gets again.
            run.handed = None
            if isinstance(error, SinkError) and error.reason == "RUN_REOPENED":
                return  # no failure: it gets the run from the start, at once
            if not isinstance(error, SinkError):
                log.exception("sink failed on a run", extra={"run_id": run_id})
            run.failure_count += 1
            doublings = min(run.failure_count - 1, RETRY_DOUBLINGS_MAX)
            retry_s = min(RETRY_MIN_S * 2**doublings, RETRY_MAX_S)
            run.retry_at_s = time.monotonic() + random.uniform(0, retry_s)  # noqa: S311
            run.error = (str(error) or type(error).__name__)[:ERROR_CHARACTERS_MAX]
        else:
            run.failure_count, run.error = 0, ""


def _hand_over(
    sink: Sink, run_id: RunId, entries: Sequence[Entry], target: Offset
) -> Iterator[Offset]:
    """Give a sink a run's entries; batches in a row as one slice. Yields what it has taken.

    An end behind which the run went on is none: some sinks would have to begin it anew for that.
    """
    records: list[Record] = []
    offset = Offset(0)
    for entry in entries:
        # What was just read may be newer than the target.
        is_last = entry is entries[-1] and entry.offset >= target
        is_end = entry.kind is EntryKind.END and is_last
        if entry.kind is EntryKind.START or is_end:
            if records:
                sink.apply(run_id, offset, records)
                yield offset
                records = []
            offset = entry.offset
            if entry.kind is EntryKind.START:
                sink.start(offset, decode_start(entry.payload or _substitute(entry)))
            else:
                sink.finish(offset, decode_finish(entry.payload or _substitute(entry)))
            yield offset
        else:
            offset = entry.offset
            if entry.payload is None:
                _report_damage(entry)
                records.append(LostRange(entry.sequence, entry.sequence, entry.row_count))
            elif entry.kind in (EntryKind.FINISH, EntryKind.END):
                records.append(SummaryUpdate(decode_finish(entry.payload).summary))
            else:
                records.extend(decode_batch(entry.payload, entry.first_ordinal))
    if records:
        sink.apply(run_id, offset, records)
        yield offset


def _substitute(entry: Entry) -> bytes:
    """Return what stands for a damaged start or end, so that the rows around it find their run."""
    _report_damage(entry)
    if entry.kind is EntryKind.START:
        return record_pb2.RunStart(
            run_id=entry.run_id,
            writer_id=entry.writer_id,
            project="uncategorized",
            name=entry.run_id,
            notes="How this run was started is damaged in the journal.",
        ).SerializeToString()
    return record_pb2.RunFinish(
        run_id=entry.run_id,
        writer_id=entry.writer_id,
        state=record_pb2.RUN_STATE_CRASHED,
        reason="How this run ended is damaged in the journal.",
    ).SerializeToString()


def _report_damage(entry: Entry) -> None:
    log.error(
        "journal entry %d is damaged: run %s, writer %s, batch %d, %d rows",
        *(entry.offset, entry.run_id, entry.writer_id, entry.sequence, entry.row_count),
    )
