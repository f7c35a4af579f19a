"""A trainer that dies without a sidecar: the next sidecar takes over what it had spooled.

Exactly once, whatever happens to that sidecar meanwhile.
"""

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.scene import Scene, start_load
from faults.spooled import read_spool

from pillion.spool import Kind, Spool, spool_files
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.store import Store

WITHOUT_WANDB = ("--wandb-mode", "disabled")
ROWS, BATCH_COUNT = 500, 400
DISK_BYTES, RESERVE_BYTES = 48 * 2**20, 16 * 2**20


def write_spool(directory: Path) -> None:
    """Write the file of a writer that logged and finished without a sidecar."""
    spool = Spool.create(directory, "r", "w", 2**30)
    spool.append(Kind.START, pb2.StartRunRequest(run_id="r", writer_id="w").SerializeToString())
    for sequence in range(1, BATCH_COUNT + 1):
        first = (sequence - 1) * ROWS
        steps = range(first, first + ROWS)
        frame = record_pb2.MetricFrame(steps=steps, times_unix_nano=steps)
        frame.columns.add(key="loss").doubles.values.extend(float(step) for step in steps)
        batch = record_pb2.Batch(
            run_id="r",
            writer_id="w",
            sequence=sequence,
            records=[record_pb2.Record(metric_frame=frame)],
        )
        spool.append(Kind.BATCH, pb2.LogMetricsRequest(batch=batch).SerializeToString())
    finish = pb2.FinishRunRequest(run_id="r", writer_id="w", last_sequence=BATCH_COUNT)
    spool.append(Kind.FINISH, finish.SerializeToString())
    spool.close()


def check_whole(sidecar: Any, wait_until: Callable[..., Any]) -> None:
    """Check that the run of `write_spool` is there, each row once, and its file is gone."""
    wait_until(lambda: not spool_files(sidecar.spool_dir))
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="r")).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    steps = [step for _, step, _, _ in store.rows("r")]  # type: ignore[arg-type]
    store.close()
    assert steps == list(range(ROWS * BATCH_COUNT))


def test_trainer_that_dies_without_a_sidecar_is_taken_over(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """What it had logged is a prefix, its run has crashed, and the file is gone."""
    scene = Scene(tmp_path, *WITHOUT_WANDB)
    account = tmp_path / "account-0"
    account.touch()
    process = start_load(
        "pillion", "r", 0, account, 200.0, PILLION_ADDRESS=scene.sidecar.listen, **scene.variables
    )
    with process:
        wait_until(lambda: any(spooled.rows for spooled in read_spool(tmp_path / "spool")))
        process.kill()
    (spooled,) = read_spool(tmp_path / "spool")
    scene.start()
    try:
        wait_until(lambda: not spool_files(tmp_path / "spool"))
        run = scene.sidecar.call("GetRun", pb2.GetRunRequest(run_id="r")).run
        assert (run.state, run.row_count) == (record_pb2.RUN_STATE_CRASHED, len(spooled.rows))
        assert run.reason.startswith("Its process vanished without finishing")
    finally:
        scene.sidecar.close()


def test_sidecar_that_dies_while_it_adopts_takes_each_row_once(
    make_sidecar: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """The file is gone only when all of it is on disk; what was journaled before stays one."""
    sidecar = make_sidecar(*WITHOUT_WANDB)
    sidecar.kill()
    write_spool(sidecar.spool_dir)
    pause, chance = threading.Event(), random.Random(5)
    for _ in range(8):
        sidecar.start()
        pause.wait(chance.uniform(0.0, 0.4))
        sidecar.kill()
    sidecar.start()
    check_whole(sidecar, wait_until)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "pillion-test", disk],
        check=True,
    )
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_file_waits_while_the_disk_is_full(
    small_disk: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """It is told, nothing of the file is lost, and it is taken once there is room."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(DISK_BYTES - RESERVE_BYTES))
    scene = Scene(
        tmp_path, *WITHOUT_WANDB, "--disk-reserve-bytes", str(RESERVE_BYTES), data=small_disk
    )
    scene.sidecar.spool_dir = tmp_path / "spool"
    write_spool(tmp_path / "spool")
    scene.start()
    try:
        status = wait_until(
            lambda: (
                (found := scene.sidecar.call("GetStatus", pb2.GetStatusRequest())).spool.last_error
                and found
            )
        )
        assert "full" in status.spool.last_error
        assert status.spool.file_count == 1
        filler.unlink()
        check_whole(scene.sidecar, wait_until)
        status = scene.sidecar.call("GetStatus", pb2.GetStatusRequest())
        assert (status.spool.file_count, status.spool.last_error) == (0, "")
    finally:
        scene.sidecar.close()
