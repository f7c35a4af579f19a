"""What the sidecar measures of itself: counters and histograms, in a registry of their own.

Whoever does something calls its instrument here; `exposition.py` shows them, beside what it reads
at that moment. One sidecar has a process for itself, so they are the module's. Labels are sinks and
reasons, never runs or keys: their number is bounded and nothing of a user's is in them.
"""

from asyncio import Future
from time import perf_counter
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call] # series that nobody asks for
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BYTES = tuple(2.0**power for power in range(8, 21, 2))
_ROWS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)

APPEND_SECONDS = Histogram(
    "pillion_append_seconds",
    "From a batch's arrival until it is on disk.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
COMMIT_SECONDS = Histogram(
    "pillion_commit_seconds",
    "One commit of the journal, with its fsync.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
COMMIT_ENTRIES = Histogram(
    "pillion_commit_entries", "Changes that shared a commit.", buckets=_ROWS, registry=REGISTRY
)
BATCH_BYTES = Histogram(
    "pillion_batch_bytes", "Size of a batch that was taken.", buckets=_BYTES, registry=REGISTRY
)
BATCH_ROWS = Histogram(
    "pillion_batch_rows", "Rows of a batch that was taken.", buckets=_ROWS, registry=REGISTRY
)
REFUSALS = Counter(
    "pillion_refusals",
    "Calls that were refused, by the reason in their ErrorInfo.",
    ["reason"],
    registry=REGISTRY,
)
OPEN_STREAMS = Gauge("pillion_open_streams", "LogMetrics streams.", registry=REGISTRY)
ALERTS_HELD_BACK = Counter(
    "pillion_alerts_held_back",
    "Alerts that were stored, but too many to be logged.",
    registry=REGISTRY,
)
ADOPTED_FILES = Counter(
    "pillion_spool_files_adopted", "Spool files that were taken and removed.", registry=REGISTRY
)


def watch_append(durable: Future[Any], row_count: int, size_bytes: int) -> None:
    """Measure a batch from now until it is on disk; one that is refused is not counted."""
    began_s = perf_counter()

    def measure(done: Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            APPEND_SECONDS.observe(perf_counter() - began_s)
            BATCH_BYTES.observe(size_bytes)
            BATCH_ROWS.observe(row_count)

    durable.add_done_callback(measure)
