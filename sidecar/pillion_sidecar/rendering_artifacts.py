"""How the CLI shows artifacts, and what `pillion gc` has found: tables, and dicts for `--json`."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from pillion.v1 import record_pb2
from pillion.values import from_key_values
from pillion_sidecar.garbage import Garbage
from pillion_sidecar.rendering import plain_value, user_text
from pillion_sidecar.safety import bytes_text, count_text

FILES_SHOWN_MAX = 1000


def artifacts_table(artifacts: Sequence[record_pb2.Artifact]) -> Table:
    """Show versions, one per line."""
    table = Table("ARTIFACT", "TYPE", "ALIASES", box=None, pad_edge=False, header_style="bold")
    for title in ("FILES", "SIZE"):
        table.add_column(title, justify="right")
    for title in ("PROJECT", "RUN", "LOGGED"):
        table.add_column(title)
    for artifact in artifacts:
        table.add_row(
            f"{artifact.name}:{artifact.version}",
            user_text(artifact.type),
            user_text(" ".join(artifact.aliases)),
            f"{artifact.file_count:,}",
            bytes_text(artifact.size_bytes),
            user_text(artifact.project),
            artifact.run_id,
            time.strftime("%m-%d %H:%M", time.localtime(artifact.time_unix_nano / 1e9)),
        )
    return table


def artifact_view(artifact: record_pb2.Artifact, reader_run_ids: Sequence[str]) -> RenderableType:
    """Show one version with its files."""
    about = Table(box=None, pad_edge=False, show_header=False)
    about.add_column(style="bold")
    facts = {
        "artifact": f"{artifact.name}:{artifact.version}",
        "project": artifact.project,
        "type": artifact.type,
        "aliases": " ".join(artifact.aliases),
        "description": artifact.description,
        "made by": artifact.run_id,
        "read by": " ".join(reader_run_ids),
    }
    facts |= {key: str(value) for key, value in from_key_values(artifact.metadata).items()}
    for name, text in facts.items():
        if text:
            about.add_row(user_text(name), user_text(text))
    files = Table("FILE", box=None, pad_edge=False, header_style="bold")
    files.add_column("SIZE", justify="right")
    files.add_column("SHA-256")
    for file in artifact.files[:FILES_SHOWN_MAX]:
        where = user_text(file.reference_uri) if file.reference_uri else file.sha256.hex()
        files.add_row(user_text(file.name), bytes_text(file.size_bytes), where)
    more = len(artifact.files) - FILES_SHOWN_MAX
    return Group(about, "", files, *([f"and {more:,} more"] if more > 0 else []))


def artifact_json(artifact: record_pb2.Artifact) -> dict[str, Any]:
    """Return a version for `--json`; `files` only of one that was asked for by itself."""
    shape: dict[str, Any] = {
        "name": artifact.name,
        "version": artifact.version,
        "type": artifact.type,
        "project": artifact.project,
        "run_id": artifact.run_id,
        "aliases": list(artifact.aliases),
        "description": artifact.description,
        "metadata": plain_value(from_key_values(artifact.metadata)),
        "file_count": artifact.file_count,
        "size_bytes": artifact.size_bytes,
        "time_unix_nano": artifact.time_unix_nano,
        "sha256": artifact.sha256.hex(),
    }
    if artifact.files:
        shape["files"] = [
            {
                "name": file.name,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256.hex() or None,
                "reference_uri": file.reference_uri or None,
            }
            for file in artifact.files
        ]
    return shape


def garbage_view(garbage: Garbage, *, is_dry: bool) -> str:
    """Say what was removed, or would be."""
    verb = "would be removed" if is_dry else "removed"
    blob_bytes = sum(size for _, size in garbage.blobs)
    cache_bytes = sum(size for _, size in garbage.caches)
    cached = f"{count_text(len(garbage.caches), 'file')} of W&B's caches"
    return (
        f"{count_text(len(garbage.versions), 'version')} of artifacts {verb}\n"
        f"{count_text(len(garbage.blobs), 'file')} of {bytes_text(blob_bytes)} {verb}\n"
        f"{cached}, {bytes_text(cache_bytes)}, {verb}"
    )


def garbage_json(garbage: Garbage) -> dict[str, Any]:
    """Return it for `--json`."""
    return {
        "versions": [
            f"{each.artifact.project}/{each.artifact.name}:{each.artifact.version_name}"
            for each in garbage.versions
        ],
        "blob_count": len(garbage.blobs),
        "blob_bytes": sum(size for _, size in garbage.blobs),
        "cache_count": len(garbage.caches),
        "cache_bytes": sum(size for _, size in garbage.caches),
        "size_bytes": garbage.size_bytes,
    }
