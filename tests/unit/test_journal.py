"""The journal: what an ack means, what is refused, and what is left after any kind of end."""

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pillion.process import ProcessIdentity
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import DiskError, LimitError, SettingsError, StateError
from pillion_sidecar.journal import GROUP_BYTES_MAX, GROUP_ENTRIES_MAX, LOG_BYTES_MAX, Journal
from pillion_sidecar.journal_ledger import Ended, Started
from pillion_sidecar.journal_reader import Entry, EntryKind, JournaledRun, JournalReader
from pillion_sidecar.journal_tables import FORMAT
from pillion_sidecar.journal_trimmer import SLICE_BYTES_MAX, SLICE_ENTRIES_MAX
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    Frame,
    LostRange,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    WriterId,
    decode_batch,
    decode_finish,
    decode_start,
    decode_update,
)
from pillion_sidecar.sampling import sample_batch
from pillion_sidecar.validation import check_log

RUN, OTHER_RUN = RunId("run"), RunId("other-run")
WRITER, OTHER_WRITER = WriterId("w"), WriterId("v")
WAIT_S = 120.0
ENDS = (RunState.FINISHED, RunState.STOPPED, RunState.FAILED, RunState.CRASHED)


class Books:
    """A journal in a file, with what it has told of itself."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.commit_count = 0
        self.fatal: list[DiskError] = []
        self.options = options
        self.journal = self._open()

    def start(self, run_id: RunId = RUN, writer_id: WriterId = WRITER, **how: bool) -> Started:
        """Start a run and wait for it."""
        return self.journal.start(start_of(run_id, writer_id), **how).result(WAIT_S)

    def submit(
        self,
        sequence: int,
        payload: bytes | None = None,
        run_id: RunId = RUN,
        writer_id: WriterId = WRITER,
        **more: int,
    ) -> Future[int]:
        """Hand over a batch."""
        content = payload_of(sequence) if payload is None else payload
        fields = {"row_count": 1, **more}
        return self.journal.append(CheckedBatch(run_id, writer_id, sequence, content, **fields))

    def append(self, sequence: int, *args: Any, **more: Any) -> int:
        """Hand over a batch and wait for its ack."""
        return self.submit(sequence, *args, **more).result(WAIT_S)

    def finish(
        self,
        last_sequence: int | None,
        state: RunState = RunState.FINISHED,
        run_id: RunId = RUN,
        writer_id: WriterId = WRITER,
        **changed: Any,
    ) -> Ended:
        """End a writer and wait for it."""
        finish = finish_of(run_id, writer_id, state, **changed)
        return self.journal.finish(finish, last_sequence=last_sequence).result(WAIT_S)

    def entries(self, run_id: RunId = RUN) -> list[Entry]:
        """Read what is on disk of a run."""
        with JournalReader(self.path) as reader:
            return reader.entries(run_id, after=0, bytes_max=1 << 30)

    def sequences(self, run_id: RunId = RUN) -> list[int]:
        """Read the numbers of a run's batches, in the order in which they are on disk."""
        return [e.sequence for e in self.entries(run_id) if e.kind is EntryKind.BATCH]

    def state(self, run_id: RunId = RUN) -> RunState | None:
        """Read how a run stands."""
        with JournalReader(self.path) as reader:
            run = reader.run(run_id)
        return run.state if run else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the journal's thread busy: what is handed over meanwhile shares the next commit."""
        entered, leave = threading.Event(), threading.Event()

        def occupy() -> None:
            entered.set()
            leave.wait(WAIT_S)

        occupied = self.journal._submit(occupy)
        assert entered.wait(WAIT_S)
        try:
            yield
        finally:
            leave.set()
        wait([occupied], WAIT_S)

    def run(self, run_id: RunId = RUN) -> JournaledRun:
        """Read a run's figures."""
        with JournalReader(self.path) as reader:
            run = reader.run(run_id)
        assert run is not None
        return run

    def trim(self, *sequences: int, run_id: RunId = RUN) -> None:
        """Have a run's entries up to its batch of the largest of these numbers deleted."""
        (point,) = (
            entry.offset
            for entry in self.entries(run_id)
            if entry.kind is EntryKind.BATCH and entry.sequence == max(sequences)
        )
        self.journal.trim({run_id: point})
        self.settle()

    def settle(self) -> None:
        """Wait until what was to be trimmed is."""
        while self.journal._submit(lambda: self.journal._trimmer.is_due).result(WAIT_S):
            pass

    def reopen(self) -> None:
        """Close the journal and open it anew."""
        self.close()
        self.journal = self._open()

    def close(self) -> None:
        """Close the journal."""
        if self.journal._thread.is_alive():
            self.journal.close()

    def _open(self) -> Journal:
        return Journal(
            self.path, on_commit=self._on_commit, on_fatal=self.fatal.append, **self.options
        )

    def _on_commit(self) -> None:
        self.commit_count += 1


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """Open a new journal."""
    books = Books(tmp_path / "journal.db")
    yield books
    books.close()


def started(last_sequence: int, *, is_resumed: bool, next_ordinal: int) -> Started:
    """Make what a writer of `start_of`'s learns when it starts."""
    return Started(last_sequence, is_resumed, next_ordinal, "demo", "a name", "wandb")


