"""F19: of a million metrics a run keeps what its bound allows; the rest is counted."""

from collections.abc import Callable

from processes import SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

METRICS, METRICS_MAX = 1_000_000, 100_000
METRICS_PER_BATCH = 20_000


def batch(sequence: int, first: int, count: int) -> pb2.LogMetricsRequest:
    """Make a batch of one row with so many metrics."""
    frame = record_pb2.MetricFrame(steps=[sequence], times_unix_nano=[1])
    for number in range(first, first + count):
        frame.columns.add(key=f"m{number:06}").doubles.values.append(0.5)
    record = record_pb2.Record(metric_frame=frame)
    return pb2.LogMetricsRequest(
        batch=record_pb2.Batch(run_id="run", writer_id="w", sequence=sequence, records=[record])
    )


def test_a_million_metrics_are_bounded_counted_and_told_once(
    make_sidecar: Callable[..., SidecarProcess],
) -> None:
    """The first 100,000 are taken; another run beside it notices nothing."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="w"))
    batches = [
        batch(sequence, first, METRICS_PER_BATCH)
        for sequence, first in enumerate(range(0, METRICS, METRICS_PER_BATCH), start=1)
    ]
    acks = sidecar.log(*batches)
    assert acks[-1].acked_sequence == len(batches)
    assert sidecar.log(batches[-1])[0].acked_sequence == len(batches)  # the same again
    status = pb2.GetStatusRequest(run_id="run")
    (run,) = sidecar.call("GetStatus", status).runs
    kept = METRICS_MAX // METRICS_PER_BATCH
    assert run.journaled_row_count == kept  # of the others nothing is left
    assert (run.refused_row_count, run.refused_value_count) == (len(batches) - kept, 0)
    mixed = batch(len(batches) + 1, METRICS_MAX - 1, 3)
    sidecar.log(mixed)
    (run,) = sidecar.call("GetStatus", status).runs
    assert (run.journaled_row_count, run.refused_value_count) == (kept + 1, 2)
    assert sidecar.output().count("takes no more metrics") == 1
