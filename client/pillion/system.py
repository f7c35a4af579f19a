"""How a run's processes, their host and their GPUs do: figures for metrics named `system/...`.

Used by the sidecar's sampler (`pillion_sidecar/sampler.py`), and by the client where that is on
another host. Needs psutil, and pynvml for GPUs; what cannot be read is left out. `docs/system.md`
tells what each figure is.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion._aside import Aside
from pillion._cgroups import Cgroups
from pillion._nvml import Gpu, GpuReader, Reading
from pillion._processes import ProcessMeter, Usage, tree_of
from pillion.process import ProcessIdentity, is_alive

__all__ = ["PREFIX", "Gpu", "SystemMeter", "Watched", "is_system"]

PREFIX = "system/"
ASIDE_WAIT_S = 2.0
"""How long GPUs, and the disk, may take to answer; then they are left out this time."""
GIB, MIB = 2.0**30, 2.0**20


def is_system(key: str) -> bool:
    """Tell whether a metric is one of these; lists leave them out unless they are asked for."""
    return key.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is of one run on this host."""

    processes: tuple[ProcessIdentity, ...]
    """Those that log; what they have started belongs to it."""
    gpus: tuple[Gpu, ...] = ()
    """None: those on which these processes compute."""
    launchers: tuple[ProcessIdentity, ...] = ()
    """Those of the processes that only run a command: what they have started counts, not they."""


