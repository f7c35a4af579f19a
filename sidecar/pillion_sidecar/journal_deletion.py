"""Runs that are being deleted: gone from the journal, and from the store as soon as it follows.

Till then `meta` names them, with the store's cursor: what was begun is ended after any crash, and
nobody takes the id meanwhile, whose new rows would come behind the old ones. Works within
transactions that `journal.py` makes and on its thread only, but for `pending`.
"""

import sqlite3

from pillion_sidecar.records import Offset, RunId

KEY = "deleting "
"""Of `meta`, in front of the run's id."""

_TABLES = ("entries", "damaged", "keys", "writers", "runs")


def begin(db: sqlite3.Connection, run_id: RunId, cursor: Offset) -> None:
    """Delete a run here, and note that the store has to."""
    for table in _TABLES:
        db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (KEY + run_id, str(cursor)))


def end(db: sqlite3.Connection, run_id: RunId, cursor: Offset) -> None:
    """Take it that the store has deleted a run that had this cursor."""
    db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (KEY + run_id, str(cursor)))


def is_pending(db: sqlite3.Connection, run_id: RunId) -> bool:
    """Tell whether the store has yet to delete a run."""
    found = db.execute("SELECT 1 FROM meta WHERE key = ?", (KEY + run_id,))
    return found.fetchone() is not None


def pending(db: sqlite3.Connection) -> dict[RunId, Offset]:
    """Return the runs that the store has yet to delete, and the cursor that each has there."""
    found = db.execute("SELECT key, value FROM meta WHERE key GLOB ?", (f"{KEY}*",))
    return {RunId(key.removeprefix(KEY)): Offset(int(value)) for key, value in found}
