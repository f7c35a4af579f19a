"""Planted faults in a real run of a real sidecar, from the trainer's `log` to what people get."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import WAIT_S, SidecarProcess

from pillion.v1 import telemetry_service_pb2 as pb2

WaitUntil = Callable[[Callable[[], Any]], Any]

TRAINING = """
import math, sys, time, pillion
run = pillion.init(id="planted")
for step in range(400):
    loss = 2 + 3 * math.exp(-step / 50) + 0.05 * math.sin(step * 1.7)
    if 200 <= step < 206:
        loss *= 5
    run.log({"train/loss": math.nan if step == 300 else loss, "lr": 1e-3})
while not run.should_stop:
    time.sleep(0.05)
print(run.stop_reason, flush=True)
sys.stdin.readline()
run.finish()
"""
NOTED = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"


def test_a_planted_nan_spike_and_stall_are_told_to_the_trainer_and_to_people(
    make_sidecar: Callable[..., SidecarProcess],
    run_python: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    """Each is a metric and an alert, once, also after a restart; the NaN asks it to stop."""
    noted, code = tmp_path / "noted", tmp_path / "note.py"
    code.write_text(NOTED, encoding="utf-8")
    sidecar = make_sidecar(
        *("--wandb-mode", "disabled", "--anomalies", "--anomaly-stall-min-s", "3"),
        *("--anomaly-stop", "nan", "--anomaly-rules", "lr > 1 for 3 steps"),
        *("--alert-command", f"{sys.executable} {code} {noted}"),
    )
    trainer = run_python(TRAINING, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "Rule nan: train/loss: it is nan, at step 300.\n"

    def alerts() -> list[str]:
        run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="planted")).run
        return sorted(alert.title for alert in run.alerts)

    expected = ["loss_spike in train/loss", "nan in train/loss", "stalled"]
    wait_until(lambda: alerts() == expected)
    wait_until(lambda: noted.exists() and noted.read_text("utf-8").count("\n") == 3)
    sidecar.kill()
    sidecar.start()
    trainer.communicate("\n", timeout=WAIT_S)
    assert trainer.returncode == 0
    exit_code, output = sidecar.stop()
    assert exit_code == 0, output
    sidecar.start()
    assert alerts() == expected
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="planted")).run
    assert run.row_count == 403
    told = [json.loads(line) for line in noted.read_text("utf-8").splitlines()]
    assert sorted(each["title"] for each in told) == expected
    assert {each["run_id"] for each in told} == {"planted"}
    assert (sidecar.data_dir / "anomalies.db").exists()
    sidecar.stop()
    sidecar._flags += ("--no-anomalies",)
    sidecar.start()
    assert not (sidecar.data_dir / "anomalies.db").exists()
