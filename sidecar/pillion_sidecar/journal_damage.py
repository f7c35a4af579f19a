"""What stands for an entry of the journal that can no longer be read.

Whatever reads the journal then finds its run whole but for what is missing: rows as lost ones, a
start that says little, an end as CRASHED.
"""

from pillion.v1 import record_pb2
from pillion_sidecar.journal_reader import EntryKind
from pillion_sidecar.records import PROJECT_DEFAULT, LostRange, RunId, WriterId, lost_batch


def substitute(
    run_id: RunId, writer_id: WriterId, sequence: int, kind: EntryKind, row_count: int
) -> bytes:
    """Return the payload that takes the place of a damaged one."""
    if kind is EntryKind.START:
        return record_pb2.RunStart(
            run_id=run_id,
            writer_id=writer_id,
            project=PROJECT_DEFAULT,
            name=run_id,
            notes="How this run was started is damaged in the journal.",
        ).SerializeToString(deterministic=True)
    if kind is EntryKind.BATCH:
        return lost_batch(run_id, writer_id, LostRange(sequence, sequence, row_count))
    if kind is EntryKind.UPDATE:
        return record_pb2.RunUpdate(run_id=run_id).SerializeToString(deterministic=True)
    if kind is EntryKind.ARTIFACT:
        return record_pb2.Artifact(run_id=run_id).SerializeToString(deterministic=True)
    return record_pb2.RunFinish(
        run_id=run_id,
        writer_id=writer_id,
        state=record_pb2.RUN_STATE_CRASHED,
        reason="How this run ended is damaged in the journal.",
    ).SerializeToString(deterministic=True)
