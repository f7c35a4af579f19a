"""How the store keeps artifacts, and which run has made or read which. Within a transaction.

Only what is said of files is here; their bytes are in the blob store, for all sinks.
"""

from typing import Any

import sqlalchemy as sa

from pillion.artifact_names import version_number
from pillion_sidecar.artifact_records import Artifact, ArtifactUse
from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.store_artifacts import id_of
from pillion_sidecar.store_database import insert
from pillion_sidecar.store_tables import (
    artifact_aliases,
    artifact_files,
    artifact_runs,
    artifacts,
    runs,
)


def keep_artifact(
    connection: sa.Connection, owner: str, offset: Offset, artifact: Artifact
) -> None:
    """Keep a version. Of one that is known, metadata and description are taken anew if given."""
    place = {"owner": owner, "project": artifact.project, "name": artifact.name}
    artifact_id = id_of(connection, version=artifact.version_name, **place)
    if artifact_id is None:
        new = artifacts.insert().values(_row(artifact) | place).returning(artifacts.c.artifact_id)
        artifact_id = int(connection.execute(new).scalar_one())
        connection.execute(
            artifact_files.insert(),
            [
                {
                    "artifact_id": artifact_id,
                    "name": file.name,
                    "sha256": file.sha256,
                    "size_bytes": file.size_bytes,
                    "reference_uri": file.reference_uri,
                }
                for file in artifact.files
            ],
        )
    else:
        news = {"metadata": artifact.metadata, "description": artifact.description}
        if changes := {column: value for column, value in news.items() if value}:
            of_version = artifacts.c.artifact_id == artifact_id
            connection.execute(artifacts.update().where(of_version).values(changes))
    for alias in artifact.aliases:
        named = {"alias": alias, "artifact_id": artifact_id}
        moved = insert(connection, artifact_aliases).values(place | named)
        moved = moved.on_conflict_do_update(
            index_elements=list(artifact_aliases.primary_key), set_={"artifact_id": artifact_id}
        )
        connection.execute(moved)
    reference = f"{artifact.name}:{artifact.version_name}"
    time = artifact.time_unix_nano
    _link(connection, RunId(artifact.run_id), reference, artifact_id, offset, time, is_maker=True)
    _complete_uses(connection, owner, artifact, artifact_id)


def keep_use(
    connection: sa.Connection,
    run_id: RunId,
    place: tuple[str, str],
    offset: Offset,
    use: ArtifactUse,
) -> None:
    """Keep that a run reads an artifact: the version that the name means now.

    Args:
        connection: Whose transaction it is.
        run_id: The run.
        place: Its owner and project.
        offset: The run's cursor.
        use: What it reads.
    """
    name, _, version = use.artifact.partition(":")
    owner, project = place
    artifact_id = id_of(
        connection, owner=owner, project=project, name=name, version=version or "latest"
    )
    reference = use.artifact
    if artifact_id is not None and version_number(version) is None:
        query = sa.select(artifacts.c.version).where(artifacts.c.artifact_id == artifact_id)
        reference = f"{name}:v{connection.scalar(query)}"
    time = use.time_unix_nano
    _link(connection, run_id, reference, artifact_id, offset, time, is_maker=False)


def _complete_uses(
    connection: sa.Connection, owner: str, artifact: Artifact, artifact_id: int
) -> None:
    """Say of uses that came here before this version that they mean it: runs come in any order."""
    names = [*artifact.aliases, artifact.version_name]
    open_uses = (
        artifact_runs.c.artifact_id.is_(None),
        artifact_runs.c.reference.in_([f"{artifact.name}:{name}" for name in names]),
        artifact_runs.c.run_id.in_(
            sa.select(runs.c.run_id).where(
                runs.c.owner == owner, runs.c.project == artifact.project
            )
        ),
    )
    uses = connection.execute(artifact_runs.delete().where(*open_uses).returning(artifact_runs))
    reference = f"{artifact.name}:{artifact.version_name}"
    # A run that has read it under two names has one row for it in the end.
    for use in sorted(uses.all(), key=lambda use: -use.cursor):
        place = (RunId(use.run_id), reference, artifact_id, use.cursor, use.time_unix_nano)
        _link(connection, *place, is_maker=False)


def _link(
    connection: sa.Connection,
    run_id: RunId,
    reference: str,
    artifact_id: int | None,
    offset: Offset,
    time_unix_nano: int,
    *,
    is_maker: bool,
) -> None:
    link = insert(connection, artifact_runs).values(
        run_id=run_id,
        is_maker=is_maker,
        reference=reference,
        artifact_id=artifact_id,
        cursor=offset,
        time_unix_nano=time_unix_nano,
    )
    connection.execute(link.on_conflict_do_nothing())


def _row(artifact: Artifact) -> dict[str, Any]:
    return {
        "version": artifact.version,
        "type": artifact.type,
        "sha256": artifact.sha256,
        "metadata": artifact.metadata,
        "description": artifact.description,
        "registry_links": artifact.registry_links,
        "run_id": artifact.run_id,
        "time_unix_nano": artifact.time_unix_nano,
        "file_count": len(artifact.files),
        "size_bytes": artifact.size_bytes,
    }
