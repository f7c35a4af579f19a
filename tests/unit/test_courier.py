"""The courier: from a real journal into a sink, in order, exactly once, run by run."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pillion._batch import Row, Update
from pillion._encoding import Encoder
from pillion.v1 import record_pb2
from pillion_sidecar import courier as courier_module
from pillion_sidecar.courier import Courier
from pillion_sidecar.errors import SinkError
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import Entry, EntryKind, JournalReader
from pillion_sidecar.records import (
    Environment,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sinks.memory import MemoryRun, MemorySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.validation import check_log

RUN, OTHER_RUN = RunId("run"), RunId("other-run")
WRITER = WriterId("w")
WAIT_S = 120.0

WaitUntil = Callable[[Callable[[], Any]], Any]


class Trainer:
    """What trainers do, straight into a journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)
        self._encoders: dict[tuple[str, str], Encoder] = {}

    def start(self, run_id: RunId = RUN, writer_id: WriterId = WRITER, **config: Any) -> None:
        """Start a run or join it."""
        fields = ("demo", run_id, "", "", (), "", config, Environment(), 1)
        self.journal.start(RunStart(run_id, writer_id, *fields)).result(WAIT_S)
        self._encoders[run_id, writer_id] = Encoder(run_id, writer_id)

    def log(self, *steps: int, run_id: RunId = RUN, writer_id: WriterId = WRITER) -> None:
        """Log a row per step, all in one batch."""
        self._send(run_id, writer_id, [Row(step, step, {"loss": step / 2}) for step in steps])

    def configure(self, **values: Any) -> None:
        """Change the config, in a batch of its own."""
        self._send(RUN, WRITER, [Update("config_update", values)])

    def finish(
        self,
        state: RunState = RunState.FINISHED,
        run_id: RunId = RUN,
        writer_id: WriterId = WRITER,
        **summary: Any,
    ) -> None:
        """End a writer."""
        finish = RunFinish(run_id, writer_id, state, 0, "said so", summary, 2)
        self.journal.finish(finish, last_sequence=None).result(WAIT_S)

    def damage(self, kind: EntryKind, sequence: int = 0) -> None:
        """Change what is on disk of an entry."""
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(
                "UPDATE entries SET payload = zeroblob(9) WHERE kind = ? AND sequence = ?",
                (kind, sequence),
            )

    def _send(self, run_id: RunId, writer_id: WriterId, items: list[Row | Update]) -> None:
        for made in self._encoders[run_id, writer_id].encode(items):
            self.journal.append(check_log(made.message)).result(WAIT_S)


class FailingSink(MemorySink):
    """Fails on a run as long as it has an error for it."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[RunId, Exception] = {}
        self.apply_count = 0

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        """See `Sink`."""
        if run_id in self.errors:
            raise self.errors[run_id]
        self.apply_count += 1
        super().apply(run_id, offset, records)


class SlowSink(MemorySink):
    """Confirms nothing before it is flushed; what it has not confirmed it can forget."""

    def __init__(self) -> None:
        super().__init__()
        self._confirmed: dict[RunId, tuple[Offset, int]] = {}
        self.flush_error: SinkError | None = None

    def position(self, run_id: RunId) -> Offset:
        """See `Sink`."""
        return self._confirmed.get(run_id, (Offset(0), 0))[0]

    def row_count(self, run_id: RunId) -> int:
        """See `Sink`."""
        return self._confirmed.get(run_id, (Offset(0), 0))[1]

    def flush(self) -> None:
        """See `Sink`."""
        if self.flush_error:
            raise self.flush_error
        self._confirmed = {run_id: (run.cursor, len(run.rows)) for run_id, run in self.runs.items()}

    def forget(self) -> None:
        """Lose what was not confirmed, as a process does that dies."""
        for run_id, run in list(self.runs.items()):
            del run.rows[self.row_count(run_id) :]
            if not self.position(run_id):
                del self.runs[run_id]


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    """Open a journal to log into."""
    trainer = Trainer(tmp_path / "journal.db")
    yield trainer
    trainer.journal.close()


@pytest.fixture
def reader(trainer: Trainer) -> Iterator[JournalReader]:
    """Open the courier's end of the journal."""
    with JournalReader(trainer.path) as reader:
        yield reader


