"""What the W&B sink asks a server itself: whatever answers, it ends as a run that waits."""

import json
from collections.abc import Callable, Iterator

import pytest
from wandb_server.listener import HttpAnswer, HttpRequest, Listener

from pillion_sidecar.errors import SinkError
from pillion_sidecar.sinks import wandb_server
from pillion_sidecar.sinks.wandb_server import WandbServer

KEY = "0123456789" * 4
CALLS: dict[str, Callable[[WandbServer], object]] = {
    "viewer": WandbServer.viewer,
    "claim": lambda server: server.claim("crew", "demo", "run"),
    "run": lambda server: server.run("crew", "demo", "run"),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class Nonsense:
    """A server that answers what it is told to, whatever it is asked."""

    def __init__(self) -> None:
        self.answer = HttpAnswer(200)
        self.requests: list[HttpRequest] = []
        self.listener = Listener(self._answer)
        self.url = f"http://127.0.0.1:{self.listener.port}"

    def _answer(self, request: HttpRequest) -> HttpAnswer:
        self.requests.append(request)
        return self.answer


@pytest.fixture
def nonsense() -> Iterator[Nonsense]:
    """Return a server."""
    made = Nonsense()
    yield made
    made.listener.close(for_good=True)


def failure(nonsense: Nonsense, call: Callable[[WandbServer], object], answer: HttpAnswer) -> str:
    """Call; return the reason why that failed, and the sentence."""
    nonsense.answer = answer
    with pytest.raises(SinkError) as raised:
        call(WandbServer(nonsense.url, KEY))
    return f"{raised.value.reason}: {raised.value}"


BUCKETS = (
    {"historyTail": "no JSON"},
    {"historyTail": '["no JSON"]'},
    {"historyTail": '["{\\"_step\\": \\"x\\"}"]'},
    {"historyTail": 7},
    {"logLineCount": "x"},
    7,
)


@each_call
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to this hotel's network</html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"data": []}',
        b'{"data": 7}',
        b'{"data": {"viewer": 7, "upsertBucket": 7, "model": 7}}',
        b'{"data": {"viewer": [1], "upsertBucket": {"bucket": [1]}, "model": [1]}}',
        b'{"errors": {"message": "x"}}',
        b'{"errors": 7}',
    ],
)
def test_an_answer_that_is_none_is_a_server_that_is_away(
    nonsense: Nonsense, call: Callable[[WandbServer], object], body: bytes
) -> None:
    """It may be a proxy's or a network's page; the run waits, and says so."""
    told = failure(nonsense, call, HttpAnswer(200, body))
    assert told.startswith("WANDB_AWAY: ")
    assert "Nothing is lost" in told


@pytest.mark.parametrize("bucket", BUCKETS, ids=str)
def test_a_run_that_cannot_be_read_is_none(nonsense: Nonsense, bucket: object) -> None:
    """Else its rows would be taken for missing, or for there."""
    body = json.dumps({"data": {"model": {"bucket": bucket}}}).encode()
    assert failure(nonsense, CALLS["run"], HttpAnswer(200, body)).startswith("WANDB_AWAY")


@each_call
def test_an_answer_without_end_is_not_read_to_it(
    nonsense: Nonsense, call: Callable[[WandbServer], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its status, no more of it is held than may be."""
    monkeypatch.setattr(wandb_server, "ANSWER_BYTES_MAX", 1 << 17)
    for status in (200, 403, 500):
        told = failure(nonsense, call, HttpAnswer(status, bytes(1 << 20)))
        assert told.startswith("WANDB_AWAY: ")
        assert "without end" in told


@each_call
def test_a_redirect_is_not_followed_with_the_key(
    nonsense: Nonsense, call: Callable[[WandbServer], object]
) -> None:
    """It might lead to anybody."""
    elsewhere = HttpAnswer(307, headers={"Location": f"{nonsense.url}/elsewhere"})
    assert "answers 307" in failure(nonsense, call, elsewhere)
    assert [request.path for request in nonsense.requests] == ["/graphql"]


@each_call
def test_a_key_that_a_server_says_back_is_not_told(
    nonsense: Nonsense, call: Callable[[WandbServer], object]
) -> None:
    """What it says is shown to whoever asks for the status."""
    said = f"no such key: {KEY}".encode()
    errors = json.dumps({"errors": [{"message": said.decode()}]}).encode()
    for answer in (HttpAnswer(403, said), HttpAnswer(200, errors)):
        told = failure(nonsense, call, answer)
        assert told.startswith("WANDB_REFUSED: ")
        assert "[redacted]" in told
        assert KEY not in told


@each_call
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_a_pause_is_given_it(
    nonsense: Nonsense, call: Callable[[WandbServer], object], status: int
) -> None:
    """By all runs of the key, and not for ever."""
    nonsense.answer = HttpAnswer(status, headers={"Retry-After": "9" * 20})
    server = WandbServer(nonsense.url, KEY)
    with pytest.raises(SinkError, match=f"answers {status}"):
        call(server)
    for each in CALLS.values():
        with pytest.raises(SinkError, match=r"asks to be left alone for (300|299) s more"):
            each(server)
    assert len(nonsense.requests) == 1


@pytest.mark.parametrize("asked", ["soon", "-1", "", "0", "\u00b2"])
def test_a_pause_that_is_none_is_passed_over(nonsense: Nonsense, asked: str) -> None:
    """The call is tried again as ever."""
    nonsense.answer = HttpAnswer(429, headers={"Retry-After": asked})
    server = WandbServer(nonsense.url, KEY)
    for _ in range(2):
        with pytest.raises(SinkError, match="answers 429"):
            server.viewer()
