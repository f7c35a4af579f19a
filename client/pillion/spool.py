"""The spool file: what one writer logged while it had no sidecar.

A writer's client writes it, and reads it back once a sidecar answers. If the writer is gone first,
a sidecar of the same user, or `pillion spool send`, takes the file over. Loads no protobuf: what
the payloads mean is the callers' to know.

**Files.** One per writer, `RUN_ID.WRITER_ID.spool`, mode 0600, in `spool_directory()`. The name is
for people; readers go by the records. It is made under another name, locked, and only then named.

**Lock.** Its owner holds `flock(LOCK_EX)` as long as it lives, so a file whose lock can be taken
has no owner any more. A forked child closes its copy at once, or it would hold its parent's lock.

**Format.** Eight bytes, `PILLION` and the version 1, then records one behind the other, integers
little-endian:

    length u32 | crc32 u32 | kind u8 | payload of that length

The checksum is of kind and payload. Kinds: 1 START (a StartRunRequest), 2 BATCH (a
LogMetricsRequest), 3 FINISH (a FinishRunRequest), 4 CHILD (no payload: the writer was a forked
child, which may end without a FINISH). The first is a START; batches follow in order of their
sequence, none missing; behind a FINISH comes nothing. A file of a batch `hi`, if that were one:

    50 49 4c 4c 49 4f 4e 01     PILLION, version 1
    02 00 00 00                 a payload of 2 bytes
    2f 35 8f 65                 crc32(02 68 69)
    02                          BATCH
    68 69                       hi

**Tail or damage.** A record that is cut short or does not match its checksum ends the file. If no
whole record follows it, the writer was interrupted while it wrote: a torn tail, to be expected. If
one does, the file was damaged afterwards.

**Durability.** Written at once, so that a killed process loses nothing; synced at the end only, so
that a crash of the machine may cost the tail.
"""

import errno
import fcntl
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from enum import Enum, IntEnum
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

HEADER = b"PILLION\x01"
SUFFIX, SUFFIX_NEW, SUFFIX_DAMAGED = ".spool", ".new", ".damaged"
PAYLOAD_BYTES_MAX = 2 * 1024 * 1024
"""No message is as long; a length beyond it is damage."""
BYTES_MAX_DEFAULT = 1024 * 1024 * 1024

_HEAD = struct.Struct("<IIB")
_NAME_CHARACTERS_MAX = 120
"""Of run and writer each: a file's name has 255 at most."""


class Kind(IntEnum):
    """What a record holds."""

    START = 1
    BATCH = 2
    FINISH = 3
    CHILD = 4


class Record(NamedTuple):
    """One record, and how many bytes of the file it takes."""

    kind: Kind
    payload: bytes
    size_bytes: int


class End(Enum):
    """How the records of a file end."""

    WHOLE = "whole"
    TORN = "torn"
    """Its writer was interrupted; what came before is all that was written."""
    DAMAGED = "damaged"
    """Whole records follow the one that cannot be read."""


class SpoolFormatError(ValueError):
    """A file is none of ours, or of a newer version; or a record cannot be read back."""


def spool_directory() -> Path:
    """Return where this user's spool files are.

    `$PILLION_SPOOL_DIR`, else `pillion/spool` under `$XDG_STATE_HOME` or `~/.local/state`. Raises
    RuntimeError for a user without a home.
    """
    if directory := os.environ.get("PILLION_SPOOL_DIR"):
        return Path(directory).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "pillion" / "spool"