def start_of(run_id: RunId = RUN, writer_id: WriterId = WRITER, **changed: Any) -> RunStart:
    """Make a start that says little but what is given."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "writer_id": writer_id,
        "project": "demo",
        "name": "a name",
        "group": "",
        "job_type": "",
        "tags": (),
        "notes": "",
        "config": {},
        "environment": Environment(),
        "time_unix_nano": 1,
    }
    return RunStart(**fields | changed)


def finish_of(run_id: RunId, writer_id: WriterId, state: RunState, **changed: Any) -> RunFinish:
    """Make an end that says little but what is given."""
    fields: dict[str, Any] = {
        "exit_code": 0 if state is RunState.FINISHED else 1,
        "reason": "said so",
        "summary": {},
        "time_unix_nano": 2,
    }
    return RunFinish(run_id, writer_id, state, **fields | changed)


def payload_of(sequence: int) -> bytes:
    """Make the content of a batch, another for each number."""
    return b"batch %d " % sequence * 20


# What an ack means.


def test_ack_is_sent_only_after_commit(books: Books) -> None:
    """At the moment of the ack another connection already reads the batch."""
    books.start()
    read: list[list[int]] = []
    told = threading.Event()

    def on_ack(_: Future[int]) -> None:
        read.append(books.sequences())
        told.set()

    with books.held():
        books.submit(1).add_done_callback(on_ack)
    assert told.wait(WAIT_S)
    assert read == [[1]]


def test_nothing_is_acked_within_the_transaction(books: Books) -> None:
    """COMMIT is executed before the first ack of its group is given."""
    books.start()
    events: list[str] = []
    with books.held():
        books.journal._db.set_trace_callback(lambda sql: events.append(sql.split()[0]))
        for sequence in (1, 2):
            books.submit(sequence).add_done_callback(lambda _: events.append("ack"))
    books.append(2)  # both callbacks have run when this one is acked
    first = events.index("BEGIN")
    assert [e for e in events[first:] if e in {"BEGIN", "COMMIT", "ack"}][:4] == [
        *("BEGIN", "COMMIT", "ack", "ack")
    ]


def test_each_commit_is_synced(books: Books) -> None:
    """The journal is in WAL mode and syncs the log with every commit."""
    assert books.journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert books.journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_has_queued_up_shares_one_commit(books: Books) -> None:
    """Whatever comes while a commit runs goes into the next one, together."""
    books.start()
    with books.held():
        futures = [books.submit(sequence) for sequence in range(1, 11)]
        before = books.commit_count
    assert [future.result(WAIT_S) for future in futures] == list(range(1, 11))
    books.append(10)
    assert books.commit_count - before == 3  # the one that held, the ten, the last


def test_group_is_bounded(books: Books) -> None:
    """No more than `GROUP_ENTRIES_MAX` changes share a commit; the rest waits for the next."""
    books.start()
    with books.held():
        futures = [books.submit(sequence) for sequence in range(1, GROUP_ENTRIES_MAX + 2)]
        before = books.commit_count
    assert futures[-1].result(WAIT_S) == GROUP_ENTRIES_MAX + 1
    books.append(1)
    assert books.commit_count - before == 4  # the one that held, the full, the rest, the last


def test_refusal_harms_nothing_else_in_its_group(books: Books) -> None:
    """Of a group with a bad batch all others are kept."""
    books.start()
    with books.held():
        first, gap, second = books.submit(1), books.submit(3), books.submit(2)
    assert (first.result(WAIT_S), second.result(WAIT_S)) == (1, 2)
    with pytest.raises(StateError):
        gap.result(WAIT_S)
    assert books.sequences() == [1, 2]


# Numbers: gaps, duplicates, conflicts, lost ranges.


def test_gap_is_refused_with_the_expected_number(books: Books) -> None:
    """A batch that comes too early is refused, and the refusal names the one that is next."""
    books.start()
    books.append(1)
    with pytest.raises(StateError, match="Send 2 first") as refusal:
        books.append(3)
    assert refusal.value.reason == "SEQUENCE_GAP"
    assert refusal.value.facts == {"expected_sequence": "2"}
    assert books.append(2) == 2


def test_duplicate_is_acked_and_dropped(books: Books) -> None:
    """A batch that is on disk already is acked with the last number, and kept once."""
    books.start()
    for sequence in (1, 2, 3):
        books.append(sequence)
    before = books.entries()
    assert books.append(2) == 3
    assert books.entries() == before


def test_duplicate_within_a_group_is_kept_once(books: Books) -> None:
    """Also a batch whose first copy is not committed yet is a duplicate."""
    books.start()
    with books.held():
        futures = [books.submit(1), books.submit(1), books.submit(2)]
    assert [future.result(WAIT_S) for future in futures] == [1, 1, 2]
    assert books.sequences() == [1, 2]


def test_duplicate_is_acked_after_its_entry_was_deleted(books: Books) -> None:
    """Of a batch that was delivered and deleted the number alone is known; it is acked."""
    books.start()
    books.append(1)
    books.close()
    delete_entries(books.path)
    books.reopen()
    assert books.append(1, b"something else") == 1
    assert books.entries() == []


def test_other_content_under_the_same_number_is_refused(books: Books) -> None:
    """Two processes that use one writer id are told so; the first content stays."""
    books.start()
    books.append(1, b"mine")
    with pytest.raises(StateError) as refusal:
        books.append(1, b"yours")
    assert refusal.value.reason == "SEQUENCE_CONFLICT"
    assert [entry.payload for entry in books.entries()][1:] == [b"mine"]
    assert books.append(2) == 2


@pytest.mark.parametrize(
    ("run_id", "writer_id"), [(RUN, OTHER_WRITER), (OTHER_RUN, WRITER)], ids=["writer", "run"]
)
def test_unknown_writer_is_refused(books: Books, run_id: RunId, writer_id: WriterId) -> None:
    """Batches and ends of a writer that never started are refused."""
    books.start()
    with pytest.raises(StateError) as refusal:
        books.append(1, run_id=run_id, writer_id=writer_id)
    assert refusal.value.reason == "WRITER_UNKNOWN"
    with pytest.raises(StateError) as refusal:
        books.finish(0, run_id=run_id, writer_id=writer_id)
    assert refusal.value.reason == "WRITER_UNKNOWN"


def test_lost_range_takes_the_place_of_its_batches(books: Books) -> None:
    """A batch that stands for 2 to 5 follows 1 and is followed by 6; it holds no rows."""
    books.start()
    books.append(1)
    assert books.append(5, row_count=0, first_sequence=2) == 5
    assert books.append(3) == 5  # comes too late; it was given up
    assert books.append(6) == 6
    assert books.sequences() == [1, 5, 6]
    assert [entry.first_ordinal for entry in books.entries()] == [0, 0, 1, 1]


def test_lost_range_leaves_no_gap(books: Books) -> None:
    """A lost range that begins too late is refused like any gap."""
    books.start()
    with pytest.raises(StateError) as refusal:
        books.append(5, row_count=0, first_sequence=2)
    assert refusal.value.facts == {"expected_sequence": "1"}


# Ordinals, offsets and watermarks.


def test_ordinals_continue_across_writers_and_restarts(books: Books) -> None:
    """Each row of a run has its own number, whoever logged it and whenever."""
    books.start()
    books.append(1, row_count=3)
    books.reopen()
    assert books.start(writer_id=OTHER_WRITER) == started(0, is_resumed=True, next_ordinal=3)
    books.append(1, writer_id=OTHER_WRITER, row_count=2)
    books.append(2, row_count=4)
    books.reopen()
    assert books.start().next_ordinal == 9
    batches = [entry for entry in books.entries() if entry.kind is EntryKind.BATCH]
    assert [(e.first_ordinal, e.row_count) for e in batches] == [(0, 3), (3, 2), (5, 4)]


def noted_of(run_id: RunId = RUN) -> CheckedBatch:
    """Make a row of the sidecar's own."""
    payload = record_pb2.Batch(run_id=run_id).SerializeToString()
    return CheckedBatch(run_id, WriterId(""), 0, payload, row_count=1)


def test_rows_that_are_noted_move_no_writers_next_row(books: Books) -> None:
    """They take ordinals, but a writer goes on behind what writers have logged."""
    books.start()
    books.append(1, row_count=3)
    books.journal.note(noted_of()).result(WAIT_S)
    assert books.start(writer_id=OTHER_WRITER).next_ordinal == 3
    books.reopen()
    books.append(2, row_count=2)
    assert books.start().next_ordinal == 5
    assert books.run().row_count == 6
    assert [e.first_ordinal for e in books.entries() if e.row_count] == [0, 3, 4]


def sampled_of(*keys: str) -> CheckedBatch:
    """Make a sample of how the run's system does."""
    return sample_batch(RUN, 7, 1, dict.fromkeys(keys, 1.0))


def test_samples_take_ordinals_as_long_as_the_run_lives(books: Books) -> None:
    """They move no writer's next row; one that comes after the end changes nothing."""
    books.start()
    books.append(1, row_count=3)
    books.journal.sample(sampled_of("system/a")).result(WAIT_S)
    books.append(2, row_count=2)
    assert books.start().next_ordinal == 5
    books.finish(2)
    entries = books.entries()
    books.journal.sample(sampled_of("system/a")).result(WAIT_S)
    assert books.entries() == entries
    assert [e.first_ordinal for e in entries if e.row_count] == [0, 3, 4]
    assert books.run().row_count == 6


def test_sample_whose_metrics_the_run_cannot_take_is_left_out(tmp_path: Path) -> None:
    """Nothing of it is refused: the trainer has done nothing wrong."""
    books = Books(tmp_path / "journal.db", keys_max=2)
    books.start()
    books.journal.sample(sampled_of("system/a", "system/b", "system/c")).result(WAIT_S)
    books.journal.sample(sampled_of("system/a", "system/b")).result(WAIT_S)
    books.journal.sample(sampled_of("system/a", "system/d")).result(WAIT_S)
    assert books.run().row_count == 1
    assert books.run().refused_row_count + books.run().refused_value_count == 0
    books.close()


def test_samples_that_a_trainer_sends_itself_move_no_writers_next_row(books: Books) -> None:
    """Its sidecar, on another host, cannot see how it does."""
    books.start()
    batch = record_pb2.Batch(run_id=RUN, writer_id=WRITER, sequence=1)
    for keys in (("loss",), ("system/a",), ("loss", "system/a")):
        frame = batch.records.add().metric_frame
        frame.steps[:], frame.times_unix_nano[:] = [5, 6], [1, 2]
        for key in keys:
            frame.columns.add(key=key).doubles.values[:] = [1.0, 2.0]
    request = pb2.LogMetricsRequest(batch=batch)
    checked = check_log(request.SerializeToString())
    assert (checked.row_count, checked.system_row_count, checked.last_step) == (6, 2, 6)
    books.journal.append(checked).result(WAIT_S)
    assert books.start().next_ordinal == 4


def test_ordinals_are_per_run(books: Books) -> None:
    """Rows of one run do not move the numbers of another."""
    books.start()
    books.append(1, row_count=3)
    assert books.start(OTHER_RUN) == started(0, is_resumed=False, next_ordinal=0)
    books.append(1, run_id=OTHER_RUN)
    assert [entry.first_ordinal for entry in books.entries(OTHER_RUN)] == [0, 0]


def test_offsets_are_beyond_those_of_a_journal_that_was_lost(tmp_path: Path) -> None:
    """A journal that was made anew begins behind the one before: no cursor fits both."""
    offsets = []
    for name in ("lost.db", "new.db"):
        books = Books(tmp_path / name)
        books.start()
        with JournalReader(books.path) as reader:
            assert books.entries()[0].offset == reader.first_offset()
        offsets.append(books.entries()[-1].offset)
        books.close()
    assert offsets[0] < offsets[1]


