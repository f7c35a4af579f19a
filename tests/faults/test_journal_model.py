"""Journal, dedupe, delivery, trimming, damage and deaths against a small model.

Two sinks follow one journal, the store and one in memory, whose position falls back whenever its
worker dies. What the model says was acked must be in each of them once, in order, and nothing else.
"""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.courier import Courier
from pillion_sidecar.errors import StateError
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sinks.memory import MemorySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.validation import check_log

WAIT_S = 120.0
KEYS_MAX = 4
RUNS = [RunId("a"), RunId("b")]
WRITERS = [WriterId("v"), WriterId("w")]
KEYS = st.lists(st.sampled_from("pqrstu"), min_size=1, max_size=3, unique=True)
Row = tuple[int, dict[str, float]]
"""Ordinal and values."""


class DeliveryMachine(RuleBasedStateMachine):
    """The model: for each run the rows that were acked, and the batches of each writer."""

    @initialize()
    def begin(self) -> None:
        """Begin with nothing."""
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal.db"
        self.store_url = f"sqlite:///{self.directory.name}/store.db"
        self.rows: dict[RunId, list[Row]] = {}
        self.next_ordinals: dict[RunId, int] = {}
        self.sent: dict[tuple[RunId, WriterId], list[CheckedBatch]] = {}
        self.keys: dict[RunId, set[str]] = {}
        self.is_full: set[RunId] = set()
        self.dropped: dict[RunId, int] = {}
        self.damaged: set[Offset] = set()
        self.store_sink = StoreSink(self.store_url)
        self.memory_sink = MemorySink()
        self.open()

    def open(self) -> None:
        """Start the sidecar."""
        self.fatal: list[Any] = []
        self.journal = Journal(
            self.path, on_commit=lambda: None, on_fatal=self.fatal.append, keys_max=KEYS_MAX
        )
        self.reader = JournalReader(self.path)
        self.to_store = Courier(self.reader, self.store_sink)
        self.to_memory = Courier(self.reader, self.memory_sink, store=lambda: Store(self.store_url))

    @rule(run_id=st.sampled_from(RUNS), writer_id=st.sampled_from(WRITERS))
    def start(self, run_id: RunId, writer_id: WriterId) -> None:
        """A writer starts, joins or comes back."""
        fields = ("demo", run_id, "", "", (), "", {}, Environment(), 1)
        started = self.journal.start(RunStart(run_id, writer_id, *fields)).result(WAIT_S)
        sent = self.sent.setdefault((run_id, writer_id), [])
        assert started.last_sequence == len(sent)
        assert started.next_ordinal == self.next_ordinals.setdefault(run_id, 0)
        self.rows.setdefault(run_id, [])
        self.keys.setdefault(run_id, set())

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), frames=st.lists(KEYS, min_size=1, max_size=3))
    def append(self, data: st.DataObject, frames: list[list[str]]) -> None:
        """The next batch comes, each frame with one row."""
        writer = data.draw(st.sampled_from(sorted(self.sent)))
        run_id, sent = writer[0], self.sent[writer]
        batch = batch_of(*writer, len(sent) + 1, frames)
        assert self.journal.append(batch).result(WAIT_S) == len(sent) + 1
        sent.append(batch)
        known, new = self.keys[run_id], sorted(batch.keys - self.keys[run_id])
        room = 0 if run_id in self.is_full else KEYS_MAX - len(known)
        known.update(new[:room])
        if len(new) > room:
            self.is_full.add(run_id)
        for number, keys in enumerate(frames):
            values = {key: value_of(len(sent), number) for key in keys if key in known}
            if values:
                self.rows[run_id].append((self.next_ordinals[run_id], values))
                self.next_ordinals[run_id] += 1

    @precondition(lambda self: any(self.sent.values()))
    @rule(data=st.data(), is_another=st.booleans())
    def repeat(self, data: st.DataObject, is_another: bool) -> None:
        """A batch comes again, or another one under its number."""
        writer = data.draw(st.sampled_from(sorted(w for w, sent in self.sent.items() if sent)))
        batch = data.draw(st.sampled_from(self.sent[writer]))
        if is_another:
            batch = batch_of(*writer, batch.sequence, [["another"]], is_another=True)
        repeated = self.journal.append(batch)
        if is_another and self.is_there(batch):
            with pytest.raises(StateError):
                repeated.result(WAIT_S)
        else:
            assert repeated.result(WAIT_S) == len(self.sent[writer])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        """A batch comes too early."""
        writer = data.draw(st.sampled_from(sorted(self.sent)))
        early = batch_of(*writer, len(self.sent[writer]) + 2, [["p"]])
        with pytest.raises(StateError):
            self.journal.append(early).result(WAIT_S)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """A writer ends."""
        run_id, writer_id = writer = data.draw(st.sampled_from(sorted(self.sent)))
        end = RunFinish(run_id, writer_id, RunState.FINISHED, 0, "", {}, 2)
        self.journal.finish(end, last_sequence=len(self.sent[writer])).result(WAIT_S)

    @rule(slices=st.integers(1, 2), is_store=st.booleans())
    def deliver(self, slices: int, is_store: bool) -> None:
        """A worker has its turn."""
        courier = self.to_store if is_store else self.to_memory
        courier.look()
        for _ in range(slices):
            courier.deliver()

    @precondition(lambda self: self.rows)
    @rule()
    def trim(self) -> None:
        """What both sinks have is deleted."""
        points = {
            run_id: min(sink.position(run_id) for sink in (self.store_sink, self.memory_sink))
            for run_id in self.rows
        }
        self.journal.trim(points)
        while self.journal._submit(lambda: self.journal._trimmer.is_due).result(WAIT_S):
            pass

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A bit flips in a batch that neither sink has, and whoever reads it reports it."""
        run_id = data.draw(st.sampled_from(sorted(self.rows)))
        beyond = max(sink.position(run_id) for sink in (self.store_sink, self.memory_sink))
        entries = [
            entry
            for entry in self.reader.entries(run_id, beyond, 1 << 30)
            if entry.kind is EntryKind.BATCH and entry.row_count
        ]
        if not entries:
            return
        entry = data.draw(st.sampled_from(entries))
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("UPDATE entries SET payload = x'00' WHERE offset = ?", (entry.offset,))
        gone = range(entry.first_ordinal, entry.first_ordinal + entry.row_count)
        self.rows[run_id] = [row for row in self.rows[run_id] if row[0] not in gone]
        assert self.journal.quarantine(entry.offset).result(WAIT_S)
        if entry.offset not in self.damaged:
            self.dropped[run_id] = self.dropped.get(run_id, 0) + entry.row_count
        self.damaged.add(entry.offset)

    @rule()
    def die(self) -> None:
        """All processes die: the memory is empty, the store and the journal are as they were."""
        self.reader.close()
        self.journal.close()
        self.store_sink.close()
        self.store_sink, self.memory_sink = StoreSink(self.store_url), MemorySink()
        self.open()

    @rule()
    def lose_worker(self) -> None:
        """Only the worker of the sink in memory dies; it begins anew."""
        self.memory_sink = MemorySink()
        self.to_memory = Courier(self.reader, self.memory_sink, store=lambda: Store(self.store_url))

    @invariant()
    def nothing_is_there_that_was_not_acked(self) -> None:
        """At any time each sink holds a prefix, in order."""
        if hasattr(self, "rows"):
            for run_id, rows in self.rows.items():
                for found in self.found(run_id):
                    # A damaged batch may lie behind what the sink has, never within.
                    assert found == rows[: len(found)]

    def found(self, run_id: RunId) -> list[list[Row]]:
        """Return what each sink has of a run."""
        run = self.memory_sink.runs.get(run_id)
        with closing(Store(self.store_url)) as store:
            stored = [(ordinal, values) for ordinal, _, _, values in store.rows(run_id)]
        in_memory = [(ordinal, values) for ordinal, _, _, values in run.rows] if run else []
        return [stored, in_memory]

    def is_there(self, batch: CheckedBatch) -> bool:
        """Tell whether what was written of a batch is still journaled, undamaged."""
        wanted = "WHERE run_id = ? AND writer_id = ? AND sequence = ? AND kind = ?"
        values = (batch.run_id, batch.writer_id, batch.sequence, EntryKind.BATCH)
        with closing(sqlite3.connect(self.path)) as db:
            (entries,) = db.execute(f"SELECT count(*) FROM entries {wanted}", values).fetchone()
            (damaged,) = db.execute(f"SELECT count(*) FROM damaged {wanted}", values).fetchone()
        return bool(entries and not damaged)

    def teardown(self) -> None:
        """In the end everything is delivered, whatever was between."""
        if not hasattr(self, "journal"):
            return
        for courier in (self.to_store, self.to_memory):
            courier.look()
            while courier.deliver():
                pass
        for run_id, rows in self.rows.items():
            assert self.found(run_id) == [rows, rows]
            run = self.reader.run(run_id)
            assert run is not None
            assert run.dropped_row_count == self.dropped.get(run_id, 0)
        assert self.fatal == []
        self.reader.close()
        self.journal.close()
        self.store_sink.close()
        self.directory.cleanup()


def value_of(sequence: int, number: int) -> float:
    """Return the value of a batch's row."""
    return sequence + number / 8


def batch_of(
    run_id: RunId,
    writer_id: WriterId,
    sequence: int,
    frames: list[list[str]],
    *,
    is_another: bool = False,
) -> CheckedBatch:
    """Make a batch with one row per frame; another one differs whichever metrics are taken."""
    request = pb2.LogMetricsRequest(
        batch=record_pb2.Batch(run_id=run_id, writer_id=writer_id, sequence=sequence)
    )
    for number, keys in enumerate(frames):
        frame = request.batch.records.add().metric_frame
        frame.steps.append(sequence)
        frame.times_unix_nano.append(1)
        for key in keys:
            frame.columns.add(key=key).doubles.values.append(value_of(sequence, number))
    if is_another:
        values = request.batch.records.add().summary_update.values
        values.values.add(key="another").value.bool_value = True
    return check_log(request.SerializeToString())


DeliveryMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
test_each_acked_row_reaches_each_sink_once = DeliveryMachine.TestCase
