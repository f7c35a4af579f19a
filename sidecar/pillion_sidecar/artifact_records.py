"""Artifacts as the sidecar's own values: decoded from messages, handed to the journal and to sinks.

The one place that turns `Artifact` of `record.proto` into values and back.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pillion.v1 import record_pb2
from pillion.values import Value, from_key_values, to_key_values

LATEST = "latest"
"""The alias of the version that was logged last."""


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact."""

    name: str
    """Within the artifact; checked, so that it leads nowhere else."""
    sha256: bytes
    """Empty if it is only referred to, and its digest was not told."""
    size_bytes: int
    reference_uri: str = ""
    """Where it is, if only referred to; empty if its bytes are in the blob store."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Named, versioned files."""

    run_id: str
    """The run that made it."""
    project: str
    """Empty until the journal has taken it: it is the run's."""
    name: str
    type: str
    version: int
    """-1 until the journal has taken it."""
    aliases: tuple[str, ...]
    metadata: Mapping[str, Value]
    description: str
    files: tuple[ArtifactFile, ...]
    time_unix_nano: int
    registry_links: tuple[str, ...] = ()
    sha256: bytes = field(default=b"")
    """See `digest_of`."""

    @property
    def version_name(self) -> str:
        """Its version for people: `v3`."""
        return f"v{self.version}"

    @property
    def size_bytes(self) -> int:
        """The length of its files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class ArtifactUse:
    """The run reads an artifact."""

    artifact: str
    """`NAME:VERSION` or `NAME:ALIAS`, in the run's project."""
    time_unix_nano: int


def digest_of(files: Iterable[ArtifactFile]) -> bytes:
    """Return the digest of an artifact: of the names, digests, sizes and places of its files."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        for part in (file.name.encode(), file.sha256, file.reference_uri.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
        digest.update(file.size_bytes.to_bytes(8, "little"))
    return digest.digest()


def decode_artifact(message: record_pb2.Artifact) -> Artifact:
    """Decode an artifact that was checked."""
    return Artifact(
        run_id=message.run_id,
        project=message.project,
        name=message.name,
        type=message.type,
        version=int(message.version.removeprefix("v") or -1),
        aliases=tuple(message.aliases),
        metadata=from_key_values(message.metadata),
        description=message.description,
        files=tuple(
            ArtifactFile(file.name, file.sha256, file.size_bytes, file.reference_uri)
            for file in message.files
        ),
        time_unix_nano=message.time_unix_nano,
        registry_links=tuple(message.registry_links),
        sha256=message.sha256,
    )


def encode_artifact(artifact: Artifact) -> record_pb2.Artifact:
    """Encode an artifact that the journal has taken."""
    return record_pb2.Artifact(
        name=artifact.name,
        type=artifact.type,
        version=artifact.version_name,
        aliases=artifact.aliases,
        metadata=to_key_values(artifact.metadata),
        files=[
            record_pb2.ArtifactFile(
                name=file.name,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                reference_uri=file.reference_uri,
            )
            for file in artifact.files
        ],
        run_id=artifact.run_id,
        time_unix_nano=artifact.time_unix_nano,
        project=artifact.project,
        description=artifact.description,
        sha256=artifact.sha256,
        registry_links=artifact.registry_links,
        file_count=len(artifact.files),
        size_bytes=artifact.size_bytes,
    )
