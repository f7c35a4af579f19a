"""Samples how this process's system does, where its sidecar is on another host and asks for it.

A thread of its own puts rows of metrics `system/...` into the run's queue, which bear the step of
the row before and move none. It holds nobody up: neither the end of the run, nor that of the
process. Without psutil, and whatever else goes wrong, there are no such rows.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pillion._environment import details, is_launcher
from pillion.process import process_identity

FIRST_S = 1.0
"""How soon after it was asked for the first row comes."""


class Sampler:
    """One writer's sampler. Its methods raise nothing."""

    def __init__(self, rows: deque[Any], rows_max: int, last_step: Callable[[], int]) -> None:
        """Begin without a thread.

        Args:
            rows: The queue that is filled.
            rows_max: Where it is so long, a sample is left out.
            last_step: Tells the step of the row before.
        """
        self._rows, self._rows_max, self._last_step = rows, rows_max, last_step
        self._interval_s = 0.0
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        """Held while a row is queued, so that none is behind the end. A signal's handler may end
        the run while the thread that it interrupts does."""
        self._is_closed = False

    def sample_every(self, interval_s: float) -> None:
        """Take a sample so often from now on; 0: none."""
        if interval_s == self._interval_s:
            return
        self._interval_s = interval_s
        self._stopping.set()
        if interval_s > 0:
            self._stopping = threading.Event()
            with suppress(RuntimeError):  # no more threads can be started
                threading.Thread(
                    target=self._run,
                    args=(interval_s, self._stopping),
                    name="pillion-system",
                    daemon=True,
                ).start()

    def close(self) -> None:
        """Queue no row from now on."""
        with self._lock:
            self._is_closed = True
        self._stopping.set()

    def _run(self, interval_s: float, stopping: threading.Event) -> None:
        with suppress(Exception):  # the thread's outermost frame: telemetry never hurts training
            from pillion.system import Gpu, SystemMeter, Watched  # noqa: PLC0415

            identity = process_identity(os.getpid())
            if identity is None:
                return
            gpus = tuple(Gpu(each["index"], each["uuid"]) for each in details().get("gpus", ()))
            meter = SystemMeter()
            launchers = (identity,) if is_launcher() else ()
            meter.watch({"run": Watched((identity,), gpus, launchers)})
            wait_s = min(FIRST_S, interval_s)
            while not stopping.wait(wait_s):
                wait_s = interval_s
                if values := meter.sample(["run"]).get("run"):
                    self._queue(values, stopping)
            meter.watch({})  # lets go of the GPUs' driver

    def _queue(self, values: dict[str, float], stopping: threading.Event) -> None:
        with self._lock:
            is_over = self._is_closed or stopping.is_set()
            if not is_over and len(self._rows) < self._rows_max:
                self._rows.append((self._last_step(), time.time_ns(), values))
