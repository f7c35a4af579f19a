"""Errors: each has its sentence, its reason, and its gRPC code."""

import ast
import asyncio
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import errors
from pillion_sidecar.errors import (
    DiskError,
    LimitError,
    PeerError,
    PillionError,
    SettingsError,
    SinkError,
    StateError,
)
from pillion_sidecar.service import _unimplemented, abort

CODES_BY_CLASS = {
    SettingsError: grpc.StatusCode.FAILED_PRECONDITION,
    PeerError: grpc.StatusCode.INVALID_ARGUMENT,
    StateError: grpc.StatusCode.FAILED_PRECONDITION,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DiskError: grpc.StatusCode.UNAVAILABLE,
    SinkError: grpc.StatusCode.UNAVAILABLE,
}
CODES_BY_REASON = {
    "RUN_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "STORE_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "RUN_ELSEWHERE": grpc.StatusCode.ALREADY_EXISTS,
    "RUN_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "WRITER_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "RECORD_UNSUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
    "SEQUENCE_GAP": grpc.StatusCode.FAILED_PRECONDITION,
    "SEQUENCE_CONFLICT": grpc.StatusCode.FAILED_PRECONDITION,
    "MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "KEY_EMPTY": grpc.StatusCode.INVALID_ARGUMENT,
    "KEY_REPEATED": grpc.StatusCode.INVALID_ARGUMENT,
    "RUN_DELETING": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RUN_LIVE": grpc.StatusCode.FAILED_PRECONDITION,
    "RUN_UNDELIVERED": grpc.StatusCode.FAILED_PRECONDITION,
    "RUN_COUNT": grpc.StatusCode.INVALID_ARGUMENT,
    "RUN_REPEATED": grpc.StatusCode.INVALID_ARGUMENT,
    "METRIC_UNKNOWN": grpc.StatusCode.INVALID_ARGUMENT,
    "CONFIG_KEY_UNKNOWN": grpc.StatusCode.INVALID_ARGUMENT,
    "DISK_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "JOURNAL_BUSY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "JOURNAL_DAMAGED": grpc.StatusCode.UNAVAILABLE,
    "JOURNAL_FAILED": grpc.StatusCode.UNAVAILABLE,
    "ADMIN_ONLY": grpc.StatusCode.PERMISSION_DENIED,
    "TOKEN_WRONG": grpc.StatusCode.UNAUTHENTICATED,
    "NOT_IMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED,
    "ARTIFACT_AMBIGUOUS": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_EMPTY": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_INCOMPLETE": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_NAME": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "BLOBS_BUSY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BLOBS_FAILED": grpc.StatusCode.UNAVAILABLE,
    "BLOB_MISMATCH": grpc.StatusCode.INVALID_ARGUMENT,
    "BLOB_MISSING": grpc.StatusCode.DATA_LOSS,
    "CHUNK_UNEXPECTED": grpc.StatusCode.INVALID_ARGUMENT,
    "FILE_DIGEST": grpc.StatusCode.INVALID_ARGUMENT,
    "FILE_ELSEWHERE": grpc.StatusCode.FAILED_PRECONDITION,
    "FILE_NAME": grpc.StatusCode.INVALID_ARGUMENT,
    "FILE_REFERENCE": grpc.StatusCode.INVALID_ARGUMENT,
    "FILE_REPEATED": grpc.StatusCode.INVALID_ARGUMENT,
    "FILE_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "FIELD_UNKNOWN": grpc.StatusCode.INVALID_ARGUMENT,
    "FILTER_MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "RUNS_MANY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "POINTS_MANY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "GLOB_MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "READS_MANY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UPLOADS_MANY": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
SOURCES = Path(errors.__file__).parent


class AbortedError(Exception):
    """What the fake context raises."""


class FakeContext:
    """A call that can only be ended with a status."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.info = error_details_pb2.ErrorInfo()

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Keep the status, decoded as a client would."""
        self.code, self.details = status.code, status.details
        (_, raw), *_ = status.trailing_metadata
        rich = rpc_status.status_pb2.Status.FromString(raw)  # type: ignore[attr-defined]
        assert (rich.code, rich.message) == (status.code.value[0], status.details)
        assert rich.details[0].Unpack(self.info)
        raise AbortedError


def told(error: Exception) -> FakeContext:
    """End a call with an error; return what the caller sees."""
    context = FakeContext()
    with pytest.raises(AbortedError):
        asyncio.run(abort(context, error))
    return context


def reasons_in_sources() -> dict[str, set[str]]:
    """Find every reason that is given to an error, and the errors it is given to."""
    found: dict[str, set[str]] = {}
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in {*errors.__dict__} and node.func.id.endswith("Error"):
                reason = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "reason")]
                for value in reason:
                    assert isinstance(value, ast.Constant), f"{path}:{node.lineno}"
                    found.setdefault(value.value, set()).add(node.func.id)
    return found


@pytest.mark.parametrize("kind", CODES_BY_CLASS)
def test_fault_decides_the_code(kind: type[PillionError]) -> None:
    """Without a reason of its own, an error's class says whose fault it is."""
    context = told(kind("what, where, what to do"))
    assert (context.code, context.details) == (CODES_BY_CLASS[kind], "what, where, what to do")
    assert (context.info.reason, context.info.domain) == ("INVALID", "pillion")


def test_every_class_has_a_code() -> None:
    """A new class of errors gets its line in the table."""
    classes = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PillionError)
    }
    assert classes - {PillionError} == set(CODES_BY_CLASS)


@pytest.mark.parametrize(
    ("reason", "kind"),
    sorted((reason, kind) for reason, kinds in reasons_in_sources().items() for kind in kinds),
)
def test_reason_decides_the_code(reason: str, kind: str) -> None:
    """Every reason in the sources gives the code that clients rely on."""
    if kind == "SinkError" or reason == "INTERNAL":
        return  # told by the workers, or made in `abort`
    error: PillionError = getattr(errors, kind)("sentence", reason)
    context = told(error)
    assert context.code is CODES_BY_REASON[reason]
    assert context.info.reason == reason


def test_facts_travel_with_the_error() -> None:
    """A client reads what it needs to go on without reading the sentence."""
    facts = {"expected_sequence": "7"}
    assert dict(told(StateError("Send 7", "SEQUENCE_GAP", facts)).info.metadata) == facts


def test_error_that_is_not_ours_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is INTERNAL, its details are for the log alone."""
    context = told(KeyError("secret"))
    assert (context.code, context.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in context.details
    assert "secret" in caplog.text


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
def test_rpc_of_a_later_version_says_so(is_stream: bool) -> None:
    """What the contract has and this version has not is UNIMPLEMENTED, with its name."""
    context = FakeContext()
    behaviour = _unimplemented("WatchRun", is_stream=is_stream)

    async def call() -> None:
        if is_stream:
            async for _ in behaviour(pb2.WatchRunRequest(), context):
                pass
        else:
            await behaviour(pb2.WatchRunRequest(), context)

    with pytest.raises(AbortedError):
        asyncio.run(call())
    assert context.code is grpc.StatusCode.UNIMPLEMENTED
    assert context.details.startswith("WatchRun is part of the contract")
    assert context.info.reason == "NOT_IMPLEMENTED"


def test_error_is_its_sentence() -> None:
    """What people read is the message, nothing around it."""
    assert str(PeerError("One sentence.", "REASON", {"a": "b"})) == "One sentence."
