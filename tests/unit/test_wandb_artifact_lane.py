"""What becomes of an artifact that the SDK, or a server, does not take."""

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from pillion_sidecar.artifact_records import Artifact
from pillion_sidecar.sinks import wandb_artifacts
from pillion_sidecar.sinks.wandb_artifacts import LINK_TRIES_MAX, REFUSALS_MAX, ArtifactLane

TICKS_MAX = 100


class AtOnce(Executor):
    """Does what it is given in the call."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        """See `Executor`."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **more))
        except Exception as error:  # noqa: BLE001 - it is told to who waits
            future.set_exception(error)
        return future


class Sdk:
    """The SDK's run, artifact and what makes it: one call of it fails, so often as is said."""

    id = digest = "x"

    def __init__(self, where: str = "", error: Exception | None = None, times: int = 0) -> None:
        self._where, self._error, self._times = where, error, times
        self.calls: list[str] = []

    def _call(self, name: str) -> "Sdk":
        self.calls.append(name)
        if name == self._where and self._times:
            self._times -= 1
            assert self._error is not None
            raise self._error
        return self

    def make(self, _: Any) -> "Sdk":
        """See `WandbArtifacts`."""
        return self._call("make")

    def log_artifact(self, _: Any, **__: Any) -> "Sdk":
        """See the SDK's run."""
        return self._call("log")

    def wait(self, _: float) -> None:
        """See the SDK's artifact."""
        self._call("wait")

    def link_artifact(self, *_: Any) -> None:
        """See the SDK's run."""
        self._call("link")


def done(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch, told: dict[str, str] | None = None
) -> ArtifactLane:
    """Give an artifact with a link until it is done with, or there is no end to it."""
    monkeypatch.setattr(wandb_artifacts, "RETRY_MAX_S", 0.0)
    on_left_out = {} if told is None else told
    lane = ArtifactLane(
        *(sdk, AtOnce()),  # type: ignore[arg-type]
        is_online=True,
        on_left_out=on_left_out.__setitem__,
    )
    lane.put(
        Artifact("r", "p", "model", "model", 3, (), {}, "", (), 1, registry_links=("registry/m",))
    )
    for _ in range(TICKS_MAX):
        lane.tick(sdk)
        if lane.is_idle:
            break
    return lane


UNREADABLE = json.JSONDecodeError("Expecting value", "<html>", 0)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("wait", ValueError("ArtifactSaver.commitArtifact: invalid character '<'")),
        ("wait", ValueError("returned error 401: user is not logged in")),
        ("wait", ValueError("returned error 503")),
        ("log", ConnectionError("gone")),
        ("log", UNREADABLE),
        ("link", UNREADABLE),
        ("link", ConnectionError("gone")),
    ],
)
def test_what_may_pass_is_tried_again(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the SDK tells it, it is an error of the value all the same; the artifact arrives."""
    lane = done(Sdk(where, error, times=5), monkeypatch)
    assert (lane.done_count, lane.given, lane.trouble) == (1, [("model", "x")], "")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("make", ValueError("the type is reserved")),
        ("make", FileNotFoundError("a blob")),
        ("log", ValueError("of another type")),
    ],
)
def test_what_is_no_artifact_for_the_sdk_is_left_out_at_once(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And told; what comes behind it goes on."""
    sdk = Sdk(where, error, times=TICKS_MAX)
    told: dict[str, str] = {}
    lane = done(sdk, monkeypatch, told)
    assert (lane.done_count, lane.given, sdk.calls.count(where)) == (1, [], 1)
    assert f"W&B never takes the artifact model:v3 ({error})" in told["model:v3"]


@pytest.mark.parametrize(
    ("where", "error", "tries", "words"),
    [
        ("wait", ValueError("returned error 413"), REFUSALS_MAX, "never takes"),
        ("link", RuntimeError("no such registry"), LINK_TRIES_MAX, "never links"),
        ("link", ValueError("Invalid artifact path"), 1, "never links"),
    ],
)
def test_what_a_server_never_takes_does_not_keep_the_run_for_ever(
    where: str, error: Exception, tries: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried some times; a link more often, since the server says of it what it likes."""
    sdk = Sdk(where, error, times=TICKS_MAX)
    told: dict[str, str] = {}
    lane = done(sdk, monkeypatch, told)
    assert (lane.done_count, sdk.calls.count(where)) == (1, tries)
    assert words in told["model:v3"]


def test_a_server_that_refuses_all_is_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody mends that."""
    lane = done(Sdk("wait", ValueError("returned error 403"), times=TICKS_MAX), monkeypatch)
    assert not lane.is_idle
    assert "does not have the artifact model:v3 yet" in lane.trouble
