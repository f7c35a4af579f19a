"""GraphQL: what the SDK asks and orders, by the names of its operations.

No query is parsed. Each answer has the shape that its operation in wandb 0.31 asks for.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from wandb_server.artifacts import Artifacts
from wandb_server.kept import Account, Alert, RefusedError, ServerRun

ORGANIZATION = "stable"
"""Everybody is in it; registries are its projects `wandb-registry-NAME`."""
TAIL_LINES = 1


class Operations:
    """Answers operations; `runs`, `accounts` and `alerts` are the server's own."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.runs: dict[tuple[str, str, str], ServerRun] = {}
        self.accounts: dict[str, Account] = {}
        self.alerts: list[Alert] = []
        self.artifacts = Artifacts(base_url, self.run_of)
        self._by_name: Mapping[str, Callable[[Account, dict[str, Any]], dict[str, Any]]] = {
            "Viewer": self._viewer,
            "ServerFeaturesQuery": self._features,
            "OrganizationCoreWeaveOrganizationID": self._organization,
            "FetchOrgEntityFromEntity": self._organization,
            "FetchOrgInfoFromEntity": self._organization,
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_bucket,
            "CreateRunFiles": self._create_run_files,
            "NotifyScriptableRunAlert": self._alert,
            **self.artifacts.operations,
        }

    def knows(self, name: str) -> bool:
        """Tell whether there is an answer to an operation."""
        return name in self._by_name

    def answer(self, name: str, key: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Do what an operation says. Raises RefusedError."""
        return self._by_name[name](self.account(key), variables)

    def account(self, key: str) -> Account:
        """Return whose key it is. Raises RefusedError."""
        if key not in self.accounts:
            raise RefusedError(401, "user is not logged in")
        return self.accounts[key]

    def run_of(self, account: Account, entity: str | None, project: str, run_id: str) -> ServerRun:
        """Return a run that is there. Raises RefusedError."""
        entity = self._entity(account, entity)
        run = self.runs.get((entity, project, run_id))
        if run is None:
            raise RefusedError(404, f"run {entity}/{project}/{run_id} not found")
        return run

    def _entity(self, account: Account, entity: str | None) -> str:
        entity = entity or account.user
        known = {name for each in self.accounts.values() for name in (each.user, *each.teams)}
        if entity not in known:
            raise RefusedError(404, f"entity {entity} not found during upsertBucket")
        if not account.may_write(entity):
            raise RefusedError(403, "permission denied")
        return entity

    def _viewer(self, account: Account, _: dict[str, Any]) -> dict[str, Any]:
        teams = [{"node": {"name": name}} for name in (account.user, *account.teams)]
        return {
            "viewer": {
                "id": account.user,
                "entity": account.user,
                "username": account.user,
                "email": f"{account.user}@example.org",
                "flags": "{}",
                "teams": {"edges": teams},
            }
        }

    def _features(self, _: Account, __: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _organization(self, _: Account, __: dict[str, Any]) -> dict[str, Any]:
        organization = {
            "name": ORGANIZATION,
            "orgEntity": {"name": f"{ORGANIZATION}-org"},
            "coreWeaveOrganizationId": None,
        }
        return {"entity": {"organization": organization, "user": None}}

    def _resume_status(self, account: Account, wanted: dict[str, Any]) -> dict[str, Any]:
        project, entity = wanted["project"], wanted.get("entity") or account.user
        if not account.may_write(entity):
            return {"model": None}
        run = self.runs.get((entity, project, wanted["name"]))
        return {
            "model": {
                "id": project,
                "name": project,
                "entity": {"id": entity, "name": entity},
                "bucket": _resumed(run) if run else None,
            }
        }

    def _upsert_bucket(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        entity, project = self._entity(account, sent.get("entity")), sent["project"]
        place = (entity, project, sent["name"])
        is_new = place not in self.runs
        run = self.runs.setdefault(place, ServerRun(*place))
        if is_new:
            run.name = sent["name"]
        run.state, run.exit_code = "running", None
        fields = {"displayName": "name", "groupName": "group", "jobType": "job_type"}
        same = ("notes", "host", "program", "commit", "repo", "tags")
        for theirs, ours in (fields | {name: name for name in same}).items():
            if sent.get(theirs) is not None:
                setattr(run, ours, sent[theirs])
        if sent.get("config"):
            run.sent_config = json.loads(sent["config"])
        if sent.get("summaryMetrics"):
            run.summary = json.loads(sent["summaryMetrics"])
        bucket = {
            "id": run.id,
            "name": run.run_id,
            "displayName": run.name,
            "description": None,
            "config": json.dumps(run.sent_config),
            "sweepName": None,
            "historyLineCount": run.line_count("wandb-history.jsonl"),
            "project": {
                "id": project,
                "name": project,
                "entity": {"id": entity, "name": entity},
            },
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _create_run_files(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.run_of(account, sent["entity"], sent["project"], sent["run"])
        place = f"{self.base_url}/upload/{run.entity}/{run.project}/{run.run_id}"
        files = [{"name": name, "uploadUrl": f"{place}/{quote(name)}"} for name in sent["files"]]
        return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}

    def _alert(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.run_of(account, sent["entityName"], sent["projectName"], sent["runName"])
        self.alerts.append(Alert(run.run_id, sent["title"], sent["text"], sent["severity"]))
        return {"notifyScriptableRunAlert": {"success": True}}


def _resumed(run: ServerRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.run_id,
        "displayName": run.name,
        "state": run.state,
        "summaryMetrics": json.dumps(run.summary),
        "config": json.dumps(run.sent_config),
        "tags": run.tags,
        "notes": run.notes or None,
        "logLineCount": run.line_count("output.log"),
        "historyLineCount": run.line_count("wandb-history.jsonl"),
        "eventsLineCount": run.line_count("wandb-events.jsonl"),
        "historyTail": json.dumps(run.text("wandb-history.jsonl")[-TAIL_LINES:]),
        "eventsTail": json.dumps(run.text("wandb-events.jsonl")[-TAIL_LINES:]),
        "wandbConfig": json.dumps({"t": run.sent_config.get("_wandb", {}).get("value", {})}),
    }
