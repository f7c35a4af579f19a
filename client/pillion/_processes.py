"""What the processes of some trees use together: CPU time, memory, threads, and the disk.

A tree is a process and all that it and its descendants have started. What a process has used that
ended meanwhile is counted: its parent took it over when it waited for it, as the kernel has it.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PROCESSES_MAX = 10_000
"""Of one tree that are looked at."""
BIRTH_SLACK_S = 1.0
"""How inexact the time is at which a process began."""


class _Used(NamedTuple):
    """What one process has used since it began, with those that it has waited for."""

    cpu_s: float
    read_bytes: int
    written_bytes: int


class _Key(NamedTuple):
    """A process, told from others that had its number."""

    pid: int
    create_time_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a set of processes uses; rates are since they were looked at before."""

    process_count: int
    thread_count: int
    rss_bytes: int
    """Memory that is resident, where processes share some counted for each of them."""
    cpu_percent: float | None
    """100: one core. None, as the others: it was not looked at before, or cannot be told."""
    read_bytes_per_s: float | None
    """From disks, not from the page cache."""
    written_bytes_per_s: float | None


def tree_of(roots: Iterable[int], *, without: Collection[int] = ()) -> set[int]:
    """Return some processes and all their descendants, but nothing at or below `without`."""
    found: set[int] = set()
    left = [pid for pid in roots if Path(f"/proc/{pid}").exists()]
    children = _children if _has_children_files(left) else _children_by_parents()
    while left and len(found) < PROCESSES_MAX:
        pid = left.pop()
        if pid not in found and pid not in without:
            found.add(pid)
            left += children(pid)
    return found


class ProcessMeter:
    """Looks at one set of processes again and again."""

    def __init__(self) -> None:
        """Begin; raises ImportError where there is no psutil."""
        import psutil  # noqa: PLC0415 - not every trainer has it

        self._psutil: Any = psutil
        self._before: dict[_Key, _Used] = {}
        self._before_s = self._before_time_s = 0.0

    def read(self, pids: Iterable[int]) -> Usage | None:
        """Look at these processes; None if none of them is there."""
        now_s, now_time_s = time.monotonic(), time.time()
        used: dict[_Key, _Used] = {}
        rss_bytes = thread_count = 0
        has_disk = True
        for pid in pids:
            with suppress(self._psutil.Error, OSError, ValueError):
                process = self._psutil.Process(pid)
                with process.oneshot():
                    cpu = process.cpu_times()
                    rss_bytes += process.memory_info().rss
                    thread_count += process.num_threads()
                    key = _Key(pid, process.create_time())
                disk = self._disk(process)
                has_disk = has_disk and disk is not None
                cpu_s = cpu.user + cpu.system + cpu.children_user + cpu.children_system
                used[key] = _Used(cpu_s, *(disk or (0, 0)))
        if not used:
            return None
        cpu_s, read_bytes, written_bytes = self._grown(used)
        passed_s = now_s - self._before_s
        is_first = not self._before or passed_s <= 0
        self._before, self._before_s, self._before_time_s = used, now_s, now_time_s
        return Usage(
            process_count=len(used),
            thread_count=thread_count,
            rss_bytes=rss_bytes,
            cpu_percent=None if is_first else 100 * cpu_s / passed_s,
            read_bytes_per_s=None if is_first or not has_disk else read_bytes / passed_s,
            written_bytes_per_s=None if is_first or not has_disk else written_bytes / passed_s,
        )

    def _disk(self, process: Any) -> tuple[int, int] | None:
        """Return the bytes that a process has read and written; None: it is not ours to know."""
        try:
            counters = process.io_counters()
        except self._psutil.ZombieProcess:
            return 0, 0
        except (self._psutil.Error, AttributeError, NotImplementedError, OSError):
            return None
        return counters.read_bytes, counters.write_bytes

    def _grown(self, used: Mapping[_Key, _Used]) -> list[float]:
        """Return how much more was used than before, of each kind.

        What a process had used that is gone now has gone over to its parent, and is not counted
        again. One that is new here, but older than the last look, has come from elsewhere.
        """
        grown = [0.0] * len(_Used._fields)
        for key in used.keys() | self._before.keys():
            now, before = used.get(key), self._before.get(key)
            is_old = key.create_time_s < self._before_time_s - BIRTH_SLACK_S
            if now is not None and before is None and is_old:
                continue
            zero = _Used(0.0, 0, 0)
            for index, (one, other) in enumerate(zip(now or zero, before or zero, strict=True)):
                grown[index] += one - other
        return [max(0.0, each) for each in grown]


def _has_children_files(pids: Collection[int]) -> bool:
    """Tell whether the kernel lists the children of these; it was built to, or not."""
    return not pids or any(Path(f"/proc/{pid}/task/{pid}/children").exists() for pid in pids)


def _children(pid: int) -> list[int]:
    """Read them from /proc: that costs as much as the process has threads, however full a host."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_bytes().split())
    return found


def _children_by_parents() -> Any:
    """Look at every process of the host, once."""
    import psutil  # noqa: PLC0415

    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)
    return lambda pid: children.get(pid, [])
