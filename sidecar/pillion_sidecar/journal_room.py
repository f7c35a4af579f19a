"""How much room the journal's disk has, and whether that is enough to take something in.

Intake is refused before the disk is full, so that what is on disk already can still be delivered
and trimmed, runs can end, and a restart finds room. Used from the journal's thread only.
"""

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pillion_sidecar.errors import LimitError

WRITES_PER_BYTE = 2
"""What is appended is written to the log, and from there to the database."""
FREE_FRACTION = 4
"""One part in so many of the reserve is free bytes: sinks cannot use the journal's own pages."""
BALLAST_BYTES = 1024 * 1024
"""For the logs of journal and store, their indexes, and what else a start writes."""


@dataclass(frozen=True, slots=True)
class Room:
    """The disk that holds the journal."""

    free_bytes: int
    """What may still be written to that filesystem."""
    journal_bytes: int
    """The size of the journal's files."""
    reusable_bytes: int
    """What the journal can write again without growing."""
    reserve_bytes: int
    is_refusing: bool
    """Whether intake is refused."""


class Gauge:
    """Measures the room once per commit, and counts what the commit takes of it."""

    def __init__(self, db: sqlite3.Connection, path: Path, reserve_bytes: int) -> None:
        self._db, self._path, self._reserve_bytes = db, path, reserve_bytes
        (self._page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        self.measure()

    def measure(self) -> Room:
        """Look anew."""
        disk = os.statvfs(self._path.parent)
        (page_count,) = self._db.execute("PRAGMA freelist_count").fetchone()
        self._free_bytes = disk.f_bavail * disk.f_frsize
        self._reusable_bytes = page_count * self._page_bytes
        self._taken_bytes = 0
        return self.room

    @property
    def room(self) -> Room:
        """How it stood when it was last measured."""
        return Room(
            free_bytes=self._free_bytes,
            journal_bytes=sum(map(_size_bytes, files_of(self._path))),
            reusable_bytes=self._reusable_bytes,
            reserve_bytes=self._reserve_bytes,
            is_refusing=self._is_short,
        )

    def take(self, size_bytes: int) -> None:
        """Count on so many bytes. Raises `LimitError` while there is too little room."""
        self._taken_bytes += WRITES_PER_BYTE * size_bytes
        if self._is_short:
            raise LimitError(
                "The disk that holds the journal is nearly full; nothing of this was kept. What "
                f"is left is for delivery ({self._reserve_bytes:,} bytes are reserved). "
                "Free some room: intake goes on by itself.",
                reason="DISK_FULL",
            )

    @property
    def _is_short(self) -> bool:
        free_bytes = self._free_bytes - self._taken_bytes
        return (
            free_bytes + self._reusable_bytes < self._reserve_bytes
            or free_bytes < self._reserve_bytes // FREE_FRACTION
        )


def lay_ballast(path: Path) -> None:
    """Keep room beside the journal, so that the next start works on a full disk too.

    Measured: with no byte free SQLite cannot make the log and its index, and a start fails. Laid
    while the sidecar runs, since one that is killed cannot do it.
    """
    with suppress(OSError), _ballast(path).open("ab") as file:  # a full disk has none
        os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)


def drop_ballast(path: Path) -> None:
    """Make use of that room."""
    _ballast(path).unlink(missing_ok=True)


def files_of(path: Path) -> list[Path]:
    """Return the files that a database at this path consists of."""
    return [path, Path(f"{path}-wal"), Path(f"{path}-shm")]


def _ballast(path: Path) -> Path:
    return path.with_name("ballast")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
