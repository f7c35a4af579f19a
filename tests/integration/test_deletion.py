"""`pillion rm` deletes runs that have ended, and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.cli import app


def log_run(sidecar: Any, run_id: str, loss: float, *, is_finished: bool = True) -> Any:
    """Log a row to a run of this id; return what its start was answered with."""
    writer = {"run_id": run_id, "writer_id": "w"}
    started = sidecar.call("StartRun", pb2.StartRunRequest(name=f"the {run_id}", **writer))
    request = pb2.LogMetricsRequest()
    request.batch.run_id, request.batch.writer_id, request.batch.sequence = run_id, "w", 1
    frame = request.batch.records.add().metric_frame
    frame.steps.append(3)
    frame.times_unix_nano.append(1)
    frame.columns.add(key="loss").doubles.values.append(loss)
    sidecar.log(request)
    if is_finished:
        sidecar.call("FinishRun", pb2.FinishRunRequest(last_sequence=1, **writer))
    return started


def test_runs_that_have_ended_are_deleted_and_others_refused(
    make_sidecar: Callable[..., Any],
) -> None:
    """All that is named is known before anything is deleted; the id may be taken once more."""
    sidecar = make_sidecar("--wandb-mode", "disabled", listen="127.0.0.1:0")
    for run_id in ("aa-1", "aa-2", "bb"):
        log_run(sidecar, run_id, 0.5, is_finished=run_id != "bb")

    def rm(*arguments: str) -> Result:
        place = ("--address", sidecar.address, "--data-dir", str(sidecar.data_dir))
        return CliRunner().invoke(app, ["rm", *arguments, *place])

    def listed() -> list[str]:
        runs = sidecar.call("ListRuns", pb2.ListRunsRequest()).runs
        return sorted(run.run_id for run in runs)

    for arguments, words in (
        (("aa-1", "cc", "--yes"), "There is no run cc."),
        (("aa-1", "aa", "--yes"), "'aa' may mean"),
        (("aa-1", "b", "--yes"), "'b' is only the beginning of the id bb (the bb). Write the"),
        (("aa-1",), "say --yes"),
    ):
        refused = rm(*arguments)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert words in refused.stderr
    with pytest.raises(grpc.RpcError) as not_admin:  # with the token that trainers have
        sidecar.call("DeleteRun", pb2.DeleteRunRequest(run_id="aa-1"))
    assert not_admin.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert listed() == ["aa-1", "aa-2", "bb"]

    done = rm("bb", "the aa-1", "--yes", "--json")
    told = json.loads(done.stdout)
    assert told["deleted"] == [{"run_id": "aa-1", "name": "the aa-1", "is_complete": True}]
    assert [each["reason"] for each in told["refused"]] == ["RUN_LIVE"]
    assert (done.exit_code, "bb has not ended" in done.stderr) == (1, True)
    assert listed() == ["aa-2", "bb"]
    status = sidecar.call("GetStatus", pb2.GetStatusRequest())
    assert sorted(run.run_id for run in status.runs) == ["aa-2", "bb"]

    assert not log_run(sidecar, "aa-1", 0.25).is_resumed
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="aa-1")).run
    assert (run.row_count, from_key_values(run.summary)) == (1, {"loss": 0.25})
    done = rm("aa-1", "aa-2", "--yes")
    assert (done.exit_code, done.stdout) == (0, "aa-1 is deleted.\naa-2 is deleted.\n")
    assert listed() == ["bb"]

    sidecar.stop()
    refused = rm("bb", "--yes")
    assert (refused.exit_code, "Start one with `pillion serve`" in refused.stderr) == (1, True)
