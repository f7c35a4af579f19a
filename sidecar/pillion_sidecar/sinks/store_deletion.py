"""Deletes a run from the store with all that is its own, within a transaction of the caller's.

Artifacts that it has made are no part of it: they stay, and name it as their maker. The bytes of
files lie in the blob store, where `pillion gc` finds those that nothing names any more.
"""

import sqlalchemy as sa

from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.store_tables import (
    alerts,
    artifact_runs,
    chunks,
    columns,
    console,
    events,
    runs,
    segments,
    signatures,
)


def delete_run(connection: sa.Connection, owner: str, run_id: RunId, cursor: Offset) -> None:
    """Delete an owner's run, unless its cursor is another one: then it has come back."""
    is_meant = (runs.c.run_id == run_id) & (runs.c.owner == owner) & (runs.c.cursor == cursor)
    found = sa.select(runs.c.run_id).where(is_meant).with_for_update()
    if connection.execute(found).one_or_none() is None:
        return
    of_run = sa.select(signatures.c.signature_id).where(signatures.c.run_id == run_id)
    in_run = segments.c.signature_id.in_(of_run)
    in_segments = columns.c.segment_id.in_(sa.select(segments.c.segment_id).where(in_run))
    connection.execute(columns.delete().where(in_segments))
    connection.execute(segments.delete().where(in_run))
    for table in (signatures, console, alerts, events, chunks, artifact_runs, runs):
        connection.execute(table.delete().where(table.c.run_id == run_id))