def test_offsets_never_repeat_after_entries_are_deleted(books: Books) -> None:
    """A cursor may rely on it: what is behind it has a larger offset than all that ever was."""
    books.start()
    books.append(1)
    last = books.entries()[-1].offset
    books.close()
    delete_entries(books.path)
    books.reopen()
    books.append(2)
    assert [entry.offset for entry in books.entries()] == [last + 1]


def test_watermark_survives_a_restart(books: Books) -> None:
    """A writer that comes back learns its last number on disk, and goes on behind it."""
    books.start()
    for sequence in (1, 2, 3):
        books.append(sequence)
    journal_id = books.journal.id
    books.reopen()
    assert books.journal.id == journal_id
    assert books.start() == started(3, is_resumed=True, next_ordinal=3)
    assert books.append(4) == 4


def test_journal_ids_differ(tmp_path: Path) -> None:
    """A journal that was lost and made anew has another id, so that writers notice."""
    ids = set()
    for name in ("a.db", "b.db"):
        books = Books(tmp_path / name)
        ids.add(books.journal.id)
        books.close()
    assert len(ids) == 2


def test_clock_that_jumps_changes_neither_order_nor_numbers(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, duplicates and ordinals go by sequence and offset, whatever time it is."""
    times = iter([2 * 10**18, 1, 10**18, 0, 5])
    monkeypatch.setattr("pillion_sidecar.journal_ledger.time.time_ns", lambda: next(times))
    books.start()
    for sequence in (1, 2, 3):
        books.append(sequence)
    books.reopen()
    assert books.append(2) == 3
    assert books.append(4) == 4
    assert books.sequences() == [1, 2, 3, 4]
    assert [entry.first_ordinal for entry in books.entries()] == [0, 0, 1, 2, 3]
    with JournalReader(books.path) as reader:
        cursor = books.entries()[1].offset
        assert reader.undelivered(RUN, cursor) == (1, 10**18)


# Starts and ends.


def test_start_of_a_living_writer_writes_nothing(books: Books) -> None:
    """A start that is repeated because its answer was lost changes nothing."""
    assert books.start() == started(0, is_resumed=False, next_ordinal=0)
    assert books.start() == started(0, is_resumed=True, next_ordinal=0)
    assert [entry.kind for entry in books.entries()] == [EntryKind.START]


def test_resume_never_refuses_a_run_that_exists(books: Books) -> None:
    """With `never` a new writer may not join; the run's own writer may repeat its start."""
    books.start(may_resume=False)
    assert books.start(may_resume=False).is_resumed
    with pytest.raises(StateError) as refusal:
        books.start(writer_id=OTHER_WRITER, may_resume=False)
    assert refusal.value.reason == "RUN_EXISTS"
    with pytest.raises(StateError):  # nothing of the refused start was kept
        books.append(1, writer_id=OTHER_WRITER)


def test_resume_must_refuses_a_run_that_does_not_exist(books: Books) -> None:
    """With `must` a mistyped id makes no new run."""
    with pytest.raises(StateError) as refusal:
        books.start(must_resume=True)
    assert refusal.value.reason == "RUN_UNKNOWN"
    assert books.state() is None
    books.start()
    assert books.start(writer_id=OTHER_WRITER, must_resume=True).is_resumed


def test_run_ends_only_with_its_last_writer(books: Books) -> None:
    """While a writer lives the run does; the last one's end is the run's."""
    books.start()
    books.start(writer_id=OTHER_WRITER)
    books.append(1, row_count=2)
    assert books.finish(1) == Ended(RunState.RUNNING, 2)
    assert books.state() is RunState.RUNNING
    assert books.finish(0, writer_id=OTHER_WRITER) == Ended(RunState.FINISHED, 2)
    assert books.state() is RunState.FINISHED
    kinds = [entry.kind for entry in books.entries()]
    assert kinds[-2:] == [EntryKind.FINISH, EntryKind.END]


@pytest.mark.parametrize(("first", "second"), list(permutations(ENDS, 2)))
def test_worst_end_of_all_writers_is_the_runs(
    books: Books, first: RunState, second: RunState
) -> None:
    """In whatever order the writers end, the run's end is the worst of theirs."""
    books.start()
    books.start(writer_id=OTHER_WRITER)
    books.finish(0, first)
    worst = max(first, second)
    assert books.finish(0, second, writer_id=OTHER_WRITER).state is worst
    assert books.state() is worst
    payload = books.entries()[-1].payload
    assert payload is not None
    end = decode_finish(payload)
    assert (end.state, end.exit_code, end.reason) == (worst, 1, "said so")


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(None, "vanished"), (-9, "killed")], (-9, "killed")),
        ([(-9, "killed"), (None, "vanished")], (-9, "killed")),
        ([(1, "first"), (2, "second")], (1, "first")),
        ([(1, ""), (2, "why")], (2, "why")),
        ([(None, "why"), (2, "")], (2, "")),
        ([(None, ""), (None, "why")], (None, "why")),
        ([(None, ""), (None, "")], (None, "")),
    ],
)
def test_of_equally_bad_ends_the_one_that_says_most_is_the_runs(
    books: Books, ends: list[tuple[int | None, str]], told: tuple[int | None, str]
) -> None:
    """An exit code says most, then a reason, then who was first; FINISHED beside them no matter."""
    writers = [WriterId(name) for name in ("z", "y", "x")]
    for writer in writers:
        books.start(writer_id=writer)
    for writer, (exit_code, reason) in zip(writers, ends, strict=False):
        how = {"exit_code": exit_code, "reason": reason, "writer_id": writer}
        books.finish(0, RunState.CRASHED, **how)
    books.finish(0, RunState.FINISHED, writer_id=writers[-1])
    payload = books.entries()[-1].payload
    assert payload is not None
    end = decode_finish(payload)
    reason = told[1] or "Another writer had ended as CRASHED."
    assert (end.state, end.exit_code, end.reason) == (RunState.CRASHED, told[0], reason)


def test_an_end_that_was_taken_back_counts_no_more(books: Books) -> None:
    """A writer that came back and ends well leaves nothing of its earlier end."""
    books.start()
    books.finish(0, RunState.CRASHED, exit_code=None, reason="vanished")
    books.append(1)
    books.finish(1)
    payload = books.entries()[-1].payload
    assert payload is not None
    end = decode_finish(payload)
    assert (end.state, end.exit_code, end.reason) == (RunState.FINISHED, 0, "said so")


def test_a_run_that_is_resumed_ends_as_its_last_life_did(books: Books) -> None:
    """Killed, then gone on with by another process: how it ended before counts no more."""
    books.start()
    books.finish(0, RunState.CRASHED, time_unix_nano=20)
    late = start_of(writer_id=WriterId("late"), time_unix_nano=19)
    books.journal.start(late).result(WAIT_S)
    assert books.finish(0, writer_id=late.writer_id, time_unix_nano=30).state is RunState.CRASHED
    for time_unix_nano, state in ((31, RunState.FINISHED), (41, RunState.FAILED)):
        writer = WriterId(str(time_unix_nano))
        books.journal.start(start_of(writer_id=writer, time_unix_nano=time_unix_nano)).result(
            WAIT_S
        )
        books.reopen()
        end = books.finish(0, state, writer_id=writer, time_unix_nano=time_unix_nano + 5)
        assert end.state is books.state() is state


def test_finish_never_overtakes_data(books: Books) -> None:
    """An end is refused while batches up to the writer's last one are missing."""
    books.start()
    books.append(1)
    with pytest.raises(StateError) as refusal:
        books.finish(2)
    assert refusal.value.reason == "SEQUENCE_GAP"
    assert refusal.value.facts == {"expected_sequence": "2"}
    assert books.state() is RunState.RUNNING
    books.append(2)
    assert books.finish(2).state is RunState.FINISHED


def test_writer_that_vanished_ends_where_it_was(books: Books) -> None:
    """If nobody knows the last number, the writer ends with what is on disk."""
    books.start()
    books.append(1)
    assert books.finish(None, RunState.CRASHED) == Ended(RunState.CRASHED, 1)


def test_second_finish_changes_nothing(books: Books) -> None:
    """An end that is repeated because its answer was lost is answered again, and kept once."""
    books.start()
    first = books.finish(0, RunState.FAILED)
    before = books.entries()
    assert books.finish(0, RunState.FINISHED) == first
    assert books.entries() == before


def test_batch_after_the_end_reopens_the_run(books: Books) -> None:
    """Rows that come late are kept, and the run lives until it is ended again."""
    books.start()
    books.finish(0, RunState.CRASHED)
    assert books.append(1) == 1
    assert books.state() is RunState.RUNNING
    assert books.finish(1).state is RunState.FINISHED


