"""Deletes journaled entries that every sink has, a bounded slice at a time.

Works within transactions that `journal.py` makes and on its thread only. What a slice deletes and
where its run is trimmed then are one fact. The room that is freed is used again by what comes next.
"""

import sqlite3
from collections.abc import Mapping

from pillion_sidecar.records import Offset, RunId

SLICE_ENTRIES_MAX = 512
"""Per commit; as many as a commit appends at most, so that trimming keeps up."""
SLICE_BYTES_MAX = 4 * 1024 * 1024
"""Payloads per commit, and one more entry: what an append may have to wait for."""


class Trimmer:
    """Knows up to where entries may go, and has them go."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._points: dict[RunId, Offset] = {}

    @property
    def is_due(self) -> bool:
        """Whether there may be something to delete."""
        return bool(self._points)

    def aim(self, points: Mapping[RunId, Offset]) -> None:
        """Take it that these runs' entries up to these offsets are needed no more."""
        for run_id, offset in points.items():
            self._points[run_id] = max(offset, self._points.get(run_id, offset))

    def cut(self) -> None:
        """Delete one slice of one run."""
        while self._points:
            run_id, point = next(iter(self._points.items()))
            through = self._slice_end(run_id, point)
            if through is not None:
                offset, ordinal = through
                self._db.execute(
                    "DELETE FROM entries WHERE run_id = ? AND offset <= ?", (run_id, offset)
                )
                self._db.execute(
                    "UPDATE runs SET trimmed_offset = ?, trimmed_ordinal = ? WHERE run_id = ?",
                    (offset, ordinal, run_id),
                )
                return
            # Only now is it known that the slices before this one were committed.
            del self._points[run_id]

    def _slice_end(self, run_id: RunId, point: Offset) -> tuple[int, int] | None:
        """Return the last entry of the next slice, and the ordinal of the row behind it."""
        end: tuple[int, int] | None = None
        slice_bytes = 0
        rows = self._db.execute(
            "SELECT offset, first_ordinal + row_count, length(payload) FROM entries "
            "WHERE run_id = ? AND offset <= ? ORDER BY offset LIMIT ?",
            (run_id, point, SLICE_ENTRIES_MAX),
        )
        for offset, ordinal, payload_bytes in rows:
            end = offset, ordinal
            slice_bytes += payload_bytes
            if slice_bytes >= SLICE_BYTES_MAX:
                break
        rows.close()
        return end
