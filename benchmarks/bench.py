"""Figures for `docs/benchmarks.md`: what `log()` costs, and points per second until acked.

    make bench                 all of it, about a minute; prints Markdown
    make bench ARGS=--quick    a tenth of the rows

Three measurements in one run, side by side on the same machine:

1. `log()` of 10 scalars while the sender works: median and 99th percentile, beside wandb offline.
2. Points per second until acked after fsync, one trainer and eight, with the W&B sink off; at the
   end the journal and the store must hold every row. Beside it, wandb offline until closed.
3. One trainer at W&B's own rate, with the W&B sink on; at the end W&B's file must hold every row.

A figure is only printed after what was logged has been found again.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.settings import load
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

KEYS = 10
WANDB_ROWS_PER_S = 1000
"""What W&B's SDK takes from one thread is about twice that here."""
DELIVERY_TIMEOUT_S = 600.0

TRAINER = """
import json, sys, time
import pillion
row_count, rate = int(sys.argv[1]), float(sys.argv[2])
run = pillion.init(project="bench", id=sys.argv[3], quiet=True)
row = {f"metric_{index}": index + 0.5 for index in range(10)}
for _ in range(1000): run.log(row)
assert run.flush(60)
print("ready", flush=True); sys.stdin.readline()
clock, log, counts, sleep = time.perf_counter_ns, run.log, run.counts, time.sleep
queue, took = run._queue, []
began = time.perf_counter()
for index in range(row_count):
    if rate:
        while index > rate * (time.perf_counter() - began): sleep(0.001)
    elif len(queue) > 50_000:  # as fast as the sender takes it, and no faster: none is refused
        while len(queue) > 10_000: sleep(0.0005)
    before = clock(); log(row); took.append(clock() - before)
assert run.flush(120), run.counts
seconds = time.perf_counter() - began
assert run.counts.acked == row_count + 1000 and not run.counts.refused, run.counts
took.sort()
print(json.dumps({"seconds": seconds, "median_us": took[len(took) // 2] / 1e3,
                  "p99_us": took[len(took) * 99 // 100] / 1e3}), flush=True)
run.finish()
"""

