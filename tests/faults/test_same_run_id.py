"""Fifty processes that start one run id at the same moment: never mixed silently."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.store import Store

PROCESS_COUNT = 50
START = """
import json, sys
from google.protobuf import any_pb2
import grpc
from pillion.v1 import telemetry_service_pb2 as pb2, telemetry_service_pb2_grpc as pb2_grpc
address, writer, resume = sys.argv[1:]
stub = pb2_grpc.TelemetryServiceStub(
    grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]))
request = pb2.StartRunRequest(run_id="one", writer_id=writer, resume=int(resume))
print("ready", flush=True)
sys.stdin.readline()
try:
    stub.StartRun(request, timeout=300)
except grpc.RpcError as error:
    print(json.dumps(error.code().name))
    sys.exit()
row = pb2.LogMetricsRequest()
row.batch.run_id, row.batch.writer_id, row.batch.sequence = "one", writer, 1
frame = row.batch.records.add().metric_frame
frame.steps.append(0); frame.times_unix_nano.append(1)
column = frame.columns.add(key="writer"); column.int64s.values.append(int(writer[1:]))
list(stub.LogMetrics(iter([row]), timeout=300))
stub.FinishRun(pb2.FinishRunRequest(run_id="one", writer_id=writer, last_sequence=1), timeout=300)
print(json.dumps("OK"))
"""


@pytest.mark.parametrize("resume", ["ALLOW", "NEVER"])
def test_processes_that_start_one_id_at_once_join_it_or_are_refused(
    sidecar: Any, run_python: Callable[..., Any], wait_until: Callable[..., Any], resume: str
) -> None:
    """With `allow` all are writers of one run, each row once; with `never` exactly one wins."""
    policy = str(pb2.ResumePolicy.Value(f"RESUME_POLICY_{resume}"))
    processes = [
        run_python(START, sidecar.address, f"w{number}", policy) for number in range(PROCESS_COUNT)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=300) for process in processes]
    told = Counter(json.loads(output) for output, _ in ends)
    winners = PROCESS_COUNT if resume == "ALLOW" else 1
    assert told == Counter(OK=winners, ALREADY_EXISTS=PROCESS_COUNT - winners), ends
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="one")).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    rows = list(store.rows("one"))
    store.close()
    assert [row[0] for row in rows] == list(range(winners))
    assert len({row[3]["writer"] for row in rows}) == winners
