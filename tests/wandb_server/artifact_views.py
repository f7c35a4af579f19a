"""Artifacts in the shapes in which the SDK reads them."""

import json
from typing import Any

from wandb_server.kept import ServerArtifact

TIME = "2026-01-01T00:00:00Z"


def _collection(artifact: ServerArtifact, kind: str) -> dict[str, Any]:
    project = {
        "id": artifact.project,
        "internalId": artifact.project,
        "name": artifact.project,
        "entity": {"name": artifact.entity},
    }
    return {"__typename": kind, "name": artifact.name, "project": project}


def artifact_view(artifact: ServerArtifact) -> dict[str, Any]:
    """Return the SDK's `ArtifactFragment`."""
    aliases = [
        {
            "__typename": "ArtifactAlias",
            "id": alias,
            "alias": alias,
            "artifactCollection": _collection(artifact, "ArtifactSequence"),
        }
        for alias in sorted(artifact.aliases)
    ]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": _collection(artifact, "ArtifactSequence"),
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -1,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "PENDING" if artifact.version is None else "COMMITTED",
        "size": sum(entry.get("size", 0) for entry in artifact.manifest.values()),
        "digest": artifact.digest,
        "digestAlgorithm": None,
        "commitHash": artifact.id,
        "fileCount": len(artifact.manifest),
        "createdAt": TIME,
        "updatedAt": TIME,
        "aliases": aliases,
    }


def membership_view(artifact: ServerArtifact) -> dict[str, Any]:
    """Return the SDK's `ArtifactMembershipFragment`."""
    fragment = artifact_view(artifact)
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": f"membership-{artifact.id}",
        "versionIndex": artifact.version,
        "createdAt": TIME,
        "aliases": fragment["aliases"],
        "artifactCollection": _collection(artifact, "ArtifactSequence"),
        "artifact": fragment,
    }
