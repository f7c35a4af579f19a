"""The courier: hands journaled entries to one sink, run by run, at the sink's own pace.

It knows nothing of processes (`worker.py` does), and keeps nothing: how far a run has come is asked
of the sink. A failure concerns one run: it is tried again later, while the others go on. Only a
journal that is damaged beyond single entries concerns all: see `is_corrupt`.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.artifact_records import decode_artifact
from pillion_sidecar.errors import PillionError, SinkError
from pillion_sidecar.journal_damage import substitute
from pillion_sidecar.journal_reader import Entry, EntryKind, JournalReader
from pillion_sidecar.records import (
    Offset,
    Record,
    RunId,
    SummaryUpdate,
    decode_batch,
    decode_finish,
    decode_start,
    decode_update,
)
from pillion_sidecar.replay import replay
from pillion_sidecar.sinks import Sink, Trouble
from pillion_sidecar.store import Store

SLICE_BYTES_MAX = 4 * 1024 * 1024
"""How much of one run is handed over before another run has its turn."""
SLICE_ROWS_MAX = 10_000
"""More rows are handed over in several calls, or one would take W&B's SDK minutes."""
FLUSH_INTERVAL_S = 1.0
ERROR_CHARACTERS_MAX = 1000
"""Of an error that is reported; the sidecar reads lines of 64 KiB at most."""
RETRY_MIN_S, RETRY_MAX_S, RETRY_DOUBLINGS_MAX = 0.5, 60.0, 10

_FOREIGN = (
    "The cursor {} is not of this journal, whose entries of this run lie between {} and {}: the "
    "journal was replaced. "
    "Bring the former one back, or start with an empty data directory."
)
_MISSING = (
    "The journal no longer has the beginning of run {}, and the store has not: it was replaced. "
    "Bring the former one back."
)

_CODES_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

log = logging.getLogger(__name__)


