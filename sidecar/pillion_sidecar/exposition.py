"""Shows what the sidecar measures to Prometheus: `GET /metrics` on 127.0.0.1, and nothing else.

Only where it is asked for. Answers are the same for everybody and tell nothing of runs, so there is
no token; but a web page in somebody's browser may not read them either, so the Host is checked.
"""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.metrics import REGISTRY

HOST = "127.0.0.1"
REQUEST_TIMEOUT_S = 5.0
"""A caller that says nothing for so long is hung up on; others wait for their turn meanwhile."""

_HOSTS_ALLOWED = {HOST, "localhost"}

Family = GaugeMetricFamily | CounterMetricFamily


class Exposition:
    """The HTTP server, in a thread of its own."""

    def __init__(self, port: int, status: Callable[[], pb2.GetStatusResponse]) -> None:
        """Listen, and answer from now on.

        Args:
            port: Where; 0 takes a free one.
            status: Returns how the sidecar stands. Called in the server's thread.

        Raises:
            SettingsError: The port is taken.
        """
        try:
            self._server = _Server(port, status)
        except OSError as error:
            raise SettingsError(
                f"The metrics cannot be shown at {HOST}:{port} ({error.strerror}). "
                "Choose another --metrics-port."
            ) from error
        self.url = f"http://{HOST}:{self._server.server_port}/metrics"
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def families(status: pb2.GetStatusResponse) -> Iterator[Family]:
    """Turn a status into metrics."""
    totals, disk, spool = status.totals, status.disk, status.spool
    for name, value, text in (
        ("runs", totals.run_count, "Runs that the journal knows."),
        ("runs_running", totals.running_run_count, "Runs that have not ended."),
        ("rows_journaled", totals.journaled_row_count, "Rows that were journaled."),
        ("rows_refused", totals.refused_row_count, "Rows that were never taken."),
        ("values_refused", totals.refused_value_count, "Values left out of rows that were taken."),
        ("rows_dropped", totals.dropped_row_count, "Rows that were numbered and are gone."),
        ("journal_bytes", disk.journal_bytes, "Size of the journal's files."),
        ("journal_reusable_bytes", disk.reusable_bytes, "What it can write without growing."),
        ("disk_free_bytes", disk.free_bytes, "Left on the journal's filesystem."),
        ("disk_refusing", disk.is_refusing, "1 while intake is refused for want of room."),
        ("spool_files", spool.file_count, "Spool files that wait."),
        ("spool_bytes", spool.size_bytes, "Their size."),
    ):
        yield GaugeMetricFamily(f"pillion_{name}", text, value=value)
    by_sink = {
        "lag_rows": "Journaled rows that the sink has not confirmed.",
        "oldest_undelivered_seconds": "How long the oldest of them has waited.",
        "undelivered_runs": "Runs of which something is not confirmed.",
        "failing_runs": "Runs that the sink cannot take now.",
    }
    gauges = {
        name: GaugeMetricFamily(f"pillion_sink_{name}", text, labels=["sink"])
        for name, text in by_sink.items()
    }
    for sink in totals.sinks:
        label = [sink.sink]
        gauges["lag_rows"].add_metric(label, sink.lag_row_count)
        gauges["oldest_undelivered_seconds"].add_metric(label, sink.oldest_undelivered_age_s)
        gauges["undelivered_runs"].add_metric(label, sink.undelivered_run_count)
        gauges["failing_runs"].add_metric(label, sink.failing_run_count)
    yield from gauges.values()
    up = GaugeMetricFamily("pillion_worker_up", "1 while it runs.", labels=["sink"])
    restarts = CounterMetricFamily(
        "pillion_worker_restarts", "How often it was started again.", labels=["sink"]
    )
    for worker in status.workers:
        up.add_metric([worker.sink], bool(worker.pid))
        restarts.add_metric([worker.sink], worker.restart_count)
    yield from (up, restarts)


class _Standing(Collector):
    """Shows a status as a registry does its metrics."""

    def __init__(self, status: pb2.GetStatusResponse) -> None:
        self._status = status

    def collect(self) -> Iterator[Family]:
        return families(self._status)


class _Server(HTTPServer):
    def __init__(self, port: int, status: Callable[[], pb2.GetStatusResponse]) -> None:
        super().__init__((HOST, port), _Handler)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _HOSTS_ALLOWED:
            self.send_error(HTTPStatus.FORBIDDEN, "Ask as 127.0.0.1 or localhost")
            return
        if self.path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "There is /metrics, nothing else")
            return
        try:
            status = self.server.status()
        except Exception:  # noqa: BLE001 - the request's outermost frame
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The sidecar does not answer now")
            return
        body = generate_latest(REGISTRY) + generate_latest(_Standing(status))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "pillion"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape is no event."""
