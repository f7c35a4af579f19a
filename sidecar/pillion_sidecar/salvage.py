"""Makes a damaged journal anew from what can be read of it.

SQLite tells of a page that is damaged only when it reads it. Then the sidecar leaves a mark beside
the journal and ends; at the next start all that can be read goes into a new database under the same
journal id. What is missing is named by run, writer and batch, counted as dropped, and a lost range
stands in its place, so that sinks count it too. The damaged files stay, under another name.

Nothing is lost when this is interrupted at any point: it begins again with the next start.
"""

import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.durable_files import sync
from pillion_sidecar.errors import DiskError
from pillion_sidecar.journal_damage import substitute
from pillion_sidecar.journal_deletion import KEY as DELETING
from pillion_sidecar.journal_reader import EntryKind, connect
from pillion_sidecar.journal_tables import FORMAT, open_journal
from pillion_sidecar.records import (
    LostRange,
    RunId,
    RunState,
    WriterId,
    decode_finish,
    decode_start,
    lost_batch,
)

ROWS_PER_COMMIT = 1_000

_SUFFIXES = ("", "-wal", "-shm")
_FACTS = ("format", "journal_id", "first_offset")

_ENTRY = (
    "offset, run_id, writer_id, sequence, kind, first_ordinal, row_count, crc32, time_unix_nano, "
    "payload"
)
_RUN = (
    "run_id, state, next_ordinal, last_offset, trimmed_offset, trimmed_ordinal, "
    "refused_row_count, refused_value_count, dropped_row_count, noted_row_count, project, name, "
    "is_project_given, is_name_given, end, wandb_sink"
)
_WRITER = (
    "run_id, writer_id, last_sequence, state, environment, refused_row_count, "
    "refused_value_count, dropped_row_count, exit_code, reason, end_offset"
)

log = logging.getLogger(__name__)


