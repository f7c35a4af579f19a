"""Takes over the spool files of writers that are gone, through the same checks as their RPCs.

A file whose lock can be taken has no owner any more. What is in it is journaled under the writer's
own sequence numbers, so that what is on disk already changes nothing; the file is deleted when all
of it is. A thread of its own reads record by record and waits for the journal; the event loop never
does. Looks into the sidecar's spool directory only.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pillion.spool import (
    SUFFIX_DAMAGED,
    End,
    Kind,
    Record,
    SpoolFormatError,
    SpoolReader,
    spool_files,
)
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import DiskError, LimitError, PeerError, StateError
from pillion_sidecar.journal import Journal
from pillion_sidecar.metrics import ADOPTED_FILES
from pillion_sidecar.records import CheckedBatch, RunFinish, RunId, RunStart, RunState, WriterId
from pillion_sidecar.staged_adoption import StagedAdoption
from pillion_sidecar.validation import check_finish, check_log, check_start, decode

SCAN_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 1.0
"""How often a full disk is tried again."""
IN_FLIGHT_MAX = 16
"""Batches that were handed to the journal and are not on disk yet."""

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class SpoolState:
    """How the spool directory stands; see `SpoolStatus` in `run.proto`."""

    directory: str
    file_count: int = 0
    size_bytes: int = 0
    last_error: str = ""


class Adoption:
    """Watches one spool directory. Its public methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        on_taken: Callable[[RunId, WriterId], Any],
        staged: StagedAdoption,
        complete: Callable[[RunStart], RunStart] = lambda start: start,
    ) -> None:
        """Make one.

        Args:
            directory: Where the files are; it need not exist.
            journal: Where they go.
            on_taken: Called in this thread with each writer that is taken over, at the beginning
                and at the end: nobody else has to look after it.
            staged: Takes the artifacts that lie in the same directory.
            complete: Puts into a start what its writer leaves to the sidecar.
        """
        self._directory, self._journal, self._on_taken = directory, journal, on_taken
        self._staged, self._complete = staged, complete
        self._stopping = threading.Event()
        self._state = SpoolState(str(directory))
        self._trouble = ""
        """What keeps all files from being taken."""
        self._refused: dict[Path, tuple[int, str]] = {}
        """Files that cannot be taken as they are: when they were written last, and why."""
        self._thread = threading.Thread(target=self._watch, name="adoption", daemon=True)
        self._is_taking = False

    @property
    def is_busy(self) -> bool:
        """Whether something is being taken."""
        return self._is_taking or self._staged.is_busy

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._staged.start()

    def stop(self) -> None:
        """End the threads; what is being taken is gone on with by the next sidecar."""
        self._stopping.set()
        self._staged.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def status(self) -> SpoolState:
        """Tell how the directory stood when it was looked at last."""
        reasons = [reason for _, reason in tuple(self._refused.values())]
        state = self._state
        return replace(
            state,
            file_count=state.file_count + self._staged.file_count,
            size_bytes=state.size_bytes + self._staged.size_bytes,
            last_error=self._trouble
            or next(iter(reasons), state.last_error)
            or self._staged.trouble,
        )

    # The rest runs in the thread.

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.scan()
            except (DiskError, _StoppedError):
                return
            except Exception as error:  # the thread's outermost frame
                log.exception("spool not looked at")
                self._trouble = f"The spool could not be looked at: {type(error).__name__}."
            self._stopping.wait(SCAN_INTERVAL_S)

    def scan(self) -> None:
        """Look once, and take what can be taken."""
        try:
            files = spool_files(self._directory)
        except OSError as error:
            self._note_trouble(f"{self._directory} cannot be read: {error.strerror}.")
            return
        self._note_trouble("")
        for path in self._refused.keys() - files:
            self._refused.pop(path)
        self._count()
        for path in files:
            try:
                self._adopt(path)
            except FileNotFoundError:
                continue  # its owner has got rid of it meanwhile
            except OSError as error:
                self._refuse(path, error.strerror or str(error))
            except (SpoolFormatError, PeerError, StateError) as error:
                self._refuse(path, str(error))
        self._count()

    def _adopt(self, path: Path) -> None:
        status = path.stat(follow_symlinks=False)
        if status.st_uid != os.geteuid():  # nor for root: nobody decides what is in our journal
            raise SpoolFormatError("it belongs to another user")
        if self._refused.get(path, (0, ""))[0] == status.st_mtime_ns:
            return  # it has not changed since
        reader = SpoolReader.adopt(path)
        if reader is None:
            return
        self._is_taking = True
        try:
            self._take(reader, status.st_mtime_ns)
        finally:
            self._is_taking = False
            reader.close()

    def _take(self, reader: SpoolReader, written_unix_nano: int) -> None:
        """Journal all of a file, then delete it, or put it aside if it is damaged."""
        records = reader.records()
        first = next(records, None)
        if first is not None:
            if first.kind is not Kind.START:
                raise SpoolFormatError("it does not begin with the start of a writer")
            writer = _Writer(self._journal, self._wait_for, self._complete, first)
            self._on_taken(writer.run_id, writer.writer_id)
            try:
                for record in records:
                    writer.take(record)
            except (SpoolFormatError, PeerError, StateError) as error:
                writer.end(written_unix_nano, f"The rest of its spool file was refused: {error}")
                raise
            damage = "Its spool file was damaged." if reader.end is End.DAMAGED else ""
            writer.end(written_unix_nano, damage)
            self._on_taken(writer.run_id, writer.writer_id)
            log.info("spool file taken", extra={"path": reader.path, "run_id": writer.run_id})
        if reader.end is End.DAMAGED:
            aside = reader.set_aside()
            log.error("spool file damaged", extra={"path": aside, "byte": reader.end_offset})
        else:
            reader.remove()
            ADOPTED_FILES.inc()

    def _wait_for(self, submit: Callable[[], Future[_Result]]) -> _Result:
        """Wait until a change is on disk; as long as there is no room for it, make it again."""
        while True:
            try:
                result = submit().result()
            except LimitError as error:
                self._note_trouble(str(error))
                if self._stopping.wait(RETRY_INTERVAL_S):
                    raise _StoppedError from error
            else:
                self._note_trouble("")
                if self._stopping.is_set():
                    raise _StoppedError
                return result

    def _count(self) -> None:
        files, sizes = spool_files(self._directory), []
        for path in files:
            with suppress(FileNotFoundError):  # its owner has got rid of it meanwhile
                sizes.append(path.stat(follow_symlinks=False).st_size)
        damaged = sorted(self._directory.glob(f"*{SUFFIX_DAMAGED}"))
        error = f"{damaged[0]} is damaged; what came before the damage is taken." if damaged else ""
        self._state = SpoolState(str(self._directory), len(sizes), sum(sizes), error)

    def _note_trouble(self, text: str) -> None:
        if text and text != self._trouble:
            log.warning("spool waits", extra={"error": text})
        self._trouble = text

    def _refuse(self, path: Path, reason: str) -> None:
        text = f"{path} is not taken: {reason.rstrip('.')}."
        known = self._refused.get(path)
        if known is None or known[1] != text:
            log.warning("spool file not taken", extra={"path": path, "error": reason})
        self._refused[path] = (path.stat(follow_symlinks=False).st_mtime_ns, text)


