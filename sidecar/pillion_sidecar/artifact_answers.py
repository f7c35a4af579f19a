"""Answers about artifacts from store and blob store: for the service, and for the CLI without one.

What is asked for is looked up by its name in the store; the only files that are opened are blobs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import store_artifacts
from pillion_sidecar.artifact_records import encode_artifact
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, PeerError, StateError
from pillion_sidecar.store import Store
from pillion_sidecar.validation_values import check_page_size, check_reference

READERS_MAX = 1000
"""Runs that are named as readers of one artifact."""
PIECE_BYTES = 1024 * 1024 - 4096
"""Of a file, in one message."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file."""

    path: Path
    size_bytes: int
    offset_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """Yield them. Raises `DiskError` if they are not there any more."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset_bytes)
                while data := file.read(PIECE_BYTES):
                    yield data
        except OSError as error:
            raise DiskError(
                f"The bytes of this file cannot be read ({error.strerror}). If `pillion gc` did "
                "not remove them, check the disk.",
                reason="BLOB_MISSING",
            ) from error


def list_artifacts(store: Store, request: pb2.ListArtifactsRequest) -> pb2.ListArtifactsResponse:
    """Answer `ListArtifacts`."""
    limit = check_page_size(request.page_size)
    response = pb2.ListArtifactsResponse()
    with store.snapshot() as connection:
        if request.version:
            reference = f"{request.name}:{request.version}"
            artifact_id = _artifact_id(connection, store.owner, reference, request.project)
            found = store_artifacts.one(connection, artifact_id)
            assert found is not None, "within one snapshot"
            response.artifacts.append(encode_artifact(found.artifact))
            readers = store_artifacts.readers(connection, artifact_id, READERS_MAX)
            response.reader_run_ids.extend(readers)
            return response
        if not store_artifacts.has_artifacts(connection):
            return response
        page = store_artifacts.find(
            connection,
            store.owner,
            project=request.project,
            name=request.name,
            run_id=request.run_id,
            limit=limit + 1,
            before=_page_key(request.page_token),
        )
    for each in page[:limit]:
        message = encode_artifact(each.artifact)
        message.file_count, message.size_bytes = each.file_count, each.size_bytes
        response.artifacts.append(message)
    if len(page) > limit:
        response.next_page_token = str(page[limit - 1].artifact_id)
    return response


def find_content(store: Store, blobs: Blobs, request: pb2.ReadArtifactRequest) -> Content:
    """Find what `ReadArtifact` asks for."""
    if request.offset_bytes < 0:
        raise PeerError("offset_bytes: 0 or more.")
    with store.snapshot() as connection:
        artifact_id = _artifact_id(connection, store.owner, request.artifact, request.project)
        file = store_artifacts.file_of(connection, artifact_id, request.file)
    if file is None:
        raise StateError(
            f"There is no file {request.file[:80]!r} in {request.artifact}. "
            "`pillion artifacts show` lists those there are.",
            "FILE_UNKNOWN",
        )
    if file.reference_uri:
        raise StateError(
            f"{request.file!r} of {request.artifact} is only referred to; its bytes are at "
            f"{file.reference_uri}.",
            "FILE_ELSEWHERE",
        )
    return Content(blobs.path(file.sha256), file.size_bytes, request.offset_bytes)


def _artifact_id(connection: sa.Connection, owner: str, reference: str, project: str) -> int:
    """Return the version of an owner's that is meant."""
    name, version = check_reference(reference)
    if store_artifacts.has_artifacts(connection):
        projects = [project] if project else store_artifacts.projects_with(connection, owner, name)
        if len(projects) > 1:
            raise PeerError(
                f"{name} is an artifact of the projects {', '.join(projects[:10])}. Name one.",
                "ARTIFACT_AMBIGUOUS",
            )
        for each in projects:
            artifact_id = store_artifacts.id_of(
                connection, owner=owner, project=each, name=name, version=version
            )
            if artifact_id is not None:
                return artifact_id
    raise StateError(
        f"There is no artifact {name}:{version}{f' in project {project}' if project else ''}. "
        "`pillion artifacts ls` lists those there are.",
        "ARTIFACT_UNKNOWN",
    )


def _page_key(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdecimal() and len(token) < 19):  # noqa: PLR2004 - of int64
        raise PeerError("page_token: take it from the page before, as it is.")
    return int(token)