WANDB = """
import json, sys, time, wandb
row_count = int(sys.argv[1])
run = wandb.init(mode="offline", project="bench", settings=wandb.Settings(
    silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True))
row = {f"metric_{index}": index + 0.5 for index in range(10)}
clock, took = time.perf_counter_ns, []
began = time.perf_counter()
for _ in range(row_count):
    before = clock(); run.log(row); took.append(clock() - before)
run.finish()
seconds = time.perf_counter() - began
took.sort()
print(json.dumps({"seconds": seconds, "median_us": took[len(took) // 2] / 1e3,
                  "p99_us": took[len(took) * 99 // 100] / 1e3}), flush=True)
"""


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    one, eight, peer, slow = (n // scale for n in (1_000_000, 250_000, 5_000, 20_000))

    rows = [("", "log() median", "log() p99", "points/s until acked", "found again")]
    with place() as directory:
        wandb = measure_wandb(directory, peer)
        rate = f"{peer * KEYS / wandb['seconds']:,.0f} until closed"
        rows.append(("wandb offline", *latencies(wandb), rate, f"{peer:,} rows, no fsync"))
    for trainer_count, row_count in ((1, one), (8, eight)):
        with place() as directory:
            results, found = measure(directory, trainer_count, row_count, wandb=False)
        points = trainer_count * row_count * KEYS / max(one["seconds"] for one in results)
        name = f"Pillion, {trainer_count} trainer{'s' * (trainer_count > 1)}"
        worst = max(results, key=lambda one: one["median_us"])
        rows.append((name, *latencies(worst), f"{points:,.0f}", f"{found} in journal and store"))
    with place() as directory:
        results, found = measure(directory, 1, slow, wandb=True)
    name = f"Pillion, {WANDB_ROWS_PER_S:,} rows/s, W&B sink on"
    rows.append((name, *latencies(results[0]), "at that rate", f"{found} in W&B's file too"))

    print(report(rows))


def measure(
    directory: Path, trainer_count: int, row_count: int, *, wandb: bool
) -> tuple[list[dict[str, float]], str]:
    """Run trainers against a sidecar; return their figures and what was found at the end."""
    settings = load(
        data_dir=directory / "data",
        listen=f"unix:{directory}/s.sock",
        wandb_mode="offline" if wandb else "disabled",
        system_interval_s=0,  # rows are counted
    )
    with sidecar(settings) as ask:
        rate = WANDB_ROWS_PER_S if wandb else 0
        trainers = [
            subprocess.Popen(
                [sys.executable, "-c", TRAINER, str(row_count), str(rate), f"bench-{index}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PILLION_ADDRESS": settings.listen},
            )
            for index in range(trainer_count)
        ]
        for trainer in trainers:
            assert trainer.stdout is not None
            assert trainer.stdout.readline() == "ready\n"
        for trainer in trainers:
            assert trainer.stdin is not None
            trainer.stdin.write("go\n")
            trainer.stdin.flush()
        outputs = [trainer.communicate()[0] for trainer in trainers]
        assert not any(trainer.returncode for trainer in trainers)
        wait_for_delivery(ask)
    expected = row_count + 1000
    store = Store(settings.store_url)
    for index in range(trainer_count):
        ordinals = store.series(f"bench-{index}", "metric_9").ordinals  # type: ignore[arg-type]
        assert ordinals.tolist() == list(range(expected))
    store.close()
    if wandb:
        (path,) = (settings.wandb_dir / "wandb").glob("*/*.wandb")
        assert [row["_step"] for row in read_wandb_file(path).rows] == list(range(expected))
    return [json.loads(output) for output in outputs], f"{trainer_count * expected:,} rows"


def measure_wandb(directory: Path, row_count: int) -> dict[str, float]:
    """Run W&B's own SDK offline; return its figures."""
    done = subprocess.run(
        [sys.executable, "-c", WANDB, str(row_count)],
        cwd=directory,
        env=os.environ | {"WANDB_DIR": str(directory), "WANDB_ERROR_REPORTING": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (path,) = directory.glob("wandb/offline-run-*/*.wandb")
    assert len(read_wandb_file(path).rows) == row_count
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@contextmanager
def place() -> Iterator[Path]:
    """Give a directory on the disk that is measured: where the benchmark is started."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as directory:
        yield Path(directory).absolute()


@contextmanager
def sidecar(settings: Any) -> Iterator[Asker]:
    """Run a sidecar, and stop it at the end."""
    command = [
        *(sys.executable, "-m", "pillion_sidecar", "serve", "--data-dir", str(settings.data_dir)),
        *("--log-level", "warning"),
        *("--listen", settings.listen, "--wandb-mode", settings.wandb_mode),
        *("--system-interval-s", str(settings.system_interval_s)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    try:
        with Asker(settings) as ask:
            yield ask
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def wait_for_delivery(ask: Asker) -> None:
    """Wait until every sink has every row."""
    deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
    while any(
        sink.lag_row_count for run in ask.status(pb2.GetStatusRequest()).runs for sink in run.sinks
    ):
        assert time.monotonic() < deadline_s, "the sinks did not get everything"
        time.sleep(0.2)


def latencies(figures: dict[str, float]) -> tuple[str, str]:
    """Show a median and a 99th percentile."""
    return f"{figures['median_us']:.2f} µs", f"{figures['p99_us']:.2f} µs"


def report(rows: list[tuple[str, ...]]) -> str:
    """Return the table as Markdown, with date and machine."""
    head, *body = rows
    lines = ["| " + " | ".join(row) + " |" for row in body]
    rule = "|---" * len(head) + "|"
    return "\n".join(
        [
            f"`make bench`, {time.strftime('%Y-%m-%d')}: {machine()}.",
            "",
            "| " + " | ".join(head) + " |",
            rule,
            *lines,
            "",
        ]
    )


def machine() -> str:
    """Name the machine: what decides the figures."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
