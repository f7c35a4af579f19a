"""Reading a long series: from the store, by a sidecar, from a plain SQL table, by trackio.

    make bench-reads                 with trackio, some minutes; prints Markdown
    make bench-reads ARGS=--quick    a tenth of the points

A series of 1,000,000 points, whole and as 1,000 points, until its values are in an array; the same
points everywhere. Of each `ROUNDS` all take their turn, each answer is checked, and it is told
whether the largest and the least point are among the few:

1. Pillion's `ReadMetrics`, from the store itself and by a sidecar.
2. SQLite's table with a row per point, indexed by run, key and step. Few: by SQL, the least and the
   largest of each 500th of the steps; at which steps they are is left out, it takes a scan more.
3. trackio's `get_metric_values`, if `--trackio` names a Python that has it. Few: its `max_points`.
   A fresh process each time, of which only the reading is counted.

Then one writer sends batches as fast as they are acked, alone and beside readers that read the
whole series again and again.
"""

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bench import machine, place, sidecar
from beside import Point, Trackio, fill_table, read_table, slices_of

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.courier import SLICE_ROWS_MAX
from pillion_sidecar.metric_answers import read_metrics
from pillion_sidecar.records import Environment, Frame, Offset, RunId, RunStart, WriterId
from pillion_sidecar.settings import load
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

POINTS, FEW = 1_000_000, 1_000
BATCH_ROWS = 250
ROUNDS = 5
READERS = 4
INTAKE_S = 5.0
RUN, KEY = RunId("series"), "loss"

EXTREMES = """
    SELECT min(value), max(value) FROM points WHERE run = ? AND key = ?
    GROUP BY step * ? / ? ORDER BY min(step)
"""
TRACKIO = """
import sys, time
from datetime import datetime, timedelta, timezone
import numpy as np
from trackio.sqlite_storage import SQLiteStorage
to_do, path = sys.argv[1:3]
if to_do == "fill":
    values, batch = np.load(path).tolist(), int(sys.argv[3])
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for first in range(0, len(values), batch):
        rows = [{"loss": value} for value in values[first : first + batch]]
        steps = [first + index for index in range(len(rows))]
        stamps = [(began + timedelta(milliseconds=step)).isoformat() for step in steps]
        SQLiteStorage.bulk_log("series", "series", rows, steps, stamps)
else:
    began = time.perf_counter()
    few = int(sys.argv[3]) or None
    found = SQLiteStorage.get_metric_values("series", "series", "loss", max_points=few)
    values = np.array([each["value"] for each in found])
    print(time.perf_counter() - began)
    np.save(path, values)
"""

Values = npt.NDArray[np.float64]
Read = Callable[[int], tuple[float, Values]]
"""Reads the series, whole (0) or as so many points; returns the seconds and the values."""


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the points")
    parser.add_argument("--trackio", metavar="PYTHON", help="a Python that has trackio")
    options = parser.parse_args()
    point_count = POINTS // 10 if options.quick else POINTS
    values = np.random.default_rng(1).normal(size=point_count).cumsum()
    load_before = os.getloadavg()[0]
    with place() as directory:
        os.environ["PILLION_SPOOL_DIR"] = str(directory / "spool")
        settings = load(
            data_dir=directory / "data",
            listen=f"unix:{directory}/s.sock",
            wandb_mode="disabled",
        )
        settings.data_dir.mkdir(mode=0o700)
        fill_store(settings.store_url, values)
        fill_table(directory / "table.db", map(partial(points_of, values), slices_of(point_count)))
        with (
            closing(Store(settings.store_url)) as store,
            closing(sqlite3.connect(directory / "table.db")) as table,
            sidecar(settings) as ask,
        ):
            reads: dict[str, Read] = {
                "Pillion, from the store": partial(read, partial(read_metrics, store)),
                "Pillion, by a sidecar": partial(read, ask.metrics),
                "a row per point, in SQLite": partial(time_table, table, point_count),
            }
            if options.trackio:
                reads["trackio"] = by_trackio(options.trackio, directory, values)
            rows = measure(reads, values)
            alone = acked_per_s(ask, 0)
            beside = acked_per_s(ask, READERS)
    print(
        f"`make bench-reads`, {time.strftime('%Y-%m-%d')}: {machine()}. Load {load_before:.1f} "
        f"before.\n\n| {point_count:,} points, median (least) of {ROUNDS} | whole | as {FEW:,} "
        "points | extremes among them |\n|---|---|---|---|"
    )
    print(*rows, sep="\n")
    print(
        f"\nacked points/s of a writer: {alone:,.0f} alone, {beside:,.0f} beside {READERS} readers"
    )


def fill_store(url: str, values: Values) -> None:
    """Write a series as a store's worker does, a batch at a time."""
    sink = StoreSink(url)
    start = RunStart(RUN, WriterId("w"), "p", "", "", "", (), "", {}, Environment(), 1)
    sink.start(Offset(1), start)
    for number, first in enumerate(range(0, len(values), BATCH_ROWS), start=2):
        axis = np.arange(first, min(first + BATCH_ROWS, len(values)))
        sink.apply(RUN, Offset(number), [Frame(first, axis, axis, {KEY: values[axis]})])
    sink.close()