def is_corrupt(error: Exception) -> bool:
    """Tell whether an error is that pages of the journal are damaged; a courier lets it through."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CODES_CORRUPT


@dataclass(slots=True)
class _Run:
    """How far one run has come here."""

    target: Offset
    """The last entry that was seen in the journal."""
    handed: Offset | None = None
    """The last entry that the sink was given; None: what it has confirmed is to be asked."""
    trouble: Trouble = field(default=Trouble())
    """What has failed last; an empty one: nothing."""
    failure_count: int = 0
    retry_at_s: float = 0.0
    reported: tuple[Offset, int, Trouble] | None = None
    replay: Iterator[Offset] | None = None
    """What is left to hand over from the store, before the journal goes on."""

    @property
    def has_more(self) -> bool:
        return self.handed is None or self.replay is not None or self.handed < self.target


class Courier:
    """Hands entries to a sink, run by run. One thread."""

    def __init__(
        self,
        reader: JournalReader,
        sink: Sink,
        *,
        store: Callable[[], Store] | None = None,
        beat: Callable[[], None] = lambda: None,
        destination: str | None = None,
    ) -> None:
        """Prepare it; nothing is handed over yet.

        Args:
            reader: The journal.
            sink: Who is given what is in there.
            store: Opens the store, for what the journal no longer has; None: `sink` is the store.
            beat: Called again and again, with nothing but one call of the sink in between.
            destination: Only runs that go to this W&B sink; None: all.
        """
        self._reader, self._sink, self._store, self._beat = reader, sink, store, beat
        self._destination = destination
        self._first_offset = reader.first_offset()
        self._runs: dict[RunId, _Run] = {}
        self._unfinished: set[RunId] = set()
        """Runs with entries that the sink was not given or has not confirmed."""
        self._damaged: list[Offset] = []
        """Entries that turned out to be damaged, as far as they were not reported."""
        self._seen = self._through = Offset(0)

    def look(self) -> None:
        """See what is new in the journal."""
        for run_id, last in self._reader.runs_behind(self._seen, self._destination):
            self._runs.setdefault(run_id, _Run(last)).target = last
            self._unfinished.add(run_id)
            self._seen = max(self._seen, last)

    def deliver(self) -> bool:
        """Hand over one slice of each run that has something; tell whether any had."""
        now_s = time.monotonic()
        any_had = False
        for run_id in list(self._unfinished):
            run = self._runs[run_id]
            if run.has_more and run.retry_at_s <= now_s and self._sink.takes(run_id):
                any_had = True
                self._deliver_slice(run_id, run)
        return any_had

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        """Have the sink forget a run that was deleted, unless it has come back meanwhile.

        Raises what the sink does, and is then to be called again.
        """
        run = self._runs.get(run_id)
        if run is None or run.target <= cursor:
            self._sink.delete(run_id, cursor)
            self._runs.pop(run_id, None)
            self._unfinished.discard(run_id)

    def flush(self) -> None:
        """Have the sink confirm what it can."""
        try:
            self._sink.flush()
        except SinkError as error:
            log.warning("sink could not flush", extra={"error": error})

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield what the sidecar has not been told yet."""
        while self._damaged:
            yield {"damaged": self._damaged.pop()}
        for run_id in list(self._unfinished):
            run = self._runs[run_id]
            report = self._report(run_id, run)
            position = report[0]
            if report != run.reported:
                run.reported = report
                offset, row_count, trouble = report
                yield {"run_id": run_id, "offset": offset, "row_count": row_count} | {
                    "error": trouble.sentence[:ERROR_CHARACTERS_MAX],
                    "reason": trouble.reason,
                }
            if position >= run.target and not run.trouble.sentence and not run.has_more:
                self._unfinished.discard(run_id)
        if not self._unfinished and self._through != self._seen:
            self._through = self._seen
            yield {"through": self._through}

    def _report(self, run_id: RunId, run: _Run) -> tuple[Offset, int, Trouble]:
        """Ask the sink how far it is; while it cannot tell, what it told last stands."""
        if run.handed is not None:
            try:
                trouble = self._trouble(run_id, run)
                return self._sink.position(run_id), self._sink.row_count(run_id), trouble
            except PillionError as failure:
                self._fail(run, failure)
        position, row_count = run.reported[:2] if run.reported else (Offset(0), 0)
        return position, row_count, run.trouble

    def _trouble(self, run_id: RunId, run: _Run) -> Trouble:
        return run.trouble if run.trouble.sentence else self._sink.trouble(run_id)

    @property
    def is_drained(self) -> bool:
        """Whether the sink has confirmed everything, but of runs that are in trouble."""
        return all(
            self._trouble(run_id, self._runs[run_id]).sentence for run_id in self._unfinished
        )

    @property
    def wait_s(self) -> float | None:
        """How long it may sleep unless woken; None: for as long as nothing comes."""
        if not self._unfinished:
            return None
        now_s = time.monotonic()
        retries = [self._runs[run_id].retry_at_s - now_s for run_id in self._unfinished]
        return min([FLUSH_INTERVAL_S, *(retry_s for retry_s in retries if retry_s > 0)])

    def _begin(self, run_id: RunId, run: _Run) -> None:
        """Ask the sink where to go on, and find out whether the journal still has what is next."""
        cursor = self._sink.position(run_id)
        if cursor > run.target or 0 < cursor < self._first_offset:
            raise SinkError(
                _FOREIGN.format(cursor, self._first_offset, run.target), "CURSOR_FOREIGN"
            )
        trimmed = self._trimmed(run_id)
        if cursor >= trimmed:
            run.handed = cursor
        elif self._store is None:
            raise SinkError(_MISSING.format(run_id), "HISTORY_MISSING")
        else:
            run.handed = self._first_offset
            run.replay = self._replay(run_id, trimmed, run.target)

    def _replay(self, run_id: RunId, trimmed: Offset, target: Offset) -> Iterator[Offset]:
        assert self._store is not None
        with closing(self._store()) as store:
            yield from replay(
                *(store, self._sink, run_id),
                begin=self._first_offset,
                trimmed=trimmed,
                target=target,
            )

    def _trimmed(self, run_id: RunId) -> Offset:
        run = self._reader.run(run_id)
        return run.trimmed_offset if run is not None else Offset(0)

    def _go_on(self, run_id: RunId, run: _Run) -> None:
        """Hand over the next slice, from the store or from the journal."""
        if run.handed is None:
            self._begin(run_id, run)
        assert run.handed is not None
        if not run.has_more:
            return
        if run.replay is not None:
            offset = next(run.replay, None)
            if offset is None:
                run.replay = None
            else:
                run.handed = offset
            return
        entries = self._reader.entries(run_id, run.handed, SLICE_BYTES_MAX)
        if self._trimmed(run_id) > run.handed:
            run.handed = None  # some of them were trimmed before they could be read
            return
        if not entries:
            run.target = run.handed  # the journal has lost its end
        self._damaged += [entry.offset for entry in entries if entry.payload is None]
        for offset in _hand_over(self._sink, run_id, entries, run.target):
            run.handed = offset
            self._beat()
            if not self._sink.takes(run_id):
                break

    def _deliver_slice(self, run_id: RunId, run: _Run) -> None:
        self._beat()
        try:
            self._go_on(run_id, run)
        except Exception as error:
            if is_corrupt(error):
                raise
            # Whatever it was, it concerns this run alone; the others go on.
            if isinstance(error, SinkError) and error.reason == "RUN_REOPENED":
                run.handed = run.replay = None
                return  # no failure: it gets the run from the start, at once
            if not isinstance(error, SinkError):
                log.exception("sink failed on a run", extra={"run_id": run_id})
            self._fail(run, error)
        else:
            run.failure_count, run.trouble = 0, Trouble()

    @staticmethod
    def _fail(run: _Run, error: Exception) -> None:
        """Have a run tried again later: what the sink has confirmed counts, the rest comes anew."""
        run.handed = run.replay = None
        run.failure_count += 1
        doublings = min(run.failure_count - 1, RETRY_DOUBLINGS_MAX)
        retry_s = min(RETRY_MIN_S * 2**doublings, RETRY_MAX_S)
        run.retry_at_s = time.monotonic() + random.uniform(0, retry_s)  # noqa: S311
        reason = error.reason if isinstance(error, SinkError) else ""
        run.trouble = Trouble(str(error) or type(error).__name__, reason)


