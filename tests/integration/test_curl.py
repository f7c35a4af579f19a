"""`buf curl` by reflection, without our protos: what a stranger with a shell can do."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUF = Path(__file__).parents[2] / ".tools" / "node_modules" / ".bin" / "buf"
SERVICE = "pillion.v1.TelemetryService"


@pytest.fixture
def curl(sidecar: Any, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs `buf curl` on the sidecar's socket, away from any proto file."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        socket = sidecar.address.removeprefix("unix:")
        command = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        return subprocess.run(
            [*command, "--unix-socket", socket, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    return run


def test_a_stranger_lists_logs_and_compares_with_buf_curl(curl: Callable[..., Any]) -> None:
    """Reflection lists the service; StartRun, LogMetrics, GetStatus and Compare take JSON."""

    def call(method: str, request: dict[str, Any]) -> dict[str, Any]:
        done = curl("-d", json.dumps(request), f"http://localhost/{SERVICE}/{method}")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert SERVICE in curl("--list-services", "http://localhost").stdout.split()
    assert f"{SERVICE}/LogMetrics" in curl("--list-methods", "http://localhost").stdout
    for run_id, loss in (("a", 0.5), ("b", 0.25)):
        settings = {"values": [{"key": "lr", "value": {"doubleValue": loss}}]}
        started = call("StartRun", {"runId": run_id, "writerId": "w", "config": settings})
        assert started["runId"] == run_id
        frame = {
            "steps": [0, 1],
            "timesUnixNano": ["1764000000000000000", "1764000001000000000"],
            "columns": [{"key": "loss", "doubles": {"values": [1.0, loss]}}],
        }
        batch = {"runId": run_id, "writerId": "w", "sequence": 1}
        acked = call("LogMetrics", {"batch": batch | {"records": [{"metricFrame": frame}]}})
        assert acked == {"runId": run_id, "writerId": "w", "ackedSequence": "1"}
        finished = call("FinishRun", {"runId": run_id, "writerId": "w", "lastSequence": 1})
        assert finished == {"state": "RUN_STATE_FINISHED", "journaledRowCount": "2"}
    assert "All 4 rows of 2 runs are on disk" in call("GetStatus", {})["sentence"]
    compared = call("Compare", {"runIds": ["a", "b"]})
    assert (compared["metric"], compared["bestRunId"]) == ("loss", "b")
    assert compared["configDifferences"][0]["key"] == "lr"


def test_a_refusal_has_a_code_a_sentence_and_details(curl: Callable[..., Any]) -> None:
    """What comes back from one run to compare is an INVALID_ARGUMENT with an ErrorInfo."""
    refused = curl("-d", '{"runIds": ["a"]}', f"http://localhost/{SERVICE}/Compare")
    assert refused.returncode != 0
    error = json.loads(refused.stderr)
    assert error["code"] == "invalid_argument"
    assert "name 2 to 10" in error["message"]
    assert error["details"][0]["type"] == "google.rpc.ErrorInfo"
