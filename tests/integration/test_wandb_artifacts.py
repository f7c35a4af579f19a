"""Artifacts at W&B: by the real SDK, from where the blobs lie, each once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from artifact_calls import exchange, send, sha256
from processes import WAIT_S, SidecarProcess, environment
from wandb_server import WandbServer

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.sinks.wandb_file import WandbFile, read_wandb_file
from pillion_sidecar.sinks.wandb_folders import offline_folders
from pillion_sidecar.sync import SyncState, sync_folder


def finished_file(sidecar: SidecarProcess) -> WandbFile | None:
    """Read W&B's file of the one run, once it is complete; one that is replaced is away a while."""
    with suppress(FileNotFoundError):
        for path in (sidecar.data_dir / "wandb" / "wandb").glob("offline-run-*/*.wandb"):
            return read_wandb_file(path)
    return None


def sizes_below(directory: Path) -> Iterator[int]:
    """Yield the sizes of all files; what has gone since it was listed has none."""
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            yield path.stat().st_size if path.is_file() else 0


def test_an_offline_run_has_its_artifacts_in_the_file(
    make_sidecar: Callable[..., SidecarProcess], wait_until: Callable[..., Any]
) -> None:
    """With every digest and alias; the files stay where they are, and no copy is made of them."""
    sidecar = make_sidecar("--wandb-mode", "offline")
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="w", project="demo"))
    data = os.urandom(3_000_000)
    send(sidecar, {"model.bin": data, "a/b.txt": b"x"}, aliases=["best"], description="what")
    referred = record_pb2.Artifact(run_id="run", name="far", type="dataset")
    referred.files.add(name="x.bin", reference_uri="s3://bucket/x.bin", size_bytes=7)
    exchange(sidecar, referred, [])
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="run", writer_id="w"))
    file = wait_until(lambda: finished_file(sidecar))
    weights, far = file.artifacts
    assert (weights.name, weights.type, weights.description) == ("weights", "model", "what")
    assert set(weights.aliases) == {"best", "latest"}
    entries = {entry.path: entry for entry in weights.manifest.contents}
    assert set(entries) == {"model.bin", "a/b.txt"}
    blob = Path(entries["model.bin"].local_path)
    assert blob.is_relative_to(sidecar.data_dir / "blobs")
    assert sha256(blob.read_bytes()) == sha256(data)
    (entry,) = far.manifest.contents
    assert (entry.path, entry.ref, entry.size) == ("x.bin", "s3://bucket/x.bin", 7)
    assert sum(sizes_below(sidecar.data_dir / "wandb")) < 1_000_000
    # One that comes when the run has ended is in the file that is written anew.
    send(sidecar, {"late.bin": b"late"}, name="late")
    wait_until(lambda: (again := finished_file(sidecar)) and len(again.artifacts) == 3)


ONLINE = """
import sys, pillion
run = pillion.init(id="trainer", project="demo", quiet=True)
artifact = pillion.Artifact("weights", "model", metadata={"step": 3})
artifact.add_file("model.bin")
artifact.add_reference("s3://bucket/base.bin", size_bytes=7)
artifact.link("wandb-registry-model/weights")
assert run.log_artifact(artifact, aliases="best").wait() == "v0"
open("model.bin", "ab").write(b"more")
assert run.log_artifact("model.bin", name="weights", type="model").wait() == "v1"
run.use_artifact("weights:best")
for step in range(20):
    run.log({"loss": step})
run.finish()
"""


def test_artifacts_arrive_once_though_the_server_is_ill(
    tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    """With aliases, links and readers, and the run's rows and end, though a worker is killed."""
    data = os.urandom(2_000_000)
    (tmp_path / "model.bin").write_bytes(data)
    with WandbServer() as server:
        sidecar = SidecarProcess(tmp_path, "--wandb-send-interval-s", "1")
        sidecar.start(WANDB_BASE_URL=server.base_url, WANDB_API_KEY=server.key)
        try:
            with server.fail(503, operation="CreateArtifact") as ill:
                trainer = run_python(ONLINE, PILLION_ADDRESS=sidecar.address)
                assert trainer.wait(WAIT_S) == 0, trainer.communicate()[1]
                ill.wait(1)
                os.kill(sidecar.worker("wandb"), signal.SIGKILL)
            wait = ["wait", "--timeout-s", "300", "--address", sidecar.address]
            command = [sys.executable, "-m", "pillion_sidecar", *wait]
            subprocess.run(command, check=True, env=environment(), capture_output=True)
        finally:
            sidecar.close()
        first, second = server.artifacts.named("weights")
        assert server.artifacts.files(first) == {"model.bin": data}
        assert server.artifacts.files(second) == {"model.bin": data + b"more"}
        assert first.references == {"base.bin": "s3://bucket/base.bin"}
        assert (first.aliases, second.aliases) == ({"best"}, {"latest"})
        assert first.metadata == {"step": 3}
        assert next(target for target, _ in first.links).endswith("wandb-registry-model/weights")
        assert first.used_by
        run = server.run("demo", "trainer")
        assert [row["_step"] for row in run.rows] == list(range(20))
        assert run.exit_code == 0
        assert server.unknown == []


def test_an_offline_runs_link_is_made_after_its_upload(
    make_sidecar: Callable[..., SidecarProcess], wait_until: Callable[..., Any]
) -> None:
    """Kept as pending until then, and as long as the server refuses it."""
    sidecar = make_sidecar("--wandb-mode", "offline")
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="w", project="demo"))
    target = "wandb-registry-model/weights"
    send(sidecar, {"model.bin": b"x"}, aliases=["best"], registry_links=[target])
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="run", writer_id="w"))
    wait_until(lambda: finished_file(sidecar))
    (folder,) = offline_folders(sidecar.data_dir / "wandb").values()
    sidecar.stop()
    with WandbServer() as server:
        with server.fail(403, operation="LinkArtifact"):
            outcome = sync_folder(folder, server.base_url, server.key)
        assert outcome.state is SyncState.SYNCED
        assert "is not linked" in outcome.sentence
        (artifact,) = server.artifacts.named("weights")
        assert artifact.links == []
        outcome = sync_folder(folder, server.base_url, server.key)
        assert (outcome.state, outcome.sentence) == (
            SyncState.PRESENT,
            "Run run was synced before.",
        )
        assert [place.endswith(target) for place, _ in artifact.links] == [True]
        sync_folder(folder, server.base_url, server.key)
        assert len(artifact.links) == 1
