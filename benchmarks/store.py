"""Figures of the store for `docs/benchmarks.md`: writing, room, reading; beside others.

    make bench-store                 all of it, some minutes; prints Markdown
    make bench-store ARGS=--quick    a tenth of the rows

The same rows, 10 floats each, go

1. into Pillion's store: from a filled journal by the worker's courier and sink, on one core, until
   its cursor is at the end; in SQLite's file, and in PostgreSQL, which syncs as ever;
2. into a table of SQLite's with a row per point, as one would begin: run, key, step, time, value,
   and an index over the first three; in transactions as large as the worker's slices;
3. into trackio, by its own bulk writing and reading, if `--trackio` names a Python that has it.

Then one metric is read in full, the median of five times in a fresh process. A figure is only
printed after every value has been found again. `Figures` is a row of the table: what is measured of
the store further goes there.
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench import machine, place
from beside import Point, Trackio, fill_table, read_table, slices_of
from postgresql import postgresql_server

from pillion._batch import Row
from pillion._encoding import Encoder
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.courier import SLICE_ROWS_MAX, Courier
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import Environment, RunId, RunStart, WriterId
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.validation import check_log

KEYS = [f"metric_{index}" for index in range(10)]
RUN, KEY = RunId("bench"), KEYS[3]
ROWS_PER_BATCH = 1_000
"""What a trainer sends at once that logs as fast as it can."""
READS = 5

TRACKIO = """
import sys, time
from trackio.sqlite_storage import SQLiteStorage
row_count, batch = int(sys.argv[1]), int(sys.argv[2])
value = lambda step, key: (step * 2_654_435_761 + key * 40_503) % 2**32 / 7
stamp = "2026-01-01T00:00:00+00:00"
began = time.perf_counter()
for first in range(0, row_count, batch):
    rows = range(first, min(first + batch, row_count))
    metrics = [{f"metric_{key}": value(step, key) for key in range(10)} for step in rows]
    SQLiteStorage.bulk_log("bench", "bench", metrics, list(rows), [stamp] * len(metrics))
wrote_s = time.perf_counter() - began
began = time.perf_counter()
found = SQLiteStorage.get_metric_values("bench", "bench", "metric_3")
read_s = time.perf_counter() - began
assert sorted((each["step"], each["value"]) for each in found) == [
    (step, value(step, 3)) for step in range(row_count)]
path = SQLiteStorage.get_project_db_path("bench")
size = sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))
print(wrote_s, size, read_s)
"""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Figures:
    """What was measured of one way to keep rows."""

    name: str
    row_count: int
    write_s: float
    size_bytes: int
    read_s: float

    def cells(self) -> list[str]:
        """Return what the table shows."""
        point_count = self.row_count * len(KEYS)
        return [
            self.name,
            f"{self.row_count:,}",
            f"{point_count / self.write_s:,.0f}",
            f"{self.size_bytes / point_count:.1f}",
            f"{self.read_s * 1000:,.0f} ms",
        ]


HEAD = [
    "",
    "rows",
    "points/s on one core",
    "bytes per point on disk",
    "one metric of all rows read",
]


def value_of(step: int, key: int) -> float:
    """Return what is logged: doubles that no compression makes small."""
    return (step * 2_654_435_761 + key * 40_503) % 2**32 / 7


def fill_journal(path: Path, row_count: int) -> None:
    """Put a run's rows into a journal, as its trainer sends them."""
    with closing(Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)) as journal:
        fields = ("bench", "", "", "", (), "", {}, Environment(), 1)
        journal.start(RunStart(RUN, WriterId("w"), *fields)).result()
        encoder = Encoder(RUN, WriterId("w"))
        for first in range(0, row_count, ROWS_PER_BATCH):
            rows = [
                Row(step, step * 1_000, {key: value_of(step, i) for i, key in enumerate(KEYS)})
                for step in range(first, min(first + ROWS_PER_BATCH, row_count))
            ]
            for made in encoder.encode(rows):
                journal.append(check_log(made.message)).result()


def measure_pillion(name: str, url: str, journal: Path, row_count: int) -> Figures:
    """Have the worker's parts deliver a journal, and read it back."""
    write_s = alone(deliver, url, journal)
    read_s = statistics.median(alone(read, url, row_count) for _ in range(READS))
    return Figures(name, row_count, write_s, size_of(url), read_s)


