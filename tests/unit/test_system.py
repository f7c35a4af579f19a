"""Figures of real processes: that burn CPU, hold memory, write, and start others."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pillion import system
from pillion._aside import Aside
from pillion._nvml import GpuReader
from pillion._processes import ProcessMeter, tree_of
from pillion.process import process_identity
from pillion.system import SystemMeter, Watched, is_system

WaitUntil = Callable[[Callable[[], Any]], Any]

BURN = "print(flush=True)\nwhile True: pass"
BURN_IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
BURN_AND_END = """
import os, subprocess, sys, time
code = "import time; e = time.process_time() + 0.5\\nwhile time.process_time() < e: pass"
subprocess.run([sys.executable, "-c", code])
print(flush=True); sys.stdin.read()
"""
HOLD = "import sys; held = b'x' * (200 << 20); print(flush=True); sys.stdin.read()"
WRITE = """
import os, sys
print(flush=True); sys.stdin.readline()
with open(sys.argv[1], "wb") as file:
    file.write(b"x" * (32 << 20)); file.flush(); os.fsync(file.fileno())
print(flush=True); sys.stdin.read()
"""
WAIT = "import sys; print(flush=True); sys.stdin.read()"
OWN_PID = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts Python code, and waits until it prints a line."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()


def watched(*pids: int) -> Watched:
    """Return what is known of the writers with these numbers."""
    identities = [process_identity(pid) for pid in pids]
    assert None not in identities
    return Watched(tuple(each for each in identities if each is not None))


def test_busy_child_counts_for_its_parent(start: Start, wait_until: WaitUntil) -> None:
    """100 % is one core; what it may use at most is told as well."""
    meter = SystemMeter()
    meter.watch({"run": watched(start(BURN_IN_A_CHILD).pid)})
    cores = len(os.sched_getaffinity(0))

    def busy() -> dict[str, float]:
        values = meter.sample(["run"])["run"]
        return values if 10 < values["system/cpu_percent"] < 140 else {}

    values = wait_until(busy)
    assert values["system/processes"] == 2
    assert values["system/threads"] >= 2
    share = values["system/cpu_percent_of_limit"]
    assert share >= values["system/cpu_percent"] / cores - 0.01
    assert values["system/host_cpu_percent"] > 0


def test_child_that_ended_has_used_what_it_used(start: Start) -> None:
    """Its parent has taken it over; it is neither lost nor counted twice."""
    process = start(WAIT)
    meter = ProcessMeter()
    assert meter.read([process.pid]) is not None
    burner = start(BURN_AND_END)
    first = meter.read([process.pid, burner.pid])
    assert first is not None
    assert first.cpu_percent is not None
    seconds = first.cpu_percent / 100
    assert seconds > 0
    second = meter.read([process.pid, burner.pid])
    assert second is not None
    assert second.cpu_percent is not None
    assert second.cpu_percent < 1000  # half a second of it again would be far more


def test_memory_that_is_held_is_seen(start: Start) -> None:
    """In GiB, and in percent of what there is at most."""
    meter = SystemMeter()
    meter.watch({"run": watched(start(HOLD).pid)})
    values = meter.sample(["run"])["run"]
    assert 200 / 1024 <= values["system/memory_rss_gib"] < 1
    assert 0 < values["system/memory_percent"] < 100
    assert 0 < values["system/host_memory_percent"] <= 100
    assert 0 < values["system/disk_used_percent"] <= 100


def test_memory_is_told_in_percent_of_the_groups_limit(start: Start, tmp_path: Path) -> None:
    """The limit is what it dies of, whatever the machine has."""
    process = start(HOLD)
    group = tmp_path / "sys/fs/cgroup/jobs"
    group.mkdir(parents=True)
    (tmp_path / f"proc/{process.pid}").mkdir(parents=True)
    (tmp_path / f"proc/{process.pid}/cgroup").write_text("0::/jobs\n", encoding="ascii")
    for name, text in (
        *(("memory.max", 400 << 20), ("memory.current", 300 << 20)),
        ("cpu.max", "50000 100000"),
    ):
        (group / name).write_text(f"{text}\n", encoding="ascii")
    meter = SystemMeter(root=tmp_path)
    meter.watch({"run": watched(process.pid)})
    values = meter.sample(["run"])["run"]
    assert 50 <= values["system/memory_percent"] < 100
    assert values["system/cgroup_memory_percent"] == 75.0
    expected = 2 * values["system/cpu_percent"]
    assert values["system/cpu_percent_of_limit"] == pytest.approx(expected, abs=0.01)


def test_what_is_written_is_seen(start: Start, tmp_path: Path) -> None:
    """As a rate over the time since it was looked at before."""
    process = start(WRITE, str(tmp_path / "file"))
    assert process.stdin is not None
    assert process.stdout is not None
    meter = ProcessMeter()
    usage = meter.read([process.pid])
    assert usage is not None
    assert usage.written_bytes_per_s is usage.cpu_percent is None
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()
    usage = meter.read([process.pid])
    assert usage is not None
    assert usage.written_bytes_per_s is not None
    assert usage.written_bytes_per_s > 0


def test_process_of_two_writers_counts_once(start: Start, wait_until: WaitUntil) -> None:
    """`pillion run` and the command that it runs are both writers, one in the other's tree."""
    ours = os.getpid()
    child = start(WAIT)
    assert child.pid in tree_of([ours])
    wait_until(lambda: tree_of([ours, child.pid]) == tree_of([ours]))  # others come and go
    meter = SystemMeter(without=[ours])
    meter.watch({"run": watched(child.pid, child.pid)})
    assert meter.sample(["run"])["run"]["system/processes"] == 1


