"""The server as tests see it: where it is, what it got, and what it is to do wrong."""

import base64
import json
import re
import threading
import time
from collections.abc import Collection
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from wandb_server import file_stream
from wandb_server.artifacts import Artifacts
from wandb_server.faults import Fault, Faults, Kind, Request
from wandb_server.graphql import Operations
from wandb_server.kept import Account, Alert, RefusedError, ServerRun
from wandb_server.listener import HttpAnswer, HttpRequest, Listener

KEY = "teststandin" + "0123456789" * 2 + "abcdefghi"
USER, TEAM = "rider", "crew"
FAULTLESS_STATUS = 200


class WandbServer:
    """See the package. A context: it listens from the start and is closed at the end."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._faults = Faults()
        self._listener = Listener(self._answer)
        self.base_url = f"http://127.0.0.1:{self._listener.port}"
        self._operations = Operations(self.base_url)
        self.key = KEY
        self.unknown: list[str] = []
        """Operations and paths that nobody has taught it; there should be none."""
        self._times_s: dict[tuple[str, str], list[float]] = {}
        """When requests came, by operation and run, those that met a fault too."""
        self.accept_key(KEY, USER, TEAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End for good; who hangs is let go."""
        self._faults.clear()
        self._listener.close(for_good=True)

    # What it got.

    @property
    def runs(self) -> dict[str, ServerRun]:
        """All runs by id; ids are to be unique in a test that uses this."""
        with self._lock:
            return {run.run_id: run for run in self._operations.runs.values()}

    def run(self, project: str, run_id: str, entity: str = USER) -> ServerRun:
        """Return a run. Raises KeyError."""
        with self._lock:
            return self._operations.runs[entity, project, run_id]

    @property
    def alerts(self) -> list[Alert]:
        """All alerts, in the order in which they came."""
        return self._operations.alerts

    @property
    def artifacts(self) -> Artifacts:
        """All artifacts."""
        return self._operations.artifacts

    def count(self, operation: str = "", run_id: str = "") -> int:
        """Return how many requests there were; empty: any."""
        with self._lock:
            return sum(
                len(times_s)
                for (each, its_run), times_s in self._times_s.items()
                if operation in ("", each) and run_id in ("", its_run)
            )

    def times_s(self, operation: str, run_id: str) -> list[float]:
        """Return when requests came, by a monotonic clock."""
        with self._lock:
            return [*self._times_s.get((operation, run_id), ())]

    # What it is to do.

    def accept_key(self, key: str, user: str, *teams: str) -> None:
        """Take a key, of a user who may write to his own entity and to these teams."""
        with self._lock:
            self._operations.accounts[key] = Account(user, teams)

    def refuse_key(self, key: str) -> None:
        """Take the key no longer: 401."""
        with self._lock:
            del self._operations.accounts[key]

    def press_stop(self, run_id: str) -> None:
        """Press the Stop button in W&B's page of the run."""
        self.runs[run_id].is_stop_pressed = True

    def fail(
        self,
        kind: str | int = 500,
        *,
        operation: str = "",
        runs: Collection[str] | None = None,
        containing: str = "",
        times: int | None = None,
        retry_after_s: float | None = None,
        is_done_first: bool = False,
    ) -> Fault:
        """Do wrong from now on, to requests that fit everything that is said here.

        Args:
            kind: A status to answer, or `hang` (until cleared, then answer) or `drop`.
            operation: A GraphQL operation, `file_stream`, `upload` or `download`; empty: all.
            runs: Run ids; None: all, and what is about no run.
            containing: A text in the request's body.
            times: So many requests; None: until it is cleared.
            retry_after_s: Sent with a status.
            is_done_first: Do what is asked, and then this in place of the answer.
        """
        return self._faults.add(
            Fault(
                kind=Kind.ANSWER if isinstance(kind, int) else Kind[kind.upper()],
                status=kind if isinstance(kind, int) else FAULTLESS_STATUS,
                retry_after_s=retry_after_s,
                operation=operation,
                runs=runs,
                containing=containing.encode(),
                times=times,
                is_done_first=is_done_first,
            )
        )

    def heal(self) -> None:
        """Clear all faults."""
        self._faults.clear()

    def stop_listening(self) -> None:
        """Refuse connections and break those there are, as a server that has gone."""
        self._listener.close()

    def listen_again(self) -> None:
        """Take connections again, at the same port."""
        self._listener.open()

    # How it answers.

    def _answer(self, http: HttpRequest) -> HttpAnswer | None:
        request, sent = _understood(http)
        with self._lock:
            place = (request.operation, request.run_id)
            self._times_s.setdefault(place, []).append(time.monotonic())
        fault = self._faults.of(request)
        if fault is None:
            return self._done(http, request, sent)
        if fault.is_done_first:
            answer = self._done(http, request, sent)
        match fault.kind:
            case Kind.DROP:
                return None
            case Kind.HANG:
                fault.released.wait()
                return answer if fault.is_done_first else self._done(http, request, sent)
        headers = {}
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
        return HttpAnswer(fault.status, _errors(f"told to answer {fault.status}"), headers)

    def _done(self, http: HttpRequest, request: Request, sent: dict[str, Any]) -> HttpAnswer:
        try:
            with self._lock:
                return self._do(http, request, sent)
        except RefusedError as error:
            return HttpAnswer(error.status, _errors(str(error)))
        except Exception as error:  # noqa: BLE001 - told by the test; unanswered it would hang
            self.unknown.append(f"{request.operation}: {error!r}")
            return HttpAnswer(400, _errors(repr(error)))

    def _do(self, http: HttpRequest, request: Request, sent: dict[str, Any]) -> HttpAnswer:
        parts = [unquote(part) for part in urlsplit(http.path).path.strip("/").split("/")]
        if parts[0] == "upload-artifact":
            self.artifacts.take(parts[1], parts[2], http.body)
            return HttpAnswer(200)
        if request.operation == "download":
            return HttpAnswer(200, self.artifacts.give(parts[1], parts[2]))
        if request.operation == "upload":
            run = self._operations.runs[parts[1], parts[2], parts[3]]
            run.files["/".join(parts[4:])] = http.body
            return HttpAnswer(200)
        if request.operation == "file_stream":
            account = self._operations.account(request.key)
            run = self._operations.run_of(account, parts[1], parts[2], parts[3])
            run.keys.add(request.key)
            return _json(file_stream.take(run, http.body))
        if not self._operations.knows(request.operation):
            self.unknown.append(request.operation)
            return HttpAnswer(400, _errors(f"unknown operation {request.operation}"))
        answer = self._operations.answer(request.operation, request.key, sent)
        return _json({"data": answer})


