"""What a training leaves as artifacts, and that its base is known."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import WAIT_S, SidecarProcess, environment
from training import end_of, run_of, start_training
from wandb_server import WandbServer

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values

pytestmark = pytest.mark.timeout(1200)

FEW = ("--max-steps", "4")


def artifacts_of(sidecar: SidecarProcess) -> dict[str, Any]:
    """Return the latest of the run's artifacts of each type."""
    found = sidecar.call("ListArtifacts", pb2.ListArtifactsRequest(run_id="tune")).artifacts
    return {artifact.type: artifact for artifact in reversed(found)}


def shown(sidecar: SidecarProcess, reference: str) -> dict[str, Any]:
    """Return what `pillion artifacts show` tells of one."""
    command = [sys.executable, "-m", "pillion_sidecar", "artifacts", "show", reference, "--json"]
    done = subprocess.run(
        [*command, "--address", sidecar.address],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def digest_of(base: Path) -> str:
    """Return the digest of a base's weights, as `sha256sum * | sha256sum` does."""
    weights = (base / "model.safetensors").read_bytes()
    listed = f"{hashlib.sha256(weights).hexdigest()}  model.safetensors\n"
    return hashlib.sha256(listed.encode()).hexdigest()


def test_an_adapter_is_an_artifact_that_leads_to_its_base(
    sidecar: SidecarProcess, small_base: Path, tmp_path: Path
) -> None:
    """Weights, configuration, tokenizer and how it was trained; the base by its digests alone."""
    process = start_training(small_base, tmp_path / "out", sidecar.address, *FEW)
    assert end_of(process)
    assert process.returncode == 0
    found = artifacts_of(sidecar)
    assert found.keys() == {"base-model", "model"}
    digest = digest_of(small_base)

    model = shown(sidecar, "model-tune:final")
    names = {file["name"] for file in model["files"]}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "training.json"}
    assert names >= {"tokenizer.json", "tokenizer_config.json"}
    assert model["metadata"]["base_model"]["sha256"] == digest
    assert model["metadata"]["metrics"]["final_loss"] > 0

    base = shown(sidecar, f"{found['base-model'].name}:latest")
    (weights,) = (file for file in base["files"] if file["name"] == "model.safetensors")
    assert weights["reference_uri"] == (small_base / "model.safetensors").as_uri()
    assert base["reader_run_ids"] == ["tune"]
    assert f"sha256-{digest[:16]}" in base["aliases"]

    run = run_of(sidecar)
    config, summary = from_key_values(run.config), from_key_values(run.summary)
    assert config["base_model"]["sha256"] == digest
    assert 0 < config["trainable_share"] < 1
    assert summary["adapter_size_bytes"] > 0
    trained = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert trained["config"]["max_steps"] == 4
    assert trained["metrics"]["final_loss"] == summary["final_loss"]
    assert trained["base_model"]["sha256"] == digest


@pytest.mark.parametrize(
    ("log_model", "types"),
    [("none", set()), ("checkpoint", {"base-model", "model", "checkpoint"})],
)
def test_what_becomes_an_artifact_can_be_chosen(
    sidecar: SidecarProcess, small_base: Path, tmp_path: Path, log_model: str, types: set[str]
) -> None:
    """Nothing, or each checkpoint beside the adapter."""
    flags = (*FEW, "--checkpoint-interval-steps", "2", "--log-model", log_model)
    process = start_training(small_base, tmp_path / "out", sidecar.address, *flags)
    assert end_of(process)
    assert process.returncode == 0
    found = artifacts_of(sidecar)
    assert found.keys() == types
    if "checkpoint" in types:
        assert set(found["checkpoint"].aliases) >= {"step-4", "latest"}


def test_without_a_sidecar_the_artifacts_wait_for_one(
    small_base: Path,
    tmp_path: Path,
    make_sidecar: Callable[..., SidecarProcess],
    wait_until: Callable[..., Any],
) -> None:
    """The training waits for nothing, and all of them are there later."""
    nobody = f"unix:{tmp_path}/nobody.sock"
    process = start_training(small_base, tmp_path / "out", nobody, *FEW)
    assert end_of(process)
    assert process.returncode == 0
    later = make_sidecar("--wandb-mode", "disabled")
    wait_until(lambda: artifacts_of(later).keys() == {"base-model", "model"})


def test_wandb_has_the_adapter_its_base_and_what_leads_from_one_to_the_other(
    small_base: Path, tmp_path: Path
) -> None:
    """As its lineage graph draws it: the run has used the base and has made the adapter."""
    with WandbServer() as server:
        sidecar = SidecarProcess(tmp_path, "--wandb-send-interval-s", "1")
        sidecar.start(WANDB_BASE_URL=server.base_url, WANDB_API_KEY=server.key)
        try:
            process = start_training(small_base, tmp_path / "out", sidecar.address, *FEW)
            assert end_of(process)
            assert process.returncode == 0
            wait = ["wait", "--timeout-s", "300", "--address", sidecar.address]
            command = [sys.executable, "-m", "pillion_sidecar", *wait]
            subprocess.run(command, check=True, env=environment(), capture_output=True)
            name = artifacts_of(sidecar)["base-model"].name
        finally:
            sidecar.close()
        (base,) = server.artifacts.named(name)
        (model,) = server.artifacts.named("model-tune")
        assert len(base.used_by) == 1
        assert "adapter_model.safetensors" in server.artifacts.files(model)
        assert model.metadata["base_model"]["sha256"] == digest_of(small_base)
        assert base.references["model.safetensors"].startswith("file:///")