def test_start_after_the_end_reopens_the_run(books: Books) -> None:
    """A writer that comes back goes on behind its last number."""
    books.start()
    books.append(1)
    books.finish(1, RunState.CRASHED)
    assert books.start() == started(1, is_resumed=True, next_ordinal=1)
    assert books.state() is RunState.RUNNING
    assert [entry.kind for entry in books.entries()][-1] is EntryKind.START


def test_live_writers_are_those_that_have_not_ended(books: Books) -> None:
    """After a restart it is known who must be looked after, and where it runs."""
    here = Environment(
        host="a", process=ProcessIdentity("boot", 1, 2, 3), program="train.py", platform="Linux"
    )
    books.start(OTHER_RUN)
    books.finish(0, run_id=OTHER_RUN)
    books.journal.start(start_of(environment=here)).result(WAIT_S)
    books.reopen()
    assert books.journal.live_writers() == [(RUN, WRITER, here)]


# Changes from outside.


def test_the_first_who_names_a_run_names_it(books: Books) -> None:
    """A project and a name that nobody has asked for give way to those that a joiner asks for."""
    other, third = OTHER_WRITER, WriterId("third")
    unnamed = start_of(is_project_given=False, is_name_given=False, project="none", name="run")
    books.journal.start(unnamed).result(WAIT_S)
    joined = books.journal.start(start_of(writer_id=other, project="mine", is_name_given=False))
    assert joined.result(WAIT_S) == Started(0, True, 0, "mine", "run", "wandb")
    books.reopen()
    joined = books.journal.start(start_of(writer_id=third, project="theirs", name="named"))
    assert joined.result(WAIT_S) == Started(0, True, 0, "mine", "named", "wandb")
    updates = [decode_update(payload_in(e)) for e in books.entries() if e.kind is EntryKind.UPDATE]
    assert updates == [RunUpdate(RUN, project="mine"), RunUpdate(RUN, name="named")]


def test_a_change_of_a_run_that_has_ended_is_followed_by_its_end(books: Books) -> None:
    """So that whoever opens the run for it ends it again, as it ended; it stays ended."""
    books.start()
    end = finish_of(RUN, WRITER, RunState.FAILED, summary={"x": 1}, time_unix_nano=77)
    books.journal.finish(end, last_sequence=0).result(WAIT_S)
    books.reopen()
    update = RunUpdate(RUN, add_tags=("new",), config={"y": 2})
    books.journal.update(update).result(WAIT_S)
    *_, changed, again = books.entries()
    assert (changed.kind, decode_update(payload_in(changed))) == (EntryKind.UPDATE, update)
    assert (again.kind, decode_finish(payload_in(again))) == (EntryKind.END, end)
    assert books.run().state is RunState.FAILED
    with pytest.raises(StateError, match="no run"):
        books.journal.update(RunUpdate(OTHER_RUN)).result(WAIT_S)


def payload_in(entry: Entry) -> bytes:
    """Return what an entry says, which is not damaged."""
    assert entry.payload is not None
    return entry.payload


# Deletions.


def last_offset(books: Books, run_id: RunId = RUN) -> Offset:
    """Read a run's last offset."""
    return books.run(run_id).last_offset


def test_a_deleted_run_leaves_nothing_and_its_id_waits_for_the_store(books: Books) -> None:
    """Also across a restart; then a run begins anew, behind every offset of the former one."""
    for run_id in (RUN, OTHER_RUN):
        books.start(run_id)
        books.append(1, run_id=run_id, keys=frozenset({"loss"}))
        books.finish(1, run_id=run_id)
    cursor = last_offset(books)
    books.journal.trim({RUN: cursor})
    books.journal.delete(RUN, cursor).result(WAIT_S)
    books.settle()
    for table in ("entries", "keys", "writers", "runs"):
        rows = books.journal._db.execute(f"SELECT DISTINCT run_id FROM {table}").fetchall()
        assert rows == [(OTHER_RUN,)]
    with pytest.raises(StateError) as unknown:
        books.append(2)
    assert unknown.value.reason == "WRITER_UNKNOWN"
    books.reopen()
    assert books.journal.pending_deletions() == {RUN: cursor}
    books.journal.end_deletion(RUN, Offset(cursor - 1)).result(WAIT_S)
    with pytest.raises(LimitError) as refused:
        books.start()
    assert refused.value.reason == "RUN_DELETING"
    books.journal.end_deletion(RUN, cursor).result(WAIT_S)
    assert books.journal.pending_deletions() == {}
    assert books.start() == started(0, is_resumed=False, next_ordinal=0)
    assert books.append(1) == 1
    assert books.entries()[0].offset > cursor


def test_what_lives_or_was_changed_just_now_is_not_deleted(books: Books) -> None:
    """The caller has looked at the run before; what came in between counts."""
    books.start()
    with pytest.raises(StateError) as refused:
        books.journal.delete(RUN, last_offset(books)).result(WAIT_S)
    assert refused.value.reason == "RUN_LIVE"
    books.finish(0)
    before = last_offset(books)
    books.journal.update(RunUpdate(RUN, name="new")).result(WAIT_S)
    with pytest.raises(StateError) as refused:
        books.journal.delete(RUN, before).result(WAIT_S)
    assert refused.value.reason == "RUN_UNDELIVERED"
    assert books.state() is RunState.FINISHED


# Futures that nobody waits for, and the close.


def test_cancelled_change_is_left_out(books: Books) -> None:
    """A caller that goes away in time takes its change back; the others are served."""
    books.start()
    with books.held():
        first, second = books.submit(1, b"taken back"), books.submit(1, b"kept")
        assert first.cancel()
    assert second.result(WAIT_S) == 1
    assert books.entries()[-1].payload == b"kept"


def test_change_being_made_cannot_be_taken_back(books: Books) -> None:
    """Once a change is part of a group it is made, whether its caller waits or not."""
    entered, leave = threading.Event(), threading.Event()

    def occupy() -> str:
        entered.set()
        leave.wait(WAIT_S)
        return "made"

    future = books.journal._submit(occupy)
    assert entered.wait(WAIT_S)
    assert not future.cancel()
    leave.set()
    assert future.result(WAIT_S) == "made"


def test_close_commits_what_was_handed_over(books: Books) -> None:
    """Nothing that was handed over before the close is left in the queue."""
    books.start()
    with books.held():
        futures = [books.submit(sequence) for sequence in range(1, 101)]
    books.close()
    assert [future.result(timeout=0) for future in futures] == list(range(1, 101))
    assert books.sequences() == list(range(1, 101))


def test_close_ends_the_thread_whatever_comes_behind_it(books: Books) -> None:
    """A change that is handed over while the journal closes does not keep it open."""
    books.start()
    with books.held():
        books.journal._queue.put(None)  # what `close` does, before it waits
        books.submit(1)
    probe = books.journal._submit(lambda: None)
    while books.journal._thread.is_alive() and not probe.done():
        books.journal._thread.join(0.01)
    assert not books.journal._thread.is_alive()


def test_every_caller_is_answered(books: Books) -> None:
    """A change that cannot be encoded is refused; it harms neither its caller nor its group."""
    with books.held():
        before, odd, after = (
            books.journal.start(start_of(writer_id=WriterId(name), time_unix_nano=time))
            for name, time in (("a", 1), ("b", 2**63), ("c", 2))
        )
    assert isinstance(odd.exception(WAIT_S), ValueError)
    assert before.result(WAIT_S) == started(0, is_resumed=False, next_ordinal=0)
    assert after.result(WAIT_S) == started(0, is_resumed=True, next_ordinal=0)
    assert [entry.writer_id for entry in books.entries()] == ["a", "c"]
    assert books.fatal == []


# What is counted.


def test_what_writers_refused_and_dropped_is_counted_per_run(books: Books) -> None:
    """A writer's own counts only grow, those of lost batches add up, and a run has all writers'."""
    books.start()
    books.start(writer_id=OTHER_WRITER)
    books.append(1, refused_row_count=5, refused_value_count=1)
    books.append(2, refused_row_count=3, refused_value_count=2)
    books.append(4, first_sequence=3, row_count=0, dropped_row_count=10)
    books.append(4, first_sequence=3, row_count=0, dropped_row_count=10)  # the same again
    books.append(1, writer_id=OTHER_WRITER, row_count=0, dropped_row_count=7)
    end = finish_of(RUN, OTHER_WRITER, RunState.FINISHED)
    books.journal.finish(end, last_sequence=1, refused_row_count=100, refused_value_count=0).result(
        WAIT_S
    )
    with JournalReader(books.path) as reader:
        run = reader.run(RUN)
        assert run is not None
        assert reader.runs() == [run]
    assert run.row_count == 2
    assert (run.refused_row_count, run.refused_value_count, run.dropped_row_count) == (105, 2, 17)


