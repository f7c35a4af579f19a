"""Which version an artifact is, within a transaction that `journal.py` makes.

Versions count from 0 per project and name, and are never given twice, whatever becomes of the
artifacts: the table outlives their entries. The same files under the same name are the same
version.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from pillion_sidecar.artifact_records import LATEST, Artifact, digest_of

_INSERT = "INSERT OR IGNORE INTO artifacts (project, name, version, sha256) VALUES (?, ?, ?, ?)"

VersionRow = tuple[str, str, int, bytes]
"""Project, name, version and digest."""


def numbered(db: sqlite3.Connection, artifact: Artifact, project: str) -> Artifact:
    """Return an artifact with what the sidecar gives it; its version is known from now on."""
    sha256 = digest_of(artifact.files)
    found = db.execute(
        "SELECT version FROM artifacts WHERE project = ? AND name = ? AND sha256 = ?",
        (project, artifact.name, sha256),
    ).fetchone()
    if found is None:
        found = db.execute(
            "SELECT coalesce(max(version) + 1, 0) FROM artifacts WHERE project = ? AND name = ?",
            (project, artifact.name),
        ).fetchone()
        db.execute(_INSERT, (project, artifact.name, found[0], sha256))
    return replace(
        artifact,
        project=project,
        version=found[0],
        aliases=tuple(dict.fromkeys([*artifact.aliases, LATEST])),
        sha256=sha256,
    )


def know(db: sqlite3.Connection, versions: Iterable[VersionRow]) -> None:
    """Take versions that were given by a journal which is gone, or has lost its end."""
    db.executemany(_INSERT, versions)
