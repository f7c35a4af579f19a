"""Artifacts through the RPCs themselves, for tests: what is announced and what is sent is ours."""

import hashlib
import queue
from collections.abc import Iterable, Iterator
from typing import Any

from processes import WAIT_S, SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

PIECE_BYTES = 1_000_000


def sha256(data: bytes) -> bytes:
    """Return the digest of some bytes."""
    return hashlib.sha256(data).digest()


def file_of(name: str, data: bytes) -> record_pb2.ArtifactFile:
    """Announce a file."""
    return record_pb2.ArtifactFile(name=name, sha256=sha256(data), size_bytes=len(data))


def manifest_of(files: dict[str, bytes], **changed: Any) -> record_pb2.Artifact:
    """Announce an artifact."""
    fields = {"run_id": "run", "name": "weights", "type": "model"} | changed
    return record_pb2.Artifact(
        files=[file_of(name, data) for name, data in files.items()], **fields
    )


def pieces_of(data: bytes) -> Iterator[pb2.LogArtifactRequest]:
    """Send a file."""
    for start in range(0, max(1, len(data)), PIECE_BYTES):
        chunk = record_pb2.BlobChunk(
            sha256=sha256(data),
            offset_bytes=start,
            size_bytes=len(data),
            data=data[start : start + PIECE_BYTES],
        )
        yield pb2.LogArtifactRequest(chunk=chunk)


def exchange(
    sidecar: SidecarProcess,
    manifest: record_pb2.Artifact,
    pieces: Iterable[pb2.LogArtifactRequest],
    writer: str = "",
) -> list[pb2.LogArtifactResponse]:
    """Send exactly this; return what is answered."""

    def requests() -> Iterator[pb2.LogArtifactRequest]:
        yield pb2.LogArtifactRequest(manifest=manifest)
        yield from pieces

    metadata = (*sidecar.token(), *([("pillion-writer-id", writer)] if writer else []))
    with sidecar.channel() as channel:
        stream = channel.stream_stream(
            "/pillion.v1.TelemetryService/LogArtifact",
            request_serializer=pb2.LogArtifactRequest.SerializeToString,
            response_deserializer=pb2.LogArtifactResponse.FromString,
        )
        return list(stream(requests(), timeout=WAIT_S, metadata=metadata))


def send(
    sidecar: SidecarProcess, files: dict[str, bytes], **changed: Any
) -> tuple[record_pb2.Artifact, list[bytes]]:
    """Log an artifact as a client does; return it, and the digests that were missing."""
    by_digest = {sha256(data): data for data in files.values()}
    asked_for: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()

    def requests() -> Iterator[pb2.LogArtifactRequest]:
        yield pb2.LogArtifactRequest(manifest=manifest_of(files, **changed))
        for digest in asked_for.get():
            yield from pieces_of(by_digest[digest])

    with sidecar.channel() as channel:
        call = channel.stream_stream(
            "/pillion.v1.TelemetryService/LogArtifact",
            request_serializer=pb2.LogArtifactRequest.SerializeToString,
            response_deserializer=pb2.LogArtifactResponse.FromString,
        )
        stream = call(requests(), timeout=WAIT_S, metadata=sidecar.token())
        missing: list[bytes] = []
        try:
            missing = list(next(stream).missing.sha256)
        finally:
            asked_for.put(missing)
        (last,) = list(stream)
    return last.artifact, missing


def read(sidecar: SidecarProcess, artifact: str, name: str, **asked: Any) -> bytes:
    """Read a file of an artifact."""
    request = pb2.ReadArtifactRequest(artifact=artifact, file=name, **asked)
    with sidecar.channel() as channel:
        call = channel.unary_stream(
            "/pillion.v1.TelemetryService/ReadArtifact",
            request_serializer=pb2.ReadArtifactRequest.SerializeToString,
            response_deserializer=pb2.ReadArtifactResponse.FromString,
        )
        return b"".join(r.data for r in call(request, timeout=WAIT_S, metadata=sidecar.token()))
