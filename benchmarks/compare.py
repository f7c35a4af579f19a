"""What a comparison costs, beside the same figures from a plain SQL table.

    python benchmarks/compare.py             5 runs of 100 metrics of 10,000 points; prints Markdown
    python benchmarks/compare.py --quick     a tenth of the points
    python benchmarks/compare.py --trackio PYTHON     beside trackio, which that Python has

Measurements of one set of points, each a median of `ROUNDS` after a first one that is not counted:

1. `Compare` as `pillion compare` asks it of a sidecar.
2. The same from the store itself, as where no sidecar runs.
3. SQLite's aggregates over a table with a row per point, which is how most trackers keep them.
4. trackio's own reading of all rows, and numpy for the figures. It keeps what it has read, so each
   time is of a fresh process, and of `TRACKIO_ROUNDS` only.

Figures are only printed after all have been found to be the same.
"""

import argparse
import json
import math
import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bench import machine, place, sidecar
from beside import Trackio

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.comparison_answers import compare_runs
from pillion_sidecar.records import Environment, Frame, Offset, RunId, RunStart, WriterId
from pillion_sidecar.settings import load
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

RUNS, METRICS, POINTS = 5, 100, 10_000
BATCH_ROWS = 250
ROUNDS = 15
SEED = 1

RUN_IDS = [RunId(f"run-{number}") for number in range(RUNS)]
KEYS = [f"layer_{number}/loss" for number in range(METRICS)]

TABLE = """
    CREATE TABLE points (
        run_id TEXT, key TEXT, ordinal INTEGER, step INTEGER, time INTEGER, value REAL,
        PRIMARY KEY (run_id, key, ordinal)
    ) WITHOUT ROWID
"""
GROUPED = "SELECT run_id, key, {} FROM points GROUP BY run_id, key"
FIGURES = "count(*), count(value), max(value), avg(value), min(ordinal), max(ordinal)"
BEST = "min(value), step"
"""Of a query with one `min` SQLite takes the other columns from the row that has it."""
TRACKIO = """
import json, sys, time
import numpy as np
from trackio.sqlite_storage import SQLiteStorage
to_do, path = sys.argv[1:]
if to_do == "fill":
    for run_id, values in np.load(path).items():
        rows = [{f"layer_{i}/loss": v for i, v in enumerate(row)} for row in values.T.tolist()]
        for first in range(0, len(rows), 1000):
            part = rows[first : first + 1000]
            steps = [10 * (first + index) for index in range(len(part))]
            stamps = ["2026-01-01T00:00:00+00:00"] * len(part)
            SQLiteStorage.bulk_log("bench", run_id, part, steps, stamps)
else:
    began, found = time.perf_counter(), []
    for number in range(int(path)):
        rows = SQLiteStorage.get_logs("bench", f"run-{number}")
        steps = [row["step"] for row in rows]
        for key in rows[0].keys() - {"step", "timestamp"}:
            values = np.array([row[key] for row in rows])
            figures = (len(values), len(values), values.max(), values.mean(), values.min())
            found.append((f"run-{number}", key, *figures, steps[values.argmin()], *values[[0, -1]]))
    print(json.dumps({"took_ms": (time.perf_counter() - began) * 1e3, "found": found}))
"""
TRACKIO_ROUNDS = 3

VALUE = "SELECT value FROM points WHERE run_id = ? AND key = ? AND ordinal = ?"


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the points")
    parser.add_argument("--trackio", metavar="PYTHON", help="a Python that has trackio")
    options = parser.parse_args()
    point_count = POINTS // 10 if options.quick else POINTS
    request = pb2.CompareRequest(run_ids=RUN_IDS)
    with place() as directory:
        os.environ["PILLION_SPOOL_DIR"] = str(
            directory / "spool"
        )  # what waits elsewhere is not ours
        settings = load(
            data_dir=directory / "data",
            listen=f"unix:{directory}/s.sock",
            wandb_mode="disabled",
        )
        settings.data_dir.mkdir(mode=0o700)
        fill_store(settings.store_url, point_count)
        table = fill_table(directory / "table.db", point_count)
        with sidecar(settings) as ask:
            by_sidecar, asked = timed(lambda: ask.compare(request))
        store = Store(settings.store_url)
        by_store, read = timed(lambda: compare_runs(store, request))
        store.close()
        by_table, aggregated = timed(lambda: aggregate(table))
        table.close()
        by_trackio: list[float] = []
        if options.trackio:
            by_trackio, found = time_trackio(options.trackio, directory, point_count)
            check(figures_of(read), found)
    assert figures_of(asked) == figures_of(read)
    check(figures_of(read), aggregated)
    print(report(point_count, by_sidecar, by_store, by_table, by_trackio))