class SystemMeter:
    """Samples runs on this host. Used by one thread; a call takes some `ASIDE_WAIT_S` at most."""

    def __init__(self, *, without: Collection[int] = (), root: Path = Path("/")) -> None:
        """Begin; raises ImportError where there is no psutil.

        Args:
            without: Processes that, with all that they have started, belong to no run.
            root: Where the control groups' `/proc` and `/sys` are.
        """
        self._without, self._root = frozenset(without), root
        self._host = _Host()
        self._runs: dict[str, _RunMeter] = {}
        self._reader = GpuReader()
        self._gpus: Aside[list[list[Reading]]] = Aside("pillion-gpus")
        self._disks: Aside[list[float | None]] = Aside("pillion-disks")

    def watch(self, runs: Mapping[str, Watched]) -> None:
        """Have these runs sampled from now on, and no others; rates begin now."""
        for run_id in self._runs.keys() - runs.keys():
            del self._runs[run_id]
        for run_id, watched in runs.items():
            if run_id not in self._runs:
                self._runs[run_id] = _RunMeter(watched, self._root)
                self._runs[run_id].read(self._without)
            self._runs[run_id].watched = watched
        if not runs:
            self._gpus.call(self._let_go, ASIDE_WAIT_S)

    def sample(self, run_ids: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return the figures of these runs, by metric; none of a run without a live process."""
        read = {run_id: self._runs[run_id].read(self._without) for run_id in run_ids}
        alive = {run_id: values for run_id, values in read.items() if values}
        if not alive:
            return {}
        meters = [self._runs[run_id] for run_id in alive]
        gpus = self._gpus.call(
            lambda: [meter.read_gpus(self._reader) for meter in meters], ASIDE_WAIT_S
        )
        disks = self._disks.call(lambda: [meter.read_disk() for meter in meters], ASIDE_WAIT_S)
        host = self._host.read()
        for index, values in enumerate(alive.values()):
            values.update(host)
            if disks and (percent := disks[index]) is not None:
                values["disk_used_percent"] = percent
            for reading in gpus[index] if gpus else ():
                place = f"gpu/{reading.index}/"
                values.update({place + name: value for name, value in reading.values.items()})
        return {
            run_id: {PREFIX + name: round(float(value), 3) for name, value in values.items()}
            for run_id, values in alive.items()
        }

    def _let_go(self) -> list[list[Reading]]:
        self._reader.close()
        return []


class _RunMeter:
    """Samples one run's processes."""

    def __init__(self, watched: Watched, root: Path) -> None:
        self.watched, self._root = watched, root
        self._processes = ProcessMeter()
        self._roots: list[int] = []
        self._pids: set[int] = set()
        self._cgroups: tuple[int, Cgroups] | None = None

    def read(self, without: Collection[int]) -> dict[str, float]:
        self._roots = [each.pid for each in self.watched.processes if is_alive(each)]
        launchers = {each.pid for each in self.watched.launchers}
        self._pids = tree_of(self._roots, without=without) - launchers
        usage = self._processes.read(self._pids)
        return {} if usage is None or not self._roots else self._figures(usage)

    def read_gpus(self, reader: GpuReader) -> list[Reading]:
        return reader.read(self.watched.gpus, self._pids)

    def read_disk(self) -> float | None:
        """Return how full the filesystem is that the first process works in."""
        with suppress(OSError, IndexError, ZeroDivisionError):
            room = os.statvfs(f"/proc/{self._roots[0]}/cwd")
            used = room.f_blocks - room.f_bfree
            return 100 * used / (used + room.f_bavail)
        return None

    def _figures(self, usage: Usage) -> dict[str, float]:
        figures: dict[str, float | None] = {
            "processes": usage.process_count,
            "threads": usage.thread_count,
            "cpu_percent": usage.cpu_percent,
            "memory_rss_gib": usage.rss_bytes / GIB,
            "disk_read_mib_per_s": _mib(usage.read_bytes_per_s),
            "disk_write_mib_per_s": _mib(usage.written_bytes_per_s),
        }
        if self._cgroups is None or self._cgroups[0] != self._roots[0]:
            self._cgroups = self._roots[0], Cgroups(self._roots[0], root=self._root)
        cgroups, machine_bytes = self._cgroups[1], _machine_bytes()
        if usage.cpu_percent is not None:
            figures["cpu_percent_of_limit"] = usage.cpu_percent / self._cpu_count(cgroups)
        memory = cgroups.memory()
        limit_bytes = min(memory.limit_bytes, machine_bytes) if memory else machine_bytes
        figures["memory_percent"] = 100 * usage.rss_bytes / limit_bytes
        if memory is not None and memory.limit_bytes < machine_bytes:
            figures["cgroup_memory_percent"] = 100 * memory.used_bytes / memory.limit_bytes
        return {name: value for name, value in figures.items() if value is not None}

    def _cpu_count(self, cgroups: Cgroups) -> float:
        """Return how many CPUs the run may keep busy."""
        count = float(os.cpu_count() or 1)
        with suppress(OSError):
            count = float(len(os.sched_getaffinity(self._roots[0])))
        limit = cgroups.cpu_count()
        return count if limit is None else min(count, limit)


class _Host:
    """Samples the machine."""

    def __init__(self) -> None:
        import psutil  # noqa: PLC0415 - not every trainer has it

        self._psutil: Any = psutil
        self._before = self._counters()

    def read(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        now, before = self._counters(), self._before
        passed_s = now["time_s"] - before["time_s"]
        if (cpu_s := now["cpu_s"] - before["cpu_s"]) > 0:
            busy = 100 * (now["busy_s"] - before["busy_s"]) / cpu_s
            figures["host_cpu_percent"] = min(max(busy, 0.0), 100.0)
        for name in ("received", "sent"):
            if name in now and name in before and passed_s > 0:
                grown = max(0.0, now[name] - before[name])
                figures[f"network_{name}_mib_per_s"] = grown / passed_s / MIB
        figures["host_memory_percent"] = self._psutil.virtual_memory().percent
        self._before = now
        return figures

    def _counters(self) -> dict[str, float]:
        """Not by psutil's own percentages: their state is of the whole process, and the user's."""
        cpu = self._psutil.cpu_times()._asdict()
        # What guests have used is in `user` and `nice` as well.
        total = sum(cpu.values()) - cpu.get("guest", 0.0) - cpu.get("guest_nice", 0.0)
        idle = cpu["idle"] + cpu.get("iowait", 0.0)
        found = {"time_s": time.monotonic(), "cpu_s": total, "busy_s": total - idle}
        with suppress(OSError, AttributeError):
            cards = self._psutil.net_io_counters(pernic=True)
            others = [card for name, card in cards.items() if name != "lo"]
            found["received"] = sum(card.bytes_recv for card in others)
            found["sent"] = sum(card.bytes_sent for card in others)
        return found


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _mib(rate: float | None) -> float | None:
    return None if rate is None else rate / MIB
