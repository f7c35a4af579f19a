"""One script, with W&B's own SDK and with Pillion under its name: the same keys and values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pillion_sidecar.sinks.wandb_file import WandbFile, read_wandb_file

SCRIPT = """
import argparse

run = wandb.init(project="same", name="first", notes="both", tags=["a", "b"], group="g",
                 job_type="train", config=argparse.Namespace(lr=0.1, layers=[1, 2], seed=2**40))
assert wandb.run is run and wandb.run.name == "first" and run.project == "same"
wandb.config.epochs = 3
wandb.config.update({"optimizer": {"name": "adam", "betas": [0.9, 0.999]}}, allow_val_change=True)
assert (wandb.config.epochs, wandb.config["lr"]) == (3, 0.1)
wandb.define_metric("val/accuracy", summary="max")
for step in range(0, 40, 2):
    wandb.log({"train/loss": 1 / (step + 1), "train/tokens": step * 2**33}, step=step)
    if step % 10 == 0:
        row = {"val/accuracy": (step - 20) ** 2 / 400, "val/text": f"at {step}"}
        wandb.log(row, step=step + 1)
wandb.log({"diverged": float("nan"), "far": float("inf"), "done": True}, step=41)
wandb.log({"kept": 1}, commit=False, step=50)
wandb.log({"weights": wandb.Histogram(np_histogram=([1, 2], [0.0, 1.0, 2.0]))}, step=50)
wandb.summary["quality_score"] = 0.75
wandb.run.summary.update({"final": {"loss": 0.5}})
wandb.alert(title="done", text="all of it", level=wandb.AlertLevel.WARN)
wandb.finish()
assert wandb.run is None
"""
WRITTEN_BY_EACH = {"_wandb", "_step", "_runtime", "_timestamp"}


@pytest.fixture
def run_both(
    make_sidecar: Callable[..., Any],
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
    tmp_path: Path,
) -> Callable[[str], tuple[WandbFile, WandbFile]]:
    """Return what runs a script with each, and reads the files that W&B has of the two."""

    def run(script: str) -> tuple[WandbFile, WandbFile]:
        sidecar = make_sidecar("--wandb-mode", "offline")
        theirs = run_python(f"import wandb\n{script}", WANDB_MODE="offline", WANDB_SILENT="true")
        ours = run_python(f"import pillion as wandb\n{script}", PILLION_ADDRESS=sidecar.address)
        for process in (ours, theirs):
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert "is not in Pillion" not in errors
        folder = Path(sidecar.data_dir) / "wandb"
        wait_until(lambda: wandb_files(folder))
        return tuple(read_wandb_file(*wandb_files(each)) for each in (tmp_path, folder))  # type: ignore[return-value]

    return run


def test_script_logs_the_same_with_wandb_and_with_pillion(
    run_both: Callable[[str], tuple[WandbFile, WandbFile]],
) -> None:
    """Rows, config, summary, labels and alerts; our `global_step` is its step."""
    theirs, ours = run_both(SCRIPT)
    for labels in ("project", "name", "notes", "tags", "group", "job_type", "alerts"):
        assert getattr(ours, labels) == getattr(theirs, labels)
    assert comparable(said(ours.config)) == comparable(said(theirs.config))
    expected = [said(row) | {"global_step": row["_step"]} for row in theirs.rows]
    assert comparable([said(row) for row in ours.rows]) == comparable(expected)
    summary = said(ours.summary)
    assert summary.pop("global_step") == 50
    assert comparable(summary) == comparable(said(theirs.summary))


def wandb_files(folder: Path) -> list[Path]:
    """Return the files of runs that have ended."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what W&B itself adds."""
    return {key: value for key, value in values.items() if key not in WRITTEN_BY_EACH}


def comparable(values: Any) -> Any:
    """Return what can be compared: NaN, which equals nothing, as text."""
    return json.loads(json.dumps(values), parse_constant=str)
