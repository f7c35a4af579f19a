"""What the store knows of artifacts, their files, and the runs that made or read them: the reads.

Each works on a connection, so that several can be made in one snapshot. What is on disk:
`store_tables.py`; it is written by `sinks/store_artifacts.py`.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pillion.artifact_names import version_number
from pillion_sidecar.artifact_records import Artifact, ArtifactFile, ArtifactUse
from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.store_tables import (
    artifact_aliases,
    artifact_files,
    artifact_runs,
    artifacts,
    readable,
)


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """A version of an artifact, as the store has it."""

    artifact_id: int
    """Grows with the time at which it was kept."""
    artifact: Artifact
    """Without its files, unless they were asked for."""
    file_count: int
    size_bytes: int


def has_artifacts(connection: sa.Connection) -> bool:
    """Tell whether the store has these tables as they are read here: since format 4."""
    return set(readable(connection, artifacts)) == set(artifacts.c)


def id_of(
    connection: sa.Connection, *, owner: str, project: str, name: str, version: str
) -> int | None:
    """Return the version of an owner's that `v3`, or an alias, means; None if there is none."""
    number = version_number(version)
    if number is not None:
        query = sa.select(artifacts.c.artifact_id).where(
            artifacts.c.owner == owner,
            artifacts.c.project == project,
            artifacts.c.name == name,
            artifacts.c.version == number,
        )
    else:
        query = sa.select(artifact_aliases.c.artifact_id).where(
            artifact_aliases.c.owner == owner,
            artifact_aliases.c.project == project,
            artifact_aliases.c.name == name,
            artifact_aliases.c.alias == version,
        )
    found = connection.scalar(query)
    return None if found is None else int(found)


def projects_with(connection: sa.Connection, owner: str, name: str) -> list[str]:
    """Return the projects in which an owner has an artifact of this name."""
    is_meant = (artifacts.c.owner == owner) & (artifacts.c.name == name)
    query = sa.select(artifacts.c.project).where(is_meant).distinct()
    return list(connection.scalars(query.order_by(artifacts.c.project)))


def find(
    connection: sa.Connection,
    owner: str,
    *,
    project: str = "",
    name: str = "",
    run_id: str = "",
    limit: int | None = None,
    before: int | None = None,
) -> list[StoredArtifact]:
    """Return an owner's artifacts without their files, the latest first; empty: of all."""
    query = artifacts.select().where(artifacts.c.owner == owner)
    query = query.order_by(artifacts.c.artifact_id.desc()).limit(limit)
    if project:
        query = query.where(artifacts.c.project == project)
    if name:
        query = query.where(artifacts.c.name == name)
    if run_id:
        of_run = sa.select(artifact_runs.c.artifact_id).where(artifact_runs.c.run_id == run_id)
        query = query.where(artifacts.c.artifact_id.in_(of_run))
    if before is not None:
        query = query.where(artifacts.c.artifact_id < before)
    return [_stored(connection, row) for row in connection.execute(query).mappings().all()]


def one(connection: sa.Connection, artifact_id: int) -> StoredArtifact | None:
    """Return one version with its files; None if it is not there any more."""
    query = artifacts.select().where(artifacts.c.artifact_id == artifact_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    files = artifact_files.select().where(artifact_files.c.artifact_id == artifact_id)
    known = connection.execute(files.order_by(artifact_files.c.name))
    return _stored(
        connection,
        row,
        tuple(ArtifactFile(f.name, f.sha256, f.size_bytes, f.reference_uri) for f in known),
    )


def file_of(connection: sa.Connection, artifact_id: int, name: str) -> ArtifactFile | None:
    """Return one file of a version."""
    query = artifact_files.select().where(
        artifact_files.c.artifact_id == artifact_id, artifact_files.c.name == name
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ArtifactFile(row.name, row.sha256, row.size_bytes, row.reference_uri)


def known_versions(connection: sa.Connection, owner: str) -> list[tuple[str, str, int, bytes]]:
    """Return project, name, version and digest of all versions of an owner that are kept."""
    if not has_artifacts(connection):
        return []
    query = sa.select(
        artifacts.c.project, artifacts.c.name, artifacts.c.version, artifacts.c.sha256
    ).where(artifacts.c.owner == owner)
    return [(*row,) for row in connection.execute(query)]


def readers(connection: sa.Connection, artifact_id: int, limit: int) -> list[str]:
    """Return the runs that have read a version, the latest first."""
    query = sa.select(artifact_runs.c.run_id).where(
        artifact_runs.c.artifact_id == artifact_id, ~artifact_runs.c.is_maker
    )
    query = query.order_by(artifact_runs.c.time_unix_nano.desc()).limit(limit)
    return list(connection.scalars(query))


def links_of(connection: sa.Connection, run_id: RunId, through: Offset) -> list[int | ArtifactUse]:
    """Return the ids of what a run has made, and what it has read, in the order of time.

    Args:
        connection: The store.
        run_id: The run.
        through: Only what came up to this cursor of the run.
    """
    if not has_artifacts(connection):
        return []
    query = artifact_runs.select().where(
        artifact_runs.c.run_id == run_id, artifact_runs.c.cursor <= through
    )
    # What has one cursor came together: then what is made comes before what may be read of it.
    in_order = query.order_by(
        artifact_runs.c.cursor, artifact_runs.c.is_maker.desc(), artifact_runs.c.artifact_id
    )
    return [
        link.artifact_id if link.is_maker else ArtifactUse(link.reference, link.time_unix_nano)
        for link in connection.execute(in_order)
    ]


def _stored(
    connection: sa.Connection, row: sa.RowMapping, files: tuple[ArtifactFile, ...] = ()
) -> StoredArtifact:
    query = sa.select(artifact_aliases.c.alias).where(
        artifact_aliases.c.artifact_id == row["artifact_id"]
    )
    aliases = connection.scalars(query.order_by(artifact_aliases.c.alias)).all()
    fields: dict[str, Any] = {
        name: row[name]
        for name in (
            *("run_id", "project", "name", "type", "version", "metadata", "description"),
            *("time_unix_nano", "sha256"),
        )
    }
    artifact = Artifact(
        **fields,
        aliases=tuple(aliases),
        files=files,
        registry_links=tuple(row["registry_links"]),
    )
    return StoredArtifact(row["artifact_id"], artifact, row["file_count"], row["size_bytes"])
