"""The blob store: whole or not at all, whoever writes, and under no name that a caller gives."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import PeerError

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).digest()
WRITE = """
import hashlib, sys
from pathlib import Path
from pillion_sidecar.blobs import Blobs
data = bytes(range(256)) * 4096
for _ in range(20):
    Blobs(Path(sys.argv[1])).put(hashlib.sha256(data).digest(), data)
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """Make an empty one."""
    return Blobs(tmp_path / "blobs")


def files(blobs: Blobs) -> list[Path]:
    """List what is there."""
    return sorted(path for path in blobs.directory.rglob("*") if path.is_file())


def blob_files(blobs: Blobs) -> list[Path]:
    """List what is there beside the lock."""
    return [path for path in files(blobs) if path.name != "lock"]


def test_a_blob_is_there_whole_or_not_at_all(blobs: Blobs) -> None:
    """It is named only when all of it is written."""
    with blobs.writer(SHA256, len(DATA)) as writer:
        writer.append(DATA[:1000])
        writer.append(DATA[1000:])
        assert not blobs.has(SHA256)
        writer.commit()
    assert blobs.has(SHA256)
    assert blobs.path(SHA256).read_bytes() == DATA
    assert blob_files(blobs) == [blobs.path(SHA256)]
    assert blobs.path(SHA256).stat().st_mode & 0o777 == 0o400


def test_an_empty_blob_is_one(blobs: Blobs) -> None:
    """Files without a byte exist."""
    blobs.put(hashlib.sha256(b"").digest(), b"")
    assert blobs.path(hashlib.sha256(b"").digest()).read_bytes() == b""


@pytest.mark.parametrize(
    ("size_bytes", "data"),
    [
        (len(DATA), DATA[:-1]),
        (len(DATA), DATA[:-1] + bytes([DATA[-1] ^ 1])),
        (len(DATA) - 1, DATA),
        (len(DATA), DATA + b"x"),
    ],
    ids=["shorter", "other", "longer-than-announced", "longer"],
)
def test_what_was_not_announced_is_refused_and_leaves_nothing(
    blobs: Blobs, size_bytes: int, data: bytes
) -> None:
    """Neither another length nor other bytes."""

    def write() -> None:
        with blobs.writer(SHA256, size_bytes) as writer:
            writer.append(data)
            writer.commit()

    with pytest.raises(PeerError, match="announced") as refusal:
        write()
    assert refusal.value.reason == "BLOB_MISMATCH"
    assert blob_files(blobs) == []


def test_threads_may_write_the_same_blob_at_once(blobs: Blobs) -> None:
    """All of them succeed, and one blob is there."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: blobs.put(SHA256, DATA), range(64)))
    assert blob_files(blobs) == [blobs.path(SHA256)]
    assert blobs.path(SHA256).read_bytes() == DATA


def test_processes_may_write_the_same_blob_at_once(blobs: Blobs) -> None:
    """The sidecar and its workers do."""
    command = [sys.executable, "-c", WRITE, str(blobs.directory)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    (path,) = blob_files(blobs)
    assert path.read_bytes() == bytes(range(256)) * 4096


def test_what_an_interrupted_writer_left_is_removed(blobs: Blobs) -> None:
    """Not what is being written."""
    blobs.put(SHA256, DATA)
    torn = blobs.directory / "partial" / "torn"
    torn.write_bytes(DATA[:100])
    other = b"other"
    with blobs.writer(hashlib.sha256(other).digest(), len(other)) as writer:
        writer.append(other)
        assert blobs.clean() == 1
        assert not torn.exists()
        writer.commit()
    assert len(blob_files(blobs)) == 2


def test_a_store_that_was_never_written_to_is_clean(blobs: Blobs) -> None:
    """And looking makes no directory."""
    assert blobs.clean() == 0
    assert not blobs.has(SHA256)
    assert not blobs.directory.exists()


def test_no_name_of_a_file_comes_from_a_caller(blobs: Blobs) -> None:
    """A digest that would be a path is a digest like any other."""
    path = blobs.path(b"../../../../../../etc/passwd/123"[:32])
    assert path.is_relative_to(blobs.directory / "sha256")
    assert set(path.name) <= set("0123456789abcdef")
