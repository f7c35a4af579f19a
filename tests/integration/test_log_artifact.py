"""Artifacts from a trainer: what travels, what is safe, what is left when something dies."""

import hashlib
import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from artifact_calls import read
from processes import WAIT_S, SidecarProcess

import pillion
from pillion.staging import staged_artifacts
from pillion.v1 import telemetry_service_pb2 as pb2

CHECKPOINT_MB = int(os.environ.get("PILLION_TEST_CHECKPOINT_MB", "24"))
"""Of the checkpoint directory; 200 is what the guarantee names."""


@pytest.fixture
def run(sidecar: SidecarProcess) -> pillion.Run:
    """Return a run of a sidecar without W&B."""
    return pillion.init(project="demo", id="run", address=sidecar.address, quiet=True)


def listed(sidecar: SidecarProcess, **asked: Any) -> list[Any]:
    """Ask for artifacts."""
    return list(sidecar.call("ListArtifacts", pb2.ListArtifactsRequest(**asked)).artifacts)


def checkpoint(directory: Path) -> Path:
    """Write a checkpoint directory: four large files, and a small one in a folder."""
    (directory / "optimizer").mkdir(parents=True)
    for number in range(4):
        (directory / f"shard-{number}.bin").write_bytes(os.urandom(CHECKPOINT_MB * 250_000))
    (directory / "optimizer" / "state.json").write_text("{}")
    return directory


def test_only_the_file_that_changed_travels(
    sidecar: SidecarProcess, run: pillion.Run, tmp_path: Path
) -> None:
    """Of a checkpoint directory logged twice; and all of it comes back."""
    directory = checkpoint(tmp_path / "checkpoint")
    first = run.log_checkpoint(directory, step=100, metrics={"loss": 0.5}, name="weights")
    assert first.wait(WAIT_S) == "v0"
    assert first.sent_bytes == CHECKPOINT_MB * 1_000_000 + 2
    (directory / "shard-2.bin").write_bytes(new := os.urandom(CHECKPOINT_MB * 250_000))
    second = run.log_checkpoint(directory, step=200, name="weights", aliases="best")
    assert second.wait(WAIT_S) == "v1"
    assert second.sent_bytes == len(new)
    assert run.log_checkpoint(directory, step=300, name="weights").wait(WAIT_S) == "v1"
    used = run.use_artifact("weights:best").download(tmp_path / "back")
    for path in directory.rglob("*.*"):
        there = Path(used) / path.relative_to(directory)
        assert there.read_bytes() == path.read_bytes()
    run.finish()
    (best,) = listed(sidecar, name="weights", version="best")
    assert set(best.aliases) == {"best", "latest", "step-200", "step-300"}
    assert best.type == "checkpoint"
    assert staged_artifacts(Path(os.environ["PILLION_SPOOL_DIR"])) == []


def test_what_is_rotated_away_at_once_arrives_as_it_was(
    sidecar: SidecarProcess, run: pillion.Run, tmp_path: Path
) -> None:
    """Deleted or overwritten right after `log_artifact` has returned."""
    data = os.urandom(5_000_000)
    for number, change in enumerate((Path.unlink, lambda path: path.write_bytes(b"other"))):
        path = tmp_path / "model.bin"
        path.write_bytes(data + bytes([number]))
        logged = run.log_artifact(path, name="model", type="model")
        change(path)
        assert logged.wait(WAIT_S) == f"v{number}"
        assert read(sidecar, f"model:v{number}", "model.bin") == data + bytes([number])
    run.finish()


def test_a_run_logs_files_references_and_uses(
    sidecar: SidecarProcess, run: pillion.Run, tmp_path: Path
) -> None:
    """Under the names that are known from W&B, by module too."""
    (tmp_path / "data.csv").write_text("a,b")
    artifact = pillion.Artifact("data", "dataset", "what it is", {"rows": 1, "api_key": "x" * 40})
    artifact.add_file(tmp_path / "data.csv", "raw/data.csv")
    artifact.add_reference("s3://bucket/large.bin", size_bytes=10**12, sha256="ab" * 32)
    assert pillion.log_artifact(artifact, aliases=["raw"]).wait(WAIT_S) == "v0"
    assert pillion.save(tmp_path / "data.csv").wait(WAIT_S) == "v0"
    assert pillion.use_artifact("data:raw").name == "data:raw"
    run.finish()
    (kept,) = listed(sidecar, name="data", version="raw")
    assert [(f.name, f.size_bytes, f.reference_uri) for f in kept.files] == [
        ("large.bin", 10**12, "s3://bucket/large.bin"),
        ("raw/data.csv", 3, ""),
    ]
    assert "x" * 40 not in str(kept)
    (saved,) = listed(sidecar, name="run-run-data.csv")
    assert saved.type == "file"
    request = pb2.ListArtifactsRequest(name="data", version="v0")
    assert sidecar.call("ListArtifacts", request).reader_run_ids == ["run"]


