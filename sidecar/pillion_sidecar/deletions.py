"""Deletes runs that have ended: from the journal at once, then from the store, by its worker.

The journal comes first, in one transaction, and keeps in mind what the store has yet to do
(`journal_deletion.py`); the worker is told of it until it has done so. Used from the event loop
only.
"""

import asyncio
import logging
from contextlib import closing, suppress
from dataclasses import dataclass, field

from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import StateError, unknown_run
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournaledRun, JournalReader
from pillion_sidecar.notices import Notices
from pillion_sidecar.pages import Pages
from pillion_sidecar.records import Offset, RunId, RunState
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.store import Store

DELIVERED_TIMEOUT_S = 5.0
"""How long the sinks may take to confirm a run that is to be deleted."""
STORE_TIMEOUT_S = 5.0
"""How long an answer may wait for the store; then it tells that the store has yet to follow."""
RETRY_S = 1.0
"""So often the workers are told of what the store has not deleted yet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A run that the store has yet to delete."""

    cursor: Offset
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Deletions:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        delivery: Delivery,
        pages: Pages,
        notices: Notices,
    ) -> None:
        self._settings, self._journal, self._delivery = settings, journal, delivery
        self._pages, self._notices = pages, notices
        self._pending = {
            run_id: _Pending(cursor) for run_id, cursor in journal.pending_deletions().items()
        }

    async def delete(self, run_id: RunId) -> bool:
        """Delete a run for good; tell whether the store has done so too, or has yet to.

        Raises:
            StateError: There is no such run here, it has not ended, or some sink lacks something.
            DiskError: The journal or the store cannot be read or written.
        """
        if run_id not in self._pending:
            run = await asyncio.to_thread(self._journaled, run_id)
            cursor = await (self._check(run) if run else asyncio.to_thread(self._stored, run_id))
            durable = asyncio.wrap_future(self._journal.delete(run_id, cursor))

            def go_on(done: asyncio.Future[None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self._begin(run_id, cursor)

            # Also for a caller that has gone meanwhile: it is on disk all the same.
            durable.add_done_callback(go_on)
            await asyncio.shield(durable)
        if (pending := self._pending.get(run_id)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(pending.done.wait(), STORE_TIMEOUT_S)
        return run_id not in self._pending

    def note_deleted(self, run_id: RunId, cursor: Offset) -> None:
        """Take it that the store has deleted a run that had this cursor."""
        pending = self._pending.get(run_id)
        if pending is None or pending.cursor != cursor:
            return

        def forget(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:  # else it is told once more
                self._pending.pop(run_id, None)
                pending.done.set()

        settled = self._journal.end_deletion(run_id, cursor)
        asyncio.wrap_future(settled).add_done_callback(forget)

    async def run(self) -> None:
        """Tell the workers again and again, as long as there is something to delete."""
        while True:
            for run_id, pending in self._pending.items():
                self._delivery.delete(run_id, pending.cursor)
            await asyncio.sleep(RETRY_S)

    def _begin(self, run_id: RunId, cursor: Offset) -> None:
        """Have everybody else forget a run that is deleted from the journal."""
        log.info("run deleted", extra={"run_id": run_id})
        self._pending.setdefault(run_id, _Pending(cursor))  # another call may have begun it
        self._notices.forget(run_id)
        with suppress(OSError):  # the disk is full; nothing depends on it
            self._pages.forget(run_id)
        self._delivery.delete(run_id, cursor)

    def _journaled(self, run_id: RunId) -> JournaledRun | None:
        with JournalReader(self._settings.journal_path) as journal:
            return journal.run(run_id)

    async def _check(self, run: JournaledRun) -> Offset:
        """Return the cursor that a run has in the store, if it may be deleted."""
        if run.state is not RunState.RUNNING:  # of one that runs, the journal itself says so
            for sink in self._delivery.sinks_of(run.run_id):
                end = [(run.run_id, run.last_offset)]
                if not await self._delivery.wait_for(sink, end, DELIVERED_TIMEOUT_S):
                    trouble = self._delivery.progress(sink, run.run_id).error
                    raise StateError(
                        f"Run {run.run_id} is not delivered to {sink} yet"
                        f"{f': {trouble}' if trouble else '.'} `pillion wait {run.run_id}` waits "
                        "until it is; delete it then.",
                        "RUN_UNDELIVERED",
                    )
        return run.last_offset

    def _stored(self, run_id: RunId) -> Offset:
        """Return the cursor of a run that only the store has."""
        owner = owner_of(self._settings)
        with closing(Store(self._settings.store_url, owner=owner)) as store:
            cursor, of_whom = store.cursor(run_id), store.owner_of(run_id)
        if of_whom is None:
            raise unknown_run(run_id)
        if cursor is None:
            raise StateError(
                f"Run {run_id} is another sidecar's, {of_whom}, with which this one shares a "
                "store. Delete it there.",
                "RUN_ELSEWHERE",
            )
        return cursor