def spool_files(directory: Path) -> list[Path]:
    """List the spool files of a directory, by name; none if it does not exist."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []


class Spool:
    """A writer's own file. Appended to by one thread; `read` may be called by others."""

    def __init__(self, path: Path, fd: int, bytes_max: int) -> None:
        self.path, self.size_bytes = path, len(HEADER)
        self._fd, self._bytes_max = fd, bytes_max
        self._lock = threading.Lock()
        """Held while the descriptor is used, so that none is closed that is read from."""

    @classmethod
    def create(cls, directory: Path, run_id: str, writer_id: str, bytes_max: int) -> Self:
        """Make the file, lock it, name it. Raises OSError where that cannot be done."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = (
            quote(each, safe="", errors="replace")[:_NAME_CHARACTERS_MAX]
            for each in (run_id, writer_id)
        )
        path = directory / (".".join(names) + SUFFIX)
        new = path.with_name(path.name + SUFFIX_NEW)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _owned.add(fd)
        spool = cls(path, fd, bytes_max)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(fd, 0, HEADER)
            new.rename(path)
        except OSError:
            new.unlink(missing_ok=True)
            spool.close()
            raise
        return spool

    def append(self, kind: Kind, payload: bytes = b"") -> int:
        """Write a record; return how many bytes of the file it takes.

        Raises OSError if there is no room, on the disk or below the cap; the file is as before.
        """
        assert len(payload) <= PAYLOAD_BYTES_MAX
        checksum = zlib.crc32(payload, zlib.crc32(bytes([kind])))
        record = _HEAD.pack(len(payload), checksum, kind) + payload
        if self.size_bytes + len(record) > self._bytes_max:
            raise OSError(errno.EFBIG, f"{self.path} has the {self._bytes_max:,} bytes that it may")
        with self._lock:
            try:
                _write(self._fd, self.size_bytes, record)
            except OSError:
                os.ftruncate(self._fd, self.size_bytes)
                raise
        self.size_bytes += len(record)
        return len(record)

    def read(self, offset: int) -> Record:
        """Read the record at an offset back. Raises SpoolFormatError or OSError if it cannot."""
        with self._lock:
            record = _read(self._fd, offset)
        if record is None:
            raise SpoolFormatError(f"{self.path} cannot be read at byte {offset:,}")
        return record

    def sync(self) -> None:
        """Wait until the file is on disk, and its name."""
        with self._lock:
            os.fsync(self._fd)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self) -> None:
        """Delete the file: all that is in it is the sidecar's."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let the lock go: the file is now whoever's takes it."""
        with self._lock:
            if self._fd >= 0:
                _owned.discard(self._fd)
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # also if a child just being forked has a copy
                os.close(self._fd)
                self._fd = -1


class SpoolReader:
    """A file whose owner is gone. The lock is held until `remove`, `set_aside` or `close`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self.size_bytes = os.fstat(fd).st_size
        self.end: End | None = None
        """Known once all records were read."""
        self.end_offset = 0
        """Where the records end that can be read."""

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Take a file over; None if its owner lives, or another was faster.

        Raises:
            SpoolFormatError: It is no spool file, or of a newer version.
            OSError: It cannot be opened, or belongs to another user.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _check_file(path, os.fstat(fd))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 0:  # deleted by an owner that just ended
                os.close(fd)
                return None
            _check_header(path, os.pread(fd, len(HEADER), 0))
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def records(self) -> Iterator[Record]:
        """Yield the records up to the first that cannot be read; `end` then tells why."""
        offset = min(len(HEADER), self.size_bytes)
        while offset < self.size_bytes:
            record = _read(self._fd, offset)
            if record is None:
                break
            yield record
            offset += record.size_bytes
        self.end_offset = offset
        if offset == self.size_bytes >= len(HEADER):
            self.end = End.WHOLE
        else:
            self.end = End.DAMAGED if _is_followed(self._fd, offset) else End.TORN

    def remove(self) -> None:
        """Delete the file: all that is in it is on the sidecar's disk."""
        self.path.unlink(missing_ok=True)
        self.close()

    def set_aside(self) -> Path:
        """Rename the file so that nobody takes it again; return its new path."""
        damaged = self.path.with_name(self.path.name + SUFFIX_DAMAGED)
        self.path.rename(damaged)
        self.close()
        return damaged

    def close(self) -> None:
        """Let the lock go; the file stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_owned: set[int] = set()
"""Descriptors of this process's own files."""


def _close_in_child() -> None:
    for fd in _owned:
        os.close(fd)
    _owned.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SpoolFormatError(f"{path} is no regular file")
    if os.geteuid() not in {status.st_uid, 0}:
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))


def _check_header(path: Path, header: bytes) -> None:
    """Raise unless these are the first bytes of a spool file, or of one that was torn there."""
    if header[:-1] == HEADER[:-1] and header[-1] > HEADER[-1]:
        raise SpoolFormatError(
            f"{path} is of version {header[-1]}, and {HEADER[-1]} is the newest that is known "
            "here; upgrade Pillion."
        )
    if not HEADER.startswith(header.rstrip(b"\0")):
        raise SpoolFormatError(f"{path} is no spool file")


def _write(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _read(fd: int, offset: int) -> Record | None:
    """Return the record at an offset; None if there is no whole one."""
    head = os.pread(fd, _HEAD.size, offset)
    if len(head) < _HEAD.size:
        return None
    length, checksum, kind = _HEAD.unpack(head)
    if length > PAYLOAD_BYTES_MAX or kind not in _KINDS:
        return None
    payload = os.pread(fd, length, offset + _HEAD.size)
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[-1:])) != checksum:
        return None
    return Record(Kind(kind), payload, _HEAD.size + length)


def _is_followed(fd: int, offset: int) -> bool:
    """Tell whether a whole record begins anywhere behind an offset, within a record's length."""
    data = memoryview(os.pread(fd, 2 * (PAYLOAD_BYTES_MAX + _HEAD.size), offset))
    searched_bytes = 0
    for start in range(1, min(len(data) - _HEAD.size, PAYLOAD_BYTES_MAX + _HEAD.size) + 1):
        if data[start + 8] not in _KINDS:  # the cheap look first: most bytes are no kind
            continue
        length, checksum, _ = _HEAD.unpack_from(data, start)
        payload = data[start + _HEAD.size : start + _HEAD.size + length]
        if len(payload) < length:
            continue
        if zlib.crc32(payload, zlib.crc32(data[start + 8 : start + 9])) == checksum:
            return True
        searched_bytes += length
        if searched_bytes > _SEARCH_BYTES_MAX:
            return True  # not worth more time: a file that is set aside for nothing loses nothing
    return False


_KINDS = frozenset(Kind)
_SEARCH_BYTES_MAX = 256 * 1024 * 1024
"""How many bytes are checksummed to find out whether a file was torn or damaged."""