class _StoppedError(Exception):
    """The sidecar stops; what is left stays in the file."""


class _Writer:
    """A writer whose file is being taken."""

    def __init__(
        self,
        journal: Journal,
        wait_for: Callable[[Callable[[], Future[Any]]], Any],
        complete: Callable[[RunStart], RunStart],
        first: Record,
    ) -> None:
        request = decode(first.payload, pb2.StartRunRequest)
        self._journal, self._wait_for = journal, wait_for
        self._start = complete(check_start(request))
        self.run_id, self.writer_id = self._start.run_id, self._start.writer_id
        self._in_flight: deque[tuple[CheckedBatch, Future[int]]] = deque()
        self._finish: pb2.FinishRunRequest | None = None
        self._is_child = False
        standing = wait_for(lambda: journal.standing(self.run_id, self.writer_id))
        self._last_sequence = standing.last_sequence if standing else 0
        self._state = standing.state if standing else RunState.RUNNING
        if standing is None:
            wait_for(
                lambda: journal.start(
                    self._start,
                    may_resume=request.resume != pb2.RESUME_POLICY_NEVER,
                    must_resume=request.resume == pb2.RESUME_POLICY_MUST,
                )
            )

    def take(self, record: Record) -> None:
        """Take the next record."""
        match record.kind:
            case Kind.BATCH:
                for batch in self._batches(record.payload):
                    self._append(batch)
            case Kind.FINISH:
                self._finish = decode(record.payload, pb2.FinishRunRequest)
                if self._finish.last_sequence > self._last_sequence:
                    self._append(self._lost(self._finish.last_sequence))
            case Kind.CHILD:
                self._is_child = True

    def end(self, written_unix_nano: int, damage: str) -> None:
        """Wait until all is on disk, then end the writer as it said, or as is to be assumed."""
        while self._in_flight:
            with suppress(StateError) if damage else nullcontext():
                self._settle_first()
        refused_row_count = refused_value_count = 0
        if self._finish is not None:
            finish = replace(check_finish(self._finish), time_unix_nano=written_unix_nano)
            refused_row_count = self._finish.refused_row_count
            refused_value_count = self._finish.refused_value_count
        elif self._state is not RunState.RUNNING:
            return  # it has ended, and nothing of this was new
        else:
            is_done = self._is_child and not damage
            finish = RunFinish(
                run_id=self.run_id,
                writer_id=self.writer_id,
                state=RunState.FINISHED if is_done else RunState.CRASHED,
                exit_code=None,
                reason=damage or ("" if is_done else _VANISHED),
                summary={},
                time_unix_nano=written_unix_nano,
            )
        if self._state is finish.state:
            return
        if self._state is not RunState.RUNNING:  # it was taken for dead before its end was known
            self._wait_for(lambda: self._journal.start(self._start))
        self._wait_for(
            lambda: self._journal.finish(
                finish,
                last_sequence=None,
                refused_row_count=refused_row_count,
                refused_value_count=refused_value_count,
            )
        )

    def _batches(self, payload: bytes) -> Iterator[CheckedBatch]:
        """Yield what is to be journaled for a batch: nothing, if it is on disk already."""
        batch = decode(payload, pb2.LogMetricsRequest).batch
        if (batch.run_id, batch.writer_id) != (self.run_id, self.writer_id):
            raise SpoolFormatError("a batch in it is another writer's")
        if batch.sequence <= self._last_sequence:
            return
        try:
            checked = check_log(payload)
        except PeerError as error:  # the same end that it has in the client
            log.warning("batch refused", extra={"run_id": self.run_id, "error": error})
            rows = sum(len(record.metric_frame.steps) for record in batch.records)
            yield self._lost(batch.sequence, rows)
            return
        first_sequence = checked.first_sequence or checked.sequence
        if first_sequence > self._last_sequence + 1:  # what came before was another journal's
            yield self._lost(first_sequence - 1)
        yield checked

    def _lost(self, last_sequence: int, row_count: int = 0) -> CheckedBatch:
        """Return the batch that stands for those from the next one on that cannot be had."""
        lost = record_pb2.LostRange(
            first_sequence=self._last_sequence + 1,
            last_sequence=last_sequence,
            row_count=row_count,
        )
        batch = record_pb2.Batch(
            run_id=self.run_id,
            writer_id=self.writer_id,
            sequence=last_sequence,
            records=[record_pb2.Record(lost_range=lost)],
        )
        return check_log(pb2.LogMetricsRequest(batch=batch).SerializeToString())

    def _append(self, batch: CheckedBatch) -> None:
        while len(self._in_flight) >= IN_FLIGHT_MAX:
            self._settle_first()
        self._in_flight.append((batch, self._journal.append(batch)))
        self._last_sequence, self._state = batch.sequence, RunState.RUNNING

    def _settle_first(self) -> None:
        """Wait until the first batch is on disk."""
        attempts = iter([self._in_flight[0][1]])
        try:
            self._wait_for(lambda: next(attempts, None) or self._append_again())
        finally:
            self._in_flight.popleft()

    def _append_again(self) -> Future[int]:
        """Hand over all again: those behind one that had no room were refused for the gap."""
        batches = [batch for batch, _ in self._in_flight]
        self._in_flight = deque((batch, self._journal.append(batch)) for batch in batches)
        return self._in_flight[0][1]


_VANISHED = "Its process vanished without finishing; what it had spooled was taken over."
