"""The sidecar killed under three trainers: what W&B and the store hold at the end."""

import math
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

ROW_COUNT = 3000
TRAINING = """
import sys, threading, pillion
rank, count = int(sys.argv[1]), int(sys.argv[2])
run = pillion.init(id=f"run-{rank}", project="p", config={"rank": rank}, quiet=True)
pause = threading.Event()
for step in range(count):
    row = {"loss": rank + 1 / (step + 1), "step_count": step, "is_even": step % 2 == 0}
    if step % 7 == 0:
        row = {"eval/loss": float("nan") if step % 2 else float(step), "rank": rank}
    run.log(row, step=2 * step)
    if step % 100 == 0:
        pause.wait(0.01)
    if step == count // 2:
        print("half", flush=True)
run.config.update({"late": True})
print("logged", flush=True)
sys.stdin.readline()
run.summary["best"] = rank
assert run.flush(60), run.counts
run.finish()
assert not [name for name in sys.modules if name.split(".")[0] == "wandb"]
"""


def expected_rows(rank: int) -> list[tuple[int, int, dict[str, Any]]]:
    """Return what a trainer logs: (ordinal, step, values)."""
    rows = []
    for step in range(ROW_COUNT):
        values: dict[str, Any] = {
            "loss": rank + 1 / (step + 1),
            "step_count": step,
            "is_even": step % 2 == 0,
        }
        if step % 7 == 0:
            values = {"eval/loss": math.nan if step % 2 else float(step), "rank": rank}
        rows.append((step, 2 * step, values))
    return rows


def nan_as_text(row: tuple[int, int, dict[str, Any]]) -> tuple[int, int, dict[str, Any]]:
    """Return a row that can be compared. W&B's JSON does not tell 0.0 from 0, `==` neither."""
    ordinal, step, values = row
    return ordinal, step, {k: "NaN" if math.isnan(v) else v for k, v in values.items()}


def test_every_row_is_in_wandb_and_in_the_store_once_after_the_sidecar_was_killed(
    make_sidecar: Callable[..., Any],
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """Training goes on through two SIGKILLs; each row arrives exactly once, as it was."""
    sidecar = make_sidecar()
    trainers = [
        run_python(TRAINING, str(rank), str(ROW_COUNT), PILLION_ADDRESS=sidecar.address)
        for rank in range(3)
    ]
    for trainer in trainers:
        assert trainer.stdout.readline() == "half\n"
    sidecar.kill()
    for trainer in trainers:
        assert trainer.stdout.readline() == "logged\n"
    sidecar.start()
    sidecar.kill()
    sidecar.start()
    for trainer in trainers:
        trainer.stdin.write("finish\n")
        trainer.stdin.flush()
    for trainer in trainers:
        _, errors = trainer.communicate(timeout=300)
        assert trainer.returncode == 0, errors
        assert len(errors.splitlines()) <= 3  # a warning for each time it was away

    def all_delivered() -> bool:
        totals = sidecar.call("GetStatus", pb2.GetStatusRequest()).totals
        return not any(sink.undelivered_run_count for sink in totals.sinks)

    wait_until(all_delivered)
    code, output = sidecar.stop()
    assert code == 0, output
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    for rank in range(3):
        expected = expected_rows(rank)
        stored = [(ordinal, step, values) for ordinal, step, _, values in store.rows(f"run-{rank}")]
        assert [repr(row) for row in stored] == [repr(row) for row in expected]
        run = store.run(f"run-{rank}")
        assert run is not None
        assert run.state == record_pb2.RUN_STATE_FINISHED
        assert run.config == {"rank": rank, "late": True}
        assert run.summary["best"] == rank
        (path,) = (sidecar.data_dir / "wandb" / "wandb").glob(f"*-run-{rank}/*.wandb")
        file = read_wandb_file(path)
        written = [
            (
                row.pop("_step"),
                row.pop("global_step"),
                {key: value for key, value in row.items() if not key.startswith("_")},
            )
            for row in file.rows
        ]
        assert [nan_as_text(row) for row in written] == [nan_as_text(row) for row in expected]
        assert {key: file.config[key] for key in ("rank", "late")} == run.config
        assert file.summary["best"] == rank
        assert file.exit_code == 0
    store.close()


def test_a_run_that_was_resumed_many_times_is_one_whole_run_at_wandb(
    make_sidecar: Callable[..., Any], run_python: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Ends behind which a run went on are none; all rows are in one folder, once."""
    sidecar = make_sidecar("--wandb-mode", "offline")
    # What W&B's worker does not see meanwhile it is given at once by the next sidecar.
    pid = sidecar.worker("wandb")
    os.kill(pid, signal.SIGSTOP)
    code = (
        "import pillion\n"
        "for _ in range(8):\n"
        "    run = pillion.init(id='again', quiet=True)\n"
        "    run.log({'loss': 1.0}); run.finish()\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    _, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    sidecar.kill()
    with suppress(ProcessLookupError):  # it may have been stopped before it could end with it
        os.kill(pid, signal.SIGKILL)
    sidecar = make_sidecar("--wandb-mode", "offline")
    status = pb2.GetStatusRequest(run_id="again")

    def sinks() -> dict[str, int]:
        (run,) = sidecar.call("GetStatus", status).runs
        return {sink.sink: sink.delivered_row_count for sink in run.sinks}

    wait_until(lambda: sinks() == {"store": 8, "wandb": 8})
    folders = sidecar.data_dir / "wandb" / "wandb"
    wait_until(lambda: list(folders.glob("*-again/*.wandb")))  # its end comes behind its rows
    (path,) = folders.glob("*-again/*.wandb")
    file = read_wandb_file(path)
    assert [row["_step"] for row in file.rows] == list(range(8))
    assert [row["global_step"] for row in file.rows] == list(range(8))
    assert file.exit_code == 0
