"""The W&B sink's folders: wherever a process dies, one whole folder and its own cursor are left."""

import signal
import subprocess
import sys
from pathlib import Path

from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.sinks.wandb_folders import RunFolders

RUN, OTHER_RUN = RunId("r"), RunId("x-r")

DELIVER_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pillion_sidecar.sinks.wandb_folders import RunFolders

directory, root, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
folder = root / "wandb" / "offline-run-2-r"
count = 0

def count_down(event, arguments):
    global count
    if event in {"open", "os.rename", "os.remove", "os.rmdir"}:
        count += 1
        if count > last:
            os.kill(os.getpid(), signal.SIGKILL)

folders = RunFolders(directory)
folder.mkdir(parents=True)
(folder / "run-r.wandb").write_text("new")
sys.addaudithook(count_down)
folders.deliver("r", folder, 9, 4)
"""
"""Writes a folder, delivers it, and is killed just before the given operation on a file."""


def write(folders: RunFolders, run_id: RunId, time: int, content: str) -> Path:
    """Write a folder as the SDK would."""
    folder = folders.make_root(run_id) / "wandb" / f"offline-run-{time}-{run_id}"
    folder.mkdir(parents=True)
    (folder / f"run-{run_id}.wandb").write_text(content)
    return folder


def shown(directory: Path) -> dict[str, str]:
    """Return what `wandb sync` would find: folders and the content of their files."""
    folders = (directory / "wandb").iterdir()
    return {folder.name: next(folder.glob("*.wandb")).read_text() for folder in folders}


def test_a_delivered_folder_is_shown_with_its_cursor(tmp_path: Path) -> None:
    """What was delivered is there for the next process, and nothing else is left behind."""
    folders = RunFolders(tmp_path)
    folders.deliver(RUN, write(folders, RUN, 1, "content"), Offset(5), 3)
    write(folders, OTHER_RUN, 1, "not finished")
    again = RunFolders(tmp_path)
    assert shown(tmp_path) == {"offline-run-1-r": "content"}
    assert again.finished.keys() == {RUN}
    assert (again.finished[RUN].offset, again.finished[RUN].row_count) == (5, 3)
    assert not list((tmp_path / "partial").iterdir())


def test_a_new_folder_replaces_the_runs_earlier_one_only(tmp_path: Path) -> None:
    """There is one per run; a run whose id ends alike keeps its own."""
    folders = RunFolders(tmp_path)
    folders.deliver(RUN, write(folders, RUN, 1, "old"), Offset(5), 3)
    folders.deliver(OTHER_RUN, write(folders, OTHER_RUN, 1, "other"), Offset(6), 1)
    folders.deliver(RUN, write(folders, RUN, 1, "new"), Offset(9), 4)
    assert shown(tmp_path) == {"offline-run-1-r": "new", "offline-run-1-x-r": "other"}


def test_a_folder_that_was_deleted_is_not_delivered_again(tmp_path: Path) -> None:
    """`wandb clean` deletes what is uploaded; the cursor stays."""
    folders = RunFolders(tmp_path)
    folders.deliver(RUN, write(folders, RUN, 1, "content"), Offset(5), 3)
    folders.discard(tmp_path / "wandb" / "offline-run-1-r")
    assert RunFolders(tmp_path).finished[RUN].offset == 5


def test_death_at_any_file_operation_leaves_one_whole_folder_and_its_cursor(tmp_path: Path) -> None:
    """Before the commit it is the earlier folder, after it the new one; never both, never none."""
    outcomes = []
    for last in range(100):
        directory = tmp_path / str(last)
        folders = RunFolders(directory)
        folders.deliver(RUN, write(folders, RUN, 1, "old"), Offset(5), 3)
        folders.deliver(OTHER_RUN, write(folders, OTHER_RUN, 1, "other"), Offset(6), 1)
        root = folders.make_root(RUN)
        command = [sys.executable, "-c", DELIVER_AND_DIE, str(directory), str(root), str(last)]
        code = subprocess.run(command, check=False, timeout=300).returncode
        assert code in (0, -signal.SIGKILL)
        assert sum(name.endswith("-r") for name in shown(directory)) <= 2  # other-run's included
        again = RunFolders(directory)
        contents = shown(directory)
        assert contents.pop("offline-run-1-x-r") == "other"
        outcomes.append((again.finished[RUN].offset, contents))
        assert not list((directory / "partial").iterdir())
        if code == 0:
            break
    assert code == 0, "there are more file operations than this test has tried"
    before, after = (5, {"offline-run-1-r": "old"}), (9, {"offline-run-2-r": "new"})
    commit = outcomes.index(after)
    assert 0 < commit < len(outcomes) - 1
    assert outcomes == [before] * commit + [after] * (len(outcomes) - commit)
