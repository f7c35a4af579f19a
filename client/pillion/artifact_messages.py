"""Staged artifacts as messages. Importing this loads protobuf; see `values.py`."""

from pillion.staging import Manifest
from pillion.v1 import record_pb2
from pillion.values import to_key_values


def to_artifact(manifest: Manifest) -> record_pb2.Artifact:
    """Make what is announced of an artifact. Raises TypeError or ValueError for what is none."""
    return record_pb2.Artifact(
        name=manifest.name,
        type=manifest.type,
        aliases=manifest.aliases,
        metadata=to_key_values(manifest.metadata),
        files=[
            record_pb2.ArtifactFile(
                name=file.name,
                sha256=bytes.fromhex(file.sha256),
                size_bytes=file.size_bytes,
                reference_uri=file.reference_uri,
            )
            for file in manifest.files
        ],
        run_id=manifest.run_id,
        time_unix_nano=manifest.time_unix_nano,
        description=manifest.description,
        registry_links=manifest.registry_links,
    )
