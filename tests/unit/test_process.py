"""Processes: one is told from every other, and a dead one is dead."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pillion.process import is_alive, process_identity

_WAIT = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that waits until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_process_knows_itself() -> None:
    """The same process has the same identity whenever it is asked."""
    identity = process_identity(os.getpid())
    assert identity == process_identity(os.getpid())
    assert identity is not None
    assert identity.pid == os.getpid()
    assert identity.boot_id
    assert is_alive(identity)


def test_processes_differ(child: subprocess.Popen[bytes]) -> None:
    """Of two processes on one host boot and namespace are equal, the rest is not."""
    ours, theirs = process_identity(os.getpid()), process_identity(child.pid)
    assert ours is not None
    assert theirs is not None
    assert (ours.boot_id, ours.pid_namespace) == (theirs.boot_id, theirs.pid_namespace)
    assert ours != theirs


def test_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    """A process whose parent has not asked for its end yet does not live."""
    identity = process_identity(child.pid)
    assert identity is not None
    assert is_alive(identity)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(identity)
    assert process_identity(child.pid) is None
    child.wait()
    assert not is_alive(identity)


def test_reused_number_is_another_process() -> None:
    """A number alone is not enough: the start time tells the one from the other."""
    identity = process_identity(os.getpid())
    assert identity is not None
    assert not is_alive(replace(identity, start_time_ticks=identity.start_time_ticks + 1))


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**62])
def test_number_without_a_process_is_dead(pid: int) -> None:
    """Whatever a client says its number is, asking for it does no harm."""
    here = process_identity(os.getpid())
    assert here is not None
    assert process_identity(pid) is None
    assert not is_alive(replace(here, pid=pid))


@pytest.mark.parametrize("name", [b") Z 1 (", b"a b", b"((", b"\xff\xfe", b"x)\nZ 1"])
def test_name_of_a_process_confuses_nobody(name: bytes) -> None:
    """A process may call itself what it likes; brackets, blanks and newlines too."""
    code = (
        f"import pathlib; pathlib.Path('/proc/self/comm').write_bytes({name!r})\n"
        + _WAIT.replace("; ", "\n")
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = process_identity(process.pid)
        assert identity is not None
        assert is_alive(identity)
        assert identity.start_time_ticks > 0
        process.kill()
