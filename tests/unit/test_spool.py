"""The spool file's format: what is written is read back, and what was done to it is told."""

import errno
import os
import struct
from pathlib import Path

import pytest

from pillion import spool as spool_module
from pillion.spool import (
    HEADER,
    PAYLOAD_BYTES_MAX,
    End,
    Kind,
    Spool,
    SpoolFormatError,
    SpoolReader,
    spool_directory,
    spool_files,
)

RECORDS = [
    *((Kind.START, b"the start"), (Kind.CHILD, b""), (Kind.BATCH, b"\0" * 40)),
    *((Kind.BATCH, bytes(range(256))), (Kind.FINISH, b"the end")),
]


def write(directory: Path, records: list[tuple[Kind, bytes]] = RECORDS) -> Path:
    """Write a file whose owner is gone."""
    spool = Spool.create(directory, "run", "writer", 2**20)
    for kind, payload in records:
        spool.append(kind, payload)
    spool.close()
    return spool.path


def read(path: Path) -> tuple[list[tuple[Kind, bytes]], End | None]:
    """Read all that can be read, and how it ended."""
    reader = SpoolReader.adopt(path)
    assert reader is not None
    records = [(record.kind, record.payload) for record in reader.records()]
    reader.close()
    return records, reader.end


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    """All kinds, with and without payload."""
    assert read(write(tmp_path)) == (RECORDS, End.WHOLE)


def test_bytes_are_those_of_the_worked_example(tmp_path: Path) -> None:
    """What the module's docstring shows is what is on disk."""
    path = write(tmp_path, [(Kind.BATCH, b"hi")])
    shown = [
        line[:28].strip()
        for line in (spool_module.__doc__ or "").splitlines()
        if line.startswith("    ") and line[4:6].isalnum() and line[6] == " "
    ]
    assert path.read_bytes().hex(" ") == " ".join(shown)


def test_file_is_its_users_alone(tmp_path: Path) -> None:
    """It holds what was logged; the directory is made on the way."""
    path = write(tmp_path / "a" / "spool")
    assert path.name == "run.writer.spool"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert spool_files(path.parent) == [path]


def test_name_is_safe_whatever_the_run_is_called(tmp_path: Path) -> None:
    """No name leads out of the directory, or is too long for it."""
    for run_id in ("../../x", "a/b", "", "ü" * 500, "\udcff\0"):
        spool = Spool.create(tmp_path, run_id, "w", 2**20)
        assert spool.path.parent == tmp_path
        assert spool.path.resolve().parent == tmp_path.resolve()
        spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_owner_reads_back_what_it_wrote(tmp_path: Path) -> None:
    """One record after the other, by offset and size."""
    spool = Spool.create(tmp_path, "run", "writer", 2**20)
    sizes = [spool.append(*record) for record in RECORDS]
    offset = len(HEADER)
    for size_bytes, expected in zip(sizes, RECORDS, strict=True):
        record = spool.read(offset)
        assert (record.kind, record.payload, record.size_bytes) == (*expected, size_bytes)
        offset += record.size_bytes
    with pytest.raises(SpoolFormatError):
        spool.read(offset)
    spool.remove()
    assert spool_files(tmp_path) == []


def test_file_of_a_living_owner_is_not_taken(tmp_path: Path) -> None:
    """Nor one that another has taken; once let go it is free."""
    spool = Spool.create(tmp_path, "run", "writer", 2**20)
    assert SpoolReader.adopt(spool.path) is None
    spool.close()
    first = SpoolReader.adopt(spool.path)
    assert first is not None
    assert SpoolReader.adopt(spool.path) is None
    first.remove()
    assert not spool.path.exists()


def test_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """A worker that outlives its parent would keep the file from being taken."""
    spool = Spool.create(tmp_path, "run", "writer", 2**20)
    (told, tell), (running, run) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.write(run, b"x")
        os.read(told, 1)
        os._exit(0)
    try:
        os.read(running, 1)
        assert SpoolReader.adopt(spool.path) is None
        os.close(spool._fd)  # as the end of the parent does
        reader = SpoolReader.adopt(spool.path)
        assert reader is not None
        reader.close()
    finally:
        spool_module._owned.clear()
        for fd in (told, tell, running, run):
            os.close(fd)
        os.waitpid(child, 0)