def values_of(point_count: int) -> Iterator[tuple[RunId, npt.NDArray[np.float64]]]:
    """Yield each run and its values, of shape (metrics, points)."""
    random = np.random.default_rng(SEED)
    for run_id in RUN_IDS:
        yield run_id, random.normal(size=(METRICS, point_count))


def fill_store(url: str, point_count: int) -> None:
    """Write the runs as a store's worker does, a batch at a time."""
    sink = StoreSink(url)
    offset = 0
    for run_id, values in values_of(point_count):
        offset += 1
        start = RunStart(run_id, WriterId("w"), "p", "", "", "", (), "", {}, Environment(), 1)
        sink.start(Offset(offset), start)
        for first in range(0, point_count, BATCH_ROWS):
            offset += 1
            axis = np.arange(first, min(first + BATCH_ROWS, point_count))
            columns = {key: values[index, axis] for index, key in enumerate(KEYS)}
            sink.apply(run_id, Offset(offset), [Frame(first, 10 * axis, axis, columns)])
    sink.close()


def fill_table(path: Path, point_count: int) -> sqlite3.Connection:
    """Write the same points, a row each."""
    db = sqlite3.connect(path)
    db.execute(TABLE)
    for run_id, values in values_of(point_count):
        for index, key in enumerate(KEYS):
            points = enumerate(values[index].tolist())
            rows = ((run_id, key, i, 10 * i, i, value) for i, value in points)
            db.executemany("INSERT INTO points VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.commit()
    return db


def aggregate(table: sqlite3.Connection) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Make up the same figures by SQL: in two passes, and both ends by their key."""
    best = {tuple(row[:2]): row[2:] for row in table.execute(GROUPED.format(BEST))}
    found = {}
    for run_id, key, *figures, first, last in table.execute(GROUPED.format(FIGURES)):
        ends = [table.execute(VALUE, (run_id, key, end)).fetchone()[0] for end in (first, last)]
        found[run_id, key] = (*figures, *best[run_id, key], *ends)
    return found


def time_trackio(
    python: str, directory: Path, point_count: int
) -> tuple[list[float], dict[tuple[str, str], tuple[Any, ...]]]:
    """Have trackio keep the points and tell the same figures; return as `timed` and `aggregate`."""
    path = directory / "points.npz"
    np.savez(path, **dict(values_of(point_count)))
    trackio = Trackio(python, directory / "trackio")
    trackio.run(TRACKIO, "fill", str(path))
    printed = [trackio.run(TRACKIO, "compare", str(RUNS)) for _ in range(TRACKIO_ROUNDS)]
    told = [json.loads(each.splitlines()[-1]) for each in printed]
    found = {(run_id, key): tuple(figures) for run_id, key, *figures in told[0]["found"]}
    return sorted(each["took_ms"] for each in told), found


def timed(work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Do something again and again; return how long it took, in ms, sorted, and its result."""
    work()
    took = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        result = work()
        took.append((time.perf_counter() - began_s) * 1e3)
    return sorted(took), result


def figures_of(response: pb2.CompareResponse) -> dict[tuple[str, str], Any]:
    """Return a comparison's figures by run and metric."""
    return {
        (one.run_id, metric.key): one for metric in response.metrics for one in metric.statistics
    }


def check(ours: dict[tuple[str, str], Any], table: dict[tuple[str, str], tuple[Any, ...]]) -> None:
    """Compare all figures; means, which are summed in another order, to 9 digits."""
    assert len(ours) == len(table) == RUNS * METRICS
    for place_of, one in ours.items():
        count, number_count, largest, mean, *others = table[place_of]
        assert (one.point_count, one.nan_count, one.max) == (count, count - number_count, largest)
        assert math.isclose(one.mean, mean, rel_tol=1e-9, abs_tol=1e-12)
        assert [one.best, one.best_step, one.first, one.last] == list(others)


def report(point_count: int, *measured: list[float]) -> str:
    """Return the table as Markdown, with date and machine."""
    names = (
        "`Compare`, asked of a sidecar",
        "the same, from the store",
        "SQL aggregates of a table",
        "trackio's rows, and numpy",
    )
    rows = [
        f"| {name} | {statistics.median(took):,.0f} ms | {took[0]:,.0f} ms | {took[-1]:,.0f} ms |"
        for name, took in zip(names, measured, strict=True)
        if took
    ]
    size = f"{RUNS} runs of {METRICS} metrics of {point_count:,} points"
    return "\n".join(
        [
            f"`benchmarks/compare.py`, {time.strftime('%Y-%m-%d')}: {machine()}.",
            "",
            f"| {size} | median | least | most |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    main()
