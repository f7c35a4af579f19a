"""What a run says beyond plain numbers, online: a real trainer, sidecar and SDK, and a stand-in."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from processes import SidecarProcess, environment, pids_below
from wandb_server import WandbServer

from pillion_sidecar.store import Store

TRAINING = """
import sys, pillion
run = pillion.init(id="rich", project="demo", model="m", dataset="d", quiet=True)
run.define_metric("loss", summary="min,first")
run.define_metric("late/*", step_metric="epoch", summary="none")
def say(number):
    run.log({"loss": 5.0 - number, "late/x": 1, "epoch": number, "text": f"text {number}",
             "image": pillion.Image(PNG), "page": pillion.Html(f"<b>{number}"),
             "table": pillion.Table(["n"], [[number]]), "weights": pillion.Histogram([1, 2])})
    run.alert(f"alert {number}", "text", "WARN")
from pillion._png import encode_png
import numpy
PNG = encode_png(numpy.full((2, 2, 3), 7, numpy.uint8))
for number in range(3):
    say(number)
print(flush=True)
sys.stdin.readline()
for number in range(3, 6):
    say(number)
run.finish()
"""


def test_what_a_trainer_says_beside_numbers_arrives_once(
    tmp_path: Path, run_python: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Though W&B's worker dies between; a change from outside comes after the end too."""
    with WandbServer() as server:
        sidecar = SidecarProcess(tmp_path, "--wandb-send-interval-s", "1")
        sidecar.start(WANDB_BASE_URL=server.base_url, WANDB_API_KEY=server.key)
        try:
            trainer = run_python(TRAINING, PILLION_ADDRESS=sidecar.address)
            assert trainer.stdout.readline(), trainer.communicate()
            wait_until(
                lambda: len(server.alerts) == 3 and len(server.run("demo", "rich").rows) == 3
            )
            kill_worker(sidecar)
            _, errors = trainer.communicate("go on\n", timeout=300)
            assert trainer.returncode == 0, errors
            command(sidecar, "wait", "--timeout-s", "300")
            check(server, sidecar)
            assert server.run("demo", "rich").exit_code == 0
            command(sidecar, "update", "rich", "--name", "renamed", "--tag", "new")
            command(sidecar, "wait", "--timeout-s", "300")
            run = server.run("demo", "rich")
            assert (run.name, run.tags, run.exit_code) == ("renamed", ["new"], 0)
            check(server, sidecar)
            assert server.unknown == []
        finally:
            sidecar.close()


def check(server: WandbServer, sidecar: SidecarProcess) -> None:
    """Compare what the server has with what was said, and with the store."""
    run = server.run("demo", "rich")
    assert [row["_step"] for row in run.rows] == list(range(6))
    assert sorted(alert.title for alert in server.alerts) == [f"alert {n}" for n in range(6)]
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    for row, (*_, logged) in zip(run.rows, store.rows("rich"), strict=True):  # type: ignore[arg-type]
        assert [row[key] for key in ("loss", "late/x", "epoch", "text")] == [
            logged[key] for key in ("loss", "late/x", "epoch", "text")
        ]
        assert row["weights"]["_type"] == "histogram"
        for key, kind in (("image", "image-file"), ("page", "html-file")):
            (media,) = logged[key]  # type: ignore[misc]
            assert (row[key]["_type"], row[key]["sha256"]) == (kind, media.sha256)
            assert len(run.files[row[key]["path"]]) == media.size_bytes
        assert row["table"]["path"] in run.files
    store.close()
    assert run.summary["loss"] == {"min": 0.0, "first": 5.0}
    assert "late/x" not in run.summary
    assert (run.config["model_name"], run.config["dataset_name"]) == ("m", "d")
    assert b"pytest==" in run.files["requirements.txt"]
    assert b'"python"' in run.files["wandb-metadata.json"]


def kill_worker(sidecar: SidecarProcess) -> None:
    """Kill W&B's worker, with its wandb-core."""
    worker = sidecar.worker("wandb")
    for pid in (worker, *pids_below(worker)):
        with suppress(ProcessLookupError):  # it went with the worker
            os.kill(pid, signal.SIGKILL)


def command(sidecar: SidecarProcess, *arguments: str) -> None:
    """Run a command that asks the sidecar."""
    subprocess.run(
        [sys.executable, "-m", "pillion_sidecar", *arguments],
        env=environment(PILLION_ADDRESS=sidecar.address, PILLION_DATA_DIR=str(sidecar.data_dir)),
        capture_output=True,
        check=True,
    )