# Trimming.


def test_what_every_sink_has_is_deleted_and_nothing_else(books: Books) -> None:
    """A run's entries up to the point go; later ones and other runs' stay; counters go on."""
    books.start()
    books.start(OTHER_RUN)
    for sequence in (1, 2, 3):
        books.append(sequence)
        books.append(sequence, run_id=OTHER_RUN)
    kept = books.entries()[3:]
    books.trim(2)
    assert books.entries() == kept
    assert len(books.entries(OTHER_RUN)) == 4
    assert books.run().trimmed_offset == kept[0].offset - 2
    assert (books.run().row_count, books.run(OTHER_RUN).trimmed_offset) == (3, 0)
    books.reopen()
    assert books.append(2, b"whatever") == 3  # it is not known any more what it was
    with pytest.raises(StateError):
        books.append(3, b"something else")
    assert books.append(4) == 4
    assert [entry.first_ordinal for entry in books.entries()] == [2, 3]


def test_trimming_beyond_the_end_or_backwards_is_harmless(books: Books) -> None:
    """A point beyond what there is trims all; a lower one, or an unknown run, changes nothing."""
    books.start()
    books.append(1)
    last = books.entries()[-1].offset
    books.journal.trim({RUN: Offset(last + 100), RunId("unknown"): last})
    books.settle()
    assert books.entries() == []
    assert books.run().trimmed_offset == last
    books.append(2)
    books.journal.trim({RUN: Offset(last - 1)})
    books.settle()
    assert books.run().trimmed_offset == last
    assert [entry.offset for entry in books.entries()] == [last + 1]


def test_trimming_goes_by_slices_and_appends_wait_for_one_at_most(books: Books) -> None:
    """Of much that is to be deleted a commit takes a slice; an append that comes goes with it."""
    books.start()
    with books.held():
        futures = [books.submit(sequence) for sequence in range(1, 3 * SLICE_ENTRIES_MAX)]
    wait(futures, WAIT_S)
    statements: list[str] = []
    with books.held():
        books.journal.trim({RUN: books.entries()[-1].offset})
        appended = books.submit(3 * SLICE_ENTRIES_MAX)
        books.journal._db.set_trace_callback(statements.append)
    appended.result(WAIT_S)
    books.settle()
    told = [sql.split()[0] for sql in statements if sql.split()[0] in {"DELETE", "COMMIT"}]
    assert told.count("DELETE") == 3
    # The commit of what held the thread, the append's with the first slice, then the others'.
    assert told[:5] == ["COMMIT", "DELETE", "COMMIT", "DELETE", "COMMIT"]
    assert [entry.sequence for entry in books.entries()] == [3 * SLICE_ENTRIES_MAX]


