"""Reading the journal: for the workers that deliver it, and for the status.

A reader has a connection of its own, in any process, that can never write. It reads in short
transactions, so that it never holds up a checkpoint, and never makes one.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

from pillion_sidecar.records import Offset, RunId, RunState, WriterId

BUSY_TIMEOUT_MS = 10_000
"""How long a statement waits for a lock of SQLite's before it fails."""


class EntryKind(IntEnum):
    """What an entry's payload is."""

    START = 1
    """A `RunStart`: a writer started the run, joined it or came back to it."""
    BATCH = 2
    """A `Batch`; of the writer without a name, it is the sidecar's own, as are findings."""
    FINISH = 3
    """A `RunFinish`: a writer ended, others live on."""
    END = 4
    """A `RunFinish`: the run's last writer ended; state and exit code are the run's."""
    UPDATE = 5
    """A `RunUpdate`: the run was changed from outside. If it had ended, its end follows again."""
    ARTIFACT = 6
    """An `Artifact` that the run has made. As of an update, an end may follow again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `payload` is None if what is on disk is not what was written."""

    offset: Offset
    run_id: RunId
    writer_id: WriterId
    sequence: int
    kind: EntryKind
    first_ordinal: int
    row_count: int
    payload: bytes | None


class JournaledRun(NamedTuple):
    """A run as the journal knows it: every row it ever took, trimmed or not."""

    run_id: RunId
    state: RunState
    row_count: int
    last_offset: Offset
    """Its last entry, trimmed or not."""
    trimmed_offset: Offset = Offset(0)
    """Its entries up to here are deleted: every sink had them."""
    refused_row_count: int = 0
    """Rows that were never numbered: by its writers, as they say, and here."""
    refused_value_count: int = 0
    """Values left out of rows that were kept: by its writers, as they say, and here."""
    dropped_row_count: int = 0
    """Rows that were numbered and can no longer be had."""


class JournalReader:
    """The reading end: a connection of its own, in any process, that can never write."""

    def __init__(self, path: Path) -> None:
        self._db = connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def first_offset(self) -> Offset:
        """Return the offset at which this journal begins, trimmed or not."""
        (value,) = self._db.execute("SELECT value FROM meta WHERE key = 'first_offset'").fetchone()
        return Offset(int(value))

    def runs_behind(
        self, offset: Offset, destination: str | None = None
    ) -> list[tuple[RunId, Offset]]:
        """Return each run whose last entry is behind this offset, and that one, oldest first.

        Of a run that is trimmed there may be nothing left to read. With a destination: only runs
        that go to this W&B sink.
        """
        return self._db.execute(
            "SELECT run_id, last_offset FROM runs WHERE last_offset > ?1 "
            "AND (?2 IS NULL OR wandb_sink = ?2) ORDER BY last_offset",
            (offset, destination),
        ).fetchall()

    def destinations(self) -> dict[RunId, str]:
        """Return to which W&B sink each run goes; empty: to none."""
        return dict(self._db.execute("SELECT run_id, wandb_sink FROM runs"))

    def undelivered(self, run_id: RunId, cursor: Offset) -> tuple[int, int] | None:
        """Return a run's first entry behind a cursor: its first ordinal and when it was journaled.

        One look into an index. The time is in nanoseconds since the Unix epoch.
        """
        row: tuple[int, int] | None = self._db.execute(
            "SELECT first_ordinal, time_unix_nano FROM entries WHERE run_id = ? AND offset > ? "
            "ORDER BY offset LIMIT 1",
            (run_id, cursor),
        ).fetchone()
        return row

    def entries(self, run_id: RunId, after: Offset, bytes_max: int) -> list[Entry]:
        """Return a run's next entries in order; payloads beyond `bytes_max` wait, one comes."""
        entries: list[Entry] = []
        rows = self._db.execute(
            "SELECT offset, writer_id, sequence, kind, first_ordinal, row_count, crc32, payload "
            "FROM entries WHERE run_id = ? AND offset > ? ORDER BY offset",
            (run_id, after),
        )
        for offset, writer_id, sequence, kind, first_ordinal, row_count, crc32, payload in rows:
            entries.append(
                Entry(
                    Offset(offset),
                    run_id,
                    WriterId(writer_id),
                    sequence,
                    EntryKind(kind),
                    first_ordinal,
                    row_count,
                    payload if zlib.crc32(payload) == crc32 else None,
                )
            )
            bytes_max -= len(payload)
            if bytes_max <= 0:
                break
        rows.close()
        return entries

    def run(self, run_id: RunId) -> JournaledRun | None:
        """Return one run."""
        found = self._journaled_runs("WHERE run_id = ? GROUP BY run_id", (run_id,))
        return next(found, None)

    def runs(self) -> list[JournaledRun]:
        """Return all runs, the latest first."""
        return list(self._journaled_runs("GROUP BY run_id ORDER BY last_offset DESC", ()))

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _journaled_runs(self, tail: str, values: tuple[str, ...]) -> Iterator[JournaledRun]:
        rows = self._db.execute(
            "SELECT run_id, runs.state, next_ordinal, last_offset, trimmed_offset, "
            "runs.refused_row_count + coalesce(sum(writers.refused_row_count), 0), "
            "runs.refused_value_count + coalesce(sum(writers.refused_value_count), 0), "
            "runs.dropped_row_count + coalesce(sum(writers.dropped_row_count), 0) "
            f"FROM runs LEFT JOIN writers USING (run_id) {tail}",
            values,
        )
        for run_id, state, row_count, last_offset, trimmed_offset, *counts in rows:
            yield JournaledRun(
                RunId(run_id),
                RunState(state),
                row_count,
                Offset(last_offset),
                Offset(trimmed_offset),
                *counts,
            )


def connect(database: str, *, uri: bool = False) -> sqlite3.Connection:
    """Open a connection without implicit transactions, for one thread at a time."""
    db = sqlite3.connect(database, uri=uri, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return db
