"""`pillion spool`: files that no sidecar takes by itself are listed, sent and deleted."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import WAIT_S, environment

from pillion.spool import Kind, Spool, spool_files
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.store import Store

FINISHED, CRASHED = record_pb2.RUN_STATE_FINISHED, record_pb2.RUN_STATE_CRASHED
VANISHED = "Its process vanished without finishing; what it had spooled was sent later."


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory that no sidecar looks into."""
    return tmp_path / "elsewhere"


@pytest.fixture
def pillion(directory: Path, sidecar: Any) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs `pillion spool …` on that directory."""

    def run(*arguments: str, answer: str = "") -> Any:
        return subprocess.run(
            [sys.executable, "-m", "pillion_sidecar", "spool", *arguments],
            env=environment(PILLION_SPOOL_DIR=str(directory), PILLION_ADDRESS=sidecar.address),
            capture_output=True,
            text=True,
            input=answer,
            timeout=WAIT_S,
            check=False,
        )

    return run


def spool(directory: Path, run_id: str, *sequences: int, more: tuple[Any, ...] = ()) -> Spool:
    """Write a file; its writer is gone when it is closed."""
    file = Spool.create(directory, run_id, "w", 2**30)
    file.append(Kind.START, pb2.StartRunRequest(run_id=run_id, writer_id="w").SerializeToString())
    for sequence in sequences:
        frame = record_pb2.MetricFrame(steps=[sequence], times_unix_nano=[sequence])
        frame.columns.add(key="loss").doubles.values.append(sequence / 2)
        batch = record_pb2.Batch(run_id=run_id, writer_id="w", sequence=sequence)
        batch.records.add(metric_frame=frame)
        file.append(Kind.BATCH, pb2.LogMetricsRequest(batch=batch).SerializeToString())
    for kind, message in more:
        file.append(kind, message)
    return file


def finish(run_id: str, last_sequence: int) -> tuple[Kind, bytes]:
    """Return the end of a writer."""
    message = pb2.FinishRunRequest(run_id=run_id, writer_id="w", last_sequence=last_sequence)
    return Kind.FINISH, message.SerializeToString()


def stored(sidecar: Any, run_id: str) -> tuple[Any, list[int]]:
    """Return a run and its steps."""
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id)).run
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    steps = [step for _, step, _, _ in store.rows(run_id)]  # type: ignore[arg-type]
    store.close()
    return run, steps


def test_sent_file_is_the_run_that_its_writer_meant(
    sidecar: Any, pillion: Callable[..., Any], directory: Path
) -> None:
    """Whole, killed, forked, or with a former journal's batches before it; then it is gone."""
    spool(directory, "whole", 1, 2, 3, more=(finish("whole", 3),)).close()
    spool(directory, "killed", 1, 2).close()
    spool(directory, "child", 1, more=((Kind.CHILD, b""),)).close()
    spool(directory, "gap", 5, more=(finish("gap", 7),)).close()
    done = pillion("send", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Run whole: whole.w.spool is kept by the sidecar." in done.stdout.splitlines()
    assert spool_files(directory) == []
    run, steps = stored(sidecar, "whole")
    assert (run.state, steps) == (FINISHED, [1, 2, 3])
    run, steps = stored(sidecar, "killed")
    assert (run.state, run.reason, steps) == (CRASHED, VANISHED, [1, 2])
    assert not run.HasField("exit_code")
    run, steps = stored(sidecar, "child")
    assert (run.state, steps) == (FINISHED, [1])
    run, steps = stored(sidecar, "gap")
    assert (run.state, steps) == (FINISHED, [5])


def test_file_that_was_sent_before_changes_nothing(
    sidecar: Any, pillion: Callable[..., Any], directory: Path, tmp_path: Path
) -> None:
    """A copy that somebody sends again is the same batches under the same numbers."""
    file = spool(directory, "r", 1, 2, more=(finish("r", 2),))
    file.close()
    copy = tmp_path / "copy.spool"
    copy.write_bytes(file.path.read_bytes())
    assert pillion("send", file.path.name).returncode == 0
    assert pillion("send", str(copy)).returncode == 0
    run, steps = stored(sidecar, "r")
    assert (run.state, steps) == (FINISHED, [1, 2])
    assert not copy.exists()


def test_file_in_use_or_not_sent_stays(
    sidecar: Any, pillion: Callable[..., Any], directory: Path
) -> None:
    """With a sentence, and exit code 1; the others are sent all the same."""
    spool(directory, "sent", 1).close()
    living = spool(directory, "living", 1)
    (directory / "junk.spool").write_text("no spool file", encoding="ascii")
    done = pillion("send", "living.w.spool", "junk.spool", "sent.w.spool")
    assert done.returncode == 1
    assert "is in use: its writer lives" in done.stderr
    assert "junk.spool is no spool file" in done.stderr
    assert stored(sidecar, "sent")[1] == [1]
    done = pillion("rm", "--yes", "living.w.spool")
    assert (done.returncode, living.path.exists()) == (1, True)
    sidecar.kill()
    living.close()
    done = pillion("send", "--all")
    assert (done.returncode, living.path.exists()) == (1, True)
    assert "No sidecar answers" in done.stderr
    assert pillion("send").stderr.startswith("Name the files, or say --all.")
    assert pillion("send", "none").stderr.startswith("There is no file none")


def test_files_are_listed(pillion: Callable[..., Any], directory: Path) -> None:
    """With their runs, and how they stand; nothing is there before the first."""
    assert pillion("ls").stdout == f"Nothing waits in {directory}.\n"
    file = spool(directory, "waiting", 1)
    file.close()
    living = spool(directory, "living")
    (directory / "old.w.spool.damaged").write_bytes(file.path.read_bytes())
    shape = json.loads(pillion("ls", "--json").stdout)
    assert shape["directory"] == str(directory)
    assert [(each["run_id"], each["state"]) for each in shape["files"]] == [
        ("living", "writing"),
        ("waiting", "damaged"),
        ("waiting", "waiting"),
    ]
    assert shape["files"][2]["size_bytes"] == file.size_bytes
    assert "waiting.w.spool" in pillion("ls").stdout
    living.close()


def test_files_are_deleted_after_a_yes(pillion: Callable[..., Any], directory: Path) -> None:
    """What is in them is nowhere else, so it is asked."""
    file = spool(directory, "r", 1)
    file.close()
    assert "No sidecar has what is in them." in pillion("rm", file.path.name, answer="n\n").stdout
    assert file.path.exists()
    assert pillion("rm", file.path.name, answer="y\n").returncode == 0
    assert not file.path.exists()