def points_of(values: Values, steps: range) -> Iterator[Point]:
    """Yield rows of the table."""
    for step in steps:
        yield RUN, KEY, step, step, float(values[step])


def measure(reads: dict[str, Read], values: Values) -> list[str]:
    """Have each read the series in turn, again and again, and check it; return the table's rows."""
    took: dict[tuple[str, int], list[float]] = {}
    has_extremes = dict.fromkeys(reads, True)
    for _ in range(ROUNDS):
        for max_points in (0, FEW):
            for name, read_series in reads.items():
                took_s, found = read_series(max_points)
                took.setdefault((name, max_points), []).append(took_s * 1e3)
                if max_points:
                    assert len(found) <= max_points
                    assert np.isin(found, values).all()
                    has_extremes[name] &= (found.min(), found.max()) == (values.min(), values.max())
                else:
                    assert np.array_equal(found, values)

    def cell(name: str, max_points: int) -> str:
        ms = took[name, max_points]
        return f"{statistics.median(ms):,.0f} ms ({min(ms):,.0f})"

    told = {True: "yes", False: "no"}
    return [
        f"| {name} | {cell(name, 0)} | {cell(name, FEW)} | {told[has_extremes[name]]} |"
        for name in reads
    ]


def read(
    ask: Callable[[pb2.ReadMetricsRequest], Iterator[pb2.ReadMetricsResponse]], max_points: int
) -> tuple[float, Values]:
    """Ask `ReadMetrics`. See `Read`."""
    request = pb2.ReadMetricsRequest(run_id=RUN, keys=[KEY], max_points=max_points)
    began_s = time.perf_counter()
    found = [np.array(each.frame.columns[0].doubles.values) for each in ask(request)]
    values = np.concatenate(found)
    return time.perf_counter() - began_s, values


def time_table(db: sqlite3.Connection, point_count: int, max_points: int) -> tuple[float, Values]:
    """Ask the table. See `Read`."""
    began_s = time.perf_counter()
    if max_points:
        found = db.execute(EXTREMES, (RUN, KEY, max_points // 2, point_count)).fetchall()
        values = np.array(found).ravel()
    else:
        values = np.array([value for _, _, value in read_table(db, RUN, KEY)])
    return time.perf_counter() - began_s, values


def by_trackio(python: str, directory: Path, values: Values) -> Read:
    """Have trackio keep the series; return what reads it."""
    trackio = Trackio(python, directory / "trackio")
    kept, found = directory / "values.npy", directory / "found.npy"
    np.save(kept, values)
    trackio.run(TRACKIO, "fill", str(kept), str(SLICE_ROWS_MAX))

    def read_series(max_points: int) -> tuple[float, Values]:
        printed = trackio.run(TRACKIO, "read", str(found), str(max_points))
        return float(printed.split()[-1]), np.load(found)

    return read_series


def acked_per_s(ask: Asker, reader_count: int) -> float:
    """Return how many points of one writer are acked in a second, beside so many readers."""
    run_id = f"beside-{reader_count}"
    ask.call("StartRun", pb2.StartRunRequest(run_id=run_id, writer_id="w"))
    rows = range(BATCH_ROWS)
    frame = record_pb2.MetricFrame(steps=rows, times_unix_nano=[1] * BATCH_ROWS)
    for index in range(10):
        frame.columns.add(key=f"m{index}").doubles.values.extend(float(row) for row in rows)
    batch = record_pb2.Batch(run_id=run_id, writer_id="w")
    batch.records.add().metric_frame.CopyFrom(frame)
    until_s = time.monotonic() + INTAKE_S

    def batches() -> Iterator[bytes]:
        while time.monotonic() < until_s:
            batch.sequence += 1
            yield pb2.LogMetricsRequest(batch=batch).SerializeToString()

    with readers(ask, reader_count):
        began_s = time.monotonic()
        last = 0
        for ack in ask.log_metrics(batches()):
            last = ack.acked_sequence
        taken_s = time.monotonic() - began_s
    assert last == batch.sequence
    return last * BATCH_ROWS * 10 / taken_s


@contextmanager
def readers(ask: Asker, count: int) -> Iterator[None]:
    """Have so many processes read the series again and again."""
    code = (
        "import sys, grpc; from pillion.v1 import telemetry_service_pb2 as pb2\n"
        "call = grpc.insecure_channel(sys.argv[1]).unary_stream("
        "'/pillion.v1.TelemetryService/ReadMetrics')\n"
        "request = pb2.ReadMetricsRequest(run_id='series', keys=['loss']).SerializeToString()\n"
        "while True:\n    for number, _ in enumerate(call(request)):\n"
        "        if not number: print(flush=True)\n"
    )
    command = [sys.executable, "-c", code, ask.address]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it reads
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
