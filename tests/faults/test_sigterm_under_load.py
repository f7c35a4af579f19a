"""SIGTERM to a sidecar that four trainers log to."""

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from faults.scene import Scene

from pillion.v1 import telemetry_service_pb2 as pb2


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a scene with a sidecar, closed in the end."""
    scene = Scene(tmp_path)
    scene.start()
    yield scene
    scene.close()


def test_sigterm_under_load_commits_drains_and_exits_with_0(scene: Scene) -> None:
    """Streams end with UNAVAILABLE; trainers spool and go on when a sidecar is there again."""
    trainers = [scene.add_trainer(rows_per_s=200.0) for _ in range(4)]
    for trainer in trainers:
        trainer.wait_acked(50)
    silence: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(
        scene.sidecar.address, options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        stream = channel.stream_stream(
            "/pillion.v1.TelemetryService/LogMetrics",
            response_deserializer=pb2.LogMetricsResponse.FromString,
        )(iter(silence.get, None))
        code, output = scene.sidecar.stop()
        with pytest.raises(grpc.RpcError):
            next(stream)
        # CANCELLED, if it was not yet begun there.
        assert stream.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        silence.put(None)
    assert code == 0, output
    logged = [len(trainer.account.rows) for trainer in trainers]
    for trainer, row_count in zip(trainers, logged, strict=True):
        trainer.wait_logged(row_count + 50)  # nobody waits for a sidecar
    scene.start()
    for trainer in trainers:
        trainer.wait_acked(len(trainer.account.rows))
    scene.finish()
    verdict = scene.settle()
    verdict.check()
    assert verdict.missing == 0, str(verdict)
