"""What each change does to the journal's tables, within a transaction that `journal.py` makes.

A change checks first, so that a `StateError` or a `LimitError` leaves nothing of it behind, then
writes. Rows of `runs` and `writers` are cached; after a transaction that did not commit, `forget`.
Used from the journal's thread only.
"""

import logging
import sqlite3
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pillion_sidecar import journal_deletion
from pillion_sidecar.artifact_records import Artifact, encode_artifact
from pillion_sidecar.environment import encode_environment
from pillion_sidecar.errors import LimitError, StateError, unknown_run
from pillion_sidecar.journal_damage import substitute
from pillion_sidecar.journal_reader import EntryKind
from pillion_sidecar.journal_room import Gauge
from pillion_sidecar.journal_versions import numbered
from pillion_sidecar.records import (
    PROJECT_DEFAULT,
    CheckedBatch,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    WriterId,
    decode_finish,
    encode_finish,
    encode_start,
    encode_update,
    without_metrics,
)

KEYS_MAX = 100_000
"""Metrics per run. Values of others are refused and counted."""
DAMAGED_MAX = 1_000
"""So many damaged entries are put aside; then the oldest go."""

_NOBODY = WriterId("")
"""Writes what the sidecar itself has to say."""
_FORGOTTEN = -1
"""In place of the offset of a writer's end: the run was resumed behind it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """What a writer learns when it starts."""

    last_sequence: int
    is_resumed: bool
    next_ordinal: int
    """The number of the run's next row, not counting those that no writer has sent."""
    project: str = ""
    name: str = ""
    wandb_sink: str = ""
    """The W&B sink that the run goes to; empty: none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a writer stands."""

    last_sequence: int
    state: RunState


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run stands after one of its writers has ended."""

    state: RunState
    row_count: int


@dataclass(slots=True)
class _Run:
    """A row of `runs`, cached."""

    state: RunState
    next_ordinal: int
    noted_row_count: int = 0
    """Of its rows, those that are not its trainers' own: found, or sampled."""
    refused_row_count: int = 0
    refused_value_count: int = 0
    project: str = ""
    name: str = ""
    is_project_given: bool = True
    is_name_given: bool = True
    wandb_sink: str = ""
    keys: set[str] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        """Whether it has refused a metric; from then on it takes no new one.

        So a batch that comes again is cut down to the same bytes, whatever the bound is by then.
        """
        return self.refused_row_count + self.refused_value_count > 0


@dataclass(slots=True)
class _Writer:
    """A row of `writers`, cached."""

    last_sequence: int
    state: RunState
    refused_row_count: int = 0
    refused_value_count: int = 0
    dropped_row_count: int = 0


