"""Which process this is, told from every other of the host's life.

A number alone does not do: numbers are reused, and containers have their own. Read from /proc, so
known on Linux only; see `ProcessIdentity` in `record.proto`.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process. Equal identities are the same process."""

    boot_id: str
    pid_namespace: int
    pid: int
    start_time_ticks: int


def process_identity(pid: int) -> ProcessIdentity | None:
    """Return a process's identity; None where /proc does not tell."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        pid_namespace = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        return ProcessIdentity(boot_id, pid_namespace, pid, _start_time_ticks(pid))
    except (OSError, ValueError, IndexError):
        return None


def is_alive(process: ProcessIdentity) -> bool:
    """Tell whether this very process, of this host and namespace, still runs."""
    try:
        return _start_time_ticks(process.pid) == process.start_time_ticks
    except (OSError, ValueError, IndexError):
        return False


def _start_time_ticks(pid: int) -> int:
    """Read field 22 of /proc/PID/stat; raises ValueError for a zombie, which is dead to us."""
    # The name, field 2, may hold spaces and brackets; what follows its last bracket is plain.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    state, *rest = fields.rpartition(")")[2].split()
    if state in {"Z", "X"}:
        raise ValueError(f"process {pid} is a zombie")
    return int(rest[18])
