"""How often the kernel killed a process of a control group because memory had run out.

Read from the group's own counter, of cgroup v2 (`memory.events`) or v1 (`memory.oom_control`). Only
a rise says anything: the group may be older than the process that is asked about. See cgroups(7)
and the kernel's `admin-guide/cgroup-v2` and `cgroup-v1/memory`.
"""

import re
from pathlib import Path

_COUNT = re.compile(r"(?m)^oom_kill (\d+)$")


class MemoryKills:
    """The counter of the group that a process is in; of a system without one it never rises."""

    def __init__(self, pid: int, *, root: Path = Path("/")) -> None:
        """Find the counter, and take what it says now for nothing.

        Args:
            pid: The process.
            root: Where `/proc` and `/sys` are.
        """
        self._path = _counter_path(pid, root)
        self._first = self._count()

    def have_risen(self) -> bool:
        """Tell whether memory ran out since this was made."""
        return self._count() > self._first

    def _count(self) -> int:
        try:
            text = self._path.read_text(encoding="ascii") if self._path else ""
        except (OSError, ValueError):  # the group is gone, and what it knew with it
            return 0
        found = _COUNT.search(text)
        return int(found[1]) if found else 0


def _counter_path(pid: int, root: Path) -> Path | None:
    try:
        groups = (root / f"proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    sys_fs = root / "sys/fs/cgroup"
    places: list[tuple[Path, str, str]] = []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            places.insert(0, (sys_fs / "memory", group, "memory.oom_control"))
        elif not controllers:
            places += [(sys_fs / each, group, "memory.events") for each in ("", "unified")]
    for mount, group, name in places:
        # In a container the path may be the host's, while what is mounted is the group itself.
        for directory in (mount / group.lstrip("/"), mount):
            if (directory / name).is_file():
                return directory / name
    return None
