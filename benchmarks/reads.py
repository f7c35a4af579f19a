"""Reading a long series by `ReadMetrics`, from the store and by a sidecar; and what readers cost.

    .venv/bin/python benchmarks/reads.py [--quick]

A series of 1,000,000 points, whole and as 1,000 points; the best of several times, each answer
checked. Then one writer sends batches as fast as they are acked, alone and beside readers that read
the whole series again and again.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from bench import machine, place, sidecar

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.metric_answers import read_metrics
from pillion_sidecar.records import Environment, Frame, Offset, RunId, RunStart, WriterId
from pillion_sidecar.settings import load
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

POINTS, FEW = 1_000_000, 1_000
BATCH_ROWS = 250
ROUNDS = 3
READERS = 4
INTAKE_S = 5.0
RUN = RunId("series")


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the points")
    point_count = POINTS // 10 if parser.parse_args().quick else POINTS
    with place() as directory:
        os.environ["PILLION_SPOOL_DIR"] = str(directory / "spool")
        settings = load(
            data_dir=directory / "data",
            listen=f"unix:{directory}/s.sock",
            wandb_mode="disabled",
        )
        settings.data_dir.mkdir(mode=0o700)
        values = fill(settings.store_url, point_count)
        with closing(Store(settings.store_url)) as store:
            by_store = measure(lambda request: read_metrics(store, request), values)
        with sidecar(settings) as ask:
            by_sidecar = measure(ask.metrics, values)
            alone = acked_per_s(ask, 0)
            beside = acked_per_s(ask, READERS)
    print(f"{machine()}, {time.strftime('%Y-%m-%d')}; {point_count:,} points\n")
    print(f"|  | whole | as {FEW:,} points |\n|---|---|---|")
    for name, (whole_s, few_s) in (("from the store", by_store), ("by a sidecar", by_sidecar)):
        print(f"| {name} | {whole_s * 1e3:.0f} ms | {few_s * 1e3:.0f} ms |")
    print(
        f"\nacked points/s of a writer: {alone:,.0f} alone, {beside:,.0f} beside {READERS} readers"
    )


def fill(url: str, point_count: int) -> Any:
    """Write a series as a store's worker does, a batch at a time; return its values."""
    values = np.random.default_rng(1).normal(size=point_count).cumsum()
    sink = StoreSink(url)
    start = RunStart(RUN, WriterId("w"), "p", "", "", "", (), "", {}, Environment(), 1)
    sink.start(Offset(1), start)
    for number, first in enumerate(range(0, point_count, BATCH_ROWS), start=2):
        axis = np.arange(first, min(first + BATCH_ROWS, point_count))
        sink.apply(RUN, Offset(number), [Frame(first, axis, axis, {"loss": values[axis]})])
    sink.close()
    return values


def measure(
    read: Callable[[pb2.ReadMetricsRequest], Iterator[pb2.ReadMetricsResponse]], values: Any
) -> tuple[float, float]:
    """Return how long the series takes, whole and as few points."""
    taken: list[float] = []
    for max_points in (0, FEW):
        request = pb2.ReadMetricsRequest(run_id=RUN, keys=["loss"], max_points=max_points)
        best_s = float("inf")
        for _ in range(ROUNDS):
            began_s = time.perf_counter()
            found = [np.array(each.frame.columns[0].doubles.values) for each in read(request)]
            best_s = min(best_s, time.perf_counter() - began_s)
            points = np.concatenate(found)
            assert (points.min(), points.max()) == (values.min(), values.max())
            assert (points[0], points[-1]) == (values[0], values[-1])
            assert np.array_equal(points, values) if not max_points else len(points) <= FEW
        taken.append(best_s)
    return taken[0], taken[1]


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
