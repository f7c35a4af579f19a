"""Takes artifacts in: what is announced, then the bytes that are missing, then its version.

Hashing, writing and syncing are done in threads of their own, a piece at a time, never on the event
loop. A file is in the blob store as soon as it is whole, so an upload that breaks off is gone on
with by sending the artifact again: only what is missing is asked for. Nothing of a refused artifact
is journaled; files of it that came whole stay until `pillion gc`.
"""

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.artifact_records import Artifact, encode_artifact
from pillion_sidecar.artifact_validation import check_artifact
from pillion_sidecar.blobs import Blobs, BlobWriter
from pillion_sidecar.errors import LimitError, PeerError
from pillion_sidecar.journal import Journal
from pillion_sidecar.validation import decode

OPEN_PER_WRITER_MAX = 4
OPEN_MAX = 256
"""Uploads that are open at a time: of one writer, and of all."""
THREADS = 4
"""Pieces that are hashed and written at a time."""

_Result = TypeVar("_Result")


class ArtifactIntake:
    """Takes artifacts in. Used from the event loop only."""

    def __init__(self, journal: Journal, blobs: Blobs) -> None:
        self._journal, self._blobs = journal, blobs
        self._open: Counter[str] = Counter()
        self._executor = ThreadPoolExecutor(THREADS, "artifacts")

    async def take(
        self, requests: AsyncIterator[bytes], writer: str
    ) -> AsyncGenerator[pb2.LogArtifactResponse]:
        """Take one artifact in; yield what is missing, then the artifact.

        Args:
            requests: Encoded `LogArtifactRequest`s.
            writer: Who sends it, as far as known; empty: its run.
        """
        messages = aiter(requests)
        artifact = await self._announced(await anext(messages, b""))
        writer = writer or artifact.run_id
        if self._open[writer] >= OPEN_PER_WRITER_MAX or self._open.total() >= OPEN_MAX:
            raise LimitError(
                f"{self._open[writer]} artifacts of this writer, and {self._open.total()} in all, "
                f"are being sent; {OPEN_PER_WRITER_MAX} and {OPEN_MAX} are taken at a time. "
                "Send the next when one has ended.",
                reason="UPLOADS_MANY",
            )
        self._open[writer] += 1
        upload = _Upload(self._blobs, artifact)
        try:
            missing = await self._in_thread(upload.open)
            yield pb2.LogArtifactResponse(missing=pb2.MissingBlobs(sha256=missing))
            while not upload.is_whole:
                raw = await anext(messages, None)
                if raw is None:
                    raise PeerError(
                        f"The artifact {artifact.name} ended before all of its files had come. "
                        "Send it again: what came whole is kept.",
                        "ARTIFACT_INCOMPLETE",
                    )
                await self._in_thread(functools.partial(upload.take, raw))
            kept = await asyncio.wrap_future(self._journal.log_artifact(artifact))
            yield pb2.LogArtifactResponse(artifact=encode_artifact(kept))
        finally:
            self._open[writer] -= 1
            self._open += Counter()  # forget writers that have none
            self._executor.submit(upload.close)

    async def _announced(self, raw: bytes) -> Artifact:
        return await self._in_thread(lambda: check_artifact(_manifest(raw)))

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


class _Upload:
    """The files of one artifact while they come. Any thread may call it, one at a time works."""

    def __init__(self, blobs: Blobs, artifact: Artifact) -> None:
        self._blobs, self._artifact = blobs, artifact
        self._sizes = {
            file.sha256: file.size_bytes for file in artifact.files if not file.reference_uri
        }
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._missing: dict[bytes, int] = {}
        self._writer: BlobWriter | None = None
        self._offset_bytes = 0
        self._is_closed = False

    def open(self) -> list[bytes]:
        """Have no blob removed until the artifact is journaled; return those that are missing."""
        held: AbstractContextManager[None] = self._blobs.held()
        with self._lock:
            self._held.enter_context(held)
            self._missing = {
                sha256: size_bytes
                for sha256, size_bytes in self._sizes.items()
                if not self._blobs.has(sha256)
            }
            self._blobs.check_room(sum(self._missing.values()))
            return list(self._missing)

    @property
    def is_whole(self) -> bool:
        """Whether all files are here."""
        return not self._missing

    def take(self, raw: bytes) -> None:
        """Take the next piece."""
        chunk = _chunk(raw)
        with self._lock:
            if self._is_closed:
                return
            size_bytes = self._missing.get(chunk.sha256)
            if size_bytes is None or size_bytes != chunk.size_bytes:
                raise PeerError(
                    f"A piece of file {chunk.sha256.hex()[:64]}, of {chunk.size_bytes:,} bytes, "
                    "was not asked for. Send what is missing, file by file.",
                    "CHUNK_UNEXPECTED",
                )
            if self._writer is None:
                self._writer = self._blobs.writer(chunk.sha256, size_bytes)
                self._offset_bytes = 0
            if chunk.sha256 != self._writer.sha256 or chunk.offset_bytes != self._offset_bytes:
                raise PeerError(
                    f"A piece of file {chunk.sha256.hex()} begins at byte {chunk.offset_bytes:,}, "
                    f"where {self._offset_bytes:,} of file {self._writer.sha256.hex()} is next. "
                    "Send each file from its beginning, in order, and whole before the next.",
                    "CHUNK_UNEXPECTED",
                )
            if not chunk.data and size_bytes:
                raise PeerError("A piece of a file has bytes.", "CHUNK_UNEXPECTED")
            self._writer.append(chunk.data)
            self._offset_bytes += len(chunk.data)
            if self._offset_bytes == size_bytes:
                self._writer.commit()
                self._writer = None
                del self._missing[chunk.sha256]

    def close(self) -> None:
        """Let go of everything; of a file that is not whole nothing stays."""
        with self._lock:
            self._is_closed = True
            if self._writer is not None:
                self._writer.close()
            self._held.close()


def _manifest(raw: bytes) -> record_pb2.Artifact:
    request = decode(raw, pb2.LogArtifactRequest)
    if request.WhichOneof("part") != "manifest":
        raise PeerError("What an artifact consists of comes first, as `manifest`.", "MALFORMED")
    return request.manifest


def _chunk(raw: bytes) -> record_pb2.BlobChunk:
    request = decode(raw, pb2.LogArtifactRequest)
    if request.WhichOneof("part") != "chunk":
        raise PeerError("Behind the manifest only pieces of files come, as `chunk`.", "MALFORMED")
    return request.chunk
