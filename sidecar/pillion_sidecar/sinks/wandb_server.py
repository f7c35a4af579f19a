"""What the W&B sink asks a W&B server itself: whether it takes a run, and how much of it it has.

The SDK tells neither: a run that cannot be opened blocks its id for the life of the process, and
whether a row has arrived is not told at all. So the sink asks before it opens a run, and afterwards
for the last row that the server has. Knows nothing of the SDK.

What answers may be anything: it is given the key, but no redirect is followed with it, and an
answer is read only so far, for so long, and taken only for what it should be.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from pillion_sidecar.errors import SinkError

TIMEOUT_S = 15.0
"""How long a server may say nothing."""
ANSWER_S, ANSWER_BYTES_MAX = 60.0, 64 * 1024 * 1024
"""How long an answer may take, and be: it holds a run's last row, which has 10 MB at most."""
RETRY_AFTER_MAX_S = 300.0
"""How long a server is left alone at most, whatever it asks for."""
ERROR_CHARACTERS_MAX = 200
"""Of what a server says."""

_UPSERT = """
mutation UpsertBucket($name: String!, $project: String, $entity: String) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity}) {
    bucket { id name displayName project { name entity { name } } }
    inserted
  }
}
"""
_RESUME = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) {
      id name state logLineCount historyLineCount historyTail
    }
  }
}
"""
_VIEWER = "query Viewer { viewer { id entity username teams { edges { node { name } } } } }"


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run as the server has it."""

    last_ordinal: int
    """`_step` of its last row; -1: it has none."""
    line_count: int
    """Lines of console output."""
    state: str
    """`running`, `finished`, `failed`, `crashed` …"""

    @property
    def has_ended(self) -> bool:
        """Whether the server has the run's end."""
        return self.state not in ("running", "pending", "")


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose key it is."""

    name: str
    entities: tuple[str, ...]
    """To which runs may go: the user's own, and the teams."""


class WandbServer:
    """One server, by one key. Any thread may call it.

    Every method raises SinkError, with one of these reasons: WANDB_KEY_REFUSED, WANDB_REFUSED (this
    run, team or project) or WANDB_AWAY (no answer, or none that counts; later perhaps).
    """

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self._key = key
        self._local = threading.local()
        self._left_alone_until_s = 0.0
        """For all runs alike: the server asks it of the key."""

    def viewer(self) -> Viewer:
        """Return whose key it is."""
        answer = self._ask("Viewer", _VIEWER)
        with self._understanding():
            viewer = answer["viewer"]
            if not viewer:
                raise self._key_refused()
            edges = (viewer.get("teams") or {}).get("edges") or ()
            names = [viewer.get("entity"), viewer.get("username")]
            names += [edge["node"]["name"] for edge in edges]
            entities = tuple(dict.fromkeys(str(name) for name in names if name))
            return Viewer(str(viewer.get("username") or viewer.get("entity") or ""), entities)

    def claim(self, entity: str, project: str, run_id: str) -> tuple[str, str]:
        """Make the run at the server unless it is there; return its entity and project."""
        variables = {"name": run_id, "project": project, "entity": entity or None}
        answer = self._ask("UpsertBucket", _UPSERT, variables)
        with self._understanding():
            found = answer["upsertBucket"]["bucket"]["project"]
            return str(found["entity"]["name"]), str(found["name"])

    def run(self, entity: str, project: str, run_id: str) -> RemoteRun:
        """Return what the server has of a run; nothing, if it does not know it."""
        variables = {"name": run_id, "project": project, "entity": entity}
        answer = self._ask("RunResumeStatus", _RESUME, variables)
        with self._understanding():
            bucket = (answer["model"] or {}).get("bucket") or {}
            tail = json.loads(bucket.get("historyTail") or "[]")
            last_row = json.loads(tail[-1]) if tail else {}
            return RemoteRun(
                last_ordinal=int(last_row.get("_step", -1)),
                line_count=int(bucket.get("logLineCount") or 0),
                state=str(bucket.get("state") or ""),
            )

    def _ask(
        self, operation: str, query: str, variables: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if (left_s := self._left_alone_until_s - time.monotonic()) > 0:
            raise self._away(f"asks to be left alone for {left_s:.0f} s more")
        body = {"operationName": operation, "query": query, "variables": variables or {}}
        try:
            with self._session.post(
                f"{self.base_url}/graphql",
                json=body,
                timeout=TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as response:
                status, text = response.status_code, self._read(response)
                asked = response.headers.get("Retry-After", "")
        except requests.RequestException as error:
            raise self._away(f"does not answer ({type(error).__name__})") from error
        if status == requests.codes.unauthorized:
            raise self._key_refused()
        if status in (requests.codes.forbidden, requests.codes.not_found, requests.codes.conflict):
            raise self._refused(f"{status} {text.decode(errors='replace')}")
        if status != requests.codes.ok:
            if asked.isdecimal():
                left_s = min(float(asked), RETRY_AFTER_MAX_S)
                self._left_alone_until_s = time.monotonic() + left_s
            raise self._away(f"answers {status}")
        with self._understanding():
            answer = json.loads(text)
            if errors := answer.get("errors"):
                raise self._refused(str(errors[0].get("message", errors[0])))
            return dict(answer["data"])

    def _read(self, response: Any) -> bytes:
        """Read an answer as far as it is one."""
        deadline_s = time.monotonic() + ANSWER_S
        text = bytearray()
        for piece in response.iter_content(1 << 16):
            text += piece
            if len(text) > ANSWER_BYTES_MAX or time.monotonic() > deadline_s:
                raise self._away("answers without end; is this its address?")
        return bytes(text)

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Take what is no answer for a server that is away: what answers may be something else."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
            raise self._away("answers nothing that it should; is this its address?") from None

    @property
    def _session(self) -> Any:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = ("api", self._key)
            self._local.session.headers["User-Agent"] = "pillion"
        return self._local.session

    def _key_refused(self) -> SinkError:
        return SinkError(
            f"W&B at {self.base_url} does not take the key. Give another with "
            "`pillion configure --api-key-file FILE`; what waits is delivered then.",
            reason="WANDB_KEY_REFUSED",
        )

    def _refused(self, what: str) -> SinkError:
        return SinkError(
            f"W&B at {self.base_url} refuses the run: {self._told(what)}. "
            "Check entity and project, and that the key may write there.",
            reason="WANDB_REFUSED",
        )

    def _told(self, what: str) -> str:
        """Return what a server says, for people; it may name the key that it was shown."""
        return what.replace(self._key, "[redacted]")[:ERROR_CHARACTERS_MAX].strip()

    def _away(self, what: str) -> SinkError:
        return SinkError(
            f"W&B at {self.base_url} {what}. Nothing is lost: it is tried again.",
            reason="WANDB_AWAY",
        )
