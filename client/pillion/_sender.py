"""The sender thread: rows from the queue into numbered batches, kept in memory or in the spool.

It encodes, decides what goes to the spool file, and is the only one that writes there; it never
touches the network. What is not acked goes to the file when there is no connection, when no ack has
come for `ACK_WAIT_S`, and when memory is full; where the file cannot be written, memory fills up to
its bound, then the queue, and then `log()` refuses and counts.
"""

import os
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pillion._batch import Batch, Row, Update, WaitingRow
from pillion._counts import Counts, Refused
from pillion._file import Held
from pillion._messages import Finish, Start, finish_request, start_request
from pillion._notice import warn
from pillion._unacked import Unacked
from pillion.spool import BYTES_MAX_DEFAULT, Kind, Spool, spool_directory

if TYPE_CHECKING:
    from pillion._encoding import Encoder

FLUSH_INTERVAL_S = 0.1
"""How long a row may wait for company."""
ACK_WAIT_S = 5.0
"""How long a sidecar may say nothing before what it should have acked is spooled as well."""
SPOOL_RETRY_S = 10.0
"""How long after the spool could not be written it is tried again."""
FINISH_AWAY_S = 2.0
"""How long the end of a run waits for a sidecar that was there and is gone: perhaps it restarts."""
FINISH_SPOOL_S = 7.0
"""How long the end of a run waits for a sidecar that is there. Then what is left is spooled."""