def changes(courier: Courier) -> list[dict[str, Any]]:
    """Return what the sidecar is told, with offsets counted from 1."""
    before = courier._reader.first_offset() - 1
    return [
        {
            key: max(0, value - before) if key in {"offset", "through", "damaged"} else value
            for key, value in change.items()
        }
        for change in courier.changes()
    ]


def deliver_all(courier: Courier) -> list[dict[str, Any]]:
    """Do what the worker does until nothing is left; return what it told the sidecar."""
    told: list[dict[str, Any]] = []
    courier.look()
    while courier.deliver():
        told += changes(courier)
    courier.flush()
    return told + changes(courier)


def steps(run: MemoryRun) -> list[int]:
    """Return the steps of a run's rows, after a look at their ordinals."""
    assert [ordinal for ordinal, *_ in run.rows] == list(range(len(run.rows)))
    return [step for _, step, *_ in run.rows]


def test_all_is_delivered_in_order(trainer: Trainer, reader: JournalReader) -> None:
    """The sink gets what was logged: start, rows, config, end."""
    sink = MemorySink()
    trainer.start(seed=1)
    trainer.log(1, 2)
    trainer.configure(seed=2)
    trainer.log(3)
    trainer.finish(note="good")
    told = deliver_all(Courier(reader, sink))
    run = sink.runs[RUN]
    assert run.rows == [(i, i + 1, i + 1, {"loss": (i + 1) / 2}) for i in range(3)]
    assert (run.start.project, run.config, run.summary) == ("demo", {"seed": 2}, {"note": "good"})
    assert (run.state, run.cursor) == (RunState.FINISHED, reader.first_offset() + 4)
    assert told[-2:] == [
        {"run_id": RUN, "offset": 5, "row_count": 3, "error": "", "reason": ""},
        {"through": 5},
    ]


def test_successor_goes_on_at_the_sinks_cursor(trainer: Trainer, reader: JournalReader) -> None:
    """A new courier hands over nothing that the sink has confirmed."""
    sink = FailingSink()
    trainer.start()
    trainer.log(1)
    deliver_all(Courier(reader, sink))
    trainer.log(2)
    deliver_all(Courier(reader, sink))
    assert (steps(sink.runs[RUN]), sink.apply_count) == ([1, 2], 2)
    deliver_all(Courier(reader, sink))
    assert sink.apply_count == 2


def test_what_was_not_confirmed_is_handed_over_again(
    trainer: Trainer, reader: JournalReader
) -> None:
    """After the death of a worker the sink gets all that it had not confirmed, and no more."""
    sink = SlowSink()
    trainer.start()
    trainer.log(1)
    deliver_all(Courier(reader, sink))
    trainer.log(2, 3)
    dying = Courier(reader, sink)
    dying.look()
    assert dying.deliver()
    sink.forget()
    deliver_all(Courier(reader, sink))
    assert steps(sink.runs[RUN]) == [1, 2, 3]


def test_what_a_sink_lost_in_failing_is_handed_over_again(
    trainer: Trainer, reader: JournalReader
) -> None:
    """After an error the sink is asked anew how far it is; its cursor may have fallen back."""

    class FallingSink(SlowSink):
        is_failing = False

        def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
            if self.is_failing:
                self.is_failing = False
                self.forget()
                raise SinkError("begun anew")
            super().apply(run_id, offset, records)

    sink = FallingSink()
    trainer.start()
    trainer.log(1)
    courier = Courier(reader, sink)
    courier.look()
    courier.deliver()
    trainer.log(2)
    sink.is_failing = True
    courier.look()
    courier.deliver()
    assert RUN not in sink.runs
    courier._runs[RUN].retry_at_s = 0.0  # its pause is over
    deliver_all(courier)
    assert steps(sink.runs[RUN]) == [1, 2]


