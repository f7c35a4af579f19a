"""How the CLI asks: the sidecar if one answers, else the store itself, read-only."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from pillion.address import Address, AddressError
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc
from pillion_sidecar import answers, artifact_answers, comparison_answers, metric_answers
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import PillionError, SettingsError
from pillion_sidecar.pages import Pages
from pillion_sidecar.run_search import CANDIDATES_SHOWN
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.store import Store
from pillion_sidecar.watching import Watch

CONNECT_TIMEOUT_S = 5.0
"""One that is there answers at once, but where trainers have all the processors."""
ANSWER_TIMEOUT_S = 30.0

_Response = TypeVar("_Response")


class AskError(PillionError):
    """A question was refused; the message is for people."""


class Asker:
    """Asks questions. Use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        """Look for a sidecar at the settings' address.

        Raises:
            AskError: The address is not safe to use, or the sidecar there wants a token.
        """
        self._settings = settings
        self._metadata = _metadata(settings)
        self._channel = grpc.insecure_channel(
            settings.listen,
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),  # a comparison may be large
            ],
        )
        stub: Any = pb2_grpc.TelemetryServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._stub = stub
        self.is_silent = False
        """Whether something is there, but does not answer."""
        self.is_sidecar = self._is_serving()
        """Whether a sidecar answers; if not, the store is asked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    @property
    def token(self) -> str:
        """What a TCP sidecar is shown; empty on a UNIX socket."""
        return dict(self._metadata).get("authorization", "").removeprefix("Bearer ")

    @property
    def address(self) -> str:
        """Where it asks."""
        return self._settings.listen

    @property
    def store_url(self) -> str:
        """The store that is read where no sidecar answers."""
        return self._settings.store_url

    def runs(self, request: pb2.ListRunsRequest) -> pb2.ListRunsResponse:
        """Ask `ListRuns`."""
        if self.is_sidecar:
            return self._call("ListRuns", request, pb2.ListRunsResponse)
        response = self._read(lambda store: answers.list_runs(store, request))
        Pages(self._settings.pages_path).show(response.runs)
        return response

    def run_id(self, text: str) -> str:
        """Return the run that a text means: its id, its name, or the beginning of its id.

        What is unknown comes back as it is: it may be in the journal, and not in the store yet.

        Raises:
            AskError: It may mean several, or is empty.
        """
        if not text:  # else it would mean every run, and so the only one there is
            raise AskError(
                "A run's name is empty. Name it by its id, its name, or the beginning of its id."
            )
        found = self.runs(pb2.ListRunsRequest(reference=text)).runs
        if len(found) > 1:
            shown = ", ".join(f"{run.run_id} ({run.name})" for run in found[:CANDIDATES_SHOWN])
            raise AskError(
                f"{text!r} may mean {shown}{' …' if len(found) > CANDIDATES_SHOWN else ''}. Write "
                "more of the id of the one that you mean."
            )
        return found[0].run_id if found else text

    def run(self, request: pb2.GetRunRequest) -> pb2.GetRunResponse:
        """Ask `GetRun`."""
        if self.is_sidecar:
            return self._call("GetRun", request, pb2.GetRunResponse)
        response = self._read(lambda store: answers.get_run(store, request))
        Pages(self._settings.pages_path).show([response.run])
        return response

    def compare(self, request: pb2.CompareRequest) -> pb2.CompareResponse:
        """Ask `Compare`."""
        if self.is_sidecar:
            return self._call("Compare", request, pb2.CompareResponse)
        response = self._read(lambda store: comparison_answers.compare_runs(store, request))
        pages = Pages(self._settings.pages_path)
        pages.show(response.runs)
        response.url = pages.comparison_url(response.runs)
        return response

    def artifacts(self, request: pb2.ListArtifactsRequest) -> pb2.ListArtifactsResponse:
        """Ask `ListArtifacts`."""
        if self.is_sidecar:
            return self._call("ListArtifacts", request, pb2.ListArtifactsResponse)
        return self._read(lambda store: artifact_answers.list_artifacts(store, request))

    def artifact_content(self, request: pb2.ReadArtifactRequest) -> Iterator[bytes]:
        """Ask `ReadArtifact`; yield the pieces of a file."""
        if not self.is_sidecar:
            blobs = Blobs(self._settings.blobs_dir)
            find = artifact_answers.find_content
            yield from self._read(lambda store: find(store, blobs, request)).pieces()
            return
        with self._refusals_told():
            for response in self._stub.ReadArtifact(request, metadata=self._metadata):
                yield response.data

    def metrics(self, request: pb2.ReadMetricsRequest) -> Iterator[pb2.ReadMetricsResponse]:
        """Ask `ReadMetrics`."""
        if not self.is_sidecar:
            with closing(Store(self._settings.store_url)) as store:
                yield from metric_answers.read_metrics(store, request)
            return
        with self._refusals_told():
            yield from self._stub.ReadMetrics(request, metadata=self._metadata)

    def watch(self, request: pb2.WatchRunRequest) -> Iterator[pb2.WatchRunResponse]:
        """Ask `WatchRun`. Without a sidecar nothing changes: how the run is, is told, and all."""
        if not self.is_sidecar:
            watch, url = Watch(request), Pages(self._settings.pages_path).url(request.run_id)
            with closing(Store(self._settings.store_url)) as store:
                while (response := watch.look(store, url)) is not None:
                    yield response
            return
        with self._refusals_told():
            yield from self._stub.WatchRun(request, metadata=self._metadata)

    def status(self, request: pb2.GetStatusRequest) -> pb2.GetStatusResponse:
        """Ask `GetStatus`, which only a sidecar can answer."""
        return self._call("GetStatus", request, pb2.GetStatusResponse)

    def configure(self, request: pb2.ConfigureRequest) -> pb2.ConfigureResponse:
        """Ask `Configure`, which only a sidecar can answer, and its owner may."""
        self._show_admin_token()
        return self._call("Configure", request, pb2.ConfigureResponse)

    def delete(self, request: pb2.DeleteRunRequest) -> pb2.DeleteRunResponse:
        """Ask `DeleteRun`, which only a sidecar can answer, and its owner may."""
        self._show_admin_token()
        return self._call("DeleteRun", request, pb2.DeleteRunResponse)

    def _show_admin_token(self) -> None:
        if self._settings.address.path is None and self._settings.admin_token_path.exists():
            token = self._settings.admin_token_path.read_text(encoding="ascii").strip()
            self._metadata = (("authorization", f"Bearer {token}"),)

    def call(self, method: str, request: Message) -> Any:
        """Call a unary RPC, which only a sidecar can answer."""
        self.check_is_sidecar()
        with self._refusals_told():
            return getattr(self._stub, method)(
                request, timeout=ANSWER_TIMEOUT_S, metadata=self._metadata
            )

    def log_metrics(self, messages: Iterator[bytes]) -> Iterator[pb2.LogMetricsResponse]:
        """Send encoded `LogMetricsRequest`s; yield the acks."""
        self.check_is_sidecar()
        stream = self._channel.stream_stream(
            "/pillion.v1.TelemetryService/LogMetrics",
            response_deserializer=pb2.LogMetricsResponse.FromString,
        )
        with self._refusals_told():
            yield from stream(messages, metadata=self._metadata)

    def _call(self, method: str, request: Message, _kind: type[_Response]) -> _Response:
        return cast("_Response", self.call(method, request))

    def check_is_sidecar(self) -> None:
        """Raise `AskError` unless a sidecar answers."""
        if not self.is_sidecar:
            raise AskError(
                f"No sidecar answers at {self._settings.listen}. Start one with `pillion serve`, "
                "or read what is stored with `pillion runs`."
            )

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            is_gone = error.code() is grpc.StatusCode.UNAVAILABLE
            if is_gone and rpc_status.from_call(error) is None:  # else it has answered that
                raise AskError(
                    f"The sidecar at {self._settings.listen} has ended meanwhile. What it had "
                    "acked is kept; `pillion serve` goes on with it."
                ) from error
            raise AskError(error.details(), _reason(error)) from error

    def _read(self, answer: Callable[[Store], _Response]) -> _Response:
        store = Store(self._settings.store_url, owner=owner_of(self._settings))
        try:
            return answer(store)
        finally:
            store.close()

    def _is_serving(self) -> bool:
        address = Address.parse(self._settings.listen)
        if address.path is not None and not address.path.exists():
            return False
        try:
            address.check_directory()
        except AddressError as error:
            raise AskError(str(error)) from error
        try:
            health = health_pb2_grpc.HealthStub(self._channel).Check(
                health_pb2.HealthCheckRequest(),
                timeout=CONNECT_TIMEOUT_S,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                self.is_silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                return False
            raise AskError(error.details()) from error
        return bool(health.status == health_pb2.HealthCheckResponse.SERVING)  # else it is ending


def _reason(error: Any) -> str:
    """Return the machine's word for a refusal; see `PillionError`."""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    packed = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)] if status else []
    for detail in packed:
        detail.Unpack(info)
    return info.reason or "INVALID"


def _metadata(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Return the token that a TCP sidecar asks for: the one set, else its own on this host."""
    if settings.address.path is not None:
        return ()
    token = os.environ.get("PILLION_TOKEN")
    if not token:
        path: Path = settings.token_path
        try:
            token = path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise SettingsError(
                f"A sidecar on TCP asks for a token, and {path} cannot be read "
                f"({error.strerror}). Set PILLION_TOKEN or --data-dir."
            ) from error
    return (("authorization", f"Bearer {token}"),)
