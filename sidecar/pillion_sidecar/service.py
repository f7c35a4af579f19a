"""The gRPC service: takes in what trainers log, and answers questions.

Intake only checks, journals and acks. Nothing here may block the event loop: the journal has its
own thread, and whatever reads a database does so in one of the loop's. Every error of ours becomes
a gRPC status with an `ErrorInfo`; the one table for that is here.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from pillion.v1 import telemetry_service_pb2
from pillion_sidecar.alert_gate import AlertGate
from pillion_sidecar.artifact_intake import ArtifactIntake
from pillion_sidecar.backpressure import Budget
from pillion_sidecar.deletions import Deletions
from pillion_sidecar.errors import (
    DiskError,
    LimitError,
    PeerError,
    PillionError,
    SettingsError,
    SinkError,
    StateError,
)
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_ledger import Started
from pillion_sidecar.liveness import Liveness
from pillion_sidecar.metrics import ALERTS_HELD_BACK, OPEN_STREAMS, REFUSALS, watch_append
from pillion_sidecar.notices import Notices
from pillion_sidecar.queries import Queries
from pillion_sidecar.records import AlertLevel, CheckedBatch, RunId, RunState, WriterId
from pillion_sidecar.sampling import Sampling
from pillion_sidecar.validation import (
    check_finish,
    check_log,
    check_run_id,
    check_start,
    check_update,
    decode,
)
from pillion_sidecar.wandb_control import WandbControl

MESSAGE_BYTES_MAX = 1024 * 1024
"""A LogMetrics message; gRPC itself refuses larger ones."""
BATCHES_IN_FLIGHT_MAX = 8
"""Per stream: read, but not on disk yet, 8 MiB at most. The next is read when one is acked."""
BYTES_IN_FLIGHT_MAX = 256 * 1024 * 1024
"""Over all streams: checked, but not on disk yet. Beyond it each stream waits for its turn."""
CHECK_INLINE_BYTES_MAX = 16 * 1024
"""Larger messages are decoded in a thread: one with many small frames takes some 20 ms."""

_CODES_BY_REASON = {
    "RUN_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "RUN_ELSEWHERE": grpc.StatusCode.ALREADY_EXISTS,
    "RUN_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "WRITER_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "ARTIFACT_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "FILE_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "BLOB_MISSING": grpc.StatusCode.DATA_LOSS,
    "RECORD_UNSUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
    "NOT_IMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED,
    "TOKEN_WRONG": grpc.StatusCode.UNAUTHENTICATED,
    "ADMIN_ONLY": grpc.StatusCode.PERMISSION_DENIED,
}
_CODES_BY_FAULT = {
    SettingsError: grpc.StatusCode.FAILED_PRECONDITION,
    PeerError: grpc.StatusCode.INVALID_ARGUMENT,
    StateError: grpc.StatusCode.FAILED_PRECONDITION,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DiskError: grpc.StatusCode.UNAVAILABLE,
    SinkError: grpc.StatusCode.UNAVAILABLE,
}

_LOG_LEVELS = {
    AlertLevel.INFO: logging.INFO,
    AlertLevel.WARN: logging.WARNING,
    AlertLevel.ERROR: logging.ERROR,
}

log = logging.getLogger(__name__)

_Context: TypeAlias = grpc.aio.ServicerContext


class TelemetryService:
    """The RPCs that work. What is missing answers UNIMPLEMENTED; see `handlers`."""

    def __init__(
        self,
        journal: Journal,
        liveness: Liveness,
        queries: Queries,
        artifacts: ArtifactIntake,
        wandb: WandbControl,
        notices: Notices,
        deletions: Deletions,
        sampling: Sampling,
        is_admin: Callable[[_Context], bool],
    ) -> None:
        self._journal, self._liveness, self._queries = journal, liveness, queries
        self._artifacts, self._deletions, self._sampling = artifacts, deletions, sampling
        self._wandb, self._notices, self._is_admin = wandb, notices, is_admin
        self._budget = Budget(BYTES_IN_FLIGHT_MAX)
        self._alert_gate = AlertGate()
        self._checker = ThreadPoolExecutor(1, "checker")

    async def StartRun(  # noqa: N802 - as the contract has it
        self, request: telemetry_service_pb2.StartRunRequest, _context: _Context
    ) -> telemetry_service_pb2.StartRunResponse:
        """See the contract."""
        start = self._wandb.complete(check_start(request))
        await self._queries.check_is_ours(start.run_id)
        durable = asyncio.wrap_future(
            self._journal.start(
                start,
                may_resume=request.resume != telemetry_service_pb2.RESUME_POLICY_NEVER,
                must_resume=request.resume == telemetry_service_pb2.RESUME_POLICY_MUST,
            )
        )

        def look_after(done: asyncio.Future[Started]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._liveness.add(start.run_id, start.writer_id, start.environment)

        # Also of a caller that has gone meanwhile: its run is on disk all the same.
        durable.add_done_callback(look_after)
        started = await asyncio.shield(durable)
        self._wandb.bind(start.run_id, started.wandb_sink)
        log.info("writer started", extra={"run_id": start.run_id, "writer_id": start.writer_id})
        return telemetry_service_pb2.StartRunResponse(
            run_id=start.run_id,
            writer_id=start.writer_id,
            journal_id=self._journal.id,
            last_sequence=started.last_sequence,
            is_resumed=started.is_resumed,
            next_ordinal=started.next_ordinal,
            project=started.project,
            name=started.name,
            system_interval_s=self._sampling.asked_of(start),
        )

    async def LogMetrics(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: _Context
    ) -> AsyncGenerator[telemetry_service_pb2.LogMetricsResponse]:
        """See the contract. Messages come as bytes: they are checked, then journaled."""
        in_flight: asyncio.Queue[
            tuple[RunId, WriterId, asyncio.Future[int]] | RunId | Exception | None
        ]
        in_flight = asyncio.Queue(BATCHES_IN_FLIGHT_MAX - 2)  # one is awaited, one waits to enter
        streams = {
            writer: self._liveness.stream_opened(*writer)
            for writer in self._liveness.known_in(context.invocation_metadata())
        }
        run_ids: set[RunId] = set()

        def serve(run_id: RunId) -> None:
            if run_id not in run_ids:
                run_ids.add(run_id)
                self._notices.join(run_id, in_flight)

        async def take_in() -> None:
            end: Exception | None = None
            try:
                async for raw in requests:
                    batch = await self._checked(raw)
                    await self._budget.take(len(batch.payload))
                    durable = asyncio.wrap_future(self._journal.append(batch))
                    self._sampling.heard(batch)  # a sample from here on is journaled behind it
                    watch_append(durable, batch.row_count, len(batch.payload))
                    durable.add_done_callback(functools.partial(self._settle, batch))
                    await in_flight.put((batch.run_id, batch.writer_id, durable))
            except Exception as error:  # noqa: BLE001 - told to the caller, after the acks before it
                end = error
            await in_flight.put(end)

        reading = asyncio.create_task(take_in())
        OPEN_STREAMS.inc()
        for run_id, _ in streams:
            serve(run_id)
        try:
            while (batch := await in_flight.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                if isinstance(batch, str):
                    yield self._told(telemetry_service_pb2.LogMetricsResponse(run_id=batch))
                    continue
                run_id, writer_id, durable = batch
                serve(run_id)
                acked_sequence = await durable
                if (run_id, writer_id) not in streams or not self._liveness.knows(
                    run_id, writer_id
                ):
                    stream = self._liveness.stream_opened(run_id, writer_id)
                    streams[run_id, writer_id] = stream
                self._liveness.heard(streams[run_id, writer_id])
                yield self._told(
                    telemetry_service_pb2.LogMetricsResponse(
                        run_id=run_id, writer_id=writer_id, acked_sequence=acked_sequence
                    )
                )
        finally:
            OPEN_STREAMS.dec()
            self._notices.leave(in_flight, run_ids)
            reading.cancel()
            for stream in streams.values():
                self._liveness.stream_closed(stream)

    def _told(
        self, response: telemetry_service_pb2.LogMetricsResponse
    ) -> telemetry_service_pb2.LogMetricsResponse:
        """Put into a response what the run's trainers are to be told."""
        notice = self._notices.of(RunId(response.run_id))
        response.url, response.stop_reason = notice.url, notice.stop_reason
        response.should_stop = bool(notice.stop_reason)
        return response

    def _check_admin(self, context: _Context, what: str) -> None:
        """Refuse who may not use the owner's socket, and does not show the admin token."""
        if not self._is_admin(context):
            raise PeerError(
                f"Only the sidecar's owner may {what}: use its UNIX socket, or send the token in "
                "the data directory's file `admin-token`.",
                "ADMIN_ONLY",
            )

    async def _checked(self, raw: bytes) -> CheckedBatch:
        if len(raw) <= CHECK_INLINE_BYTES_MAX:
            return check_log(raw)
        return await asyncio.get_running_loop().run_in_executor(self._checker, check_log, raw)

    def _settle(self, batch: CheckedBatch, done: asyncio.Future[int]) -> None:
        self._budget.give(len(batch.payload))
        if not done.cancelled() and done.exception() is None:  # nobody else may look at it
            for alert in batch.alerts:
                if self._alert_gate.admit(batch.run_id, time.monotonic_ns()):
                    told = {"run_id": batch.run_id, "level": alert.level.name, "title": alert.title}
                    log.log(_LOG_LEVELS[alert.level], "alert", extra=told)
                else:
                    ALERTS_HELD_BACK.inc()

    async def FinishRun(  # noqa: N802
        self, request: telemetry_service_pb2.FinishRunRequest, _context: _Context
    ) -> telemetry_service_pb2.FinishRunResponse:
        """See the contract."""
        finish = check_finish(request)
        ended = await asyncio.wrap_future(
            self._journal.finish(
                finish,
                last_sequence=request.last_sequence,
                refused_row_count=request.refused_row_count,
                refused_value_count=request.refused_value_count,
            )
        )
        self._liveness.remove(finish.run_id, finish.writer_id)
        how = {"run_id": finish.run_id, "writer_id": finish.writer_id, "run": ended.state.name}
        log.info("writer ended", extra=how)
        if ended.state is not RunState.RUNNING:
            self._notices.forget(finish.run_id)
        return telemetry_service_pb2.FinishRunResponse(
            state=ended.state.proto_name, journaled_row_count=ended.row_count
        )

    async def UpdateRun(  # noqa: N802
        self, request: telemetry_service_pb2.UpdateRunRequest, _context: _Context
    ) -> telemetry_service_pb2.UpdateRunResponse:
        """See the contract."""
        update = check_update(request)
        await asyncio.wrap_future(self._journal.update(update))
        asked = telemetry_service_pb2.GetRunRequest(run_id=update.run_id)
        run = (await self._queries.run(asked)).run
        return telemetry_service_pb2.UpdateRunResponse(run=run)

    async def DeleteRun(  # noqa: N802
        self, request: telemetry_service_pb2.DeleteRunRequest, context: _Context
    ) -> telemetry_service_pb2.DeleteRunResponse:
        """See the contract. For the owner only."""
        self._check_admin(context, "delete runs")
        is_complete = await self._deletions.delete(check_run_id(request.run_id))
        return telemetry_service_pb2.DeleteRunResponse(is_complete=is_complete)

    async def LogArtifact(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: _Context
    ) -> AsyncGenerator[telemetry_service_pb2.LogArtifactResponse]:
        """See the contract."""
        writer = dict(context.invocation_metadata() or ()).get("pillion-writer-id", "")
        responses = self._artifacts.take(requests, str(writer))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def ListArtifacts(  # noqa: N802
        self, request: telemetry_service_pb2.ListArtifactsRequest, _context: _Context
    ) -> telemetry_service_pb2.ListArtifactsResponse:
        """See the contract."""
        return await self._queries.artifacts(request)

    async def ReadArtifact(  # noqa: N802
        self, request: bytes, _context: _Context
    ) -> AsyncGenerator[telemetry_service_pb2.ReadArtifactResponse]:
        """See the contract."""
        asked = decode(request, telemetry_service_pb2.ReadArtifactRequest)
        pieces = (await self._queries.artifact_content(asked)).pieces()
        while (data := await asyncio.to_thread(next, pieces, None)) is not None:
            yield telemetry_service_pb2.ReadArtifactResponse(data=data)

    async def ReadMetrics(  # noqa: N802
        self, request: bytes, _context: _Context
    ) -> AsyncGenerator[bytes]:
        """See the contract. Messages go as bytes: they are encoded where they are read."""
        asked = decode(request, telemetry_service_pb2.ReadMetricsRequest)
        responses = self._queries.metrics(asked)
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def WatchRun(  # noqa: N802
        self, request: bytes, _context: _Context
    ) -> AsyncGenerator[telemetry_service_pb2.WatchRunResponse]:
        """See the contract."""
        asked = decode(request, telemetry_service_pb2.WatchRunRequest)
        responses = self._queries.watch(asked)
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def Configure(  # noqa: N802
        self, request: telemetry_service_pb2.ConfigureRequest, context: _Context
    ) -> telemetry_service_pb2.ConfigureResponse:
        """See the contract. For the owner only."""
        self._check_admin(context, "configure it")
        await self._wandb.configure(request)
        status = await self._queries.status(telemetry_service_pb2.GetStatusRequest())
        return telemetry_service_pb2.ConfigureResponse(wandb=status.wandb)

    async def Compare(  # noqa: N802
        self, request: telemetry_service_pb2.CompareRequest, _context: _Context
    ) -> telemetry_service_pb2.CompareResponse:
        """See the contract."""
        return await self._queries.compare(request)

    async def GetStatus(  # noqa: N802
        self, request: telemetry_service_pb2.GetStatusRequest, _context: _Context
    ) -> telemetry_service_pb2.GetStatusResponse:
        """See the contract."""
        return await self._queries.status(request)

    async def GetRun(  # noqa: N802
        self, request: telemetry_service_pb2.GetRunRequest, _context: _Context
    ) -> telemetry_service_pb2.GetRunResponse:
        """See the contract."""
        return await self._queries.run(request)

    async def ListRuns(  # noqa: N802
        self, request: telemetry_service_pb2.ListRunsRequest, _context: _Context
    ) -> telemetry_service_pb2.ListRunsResponse:
        """See the contract."""
        return await self._queries.runs(request)


