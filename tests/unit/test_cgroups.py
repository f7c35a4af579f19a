"""What control groups allow, of both versions, as the kernel's files say it."""

from pathlib import Path

import pytest

from pillion._cgroups import Cgroups, Memory

GIB = 2**30
V1 = "4:memory:/jobs/7\n1:cpu,cpuacct:/jobs/7\n0::/\n"
V2 = "0::/jobs/7\n"
NO_LIMIT_V1 = "9223372036854771712"


def write(root: Path, files: dict[str, str], groups: str) -> Cgroups:
    """Lay down what process 7 sees below /proc and /sys; return its groups."""
    paths = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (paths | {"proc/7/cgroup": groups}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return Cgroups(7, root=root)


def test_limits_of_version_2(tmp_path: Path) -> None:
    """Files that the kernel takes back first do not count as used."""
    files = {
        "jobs/7/cpu.max": "250000 100000\n",
        "jobs/7/memory.max": f"{8 * GIB}\n",
        "jobs/7/memory.current": f"{3 * GIB}\n",
        "jobs/7/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    }
    groups = write(tmp_path, files, V2)
    assert groups.cpu_count() == 2.5
    assert groups.memory() == Memory(8 * GIB, 2 * GIB)


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_limits_of_version_1(tmp_path: Path, mount: str) -> None:
    """Each controller has a tree of its own."""
    files = {
        f"{mount}/jobs/7/cpu.cfs_quota_us": "150000\n",
        f"{mount}/jobs/7/cpu.cfs_period_us": "100000\n",
        "memory/jobs/7/memory.limit_in_bytes": f"{4 * GIB}\n",
        "memory/jobs/7/memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory/jobs/7/memory.stat": f"total_inactive_file {GIB}\n",
    }
    groups = write(tmp_path, files, V1)
    assert groups.cpu_count() == 1.5
    assert groups.memory() == Memory(4 * GIB, GIB)


def test_least_limit_of_nested_groups_counts(tmp_path: Path) -> None:
    """A pod may allow more than its node does, and its memory is then the node's."""
    files = {
        "jobs/7/cpu.max": "max 100000\n",
        "jobs/cpu.max": "400000 100000\n",
        "jobs/7/memory.max": f"{8 * GIB}\n",
        "jobs/7/memory.current": f"{GIB}\n",
        "jobs/memory.max": f"{2 * GIB}\n",
        "jobs/memory.current": f"{2 * GIB - 1}\n",
    }
    groups = write(tmp_path, files, V2)
    assert groups.cpu_count() == 4.0
    assert groups.memory() == Memory(2 * GIB, 2 * GIB - 1)


def test_group_that_is_mounted_itself_is_found(tmp_path: Path) -> None:
    """In a container the path is the host's, and what is mounted is the group."""
    files = {"cpu.max": "50000 100000\n", "memory.max": "1024\n", "memory.current": "512\n"}
    groups = write(tmp_path, files, "0::/kubepods/pod1/abc\n")
    assert groups.cpu_count() == 0.5
    assert groups.memory() == Memory(1024, 512)


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ({"jobs/7/cpu.max": "max 100000\n", "jobs/7/memory.max": "max\n"}, V2),
        ({"cpu/jobs/7/cpu.cfs_quota_us": "-1\n", "cpu/jobs/7/cpu.cfs_period_us": "1000\n"}, V1),
        ({"memory/jobs/7/memory.limit_in_bytes": NO_LIMIT_V1, "memory/jobs/7/memory.stat": ""}, V1),
        ({"jobs/7/cpu.max": "nonsense\n", "jobs/7/memory.max": "\n"}, V2),
        ({}, V2),
        ({}, ""),
    ],
)
def test_no_limit_is_none(tmp_path: Path, files: dict[str, str], groups: str) -> None:
    """Nor is a file that is missing, or says what nobody understands."""
    found = write(tmp_path, files, groups)
    assert found.cpu_count() is None
    assert found.memory() is None
    assert Cgroups(8, root=tmp_path).memory() is None