def test_slice_is_bounded_in_bytes(books: Books) -> None:
    """Large entries go a few at a time."""
    books.start()
    payload = bytes(SLICE_BYTES_MAX // 2)
    for sequence in range(1, 6):
        books.append(sequence, payload)
    statements: list[str] = []
    books.journal._db.set_trace_callback(statements.append)
    books.trim(5)
    assert sum(sql.startswith("DELETE") for sql in statements) == 3
    assert books.entries() == []


def test_room_of_what_was_trimmed_is_used_again(books: Books) -> None:
    """A journal that is trimmed as it grows does not grow."""
    books.start()
    sizes = []
    for sequence in range(1, 41):
        books.append(sequence, bytes(500_000))
        books.trim(sequence)
        sizes.append(books.path.stat().st_size)
    assert sizes[-1] <= max(sizes[:20])
    assert books.journal.room().result(WAIT_S).reusable_bytes > 0


def test_log_stays_bounded_beside_readers_that_always_read(books: Books) -> None:
    """The log begins anew now and then, also if somebody is always in the middle of reading."""
    books.start()
    is_over = threading.Event()

    def read() -> None:
        with JournalReader(books.path) as reader:
            while not is_over.is_set():
                reader.entries(RUN, Offset(0), 4_000_000)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    log, largest = Path(f"{books.path}-wal"), 0
    for sequence in range(1, 161):
        books.append(sequence, bytes(1_000_000))
        largest = max(largest, log.stat().st_size)
    is_over.set()
    for reader in readers:
        reader.join()
    assert largest < LOG_BYTES_MAX + 2 * GROUP_BYTES_MAX


# Metrics per run.


def batch_of(sequence: int, *frames: Sequence[str], row_count: int = 1) -> CheckedBatch:
    """Make a batch whose frames have these metrics."""
    request = pb2.LogMetricsRequest()
    request.batch.run_id, request.batch.writer_id, request.batch.sequence = RUN, WRITER, sequence
    for keys in frames:
        frame = request.batch.records.add().metric_frame
        frame.steps.extend(range(row_count))
        frame.times_unix_nano.extend(range(row_count))
        for key in keys:
            frame.columns.add(key=key).doubles.values.extend([0.5] * row_count)
    return check_log(request.SerializeToString())


def keys_of(books: Books) -> list[list[str]]:
    """Read the metrics of each frame that is on disk."""
    payloads = [e.payload for e in books.entries() if e.kind is EntryKind.BATCH]
    assert None not in payloads
    return [
        list(record.columns) if isinstance(record, Frame) else [type(record).__name__]
        for payload in payloads
        for record in decode_batch(payload or b"", 0)
    ]


def test_metrics_beyond_the_bound_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those there are go on; of new ones only what fits; said once; the same after a restart."""
    books = Books(tmp_path / "journal.db", keys_max=3)
    books.start()

    def take(batch: CheckedBatch) -> int:
        return books.journal.append(batch).result(WAIT_S)

    batches = [
        batch_of(1, ["a", "b"]),
        batch_of(2, ["d", "b", "c"], ["a"], row_count=2),  # `c` still fits in, `d` does not
        batch_of(3, ["x"], ["a", "y"], ["z"], row_count=2),
        batch_of(4, ["e"]),
    ]
    assert [take(batch) for batch in batches] == [1, 2, 3, 4]
    assert keys_of(books) == [["a", "b"], ["b", "c"], ["a"], ["a"], ["SummaryUpdate"]]
    run = books.run()
    assert (run.row_count, run.refused_row_count, run.refused_value_count) == (7, 5, 4)
    ordinals = [e.first_ordinal for e in books.entries() if e.kind is EntryKind.BATCH]
    assert ordinals == [0, 1, 5, 7]
    books.options["keys_max"] = 100
    books.reopen()
    assert [take(batch) for batch in batches] == [4, 4, 4, 4]  # the same again
    with pytest.raises(StateError):
        take(batch_of(3, ["x"], ["b", "y"], ["z"], row_count=2))
    assert take(batch_of(5, ["a", "new"])) == 5  # what was full stays so
    assert keys_of(books)[-1] == ["a"]
    assert books.run().refused_value_count == 5
    (warning,) = caplog.records
    assert (warning.run_id, warning.metric_count) == (RUN, 3)
    books.close()


def test_metrics_of_a_refused_transaction_are_forgotten(tmp_path: Path) -> None:
    """What was not committed takes no place."""
    books = Books(tmp_path / "journal.db", keys_max=1)
    books.start()
    with full_disk(books), pytest.raises(LimitError):
        books.journal.append(replace(batch_of(1, ["a"]), payload=bytes(100_000))).result(WAIT_S)
    books.journal.append(batch_of(1, ["b"])).result(WAIT_S)
    assert keys_of(books) == [["b"]]
    books.close()


# Damage that was found while it runs.


def test_entry_that_is_damaged_twice_is_counted_once(books: Books) -> None:
    """What stands for a damaged entry may be damaged in turn; what was put aside first stays."""
    books.start()
    books.append(1)
    offset = books.entries()[1].offset
    for content in ("x'00'", "x'01'"):
        with closing(sqlite3.connect(books.path)) as db, db:
            db.execute(f"UPDATE entries SET payload = {content} WHERE offset = ?", (offset,))
        assert books.journal.quarantine(offset).result(WAIT_S)
    assert books.run().dropped_row_count == 1
    assert books.append(2) == 2
    with closing(sqlite3.connect(books.path)) as db:
        assert db.execute("SELECT payload FROM damaged").fetchall() == [(b"\0",)]


def test_damaged_entry_is_put_aside_and_counted(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """Its payload is kept beside, its rows count as dropped, and what stands for it says so."""
    books.start()
    for sequence in (1, 2, 3):
        books.append(sequence, row_count=sequence)
    damaged, sound = books.entries()[2], books.entries()[3]
    with closing(sqlite3.connect(books.path)) as db, db:
        db.execute("UPDATE entries SET payload = x'00' WHERE offset = ?", (damaged.offset,))
    assert books.journal.quarantine(damaged.offset).result(WAIT_S)
    assert not books.journal.quarantine(damaged.offset).result(WAIT_S)  # a second sink found it too
    assert not books.journal.quarantine(sound.offset).result(WAIT_S)
    assert not books.journal.quarantine(Offset(1)).result(WAIT_S)
    entry = books.entries()[2]
    assert replace(entry, payload=damaged.payload) == damaged
    assert decode_batch(entry.payload or b"", 1) == [LostRange(2, 2, 2)]
    assert (books.run().row_count, books.run().dropped_row_count) == (6, 2)
    assert books.append(2) == 3  # what it was can no longer be told
    assert books.append(4) == 4
    (told,) = caplog.records
    assert (told.run_id, told.writer_id, told.sequence, told.row_count) == (RUN, WRITER, 2, 2)
    with closing(sqlite3.connect(books.path)) as db:
        assert db.execute("SELECT payload FROM damaged").fetchall() == [(b"\0",)]


@pytest.mark.parametrize("kind", [EntryKind.START, EntryKind.FINISH, EntryKind.END])
def test_damaged_start_or_end_is_replaced_by_one_that_says_little(
    books: Books, kind: EntryKind
) -> None:
    """The rows around it find their run."""
    books.start()
    books.start(writer_id=OTHER_WRITER)
    books.finish(0, writer_id=OTHER_WRITER)
    books.finish(0)
    (damaged,) = [e for e in books.entries() if e.kind is kind][:1]
    with closing(sqlite3.connect(books.path)) as db, db:
        db.execute("UPDATE entries SET payload = x'00' WHERE offset = ?", (damaged.offset,))
    assert books.journal.quarantine(damaged.offset).result(WAIT_S)
    (payload,) = [e.payload for e in books.entries() if e.offset == damaged.offset]
    assert payload is not None
    if kind is EntryKind.START:
        assert "damaged" in decode_start(payload).notes
    else:
        assert (decode_finish(payload).state, "damaged" in decode_finish(payload).reason) == (
            *(RunState.CRASHED, True),
        )
    assert books.run().dropped_row_count == 0


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_acked_into_a_file_that_is_gone(
    books: Books, suffix: str, is_replaced: bool
) -> None:
    """A journal that is deleted or replaced under a running sidecar stops it."""
    books.start()
    books.append(1)
    file = Path(f"{books.path}{suffix}")
    content = file.read_bytes()
    file.unlink()
    if is_replaced:
        file.with_name("new").write_bytes(content)
        file.with_name("new").rename(file)
    with pytest.raises(DiskError) as failure:
        books.append(2)
    assert failure.value.reason == "JOURNAL_FAILED"
    assert "deleted or replaced" in str(failure.value)
    assert len(books.fatal) == 1


def test_journal_that_has_lost_its_end_goes_on_behind_the_sinks(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """Offsets and ordinals that a sink has seen are never given a second time."""
    books.start()
    books.append(1)
    last = books.journal.last_offset()
    assert last == books.entries()[-1].offset
    new = RunId("new")
    stored = {RUN: (Offset(last + 3), 10, "wandb"), new: (Offset(last + 4), 0, "wandb-team")}
    books.journal.catch_up(stored, is_store=True).result(WAIT_S)
    finished = {RUN: (Offset(last + 9), 12, "wandb")}
    books.journal.catch_up(finished, is_store=False).result(WAIT_S)
    run = books.run()
    assert (run.row_count, run.last_offset, run.trimmed_offset) == (12, last + 9, last + 3)
    assert run.dropped_row_count == 2  # those that the store does not have
    assert books.run(new).trimmed_offset == last + 4
    told = [(r.run_id, r.first_ordinal, r.row_count, r.is_in_store) for r in caplog.records]
    assert told == [(RUN, 1, 9, True), (new, 0, 0, True), (RUN, 10, 2, False)]
    books.reopen()
    books.append(2)
    assert (books.entries()[-1].offset, books.entries()[-1].first_ordinal) == (last + 10, 12)
    started = books.start(new)
    assert (started.is_resumed, started.wandb_sink) == (True, "wandb-team")


# What cannot be opened, and what is brought up to date.

_FORMAT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, state INTEGER NOT NULL, next_ordinal INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE writers (
    run_id TEXT NOT NULL, writer_id TEXT NOT NULL, last_sequence INTEGER NOT NULL,
    state INTEGER NOT NULL, environment BLOB NOT NULL, PRIMARY KEY (run_id, writer_id)
) WITHOUT ROWID;
CREATE TABLE entries (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, writer_id TEXT NOT NULL,
    sequence INTEGER NOT NULL, kind INTEGER NOT NULL, first_ordinal INTEGER NOT NULL,
    row_count INTEGER NOT NULL, crc32 INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX entries_by_run ON entries (run_id, offset);
CREATE INDEX entries_by_writer ON entries (run_id, writer_id, sequence);
INSERT INTO meta VALUES ('format', '1'), ('journal_id', 'abc'), ('first_offset', '100');
INSERT INTO runs VALUES ('run', 1, 3), ('other-run', 5, 0);
INSERT INTO writers VALUES
    ('run', 'w', 2, 1, x''), ('run', 'v', 0, 5, x''), ('other-run', 'w', 0, 5, x'');
"""


def test_journal_of_format_1_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    """Entries, numbers, watermarks and states stay; what is new begins at nothing."""
    path = tmp_path / "journal.db"
    payloads = [(100, 0, 1, 0, 0, b"start"), (101, 1, 2, 0, 1, b"one"), (103, 2, 2, 1, 2, b"two")]
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_FORMAT_1)
        for offset, sequence, kind, ordinal, row_count, payload in payloads:
            db.execute(
                "INSERT INTO entries VALUES (?, 'run', 'w', ?, ?, ?, ?, ?, ?)",
                (offset, sequence, kind, ordinal, row_count, zlib.crc32(payload), payload),
            )
    before_ns = time.time_ns()
    books = Books(path)
    assert books.journal.id == "abc"
    with JournalReader(path) as reader:
        assert reader.first_offset() == 100
        assert reader.run(OTHER_RUN) == JournaledRun(OTHER_RUN, RunState.CRASHED, 0, Offset(0))
        assert reader.run(RUN) == JournaledRun(RUN, RunState.RUNNING, 3, Offset(103))
        ordinal, time_unix_nano = reader.undelivered(RUN, Offset(101)) or (0, 0)
    assert ordinal == 1
    assert before_ns <= time_unix_nano <= time.time_ns()
    assert [(e.offset, e.payload) for e in books.entries()] == [(p[0], p[5]) for p in payloads]
    assert [writer for _, writer, _ in books.journal.live_writers()] == [WRITER]
    assert books.append(2, b"two") == 2
    assert books.append(3) == 3
    assert books.finish(3).state is RunState.CRASHED  # the other writer's end is known
    assert [entry.offset for entry in books.entries()] == [100, 101, 103, 104, 105]
    books.reopen()
    assert books.start().last_sequence == 3
    books.close()


def test_tables_of_format_1_become_those_of_a_new_journal(tmp_path: Path) -> None:
    """Whether it was made or brought up to date, a journal has the same columns and indexes."""
    found = []
    for name in ("old.db", "new.db"):
        with closing(sqlite3.connect(tmp_path / name)) as db, db:
            db.executescript(_FORMAT_1 if name == "old.db" else "")
        Books(tmp_path / name).close()
        with closing(sqlite3.connect(tmp_path / name)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema ORDER BY 1")]
            columns = {
                n: sorted(db.execute(f"SELECT name, type, pk FROM pragma_table_info('{n}')"))
                for n in names
            }
            indexes = {n: db.execute(f"PRAGMA index_info('{n}')").fetchall() for n in names}
            found.append((names, columns, {n: [c[2] for c in i] for n, i in indexes.items()}))
    assert found[0] == found[1]


def test_journal_of_format_3_counts_the_rows_that_were_noted(books: Books) -> None:
    """Of the entries that are there."""
    books.start()
    books.start(OTHER_RUN)
    books.append(1, row_count=3)
    books.journal.note(noted_of()).result(WAIT_S)
    books.close()
    with closing(sqlite3.connect(books.path)) as db, db:
        db.execute("ALTER TABLE runs DROP COLUMN noted_row_count")
        db.execute("UPDATE meta SET value = '3' WHERE key = 'format'")
    books.reopen()
    assert (books.start().next_ordinal, books.start(OTHER_RUN).next_ordinal) == (3, 0)


def test_newer_format_is_refused(books: Books) -> None:
    """A journal of a newer Pillion is not opened, and not changed."""
    books.start()
    books.close()
    with closing(sqlite3.connect(books.path)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (FORMAT + 1,))
    with pytest.raises(SettingsError, match=f"is of format {FORMAT + 1}"):
        books.reopen()
    assert len(books.entries()) == 1


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Somebody else's file is refused, and left as it is."""
    path = tmp_path / "journal.db"
    content = b"something quite different\n" * 100
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="not a journal"):
        Books(path)
    assert path.read_bytes() == content


