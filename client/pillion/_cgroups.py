"""What the control group of a process lets it use: CPUs and memory, of cgroup v2 and v1.

Where groups are nested the least of their limits counts. See cgroups(7) and the kernel's
`admin-guide/cgroup-v2` and `cgroup-v1/memory`.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the group whose limit is the least."""

    limit_bytes: int
    used_bytes: int
    """Without what the kernel takes back first: files that were not read for a while."""


class Cgroups:
    """The groups of one process; they are looked up once, and read at every call."""

    def __init__(self, pid: int, *, root: Path = Path("/")) -> None:
        """Find the groups.

        Args:
            pid: The process.
            root: Where `/proc` and `/sys` are.
        """
        self._cpu = list(_directories(pid, "cpu", root))
        self._memory = list(_directories(pid, "memory", root))

    def cpu_count(self) -> float | None:
        """Return how many CPUs' time the group may use; None: there is no limit."""
        limits = [limit for directory in self._cpu if (limit := _cpu_limit(directory))]
        return min(limits, default=None)

    def memory(self) -> Memory | None:
        """Return what the group may use, and does; None: there is no limit."""
        found = [memory for directory in self._memory if (memory := _memory_of(directory))]
        return min(found, key=lambda memory: memory.limit_bytes, default=None)


def _directories(pid: int, controller: str, root: Path) -> Iterator[Path]:
    """Yield the directory of the process's group, and of each that it lies in."""
    try:
        lines = (root / f"proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    sys_fs = root / "sys/fs/cgroup"
    mounts: list[tuple[Path, str]] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            mounts.insert(0, (sys_fs / controller, group))
            mounts.insert(0, (sys_fs / controllers, group))
        elif not controllers:
            mounts += [(sys_fs, group), (sys_fs / "unified", group)]
    for mount, group in mounts:
        # In a container the path may be the host's, while what is mounted is the group itself.
        own = mount / group.lstrip("/")
        chain = [own, *own.parents]
        places = chain[: chain.index(mount) + 1] if mount in chain and own.is_dir() else [mount]
        found = [place for place in places if any(_limit_texts(place))]
        if found:
            yield from found
            return


def _limit_texts(directory: Path) -> tuple[str, ...]:
    names = ("cpu.max", "cpu.cfs_quota_us", "memory.max", "memory.limit_in_bytes")
    return tuple(_read(directory / name) for name in names)


def _cpu_limit(directory: Path) -> float | None:
    quota, _, period = _read(directory / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None  # `max` and -1 stand for no limit
    return int(quota) / int(period) or None


def _memory_of(directory: Path) -> Memory | None:
    for limit_name, used_name, inactive_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read(directory / limit_name), _read(directory / used_name)
        if limit.isdigit() and used.isdigit() and 0 < int(limit) < _NO_LIMIT_BYTES:
            inactive = re.search(rf"(?m)^{inactive_name} (\d+)$", _read(directory / "memory.stat"))
            return Memory(int(limit), max(0, int(used) - (int(inactive[1]) if inactive else 0)))
    return None


def _read(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").strip()
    return ""


_NO_LIMIT_BYTES = 2**62
"""Version 1 has no word for no limit, but a number about as large as there are."""
