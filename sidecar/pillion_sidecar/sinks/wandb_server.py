"""What the W&B sink asks a W&B server itself: whether it takes a run, and how much of it it has.

The SDK tells neither: a run that cannot be opened blocks its id for the life of the process, and
whether a row has arrived is not told at all. So the sink asks before it opens a run, and afterwards
for the last row that the server has. Knows nothing of the SDK; every call may take `TIMEOUT_S`.
"""

import json
import threading
from dataclasses import dataclass
from typing import Any

import requests

from pillion_sidecar.errors import SinkError

TIMEOUT_S = 15.0
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

    def viewer(self) -> Viewer:
        """Return whose key it is."""
        viewer = self._ask("Viewer", _VIEWER).get("viewer") or {}
        if not viewer:
            raise self._key_refused()
        edges = (viewer.get("teams") or {}).get("edges") or ()
        names = [viewer.get("entity"), viewer.get("username"), *(e["node"]["name"] for e in edges)]
        entities = tuple(dict.fromkeys(name for name in names if name))
        return Viewer(str(viewer.get("username") or viewer.get("entity") or ""), entities)

    def claim(self, entity: str, project: str, run_id: str) -> tuple[str, str]:
        """Make the run at the server unless it is there; return its entity and project."""
        variables = {"name": run_id, "project": project, "entity": entity or None}
        answer = self._ask("UpsertBucket", _UPSERT, variables)
        try:
            found = answer["upsertBucket"]["bucket"]["project"]
            return str(found["entity"]["name"]), str(found["name"])
        except (KeyError, TypeError):
            raise self._away("answered something else than a run") from None

    def run(self, entity: str, project: str, run_id: str) -> RemoteRun:
        """Return what the server has of a run; nothing, if it does not know it."""
        variables = {"name": run_id, "project": project, "entity": entity}
        model = self._ask("RunResumeStatus", _RESUME, variables).get("model") or {}
        bucket = model.get("bucket") or {}
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
        body = {"operationName": operation, "query": query, "variables": variables or {}}
        try:
            response = self._session.post(
                f"{self.base_url}/graphql", json=body, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise self._away(f"does not answer ({type(error).__name__})") from error
        status = response.status_code
        if status == requests.codes.unauthorized:
            raise self._key_refused()
        if status in (requests.codes.forbidden, requests.codes.not_found, requests.codes.conflict):
            raise self._refused(f"{status} {response.text}")
        if status != requests.codes.ok:
            raise self._away(f"answers {status}")
        try:
            answer = response.json()
        except ValueError:
            raise self._away("answers no JSON; is this its address?") from None
        if errors := answer.get("errors"):
            raise self._refused(str(errors[0].get("message", errors[0])))
        return dict(answer.get("data") or {})

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
            f"W&B at {self.base_url} refuses the run: {what[:ERROR_CHARACTERS_MAX].strip()}. "
            "Check entity and project, and that the key may write there.",
            reason="WANDB_REFUSED",
        )

    def _away(self, what: str) -> SinkError:
        return SinkError(
            f"W&B at {self.base_url} {what}. Nothing is lost: it is tried again.",
            reason="WANDB_AWAY",
        )
