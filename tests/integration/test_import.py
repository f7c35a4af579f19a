"""`pillion import`: what W&B's SDK and TensorBoard's writer have written, taken in and told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import SidecarProcess, environment

import pillion
from pillion._batch import Update
from pillion_sidecar.columns import Histogram
from pillion_sidecar.records import RunId, RunState
from pillion_sidecar.store import Store
from pillion_sidecar.tensorboard_import import TensorboardRun
from pillion_sidecar.wandb_import import WandbRun

WANDB = """
import wandb
run = wandb.init(
    project="p", name="old", id="w1", group="g", tags=["a"], notes="n",
    config={"lr": 0.1, "lora": {"r": 8}},
)
print("a line before all rows")
run.define_metric("accuracy", summary="max")
run.log({"n" * 2000: 1}, step=0)
for step in range(40):
    values = {"train/loss": 1 / (step + 1), "n": {"a": step}}
    values["accuracy"] = 0.5 - abs(step - 20) / 100
    run.log(values | {"seed": 2**60} if step % 2 else values, step=1 + 3 * step)
run.log({"h": wandb.Histogram(np_histogram=([1, 2], [0, 1, 2])), "note": "text"}, step=200)
run.log({"image": wandb.Image("pixel.png"), "t": wandb.Table(columns=["x"], data=[[1]])}, step=201)
run.log({"x": float("nan"), "y": float("inf")}, step=202)
run.log_artifact("pixel.png", name="pixel", type="image")
run.alert("look", "here", level="WARN")
run.summary["chosen"] = "yes"
print("a line that is printed")
run.finish(exit_code=3)
"""
TENSORBOARD = """
from torch.utils.tensorboard import SummaryWriter
for name in ("train", "eval"):
    with SummaryWriter(f"logs/{name}") as writer:
        for step in range(5):
            writer.add_scalar("loss", 1 / (step + 1), step)
            writer.add_scalar("accuracy", step / 8, step)
        writer.add_text("note", "hello", 4)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which the real writers have left runs."""
    directory = tmp_path_factory.mktemp("written")
    (directory / "pixel.png").write_bytes(pillion.Image(np.zeros((2, 2), np.uint8)).encode())
    there = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "wrap"}
    for code in (WANDB, TENSORBOARD):
        subprocess.run(
            [sys.executable, "-c", code], cwd=directory, env=environment(**there), check=True
        )
    return directory


@pytest.fixture
def take(sidecar: SidecarProcess) -> Callable[..., Any]:
    """Return a function that calls `pillion import` and returns what it prints as JSON."""

    def take(*arguments: str | Path, code: int = 0) -> Any:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pillion_sidecar", "import", "--json"),
                *map(str, arguments),
                *("--address", sidecar.address, "--data-dir", str(sidecar.data_dir)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    return take


def test_a_run_of_wandb_is_taken_whole_and_once(
    take: Callable[..., Any], written: Path, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """A torn file gives what is in it; the whole one adds the rest; again adds nothing.

    A row whose only metric has too long a name is none.
    """
    (path,) = (written / "wandb").glob("offline-run-*/*.wandb")
    torn = tmp_path / "torn.wandb"
    torn.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    (first,) = take(torn)["runs"]
    assert 0 < first["row_count"] == first["new_row_count"] < 43
    (whole,) = take(written / "wandb")["runs"]
    assert (whole["run_id"], whole["row_count"]) == ("w1", 43)
    assert whole["new_row_count"] == 43 - first["row_count"]
    assert whole["left_out"]["artifacts"] >= 1
    assert whole["left_out"]["rows of which nothing could be kept"] == 1
    (again,) = take(path)["runs"]
    assert (again["row_count"], again["new_row_count"]) == (43, 0)
    sidecar.stop()
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    run = store.run(RunId("w1"))
    assert run is not None
    assert (run.project, run.name, run.group, run.notes) == ("p", "old", "g", "n")
    assert (run.tags, run.config) == (("a",), {"lr": 0.1, "lora": {"r": 8}})
    assert (run.state, run.exit_code, run.row_count) == (RunState.FAILED, 3, 43)
    assert (run.summary["chosen"], run.summary["accuracy"]) == ("yes", {"max": 0.5})
    rows = [(step, values) for _, step, _, values in store.rows(RunId("w1"))]
    assert [step for step, _ in rows[:40]] == list(range(1, 121, 3))
    assert rows[1][1] == {"train/loss": 0.5, "accuracy": 0.31, "n/a": 1, "seed": 2**60}
    assert rows[40][1] == {"h": Histogram((0.0, 1.0, 2.0), (1.0, 2.0)), "note": "text"}
    assert [type(value[0]).__name__ for value in rows[41][1].values()] == ["Media", "Media"]  # type: ignore[index]
    assert str(rows[42][1]) == "{'x': nan, 'y': inf}"
    assert [alert.title for alert in store.alerts(RunId("w1"))] == ["look"]
    printed = [line for piece in store.console(RunId("w1")) for line in piece.lines]
    assert "a line that is printed" in printed
    store.close()
    assert not any((sidecar.data_dir / "wandb").rglob("*w1*")), "W&B is not told again"


def test_a_file_of_wandb_is_read_the_same_each_time(written: Path) -> None:
    """What is printed before any row has the time of the start, in a second reading too."""
    (path,) = (written / "wandb").glob("offline-run-*/*.wandb")
    source = WandbRun(path)
    start_unix_nano = source.start().start_time.ToNanoseconds()
    for _ in range(2):
        said = [item for item in source.items() if isinstance(item, Update)]
        printed = next(item.values for item in said if item.kind == "console_lines")
        assert printed["time_unix_nano"] == start_unix_nano


def test_event_files_of_tensorboard_are_runs(
    take: Callable[..., Any], written: Path, sidecar: SidecarProcess
) -> None:
    """Each directory is one; scalars of a step are a row; a project may be said."""
    runs = take(written / "logs", "--project", "old")["runs"]
    assert [(run["row_count"], run["new_row_count"]) for run in runs] == [(5, 5), (5, 5)]
    sidecar.stop()
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    assert sorted(run.name for run in store.runs("old")) == ["logs/eval", "logs/train"]
    rows = [(step, values) for _, step, _, values in store.rows(RunId(runs[0]["run_id"]))]
    assert rows[1] == (1, {"loss": 0.5, "accuracy": 0.125})
    for name, run in zip(("eval", "train"), runs, strict=True):
        other = TensorboardRun(written / "logs" / name, written / "logs" / name)
        assert other.start().run_id == run["run_id"], "however the directory is reached"
    assert rows[4] == (
        4,
        {"loss": pytest.approx(0.2), "accuracy": 0.5, "note/text_summary": "hello"},
    )
    store.close()


def test_what_cannot_be_imported_is_said(
    take: Callable[..., Any], written: Path, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """Nothing to import, no such path, nonsense, and a run that was logged here, which stays."""
    (tmp_path / "empty").mkdir()
    assert "Nothing in" in take(tmp_path / "empty", code=1)
    assert "There is no" in take(tmp_path / "nowhere", code=1)
    (tmp_path / "bad.wandb").write_bytes(os.urandom(100))
    (failure,) = take(tmp_path / "bad.wandb", code=1)["failures"]
    assert "no .wandb file" in failure["error"]
    with pillion.init(id="w1", address=sidecar.address, quiet=True) as run:
        run.log({"mine": 1})
    answer = take(written / "wandb", code=1)
    assert "nothing is imported" in answer["failures"][0]["error"]
    assert answer["runs"] == []