def test_what_is_to_be_left_out_is_so_with_all_that_it_started(start: Start) -> None:
    """A sidecar that `pillion run` has started is no part of the run."""
    process = start(BURN_IN_A_CHILD)
    assert len(tree_of([process.pid])) == 2
    assert tree_of([process.pid], without=[process.pid]) == set()


def test_who_only_runs_a_command_does_not_count(start: Start) -> None:
    """What it has started does; nothing is told before it has started anything."""
    with_child, alone = start(BURN_IN_A_CHILD), start(HOLD)
    meter = SystemMeter()
    runs = {
        "run": replace(watched(with_child.pid), launchers=watched(with_child.pid).processes),
        "not yet": replace(watched(alone.pid), launchers=watched(alone.pid).processes),
    }
    meter.watch(runs)
    samples = meter.sample(runs)
    assert samples["run"]["system/processes"] == 1
    assert "not yet" not in samples


def test_tree_is_found_where_the_kernel_lists_no_children(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been built without; then every process is asked for its parent, once."""
    process = start(BURN_IN_A_CHILD)
    expected = tree_of([process.pid])
    monkeypatch.setattr("pillion._processes._has_children_files", lambda _: False)
    assert tree_of([process.pid]) == expected
    assert len(expected) == 2


def test_ended_process_is_not_sampled_nor_who_got_its_number(start: Start) -> None:
    """A run without a live process has no figures; nor has one that is watched no longer."""
    process = start(WAIT)
    meter = SystemMeter()
    meter.watch({"run": watched(process.pid)})
    assert meter.sample(["run"])
    process.kill()
    process.wait()
    assert meter.sample(["run"]) == {}
    meter.watch({})
    assert meter._runs == {}


def test_process_that_joins_late_brings_no_past(start: Start) -> None:
    """What it had used before it belonged to the run is no peak of the run's."""
    burner, idle = start(BURN_AND_END), start(WAIT)
    meter = ProcessMeter()
    threading.Event().wait(1.5)  # so that it is older than the clock is inexact
    assert meter.read([idle.pid]) is not None
    usage = meter.read([idle.pid, burner.pid])
    assert usage is not None
    assert usage.cpu_percent == 0.0


def test_call_that_hangs_is_left_alone() -> None:
    """What waits for it goes on without; it is not called again until it has come back."""
    gate, calls = threading.Event(), []

    def hang() -> str:
        calls.append(1)
        gate.wait(60)
        return "late"

    aside: Aside[str] = Aside("test")
    assert aside.call(hang, 0.01) is None
    assert aside.call(hang, 0.01) is None
    assert len(calls) == 1
    gate.set()
    assert aside._thread is not None
    aside._thread.join()
    assert aside.call(hang, 60) == "late"
    assert aside.call(lambda: str(1 // 0), 60) is None


def test_gpus_that_hang_leave_the_rest(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that has fallen off its bus takes its own figures with it, and no others."""
    gate = threading.Event()
    monkeypatch.setattr(GpuReader, "read", lambda *_: gate.wait(60))
    monkeypatch.setattr(system, "ASIDE_WAIT_S", 0.01)
    meter = SystemMeter()
    meter.watch({"run": watched(start(WAIT).pid)})
    for _ in range(2):
        assert "system/memory_rss_gib" in meter.sample(["run"])["run"]
    gate.set()


def test_no_psutil_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who samples decides what that means."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError):
        SystemMeter()


def test_metrics_of_the_system_are_known_by_their_names() -> None:
    """Lists leave them out by this."""
    assert is_system("system/gpu/0/power_w")
    assert not is_system("train/system/loss")
