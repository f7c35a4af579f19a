"""What one look at runs' systems costs, in CPU and in time, on a host that is full of processes.

    .venv/bin/python benchmarks/system.py                     5,000 processes, 1 and 20 runs
    .venv/bin/python benchmarks/system.py --processes 500     a quick look

Each run is a process with threads that has started four others, as a trainer with its loaders of
data. No GPU takes part.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pillion.process import process_identity
from pillion.system import SystemMeter, Watched

RUNS_MAX, THREADS, CHILDREN, LOOKS = 20, 100, 4, 20
TRAINER = f"""
import os, signal, threading
for _ in range({THREADS}):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
for _ in range({CHILDREN}):
    if os.fork() == 0:
        signal.pause()
print(flush=True)
signal.pause()
"""
CROWD = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        signal.pause()
print(flush=True)
signal.pause()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Python code, and wait until it prints a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def measure(pids: list[int]) -> str:
    """Look again and again; return what a look costs."""
    meter = SystemMeter()
    runs = {}
    for pid in pids:
        identity = process_identity(pid)
        assert identity is not None
        runs[str(pid)] = Watched((identity,))
    meter.watch(runs)
    cpu_ms, passed_ms = [], []
    for _ in range(LOOKS):
        cpu_s, began_s = time.process_time(), time.perf_counter()
        assert len(meter.sample(runs)) == len(runs)
        cpu_ms.append(1e3 * (time.process_time() - cpu_s))
        passed_ms.append(1e3 * (time.perf_counter() - began_s))
    cpu, passed = statistics.median(cpu_ms), statistics.median(passed_ms)
    return f"{cpu:.1f} ms of CPU, {passed:.1f} ms in all"


def main() -> None:
    """Measure with few runs and with many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5000, help="On the host, beside the runs.")
    crowd_size = parser.parse_args().processes
    started = [start(TRAINER) for _ in range(RUNS_MAX)]
    pids = [process.pid for process in started]
    try:
        for others in (0, crowd_size):
            if others:
                started.append(start(CROWD, str(others)))
            count = sum(path.name.isdigit() for path in Path("/proc").iterdir())
            for runs in (1, RUNS_MAX):
                print(f"{count:,} processes, {runs} runs: {measure(pids[:runs])}", flush=True)
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


if __name__ == "__main__":
    main()
