"""Questions of `pillion.api`: how refusals and large answers come back from a real server."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from pillion import _question
from pillion._question import QueryError, Questions
from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc


class Sidecar(pb2_grpc.TelemetryServiceServicer):
    """Answers `GetRun` as a test says."""

    answer: Callable[[Any], pb2.GetRunResponse]

    def GetRun(self, _request: Any, context: Any) -> pb2.GetRunResponse:  # noqa: N802
        """Answer."""
        return self.answer(context)


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sidecar]:
    """Return what answers at `$PILLION_ADDRESS`."""
    sidecar = Sidecar()
    server = grpc.server(ThreadPoolExecutor(1))
    pb2_grpc.add_TelemetryServiceServicer_to_server(sidecar, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("PILLION_ADDRESS", f"127.0.0.1:{port}")
    yield sidecar
    server.stop(None).wait()


@pytest.fixture
def questions(sidecar: Sidecar) -> Iterator[Questions]:
    """Return a connection to it."""
    opened = Questions(None, None)
    yield opened
    opened.close()


def test_what_the_sidecar_itself_says_is_told(sidecar: Sidecar, questions: Questions) -> None:
    """A store that cannot be read is UNAVAILABLE too, and no reason to start a sidecar."""
    said = status_pb2.Status(code=14, message="The store cannot be read.")
    sidecar.answer = lambda context: context.abort_with_status(rpc_status.to_status(said))
    with pytest.raises(QueryError, match="The store cannot be read") as refused:
        questions.ask("GetRun", pb2.GetRunRequest())
    assert refused.value.code == "UNAVAILABLE"


@pytest.mark.usefixtures("sidecar")
def test_who_does_not_know_a_question_is_said_to_be_no_sidecar(questions: Questions) -> None:
    """As another program at that address does not, and an older sidecar."""
    with pytest.raises(QueryError, match="no sidecar, or an older one") as refused:
        questions.ask("Compare", pb2.CompareRequest())
    assert refused.value.code == "UNIMPLEMENTED"


def test_an_answer_that_takes_too_long_is_said_to(
    sidecar: Sidecar, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar is there: nobody is to start another."""
    monkeypatch.setattr(_question, "ANSWER_TIMEOUT_S", 0.1)
    is_over = threading.Event()

    def answer(_: Any) -> pb2.GetRunResponse:
        is_over.wait(60)
        return pb2.GetRunResponse()

    sidecar.answer = answer
    with pytest.raises(QueryError, match=r"took longer than 0\.1 s"):
        questions.ask("GetRun", pb2.GetRunRequest())
    is_over.set()


def test_an_answer_may_be_large(sidecar: Sidecar, questions: Questions) -> None:
    """As a page of runs with hundreds of metrics each, which is past gRPC's own bound."""
    run = run_pb2.Run(notes="x" * 5 * 1024 * 1024)
    sidecar.answer = lambda _: pb2.GetRunResponse(run=run)
    assert questions.ask("GetRun", pb2.GetRunRequest()).run == run
