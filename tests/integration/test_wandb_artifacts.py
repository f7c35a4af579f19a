"""Artifacts at W&B: by the real SDK, from where the blobs lie, each once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifact_calls import exchange, send, sha256
from processes import SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.sinks.wandb_file import WandbFile, read_wandb_file


def finished_file(sidecar: SidecarProcess) -> WandbFile | None:
    """Read W&B's file of the one run, once it is complete."""
    paths = list((sidecar.data_dir / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    return read_wandb_file(paths[0]) if paths else None


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
    copies = [p for p in (sidecar.data_dir / "wandb").rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in copies) < 1_000_000
    # One that comes when the run has ended is in the file that is written anew.
    send(sidecar, {"late.bin": b"late"}, name="late")
    wait_until(lambda: len(finished_file(sidecar).artifacts) == 3)  # type: ignore[union-attr]