def _hand_over(
    sink: Sink, run_id: RunId, entries: Sequence[Entry], target: Offset
) -> Iterator[Offset]:
    """Give a sink a run's entries; batches in a row as one slice. Yields what it has taken.

    An end behind which the run went on is none: some sinks would have to begin it anew for that.
    """
    records: list[Record] = []
    row_count, offset = 0, Offset(0)
    for entry in entries:
        # What was just read may be newer than the target.
        is_last = entry is entries[-1] and entry.offset >= target
        is_end = entry.kind is EntryKind.END and is_last
        is_alone = entry.kind is EntryKind.START or is_end
        if records and (is_alone or row_count + entry.row_count > SLICE_ROWS_MAX):
            sink.apply(run_id, offset, records)
            yield offset
            records, row_count = [], 0
        offset, payload = entry.offset, _payload(entry)
        if entry.kind is EntryKind.START:
            sink.start(offset, decode_start(payload))
            yield offset
        elif is_end:
            sink.finish(offset, decode_finish(payload))
            yield offset
        elif entry.kind is EntryKind.BATCH:
            records.extend(decode_batch(payload, entry.first_ordinal))
            row_count += entry.row_count
        elif entry.kind is EntryKind.UPDATE:
            records.append(decode_update(payload))
        elif entry.kind is EntryKind.ARTIFACT:
            artifact = decode_artifact(record_pb2.Artifact.FromString(payload))
            # Of one that was damaged in the journal no name is left.
            records.append(artifact if artifact.name else SummaryUpdate({}))
        else:
            records.append(SummaryUpdate(decode_finish(payload).summary))
    if records:
        sink.apply(run_id, offset, records)
        yield offset


def _payload(entry: Entry) -> bytes:
    """Return what the entry says; if that is damaged, what stands for it, and log it."""
    if entry.payload is not None:
        return entry.payload
    place = {"offset": entry.offset, "run_id": entry.run_id, "writer_id": entry.writer_id}
    log.error(
        "journal entry damaged",
        extra=place | {"sequence": entry.sequence, "row_count": entry.row_count},
    )
    return substitute(*(entry.run_id, entry.writer_id, entry.sequence), entry.kind, entry.row_count)