def handlers(service: TelemetryService) -> grpc.GenericRpcHandler:
    """Return the handlers of every RPC in the contract, those without a method too."""
    contract = telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
    return grpc.method_handlers_generic_handler(
        contract.full_name,
        {method.name: _handler(service, method) for method in contract.methods},
    )


def _handler(service: TelemetryService, method: MethodDescriptor) -> grpc.RpcMethodHandler:
    behaviour = getattr(service, method.name, None)
    if behaviour is None:
        behaviour = _unimplemented(method.name, is_stream=method.server_streaming)
    elif method.server_streaming:
        behaviour = _streaming(behaviour)
    else:
        behaviour = _answering(behaviour, GetMessageClass(method.input_type))
    kind = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return kind(
        behaviour,
        # Requests come as bytes, so that malformed ones are refused by us, with a sentence.
        response_serializer=_encoded,
    )


def _encoded(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _answering(
    behaviour: Callable[[Any, _Context], Awaitable[Any]], request_class: type[Message]
) -> Callable[..., Any]:
    @functools.wraps(behaviour)
    async def answer(raw: bytes, context: _Context) -> Any:
        try:
            return await behaviour(decode(raw, request_class), context)
        except Exception as error:  # noqa: BLE001 - the RPC's outermost frame
            await abort(context, error)

    return answer


def _streaming(behaviour: Callable[[Any, _Context], AsyncGenerator[Any]]) -> Callable[..., Any]:
    @functools.wraps(behaviour)
    async def stream(requests: Any, context: _Context) -> AsyncIterator[Any]:
        responses = behaviour(requests, context)
        try:
            async for response in responses:
                yield response
        except Exception as error:  # noqa: BLE001 - the RPC's outermost frame
            await abort(context, error)
        finally:
            await responses.aclose()

    return stream


def _unimplemented(name: str, *, is_stream: bool) -> Callable[..., Any]:
    error = PeerError(
        f"{name} is part of the contract, but this version does not have it yet.",
        "NOT_IMPLEMENTED",
    )

    async def answer(_request: Any, context: _Context) -> Any:
        await abort(context, error)

    async def stream(_request: Any, context: _Context) -> AsyncIterator[Any]:
        await abort(context, error)
        yield

    return stream if is_stream else answer


def code_of(error: PillionError) -> grpc.StatusCode:
    """Return the code for an error of ours."""
    return _CODES_BY_REASON.get(error.reason) or _CODES_BY_FAULT[type(error)]


async def abort(context: _Context, error: Exception) -> NoReturn:
    """End a call with an error: ours as it is, others as INTERNAL without their details."""
    if isinstance(error, PillionError):
        code = code_of(error)
        if isinstance(error, LimitError | DiskError):
            log.warning("a call was refused", extra={"reason": error.reason})
    else:
        log.error("an RPC failed", exc_info=error)
        code = grpc.StatusCode.INTERNAL
        error = PillionError("The sidecar failed on this call; its log says more.", "INTERNAL")
    REFUSALS.labels(error.reason).inc()
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(reason=error.reason, domain="pillion", metadata=error.facts)
    )
    status = status_pb2.Status(code=code.value[0], message=str(error), details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status always raises")
