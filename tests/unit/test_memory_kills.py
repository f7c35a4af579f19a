"""The control group's count of processes that were killed because memory had run out."""

import os
from pathlib import Path

import pytest

from pillion_sidecar.memory_kills import MemoryKills

V1 = "4:memory:/jobs/7\n1:cpu:/\n0::/\n"
V2 = "0::/jobs/7\n"


def write_count(path: Path, count: int) -> None:
    """Write a counter as the kernel shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"low 0\noom 9\noom_kill {count}\noom_group_kill 0\n", encoding="ascii")


def write_groups(root: Path, text: str) -> None:
    """Write which groups process 1 is in."""
    (root / "proc/1").mkdir(parents=True)
    (root / "proc/1/cgroup").write_text(text, encoding="ascii")


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        (V1, "memory/jobs/7/memory.oom_control"),
        (V1, "memory/memory.oom_control"),  # in a container, where the group itself is mounted
        (V2, "jobs/7/memory.events"),
        (V2, "memory.events"),
        (V2, "unified/jobs/7/memory.events"),
    ],
)
def test_rise_since_the_first_look_is_told(tmp_path: Path, groups: str, path: str) -> None:
    """What the group had counted before says nothing about this process."""
    counter = tmp_path / "sys/fs/cgroup" / path
    write_groups(tmp_path, groups)
    write_count(counter, 3)
    kills = MemoryKills(1, root=tmp_path)
    assert not kills.have_risen()
    write_count(counter, 4)
    assert kills.have_risen()


def test_version_1_counts_where_both_are_there(tmp_path: Path) -> None:
    """In a hybrid set-up the memory controller is the one that says so."""
    write_groups(tmp_path, V1)
    counter = tmp_path / "sys/fs/cgroup/memory/jobs/7/memory.oom_control"
    write_count(counter, 0)
    write_count(tmp_path / "sys/fs/cgroup/memory.events", 0)
    kills = MemoryKills(1, root=tmp_path)
    write_count(counter, 1)
    assert kills.have_risen()


@pytest.mark.parametrize("groups", ["", V1, V2])
def test_without_a_counter_nothing_rises(tmp_path: Path, groups: str) -> None:
    """A system without the controller, or a group that is gone, is no trouble."""
    write_groups(tmp_path, groups)
    assert not MemoryKills(1, root=tmp_path).have_risen()
    assert not MemoryKills(2, root=tmp_path).have_risen()


def test_this_system_is_understood() -> None:
    """Where this test runs there is a counter, and it is a number."""
    kills = MemoryKills(os.getpid())
    assert kills._path is not None
    assert kills._path.is_file()
    assert not kills.have_risen()