def test_nothing_is_raised_but_for_what_can_never_be_logged(
    run: pillion.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is not the training's fault; a name that is none is the caller's."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    for wrong in (
        lambda: run.log_artifact(tmp_path / "missing"),
        lambda: run.log_artifact(path, name="a/b"),
        lambda: run.log_artifact(path, aliases="v1"),
        lambda: run.log_artifact(path, policy="move"),
        lambda: run.log_artifact(pillion.Artifact("a", "b")),
        lambda: pillion.Artifact("a", "b").add_file(path, "../x"),
        lambda: pillion.Artifact("a", "b").add_reference("no uri"),
        lambda: run.use_artifact("../x"),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()
    (tmp_path / "no-directory").write_text("")
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(tmp_path / "no-directory" / "spool"))
    logged = run.log_artifact(path)
    assert logged.error
    assert not logged.is_done
    assert logged.wait() == ""
    monkeypatch.undo()
    run.finish()
    assert run.log_artifact(path).error == "the run has ended"


def test_a_sidecar_killed_in_the_middle_of_an_upload_gets_it_whole(
    sidecar: SidecarProcess, run: pillion.Run, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """The client goes on with the next one; of the torn file nothing is left."""
    path = tmp_path / "large.bin"
    for number in itertools.count():
        data = os.urandom(1_000_000) * 100
        path.write_bytes(data)
        logged = run.log_artifact(path, name=f"large-{number}", type="model")
        wait_until(lambda logged=logged: logged.sent_bytes > 0)
        sidecar.kill()
        is_killed_amid = not logged.is_done  # else we were stopped ourselves for too long
        sidecar.start()
        if is_killed_amid:
            break
    assert logged.wait(WAIT_S) == "v0"
    partial = sidecar.data_dir / "blobs" / "partial"
    assert list(partial.iterdir()) == []
    kept = sidecar.data_dir / "blobs" / "sha256"
    digest = hashlib.sha256(data).hexdigest()
    assert (kept / digest[:2] / digest[2:]).read_bytes() == data
    run.finish()


KILLED = """
import os, signal, sys
import pillion
run = pillion.init(project="demo", id="killed", quiet=True)
open("model.bin", "wb").write(b"of a killed trainer" * 100_000)
run.log_artifact("model.bin", name="model", type="model", aliases=["last"])
os.unlink("model.bin")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("is_there", [True, False], ids=["with-sidecar", "without"])
def test_what_a_killed_trainer_has_logged_is_taken_over(
    sidecar: SidecarProcess,
    run_python: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    wait_until: Callable[..., Any],
    *,
    is_there: bool,
) -> None:
    """Killed right after `log_artifact` has returned, whether a sidecar was there or not."""
    if not is_there:
        sidecar.stop()
    run_python(KILLED, PILLION_ADDRESS=sidecar.address).wait(WAIT_S)
    if not is_there:
        sidecar.start()
    wait_until(lambda: listed(sidecar, name="model"))
    assert read(sidecar, "model:last", "model.bin") == b"of a killed trainer" * 100_000
    wait_until(lambda: not staged_artifacts(tmp_path / "spool"))


FORKED = """
import os
import pillion
run = pillion.init(project="demo", id="parent", quiet=True)
open("model.bin", "wb").write(b"of a child")
if (pid := os.fork()) == 0:
    logged = run.log_artifact("model.bin", name="model", type="model")
    os._exit(0 if not logged.error and logged.wait() == "" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
run.log({"loss": 1.0})
run.finish()
"""


def test_a_forked_child_stages_only(
    sidecar: SidecarProcess,
    run_python: Callable[..., subprocess.Popen[str]],
    wait_until: Callable[..., Any],
) -> None:
    """And what it has staged is taken over when it has ended."""
    trainer = run_python(FORKED, PILLION_ADDRESS=sidecar.address)
    assert trainer.wait(WAIT_S) == 0, trainer.communicate()[1]
    wait_until(lambda: listed(sidecar, name="model"))
    assert read(sidecar, "model:v0", "model.bin") == b"of a child"
