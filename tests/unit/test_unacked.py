"""Batches that are not acked: order, figures and bounds, in memory and in the spool file."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion import _unacked
from pillion._batch import Batch
from pillion._unacked import MESSAGE_BYTES_MAX, Unacked
from pillion.spool import Kind, Spool, SpoolReader, spool_files


def lost(sequence: int, row_count: int) -> Batch:
    """Return what stands for a batch that is lost."""
    return Batch(sequence, 0, f"lost {sequence} {row_count}".encode())


def batch(sequence: int) -> Batch:
    """Return a batch of as many rows as its number says."""
    return Batch(sequence, sequence, f"batch {sequence}".encode() * sequence)


@pytest.fixture
def unacked() -> Unacked:
    """Return five batches in memory."""
    unacked = Unacked(lost)
    for sequence in range(1, 6):
        unacked.append(batch(sequence))
    return unacked


@pytest.fixture
def make_spool(tmp_path: Path) -> Callable[[], Spool]:
    """Return a function that makes a spool file as the sender does."""

    def make() -> Spool:
        spool = Spool.create(tmp_path, "run", "writer", 2**20)
        spool.append(Kind.START, b"start")
        return spool

    return make


def contents(unacked: Unacked) -> list[bytes | None]:
    """Read all that is there, in order."""
    return [
        unacked.read(sequence)
        for sequence in range(unacked.first_sequence, unacked.last_sequence + 1)
    ]


def messages(*sequences: int) -> list[bytes]:
    """Return the messages of these batches."""
    return [batch(sequence).message for sequence in sequences]


def test_what_is_acked_is_let_go(unacked: Unacked) -> None:
    """An ack is of all up to it; it may come twice, and be of more than there is."""
    unacked.ack(2)
    assert contents(unacked) == messages(3, 4, 5)
    counts = unacked.counts()
    assert (counts.acked, counts.unacked) == (1 + 2, 3 + 4 + 5)
    assert counts.unacked_bytes == sum(map(len, messages(3, 4, 5)))
    assert counts.acked_bytes == sum(map(len, messages(1, 2)))
    unacked.ack(1)
    unacked.ack(99)
    assert (contents(unacked), unacked.last_sequence) == ([], 5)
    assert unacked.read(5) is None
    assert unacked.read(6) is None


def test_spool_takes_all_from_memory_and_gives_it_back(
    unacked: Unacked, make_spool: Callable[[], Spool]
) -> None:
    """In order, with what is appended later behind it, and read from any place."""
    unacked.spool = make_spool()
    unacked.to_spool()
    assert not unacked.is_in_memory
    assert unacked.counts().unacked_bytes == 0
    unacked.append(batch(6))
    assert contents(unacked) == messages(1, 2, 3, 4, 5, 6)
    unacked.ack(2)
    assert unacked.read(4) == batch(4).message
    assert contents(unacked) == messages(3, 4, 5, 6)
    counts = unacked.counts()
    assert (counts.acked, counts.spooled, counts.unacked) == (3, 12, 6)
    unacked.to_spool()
    assert contents(unacked) == messages(3, 4, 5, 6)


def test_file_holds_what_an_adopter_needs(
    unacked: Unacked, make_spool: Callable[[], Spool], tmp_path: Path
) -> None:
    """The start, then batches in order, none missing."""
    unacked.ack(1)
    unacked.spool = make_spool()
    unacked.to_spool()
    unacked.spool.close()
    (path,) = spool_files(tmp_path)
    reader = SpoolReader.adopt(path)
    assert reader is not None
    assert [record.payload for record in reader.records()] == [b"start", *messages(2, 3, 4, 5)]
    reader.close()


def test_file_goes_when_all_of_it_is_acked(
    unacked: Unacked, make_spool: Callable[[], Spool], tmp_path: Path
) -> None:
    """Not before; and another may follow it."""
    unacked.spool = make_spool()
    unacked.to_spool()
    unacked.append(batch(6))
    unacked.ack(4)
    unacked.remove_spool_if_acked()
    assert len(spool_files(tmp_path)) == 1
    unacked.ack(5)
    unacked.remove_spool_if_acked()
    assert spool_files(tmp_path) == []
    assert contents(unacked) == messages(6)
    unacked.spool = make_spool()
    unacked.to_spool()
    assert contents(unacked) == messages(6)


def test_batch_that_is_acked_while_it_is_written_is_not_missed(
    unacked: Unacked, make_spool: Callable[[], Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the file for nothing; those behind it are found all the same."""
    unacked.spool = spool = make_spool()
    append = spool.append

    def append_and_ack(kind: Kind, payload: bytes = b"") -> int:
        if payload == batch(3).message:
            unacked.ack(3)
        return append(kind, payload)

    monkeypatch.setattr(spool, "append", append_and_ack)
    unacked.to_spool()
    assert contents(unacked) == messages(4, 5)
    assert (unacked.counts().acked, unacked.counts().spooled) == (6, 9)


