"""What a real sidecar shows Prometheus, and to whom."""

import contextlib
import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import pillion
from pillion.v1 import telemetry_service_pb2 as pb2

CANARY = "canary-7a11"


class Metrics:
    """Where a sidecar shows its metrics."""

    def __init__(self, sidecar: Any) -> None:
        self.sidecar = sidecar
        (url,) = re.findall(r"http://\S+", sidecar.output())
        self.place = urlsplit(url)

    def ask(self, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
        """Ask, with other headers than usual; return the code and what was answered."""
        connection = http.client.HTTPConnection(self.place.hostname or "", self.place.port, 30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def values(self) -> dict[str, float]:
        """Return what is shown, by name and labels."""
        code, text = self.ask()
        assert code == 200
        return {
            ",".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def metrics(make_sidecar: Callable[..., Any]) -> Metrics:
    """Return the metrics of a sidecar that took one run of 5 rows, and refused a call."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--metrics-port", "0")
    with pillion.init(id=CANARY, project=CANARY, address=sidecar.address, quiet=True) as run:
        for value in range(5):
            run.log({CANARY: value})
    with pytest.raises(grpc.RpcError):
        sidecar.call("GetStatus", pb2.GetStatusRequest(run_id="nobody"))
    return Metrics(sidecar)


def test_what_was_taken_and_refused_is_counted(
    metrics: Metrics, wait_until: Callable[..., Any]
) -> None:
    """Batches, commits, rows, refusals by reason, and how far the sink is."""
    names = ("pillion_sink_undelivered_runs,store", "pillion_open_streams")
    wait_until(lambda: [metrics.values()[name] for name in names] == [0, 0])
    values = metrics.values()
    assert values["pillion_rows_journaled"] == values["pillion_batch_rows_sum"] == 5
    assert values["pillion_append_seconds_count"] == values["pillion_batch_bytes_count"] >= 1
    assert values["pillion_commit_seconds_count"] >= 3
    assert values["pillion_refusals_total,RUN_UNKNOWN"] == 1
    assert values["pillion_sink_lag_rows,store"] == 0
    assert values["process_open_fds"] > 0


def test_metrics_tell_nothing_of_a_run(metrics: Metrics) -> None:
    """No id, project or key: what is shown to everybody on the host is only numbers."""
    assert CANARY not in metrics.ask()[1]


def test_only_get_metrics_by_a_name_of_this_host_is_answered(metrics: Metrics) -> None:
    """A page in a browser that resolves its own name to 127.0.0.1 is told nothing."""
    hosts = ("localhost", f"127.0.0.1:{metrics.place.port}", "evil.example", "evil.example:80", "")
    assert [metrics.ask(Host=host)[0] for host in hosts] == [200, 200, 403, 403, 403]
    paths = ("/", "/metrics/../token", "/metrics?x")
    assert [metrics.ask(path)[0] for path in paths] == [404] * len(paths)
    assert [metrics.ask(method=method)[0] for method in ("POST", "PUT", "DELETE")] == [501] * 3


def test_a_caller_that_says_nothing_does_not_keep_others_for_long(metrics: Metrics) -> None:
    """It is hung up on."""
    silent = http.client.HTTPConnection(metrics.place.hostname or "", metrics.place.port)
    silent.connect()
    assert metrics.ask()[0] == 200
    silent.close()


def test_metrics_are_not_shown_unless_asked_for(sidecar: Any) -> None:
    """Nothing listens on TCP by default."""
    table = Path(f"/proc/{sidecar.process.pid}/net/tcp").read_text("ascii").splitlines()[1:]
    listening = {line.split()[9] for line in table if line.split()[3] == "0A"}
    assert not listening & inodes_of(sidecar.process.pid)


def inodes_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed: does not listen
            link = str(fd.readlink())
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    return inodes


def test_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """A sentence and exit code 1, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        place = ("--data-dir", str(tmp_path), "--listen", f"unix:{tmp_path}/s")
        command = [sys.executable, "-m", "pillion_sidecar", "serve", *place, "--metrics-port", port]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"The metrics cannot be shown at 127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr
