"""What the client says of where it runs: read from files, redacted, and bounded."""

import ctypes
import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pillion import _environment, _git, _gpus
from pillion._cgroups import Cgroups
from pillion._environment import details, environment
from pillion._git import git_state
from pillion.redaction import REDACTED

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def anew() -> Any:
    """Have each test read anew."""
    details.cache_clear()
    yield
    details.cache_clear()
    _environment.speak_for(())


def git(folder: Path, *arguments: str) -> None:
    """Call git as a user does."""
    named = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


def commit_of(folder: Path) -> str:
    """Ask git for the commit."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_checkout_is_read_as_git_would(tmp_path: Path) -> None:
    """From within it, packed, detached, in another worktree; a remote without its password."""
    folder, deep = tmp_path / "repository", tmp_path / "repository" / "a" / "b"
    deep.mkdir(parents=True)
    assert git_state(deep) is None
    git(folder, "init")
    empty = git_state(deep)
    assert empty == {"commit": "", "branch": "main", "remote_url": ""}
    git(folder, "commit", "--allow-empty", "-m", "x")
    git(folder, "remote", "add", "other", "https://other/x.git")
    git(folder, "remote", "add", "origin", "https://me:pass@host/x.git")
    expected = {"commit": commit_of(folder), "branch": "main", "remote_url": "https://host/x.git"}
    assert git_state(deep) == expected
    git(folder, "pack-refs", "--all")
    assert git_state(deep) == expected
    git(folder, "worktree", "add", "-b", "side", "../side")
    assert git_state(tmp_path / "side") == expected | {"branch": "side"}
    git(folder, "checkout", "--detach")
    assert git_state(deep) == expected | {"branch": ""}


def test_a_tool_tells_the_checkout_that_it_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillion's own programs, and what is installed; a user's program tells its own."""
    tool, project = tmp_path / "tool", tmp_path / "project"
    venv = tool / "env"
    installed = (
        tool / "trainer" / "pillion_trainer" / "__main__.py",
        tool / "lib" / "site-packages" / "some" / "train.py",
        venv / "bin" / "pillion",
    )
    script = tool / "train.py"
    for path in (*installed, script):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (venv / "pyvenv.cfg").touch()
    project.mkdir()
    for folder in (tool, project):
        git(folder, "init")
        git(folder, "commit", "--allow-empty", "-m", folder.name)
        git(folder, "checkout", "-b", folder.name)
    monkeypatch.chdir(project)
    branches = []
    for path in (script, *installed):
        monkeypatch.setattr(sys, "argv", [str(path)])
        details.cache_clear()
        branches.append(details()["git"]["branch"])
    assert branches == ["tool", "project", "project", "project"]


def test_a_folder_that_is_no_checkout_is_none(tmp_path: Path) -> None:
    """A pointer to nowhere, a head that is none, and files that nobody may read."""
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    assert git_state(tmp_path) is None
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff what")
    assert git_state(tmp_path) == {"commit": "", "branch": "", "remote_url": ""}


def test_arguments_are_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many, and of very long ones, the beginning."""
    more = ["x" * 5000] * 1000
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "1", "--api-key", "secret", *more])
    arguments = details()["arguments"]
    assert arguments[:4] == ["--lr", "1", "--api-key", REDACTED]
    assert (len(arguments), len(arguments[-1])) == (4 + 15, 1024)
    assert environment()["program"] == "train.py"


def test_packages_are_told_by_name_and_version() -> None:
    """Those that can be imported here."""
    packages = {package["name"].lower(): package["version"] for package in details()["packages"]}
    assert packages["pytest"] == pytest.__version__
    assert len(packages) < 2000


def test_a_command_is_described_in_place_of_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only it knows is left for it to say."""
    monkeypatch.setattr(sys, "argv", ["pillion", "run", "--name", "x"])
    _environment.speak_for(["python", "train.py", "--hf-token", "secret"])
    assert (environment()["program"], environment()["python_version"]) == ("python", "")
    assert details()["arguments"] == ["train.py", "--hf-token", REDACTED]
    assert "packages" not in details()


def test_what_stalls_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is started whatever the machine is like."""
    release = threading.Event()
    monkeypatch.setattr(_environment, "DETAILS_WAIT_S", 0.1)
    monkeypatch.setattr(_environment, "_git", lambda: 1 // 0)
    monkeypatch.setattr(_environment, "_packages", lambda: release.wait(60))
    assert {"arguments", "cpu_count", "memory_bytes"} >= set(details()) >= {"cpu_count"}
    release.set()


def test_limits_of_the_control_group_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of version 1 as of 2: a container of it would else be taken for the whole machine."""
    files = {
        f"proc/{os.getpid()}/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "67108864\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "4096\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(_environment, "Cgroups", functools.partial(Cgroups, root=tmp_path))
    told = details()
    assert (told["cpu_count"], told["memory_bytes"]) == (1, 64 << 20)


class Library:
    """Answers as NVIDIA's library does, for two GPUs, the second of which is lost."""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        """Begin."""
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        """End."""
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        """Count."""
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, _handle: Any) -> int:  # noqa: N802
        """Find."""
        return 0 if index == 0 else 15

    def nvmlDeviceGetName(self, _handle: Any, name: Any, _length: int) -> int:  # noqa: N802
        """Name."""
        name.value = b"NVIDIA H100"
        return 0

    def nvmlDeviceGetUUID(self, _handle: Any, uuid: Any, _length: int) -> int:  # noqa: N802
        """Identify."""
        uuid.value = b"GPU-1234"
        return 0

    def nvmlDeviceGetMemoryInfo(self, _handle: Any, memory: Any) -> int:  # noqa: N802
        """Measure."""
        memory._obj.total = 80 << 30
        return 0


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 1), ("0", 1), ("1", 0), ("", 0), ("GPU-12", 1), ("3, 0", 1)]
)
def test_gpus_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, count: int
) -> None:
    """By the library of NVIDIA's driver; one that does not answer is left out."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(_gpus, "_DRIVER", tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    gpu = {"name": "NVIDIA H100", "uuid": "GPU-1234", "memory_bytes": 80 << 30, "index": 0}
    assert _gpus.gpus() == [gpu] * count


def test_without_a_driver_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absence is silence."""
    monkeypatch.setattr(_gpus, "_DRIVER", Path("/nowhere"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("it is looked for"))
    assert _gpus.gpus() == []


def test_reads_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is far too large is none."""
    monkeypatch.setattr(_git, "FILE_BYTES_MAX", 10)
    (tmp_path / "x").write_text("x" * 11)
    assert _git._read(tmp_path / "x") == ""
