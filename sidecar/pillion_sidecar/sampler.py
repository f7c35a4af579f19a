"""The sampler: a process that looks how runs on this host do, for `sampling.py`.

A process of its own, since a driver may hang, and with the least priority: whatever becomes of it,
nothing waits for it. The socket to the sidecar carries JSON lines:

    sidecar → sampler   the setup, first of all
                        {"watch": {run_id: {"processes", "gpus", "launchers"}}}  from now on
    sampler → sidecar   {"sample": {"run_id", "time_unix_nano", "values"}}
                        {"alive": true}                              nothing else for a while
"""

import logging
import os
import signal
import socket
import sys
import time
from typing import Any

from pillion.process import ProcessIdentity
from pillion.system import Gpu, SystemMeter, Watched
from pillion_sidecar import logs
from pillion_sidecar.worker_line import WorkerLine, die_with_parent

FIRST_S = 1.0
"""How soon after it was told of a run it looks at it first."""

log = logging.getLogger(__name__)


class Schedule:
    """When each run is due: soon at first, then all of them at the same times."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_s: dict[str, float] = {}

    def have(self, run_ids: set[str], now_s: float) -> None:
        """Have these runs, and no others."""
        known = self._due_s
        first_s = now_s + min(FIRST_S, self._interval_s)
        self._due_s = {run_id: known.get(run_id, first_s) for run_id in run_ids}

    def take_due(self, now_s: float) -> list[str]:
        """Return the runs that are due; each is so again at the next full interval."""
        due = [run_id for run_id, due_s in self._due_s.items() if due_s <= now_s]
        next_s = (now_s // self._interval_s + 1) * self._interval_s
        self._due_s.update(dict.fromkeys(due, next_s))
        return due

    def wait_s(self, now_s: float) -> float | None:
        """Return how long nothing is due; None: there is no run."""
        return max(0.0, min(self._due_s.values()) - now_s) if self._due_s else None


def _run(line: WorkerLine) -> None:
    setup, messages = line.receive_setup()
    logs.configure(setup["log_format"], setup["log_level"])
    try:
        meter = SystemMeter(without=[os.getppid()])
    except ImportError as error:
        log.warning("no system metrics: psutil cannot be loaded", extra={"error": error})
        while True:
            line.beat()
            line.receive(line.beat_interval_s)
    schedule = Schedule(setup["interval_s"])
    while True:
        for message in messages:
            watched = _decode(message["watch"])
            meter.watch(watched)
            schedule.have(set(watched), time.monotonic())
        for run_id, values in meter.sample(schedule.take_due(time.monotonic())).items():
            sample = {"run_id": run_id, "time_unix_nano": time.time_ns(), "values": values}
            line.send({"sample": sample})
        line.beat()
        wait_s = schedule.wait_s(time.monotonic())
        beat_s = line.beat_interval_s
        messages = line.receive(beat_s if wait_s is None else min(wait_s, beat_s))


def _decode(runs: dict[str, Any]) -> dict[str, Watched]:
    return {
        run_id: Watched(
            tuple(ProcessIdentity(*each) for each in run["processes"]),
            tuple(Gpu(*each) for each in run["gpus"]),
            tuple(ProcessIdentity(*each) for each in run["launchers"]),
        )
        for run_id, run in runs.items()
    }


def main() -> None:
    """Run the sampler on the socket whose number is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    os.nice(19)
    logs.configure()  # as the setup says, once it has come
    code = 1
    try:
        _run(WorkerLine(socket.socket(fileno=int(sys.argv[1]))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0  # the sidecar is gone
    except Exception:
        log.exception("sampler failed")
    finally:
        logging.shutdown()
        os._exit(code)  # a call that hangs must not keep it


if __name__ == "__main__":
    main()
