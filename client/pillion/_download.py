"""Reads an artifact from the sidecar, in the caller's thread. gRPC is loaded here."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pillion._channel import open_channel
from pillion.address import Address
from pillion.safe_files import has_file, write_file

ANSWER_TIMEOUT_S = 60.0


class DownloadError(RuntimeError):
    """An artifact cannot be had; the message says why."""


def download(address: Address, token: str, reference: str, project: str, root: Path | None) -> str:
    """Write the files of an artifact below a directory; return it. See `UsedArtifact.download`."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc  # noqa: PLC0415

    try:
        with open_channel(grpc, address) as channel:
            return _download(channel, token, reference, project, root)
    except grpc.RpcError as error:
        raise DownloadError(f"{reference} cannot be read: {error.details()}") from error
    except (OSError, ValueError) as error:
        raise DownloadError(f"{reference} cannot be written: {error}") from error


def _download(channel: Any, token: str, reference: str, project: str, root: Path | None) -> str:
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415
    from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc  # noqa: PLC0415

    stub: Any = pb2_grpc.TelemetryServiceStub(channel)  # type: ignore[no-untyped-call]
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    name, _, version = reference.partition(":")
    request = pb2.ListArtifactsRequest(project=project, name=name, version=version or "latest")
    listed = stub.ListArtifacts(request, timeout=ANSWER_TIMEOUT_S, metadata=metadata)
    (artifact,) = listed.artifacts
    root = root or Path("artifacts") / f"{artifact.name}-{artifact.version}"
    root.mkdir(parents=True, exist_ok=True)

    def pieces(file: str) -> Iterator[bytes]:
        asked = pb2.ReadArtifactRequest(
            artifact=f"{name}:{artifact.version}", file=file, project=artifact.project
        )
        for response in stub.ReadArtifact(asked, metadata=metadata):
            yield response.data

    for file in artifact.files:
        if not file.reference_uri and not has_file(root, file.name, file.sha256, file.size_bytes):
            write_file(root, file.name, file.sha256, pieces(file.name))
    return str(root)
