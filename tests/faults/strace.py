"""Faults at the N-th system call on some files: strace kills there, fails the call or slows it.

A counter runs per kind of call. Only calls on the given files count, so a fault is where it is
meant to be, whatever else the process does.
"""

import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

WRITING = ("pwrite64", "write", "fdatasync", "fsync", "ftruncate", "unlink")
"""What SQLite changes files with. It deletes its log only when it closes."""
WAIT_S = 120.0


def journal_files(data_dir: Path) -> list[Path]:
    """Return the journal's files, but for the one that is only memory."""
    return [data_dir / "journal.db", data_dir / "journal.db-wal"]


def command(files: list[Path], trace: Path, *injections: str) -> list[str]:
    """Return the command that runs another with faults; `-f` is for its threads."""
    paths = [word for path in files for word in ("-P", str(path))]
    faults = [word for injection in injections for word in ("-e", f"inject={injection}")]
    calls = ["-e", f"trace={','.join(WRITING)}"]
    return ["strace", "-f", "-qq", "-o", str(trace), *calls, *faults, *paths]


class Strace:
    """Attached to a running process until it ends or `detach` is called."""

    def __init__(self, pid: int, files: list[Path], trace: Path, *injections: str) -> None:
        self._trace = trace
        trace.unlink(missing_ok=True)
        attach = [word for word in command(files, trace, *injections) if word != "-qq"]
        self._process = subprocess.Popen(
            [*attach, "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        self._attached = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        assert self._attached.wait(WAIT_S), "strace did not attach"

    def detach(self) -> Counter[str]:
        """Let go of the process; return how many calls of each kind there were."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(WAIT_S)
        self._reading.join()
        return calls_in(self._trace)

    def _read(self) -> None:
        stream: Any = self._process.stderr
        for line in stream:
            if "attached" in line:  # with all threads that there are
                self._attached.set()
        stream.close()


def calls_in(trace: Path) -> Counter[str]:
    """Count the calls in a trace, those that never came back too."""
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    calls = (line.split(maxsplit=1)[1] for line in lines if " " in line)
    return Counter(call.partition("(")[0] for call in calls if call.partition("(")[0] in WRITING)
