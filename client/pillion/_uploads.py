"""The uploads thread: sends staged artifacts to the sidecar, one after the other, till it has them.

A daemon thread with a connection of its own, so that metrics never wait for files. It digests each
file, tells what there is, and sends what the sidecar lacks; whatever breaks, it begins again after
a random pause. It is started by the first artifact. In a forked child there is none: what is staged
there is the sidecar's once the child has ended.
"""

import hashlib
import os
import queue
import random
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from pillion._channel import open_channel
from pillion._logged import LoggedArtifact
from pillion._notice import warn
from pillion.address import Address
from pillion.staging import Staged, StagingError

RETRY_MIN_S, RETRY_MAX_S = 0.1, 15.0
"""The bounds of the pause before the n-th try, all of it random, as the link's."""
PIECE_BYTES = 1024 * 1024 - 4096
"""Of a file, in a message of 1 MiB."""
MESSAGE_BYTES_MAX = 1024 * 1024
QUEUE_MAX = 1000
"""Artifacts that wait to be sent; more are left to the sidecar at once."""

_NEVER = ("INVALID_ARGUMENT", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED")
"""Refusals that trying again does not mend."""


class _Item(NamedTuple):
    staged: Staged
    logged: LoggedArtifact


class _RefusedError(Exception):
    """The sidecar will never take an artifact."""


class Uploads:
    """One writer's uploads. Public methods may be called from any thread and never raise."""

    def __init__(self, address: str, token: str, *, keeps_refused: bool = False) -> None:
        """Make them; `keeps_refused`: what the sidecar never takes stays where it was staged."""
        self._address, self._token, self._keeps_refused = address, token, keeps_refused
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting: dict[int, _Item] = {}
        """What was not sent yet, in the order in which it was staged."""
        self._stopping = threading.Event()
        self._call: Any = None
        self.idle = threading.Event()
        """Set while nothing waits."""
        self.idle.set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def waiting_count(self) -> int:
        """How many were not sent yet."""
        return len(self._waiting)

    def put(self, staged: Staged, logged: LoggedArtifact) -> None:
        """Send an artifact, or leave it to the sidecar if too many wait already."""
        item = _Item(staged, logged)
        with self._lock:
            is_taken = not self._stopping.is_set() and len(self._waiting) < QUEUE_MAX
            if is_taken:
                self._waiting[id(item)] = item
                self.idle.clear()
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="pillion-uploads", daemon=True
                    )
                    self._thread.start()
        if is_taken:
            self._queue.put(item)
        else:
            _leave(item)

    def leave(self) -> int:
        """Send nothing more; return how many artifacts are left to the sidecar."""
        self._stopping.set()
        if (call := self._call) is not None:
            call.cancel()
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        for item in left:
            _leave(item)
        self._queue.put(None)
        self.idle.set()
        return len(left)

    # The thread.

    def _run(self) -> None:
        # As in the link: with fork support on, every fork of a DataLoader stalls for up to 2 s.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc  # noqa: PLC0415

        while (item := self._queue.get()) is not None:
            failure_count = 0
            while not self._stopping.is_set():
                try:
                    version = self._send(grpc, item)
                except Exception as error:  # noqa: BLE001 - the thread's outermost frame
                    if self._is_final(grpc, item, error):
                        break
                    pause_s = min(RETRY_MIN_S * 2 ** min(failure_count, 10), RETRY_MAX_S)
                    failure_count += 1
                    self._stopping.wait(random.uniform(0, pause_s))  # noqa: S311 - not a secret
                else:
                    self._end(item, version=version)
                    break

    def _is_final(self, grpc: Any, item: _Item, error: Exception) -> bool:
        """Note a failure; tell whether the artifact will never arrive."""
        if self._stopping.is_set():
            return True
        code = error.code() if isinstance(error, grpc.RpcError) else None
        text = error.details() if isinstance(error, grpc.RpcError) else str(error)
        text = text or type(error).__name__
        if isinstance(error, _RefusedError | StagingError) or (
            code is not None and code.name in _NEVER
        ):
            warn("pillion: the artifact %s is not logged: %s", item.logged.name, text)
            self._end(item, error=text)
            return True
        item.logged.problem = text
        return False

    def _end(self, item: _Item, *, version: str = "", error: str = "") -> None:
        with self._lock:
            if self._waiting.pop(id(item), None) is None:
                return  # it was left to the sidecar meanwhile
            is_idle = not self._waiting
        if error and self._keeps_refused:
            item.staged.close()
        else:
            item.staged.remove()
        item.logged.end(version=version, error=error)
        if is_idle:
            self.idle.set()

    def _send(self, grpc: Any, item: _Item) -> str:
        """Send an artifact; return its version."""
        from pillion.artifact_messages import to_artifact  # noqa: PLC0415
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        staged = item.staged
        for file in staged.manifest.files:
            if file.place is not None and not file.sha256:
                digest = hashlib.sha256()
                for data in staged.pieces(file):
                    digest.update(data)
                    self._check_stopping()
                file.sha256 = digest.hexdigest()
        manifest = to_artifact(staged.manifest)
        if manifest.ByteSize() > MESSAGE_BYTES_MAX - 1024:
            raise _RefusedError(
                f"What is known of its files takes {manifest.ByteSize():,} bytes, and "
                f"{MESSAGE_BYTES_MAX:,} are taken. Put small files into an archive."
            )
        asked_for: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        failures: list[Exception] = []
        writer = (("pillion-writer-id", staged.manifest.writer_id),)
        metadata = (("authorization", f"Bearer {self._token}"),) if self._token else ()
        with open_channel(grpc, Address.parse(self._address)) as channel:
            log_artifact = channel.stream_stream(
                "/pillion.v1.TelemetryService/LogArtifact",
                request_serializer=pb2.LogArtifactRequest.SerializeToString,
                response_deserializer=pb2.LogArtifactResponse.FromString,
            )
            call = self._call = log_artifact(
                _requests(manifest, item, asked_for, failures), metadata=metadata + writer
            )
            try:
                self._check_stopping()
                for response in call:
                    if response.WhichOneof("part") == "missing":
                        asked_for.put(list(response.missing.sha256))
                    else:
                        return str(response.artifact.version)
            except grpc.RpcError as error:
                raise failures[0] if failures else error from None
            finally:
                asked_for.put([])  # so that gRPC's thread does not wait for it
                self._call = None
                call.cancel()
        raise ConnectionError("the sidecar ended the call")

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise InterruptedError


