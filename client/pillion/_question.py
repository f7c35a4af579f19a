"""Asks a sidecar questions and waits for the answers. gRPC is loaded here, by the first one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pillion import _exit
from pillion._channel import open_channel
from pillion.address import Address, default_address

ANSWER_TIMEOUT_S = 60.0

_REASON = "grpc-status-details-bin"
"""Comes with what a sidecar itself refuses, and not with what gRPC says of a connection."""


class QueryError(RuntimeError):
    """A question was refused, or nobody answers; the message says what to do.

    `code` is gRPC's word for it: `NOT_FOUND`, `INVALID_ARGUMENT`, `UNAVAILABLE` …
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Questions:
    """A connection to one sidecar. Safe for threads, not for forked children."""

    def __init__(self, address: str | None, token: str | None) -> None:
        """Take where it listens, by default as `init` does; nothing is asked yet.

        Raises:
            AddressError: The address is malformed, or its directory is not safe to use.
            QueryError: This is a forked child of a process that has used gRPC.
        """
        if _exit.is_forked:
            raise QueryError(
                "A forked child must not use gRPC. Ask in its parent.", "FAILED_PRECONDITION"
            )
        self._place = Address.parse(
            address or os.environ.get("PILLION_ADDRESS") or str(default_address())
        )
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc  # noqa: PLC0415 - `import pillion` loads no gRPC

        from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc  # noqa: PLC0415

        shown = (token or os.environ.get("PILLION_TOKEN", "")).strip()
        self._metadata = (("authorization", f"Bearer {shown}"),) if shown else ()
        self._grpc: Any = grpc
        self._channel = open_channel(grpc, self._place, -1)  # runs may have many metrics
        self._stub: Any = pb2_grpc.TelemetryServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def ask(self, method: str, request: Any) -> Any:
        """Call a unary RPC. Raises QueryError."""
        with self._refusals_told():
            call = getattr(self._stub, method)
            return call(request, timeout=ANSWER_TIMEOUT_S, metadata=self._metadata)

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """Call an RPC that answers with a stream. Raises QueryError."""
        with self._refusals_told():
            yield from getattr(self._stub, method)(request, metadata=self._metadata)

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except self._grpc.RpcError as error:
            raise QueryError(self._told(error), error.code().name) from None

    def _told(self, error: Any) -> str:
        """Return what people are told of an RPC's error."""
        codes = self._grpc.StatusCode
        is_refused = any(key == _REASON for key, _ in error.trailing_metadata() or ())
        if error.code() is codes.DEADLINE_EXCEEDED and not is_refused:
            return (
                f"An answer from {self._place} took longer than {ANSWER_TIMEOUT_S:g} s. Ask for "
                "less at once, or see with `pillion status` how the sidecar is."
            )
        if error.code() is codes.UNAVAILABLE and not is_refused:
            return (
                f"No sidecar answers at {self._place}. Start one with `pillion serve`; what was "
                "logged is kept in its data directory."
            )
        if error.code() is codes.UNIMPLEMENTED and not is_refused:
            return (
                f"What answers at {self._place} does not know the question: it is no sidecar, or "
                "an older one. See whether `address` or PILLION_ADDRESS is right."
            )
        return str(error.details())


def optional(answer: Any, field: str) -> Any:
    """Return a field of an answer; None if it is not set."""
    return getattr(answer, field) if answer.HasField(field) else None
