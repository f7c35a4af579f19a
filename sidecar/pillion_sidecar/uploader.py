"""Uploads offline runs by itself once there are a key and a server, by `pillion sync`.

That is a process of its own, since it needs the SDK. It may be killed at any time, and called by
people meanwhile: see `sync.py`. Whether anything is to be uploaded is decided by the caller.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping
from contextlib import suppress

from pillion_sidecar.settings import Settings
from pillion_sidecar.sinks.wandb_folders import is_synced, offline_folders
from pillion_sidecar.wandb_keys import netrc_in_memory

INTERVAL_S = 30.0
"""How often it is looked whether there is something to upload."""
PAUSE_MAX_S = 1800.0
"""Pauses grow up to here while something keeps an upload."""

log = logging.getLogger(__name__)


class Uploader:
    """Looks after one data directory."""

    def __init__(
        self,
        settings: Settings,
        account: Callable[[], Mapping[str, str] | None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Make one.

        Args:
            settings: Where the offline runs are.
            account: Returns what the upload is to be told: WANDB_BASE_URL, WANDB_API_KEY and
                WANDB_ENTITY; None: nothing is to be uploaded now.
            interval_s: How often to look.
        """
        self._settings, self._account, self._interval_s = settings, account, interval_s
        self.waiting_count = 0
        """Offline runs that have ended and are not uploaded, when it was looked last."""
        self.last_error = ""
        """What has kept the last upload, for people; empty: nothing."""

    async def run(self) -> None:
        """Look again and again. Cancelled, it kills an upload, which the next one goes on with."""
        loop = asyncio.get_running_loop()
        tried: Mapping[str, str] | None = None
        pause_s, not_before_s = self._interval_s, 0.0
        while True:
            await self._count()
            account = self._account()
            is_due = account != tried or loop.time() >= not_before_s
            if account is not None and is_due and self.waiting_count:
                is_well = await self._upload(account)
                pause_s = self._interval_s if is_well else min(2 * pause_s, PAUSE_MAX_S)
                tried, not_before_s = account, loop.time() + pause_s
                await self._count()
            await asyncio.sleep(self._interval_s)

    async def _count(self) -> None:
        self.waiting_count = await asyncio.to_thread(
            lambda: sum(
                not is_synced(folder)
                for directory in self._settings.wandb_dirs
                for folder in offline_folders(directory).values()
            )
        )

    async def _upload(self, account: Mapping[str, str]) -> bool:
        """Upload what there is; tell whether all of it is there."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PILLION_", "WANDB_"))}
        told = dict(account)
        key = told.pop("WANDB_API_KEY")
        with netrc_in_memory(told["WANDB_BASE_URL"], key) as (netrc, descriptor):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pillion_sidecar", "sync", "--json"),
                *("--data-dir", str(self._settings.data_dir)),
                env={**kept, **told, "NETRC": netrc},
                pass_fds=[descriptor],
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,  # a group of its own, with `wandb sync` in it
            )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it is just ending
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        runs = json.loads(output)["runs"] if output else []
        failed = [run["sentence"] for run in runs if run["state"] == "failed"]
        synced_count = sum(run["state"] == "synced" for run in runs)
        if synced_count:
            log.info("offline runs uploaded", extra={"run_count": synced_count})
        error = failed[0] if failed else ""
        if process.returncode and not error:
            error = errors.decode(errors="replace").strip()
        if error and error != self.last_error:
            log.warning("offline runs wait", extra={"error": error})
        self.last_error = error
        return not process.returncode
