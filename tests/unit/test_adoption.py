"""Adoption: what a spool file holds is journaled once, and ends as its writer did."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillion.spool import Kind, Spool
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.adoption import Adoption
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import (
    Frame,
    LostRange,
    RunFinish,
    RunId,
    RunState,
    WriterId,
    decode_batch,
    decode_finish,
)
from pillion_sidecar.staged_adoption import StagedAdoption
from pillion_sidecar.validation import check_log, check_start

RUN, WRITER = RunId("r"), WriterId("w")
VANISHED = "Its process vanished without finishing; what it had spooled was taken over."
START = pb2.StartRunRequest(run_id=RUN, writer_id=WRITER).SerializeToString()


def batch(sequence: int, run_id: str = RUN, **columns: float) -> bytes:
    """Return a batch of one row."""
    frame = record_pb2.MetricFrame(steps=[sequence], times_unix_nano=[sequence])
    frame.columns.add(key="loss").doubles.values.append(sequence / 2)
    message = record_pb2.Batch(
        run_id=run_id,
        writer_id=WRITER,
        sequence=sequence,
        records=[record_pb2.Record(metric_frame=frame)],
    )
    return pb2.LogMetricsRequest(batch=message).SerializeToString()


def finish(last_sequence: int, state: int = 0, exit_code: int = 0) -> bytes:
    """Return the end of the writer."""
    return pb2.FinishRunRequest(
        run_id=RUN,
        writer_id=WRITER,
        last_sequence=last_sequence,
        state=state,  # type: ignore[arg-type]
        exit_code=exit_code,
        refused_row_count=7,
    ).SerializeToString()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the spool directory, which is not there yet."""
    return tmp_path / "spool"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Open a journal."""
    journal = Journal(tmp_path / "journal.db", on_commit=lambda: None, on_fatal=lambda _: None)
    yield journal
    journal.close()


@pytest.fixture
def taken() -> list[tuple[RunId, WriterId]]:
    """Collect the writers that were taken over."""
    return []


@pytest.fixture
def adoption(directory: Path, journal: Journal, taken: list[Any]) -> Adoption:
    """Adopt from that directory, when told to."""
    staged = StagedAdoption(directory, journal, Blobs(directory.with_name("blobs")), print)
    return Adoption(directory, journal, lambda *writer: taken.append(writer), staged)


@pytest.fixture
def write(directory: Path) -> Callable[..., Path]:
    """Return a function that writes a file whose owner is gone."""

    def write_file(*records: tuple[Kind, bytes], start: bytes = START) -> Path:
        spool = Spool.create(directory, RUN, WRITER, 2**30)
        for kind, payload in ((Kind.START, start), *records):
            spool.append(kind, payload)
        spool.close()
        return spool.path

    return write_file


def batches(*sequences: int) -> list[tuple[Kind, bytes]]:
    """Return these batches as records."""
    return [(Kind.BATCH, batch(sequence)) for sequence in sequences]


class Found:
    """What the journal has of the run."""

    def __init__(self, tmp_path: Path) -> None:
        with JournalReader(tmp_path / "journal.db") as reader:
            run = reader.run(RUN)
            assert run is not None
            self.state = run.state
            self.entries = list(reader.entries(RUN, 0, 2**30))  # type: ignore[arg-type]
        self.steps: list[int] = []
        self.lost: list[LostRange] = []
        self.ends: list[RunFinish] = []
        for entry in self.entries:
            if entry.kind is EntryKind.BATCH:
                for record in decode_batch(entry.payload, 0):
                    if isinstance(record, Frame):
                        self.steps += record.steps.tolist()
                    elif isinstance(record, LostRange):
                        self.lost.append(record)
            elif entry.kind is not EntryKind.START:
                self.ends.append(decode_finish(entry.payload))


def test_file_becomes_the_run_and_goes(
    adoption: Adoption, write: Callable[..., Path], taken: list[Any], tmp_path: Path
) -> None:
    """Start, rows and end are those that the writer would have sent; the time is the file's."""
    path = write(*batches(1, 2, 3), (Kind.FINISH, finish(3, exit_code=4)))
    os.utime(path, ns=(5, 6))
    adoption.scan()
    found = Found(tmp_path)
    assert (found.steps, found.state) == ([1, 2, 3], RunState.FAILED)
    assert [(end.exit_code, end.time_unix_nano) for end in found.ends] == [(4, 6)]
    assert not path.exists()
    assert set(taken) == {(RUN, WRITER)}
    status = adoption.status()
    assert (status.file_count, status.size_bytes, status.last_error) == (0, 0, "")


