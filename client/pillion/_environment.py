"""Where this process runs, as it is told to the sidecar: the machine, the code, the packages.

What costs nothing is read at once. What needs the disk or a driver is read by the thread that
starts the run, and waited for `DETAILS_WAIT_S` at most: a stalled network filesystem, or a GPU that
has fallen off its bus, must not keep a run from being started. Secrets among the arguments, and
credentials in addresses, are left out.
"""

import math
import os
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pillion._cgroups import Cgroups
from pillion._git import git_state
from pillion._version import __version__
from pillion.plain import to_text
from pillion.process import process_identity

DETAILS_WAIT_S = 2.0
ARGUMENTS_MAX, ARGUMENT_CHARACTERS_MAX = 256, 1024
"""Arguments that are told, and how much of each."""
ARGUMENTS_CHARACTERS_MAX = 16_384
"""Of all of them: they are in every list of runs."""
PACKAGES_MAX, PACKAGE_CHARACTERS_MAX = 2_000, 128

_OWN_PACKAGES = {"pillion_sidecar", "pillion_trainer"}
"""Whose `__main__.py` may lie in a checkout of Pillion's."""
_INSTALLED = {"site-packages", "dist-packages"}


_command: tuple[str, ...] = ()
"""The command that this process runs for somebody; empty: it speaks for itself."""


def speak_for(command: Sequence[str]) -> None:
    """Describe a command that is run from here, not this process; for `pillion run`."""
    global _command
    _command = tuple(command)


def is_launcher() -> bool:
    """Tell whether this process only runs a command for somebody; see `speak_for`."""
    return bool(_command)


def environment() -> dict[str, Any]:
    """Return the fields of the message `Environment`, as far as they cost nothing."""
    process = process_identity(os.getpid())
    return {
        "host": platform.node(),
        "process": asdict(process) if process else None,
        "program": to_text((_command or sys.argv or [""])[0]),
        # Whether, and by which Python, a command is run, it says itself when it joins.
        "python_version": "" if _command else platform.python_version(),
        "platform": platform.platform(),
        "client_version": __version__,
    }


@cache
def details() -> dict[str, Any]:
    """Return the other fields, of this process at its first call. Not for the caller's thread."""
    found: dict[str, Any] = {}
    readers: dict[str, Callable[[], Any]] = {
        "arguments": _arguments,
        "cpu_count": _cpu_count,
        "memory_bytes": _memory_bytes,
        "git": _git,
        "packages": _packages,
        "gpus": _gpus,
    }
    if _command:
        del readers["packages"]

    def read() -> None:
        for field, reader in readers.items():
            with suppress(Exception):  # a machine may be odd in any way
                found[field] = reader()

    thread = threading.Thread(target=read, name="pillion-environment", daemon=True)
    thread.start()
    thread.join(DETAILS_WAIT_S)
    return {field: found[field] for field in readers if found.get(field)}


def _arguments() -> list[str]:
    from pillion.redaction import redact_arguments  # noqa: PLC0415 - some regular expressions

    arguments = [to_text(each) for each in (_command or sys.argv)[1 : 1 + ARGUMENTS_MAX]]
    told = redact_arguments(each[:ARGUMENT_CHARACTERS_MAX] for each in arguments)
    while sum(map(len, told)) > ARGUMENTS_CHARACTERS_MAX:
        told.pop()
    return told


def _git() -> dict[str, str] | None:
    """Look where the program is, if it is the user's own, else where it was started."""
    script = Path(sys.argv[0]) if sys.argv and not _command else Path()
    is_own = script.is_file() and not _is_installed(script.resolve())
    places = [script.resolve().parent] if is_own else []
    states = (git_state(place) for place in (*places, Path.cwd()))
    return next((state for state in states if state), None)


def _is_installed(script: Path) -> bool:
    """Tell whether a program is a tool, Pillion's or another's: its checkout is not the user's."""
    folder = script.parent
    return (
        folder.name in _OWN_PACKAGES
        or not _INSTALLED.isdisjoint(script.parts)
        or folder == Path(sys.prefix).resolve() / "bin"
        or (folder.parent / "pyvenv.cfg").is_file()
    )


def _packages() -> list[dict[str, str]]:
    """Return what is installed, by the names of its folders: reading them all would take long."""
    found: dict[str, str] = {}
    for entry in sys.path:
        with suppress(OSError):
            for name in os.listdir(entry or "."):  # noqa: PTH208 - names are all that is needed
                stem, _, suffix = name.rpartition(".")
                if suffix in {"dist-info", "egg-info"} and len(found) < PACKAGES_MAX:
                    package, _, version = stem.partition("-")
                    found.setdefault(package[:PACKAGE_CHARACTERS_MAX], version.split("-")[0])
    return [
        {"name": to_text(name), "version": to_text(version)[:PACKAGE_CHARACTERS_MAX]}
        for name, version in sorted(found.items(), key=lambda item: item[0].lower())
    ]


def _gpus() -> list[dict[str, Any]]:
    from pillion._gpus import gpus  # noqa: PLC0415 - loads ctypes

    return gpus()


def _cpu_count() -> int:
    """Return how many CPUs the process may use: by its affinity, and by its control group."""
    count = len(os.sched_getaffinity(0))
    limit = Cgroups(os.getpid()).cpu_count()
    return count if limit is None else min(count, math.ceil(limit))


def _memory_bytes() -> int:
    """Return how much memory the process may use: the machine's, or its control group's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = Cgroups(os.getpid()).memory()
    return machine if memory is None else min(machine, memory.limit_bytes)
