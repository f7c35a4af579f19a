"""Artifacts: versions of named files. Bytes are kept once per digest, and only then asked for.

A version is pending until it is committed, which needs its manifest and every byte that it names.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from wandb_server.artifact_views import artifact_view, membership_view
from wandb_server.kept import Account, RefusedError, ServerArtifact, ServerRun

FindRun = Callable[[Account, str | None, str, str], ServerRun]


class Artifacts:
    """Keeps artifacts, and answers the operations on them."""

    def __init__(self, base_url: str, find_run: FindRun) -> None:
        self._base_url = base_url
        self._find_run = find_run
        self.all: list[ServerArtifact] = []
        self.blobs: dict[str, bytes] = {}
        """By the MD5 digest in base 64, as manifests name it."""
        self.operations: Mapping[str, Callable[[Account, dict[str, Any]], dict[str, Any]]] = {
            "ArtifactType": self._type,
            "ArtifactByID": self._by_id,
            "ArtifactMembershipByName": self._membership_by_name,
            "ClientIDMapping": self._client_id,
            "CommitArtifact": self._commit,
            "CreateArtifact": self._create,
            "CreateArtifactFiles": self._create_files,
            "CreateArtifactManifest": self._create_manifest,
            "FetchArtifactManifest": self._fetch_manifest,
            "GetArtifactMembershipFileUrls": self._file_urls,
            "LinkArtifact": self._link,
            "UpdateArtifactManifest": self._update_manifest,
            "UseArtifact": self._use,
        }

    def named(self, name: str) -> list[ServerArtifact]:
        """Return the committed versions of a name, v0 first."""
        return [each for each in self.all if each.name == name and each.version is not None]

    def files(self, artifact: ServerArtifact) -> dict[str, bytes]:
        """Return an artifact's bytes by path, without what it only points at."""
        return {path: self.blobs[digest] for path, digest in artifact.digests.items()}

    def take(self, kind: str, name: str, body: bytes) -> None:
        """Keep an upload. Raises RefusedError if it is not what was announced."""
        if kind == "manifest":
            self._of(name).manifest = json.loads(body)["contents"]
            return
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        if digest != name:
            raise RefusedError(400, f"these bytes have the digest {digest}, not {name}")
        self.blobs[name] = body

    def give(self, kind: str, name: str) -> bytes:
        """Return what was uploaded."""
        if kind == "manifest":
            contents = {"version": 1, "storagePolicy": "wandb-storage-policy-v1"}
            contents |= {"storagePolicyConfig": {"storageLayout": "V2"}}
            return json.dumps(contents | {"contents": self._of(name).manifest}).encode()
        return self.blobs[name]

    def _of(self, id: str) -> ServerArtifact:
        found = [each for each in self.all if id in (each.id, each.client_id)]
        if not found:
            raise RefusedError(404, f"artifact {id} not found")
        return found[-1]

    def _sequence(self, entity: str, project: str, name: str) -> list[ServerArtifact]:
        place = (entity, project, name)
        return [each for each in self.all if (each.entity, each.project, each.name) == place]

    def _type(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        found = self._find(account, sent)
        artifact = {"artifactType": {"name": found.type}} if found else None
        return {"project": {"artifact": artifact}}

    def _find(self, account: Account, sent: dict[str, Any]) -> ServerArtifact | None:
        name, _, version = sent["name"].partition(":")
        for each in self._sequence(sent["entity"] or account.user, sent["project"], name):
            if each.version is not None and (not version or version in _names(each)):
                return each
        return None

    def _create(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        asked = sent["input"]
        run = self._find_run(account, asked["entityName"], asked["projectName"], asked["runName"])
        name = (asked.get("artifactCollectionNames") or [asked.get("artifactCollectionName")])[0]
        earlier = self._sequence(run.entity, run.project, name)
        committed = [each for each in earlier if each.version is not None]
        latest = {"id": committed[-1].id} if committed else None
        aliases = {each["alias"] for each in asked.get("aliases") or []}
        same = [each for each in committed if each.digest == asked["digest"]]
        if same:
            _alias(committed, same[-1], aliases)
            same[-1].client_id = asked["clientID"]
            return _created(same[-1], latest)
        made = ServerArtifact(
            id=f"artifact-{len(self.all)}",
            entity=run.entity,
            project=run.project,
            name=name,
            type=asked["artifactTypeName"],
            digest=asked["digest"],
            run_id=run.run_id,
            client_id=asked["clientID"],
            metadata=json.loads(asked.get("metadata") or "{}"),
            description=asked.get("description") or "",
            aliases=aliases,
        )
        self.all.append(made)
        return _created(made, latest)

    def _create_manifest(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": self._manifest(self._of(sent["artifactID"]))}

    def _update_manifest(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        artifact = self._of(sent["artifactManifestID"].removeprefix("manifest-"))
        return {"updateArtifactManifest": self._manifest(artifact)}

    def _manifest(self, artifact: ServerArtifact) -> dict[str, Any]:
        url = f"{self._base_url}/upload-artifact/manifest/{artifact.id}"
        file = {"id": f"file-{artifact.id}", "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest-{artifact.id}", "file": file}}

    def _create_files(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in sent["input"]["artifactFiles"]:
            digest = file["md5"]
            url = f"{self._base_url}/upload-artifact/blob/{quote(digest, safe='')}"
            node = {
                "storagePath": f"{file['artifactID']}/{file['name']}",
                "uploadUrl": None if digest in self.blobs else url,
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        artifact = self._of(sent["artifactID"])
        missing = [path for path, it in artifact.digests.items() if it not in self.blobs]
        if missing:
            raise RefusedError(400, f"artifact {artifact.name} lacks {missing}")
        sequence = self._sequence(artifact.entity, artifact.project, artifact.name)
        if artifact.version is None:
            artifact.version = sum(each.version is not None for each in sequence)
            _alias(sequence, artifact, artifact.aliases)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _use(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        asked = sent | (sent.get("input") or {})
        artifact = self._of(asked["artifactID"])
        artifact.used_by.append(asked["runName"])
        return {"useArtifact": {"artifact": artifact_view(artifact)}}

    def _link(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        asked = sent | (sent.get("input") or {})
        artifact = self._of(next(asked[name] for name in _ID_NAMES if asked.get(name)))
        place = (asked["entityName"], asked["projectName"], asked["artifactPortfolioName"])
        aliases = tuple(each["alias"] for each in asked.get("aliases") or [])
        artifact.links.append(("/".join(place), aliases))
        result = {"versionIndex": artifact.version, "artifactMembership": membership_view(artifact)}
        return {"linkArtifact": result, "result": result}

    def _client_id(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        return {"clientIDMapping": {"serverID": self._of(sent["clientID"]).id}}

    def _by_id(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        return {"artifact": artifact_view(self._of(sent["id"]))}

    def _membership_by_name(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        found = self._find(account, sent)
        membership = membership_view(found) if found else None
        return {"project": {"artifactCollectionMembership": membership}}

    def _fetch_manifest(self, _: Account, sent: dict[str, Any]) -> dict[str, Any]:
        url = f"{self._base_url}/download/manifest/{self._of(sent['id']).id}"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _file_urls(self, account: Account, sent: dict[str, Any]) -> dict[str, Any]:
        found = self._find(account, sent | {"name": f"{sent['collection']}:{sent['alias']}"})
        if found is None:
            raise RefusedError(404, "artifact not found")
        place = f"{self._base_url}/download/blob"
        nodes = [
            {"__typename": "File", "name": path, "directUrl": f"{place}/{quote(digest, safe='')}"}
            for path, digest in found.digests.items()
        ]
        files = {
            "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
            "edges": [{"node": node} for node in nodes],
        }
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}


_ID_NAMES = ("artifactId", "artifactID", "clientId", "clientID")


def _names(artifact: ServerArtifact) -> Iterable[str]:
    return {f"v{artifact.version}", *artifact.aliases}


def _alias(
    sequence: Iterable[ServerArtifact], artifact: ServerArtifact, aliases: Iterable[str]
) -> None:
    """Give a version its aliases; no other of its name keeps them."""
    aliases = {"latest", *aliases}
    for each in sequence:
        if each.version is not None:
            each.aliases -= aliases
    artifact.aliases |= aliases


def _created(artifact: ServerArtifact, latest: dict[str, str] | None) -> dict[str, Any]:
    state = "PENDING" if artifact.version is None else "COMMITTED"
    sequence = {"latestArtifact": latest}
    made = {"id": artifact.id, "state": state, "artifactSequence": sequence}
    return {"createArtifact": {"artifact": made}}
