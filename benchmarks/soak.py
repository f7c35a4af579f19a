"""Faults at random for a long time: the oracle judges in the end, memory is watched on the way.

    make soak                                  10 minutes
    make soak ARGS='--minutes 240 --seed 7'    as long as you like, and the same again

Everything is killed, stopped, filled and cut for the first half. In the second, sidecar and workers
are left alive while trainers die and the network breaks: their memory must not grow with that.
Exits with 1 if a promise was broken. Needs root, to mount a small disk.
"""

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.proxy import Proxy  # noqa: E402 - found by the above
from faults.random_faults import RandomFaults  # noqa: E402
from faults.scene import Scene, small_disk  # noqa: E402

DISK_BYTES, RESERVE_BYTES = 1024 * 1024 * 1024, 64 * 1024 * 1024
"""Room for some hours of what is logged here."""
ROWS_PER_S = 20.0
SAMPLE_INTERVAL_S = 1.0
WARM_UP_S = 60.0
"""Of a process's life that tells nothing of its memory yet."""


class Memory:
    """Samples how much memory the sidecar and its workers have."""

    def __init__(self, scene: Scene) -> None:
        """Begin."""
        self._scene = scene
        self._samples: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
        self._is_over = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def end(self) -> dict[str, dict[str, float]]:
        """Return size and slope of the process of each kind that has lived longest."""
        self._is_over.set()
        figures: dict[str, dict[str, float]] = {}
        for (kind, _), samples in self._samples.items():
            times, sizes = np.array(samples, float).T
            warm = times >= times[0] + WARM_UP_S
            seconds = float(times[-1] - times[0])
            if warm.sum() < 2 or seconds <= figures.get(kind, {}).get("seconds", 0.0):
                continue
            slope, _ = np.polyfit(times[warm], sizes[warm], 1)
            figures[kind] = {
                "seconds": round(seconds),
                "mib": round(float(sizes[-1]) / 2**20, 1),
                "mib_per_h": round(float(slope) * 3600 / 2**20, 2),
            }
        return figures

    def _sample(self) -> None:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        while not self._is_over.wait(SAMPLE_INTERVAL_S):
            for kind, pid in self._scene.processes().items():
                with suppress(OSError):  # it has just ended
                    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
                    self._samples[kind, pid].append((time.monotonic(), pages * page_bytes))


def main() -> int:
    """Soak; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pillion-soak-")))
        disk = stack.enter_context(small_disk(directory / "disk", DISK_BYTES))
        with socket.create_server(("127.0.0.1", 0)) as server:  # a port that stays the same
            address = f"127.0.0.1:{server.getsockname()[1]}"
        scene = Scene(directory, data=disk, listen=address)
        stack.callback(scene.close)
        scene.variables["PILLION_DISK_RESERVE_BYTES"] = str(RESERVE_BYTES)
        proxy = Proxy(address)
        stack.callback(proxy.close)
        faults = RandomFaults(scene, options.seed, rows_per_s=ROWS_PER_S, proxy=proxy, disk=disk)
        memory = Memory(scene)
        soak(faults, options.minutes * 60)
        figures = memory.end()
        scene.finish()
        verdict = scene.settle()
    outcome = {
        "seed": options.seed,
        "faults": faults.done,
        "recovered_within_s": round(max(faults.recoveries_s, default=0.0), 1),
        "memory": figures,
    }
    print(json.dumps(outcome, indent=2))
    print(verdict)
    return 1 if verdict.lost or verdict.doubled or verdict.problems else 0


def soak(faults: RandomFaults, seconds: float) -> None:
    """Do one fault after the other, and show how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    began_s = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=seconds)
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            faults.spares_sidecar = elapsed_s > seconds / 2
            faults.strike(is_awaited=True)
            count = sum(faults.done.values())
            progress.update(task, completed=elapsed_s, description=f"{count} faults")


if __name__ == "__main__":
    sys.exit(main())