def mark(path: Path, reason: str) -> None:
    """Have the next start salvage this journal."""
    with _mark_of(path).open("w", encoding="utf-8") as file:
        file.write(reason + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def salvage_if_marked(path: Path) -> None:
    """Make the journal anew if it was found damaged."""
    if _mark_of(path).exists():
        salvage(path)


def salvage(path: Path) -> None:
    """Make the journal anew. Raises `DiskError` if it cannot be told which journal it was."""
    fresh, aside = (path.with_name(f"{path.name}-{name}") for name in ("salvaged", "damaged"))
    aside = aside.with_name(f"{aside.name}-{time.time_ns()}")
    if path.exists():  # else an earlier attempt came as far as to move it away
        for suffix in _SUFFIXES:
            Path(f"{fresh}{suffix}").unlink(missing_ok=True)
        log.error("the journal is damaged, made anew from what can be read", extra={"path": path})
        with (
            closing(connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as old,
            closing(open_journal(fresh)) as new,
        ):
            new.execute("PRAGMA synchronous = OFF")  # synced as a whole, below
            _copy(old, new, path)
            _Repair(new).make()
        sync(fresh)
    Path(f"{path}-shm").unlink(missing_ok=True)
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
            log.error("damaged file kept", extra={"path": f"{aside}{suffix}"})
    fresh.rename(path)
    sync(path.parent)
    _mark_of(path).unlink(missing_ok=True)
    sync(path.parent)


def _mark_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-is-damaged")


# What can be read.


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> None:
    facts = dict(_from_both_ends(old, "key, value", "meta", "key"))
    if facts.get("format") != str(FORMAT) or len(facts) < len(_FACTS):
        raise DiskError(
            f"The journal {path} is damaged, and nothing of it can be read. Move it away: writers "
            "then send again what they still have, and what is lost is counted."
        )
    new.execute("BEGIN")
    new.executemany("UPDATE meta SET value = ? WHERE key = ?", [(facts[k], k) for k in _FACTS])
    _insert(new, "meta", "key, value", (f for f in facts.items() if f[0].startswith(DELETING)))
    new.execute(
        "UPDATE sqlite_sequence SET seq = max((SELECT value - 1 FROM meta WHERE key = "
        "'first_offset'), ?)",
        (max([0, *_column(old, "SELECT seq FROM sqlite_sequence")]),),
    )
    for columns, table, order in (
        (_RUN, "runs", "run_id"),
        (_WRITER, "writers", "run_id, writer_id"),
        ("run_id, key", "keys", "run_id, key"),
        ("project, name, version, sha256", "artifacts", "project, name, version"),
        (_ENTRY, "damaged", "offset"),
    ):
        _insert(new, table, columns, _from_both_ends(old, columns, table, order))
    new.execute("COMMIT")
    _insert_entries(new, _entries(old))


def _insert_entries(new: sqlite3.Connection, entries: Iterable[Any]) -> None:
    new.execute("BEGIN")
    for count, entry in enumerate(entries, start=1):
        _insert(new, "entries", _ENTRY, [entry])
        if count % ROWS_PER_COMMIT == 0:
            new.execute("COMMIT")
            new.execute("BEGIN")
    new.execute("COMMIT")


def _insert(db: sqlite3.Connection, table: str, columns: str, rows: Iterable[Any]) -> None:
    marks = ", ".join("?" * len(columns.split(",")))
    db.executemany(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", rows)


def _from_both_ends(db: sqlite3.Connection, columns: str, table: str, order: str) -> Iterator[Any]:
    """Yield a table's rows from each end up to where it is damaged; some come twice."""
    for direction in ("", " DESC"):
        by = ", ".join(name + direction for name in order.split(", "))
        with suppress(sqlite3.DatabaseError):
            yield from db.execute(f"SELECT {columns} FROM {table} ORDER BY {by}")
            return


def _entries(db: sqlite3.Connection) -> Iterator[Any]:
    """Yield every entry that can be read: from both ends, and between them by its offset."""
    read: set[int] = set()
    for entry in _from_both_ends(db, _ENTRY, "entries", "offset"):
        read.add(entry[0])
        yield entry
    offsets: set[int] = set()
    for index in ("entries_by_run", "entries_by_writer"):
        order = "run_id, offset" if index == "entries_by_run" else "run_id, writer_id, sequence"
        table = f"entries INDEXED BY {index}"
        offsets.update(offset for (offset,) in _from_both_ends(db, "offset", table, order))
    for offset in sorted(offsets - read):
        with suppress(sqlite3.DatabaseError):
            yield from db.execute(f"SELECT {_ENTRY} FROM entries WHERE offset = ?", (offset,))


def _column(db: sqlite3.Connection, query: str) -> list[Any]:
    with suppress(sqlite3.DatabaseError):
        return [value for (value,) in db.execute(query)]
    return []


# What is missing.


@dataclass(slots=True)
class _Missing:
    """What is missing of one run between two entries that are there."""

    row_count: int
    ranges: list[tuple[WriterId, int, int]] = field(default_factory=list)
    """Batches: writer, first and last."""


class _Repair:
    """Brings runs, writers and entries of a new journal into accord."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def make(self) -> None:
        """Put what is known in the place of what is missing."""
        self._db.execute("BEGIN")
        self._complete_runs()
        for (run_id,) in self._db.execute("SELECT run_id FROM runs").fetchall():
            self._close_gaps(run_id)
        self._complete_runs()
        self._db.execute("COMMIT")

    def _complete_runs(self) -> None:
        """Have watermarks and counters of runs and writers cover all entries."""
        for run_id, first_ordinal in self._db.execute(
            "SELECT run_id, min(first_ordinal) FROM entries "
            "WHERE run_id NOT IN (SELECT run_id FROM runs) GROUP BY run_id"
        ).fetchall():
            self._db.execute(
                "INSERT INTO runs (run_id, state, next_ordinal, trimmed_ordinal, wandb_sink) "
                "VALUES (?, ?, 0, ?, ?)",
                (run_id, RunState.RUNNING, first_ordinal, self._wandb_sink(run_id)),
            )
        self._db.execute(
            "UPDATE runs SET next_ordinal = max(next_ordinal, coalesce((SELECT "
            "max(first_ordinal + row_count) FROM entries WHERE run_id = runs.run_id), 0)), "
            "last_offset = max(last_offset, coalesce((SELECT max(offset) FROM entries "
            "WHERE run_id = runs.run_id), 0)), "
            "noted_row_count = max(noted_row_count, coalesce((SELECT sum(row_count) FROM entries "
            "WHERE run_id = runs.run_id AND writer_id = ''), 0))"
        )
        self._db.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, coalesce((SELECT max(last_offset) "
            "FROM runs), 0)) WHERE name = 'entries'"
        )
        self._db.execute(
            "UPDATE writers SET last_sequence = max(last_sequence, coalesce((SELECT max(sequence) "
            "FROM entries WHERE run_id = writers.run_id AND writer_id = writers.writer_id), 0))"
        )
        # A writer that is known by its entries alone ended if the last of them says so.
        for run_id, writer_id, kind, payload, offset in self._db.execute(
            "SELECT run_id, writer_id, kind, payload, max(offset) FROM entries "
            "WHERE writer_id != '' AND NOT EXISTS (SELECT 1 FROM writers WHERE writers.run_id = "
            "entries.run_id AND writers.writer_id = entries.writer_id) GROUP BY run_id, writer_id"
        ).fetchall():
            (sequence,) = self._db.execute(
                "SELECT max(sequence) FROM entries WHERE run_id = ? AND writer_id = ?",
                (run_id, writer_id),
            ).fetchone()
            state = RunState.RUNNING
            if kind in (EntryKind.FINISH, EntryKind.END):
                with suppress(Exception):  # its payload may be damaged too
                    state = decode_finish(payload).state
            self._db.execute(
                "INSERT INTO writers (run_id, writer_id, last_sequence, state, environment, "
                "end_offset) VALUES (?, ?, ?, ?, x'', ?)",
                (run_id, writer_id, sequence, state, offset if state > RunState.RUNNING else 0),
            )

    def _wandb_sink(self, run_id: RunId) -> str:
        """Return where a run goes at W&B by its start; to nobody if that cannot be told.

        It may have been kept from W&B.
        """
        found = self._db.execute(
            "SELECT payload FROM entries WHERE run_id = ? AND kind = ? ORDER BY offset LIMIT 1",
            (run_id, EntryKind.START),
        ).fetchone()
        with suppress(Exception):  # its payload may be damaged too
            return decode_start(found[0]).wandb.sink if found else ""
        return ""

    def _close_gaps(self, run_id: RunId) -> None:
        """Report what is missing of a run, and put a lost range in its place."""
        state, next_ordinal, last_offset, trimmed_offset, trimmed_ordinal = self._db.execute(
            "SELECT state, next_ordinal, last_offset, trimmed_offset, trimmed_ordinal FROM runs "
            "WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        entries = self._db.execute(
            "SELECT offset, writer_id, sequence, kind, first_ordinal, row_count FROM entries "
            "WHERE run_id = ? AND offset > ? ORDER BY offset",
            (run_id, trimmed_offset),
        ).fetchall()
        watermarks = dict(
            self._db.execute(
                "SELECT writer_id, last_sequence FROM writers WHERE run_id = ?", (run_id,)
            ).fetchall()
        )
        # Of a trimmed run it is not known with which batch a writer goes on.
        seen: dict[WriterId, int] = {} if trimmed_offset else dict.fromkeys(watermarks, 0)
        place, ordinal = trimmed_offset, trimmed_ordinal
        if entries and not trimmed_offset and entries[0][3] != EntryKind.START:
            writer_id = next(iter(watermarks))
            place = self._put(run_id, writer_id, 0, EntryKind.START, ordinal, entries[0][0] - 1)
        for offset, writer_id, sequence, kind, first_ordinal, row_count in entries:
            missing = _Missing(first_ordinal - ordinal)
            if kind != EntryKind.START:
                first = sequence + 1
                if kind == EntryKind.BATCH:
                    first = self._first_sequence(offset, sequence, row_count)
                if first > seen.get(writer_id, first - 1) + 1:
                    missing.ranges.append((writer_id, seen[writer_id] + 1, first - 1))
                seen[writer_id] = sequence
            self._replace(run_id, missing, place, ordinal, watermarks)
            place, ordinal = offset, first_ordinal + row_count
        rest = _Missing(next_ordinal - ordinal)
        for writer_id, last in watermarks.items():
            if last > seen.get(writer_id, last):
                rest.ranges.append((writer_id, seen[writer_id] + 1, last))
        is_ended = bool(entries) and entries[-1][3] == EntryKind.END
        if is_ended and rest.ranges:  # an end stays last
            place = self._free_offset(place - 1, -1) - 1
        place = self._replace(run_id, rest, place, ordinal, watermarks)
        if state != RunState.RUNNING and not is_ended and last_offset > place and watermarks:
            writer_id, last = next(iter(watermarks.items()))
            self._put(run_id, writer_id, last, EntryKind.END, next_ordinal, last_offset)

    def _first_sequence(self, offset: int, sequence: int, row_count: int) -> int:
        """Return the first batch that an entry stands for: a lost range stands for several."""
        if row_count == 0:
            with suppress(Exception):  # its payload may be damaged too
                (payload,) = self._db.execute(
                    "SELECT payload FROM entries WHERE offset = ?", (offset,)
                ).fetchone()
                for record in record_pb2.Batch.FromString(payload).records:
                    if record.HasField("lost_range"):
                        return record.lost_range.first_sequence
        return sequence

    def _replace(
        self,
        run_id: RunId,
        missing: _Missing,
        place: int,
        ordinal: int,
        watermarks: dict[WriterId, int],
    ) -> int:
        """Count and report what is missing behind an entry; return the place of the last range."""
        if missing.row_count <= 0 and not missing.ranges:
            return place
        row_count = max(0, missing.row_count)
        ranges = missing.ranges or [(writer_id, 0, 0) for writer_id in watermarks][:1]
        for writer_id, first, last in ranges:
            lost = {"run_id": run_id, "writer_id": writer_id, "first_sequence": first}
            lost |= {"last_sequence": last, "first_ordinal": ordinal, "row_count": row_count}
            log.error("batches missing from the journal", extra=lost)
            self._db.execute(
                "UPDATE writers SET dropped_row_count = dropped_row_count + ? "
                "WHERE run_id = ? AND writer_id = ?",
                (row_count, run_id, writer_id),
            )
            payload = lost_batch(run_id, writer_id, LostRange(first, last, row_count))
            place = self._free_offset(place + 1, 1)
            values = (place, run_id, writer_id, last, EntryKind.BATCH, ordinal, row_count)
            entry = (*values, zlib.crc32(payload), time.time_ns(), payload)
            for table in ("entries", "damaged"):
                _insert(self._db, table, _ENTRY, [entry])
            ordinal, row_count = ordinal + row_count, 0  # which batch had how many is not known
        return place

    def _put(
        self,
        run_id: RunId,
        writer_id: WriterId,
        sequence: int,
        kind: EntryKind,
        ordinal: int,
        offset: int,
    ) -> int:
        """Put something in the place of a start or an end that is missing; return its offset."""
        offset = self._free_offset(offset, -1)
        payload = substitute(run_id, writer_id, sequence, kind, 0)
        values = (offset, run_id, writer_id, sequence, kind, ordinal, 0)
        _insert(
            self._db,
            "entries",
            _ENTRY,
            [(*values, zlib.crc32(payload), time.time_ns(), payload)],
        )
        log.error("missing from the journal", extra={"run_id": run_id, "kind": kind.name.lower()})
        return offset

    def _free_offset(self, offset: int, direction: int) -> int:
        """Return the next offset that no entry has; what is missing has left some."""
        taken = "SELECT 1 FROM entries WHERE offset = ?"
        while self._db.execute(taken, (offset,)).fetchone():
            offset += direction
        return offset
