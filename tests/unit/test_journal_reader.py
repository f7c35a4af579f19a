"""Reading the journal: what comes in which order, what damage looks like, what a reader may not."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournaledRun, JournalReader
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

RUN, OTHER_RUN = RunId("run"), RunId("other-run")
WRITER = WriterId("w")
WAIT_S = 120.0
ALL = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Tell where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Open a new journal."""
    journal = open_journal(path)
    yield journal
    journal.close()


@pytest.fixture
def reader(path: Path, journal: Journal) -> Iterator[JournalReader]:
    """Open a reader beside it."""
    with JournalReader(path) as reader:
        yield reader


def open_journal(path: Path) -> Journal:
    """Open a journal that tells nobody of its commits."""
    return Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)


def start(journal: Journal, run_id: RunId = RUN) -> None:
    """Start a run."""
    fields = ("demo", "a name", "", "", (), "", {}, Environment(), 1)
    journal.start(RunStart(run_id, WRITER, *fields)).result(WAIT_S)


def append(journal: Journal, sequence: int, payload: bytes = b"...", run_id: RunId = RUN) -> None:
    """Append a batch of two rows."""
    journal.append(CheckedBatch(run_id, WRITER, sequence, payload, row_count=2)).result(WAIT_S)


def finish(journal: Journal, run_id: RunId = RUN) -> None:
    """End a run."""
    end = RunFinish(run_id, WRITER, RunState.FAILED, 1, "", {}, 2)
    journal.finish(end, last_sequence=None).result(WAIT_S)


def test_entries_come_in_the_order_of_their_offsets(
    journal: Journal, reader: JournalReader
) -> None:
    """One run's entries come as they were journaled, without those of other runs."""
    start(journal)
    start(journal, OTHER_RUN)
    append(journal, 1, b"one")
    append(journal, 1, b"other", OTHER_RUN)
    append(journal, 2, b"two")
    finish(journal)
    first = reader.first_offset()
    entries = reader.entries(RUN, after=0, bytes_max=ALL)
    assert [
        (e.offset - first + 1, e.kind, e.sequence, e.first_ordinal, e.row_count) for e in entries
    ] == [
        (1, EntryKind.START, 0, 0, 0),
        (3, EntryKind.BATCH, 1, 0, 2),
        (5, EntryKind.BATCH, 2, 2, 2),
        (6, EntryKind.END, 2, 4, 0),
    ]
    assert [entry.payload for entry in entries[1:3]] == [b"one", b"two"]
    assert {(entry.run_id, entry.writer_id) for entry in entries} == {(RUN, WRITER)}


def test_entries_go_on_behind_a_cursor(journal: Journal, reader: JournalReader) -> None:
    """What lies at or before the cursor does not come again."""
    start(journal)
    append(journal, 1)
    first = reader.first_offset()
    assert [e.offset for e in reader.entries(RUN, after=first, bytes_max=ALL)] == [first + 1]
    assert reader.entries(RUN, after=first + 1, bytes_max=ALL) == []
    assert reader.entries(OTHER_RUN, after=0, bytes_max=ALL) == []


def test_slice_is_bounded_but_never_empty(journal: Journal, reader: JournalReader) -> None:
    """A slice ends with the payload that reaches the bound; one comes, however large."""
    start(journal)
    for sequence in (1, 2, 3):
        append(journal, sequence, bytes(100))
    first = reader.first_offset()
    counts = [len(reader.entries(RUN, first, bytes_max)) for bytes_max in (1, 100, 101, ALL)]
    assert counts == [1, 1, 2, 3]


def test_runs_behind_a_cursor_come_oldest_news_first(
    journal: Journal, reader: JournalReader
) -> None:
    """Each run with something new is named once, with its last offset."""
    start(journal, OTHER_RUN)
    start(journal)
    append(journal, 1)
    append(journal, 1, run_id=OTHER_RUN)
    one, two, three, four = (reader.first_offset() + distance for distance in range(4))
    for cursor in (0, one - 1, one):
        assert dict(reader.runs_behind(cursor)) == {OTHER_RUN: four, RUN: three}
    assert reader.runs_behind(two) == [(RUN, three), (OTHER_RUN, four)]
    assert reader.runs_behind(three) == [(OTHER_RUN, four)]
    assert reader.runs_behind(four) == []


def test_runs_come_latest_first(journal: Journal, reader: JournalReader) -> None:
    """A run is told with its state, all rows it ever took and its last offset."""
    start(journal)
    start(journal, OTHER_RUN)
    append(journal, 1)
    finish(journal, OTHER_RUN)
    first = reader.first_offset()
    running = JournaledRun(RUN, RunState.RUNNING, 2, first + 2)
    assert reader.runs() == [JournaledRun(OTHER_RUN, RunState.FAILED, 0, first + 3), running]
    assert reader.run(RUN) == running
    assert reader.run(RunId("unknown")) is None


