"""What Pillion's store is measured beside: a table with a row per point, and trackio."""

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from pillion_sidecar.courier import SLICE_ROWS_MAX

Point = tuple[str, str, int, int, float]
"""A row of the table: run, key, step, time in ns, value."""


def fill_table(path: Path, slices: Iterable[Iterable[Point]]) -> float:
    """Make the table, indexed by run, key and step, as one would begin; return the seconds.

    Args:
        path: SQLite's file.
        slices: Points; each slice is a transaction, synced to disk.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE points (run TEXT, key TEXT, step INTEGER, time INTEGER, value)")
        db.execute("CREATE INDEX by_run ON points (run, key, step)")
        began_s = time.perf_counter()
        for points in slices:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO points VALUES (?, ?, ?, ?, ?)", points)
            db.execute("COMMIT")
        took_s = time.perf_counter() - began_s
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return took_s


def slices_of(row_count: int) -> Iterable[range]:
    """Yield the rows of each slice: as many as the store's worker writes in a transaction."""
    for first in range(0, row_count, SLICE_ROWS_MAX):
        yield range(first, min(first + SLICE_ROWS_MAX, row_count))


def read_table(db: sqlite3.Connection, run: str, key: str) -> list[tuple[int, int, float]]:
    """Return step, time and value of each point of a metric, by step."""
    query = "SELECT step, time, value FROM points WHERE run = ? AND key = ? ORDER BY step"
    return db.execute(query, (run, key)).fetchall()


class Trackio:
    """trackio's own reading and writing, by a Python that has it, in a process for each call."""

    def __init__(self, python: str, directory: Path) -> None:
        """Take a Python and where trackio's files go."""
        self._python = python
        self._environment = os.environ | {"TRACKIO_DIR": str(directory), "HF_HUB_OFFLINE": "1"}

    def is_there(self) -> bool:
        """Tell whether that Python has trackio."""
        command = [self._python, "-c", "import trackio"]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    def run(self, code: str, *arguments: str, core: int | None = None) -> str:
        """Run code, on one core if it is named; return what it prints."""
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        command = [*pinned, self._python, "-c", code, *arguments]
        return subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
