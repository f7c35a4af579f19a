"""The blob store: bytes by their SHA-256, for artifacts and for the files of rich values.

    sha256/ab/cdef…     a blob, read-only; the name is the digest
    partial/…           one that is being written, locked by who writes it
    lock                shared by who adds blobs, exclusive for who removes some

A blob appears under its name whole or not at all: it is written under another name, its length and
digest are compared, it is synced, and only then renamed. Any number of processes may write the same
one at once; all write the same. No name of a file comes from a caller: digests only. Everything
here waits for the disk, so the event loop never calls it.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pillion_sidecar.durable_files import sync
from pillion_sidecar.errors import DiskError, LimitError, PeerError

LOCK_POLL_S = 0.05

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Blobs:
    """One blob store. Any thread and any process may use it."""

    def __init__(self, directory: Path, reserve_bytes: int = 0) -> None:
        """Make one; its directory is made by the first blob.

        Args:
            directory: Where it is.
            reserve_bytes: Nothing is written while the disk has less room than that.
        """
        self.directory = directory
        self._reserve_bytes = reserve_bytes
        self._partial = directory / "partial"

    def path(self, sha256: bytes) -> Path:
        """Tell where a blob is, or would be. Never changed in place: to be read, or linked to."""
        assert len(sha256) == hashlib.sha256().digest_size
        name = sha256.hex()
        return self.directory / "sha256" / name[:2] / name[2:]

    def has(self, sha256: bytes) -> bool:
        """Tell whether a blob is here, whole."""
        return self.path(sha256).exists()

    def check_room(self, size_bytes: int) -> None:
        """Raise `LimitError` unless there is room for so much, beside what is reserved."""
        directory = self.directory if self.directory.exists() else self.directory.parent
        with _told():
            disk = os.statvfs(directory)
        if disk.f_bavail * disk.f_frsize - size_bytes < self._reserve_bytes:
            raise LimitError(
                f"The disk that holds files has no room for {size_bytes:,} bytes beside the "
                f"{self._reserve_bytes:,} that are reserved. Free some room, then send it again; "
                "`pillion gc` removes files that nothing needs.",
                reason="DISK_FULL",
            )

    def put(self, sha256: bytes, data: bytes) -> None:
        """Keep a blob; on disk when this returns. Raises as `BlobWriter`."""
        with self.writer(sha256, len(data)) as writer:
            writer.append(data)
            writer.commit()

    def renew(self, sha256: bytes) -> bool:
        """Have a blob that is here count as new, so that it is not removed; tell whether it is."""
        with self.held(), _told():
            try:
                os.utime(self.path(sha256))
            except FileNotFoundError:
                return False
        return True

    def writer(self, sha256: bytes, size_bytes: int) -> "BlobWriter":
        """Begin to write a blob of a known length, whether it is here or not.

        Raises:
            LimitError: The disk is full.
            DiskError: It cannot be written to.
        """
        with _told():
            self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
            return BlobWriter(self, sha256, size_bytes)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep what is here, and what is added, from being removed as long as nothing names it.

        Waits while another process removes blobs.
        """
        with _told():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[None]:
        """Keep others from adding blobs. Raises `LimitError` if they do so all the time."""
        with _told():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline_s = time.monotonic() + timeout_s
            while not _is_locked(fd):
                if time.monotonic() > deadline_s:
                    raise LimitError(
                        "Artifacts are being sent. Try again when they have arrived.",
                        reason="BLOBS_BUSY",
                    )
                time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(fd)

    def listed(self, age_min_s: float) -> Iterator[tuple[bytes, int]]:
        """Yield digest and length of each blob that is so old at least."""
        newest_s = time.time() - age_min_s
        with _told():
            for path in sorted((self.directory / "sha256").glob("??/*")):
                status = path.lstat()
                if status.st_mtime <= newest_s:
                    yield bytes.fromhex(path.parent.name + path.name), status.st_size

    def clean(self) -> int:
        """Remove what interrupted writers have left; return how many files that were."""
        removed = 0
        with _told(), suppress(FileNotFoundError):
            for path in self._partial.iterdir():
                with suppress(FileNotFoundError, BlockingIOError):  # it is done, or still written
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                        removed += 1
                    finally:
                        os.close(fd)
        return removed


class BlobWriter:
    """Writes one blob. For one thread at a time; what is not committed is gone when it is closed.

    Its methods raise:
        PeerError: The bytes are not those that were announced.
        LimitError: The disk is full.
        DiskError: It cannot be written to.
    """

    def __init__(self, blobs: Blobs, sha256: bytes, size_bytes: int) -> None:
        """Make one; see `Blobs.writer`."""
        self.sha256 = sha256
        self._blobs, self._size_bytes = blobs, size_bytes
        self._hash, self._written_bytes = hashlib.sha256(), 0
        name = f"{sha256.hex()}.{secrets.token_hex(8)}"
        self._path = blobs.directory / "partial" / name
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def append(self, data: bytes) -> None:
        """Write the next piece."""
        if self._written_bytes + len(data) > self._size_bytes:
            raise PeerError(
                f"File {self.sha256.hex()} was announced with {self._size_bytes:,} bytes, and "
                "more came. Send what was announced.",
                "BLOB_MISMATCH",
            )
        self._blobs.check_room(len(data))
        self._hash.update(data)
        with _told():
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        self._written_bytes += len(data)

    def commit(self) -> None:
        """Compare, sync and name it: from now on the blob is here."""
        if self._written_bytes != self._size_bytes or self._hash.digest() != self.sha256:
            raise PeerError(
                f"File {self.sha256.hex()} was announced with {self._size_bytes:,} bytes; the "
                f"{self._written_bytes:,} that came have the digest {self._hash.hexdigest()}. "
                "Announce what is sent; a file must not change meanwhile.",
                "BLOB_MISMATCH",
            )
        path = self._blobs.path(self.sha256)
        with _told():
            os.fsync(self._fd)
            with (
                self._blobs.held()
            ):  # the directory is not removed, nor is the blob, before it is old
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.rename(path)
            for directory in (path.parent, path.parent.parent, self._blobs.directory):
                sync(directory)
        self.close()

    def close(self) -> None:
        """Let go of it. What was not committed is deleted."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _told() -> Iterator[None]:
    """Say what the disk's errors mean."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise LimitError(
                "The disk that holds files is full; nothing of this one was kept. Free some room, "
                "then send it again.",
                reason="DISK_FULL",
            ) from error
        raise DiskError(
            f"A file could not be kept: {error.strerror or error} ({error.filename or 'blobs'}). "
            "Check the disk, then send it again.",
            reason="BLOBS_FAILED",
        ) from error


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
