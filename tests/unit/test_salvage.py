"""Salvage: what is kept of a damaged journal, how the rest is told, and what a crash does."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion_sidecar import salvage
from pillion_sidecar.errors import DiskError
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    LostRange,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    TargetMode,
    WandbTarget,
    WriterId,
    decode_batch,
)

RUNS = [RunId("one"), RunId("two"), RunId("three")]
TARGETS = {
    RUNS[0]: WandbTarget(TargetMode.DISABLED),
    RUNS[1]: WandbTarget(),
    RUNS[2]: WandbTarget(credential="team"),
}
WRITER = WriterId("w")
BATCHES = 120
ROWS = 3
WAIT_S = 120.0
PAGE_BYTES = 4096


def open_journal(path: Path, fatal: list[DiskError] | None = None) -> Journal:
    """Open a journal that tells nobody of its commits."""
    told: list[DiskError] = [] if fatal is None else fatal
    return Journal(path, on_commit=lambda: None, on_fatal=told.append)


def payload_of(run_id: RunId, sequence: int) -> bytes:
    """Make a batch that is large enough for pages of its own now and then."""
    return random.Random(f"{run_id} {sequence}").randbytes(sequence * 61 % 7000)


def write(path: Path) -> None:
    """Write a journal with three runs: one lives, one has ended, one is trimmed half-way."""
    journal = open_journal(path)
    for run_id in RUNS:
        journal.start(
            RunStart(
                *(run_id, WRITER, "p", run_id, "", "", (), "", {}, Environment(), 1),
                wandb=TARGETS[run_id],
            )
        )
    for sequence in range(1, BATCHES + 1):
        for run_id in RUNS:
            batch = CheckedBatch(run_id, WRITER, sequence, payload_of(run_id, sequence), ROWS)
            future = journal.append(batch)
    future.result(WAIT_S)
    end = RunFinish(RUNS[1], WRITER, RunState.FINISHED, 0, "", {}, 2)
    journal.finish(end, last_sequence=BATCHES).result(WAIT_S)
    with JournalReader(path) as reader:
        (point,) = [e.offset for e in reader.entries(RUNS[2], Offset(0), 1 << 30)][60:61]
    journal.trim({RUNS[2]: point})
    while journal._submit(lambda: journal._trimmer.is_due).result(WAIT_S):
        pass
    journal.close()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a sound journal's file."""
    path = tmp_path_factory.mktemp("sound") / "journal.db"
    write(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Iterator[Path]:
    """Return a copy of it."""
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    return path


def facts(path: Path) -> Any:
    """Read all that a journal tells."""
    with JournalReader(path) as reader:
        return reader.runs(), {
            run_id: reader.entries(run_id, Offset(0), 1 << 30) for run_id in RUNS
        }


def check(path: Path, sound: Any) -> int:
    """Hold a salvaged journal to what it was; return how many rows are missing, all told."""
    runs, entries = facts(path)
    sound_runs, sound_entries = sound
    assert {run[:5] for run in runs} == {run[:5] for run in sound_runs}
    missing_count = 0
    for run in runs:
        found = {entry.offset: entry for entry in entries[run.run_id]}
        lost = 0
        for entry in found.values():
            assert entry.payload is not None
            if entry not in sound_entries[run.run_id] and entry.kind is EntryKind.BATCH:
                (record,) = decode_batch(entry.payload, 0)
                assert isinstance(record, LostRange)
                lost += record.row_count
        kept = [entry for entry in sound_entries[run.run_id] if entry == found.get(entry.offset)]
        ordinals = [e.first_ordinal + n for e in found.values() for n in range(e.row_count)]
        first = sound_entries[run.run_id][0].first_ordinal
        assert sorted(ordinals) == list(range(first, run.row_count))
        assert run.dropped_row_count == lost
        assert lost == sum(e.row_count for e in sound_entries[run.run_id]) - sum(
            e.row_count for e in kept
        )
        kinds = [entry.kind for entry in found.values()]
        if run.trimmed_offset == 0:
            assert kinds[0] is EntryKind.START
        assert (kinds[-1] is EntryKind.END) == (run.state is not RunState.RUNNING)
        missing_count += lost
    return missing_count


def test_what_the_store_has_yet_to_delete_is_kept_in_mind(path: Path) -> None:
    """Else a new run could take the id, and come behind the rows of the former one."""
    with JournalReader(path) as reader:
        run = reader.run(RUNS[1])
    assert run is not None
    journal = open_journal(path)
    journal.delete(run.run_id, run.last_offset).result(WAIT_S)
    journal.close()
    salvage.mark(path, "by mistake")
    journal = open_journal(path)
    assert journal.pending_deletions() == {run.run_id: run.last_offset}
    journal.close()


def destinations(path: Path) -> dict[RunId, str]:
    """Read where the runs go at W&B once the journal is salvaged."""
    salvage.mark(path, "by mistake")
    open_journal(path).close()
    with JournalReader(path) as reader:
        return reader.destinations()


def test_runs_go_to_wandb_where_they_went_before(path: Path) -> None:
    """Else a run that was kept from W&B would be uploaded there, or one by another key."""
    assert destinations(path) == {RUNS[0]: "", RUNS[1]: "wandb", RUNS[2]: "wandb-team"}


def test_a_run_known_by_its_entries_alone_goes_where_its_start_says(path: Path) -> None:
    """And to nobody where that is gone too: it may have been kept from W&B."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM runs")
    assert destinations(path) == {RUNS[0]: "", RUNS[1]: "wandb", RUNS[2]: ""}


def test_sound_journal_loses_nothing(path: Path) -> None:
    """A mark that was left by mistake costs time, no more; the former file is kept."""
    sound = facts(path)
    salvage.mark(path, "by mistake")
    journal = open_journal(path)
    journal_id = journal.id
    journal.close()
    assert check(path, sound) == 0
    assert len(list(path.parent.glob("journal.db-damaged-*[0-9]"))) == 1
    assert not (path.parent / "journal.db-is-damaged").exists()
    journal = open_journal(path)  # once
    assert journal.id == journal_id
    journal.close()
    assert len(list(path.parent.glob("journal.db-damaged-*[0-9]"))) == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_pages_lose_what_was_on_them_and_nothing_else(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever pages of entries are destroyed, every row is there, or counted and in a range."""
    path = tmp_path_factory.mktemp("damaged") / "journal.db"
    path.write_bytes(content)
    sound = facts(path)
    numbers = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3), label="pages")
    pages = leaf_pages(content, path)
    damaged = bytearray(content)
    for number in numbers:
        at = (pages[number % len(pages)] - 1) * PAGE_BYTES
        damaged[at : at + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(damaged)
    salvage.mark(path, "a page was destroyed")
    journal = open_journal(path)
    for entry in [e for entries in facts(path)[1].values() for e in entries if e.payload is None]:
        journal.quarantine(entry.offset).result(WAIT_S)
    batch = CheckedBatch(RUNS[0], WRITER, BATCHES + 1, b"...", ROWS)
    check(path, sound)
    assert journal.append(batch).result(WAIT_S) == BATCHES + 1
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def leaf_pages(content: bytes, path: Path) -> list[int]:
    """Return the leaves of the table of entries and the first pages of large payloads."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'").fetchone()
    found, pending = [], [root]
    while pending:
        number = pending.pop()
        page = content[(number - 1) * PAGE_BYTES : number * PAGE_BYTES]
        if page[0] == 13:  # a leaf
            found.append(number)
        else:
            cells = int.from_bytes(page[3:5], "big")
            pointers = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
            pending += [int.from_bytes(page[p : p + 4], "big") for p in pointers]
            pending.append(int.from_bytes(page[8:12], "big"))
    return found


def test_damage_that_is_found_while_it_runs_ends_it_and_the_next_start_salvages(
    path: Path, content: bytes
) -> None:
    """A page that the journal has to read is destroyed: nothing is acked, all else survives."""
    sound = facts(path)
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'entries_by_writer'"
        ).fetchone()
    damaged = bytearray(content)
    damaged[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(damaged)
    fatal: list[DiskError] = []
    journal = open_journal(path, fatal)
    batch = CheckedBatch(RUNS[0], WRITER, BATCHES + 1, b"...", ROWS)
    with pytest.raises(DiskError) as failure:
        journal.append(batch).result(WAIT_S)
    assert failure.value.reason == "JOURNAL_DAMAGED"
    assert len(fatal) == 1
    journal.close()
    journal = open_journal(path)
    assert check(path, sound) == 0  # only an index was damaged
    assert journal.append(batch).result(WAIT_S) == BATCHES + 1
    journal.close()


def test_damage_that_a_reader_found_ends_it_too(path: Path) -> None:
    """What a worker reports of a page is taken at its word."""
    fatal: list[DiskError] = []
    journal = open_journal(path, fatal)
    with pytest.raises(DiskError, match="page 7 is gone"):
        journal.condemn("page 7 is gone").result(WAIT_S)
    assert len(fatal) == 1
    journal.close()
    assert (path.parent / "journal.db-is-damaged").exists()


@pytest.mark.parametrize("step", range(8))
def test_salvage_that_is_interrupted_begins_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whichever of its changes of names is the last before a crash, nothing is lost."""
    sound = facts(path)
    Path(f"{path}-wal").touch()
    salvage.mark(path, "a page was destroyed")
    changes = iter(range(100))

    class Crash(BaseException):
        """The process ends here."""

    def crashing(change: Any) -> Any:
        def make(self: Path, *args: Any, **more: Any) -> Any:
            if self.is_relative_to(path.parent) and next(changes) == step:
                raise Crash
            return change(self, *args, **more)

        return make

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crashing(Path.rename))
        patch.setattr(Path, "unlink", crashing(Path.unlink))
        try:
            salvage.salvage(path)
        except Crash:
            pass
        else:
            assert step > 5  # each of its changes was the last one once
    journal = open_journal(path)
    journal.close()
    assert check(path, sound) == 0
    assert not (path.parent / "journal.db-is-damaged").exists()


def test_journal_of_which_nothing_can_be_read_is_refused_and_left(path: Path) -> None:
    """It is not taken for an empty one: somebody has to look."""
    path.write_bytes(b"\xff" * 100_000)
    salvage.mark(path, "all of it")
    with pytest.raises(DiskError, match="nothing of it can be read"):
        open_journal(path)
    assert path.read_bytes() == b"\xff" * 100_000
