"""A writer that speaks the contract by hand: it knows exactly which batch was acked when.

What it sends is numbered, so that what the store holds can be compared row by row.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
from faults.oracle import Found, read_store
from processes import WAIT_S, SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc

ROWS_PER_BATCH = 3


@dataclass
class RawWriter:
    """One writer of one run. `acked` is the last batch that the sidecar said is on disk."""

    sidecar: SidecarProcess
    run_id: str
    writer_id: str = "w"
    acked: int = 0
    padding: int = 0
    """Characters of config in each batch, to make it larger."""
    acks: list[int] = field(default_factory=list)

    def start(self) -> int:
        """Start the run or come back to it; return the last batch on disk."""
        request = pb2.StartRunRequest(run_id=self.run_id, writer_id=self.writer_id)
        return int(self.sidecar.call("StartRun", request).last_sequence)

    def send(self, first: int, last: int, *, at_once: bool = True) -> None:
        """Send batches and note their acks; raises when the sidecar goes or refuses."""
        target = self.sidecar.address
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = pb2_grpc.TelemetryServiceStub(channel)
            batches = [self.batch(sequence) for sequence in range(first, last + 1)]
            for group in [batches] if at_once else [[batch] for batch in batches]:
                for ack in stub.LogMetrics(iter(group), timeout=WAIT_S):
                    self.acked = max(self.acked, ack.acked_sequence)
                    self.acks.append(ack.acked_sequence)

    def finish(self, last: int) -> None:
        """End the writer."""
        request = pb2.FinishRunRequest(
            run_id=self.run_id, writer_id=self.writer_id, last_sequence=last
        )
        self.sidecar.call("FinishRun", request)

    def batch(self, sequence: int) -> pb2.LogMetricsRequest:
        """Make a batch: three rows whose values tell where they are."""
        first = (sequence - 1) * ROWS_PER_BATCH
        frame = record_pb2.MetricFrame(
            steps=range(first, first + ROWS_PER_BATCH), times_unix_nano=[1] * ROWS_PER_BATCH
        )
        column = frame.columns.add(key=f"{self.writer_id}/index")
        column.int64s.values.extend(range(first, first + ROWS_PER_BATCH))
        batch = record_pb2.Batch(run_id=self.run_id, writer_id=self.writer_id, sequence=sequence)
        batch.records.add().metric_frame.CopyFrom(frame)
        if self.padding:
            value = batch.records.add().summary_update.values.values.add(key="padding")
            value.value.string_value = "x" * self.padding
        return pb2.LogMetricsRequest(batch=batch)

    def stored(self) -> list[Found]:
        """Return the run's rows in the store, once it has all that is journaled."""
        request = pb2.GetStatusRequest(run_id=self.run_id)
        deadline_s = time.monotonic() + WAIT_S
        while any(
            sink.lag_row_count
            for run in self.sidecar.call("GetStatus", request).runs
            for sink in run.sinks
        ):
            assert time.monotonic() < deadline_s, "what is journaled does not reach the store"
            self.sidecar.call("GetRun", pb2.GetRunRequest(run_id=self.run_id))  # waits a while
        return read_store(f"sqlite:///{self.sidecar.data_dir / 'store.db'}", self.run_id)[0]

    def check(self, last: int, *, without: Iterable[int] = ()) -> None:
        """Hold the store to what was sent: each row of each batch once, in order."""
        lost = set(without)
        expected = [
            (sequence - 1) * ROWS_PER_BATCH + row
            for sequence in range(1, last + 1)
            if sequence not in lost
            for row in range(ROWS_PER_BATCH)
        ]
        rows = self.stored()
        assert [row.step for row in rows] == expected
        assert [row.values for row in rows] == [
            {f"{self.writer_id}/index": index} for index in expected
        ]
        ordinals = [row.ordinal for row in rows]
        assert ordinals == sorted(set(ordinals))