def test_full_disk_leaves_the_rest_in_memory(
    unacked: Unacked, make_spool: Callable[[], Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is in the file, what was not is not lost."""
    unacked.spool = spool = make_spool()
    append = spool.append

    def append_until_full(kind: Kind, payload: bytes = b"") -> int:
        if payload == batch(3).message:
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(kind, payload)

    monkeypatch.setattr(spool, "append", append_until_full)
    with pytest.raises(OSError, match="No space"):
        unacked.to_spool()
    assert contents(unacked) == messages(1, 2, 3, 4, 5)
    assert (unacked.counts().spooled, unacked.counts().unacked) == (3, 12)


@pytest.mark.parametrize("is_spooled", [False, True])
def test_batch_that_is_dropped_is_said_to_be(
    unacked: Unacked, make_spool: Callable[[], Spool], is_spooled: bool
) -> None:
    """Its number stays taken, its rows are counted as dropped and never as acked."""
    if is_spooled:
        unacked.spool = make_spool()
        unacked.to_spool()
    unacked.drop(2)
    expected = [*messages(1), b"lost 2 2", *messages(3, 4, 5)]
    assert contents(unacked) == expected
    unacked.ack(5)
    counts = unacked.counts()
    assert (counts.acked, counts.dropped) == (1 + 3 + 4 + 5, 2)
    assert (counts.unacked_bytes, counts.spooled_bytes) == (0, 0)


def test_batch_that_the_spool_does_not_give_back_is_dropped(
    unacked: Unacked, make_spool: Callable[[], Spool]
) -> None:
    """Whether a bit of it was flipped or its end was cut off; the others are read."""
    unacked.spool = make_spool()
    unacked.to_spool()
    data = bytearray(unacked.spool.path.read_bytes())
    data[data.index(b"batch 2")] ^= 1
    data[-1:] = b""
    unacked.spool.path.write_bytes(data)  # the same inode: what the owner has open
    expected = [*messages(1), b"lost 2 2", *messages(3, 4), b"lost 5 5"]
    assert contents(unacked) == expected
    assert contents(unacked) == expected
    assert unacked.counts().dropped == 7


def test_room_is_kept_for_the_largest_message(unacked: Unacked) -> None:
    """So that memory never exceeds its bound, not even by one batch."""
    sequence = unacked.last_sequence
    while unacked.has_room:
        sequence += 1
        unacked.append(Batch(sequence, 1, bytes(MESSAGE_BYTES_MAX)))
        assert unacked.counts().unacked_bytes <= _unacked.BYTES_MAX
    assert unacked.counts().unacked_bytes > _unacked.BYTES_MAX - 2 * MESSAGE_BYTES_MAX


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["append", "append", "spool", "ack", "drop", "tidy"]), max_size=40
    )
)
def test_nothing_is_lost_doubled_or_miscounted(
    make_spool: Callable[[], Spool], steps: list[str]
) -> None:
    """Whatever happens in whatever order, against a list as the model."""
    unacked, model, next_sequence = Unacked(lost), dict[int, bytes](), 1
    appended = acked = dropped = 0
    for step in steps:
        match step:
            case "append":
                unacked.append(batch(next_sequence))
                model[next_sequence] = batch(next_sequence).message
                appended += next_sequence
                next_sequence += 1
            case "spool":
                unacked.spool = unacked.spool or make_spool()
                unacked.to_spool()
            case "ack" if model:
                first = min(model)
                acked += first if b"lost" not in model.pop(first) else 0
                unacked.ack(first)
            case "drop" if model:
                sequence = max(model)
                if b"lost" not in model[sequence]:
                    dropped += sequence
                    model[sequence] = lost(sequence, sequence).message
                    unacked.drop(sequence)
            case "tidy":
                unacked.remove_spool_if_acked()
        assert contents(unacked) == [*model.values()]
        counts = unacked.counts()
        assert (counts.acked, counts.dropped) == (acked, dropped)
        assert counts.unacked + counts.spooled == appended - acked - dropped
    if unacked.spool is not None:
        unacked.spool.remove()