class Ledger:
    """Runs, their writers, and their entries."""

    def __init__(self, db: sqlite3.Connection, gauge: Gauge, keys_max: int) -> None:
        self._db, self._gauge, self._keys_max = db, gauge, keys_max
        self._runs: dict[RunId, _Run] = {}
        self._writers: dict[tuple[RunId, WriterId], _Writer] = {}

    def forget(self) -> None:
        """Forget what is cached: it was not committed."""
        self._runs.clear()
        self._writers.clear()

    def start(self, start: RunStart, *, may_resume: bool, must_resume: bool) -> Started:
        """Start a run, join it, or come back to it."""
        run = self._run(start.run_id)
        writer = self._writer(start.run_id, start.writer_id)
        if run is None and must_resume:
            raise StateError(
                f"Run {start.run_id} does not exist, and resume is set to `must`. "
                "Check the id, or let resume be `allow`.",
                reason="RUN_UNKNOWN",
            )
        if run is not None and writer is None and not may_resume:
            raise StateError(
                f"Run {start.run_id} exists already, and resume is set to `never`. "
                "Take another id, or let resume be `allow`.",
                reason="RUN_EXISTS",
            )
        if run is None and journal_deletion.is_pending(self._db, start.run_id):
            raise LimitError(
                f"The former run {start.run_id} is being deleted; the store has yet to follow. Try "
                "again in a moment.",
                reason="RUN_DELETING",
            )
        is_resumed = run is not None
        payload = encode_start(start)
        if writer is None or writer.state != RunState.RUNNING:
            self._gauge.take(len(payload))
        if run is None:
            run = self._runs[start.run_id] = _new_run(start)
            self._db.execute(
                "INSERT INTO runs (run_id, state, next_ordinal, project, name, is_project_given, "
                "is_name_given, wandb_sink) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(start.run_id, run.state, run.next_ordinal, run.project, run.name),
                    *(run.is_project_given, run.is_name_given, run.wandb_sink),
                ),
            )
        if writer is None:
            writer = self._writers[start.run_id, start.writer_id] = _Writer(0, RunState.FINISHED)
            self._db.execute(
                "INSERT INTO writers (run_id, writer_id, last_sequence, state, environment) "
                "VALUES (?, ?, ?, ?, x'')",
                (start.run_id, start.writer_id, writer.last_sequence, writer.state),
            )
        if writer.state != RunState.RUNNING:
            if self._begins_behind_end(start, run):
                self._forget_ends(start.run_id)
            self._revive(start.run_id, start.writer_id, run, writer)
            environment = encode_environment(start.environment).SerializeToString()
            self._db.execute(
                "UPDATE writers SET environment = ? WHERE run_id = ? AND writer_id = ?",
                (environment, start.run_id, start.writer_id),
            )
            self._insert(start.run_id, start.writer_id, 0, EntryKind.START, run, 0, payload)
            if is_resumed:
                self._name(start, run)
        return Started(
            *(writer.last_sequence, is_resumed, run.next_ordinal - run.noted_row_count),
            *(run.project, run.name, run.wandb_sink),
        )

    def update(self, update: RunUpdate) -> None:
        """Change a run from outside."""
        run = self._existing(update.run_id)
        payload = encode_update(update)
        self._gauge.take(len(payload))
        self._update(update, payload, run)

    def note(self, batch: CheckedBatch) -> None:
        """Append a batch that no writer has sent."""
        run = self._existing(batch.run_id)
        self._gauge.take(len(batch.payload))
        payload, row_count = batch.payload, batch.row_count
        if not batch.keys <= run.keys:
            payload, row_count = self._within_keys(batch, run)
        self._count_noted(batch.run_id, run, row_count)
        self._insert(batch.run_id, _NOBODY, 0, EntryKind.BATCH, run, row_count, payload)
        self._end_again(batch.run_id, run)

    def sample(self, batch: CheckedBatch) -> None:
        """Append a batch as `note` does, but to a run that lives and takes all of it alone.

        So a run does not end twice, nor is anything refused, that its trainer would be told of.
        """
        run = self._existing(batch.run_id)
        new_count = len(batch.keys - run.keys)
        has_room = len(run.keys) + new_count <= self._keys_max and not run.is_full
        if run.state == RunState.RUNNING and (not new_count or has_room):
            self.note(batch)

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        """Delete a run that has ended and whose last offset is this; one that is not here too."""
        run = self._run(run_id)
        if run is not None and run.state == RunState.RUNNING:
            raise StateError(
                f"Run {run_id} has not ended. Stop its trainers first; `pillion wait {run_id}` "
                "waits for its end.",
                reason="RUN_LIVE",
            )
        if run is not None and cursor != self._last_offset(run_id):
            raise StateError(
                f"Run {run_id} was changed just now, and not every sink has that yet. Try again.",
                reason="RUN_UNDELIVERED",
            )
        journal_deletion.begin(self._db, run_id, cursor)
        self._runs.pop(run_id, None)
        for writer in [key for key in self._writers if key[0] == run_id]:
            del self._writers[writer]

    def log_artifact(self, artifact: Artifact) -> Artifact:
        """Take an artifact whose files are in the blob store; return it with its version."""
        run_id = RunId(artifact.run_id)
        run = self._existing(run_id)
        self._gauge.take(encode_artifact(artifact).ByteSize())
        artifact = numbered(self._db, artifact, run.project or PROJECT_DEFAULT)
        payload = encode_artifact(artifact).SerializeToString(deterministic=True)
        self._insert(run_id, _NOBODY, 0, EntryKind.ARTIFACT, run, 0, payload)
        self._end_again(run_id, run)
        return artifact

    def standing(self, run_id: RunId, writer_id: WriterId) -> Standing | None:
        """Tell how a writer stands; None: it is not known."""
        writer = self._writer(run_id, writer_id)
        return None if writer is None else Standing(writer.last_sequence, writer.state)

    def append(self, batch: CheckedBatch) -> int:
        """Append a batch; return its writer's last sequence."""
        run_id, writer_id, sequence = batch.run_id, batch.writer_id, batch.sequence
        run, writer = self._known(run_id, writer_id)
        if sequence <= writer.last_sequence:
            self._check_duplicate(batch, run)
            return writer.last_sequence
        expected = writer.last_sequence + 1
        first_sequence = batch.first_sequence or sequence
        if first_sequence > expected:
            raise StateError(
                f"Batch {first_sequence} of writer {writer_id} of run {run_id} came where "
                f"{expected} is next. Send {expected} first.",
                reason="SEQUENCE_GAP",
                facts={"expected_sequence": str(expected)},
            )
        self._gauge.take(len(batch.payload))
        if writer.state != RunState.RUNNING:
            self._revive(run_id, writer_id, run, writer)
        payload, row_count = batch.payload, batch.row_count
        if not batch.keys <= run.keys:
            payload, row_count = self._within_keys(batch, run)
        writer.last_sequence = sequence
        writer.dropped_row_count += batch.dropped_row_count
        self._note_refused(writer, batch.refused_row_count, batch.refused_value_count)
        self._save_writer(run_id, writer_id, writer)
        if batch.system_row_count:
            self._count_noted(run_id, run, min(batch.system_row_count, row_count))
        self._insert(run_id, writer_id, sequence, EntryKind.BATCH, run, row_count, payload)
        return sequence

    def finish(
        self,
        finish: RunFinish,
        *,
        last_sequence: int | None,
        refused_row_count: int,
        refused_value_count: int,
    ) -> Ended:
        """End a writer, and with the last writer the run."""
        run_id, writer_id = finish.run_id, finish.writer_id
        run, writer = self._known(run_id, writer_id)
        if last_sequence is not None and writer.last_sequence < last_sequence:
            expected = writer.last_sequence + 1
            raise StateError(
                f"Writer {writer_id} of run {run_id} ends with batch "
                f"{last_sequence}, but {expected} is not on disk yet. Send it first.",
                reason="SEQUENCE_GAP",
                facts={"expected_sequence": str(expected)},
            )
        if writer.state == RunState.RUNNING:
            writer.state = finish.state
            self._note_refused(writer, refused_row_count, refused_value_count)
            self._save_writer(run_id, writer_id, writer)
            self._db.execute(
                "UPDATE writers SET exit_code = ?, reason = ?, end_offset = "
                "(SELECT seq + 1 FROM sqlite_sequence WHERE name = 'entries') "
                "WHERE run_id = ? AND writer_id = ?",
                (finish.exit_code, finish.reason, run_id, writer_id),
            )
            end = self._end_of_run(finish)
            payload = encode_finish(end or finish)
            if end is not None:
                run.state = end.state
                self._db.execute("UPDATE runs SET end = ? WHERE run_id = ?", (payload, run_id))
            kind = EntryKind.FINISH if end is None else EntryKind.END
            self._insert(run_id, writer_id, writer.last_sequence, kind, run, 0, payload)
            self._writers.pop((run_id, writer_id))
            if end is not None:
                self._runs.pop(run_id)
        return Ended(run.state, run.next_ordinal)

    def quarantine(self, offset: Offset) -> bool:
        """Put an entry aside if its payload is not what was written; tell whether it was so."""
        row = self._db.execute(
            "SELECT run_id, writer_id, sequence, kind, row_count, crc32, payload FROM entries "
            "WHERE offset = ?",
            (offset,),
        ).fetchone()
        if row is None or zlib.crc32(row[6]) == row[5]:
            return False
        run_id, writer_id, sequence, kind, row_count = row[:5]
        aside = self._db.execute(
            "INSERT OR IGNORE INTO damaged SELECT offset, run_id, writer_id, sequence, kind, "
            "first_ordinal, row_count, crc32, time_unix_nano, payload FROM entries "
            "WHERE offset = ?",
            (offset,),
        )
        dropped_row_count = row_count * aside.rowcount  # what stood for it may be damaged in turn
        self._db.execute(
            "DELETE FROM damaged WHERE offset <= "
            "(SELECT offset FROM damaged ORDER BY offset DESC LIMIT 1 OFFSET ?)",
            (DAMAGED_MAX,),
        )
        payload = substitute(run_id, writer_id, sequence, EntryKind(kind), row_count)
        self._db.execute(
            "UPDATE entries SET crc32 = ?, payload = ? WHERE offset = ?",
            (zlib.crc32(payload), payload, offset),
        )
        writer = self._writer(run_id, writer_id)
        if writer is not None:
            writer.dropped_row_count += dropped_row_count
            self._save_writer(run_id, writer_id, writer)
        damaged = {"run_id": run_id, "writer_id": writer_id, "sequence": sequence}
        damaged |= {"row_count": row_count, "offset": offset}
        log.error("journal entry damaged, put aside", extra=damaged)
        return True

    def catch_up(self, cursors: Mapping[RunId, tuple[Offset, int, str]], *, is_store: bool) -> None:
        """Go on behind what a sink has, where that is beyond what is here: the log was cut.

        Args:
            cursors: For each such run the sink's cursor, the ordinal behind its last row, and the
                W&B sink that it goes to.
            is_store: Whether other sinks can be given from there what is missing here; else it is
                dropped.
        """
        for run_id, (offset, next_ordinal, wandb_sink) in cursors.items():
            run = self._run(run_id)
            if run is None:
                run = self._runs[run_id] = _Run(RunState.CRASHED, 0, wandb_sink=wandb_sink)
                self._db.execute(
                    "INSERT INTO runs (run_id, state, next_ordinal, wandb_sink) "
                    "VALUES (?, ?, 0, ?)",
                    (run_id, run.state, wandb_sink),
                )
            first, run.next_ordinal = run.next_ordinal, max(run.next_ordinal, next_ordinal)
            self._db.execute(
                "UPDATE runs SET next_ordinal = ?, last_offset = ? WHERE run_id = ?",
                (run.next_ordinal, offset, run_id),
            )
            self._db.execute(
                "UPDATE runs SET trimmed_offset = ?, trimmed_ordinal = ? WHERE run_id = ?"
                if is_store
                else "UPDATE runs SET dropped_row_count = dropped_row_count + ?2 - ?1 "
                "WHERE run_id = ?3",
                (offset if is_store else first, run.next_ordinal, run_id),
            )
            self._db.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'entries'", (offset,)
            )
            missing = {"run_id": run_id, "offset": offset, "first_ordinal": first}
            missing |= {"row_count": run.next_ordinal - first, "is_in_store": is_store}
            log.error("the journal has lost its end, a sink has more", extra=missing)

    def _name(self, start: RunStart, run: _Run) -> None:
        """Take project and name of a writer that joins, if nobody has given them before."""
        project = start.project if start.is_project_given and not run.is_project_given else None
        name = start.name if start.is_name_given and not run.is_name_given else None
        if project is not None or name is not None:
            update = RunUpdate(start.run_id, project=project, name=name)
            self._update(update, encode_update(update), run)

    def _update(self, update: RunUpdate, payload: bytes, run: _Run) -> None:
        if update.project is not None:
            run.project, run.is_project_given = update.project, True
        if update.name is not None:
            run.name, run.is_name_given = update.name, True
        self._db.execute(
            "UPDATE runs SET project = ?, name = ?, is_project_given = ?, is_name_given = ? "
            "WHERE run_id = ?",
            (
                *(run.project, run.name, run.is_project_given, run.is_name_given),
                update.run_id,
            ),
        )
        self._insert(update.run_id, _NOBODY, 0, EntryKind.UPDATE, run, 0, payload)
        self._end_again(update.run_id, run)

    def _end_again(self, run_id: RunId, run: _Run) -> None:
        """End a run once more if it had ended: what comes after opens it again, at some sinks."""
        if run.state != RunState.RUNNING:
            (end,) = self._db.execute("SELECT end FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            end = end or encode_finish(self._last_end(run_id, run))
            self._insert(run_id, _NOBODY, 0, EntryKind.END, run, 0, end)

    def _last_end(self, run_id: RunId, run: _Run) -> RunFinish:
        """Return the end of a run that has ended before format 3; when it did is not known."""
        ends = self._db.execute(
            "SELECT exit_code, reason FROM writers WHERE run_id = ? AND state = ? "
            "ORDER BY end_offset DESC LIMIT 1",
            (run_id, run.state),
        ).fetchone()
        exit_code, reason = ends or (None, "")
        return RunFinish(run_id, _NOBODY, run.state, exit_code, reason, {}, time.time_ns())

    def _end_of_run(self, finish: RunFinish) -> RunFinish | None:
        """Return the run's end if this was its last writer's: the worst one of all its writers'.

        Of several that are equally bad, one with an exit code says most, then one with a reason,
        then the first. What ended before the run was resumed counts no more.
        """
        ends = [
            (-state, exit_code is None, not reason, end_offset, exit_code, reason)
            for state, exit_code, reason, end_offset in self._db.execute(
                "SELECT state, exit_code, reason, end_offset FROM writers WHERE run_id = ? "
                "AND (state = ? OR end_offset != ?)",
                (finish.run_id, RunState.RUNNING, _FORGOTTEN),
            )
        ]
        if -RunState.RUNNING in (end[0] for end in ends):
            return None
        minus_state, *_, exit_code, reason = min(ends)
        state = RunState(-minus_state)
        if not reason and state != finish.state:
            reason = f"Another writer had ended as {state.name}."
        return replace(finish, state=state, exit_code=exit_code, reason=reason)

    def _begins_behind_end(self, start: RunStart, run: _Run) -> bool:
        """Tell whether a start is of a writer that began after the run had ended: it is resumed.

        One that began before, and comes only now, is one of those that the run had all the time.
        """
        if run.state == RunState.RUNNING:
            return False
        (end,) = self._db.execute(
            "SELECT end FROM runs WHERE run_id = ?", (start.run_id,)
        ).fetchone()
        return bool(end) and decode_finish(end).time_unix_nano < start.time_unix_nano

    def _forget_ends(self, run_id: RunId) -> None:
        """Have how its writers ended so far count no more for how a run ends."""
        self._db.execute(
            "UPDATE writers SET end_offset = ? WHERE run_id = ? AND state != ?",
            (_FORGOTTEN, run_id, RunState.RUNNING),
        )

    def knows(self, run_id: RunId) -> bool:
        """Tell whether there is such a run."""
        return self._run(run_id) is not None

    def _last_offset(self, run_id: RunId) -> Offset:
        query = "SELECT last_offset FROM runs WHERE run_id = ?"
        return Offset(self._db.execute(query, (run_id,)).fetchone()[0])

    def _existing(self, run_id: RunId) -> _Run:
        run = self._run(run_id)
        if run is None:
            raise unknown_run(run_id)
        return run

    def _known(self, run_id: RunId, writer_id: WriterId) -> tuple[_Run, _Writer]:
        run, writer = self._run(run_id), self._writer(run_id, writer_id)
        if run is None or writer is None:
            raise StateError(
                f"Writer {writer_id} of run {run_id} is not known here. Call StartRun first.",
                reason="WRITER_UNKNOWN",
            )
        return run, writer

    def _within_keys(self, batch: CheckedBatch, run: _Run) -> tuple[bytes, int]:
        """Note a batch's new metrics; return what its run takes of it, and its rows."""
        room = 0 if run.is_full else max(0, self._keys_max - len(run.keys))
        new = sorted(batch.keys - run.keys)
        run.keys.update(new[:room])
        self._db.executemany(
            "INSERT INTO keys VALUES (?, ?)", [(batch.run_id, key) for key in new[:room]]
        )
        if len(new) <= room:
            return batch.payload, batch.row_count
        if not run.is_full:
            full = {"run_id": batch.run_id, "metric_count": len(run.keys)}
            log.warning("run takes no more metrics, values of others are refused", extra=full)
        payload, row_count, value_count = without_metrics(batch.payload, run.keys)
        run.refused_row_count += row_count
        run.refused_value_count += value_count
        self._db.execute(
            "UPDATE runs SET refused_row_count = ?, refused_value_count = ? WHERE run_id = ?",
            (run.refused_row_count, run.refused_value_count, batch.run_id),
        )
        return payload, batch.row_count - row_count

    def _count_noted(self, run_id: RunId, run: _Run, row_count: int) -> None:
        """Take it that so many of a run's rows move no trainer's next step."""
        run.noted_row_count += row_count
        self._db.execute(
            "UPDATE runs SET noted_row_count = ? WHERE run_id = ?", (run.noted_row_count, run_id)
        )

    def _check_duplicate(self, batch: CheckedBatch, run: _Run) -> None:
        values = (batch.run_id, batch.writer_id, batch.sequence, EntryKind.BATCH)
        wanted = "WHERE run_id = ? AND writer_id = ? AND sequence = ? AND kind = ?"
        row = self._db.execute(f"SELECT payload FROM entries {wanted}", values).fetchone()
        if row is None or row[0] == batch.payload:
            return
        if self._db.execute(f"SELECT 1 FROM damaged {wanted}", values).fetchone():
            return  # what it was can no longer be told
        if not run.is_full or row[0] != without_metrics(batch.payload, run.keys)[0]:
            raise StateError(
                f"Batch {batch.sequence} of writer {batch.writer_id} of run {batch.run_id} is on "
                "disk with another content. Two processes use one writer id; give each its own.",
                reason="SEQUENCE_CONFLICT",
            )

    @staticmethod
    def _note_refused(writer: _Writer, row_count: int, value_count: int) -> None:
        """Take a writer's own counts, which only grow."""
        writer.refused_row_count = max(writer.refused_row_count, row_count)
        writer.refused_value_count = max(writer.refused_value_count, value_count)

    def _revive(self, run_id: RunId, writer_id: WriterId, run: _Run, writer: _Writer) -> None:
        """Have a writer live, and its run with it."""
        writer.state = run.state = RunState.RUNNING
        self._db.execute(
            "UPDATE writers SET state = ?, exit_code = NULL, reason = '', end_offset = 0 "
            "WHERE run_id = ? AND writer_id = ?",
            (writer.state, run_id, writer_id),
        )

    def _run(self, run_id: RunId) -> _Run | None:
        if run_id not in self._runs:
            row = self._db.execute(
                "SELECT state, next_ordinal, noted_row_count, refused_row_count, "
                "refused_value_count, project, name, is_project_given, is_name_given, wandb_sink "
                "FROM runs WHERE run_id = ?",
                (run_id,),
            ).fetchone()
            if row is None:
                return None
            keys = self._db.execute("SELECT key FROM keys WHERE run_id = ?", (run_id,))
            run = self._runs[run_id] = _Run(RunState(row[0]), *row[1:])
            run.keys.update(key for (key,) in keys)
        return self._runs[run_id]

    def _writer(self, run_id: RunId, writer_id: WriterId) -> _Writer | None:
        if (run_id, writer_id) not in self._writers:
            row = self._db.execute(
                "SELECT last_sequence, state, refused_row_count, refused_value_count, "
                "dropped_row_count FROM writers WHERE run_id = ? AND writer_id = ?",
                (run_id, writer_id),
            ).fetchone()
            if row is None:
                return None
            self._writers[run_id, writer_id] = _Writer(row[0], RunState(row[1]), *row[2:])
        return self._writers[run_id, writer_id]

    def _save_writer(self, run_id: RunId, writer_id: WriterId, writer: _Writer) -> None:
        self._db.execute(
            "UPDATE writers SET last_sequence = ?, state = ?, refused_row_count = ?, "
            "refused_value_count = ?, dropped_row_count = ? WHERE run_id = ? AND writer_id = ?",
            (
                *(writer.last_sequence, writer.state, writer.refused_row_count),
                *(writer.refused_value_count, writer.dropped_row_count, run_id, writer_id),
            ),
        )

    def _insert(
        self,
        run_id: RunId,
        writer_id: WriterId,
        sequence: int,
        kind: EntryKind,
        run: _Run,
        row_count: int,
        payload: bytes,
    ) -> None:
        """Insert an entry, and move its run on to behind it."""
        cursor = self._db.execute(
            "INSERT INTO entries (run_id, writer_id, sequence, kind, first_ordinal, row_count, "
            "crc32, time_unix_nano, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run_id, writer_id, sequence, kind, run.next_ordinal, row_count),
                *(zlib.crc32(payload), time.time_ns(), payload),
            ),
        )
        run.next_ordinal += row_count
        self._db.execute(
            "UPDATE runs SET state = ?, next_ordinal = ?, last_offset = ? WHERE run_id = ?",
            (run.state, run.next_ordinal, Offset(cursor.lastrowid or 0), run_id),
        )


def _new_run(start: RunStart) -> _Run:
    return _Run(
        RunState.RUNNING,
        0,
        project=start.project,
        name=start.name,
        is_project_given=start.is_project_given,
        is_name_given=start.is_name_given,
        wandb_sink=start.wandb.sink,
    )