@pytest.mark.parametrize(
    ("records", "state", "reason"),
    [([], RunState.CRASHED, VANISHED), ([(Kind.CHILD, b"")], RunState.FINISHED, "")],
)
def test_writer_without_an_end_has_crashed_unless_it_was_a_child(
    adoption: Adoption,
    write: Callable[..., Path],
    tmp_path: Path,
    records: list[tuple[Kind, bytes]],
    state: RunState,
    reason: str,
) -> None:
    """Children are let go without a word; others are not."""
    write(*records, *batches(1))
    adoption.scan()
    (end,) = Found(tmp_path).ends
    assert (end.state, end.reason, end.exit_code) == (state, reason, None)


def test_file_of_a_living_writer_is_left_alone(adoption: Adoption, directory: Path) -> None:
    """It counts as waiting; its owner sends it, or leaves it."""
    spool = Spool.create(directory, RUN, WRITER, 2**30)
    spool.append(Kind.START, START)
    adoption.scan()
    assert spool.path.exists()
    assert adoption.status().file_count == 1
    assert adoption.status().size_bytes == spool.size_bytes
    spool.close()
    adoption.scan()
    assert not spool.path.exists()


def test_torn_file_gives_what_is_whole(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Wherever a writer was interrupted, the records before are taken, and the file goes."""
    whole = write(*batches(1, 2)).read_bytes()
    last_bytes = len(batch(2)) + 9
    for cut in (1, 8, last_bytes - 1):
        path = write(*batches(1, 2)) if cut != 1 else next(tmp_path.glob("spool/*.spool"))
        os.truncate(path, len(whole) - cut)
        adoption.scan()
        found = Found(tmp_path)
        assert (found.steps, found.state) == ([1], RunState.CRASHED)
        assert not path.exists()
    assert adoption.status().last_error == ""


@pytest.mark.parametrize("size_bytes", [0, 3, 8])
def test_file_that_was_torn_at_its_beginning_goes(
    adoption: Adoption, write: Callable[..., Path], size_bytes: int
) -> None:
    """Its writer had not said anything yet."""
    path = write()
    os.truncate(path, size_bytes)
    adoption.scan()
    assert not path.exists()
    assert adoption.status().last_error == ""


def test_damaged_file_gives_its_prefix_and_is_put_aside(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path
) -> None:
    """A flipped bit ends what can be trusted; it is reported, and the file stays for people."""
    path = write(*batches(1, 2, 3), (Kind.FINISH, finish(3)))
    data = bytearray(path.read_bytes())
    data[8 + 9 + len(START) + 9 + len(batch(1)) + 20] ^= 1  # in the second batch
    path.write_bytes(data)
    adoption.scan()
    found = Found(tmp_path)
    assert (found.steps, found.state) == ([1], RunState.CRASHED)
    assert [end.reason for end in found.ends] == ["Its spool file was damaged."]
    aside = path.with_name(path.name + ".damaged")
    assert aside.read_bytes() == data
    assert str(aside) in adoption.status().last_error
    aside.unlink()
    adoption.scan()
    assert adoption.status().last_error == ""


def test_batches_of_another_journal_are_declared_lost(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path
) -> None:
    """What a former journal had acked is not in the file; the gap is told, and the rest kept."""
    write(*batches(5, 6), (Kind.FINISH, finish(8)))
    adoption.scan()
    found = Found(tmp_path)
    assert (found.steps, found.state) == ([5, 6], RunState.FINISHED)
    assert [(lost.first_sequence, lost.last_sequence) for lost in found.lost] == [(1, 4), (7, 8)]


def test_batch_that_is_never_taken_is_declared_lost(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path
) -> None:
    """As in the client: one bad batch does not keep the others."""
    bad = pb2.LogMetricsRequest.FromString(batch(2))
    bad.batch.records[0].metric_frame.columns[0].key = ""
    records = [*batches(1), (Kind.BATCH, bad.SerializeToString()), *batches(3)]
    write(*records, (Kind.FINISH, finish(3)))
    adoption.scan()
    found = Found(tmp_path)
    assert found.steps == [1, 3]
    assert found.lost == [LostRange(2, 2, 1)]


def test_what_is_on_disk_already_changes_nothing(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path, journal: Journal
) -> None:
    """A file that was taken before, wholly or in part, is taken once."""
    journal.start(check_start(pb2.StartRunRequest.FromString(START))).result()
    journal.append(check_log(batch(1))).result()
    path = write(*batches(1, 2, 3), (Kind.FINISH, finish(3)))
    copy = shutil.copy(path, tmp_path / "copy")
    adoption.scan()
    first = Found(tmp_path)
    assert (first.steps, first.state) == ([1, 2, 3], RunState.FINISHED)
    shutil.move(copy, path)
    adoption.scan()
    assert [entry.offset for entry in Found(tmp_path).entries] == [
        entry.offset for entry in first.entries
    ]
    assert not path.exists()


def test_end_in_the_file_stands_against_what_was_assumed(
    adoption: Adoption, write: Callable[..., Path], tmp_path: Path, journal: Journal
) -> None:
    """Its process was seen to be gone before its own word was found."""
    journal.start(check_start(pb2.StartRunRequest.FromString(START))).result()
    journal.append(check_log(batch(1))).result()
    crash = RunFinish(RUN, WRITER, RunState.CRASHED, None, "gone", {}, 1)
    journal.finish(crash, last_sequence=None).result()
    write((Kind.FINISH, finish(1)))
    adoption.scan()
    assert Found(tmp_path).state is RunState.FINISHED


@pytest.mark.parametrize(
    ("records", "start", "reason"),
    [
        ([(Kind.BATCH, batch(1, run_id="x"))], START, "a batch in it is another writer's"),
        ([(Kind.BATCH, b"\xff")], START, "This is no LogMetricsRequest"),
        ([], b"\xff", "This is no StartRunRequest"),
        ([], pb2.StartRunRequest(run_id="../x").SerializeToString(), "run_id"),
        (
            [],
            pb2.StartRunRequest(
                run_id=RUN, writer_id="w2", resume="RESUME_POLICY_NEVER"
            ).SerializeToString(),
            "exists already",
        ),
    ],
)
def test_file_that_is_refused_stays_and_is_told(
    adoption: Adoption,
    write: Callable[..., Path],
    journal: Journal,
    records: list[tuple[Kind, bytes]],
    start: bytes,
    reason: str,
    tmp_path: Path,
) -> None:
    """Nothing is thrown away, nothing is tried for ever, and nobody is left running."""
    journal.start(check_start(pb2.StartRunRequest(run_id=RUN, writer_id="w1"))).result()
    journal.finish(
        RunFinish(RUN, WriterId("w1"), RunState.FINISHED, 0, "", {}, 1), last_sequence=0
    ).result()
    path = write(*records, start=start)
    adoption.scan()
    assert path.exists()
    assert reason in adoption.status().last_error
    assert Found(tmp_path).state is not RunState.RUNNING
    entries = len(Found(tmp_path).entries)
    adoption.scan()
    assert len(Found(tmp_path).entries) == entries


def test_other_files_are_left_alone(adoption: Adoption, directory: Path) -> None:
    """Junk, links, and what another user has put there."""
    directory.mkdir()
    (directory / "notes.txt").write_text("mine", encoding="ascii")
    adoption.scan()
    assert adoption.status().last_error == ""
    (directory / "junk.spool").write_text("no spool", encoding="ascii")
    adoption.scan()
    assert "no spool file" in adoption.status().last_error
    (directory / "junk.spool").unlink()
    (directory / "link.spool").symlink_to("/etc/passwd")
    adoption.scan()
    assert "link.spool is not taken" in adoption.status().last_error
    (directory / "link.spool").unlink()
    other = directory / "other.spool"
    other.write_bytes(b"PILLION\x01")
    os.chown(other, 12345, 12345)
    adoption.scan()
    assert "it belongs to another user" in adoption.status().last_error
    assert other.exists()
