"""Many raw connections from one process: they all connect, stream, and are gone, again and again.

    python storm.py ADDRESS RUN_ID CONNECTIONS

Each line on standard input is a round: every connection is made anew, starts its writer, sends one
batch on a stream and hears its ack; then it is printed how many heard theirs, and how many batches
the sidecar has acked of all rounds: one whose ack was lost is followed by another. The
streams stay open until the next round drops them as a dying process does, without a word. What is
tried again is tried at once: no real client is as impatient.
"""

import asyncio
import contextlib
import sys

import grpc

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc

TRIES_MAX = 200
CALL_TIMEOUT_S = 300.0
RETRY_S = 0.05


class Connection:
    """One writer that comes back, each time as a new connection."""

    def __init__(self, address: str, run_id: str, index: int) -> None:
        self._address, self._run_id, self._writer_id = address, run_id, f"w{index}"
        self._channel: grpc.aio.Channel | None = None

    async def round(self) -> int:
        """Come back; return the number of the batch that was acked, 0 for none."""
        for _ in range(TRIES_MAX):
            with contextlib.suppress(grpc.RpcError, asyncio.TimeoutError):
                await self.drop()
                return await asyncio.wait_for(self._connect(), CALL_TIMEOUT_S)
            await asyncio.sleep(RETRY_S)
        return 0

    async def drop(self) -> None:
        """Be gone."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def _connect(self) -> int:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(self._address, options=options)
        stub = pb2_grpc.TelemetryServiceStub(self._channel)
        start = pb2.StartRunRequest(run_id=self._run_id, writer_id=self._writer_id)
        sequence = (await stub.StartRun(start)).last_sequence + 1
        request = pb2.LogMetricsRequest()
        batch = request.batch
        batch.run_id, batch.writer_id, batch.sequence = self._run_id, self._writer_id, sequence
        frame = batch.records.add().metric_frame
        frame.steps.append(sequence)
        frame.times_unix_nano.append(sequence)
        frame.columns.add(key="loss").doubles.values.append(0.5)
        stream = stub.LogMetrics()
        await stream.write(request)
        response = await stream.read()
        return int(sequence) if response.acked_sequence == sequence else 0


async def main() -> None:
    """Come back at each line."""
    address, run_id, count = sys.argv[1:]
    connections = [Connection(address, run_id, index) for index in range(int(count))]
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        came_back = await asyncio.gather(*(each.round() for each in connections))
        print(sum(map(bool, came_back)), sum(came_back), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