def _understood(http: HttpRequest) -> tuple[Request, dict[str, Any]]:
    """Return what a request is, and the variables of a GraphQL operation."""
    key = ""
    if (basic := http.headers.get("Authorization", "")).startswith("Basic "):
        key = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")[2]
    path = [unquote(part) for part in urlsplit(http.path).path.strip("/").split("/")]
    match http.method, path:
        case "POST", ["graphql"]:
            post = json.loads(http.body)
            name = post.get("operationName") or _name_in(post["query"])
            sent = post.get("variables") or {}
            return Request(name, _run_in(name, sent), key, http.body), sent
        case "POST", ["files", _, _, run_id, "file_stream"]:
            return Request("file_stream", run_id, key, http.body), {}
        case "PUT", ["upload", _, _, run_id, *_]:
            return Request("upload", run_id, key, http.body), {}
        case "PUT", ["upload-artifact", *_]:
            return Request("upload", "", key, http.body), {}
        case "GET", ["download", *_]:
            return Request("download", "", key, b""), {}
    return Request(f"{http.method} {http.path}", "", key, http.body), {}


def _name_in(query: str) -> str:
    found = re.search(r"(?:query|mutation)\s+(\w+)", query)
    return found[1] if found else query


def _run_in(operation: str, sent: dict[str, Any]) -> str:
    fields = sent | (sent.get("input") or {})
    if operation in ("RunResumeStatus", "UpsertBucket"):
        return str(fields["name"])
    return str(fields.get("runName") or fields.get("run") or "")


def _json(value: Any) -> HttpAnswer:
    return HttpAnswer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _errors(message: str) -> bytes:
    return json.dumps({"errors": [{"message": message, "path": []}], "data": None}).encode()