def test_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A database without our tables is refused."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE songs (title)")
    with pytest.raises(SettingsError, match="not a journal"):
        Books(path)


def test_database_with_another_meta_table_is_refused(tmp_path: Path) -> None:
    """The store's file, which has a table `meta` too, is refused."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        db.execute("INSERT INTO meta VALUES ('store_format', '1')")
    with pytest.raises(SettingsError):
        Books(path)


def test_file_that_cannot_be_opened_is_the_disks_fault(tmp_path: Path) -> None:
    """A directory in the journal's place is told as what it is."""
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(DiskError, match="cannot be opened"):
        Books(tmp_path / "journal.db")


# A disk that is full, nearly so, or fails.


def test_intake_is_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    """With less room than the reserve new batches and writers are refused, and nothing else is."""
    books = Books(tmp_path / "journal.db", disk_reserve_bytes=1000)
    books.start()
    books.append(1)
    room = books.journal.room().result(WAIT_S)
    assert not room.is_refusing
    assert room.free_bytes > room.reserve_bytes == 1000
    assert room.journal_bytes >= books.path.stat().st_size
    books.options["disk_reserve_bytes"] = 1 << 60
    books.reopen()
    assert books.journal.room().result(WAIT_S).is_refusing
    for attempt in (
        lambda: books.append(2),
        lambda: books.start(OTHER_RUN),
        lambda: books.start(writer_id=OTHER_WRITER),
    ):
        with pytest.raises(LimitError) as refusal:
            attempt()
        assert refusal.value.reason == "DISK_FULL"
    assert books.start().last_sequence == 1
    assert books.append(1) == 1  # it is on disk
    books.trim(1)
    assert books.entries() == []
    assert books.finish(1).state is RunState.FINISHED
    with pytest.raises(LimitError):
        books.start()
    books.options["disk_reserve_bytes"] = 1000
    books.reopen()
    assert books.append(2) == 2
    books.close()


def test_room_that_is_used_again_counts(tmp_path: Path) -> None:
    """Pages of deleted entries are room for new ones."""
    books = Books(tmp_path / "journal.db")
    books.start()
    books.append(1, bytes(8 << 20))
    books.trim(1)
    room = books.journal.room().result(WAIT_S)
    assert room.reusable_bytes > 8 << 20
    books.options["disk_reserve_bytes"] = room.free_bytes + (4 << 20)
    books.reopen()
    assert books.append(2) == 2
    books.close()


def test_a_group_counts_what_it_takes(tmp_path: Path) -> None:
    """What queued up behind a slow disk is taken as far as there is room, and no further."""
    books = Books(tmp_path / "journal.db")
    books.start()
    books.options["disk_reserve_bytes"] = books.journal.room().result(WAIT_S).free_bytes - (
        64 << 20
    )
    books.reopen()
    with books.held():
        futures = [books.submit(number, bytes(1 << 20)) for number in range(1, 65)]
    errors = [future.exception(WAIT_S) for future in futures]
    assert errors[0] is None
    assert isinstance(errors[-1], StateError | LimitError)
    assert any(isinstance(error, LimitError) for error in errors)
    books.close()


def test_full_disk_refuses_and_intake_goes_on_when_there_is_room(books: Books) -> None:
    """Nothing of a refused batch is kept, and the same batch is taken once there is room."""
    books.start()
    books.append(1)
    with full_disk(books):
        with pytest.raises(LimitError) as refusal:
            books.append(2, bytes(100_000))
        assert refusal.value.reason == "DISK_FULL"
        assert books.sequences() == [1]
    assert books.append(2, bytes(100_000)) == 2
    assert [entry.first_ordinal for entry in books.entries()] == [0, 0, 1]
    assert books.fatal == []


def test_full_disk_refuses_a_group_as_a_whole(books: Books) -> None:
    """Of a group that does not fit nothing is kept, also not what came before in it."""
    books.start()
    with full_disk(books):
        with books.held():
            futures = [books.submit(1), books.submit(2, bytes(100_000)), books.submit(3)]
        for future in futures:
            with pytest.raises(LimitError):
                future.result(WAIT_S)
        assert books.start().last_sequence == 0
        assert books.sequences() == []
    assert [books.append(sequence) for sequence in (1, 2, 3)] == [1, 2, 3]


def test_failed_disk_stops_the_journal_for_good(books: Books) -> None:
    """After an error that is not a full disk nothing is acked any more, and that is told once."""
    books.start()
    books.append(1)
    fail_next_statement(books)
    for sequence in (2, 2, 3):
        with pytest.raises(DiskError) as failure:
            books.append(sequence)
        assert failure.value.reason == "JOURNAL_FAILED"
    assert len(books.fatal) == 1
    books.reopen()
    assert books.start().last_sequence == 1
    assert books.append(2) == 2


def test_failed_disk_fails_all_that_wait(books: Books) -> None:
    """Whoever had handed something over when the disk failed is told so."""
    books.start()
    with books.held():
        futures = [books.submit(sequence) for sequence in range(1, GROUP_ENTRIES_MAX + 5)]
        fail_next_statement(books)  # the COMMIT of what holds the thread
    for future in futures:
        assert isinstance(future.exception(WAIT_S), DiskError)
    books.reopen()
    assert books.sequences() == []


# Crashes.

_APPEND_FOR_EVER = """
import os, sys
from pathlib import Path
from pillion_sidecar.journal import Journal
from pillion_sidecar.records import CheckedBatch, Environment, RunStart

journal = Journal(Path(sys.argv[1]), on_commit=lambda: None, on_fatal=lambda error: os._exit(1))
start = RunStart("run", "w", "demo", "name", "", "", (), "", {}, Environment(), 1)
number = journal.start(start).result().last_sequence
while True:
    number += 1
    batch = CheckedBatch("run", "w", number, b"batch %d " % number * 20, row_count=1)
    future = journal.append(batch)
    future.add_done_callback(lambda done: os.write(1, b"%d\\n" % done.result()))
    if number % 7 == 0:
        future.result()
"""