def test_run_is_known_after_its_entries_were_deleted(path: Path) -> None:
    """The count of rows is of all that was ever journaled."""
    journal = open_journal(path)
    start(journal)
    append(journal, 1)
    journal.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM entries")
    with JournalReader(path) as reader:
        last = Offset(reader.first_offset() + 1)
        assert reader.run(RUN) == JournaledRun(RUN, RunState.RUNNING, 2, last)
        assert reader.runs_behind(Offset(0)) == [(RUN, last)]
        assert reader.undelivered(RUN, Offset(0)) is None


def test_undelivered_is_the_first_entry_behind_a_cursor(
    journal: Journal, reader: JournalReader
) -> None:
    """Its first ordinal tells how far a sink lags, and its time for how long."""
    before_ns = time.time_ns()
    start(journal)
    append(journal, 1)
    append(journal, 2)
    first = reader.first_offset()
    found = [reader.undelivered(RUN, Offset(first + distance)) for distance in (-1, 0, 1, 3)]
    assert [one and one[0] for one in found] == [0, 0, 2, None]
    times = [one[1] for one in found if one]
    assert times == sorted(times)
    assert before_ns <= times[0]
    assert times[-1] <= time.time_ns()
    assert reader.undelivered(RunId("unknown"), Offset(0)) is None


def test_undelivered_reads_an_index_alone(reader: JournalReader) -> None:
    """However large entries are, none of them is read for it."""
    plan = reader._db.execute(
        "EXPLAIN QUERY PLAN SELECT first_ordinal, time_unix_nano FROM entries "
        "WHERE run_id = ? AND offset > ? ORDER BY offset LIMIT 1",
        (RUN, 0),
    ).fetchall()
    assert len(plan) == 1
    assert "USING COVERING INDEX entries_by_run (run_id=? AND offset>?)" in plan[0][3]


def test_reader_never_writes(path: Path, journal: Journal) -> None:
    """A reader's connection refuses every change."""
    start(journal)
    with (
        JournalReader(path) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader._db.execute("DELETE FROM entries")


def test_reader_never_makes_a_journal(path: Path) -> None:
    """Where there is no journal a reader fails, and leaves nothing."""
    with pytest.raises(sqlite3.OperationalError):
        JournalReader(path)
    assert list(path.parent.iterdir()) == []


def test_reader_holds_up_no_checkpoint(journal: Journal, reader: JournalReader) -> None:
    """Between its calls, also after half a slice, a reader holds no snapshot."""
    start(journal)
    for sequence in range(1, 5):
        append(journal, sequence)
    reader.entries(RUN, after=0, bytes_max=1)
    reader.runs_behind(0)
    reader.run(RUN)
    is_busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_busy


@pytest.mark.parametrize("name", ["a?b=c.db", "a#b.db", "50%41.db", "ä ö.db"])
def test_any_file_name_can_be_read(tmp_path: Path, name: str) -> None:
    """The path is a path, whatever it looks like as a URI."""
    journal = open_journal(tmp_path / name)
    start(journal)
    with JournalReader(tmp_path / name) as reader:
        assert [run.run_id for run in reader.runs()] == [RUN]
    journal.close()


@settings(max_examples=30, deadline=None)
@given(bit=st.integers(0, 8 * 100 - 1), damaged=st.integers(1, 3))
def test_flipped_payload_bit_is_reported_and_harms_no_other(
    tmp_path_factory: pytest.TempPathFactory, bit: int, damaged: int
) -> None:
    """The entry comes with all that is known of it, but without a payload; the others are whole."""
    path = tmp_path_factory.mktemp("flipped") / "journal.db"
    payloads = [b"%d" % sequence * 100 for sequence in (1, 2, 3)]
    journal = open_journal(path)
    start(journal)
    for sequence, payload in enumerate(payloads, start=1):
        append(journal, sequence, payload)
    journal.close()
    content = bytearray(path.read_bytes())
    content[content.index(payloads[damaged - 1]) + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with JournalReader(path) as reader:
        batches = reader.entries(RUN, after=reader.first_offset(), bytes_max=ALL)
    assert [(e.sequence, e.first_ordinal, e.row_count) for e in batches] == [
        *((1, 0, 2), (2, 2, 2), (3, 4, 2))
    ]
    expected: list[bytes | None] = list(payloads)
    expected[damaged - 1] = None
    assert [entry.payload for entry in batches] == expected