def test_joined_writer_ends_without_ending_the_run(trainer: Trainer, reader: JournalReader) -> None:
    """The end of one of several writers gives its summary; the last one's ends the run."""
    sink = MemorySink()
    trainer.start()
    trainer.start(writer_id=WriterId("v"))
    trainer.log(1)
    trainer.finish(RunState.FAILED, best=1)
    courier = Courier(reader, sink)
    deliver_all(courier)
    assert (sink.runs[RUN].state, sink.runs[RUN].summary) == (RunState.RUNNING, {"best": 1})
    trainer.finish(writer_id=WriterId("v"))
    deliver_all(courier)
    assert sink.runs[RUN].state is RunState.FAILED


def test_rows_after_the_end_reopen_the_run(trainer: Trainer, reader: JournalReader) -> None:
    """The sink hears of late rows behind the end, in the same slice."""
    sink = MemorySink()
    trainer.start()
    trainer.finish(RunState.CRASHED)
    trainer.log(1)
    deliver_all(Courier(reader, sink))
    assert (sink.runs[RUN].state, steps(sink.runs[RUN])) == (RunState.RUNNING, [1])


def test_batches_in_a_row_are_one_slice(trainer: Trainer, reader: JournalReader) -> None:
    """What has queued up is handed over in one call."""
    sink = FailingSink()
    trainer.start()
    for step in range(10):
        trainer.log(step)
    deliver_all(Courier(reader, sink))
    assert (steps(sink.runs[RUN]), sink.apply_count) == (list(range(10)), 1)


