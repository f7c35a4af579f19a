"""When a sidecar that was started for somebody is needed no longer, and may end by itself.

That is so when for a while no writer lived, and every sink has all that was journaled. A sink that
cannot get on keeps it: nobody might start the next one.
"""

import asyncio

from pillion_sidecar.adoption import Adoption
from pillion_sidecar.delivery import STORE, Delivery
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.liveness import Liveness
from pillion_sidecar.settings import Settings

POLL_MAX_S = 1.0


class Idleness:
    """Watches one sidecar. Used from the event loop only."""

    def __init__(
        self, settings: Settings, liveness: Liveness, delivery: Delivery, adoption: Adoption
    ) -> None:
        self._journal_path = settings.journal_path
        self._liveness, self._delivery, self._adoption = liveness, delivery, adoption

    async def wait(self, grace_s: float) -> None:
        """Wait until the sidecar has been idle for so long."""
        while True:
            await asyncio.sleep(min(POLL_MAX_S, grace_s / 4))
            if not self._is_idle(grace_s) or not await asyncio.to_thread(self._is_drained):
                continue
            if self._is_idle(grace_s):  # nobody has come meanwhile
                return

    def _is_idle(self, grace_s: float) -> bool:
        return self._liveness.idle_s() >= grace_s and not self._adoption.is_busy

    def _is_drained(self) -> bool:
        with JournalReader(self._journal_path) as journal:
            return not any(
                journal.runs_behind(self._delivery.through(sink), None if sink == STORE else sink)
                for sink in self._delivery.sinks
            )