def _leave(item: _Item) -> None:
    """Let go of what was staged: whoever looks there next takes it."""
    item.staged.close()
    item.logged.end()


def _requests(
    manifest: Any,
    item: _Item,
    asked_for: "queue.SimpleQueue[list[bytes]]",
    failures: list[Exception],
) -> Iterator[Any]:
    """Yield what is sent on one call; gRPC takes it in a thread of its own.

    A failure ends it and is put into `failures`: raised here, gRPC would take it for a plain end.
    """
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

    yield pb2.LogArtifactRequest(manifest=manifest)
    missing = asked_for.get()
    try:
        yield from _chunks(item, missing)
    except Exception as error:  # noqa: BLE001 - told to whoever made the call
        failures.append(error)


def _chunks(item: _Item, missing: list[bytes]) -> Iterator[Any]:
    """Yield the pieces of files that the sidecar lacks."""
    from pillion.v1 import record_pb2  # noqa: PLC0415
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

    by_digest = {file.sha256: file for file in item.staged.manifest.files if file.place is not None}
    files = [by_digest[sha256.hex()] for sha256 in missing if sha256.hex() in by_digest]
    item.logged.size_bytes = sum(file.size_bytes for file in files)
    item.logged.sent_bytes = 0
    for file in files:
        offset_bytes = 0
        for data in item.staged.pieces(file, PIECE_BYTES) if file.size_bytes else (b"",):
            chunk = record_pb2.BlobChunk(
                sha256=bytes.fromhex(file.sha256),
                offset_bytes=offset_bytes,
                size_bytes=file.size_bytes,
                data=data,
            )
            yield pb2.LogArtifactRequest(chunk=chunk)
            offset_bytes += len(data)
            item.logged.sent_bytes += len(data)