def test_large_run_does_not_keep_others_waiting(
    trainer: Trainer, reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn hands over one bounded slice of each run."""
    monkeypatch.setattr(courier_module, "SLICE_BYTES_MAX", 1)
    sink = MemorySink()
    trainer.start()
    for step in range(5):
        trainer.log(step)
    trainer.start(OTHER_RUN)
    trainer.log(7, run_id=OTHER_RUN)
    courier = Courier(reader, sink)
    courier.look()
    assert courier.deliver()
    assert courier.deliver()
    assert (steps(sink.runs[RUN]), steps(sink.runs[OTHER_RUN])) == ([0], [7])
    deliver_all(courier)
    assert steps(sink.runs[RUN]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [SinkError("busy"), ValueError("busy")], ids=["sink", "any"])
def test_run_that_fails_holds_no_other_up(
    trainer: Trainer, reader: JournalReader, error: Exception
) -> None:
    """Whatever a sink raises concerns the one run; it is told, paused, and tried again."""
    sink = FailingSink()
    sink.errors[RUN] = error
    for run_id in (RUN, OTHER_RUN):
        trainer.start(run_id)
        trainer.log(1, run_id=run_id)
    courier = Courier(reader, sink)
    told = deliver_all(courier)
    assert steps(sink.runs[OTHER_RUN]) == [1]
    assert [(c["run_id"], c["row_count"]) for c in told if c.get("error") == "busy"] == [(RUN, 0)]
    assert not any("through" in change for change in told)
    sink.errors.clear()
    courier._runs[RUN].retry_at_s = 0.0  # its pause is over
    told = deliver_all(courier)
    assert steps(sink.runs[RUN]) == [1]
    assert told == [
        {"run_id": RUN, "offset": 2, "row_count": 1, "error": "", "reason": ""},
        {"through": 4},
    ]


def test_unexpected_error_is_logged_with_its_traceback(
    trainer: Trainer, reader: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink's own mistake leaves a trace; one that says nothing is told by its kind."""
    sink = FailingSink()
    sink.errors[RUN] = KeyError()
    trainer.start()
    trainer.log(1)
    told = deliver_all(Courier(reader, sink))
    assert [change["error"] for change in told if "error" in change] == ["KeyError"]
    assert [bool(record.exc_info) for record in caplog.records] == [True]


def test_pauses_grow(trainer: Trainer, reader: JournalReader) -> None:
    """A sink that fails is tried ever less often."""
    sink = FailingSink()
    sink.errors[RUN] = SinkError("busy")
    trainer.start()
    trainer.log(1)
    courier = Courier(reader, sink)
    courier.look()
    for failure_count in (1, 2, 3):
        courier._runs[RUN].retry_at_s = 0.0
        assert courier.deliver()
        assert courier._runs[RUN].failure_count == failure_count
        assert courier._runs[RUN].retry_at_s > 0


def test_outage_may_last_for_days(trainer: Trainer, reader: JournalReader) -> None:
    """A sink that fails for ever is tried for ever."""
    sink = FailingSink()
    sink.errors[RUN] = SinkError("busy")
    trainer.start()
    trainer.log(1)
    courier = Courier(reader, sink)
    courier.look()
    assert courier.deliver()
    courier._runs[RUN].failure_count, courier._runs[RUN].retry_at_s = 2000, 0.0
    assert courier.deliver()


def test_failing_run_counts_as_idle_until_its_next_try(
    trainer: Trainer, reader: JournalReader
) -> None:
    """A drain does not wait for a sink that takes nothing now."""
    sink = FailingSink()
    trainer.start()
    trainer.log(1)
    courier = Courier(reader, sink)
    courier.look()
    assert not courier.is_drained
    sink.errors[RUN] = SinkError("busy")
    courier.deliver()
    courier._runs[RUN].retry_at_s = float("inf")
    assert courier.is_drained
    assert not courier.deliver()
    assert courier.wait_s == courier_module.FLUSH_INTERVAL_S


def test_courier_with_nothing_to_do_sleeps_until_woken(
    trainer: Trainer, reader: JournalReader
) -> None:
    """Once everything is confirmed it waits for news alone; a sink that is behind keeps it up."""
    sink = SlowSink()
    courier = Courier(reader, sink)
    assert courier.wait_s is None
    trainer.start()
    courier.look()
    assert courier.deliver()
    changes(courier)
    assert courier.wait_s == courier_module.FLUSH_INTERVAL_S
    courier.flush()
    changes(courier)
    assert courier.wait_s is None


def test_nothing_is_through_before_it_is_confirmed(trainer: Trainer, reader: JournalReader) -> None:
    """A cursor is what the sink has confirmed, never what it was handed."""
    sink = SlowSink()
    trainer.start()
    trainer.log(1)
    courier = Courier(reader, sink)
    courier.look()
    courier.deliver()
    assert changes(courier) == [
        {"run_id": RUN, "offset": 0, "row_count": 0, "error": "", "reason": ""}
    ]
    sink.flush_error = SinkError("not now")
    courier.flush()
    assert changes(courier) == []
    sink.flush_error = None
    courier.flush()
    assert changes(courier) == [
        {"run_id": RUN, "offset": 2, "row_count": 1, "error": "", "reason": ""},
        {"through": 2},
    ]


def test_nothing_is_told_twice(trainer: Trainer, reader: JournalReader) -> None:
    """Without news there are no changes."""
    trainer.start()
    courier = Courier(reader, MemorySink())
    assert deliver_all(courier) != []
    assert deliver_all(courier) == []


def test_damaged_batch_is_exactly_that_batch_missing(
    trainer: Trainer, reader: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rows count as lost, are named in the log, and leave a hole in the ordinals."""
    sink = MemorySink()
    trainer.start()
    trainer.log(1)
    trainer.log(2, 3)
    trainer.log(4)
    trainer.damage(EntryKind.BATCH, sequence=2)
    with caplog.at_level(logging.ERROR):
        told = deliver_all(Courier(reader, sink))
    run = sink.runs[RUN]
    assert [(ordinal, step) for ordinal, step, *_ in run.rows] == [(0, 1), (3, 4)]
    assert run.lost_row_count == 2
    (record,) = caplog.records
    place = {name: vars(record)[name] for name in ("run_id", "writer_id", "sequence", "row_count")}
    assert place == {"run_id": RUN, "writer_id": WRITER, "sequence": 2, "row_count": 2}
    assert [change for change in told if "damaged" in change] == [{"damaged": 3}]
    assert told[-1] == {"through": 4}


def test_quarantined_batch_is_lost_to_every_sink_alike(
    trainer: Trainer, reader: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether a sink comes to it before it was put aside or after."""
    trainer.start()
    trainer.log(1)
    trainer.log(2, 3)
    trainer.damage(EntryKind.BATCH, sequence=2)
    sinks = MemorySink(), MemorySink()
    (damaged,) = [c["damaged"] for c in deliver_all(Courier(reader, sinks[0])) if "damaged" in c]
    assert trainer.journal.quarantine(reader.first_offset() - 1 + damaged).result(WAIT_S)
    caplog.clear()
    told = deliver_all(Courier(reader, sinks[1]))
    assert not any("damaged" in change for change in told)
    assert caplog.records == []
    assert [(sink.runs[RUN].lost_row_count, steps(sink.runs[RUN])) for sink in sinks] == 2 * [
        (2, [1])
    ]


def test_damaged_start_keeps_the_rows_behind_it(trainer: Trainer, reader: JournalReader) -> None:
    """A run whose start is damaged is kept under its id, and says what happened."""
    sink = MemorySink()
    trainer.start()
    trainer.log(1)
    trainer.damage(EntryKind.START)
    deliver_all(Courier(reader, sink))
    run = sink.runs[RUN]
    assert steps(run) == [1]
    assert (run.start.name, run.start.project) == (RUN, "uncategorized")
    assert "damaged" in run.start.notes


def test_damaged_end_ends_the_run_all_the_same(trainer: Trainer, reader: JournalReader) -> None:
    """A run whose end is damaged does not seem to live; how it ended is not invented."""
    sink = MemorySink()
    trainer.start()
    trainer.finish()
    trainer.damage(EntryKind.END)
    deliver_all(Courier(reader, sink))
    finish = sink.runs[RUN].finish
    assert finish is not None
    assert (finish.state, finish.exit_code) == (RunState.CRASHED, None)
    assert "damaged" in finish.reason


def test_damaged_end_of_one_writer_costs_no_rows(trainer: Trainer, reader: JournalReader) -> None:
    """Of several writers' ends a damaged one loses its summary alone."""
    sink = MemorySink()
    trainer.start()
    trainer.start(writer_id=WriterId("v"))
    trainer.log(1)
    trainer.finish()
    trainer.damage(EntryKind.FINISH, sequence=1)
    deliver_all(Courier(reader, sink))
    assert (steps(sink.runs[RUN]), sink.runs[RUN].lost_row_count) == ([1], 0)


class Stored:
    """A store that a courier has filled, and a journal that is trimmed to its cursor."""

    def __init__(self, trainer: Trainer, reader: JournalReader, wait_until: WaitUntil) -> None:
        self._trainer, self._reader, self._wait_until = trainer, reader, wait_until
        self._url = f"sqlite:///{trainer.path.parent}/store.db"
        self.fill()

    def fill(self) -> None:
        """Have the store take what is in the journal."""
        with closing(StoreSink(self._url)) as sink:
            deliver_all(Courier(self._reader, sink))

    def trim(self, run_id: RunId = RUN) -> None:
        """Have the journal lose what is in the store."""
        with closing(self.open()) as store:
            run = store.run(run_id)
        assert run is not None
        self._trainer.journal.trim({run_id: run.cursor})

        def is_trimmed() -> bool:
            journaled = self._reader.run(run_id)
            return journaled is not None and journaled.trimmed_offset == run.cursor

        self._wait_until(is_trimmed)

    def open(self) -> Store:
        """Open it to read."""
        return Store(self._url)


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("has_ended", [False, True])
def test_what_the_journal_no_longer_has_comes_from_the_store(
    trainer: Trainer,
    reader: JournalReader,
    wait_until: WaitUntil,
    has_ended: bool,
    goes_on: bool,
) -> None:
    """A sink that has nothing gets a trimmed run whole, then what the journal has of it."""
    trainer.start(seed=1)
    trainer.log(1, 2)
    trainer.configure(seed=2)
    if has_ended:
        trainer.finish(RunState.FAILED, best=1)
    stored = Stored(trainer, reader, wait_until)
    stored.trim()
    if goes_on:
        trainer.log(3)
    sink = MemorySink()
    told = deliver_all(Courier(reader, sink, store=stored.open))
    run = sink.runs[RUN]
    assert steps(run) == ([1, 2, 3] if goes_on else [1, 2])
    assert run.config == {"seed": 2}
    assert run.summary == ({"best": 1} if has_ended else {})
    is_over = has_ended and not goes_on
    assert run.state is (RunState.FAILED if is_over else RunState.RUNNING)
    last = 3 + has_ended + goes_on
    assert told[-2:] == [
        {"run_id": RUN, "offset": last, "row_count": len(run.rows), "error": "", "reason": ""},
        {"through": last},
    ]
    trainer.log(4)
    assert deliver_all(Courier(reader, sink, store=stored.open))[-1] == {"through": last + 1}
    assert steps(run)[-1] == 4


def test_entries_that_are_trimmed_before_they_are_read_come_from_the_store(
    trainer: Trainer, reader: JournalReader, wait_until: WaitUntil
) -> None:
    """What the former worker had reported may be deleted while its successor begins."""
    trainer.start()
    trainer.log(1)
    sink = MemorySink()
    stored = Stored(trainer, reader, wait_until)
    courier = Courier(reader, sink, store=stored.open)
    deliver_all(courier)
    trainer.log(2)
    trainer.log(3)
    stored.fill()
    stored.trim()
    trainer.log(4)
    deliver_all(courier)
    assert steps(sink.runs[RUN]) == [1, 2, 3, 4]


@pytest.mark.parametrize("is_store", [False, True])
def test_a_store_that_was_replaced_is_a_reported_loss(
    trainer: Trainer, reader: JournalReader, wait_until: WaitUntil, tmp_path: Path, is_store: bool
) -> None:
    """Nothing is skipped in silence: the run waits for the former store, others go on."""
    trainer.start()
    trainer.log(1)
    Stored(trainer, reader, wait_until).trim()
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    url = f"sqlite:///{tmp_path}/store.db"
    empty = StoreSink(url)
    trainer.log(2)
    trainer.start(OTHER_RUN)
    memory = MemorySink()
    courier = Courier(reader, empty) if is_store else None
    told = deliver_all(courier or Courier(reader, memory, store=lambda: Store(url)))
    empty.close()
    errors = {change["run_id"]: change["error"] for change in told if "error" in change}
    assert "was replaced. Bring the former one back." in errors[RUN]
    assert errors[OTHER_RUN] == ""
    assert RUN not in memory.runs


def test_many_rows_are_handed_over_in_several_calls(
    trainer: Trainer, reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call of a sink takes long, and a sign of life comes between them."""
    monkeypatch.setattr(courier_module, "SLICE_ROWS_MAX", 5)
    sink, beats = FailingSink(), []
    trainer.start()
    for step in range(0, 12, 2):
        trainer.log(step, step + 1)
    trainer.log(*range(12, 20))
    deliver_all(Courier(reader, sink, beat=lambda: beats.append(sink.apply_count)))
    assert (steps(sink.runs[RUN]), sink.apply_count) == (list(range(20)), 4)
    assert set(beats) == {0, 1, 2, 3, 4}


def test_a_damaged_journal_concerns_all_runs(
    trainer: Trainer, reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that drives the courier hears of it, and no run is blamed."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def fail(*_: object) -> list[Entry]:
        raise error

    monkeypatch.setattr(reader, "entries", fail)
    trainer.start()
    courier = Courier(reader, MemorySink())
    courier.look()
    with pytest.raises(sqlite3.DatabaseError) as raised:
        courier.deliver()
    assert courier_module.is_corrupt(raised.value)


def test_what_the_journal_has_lost_is_not_waited_for(
    trainer: Trainer, reader: JournalReader
) -> None:
    """A run whose last entries are gone for good does not keep the courier awake."""
    trainer.start()
    trainer.log(1)
    trainer.log(2)
    with closing(sqlite3.connect(trainer.path)) as db, db:
        db.execute("DELETE FROM entries WHERE kind = ? AND sequence = 2", (EntryKind.BATCH,))
    sink = MemorySink()
    courier = Courier(reader, sink)
    assert deliver_all(courier)[-1] == {"through": 3}
    assert courier.wait_s is None
    assert steps(sink.runs[RUN]) == [1]


@pytest.mark.parametrize("distance", [-1, 50], ids=["before", "beyond"])
def test_cursor_of_another_journal_is_a_reported_loss(
    trainer: Trainer, reader: JournalReader, distance: int
) -> None:
    """If the journal was lost and made anew, rows of a known run are not skipped in silence."""
    sink = MemorySink()
    trainer.start()
    trainer.log(1)
    deliver_all(Courier(reader, sink))
    cursor = Offset(reader.first_offset() + distance)
    sink.runs[RUN].cursor = cursor
    trainer.log(2)
    told = deliver_all(Courier(reader, sink))
    assert f"The cursor {cursor} is not of this journal" in told[-1]["error"]
    assert steps(sink.runs[RUN]) == [1]
    assert not any("through" in change for change in told)


def test_end_is_told_though_it_is_newer_than_the_last_look() -> None:
    """Entries that came between the look and the reading are taken as they are."""
    finish = Entry(
        Offset(7),
        RunId("run"),
        WriterId("w"),
        0,
        EntryKind.END,
        0,
        0,
        record_pb2.RunFinish(run_id="run", state=record_pb2.RUN_STATE_FAILED).SerializeToString(),
    )
    started = replace(
        finish,
        offset=Offset(6),
        kind=EntryKind.START,
        payload=record_pb2.RunStart(run_id="run").SerializeToString(),
    )
    sink = MemorySink()
    assert list(courier_module._hand_over(sink, RunId("run"), [started, finish], Offset(6))) == [
        6,
        7,
    ]
    assert sink.runs[RunId("run")].state is RunState.FAILED
    again = replace(started, offset=Offset(8))
    sink = MemorySink()
    list(courier_module._hand_over(sink, RunId("run"), [started, finish, again], Offset(8)))
    assert sink.runs[RunId("run")].finish is None


def test_a_run_that_is_deleted_is_forgotten_unless_it_has_come_back(
    trainer: Trainer, reader: JournalReader
) -> None:
    """The cursor that it had tells; what comes later under its id begins anew."""
    sink = MemorySink()
    courier = Courier(reader, sink)

    def begin_and_end() -> Offset:
        trainer.start()
        trainer.log(1)
        trainer.finish()
        courier.look()
        while courier.deliver():
            pass
        return sink.position(RUN)

    cursor = begin_and_end()
    trainer.journal.delete(RUN, cursor).result(WAIT_S)
    courier.delete(RUN, cursor)
    assert (sink.runs, sink.position(RUN)) == ({}, 0)
    trainer.journal.end_deletion(RUN, cursor).result(WAIT_S)
    assert begin_and_end() > cursor
    courier.delete(RUN, cursor)
    assert len(sink.runs[RUN].rows) == 1