class Sender:
    """One writer's sender. Public methods may be called from any thread and never raise."""

    def __init__(
        self,
        start: Start,
        rows: deque[Any],
        refused: Refused,
        held: Held,
        *,
        is_child: bool = False,
    ) -> None:
        self.start, self._rows, self._refused, self._held = start, rows, refused, held
        self._is_child = is_child
        self.encoder: Encoder | None = None
        self.unacked = Unacked(self._lost)
        self.is_away = is_child
        """Set by the link: there is no connection."""
        self.is_known = False
        """Set by the link: the sidecar knows of this writer."""
        self.finish: Finish | None = None
        self._finish_began_s = 0.0
        self.is_all_encoded = False
        self.ended = threading.Event()
        """Set once the run has been finished, at the sidecar or in the spool, or never will be."""
        self.spool_path = ""
        """Where the end was spooled, if it was."""
        self._lock = threading.Lock()
        """Held while rows are taken from the queue and counted as taken."""
        self._taken_rows = 0
        self._is_busy = False
        self._heard_s = 0.0
        self._spool_retry_s = 0.0
        self._has_warned_of_spool = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pillion-sender", daemon=True)

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def counts(self) -> Counts:
        """Count the rows."""
        with self._lock:
            known = self.unacked.counts()
            encoder = self.encoder
            refused = encoder.refused_row_count if encoder else 0
            waiting = sum(type(item) is not Update for item in list(self._rows))
            in_hand = self._taken_rows - refused - _rows_of(known)
        return replace(
            known,
            queued=waiting + in_hand,
            refused=refused + self._refused.rows,
            refused_values=self._refused.values + (encoder.refused_value_count if encoder else 0),
        )

    @property
    def is_idle(self) -> bool:
        """Whether all that was logged is acked."""
        return not (self._rows or self._is_busy or len(self.unacked))

    def wake(self) -> None:
        """Have it look now: what the link knows has changed, or somebody waits."""
        self._wake.set()

    def begin_finish(self, finish: Finish) -> None:
        """Encode what is left, and see to it that it ends in the spool if not at the sidecar."""
        self._finish_began_s = time.monotonic()
        self.finish = finish
        self._wake.set()

    def hear(self) -> None:
        """Note that the sidecar has said something."""
        self._heard_s = time.monotonic()

    def finish_message(self) -> Any:
        """Make the request that ends the writer."""
        assert self.finish is not None
        encoder = self.encoder
        return finish_request(
            self.start,
            self.finish,
            self.unacked.last_sequence,
            self._refused.rows + (encoder.refused_row_count if encoder else 0),
            self._refused.values + (encoder.refused_value_count if encoder else 0),
        )

    def end(self) -> None:
        """Set `ended`, and tell everybody who waits."""
        self.ended.set()
        self._wake.set()
        with self.unacked.changed:
            self.unacked.changed.notify_all()

    # The thread.

    def _run(self) -> None:
        from pillion._encoding import Encoder  # noqa: PLC0415 - loads protobuf

        self.encoder = Encoder(self.start.run_id, self.start.writer_id, self._refused, self._held)
        while not self.ended.is_set():
            is_finishing = self.finish is not None  # read before the rows, which come before it
            self._wake.clear()
            is_more = self._encode(self.encoder)
            if self._is_spool_due():
                self._to_spool()
            else:
                self.unacked.remove_spool_if_acked()
            if is_finishing and not self._rows:
                self._end_encoding()
                if self._is_end_due() and self._end_in_spool():
                    break
            if not is_more:
                self._wake.wait(FLUSH_INTERVAL_S)
        if not self.spool_path:
            self.unacked.remove_spool_if_acked()
        if self.unacked.spool is not None:
            self.unacked.spool.close()

    def _encode(self, encoder: "Encoder") -> bool:
        """Make batches of what is in the queue; tell whether there may be more at once."""
        if not self._rows:
            return False
        if not len(self.unacked):
            self.hear()  # from now on there is something to be acked
        self._is_busy = True
        try:
            items = self._take()
            batches = encoder.encode(items)
            while self._make_room() and (batch := next(batches, None)) is not None:
                self.unacked.append(batch)
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame
            # Never the trainer's trouble: what could not be encoded is counted.
            kept = _rows_of(self.unacked.counts())
            in_hand = self._taken_rows - encoder.refused_row_count - kept
            encoder.refused_row_count += in_hand
            warn("pillion: %d rows could not be encoded: %r", in_hand, error)
        with self.unacked.changed:
            self._is_busy = False
            self.unacked.changed.notify_all()
        return len(items) == ENCODE_ROWS_MAX

    def _take(self) -> list[Row | Update]:
        """Take rows from the queue, up to the first that waits for its device."""
        items: list[Row | Update] = []
        rows = self._rows
        with self._lock:
            while rows and len(items) < ENCODE_ROWS_MAX:
                item = rows[0]
                if type(item) is WaitingRow:
                    if not item.is_ready() and not self._is_overdue():
                        break
                    item = item.read(self._refused)
                rows.popleft()
                items.append(item)
            self._taken_rows += sum(type(item) is not Update for item in items)
        return items

    def _make_room(self) -> bool:
        """Wait until one more batch may be made; False if the run has ended."""
        while not self.unacked.has_room and not self.ended.is_set():
            if not self._to_spool():
                with self.unacked.changed:
                    self.unacked.changed.wait(FLUSH_INTERVAL_S)
        return not self.ended.is_set()

    def _end_encoding(self) -> None:
        if not self.is_all_encoded:
            with self.unacked.changed:
                self.is_all_encoded = True
                self.unacked.changed.notify_all()

    def _lost(self, sequence: int, row_count: int) -> Batch:
        assert self.encoder is not None
        return self.encoder.lost(sequence, sequence, row_count)

    # The spool.

    def _is_spool_due(self) -> bool:
        is_stalled = len(self.unacked) and time.monotonic() - self._heard_s > ACK_WAIT_S
        needs_start = not self.is_known and self.unacked.spool is None
        return bool(
            (self.is_away and (self.unacked.is_in_memory or needs_start))
            or (is_stalled and self.unacked.is_in_memory)
        )

    def _to_spool(self) -> bool:
        """Move what is in memory to the file; tell whether all of it is there now."""
        if time.monotonic() < self._spool_retry_s:
            return False
        try:
            if self.unacked.spool is None:
                self.unacked.spool = self._make_spool()
            self.unacked.to_spool()
        except Exception as error:  # noqa: BLE001 - telemetry never hurts training
            self._spool_retry_s = time.monotonic() + SPOOL_RETRY_S
            if not self._has_warned_of_spool:
                self._has_warned_of_spool = True
                warn(
                    "pillion: what run %s logs cannot be spooled (%s). It waits in memory until a "
                    "sidecar answers; what does not fit is refused and counted.",
                    *(self.start.run_id, error),
                )
            return False
        return True

    def _make_spool(self) -> Spool:
        bytes_max = int(os.environ.get("PILLION_SPOOL_BYTES_MAX") or BYTES_MAX_DEFAULT)
        start = start_request(self.start, "allow" if self.is_known else self.start.resume)
        spool = Spool.create(spool_directory(), self.start.run_id, self.start.writer_id, bytes_max)
        try:
            spool.append(Kind.START, start.SerializeToString())
            if self._is_child:
                spool.append(Kind.CHILD)
        except OSError:
            spool.remove()
            raise
        return spool

    def _is_overdue(self) -> bool:
        """Tell whether the end of the run waits no longer for a device."""
        return self.finish is not None and time.monotonic() - self._finish_began_s > FINISH_AWAY_S

    def _is_end_due(self) -> bool:
        """Tell whether the end waits no longer for a sidecar."""
        waited_s = time.monotonic() - self._finish_began_s
        if self.is_away:
            return waited_s > (FINISH_AWAY_S if self.is_known and not self._is_child else 0)
        return waited_s > FINISH_SPOOL_S

    def _end_in_spool(self) -> bool:
        """Leave the run to whoever takes the file over; tell whether that could be done."""
        self._spool_retry_s = 0.0  # it is now or never
        if not self._to_spool():
            return False
        spool = self.unacked.spool
        assert spool is not None
        try:
            spool.append(Kind.FINISH, self.finish_message().SerializeToString())
            spool.sync()
        except OSError:
            return False
        self.spool_path = str(spool.path)
        self.end()
        return True


ENCODE_ROWS_MAX = 8192
"""Rows encoded in one go, so that the first are on their way early."""


def _rows_of(kept: Counts) -> int:
    """Return the rows of all batches that were ever made."""
    return kept.unacked + kept.spooled + kept.acked + kept.dropped