def test_cap_refuses_and_leaves_the_file_whole(tmp_path: Path) -> None:
    """A record that does not fit is not begun."""
    spool = Spool.create(tmp_path, "run", "writer", len(HEADER) + 9 + 100)
    spool.append(Kind.BATCH, b"x" * 90)
    with pytest.raises(OSError, match="bytes that it may") as error:
        spool.append(Kind.BATCH, b"y" * 2)
    assert error.value.errno == errno.EFBIG
    spool.append(Kind.CHILD)
    spool.close()
    assert read(spool.path) == ([(Kind.BATCH, b"x" * 90), (Kind.CHILD, b"")], End.WHOLE)


def test_file_cut_anywhere_has_a_torn_tail(tmp_path: Path) -> None:
    """What was whole before the cut is read; the rest is missing, not damaged."""
    path = write(tmp_path)
    data = path.read_bytes()
    ends = [len(HEADER)]
    for _, payload in RECORDS:
        ends.append(ends[-1] + 9 + len(payload))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        records, end = read(path)
        assert records == RECORDS[: sum(each <= length for each in ends[1:])]
        assert end is (End.WHOLE if length in ends else End.TORN)


def test_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    """Records before it are read, none is read wrongly; whole ones behind it make it damage."""
    path = write(tmp_path)
    data = path.read_bytes()
    last_begins = len(data) - 9 - len(RECORDS[-1][1])
    for place in range(len(HEADER), len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        records, end = read(path)
        assert records == RECORDS[: len(records)]
        assert len(records) < len(RECORDS)
        assert end is (End.DAMAGED if place < last_begins else End.TORN)


def test_tail_of_zeros_is_torn(tmp_path: Path) -> None:
    """As a file system may leave it when the power fails."""
    path = write(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert read(path) == (RECORDS, End.TORN)


def test_doubtful_tail_is_judged_in_bounded_time(tmp_path: Path) -> None:
    """Even if every byte of it might begin a long record."""
    path = write(tmp_path)
    with path.open("ab") as file:
        file.write(struct.pack("<IIB", 2**20, 1, 2) * 400_000)
    assert read(path) == (RECORDS, End.DAMAGED)


def test_damaged_file_is_set_aside(tmp_path: Path) -> None:
    """Nobody takes it a second time; nothing of it is deleted."""
    reader = SpoolReader.adopt(write(tmp_path))
    assert reader is not None
    assert reader.set_aside() == tmp_path / "run.writer.spool.damaged"
    assert spool_files(tmp_path) == []


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"PILLION\x02", "upgrade Pillion"),
        (b"SQLite format 3\0", "no spool file"),
        (b"PIG", "no spool file"),
    ],
)
def test_file_of_another_kind_or_version_is_refused(
    tmp_path: Path, header: bytes, message: str
) -> None:
    """It says so, and the file stays as it is."""
    path = tmp_path / "x.spool"
    path.write_bytes(header)
    with pytest.raises(SpoolFormatError, match=message):
        SpoolReader.adopt(path)
    assert path.read_bytes() == header


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    """A link, a pipe and a directory neither hang nor are read."""
    (tmp_path / "link.spool").symlink_to(write(tmp_path))
    (tmp_path / "folder.spool").mkdir()
    os.mkfifo(tmp_path / "pipe.spool")
    for name in ("link", "folder", "pipe"):
        with pytest.raises((OSError, SpoolFormatError)):
            SpoolReader.adopt(tmp_path / f"{name}.spool")


def test_directory_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`$PILLION_SPOOL_DIR`, else the state directory, else the one under home."""
    monkeypatch.delenv("PILLION_SPOOL_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert spool_directory() == tmp_path / ".local/state/pillion/spool"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert spool_directory() == Path("/state/pillion/spool")
    monkeypatch.setenv("PILLION_SPOOL_DIR", "/spool")
    assert spool_directory() == Path("/spool")
    assert spool_files(tmp_path / "none") == []


def test_longest_message_fits() -> None:
    """The contract's messages are shorter than what a record may hold."""
    assert PAYLOAD_BYTES_MAX >= 1024 * 1024