def deliver(url: str, journal: Path) -> float:
    """Deliver all of a journal, as a worker does; return the seconds."""
    with closing(StoreSink(url, Blobs(journal.parent / "blobs"))) as sink:
        courier = Courier(JournalReader(journal), sink)
        began_s = time.perf_counter()
        courier.look()
        while courier.deliver():
            pass
        return time.perf_counter() - began_s


def read(url: str, row_count: int) -> float:
    """Read a metric in full; return the seconds."""
    with closing(Store(url)) as store:
        store.run(RUN)  # so that connecting is not measured
        began_s = time.perf_counter()
        series = store.series(RUN, KEY)
        took_s = time.perf_counter() - began_s
    assert series.steps.tolist() == list(range(row_count))
    assert series.values.tolist() == [value_of(step, 3) for step in range(row_count)]
    return took_s


def size_of(url: str) -> int:
    """Return how much room a store takes, its log included."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    engine = sa.create_engine(url)
    query = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relkind = 'r' AND "
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            query + "relnamespace = current_schema()::regnamespace"
        ).scalar_one()
    engine.dispose()
    return int(found)


def measure_table(path: Path, row_count: int) -> Figures:
    """Keep a row per point in a table of SQLite's."""
    write_s = alone(write_table, path, row_count)
    read_s = statistics.median(alone(time_table, path, row_count) for _ in range(READS))
    return Figures("a row per point, in SQLite", row_count, write_s, path.stat().st_size, read_s)


def write_table(path: Path, row_count: int) -> float:
    """Insert them; return the seconds."""
    return fill_table(path, map(points_of, slices_of(row_count)))


def points_of(steps: range) -> Iterator[Point]:
    """Yield rows of the table."""
    for step in steps:
        for index, key in enumerate(KEYS):
            yield RUN, key, step, step * 1_000, value_of(step, index)


def time_table(path: Path, row_count: int) -> float:
    """Read a metric in full; return the seconds."""
    with closing(sqlite3.connect(path)) as db:
        began_s = time.perf_counter()
        found = read_table(db, RUN, KEY)
        took_s = time.perf_counter() - began_s
    assert [(step, value) for step, _, value in found] == [
        (step, value_of(step, 3)) for step in range(row_count)
    ]
    return took_s


def measure_trackio(python: str, directory: Path, row_count: int) -> Figures | None:
    """Have trackio keep them; None: it is not installed there."""
    trackio = Trackio(python, directory)
    if not trackio.is_there():
        return None
    core = min(os.sched_getaffinity(0))
    told = trackio.run(TRACKIO, str(row_count), str(SLICE_ROWS_MAX), core=core)
    write_s, size_bytes, read_s = told.split()[-3:]
    return Figures("trackio", row_count, float(write_s), int(size_bytes), float(read_s))


def alone(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function in a fresh process on one core."""
    with ProcessPoolExecutor(
        1, get_context("spawn"), os.sched_setaffinity, (0, {min(os.sched_getaffinity(0))})
    ) as pool:
        return pool.submit(function, *arguments).result()


def report(figures: list[Figures]) -> str:
    """Return the table as Markdown, with date and machine."""
    rows = [HEAD, ["---"] * len(HEAD), *(each.cells() for each in figures)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    date = time.strftime("%Y-%m-%d")
    return "\n".join([f"`make bench-store`, {date}: {machine()}.", "", *lines, ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--trackio", default=sys.executable, help="a Python that has trackio")
    options = parser.parse_args()
    row_count = 100_000 if options.quick else 1_000_000
    with place() as directory:
        journal = directory / "journal.db"
        fill_journal(journal, row_count)
        url = f"sqlite:///{directory}/store.db"
        figures = [measure_pillion("Pillion, SQLite", url, journal, row_count)]
        with postgresql_server("fsync=on", "full_page_writes=on", "autovacuum=on") as server:
            url = server.new_url()
            figures.append(measure_pillion("Pillion, PostgreSQL", url, journal, row_count))
        figures.append(measure_table(directory / "table.db", row_count))
        with tempfile.TemporaryDirectory(dir=directory) as kept:
            trackio = measure_trackio(options.trackio, Path(kept), row_count)
    figures += [trackio] if trackio else []
    print(report(figures))
    if trackio is None:
        print(
            f"trackio is not installed for {options.trackio}: left out. `make bench-store` has it."
        )


if __name__ == "__main__":
    main()
