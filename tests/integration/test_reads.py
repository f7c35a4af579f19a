"""What is read from a real sidecar, and what its readers cannot do to it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from processes import WAIT_S, SidecarProcess, environment

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc
from pillion.values import from_key_values
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_watch import EXIT_ENDED_BADLY
from pillion_sidecar.reading_places import READS_MAX
from pillion_sidecar.settings import load


def batch(run_id: str, sequence: int, values: list[float]) -> pb2.LogMetricsRequest:
    """Return a LogMetrics message with one column of values."""
    frame = record_pb2.MetricFrame(
        steps=range(len(values)),
        times_unix_nano=[1] * len(values),
        columns=[
            record_pb2.MetricColumn(key="loss", doubles=record_pb2.DoubleValues(values=values))
        ],
    )
    record = record_pb2.Record(metric_frame=frame)
    return pb2.LogMetricsRequest(
        batch=record_pb2.Batch(
            run_id=run_id, writer_id="writer", sequence=sequence, records=[record]
        )
    )


def values_of(responses: Any) -> list[float]:
    """Return the values of `loss` in answers to ReadMetrics."""
    return [value for each in responses for value in each.frame.columns[0].doubles.values]


def pillion_command(*arguments: str) -> subprocess.Popen[str]:
    """Start `pillion`."""
    command = [sys.executable, "-m", "pillion_sidecar", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def test_readers_see_what_was_acked_and_cannot_keep_the_sidecar(sidecar: SidecarProcess) -> None:
    """Also many that take nothing: one too many is told so, and batches are acked meanwhile."""
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="writer"))
    values = [float(number) for number in range(40_000)]
    for sequence in range(1, 11):
        sidecar.log(batch("run", sequence, values))
    request = pb2.ReadMetricsRequest(run_id="run")
    with sidecar.channel() as channel:
        stub = pb2_grpc.TelemetryServiceStub(channel)
        assert values_of(stub.ReadMetrics(request, timeout=WAIT_S)) == values * 10
        idle = [stub.ReadMetrics(request, timeout=WAIT_S) for _ in range(READS_MAX)]
        for each in idle:
            next(each)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ReadMetrics(request, timeout=WAIT_S))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "try again when one has ended" in refused.value.details()
        assert sidecar.log(batch("run", 11, [1.0]))[0].acked_sequence == 11
        for each in idle[1:]:
            each.cancel()
        assert len(values_of(idle[0])) > 300_000
        few = list(stub.ReadMetrics(pb2.ReadMetricsRequest(run_id="run", max_points=10)))
        assert len(values_of(few)) <= 10
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ReadMetrics(pb2.ReadMetricsRequest(run_id="run", keys=["los"])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "It has loss." in refused.value.details()
        watched = stub.WatchRun(pb2.WatchRunRequest(run_id="run"), timeout=WAIT_S)
        first = next(watched)
        assert (first.run.state, first.row_count) == (record_pb2.RUN_STATE_RUNNING, 400_001)
        with pillion_command("watch", "run", "--address", sidecar.address) as command:
            assert command.stdout is not None
            assert "run RUNNING 400001 rows" in command.stdout.readline()
            sidecar.log(batch("run", 12, [0.5]))
            second = next(watched)
            assert (second.row_count, second.HasField("run")) == (400_002, False)
            assert from_key_values(second.values) == {"loss": 0.5}
            finish = pb2.FinishRunRequest(
                run_id="run", writer_id="writer", last_sequence=12, exit_code=3
            )
            sidecar.call("FinishRun", finish)
            assert [each.run.state for each in watched] == [record_pb2.RUN_STATE_FAILED]
            rest, _ = command.communicate(timeout=WAIT_S)
            assert "run FAILED 400002 rows" in rest
            assert command.returncode == EXIT_ENDED_BADLY
    sidecar.stop()
    with Asker(load(data_dir=Path(sidecar.data_dir), listen=sidecar.address)) as ask:
        assert not ask.is_sidecar
        assert len(values_of(ask.metrics(request))) == 400_002
