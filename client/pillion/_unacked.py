"""Numbered batches that are not acked: the oldest in the spool file, the others in memory.

Owns the order, the figures, and the spool file once there is one. Of a batch in the file eight
bytes stay in memory: its size and its rows. Memory is bounded by `BYTES_MAX`, exactly, as long as
the sender asks for room before it makes a batch; the file by its cap.

The sender's thread appends and spools; the thread that sends reads; the one that hears acks lets
go. Nobody waits for the disk while holding the lock that `counts` takes.
"""

import threading
from array import array
from collections import deque
from collections.abc import Callable

from pillion._batch import Batch
from pillion._counts import Counts
from pillion.spool import Kind, Spool, SpoolFormatError

BYTES_MAX = 64 * 1024 * 1024
"""Encoded batches in memory. At the bound, and without a spool, nothing more is encoded."""
MESSAGE_BYTES_MAX = 1024 * 1024
"""What the sidecar takes in one message."""


class Unacked:
    """One writer's batches. `changed` is notified of every batch and every ack."""

    def __init__(self, lost: Callable[[int, int], Batch]) -> None:
        """Begin empty; `lost(sequence, row_count)` makes the batch that stands for a lost one."""
        self.changed = threading.Condition()
        self.spool: Spool | None = None
        self.first_sequence = 1
        """Of what is not acked; all before it is."""
        self._lost = lost
        self._memory: deque[Batch] = deque()
        self._memory_rows = self._memory_bytes = 0
        self._sizes, self._rows = array("I"), array("I")
        """Of the batches in the file; those before `_head` are acked."""
        self._head = self._offset = self._spooled_rows = self._spooled_bytes = 0
        """`_offset`: where in the file the first one that is not acked begins."""
        self._read_next = (0, 0)
        """The sequence that will be read next from the file, and where it begins."""
        self._replaced: dict[int, Batch] = {}
        self._acked_rows = self._acked_bytes = self._dropped_rows = 0

    def __len__(self) -> int:
        return len(self._sizes) - self._head + len(self._memory)

    @property
    def last_sequence(self) -> int:
        """Return the number of the last batch that was kept; 0 if none was."""
        return self.first_sequence + len(self) - 1

    @property
    def has_room(self) -> bool:
        """Whether memory takes one more batch, however large."""
        return self._memory_bytes + MESSAGE_BYTES_MAX <= BYTES_MAX

    @property
    def is_in_memory(self) -> bool:
        """Whether anything would die with the process."""
        return bool(self._memory)

    def counts(self) -> Counts:
        """Return what is known here: all but what is queued and refused."""
        with self.changed:
            return Counts(
                unacked=self._memory_rows,
                acked=self._acked_rows,
                spooled=self._spooled_rows,
                dropped=self._dropped_rows,
                unacked_bytes=self._memory_bytes,
                spooled_bytes=self._spooled_bytes,
                acked_bytes=self._acked_bytes,
            )

    def append(self, batch: Batch) -> None:
        """Keep a batch, in memory at first."""
        with self.changed:
            assert batch.sequence == self.last_sequence + 1
            self._memory.append(batch)
            self._memory_rows += batch.row_count
            self._memory_bytes += len(batch.message)
            self.changed.notify_all()

    def to_spool(self) -> None:
        """Move all that is in memory to the spool file. Raises OSError where that ends."""
        assert self.spool is not None
        while self._memory:
            batch = self._memory[0]
            offset = self.spool.size_bytes
            size_bytes = self.spool.append(Kind.BATCH, batch.message)
            with self.changed:
                if not self._memory or self._memory[0].sequence != batch.sequence:
                    continue  # acked in the meantime
                if self._head == len(self._sizes):
                    self._sizes, self._rows = array("I"), array("I")
                    self._head, self._offset, self._read_next = 0, offset, (0, 0)
                kept = self._forget_first_in_memory()
                if kept is not batch:  # refused in the meantime
                    self._replaced[kept.sequence] = kept
                self._sizes.append(size_bytes)
                self._rows.append(kept.row_count)
                self._spooled_rows += kept.row_count
                self._spooled_bytes += size_bytes

    def read(self, sequence: int) -> bytes | None:
        """Return the message of a batch; None if there is none of this number, or none any more.

        A batch that the spool does not give back is dropped: what is returned says so.
        """
        with self.changed:
            index = sequence - self.first_sequence
            spooled = len(self._sizes) - self._head
            if not 0 <= index < len(self):
                return None
            if index >= spooled:
                return self._memory[index - spooled].message
            if (batch := self._replaced.get(sequence)) is not None:
                return batch.message
            if self._read_next[0] != sequence:
                skipped = self._sizes[self._head : self._head + index]
                self._read_next = (sequence, self._offset + sum(skipped))
            offset = self._read_next[1]
            self._read_next = (sequence + 1, offset + self._sizes[self._head + index])
            spool = self.spool
        try:
            assert spool is not None
            return spool.read(offset).payload
        except (OSError, SpoolFormatError):
            return self.drop(sequence)

    def drop(self, sequence: int) -> bytes | None:
        """Give a batch up; return the message that stands for it, None if it is not here."""
        with self.changed:
            index = sequence - self.first_sequence
            if not 0 <= index < len(self):
                return None
            spooled = len(self._sizes) - self._head
            if index < spooled:
                row_count = self._rows[self._head + index]
                self._rows[self._head + index] = 0
                self._spooled_rows -= row_count
                batch = self._replaced[sequence] = self._lost(sequence, row_count)
            else:
                former = self._memory[index - spooled]
                row_count = former.row_count
                batch = self._memory[index - spooled] = self._lost(sequence, row_count)
                self._memory_rows -= row_count
                self._memory_bytes += len(batch.message) - len(former.message)
            self._dropped_rows += row_count
            return batch.message

    def ack(self, sequence: int) -> None:
        """Let go of all batches up to this one."""
        with self.changed:
            while self.first_sequence <= sequence and len(self):
                if self._head < len(self._sizes):
                    size_bytes, row_count = self._sizes[self._head], self._rows[self._head]
                    self._head += 1
                    self._offset += size_bytes
                    self._spooled_rows -= row_count
                    self._spooled_bytes -= size_bytes
                    self._replaced.pop(self.first_sequence, None)
                else:
                    batch = self._forget_first_in_memory()
                    size_bytes, row_count = len(batch.message), batch.row_count
                self._acked_rows += row_count
                self._acked_bytes += size_bytes
                self.first_sequence += 1
            self.changed.notify_all()

    def remove_spool_if_acked(self) -> None:
        """Delete the file if nothing in it is needed any more. The sender's thread only."""
        with self.changed:
            spool = self.spool
            if spool is None or self._head < len(self._sizes):
                return
            self.spool = None
        spool.remove()

    def _forget_first_in_memory(self) -> Batch:
        batch = self._memory.popleft()
        self._memory_rows -= batch.row_count
        self._memory_bytes -= len(batch.message)
        return batch