def test_killed_writer_leaves_every_acked_batch(tmp_path: Path) -> None:
    """After SIGKILL at any moment the journal is a prefix that holds every batch acked before."""
    path = tmp_path / "journal.db"
    acked = 0
    for wanted in random.Random(11).choices(range(1, 150), k=5):
        process = subprocess.Popen(
            [sys.executable, "-c", _APPEND_FOR_EVER, str(path)], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            for _, line in zip(range(wanted), process.stdout, strict=False):
                acked = int(line)
            process.kill()
            told = [line for line in process.stdout if line.endswith(b"\n")]
            acked = max([acked, *map(int, told)])
        assert process.returncode == -signal.SIGKILL
        books = Books(path)
        kept = books.start().last_sequence
        books.close()
        assert kept >= acked
        batches = [entry for entry in books.entries() if entry.kind is EntryKind.BATCH]
        assert [e.sequence for e in batches] == list(range(1, kept + 1))
        assert [e.payload for e in batches] == [payload_of(e.sequence) for e in batches]
        assert [e.first_ordinal for e in batches] == list(range(kept))


class Power:
    """A journal's files as they were after each of its commits."""

    def __init__(self, path: Path, commits_per_checkpoint: int) -> None:
        self._path = path
        self.copies: list[tuple[bytes, bytes]] = []
        """The database and its log: after the start, after batch 1, after batch 2 …"""
        journal = Journal(path, on_commit=lambda: self.copies.append(self._files()), on_fatal=print)
        journal._db.execute(f"PRAGMA wal_autocheckpoint = {commits_per_checkpoint}")
        journal.start(start_of()).result(WAIT_S)
        for sequence in range(1, 41):
            batch = CheckedBatch(RUN, WRITER, sequence, payload_of(sequence), row_count=1)
            journal.append(batch).result(WAIT_S)
        journal.close()
        del self.copies[41:]  # the close commits once more, with nothing in it

    def _files(self) -> tuple[bytes, bytes]:
        return self._path.read_bytes(), Path(f"{self._path}-wal").read_bytes()


@pytest.fixture(scope="module")
def power(tmp_path_factory: pytest.TempPathFactory) -> Power:
    """Write a journal whose log is never carried over into its database."""
    return Power(tmp_path_factory.mktemp("power") / "journal.db", commits_per_checkpoint=0)


def test_copy_at_each_commit_holds_all_that_was_committed(tmp_path: Path) -> None:
    """Power may fail after any commit, and while the log is carried over into the database."""
    power = Power(tmp_path / "journal.db", commits_per_checkpoint=5)
    databases = {database for database, _ in power.copies}
    assert len(databases) > 5  # it was carried over again and again
    for batch_count, (database, log) in enumerate(power.copies):
        assert recovered(database, log) == list(range(1, batch_count + 1))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_torn_log_leaves_a_prefix_with_every_whole_commit(
    power: Power, data: st.DataObject
) -> None:
    """Cut or garbled from any byte on, the log still gives all commits that lie before it."""
    database, log = power.copies[-1]
    cut = data.draw(st.integers(0, len(log)), label="cut")
    tail = data.draw(st.sampled_from(["gone", "zeros", "garbage"]), label="tail")
    rest = len(log) - cut
    torn = (
        log[:cut]
        + {
            "gone": b"",
            "zeros": bytes(rest),
            "garbage": random.Random(cut).randbytes(rest),
        }[tail]
    )
    whole = sum(len(copy) <= cut for _, copy in power.copies) - 1  # the first is the start
    found = recovered(database, torn)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= whole


def recovered(database: bytes, log: bytes) -> list[int]:
    """Open a copy of a journal's files; return its batches, each with the right content."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        path.write_bytes(database)
        Path(f"{path}-wal").write_bytes(log)
        books = Books(path)
        entries = books.entries()
        known = books.start().last_sequence
        books.close()
    batches = [entry for entry in entries if entry.kind is EntryKind.BATCH]
    assert all(entry.payload == payload_of(entry.sequence) for entry in batches)
    assert known == len(batches)
    return [entry.sequence for entry in batches]


# All of it against a small model.

RUNS, WRITERS = st.sampled_from([RUN, OTHER_RUN]), st.sampled_from([WRITER, OTHER_WRITER])


class JournalMachine(RuleBasedStateMachine):
    """Runs, writers and entries as plain dicts and lists; the journal must agree at each step."""

    @initialize()
    def open(self) -> None:
        """Begin with an empty journal."""
        self.directory = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.directory.name) / "journal.db")
        self.reader = JournalReader(self.books.path)
        self.runs: dict[RunId, RunState] = {}
        self.ordinals: dict[RunId, int] = {}
        self.writers: dict[tuple[RunId, WriterId], tuple[int, RunState]] = {}
        self.entries: list[tuple[Any, ...]] = []

    @rule(run_id=RUNS, writer_id=WRITERS, may=st.booleans(), must=st.booleans())
    def start(self, run_id: RunId, writer_id: WriterId, may: bool, must: bool) -> None:
        """A writer starts, joins or comes back."""
        is_known, writer = run_id in self.runs, self.writers.get((run_id, writer_id))
        if (must and not is_known) or (not may and is_known and writer is None):
            with pytest.raises(StateError):
                self.books.start(run_id, writer_id, may_resume=may, must_resume=must)
            return
        last, state = writer or (0, None)
        ordinal = self.ordinals.setdefault(run_id, 0)
        answer = self.books.start(run_id, writer_id, may_resume=may, must_resume=must)
        assert answer == started(last, is_resumed=is_known, next_ordinal=ordinal)
        if state is not RunState.RUNNING:
            self.entries.append((run_id, writer_id, 0, EntryKind.START, ordinal, 0))
            self.runs[run_id] = RunState.RUNNING
            self.writers[run_id, writer_id] = last, RunState.RUNNING

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), row_count=st.integers(0, 3), lost_count=st.integers(0, 2))
    def append(self, data: st.DataObject, row_count: int, lost_count: int) -> None:
        """The next batch comes, or one for a range that was lost."""
        (run_id, writer_id), (last, _) = data.draw(st.sampled_from(sorted(self.writers.items())))
        sequence = last + 1 + lost_count
        acked = self.books.append(
            sequence,
            run_id=run_id,
            writer_id=writer_id,
            row_count=row_count,
            first_sequence=last + 1,
        )
        assert acked == sequence
        ordinal = self.ordinals[run_id]
        self.entries.append((run_id, writer_id, sequence, EntryKind.BATCH, ordinal, row_count))
        self.ordinals[run_id] += row_count
        self.runs[run_id] = RunState.RUNNING
        self.writers[run_id, writer_id] = sequence, RunState.RUNNING

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), has_other_content=st.booleans())
    def repeat(self, data: st.DataObject, has_other_content: bool) -> None:
        """A batch comes again, as it was or with another content."""
        writer = data.draw(st.sampled_from(sorted(self.writers)))
        last, _ = self.writers[writer]
        if last:
            sequence = data.draw(st.integers(1, last))
            is_kept = (*writer, sequence, EntryKind.BATCH) in [e[:4] for e in self.entries]
            payload = b"other" if has_other_content else None
            repeated = self.books.submit(sequence, payload, *writer)
            if has_other_content and is_kept:
                assert isinstance(repeated.exception(WAIT_S), StateError)
            else:
                assert repeated.result(WAIT_S) == last

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), distance=st.integers(2, 9))
    def skip(self, data: st.DataObject, distance: int) -> None:
        """A batch or an end comes too early."""
        writer = data.draw(st.sampled_from(sorted(self.writers)))
        last, _ = self.writers[writer]
        early = self.books.submit(last + distance, None, *writer)
        error = early.exception(WAIT_S)
        assert isinstance(error, StateError)
        assert error.facts == {"expected_sequence": str(last + 1)}
        with pytest.raises(StateError):
            self.books.finish(last + 1, RunState.FINISHED, *writer)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), end=st.sampled_from(ENDS), is_last_known=st.booleans())
    def finish(self, data: st.DataObject, end: RunState, is_last_known: bool) -> None:
        """A writer ends, perhaps not for the first time."""
        writer = data.draw(st.sampled_from(sorted(self.writers)))
        run_id, (last, state) = writer[0], self.writers[writer]
        ended = self.books.finish(last if is_last_known else None, end, *writer)
        if state is RunState.RUNNING:
            self.writers[writer] = last, end
            states = [s for (run, _), (_, s) in self.writers.items() if run == run_id]
            kind = EntryKind.FINISH if RunState.RUNNING in states else EntryKind.END
            self.runs[run_id] = RunState.RUNNING if kind is EntryKind.FINISH else max(states)
            self.entries.append((*writer, last, kind, self.ordinals[run_id], 0))
        assert ended == Ended(self.runs[run_id], self.ordinals[run_id])

    @rule()
    def reopen(self) -> None:
        """The sidecar starts again."""
        self.books.reopen()

    @invariant()
    def agrees(self) -> None:
        """What is on disk is what the model holds."""
        assert {run.run_id: (run.state, run.row_count) for run in self.reader.runs()} == {
            run_id: (state, self.ordinals[run_id]) for run_id, state in self.runs.items()
        }
        found = [e for run_id in self.runs for e in self.reader.entries(run_id, 0, 1 << 30)]
        found.sort(key=lambda entry: entry.offset)
        assert all(a.offset < b.offset for a, b in pairwise(found))
        assert [
            (e.run_id, e.writer_id, e.sequence, e.kind, e.first_ordinal, e.row_count) for e in found
        ] == self.entries

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "books"):
            self.reader.close()
            self.books.close()
            self.directory.cleanup()
            assert self.books.fatal == []


JournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_journal_agrees_with_a_model = JournalMachine.TestCase


def delete_entries(path: Path) -> None:
    """Delete all entries, as trimming does with what is delivered."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM entries")


@contextmanager
def full_disk(books: Books) -> Iterator[None]:
    """Leave the journal no room to grow."""
    db = books.journal._db
    (page_count,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {page_count}")
    yield
    db.execute("PRAGMA max_page_count = 1000000")


def fail_next_statement(books: Books) -> None:
    """Have SQLite break off one statement with an error that is no full disk."""
    fates = iter([1])
    books.journal._db.set_progress_handler(lambda: next(fates, 0), 1)
