"""Delivery: one worker per sink, and how far each has come.

The workers' processes are kept alive by `supervisor.py`; what they report is kept here. Intake
never waits for anything here.
"""

import asyncio
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.supervisor import Supervisor, Worker
from pillion_sidecar.wandb_keys import Account

STORE = "store"
ANOMALIES = "anomalies"

BUSY_S = 0.02
"""Trainers of the usual pace send ten times a second; what comes sooner is a flood."""

TRIM_RUNS_MAX = 1_000
"""At once: the journal looks for each what it can delete. The others have their turn next."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one sink has come with one run."""

    offset: Offset = field(default=Offset(0))
    row_count: int = 0
    error: str = ""
    reason: str = ""
    """The same for programs, as far as it has a name."""


class Delivery:
    """Drives the workers. Used from the event loop only, but for what `Queries` reads in a thread.

    That is `sinks`, `sinks_of`, `progress` and `trouble`; a sink may be gone between two of them.
    """

    def __init__(
        self,
        settings: Settings,
        accounts: Mapping[str, Account | None],
        destinations: Mapping[RunId, str],
        *,
        on_damaged: Callable[[Offset], Any] = lambda _: None,
        on_corrupt: Callable[[str], Any] = lambda _: None,
        on_news: Callable[[RunId, str, bool], Any] = lambda *_: None,
        on_found: Callable[[RunId, dict[str, Any]], Any] = lambda *_: None,
        on_deleted: Callable[[RunId, Offset], Any] = lambda *_: None,
    ) -> None:
        """Prepare a worker per sink, and the one that looks for anomalies if that is wanted.

        Args:
            settings: Say where everything is.
            accounts: The W&B sinks, and what each is to use; None: it has no key.
            destinations: To which W&B sink each run goes; empty: to none.
            on_damaged: Called with the journal entry that a worker found damaged; once per worker.
            on_corrupt: Called with what a worker found when it could not read the journal.
            on_news: Called with a run, its page at W&B, and whether it is asked to stop there.
            on_found: Called with a run and what a rule has found in it, as a `Finding`'s fields.
            on_deleted: Called with a run that the store has deleted, and the cursor it had.
        """
        self._settings = settings
        self._on_damaged, self._on_corrupt, self._on_news = on_damaged, on_corrupt, on_news
        self._on_found, self._on_deleted = on_found, on_deleted
        self._accounts: dict[str, Account | None] = dict(accounts)
        self._destinations = dict(destinations)
        self._sinks = {name: self._sink(name) for name in (STORE, *accounts)}
        self._watcher = self._sink(ANOMALIES) if settings.anomalies else None
        """No destination of anything: nothing waits for it."""
        self._is_started = self._is_draining = False
        self._woken_s = 0.0
        self._moved: set[RunId] = set()
        """Runs whose trim points may have moved and were not told since."""

    @property
    def is_busy(self) -> bool:
        """Whether something new came just now: intake needs the processor."""
        return time.monotonic() - self._woken_s < BUSY_S

    @property
    def sinks(self) -> list[str]:
        """The sinks' names."""
        return list(self._sinks)

    def sinks_of(self, run_id: RunId) -> list[str]:
        """Return the sinks to which a run goes, as far as there are any now."""
        destination = self._destinations.get(run_id)
        if destination is None:  # taken over from a spool file: who has told of it has it
            others = self._sinks.keys() - {STORE}
            return [STORE, *(name for name in others if run_id in self._sinks[name].progress)]
        return [STORE, destination] if destination in self._sinks else [STORE]

    @property
    def workers(self) -> list[Worker]:
        """How the sinks' processes stand."""
        return [sink.supervisor.state for sink in self._all()]

    def bind(self, run_id: RunId, sink: str) -> None:
        """Take it that a run goes to this W&B sink; a run's first one stands."""
        self._destinations.setdefault(run_id, sink)

    async def configure(self, accounts: Mapping[str, Account | None]) -> None:
        """Have these W&B sinks, with these accounts, in place of those there are."""
        before, self._accounts = self._accounts, dict(accounts)
        for name in before.keys() - accounts.keys():
            await self._sinks.pop(name).supervisor.stop()
        for name, account in accounts.items():
            if name not in self._sinks:
                self._sinks[name] = self._sink(name)
                if self._is_started:
                    self._sinks[name].supervisor.start()
            elif account != before[name]:
                self._sinks[name].supervisor.renew(self._setup(name))
        self._moved.update(self._destinations)

    def start(self) -> None:
        """Start the workers."""
        self._is_started = True
        for sink in self._all():
            sink.supervisor.start()

    def wake(self) -> None:
        """Tell the workers that there is something new. Cheap; never blocks."""
        self._woken_s = time.monotonic()
        for sink in self._all():
            sink.supervisor.wake()

    def delete(self, run_id: RunId, cursor: Offset) -> None:
        """Forget a run, and have the workers do so: the store's deletes it if it has this cursor.

        To be called again until `on_deleted` is.
        """
        self._destinations.pop(run_id, None)
        self._moved.discard(run_id)
        for sink in self._all():
            sink.forget(run_id)
            sink.supervisor.tell({"delete": {"run_id": run_id, "cursor": cursor}})

    def progress(self, sink: str, run_id: RunId) -> Progress:
        """Tell how far a sink has come with a run."""
        found = self._sinks.get(sink)
        return found.progress.get(run_id, Progress()) if found else Progress()

    def trouble(self, sink: str) -> str:
        """Tell why no worker delivers to a sink; empty if one does."""
        found = self._sinks.get(sink)
        return found.supervisor.error if found else ""

    def through(self, sink: str) -> Offset:
        """Tell up to which offset the sink has confirmed everything."""
        return self._sinks[sink].through

    def trim_points(self) -> dict[RunId, Offset]:
        """Tell up to where runs are in every sink: some of those for which that may have moved.

        Counts what the workers that run now have reported. Some sinks' positions may fall back
        afterwards; then they are given from the store what the journal no longer has. The store's
        own never does.
        """
        for sink in self._sinks.values():
            self._moved |= sink.unseen
            sink.unseen.clear()
        points: dict[RunId, Offset] = {}
        while self._moved and len(points) < TRIM_RUNS_MAX:
            run_id = self._moved.pop()
            sinks = map(self._sinks.__getitem__, self.sinks_of(run_id))
            if offset := min(sink.current(run_id) for sink in sinks):
                points[run_id] = offset
        return points

    async def wait_for(
        self, sink: str, targets: Iterable[tuple[RunId, Offset]], timeout_s: float
    ) -> bool:
        """Wait until the sink has confirmed each run up to its offset; tell whether it has."""
        confirming = self._sinks[sink]
        remaining = list(targets)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    moved = confirming.moved
                    remaining = [
                        (run_id, offset)
                        for run_id, offset in remaining
                        if offset > max(self.progress(sink, run_id).offset, confirming.through)
                    ]
                    if not remaining:
                        break
                    await moved.wait()
        return not remaining

    async def wait_beyond(self, sink: str, run_id: RunId, offset: Offset, timeout_s: float) -> None:
        """Wait until the sink has confirmed something of a run behind an offset."""
        confirming = self._sinks[sink]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.progress(sink, run_id).offset <= offset:
                    await confirming.moved.wait()

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until each sink's worker has told how far it is, or why it cannot tell."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for sink in [*self._sinks.values()]:
                    while not sink.has_told:
                        await sink.moved.wait()

    async def drain(self, timeout_s: float) -> bool:
        """Let the workers deliver what is left, as far as the time allows; tell whether all did."""
        return all(await asyncio.gather(*(sink.drain(timeout_s) for sink in self._sinks.values())))

    async def stop(self) -> None:
        """End the workers."""
        await asyncio.gather(*(sink.supervisor.stop() for sink in self._all()))

    def _sink(self, name: str) -> "_Sink":
        log_path = self._settings.data_dir / "logs" / f"sink-{name}.log"
        return _Sink(
            *(self._setup(name), log_path, self._on_damaged, self._on_corrupt),
            *(self._on_news, self._on_found),
            self._on_deleted if name == STORE else lambda *_: None,
        )

    def _all(self) -> list["_Sink"]:
        return [*self._sinks.values(), *([self._watcher] if self._watcher else [])]

    def _setup(self, name: str) -> dict[str, Any]:
        settings, account = self._settings, self._accounts.get(name)
        return {
            "sink": name,
            "journal": str(settings.journal_path),
            "lock": str(settings.data_dir / f"sink-{name}.lock"),
            "store_url": settings.store_url,
            "store_owner": owner_of(settings),
            "wandb_dir": str(settings.data_dir / name),
            "blobs_dir": str(settings.blobs_dir),
            "account": None if account is None else [account.base_url, account.key],
            "send_interval_s": settings.wandb_send_interval_s,
            "watch": _watch_setup(settings) if name == ANOMALIES else None,
            "log_format": settings.log_format,
            "log_level": settings.log_level,
        }


def _watch_setup(settings: Settings) -> dict[str, Any]:
    """Return what the worker that looks for anomalies has to know."""
    return {
        "marks": str(settings.marks_path),
        "rules": list(settings.anomaly_rules),
        "stall_min_s": settings.anomaly_stall_min_s,
        "webhook": settings.alert_webhook,
        "command": shlex.split(settings.alert_command),
        "level_min": settings.alert_level_min.name,
    }


class _Sink:
    """What one sink's workers have reported."""

    def __init__(
        self,
        setup: dict[str, Any],
        log_path: Path,
        on_damaged: Callable[[Offset], Any],
        on_corrupt: Callable[[str], Any],
        on_news: Callable[[RunId, str, bool], Any],
        on_found: Callable[[RunId, dict[str, Any]], Any],
        on_deleted: Callable[[RunId, Offset], Any],
    ) -> None:
        self.supervisor = Supervisor(
            setup, log_path, on_start=self._begin, on_message=self._take_in
        )
        self._on_news, self._on_found = on_news, on_found
        self._on_damaged, self._on_corrupt = on_damaged, on_corrupt
        self._on_deleted = on_deleted
        self._drained = asyncio.Event()
        """Set when a draining worker has nothing left, or can do nothing."""
        self._current: set[RunId] = set()
        """Runs on which the process that runs now has reported."""
        self.progress: dict[RunId, Progress] = {}
        self.unseen: set[RunId] = set()
        """Runs whose position may have moved since it was last asked for."""
        self.through = Offset(0)
        self.moved = asyncio.Event()
        """Set, and replaced, whenever `progress` or `through` changes."""

    @property
    def has_told(self) -> bool:
        """Whether anything is known of this sink since the sidecar's start."""
        return bool(self.progress or self.through or self.supervisor.error)

    def current(self, run_id: RunId) -> Offset:
        """Tell the run's position as the process that runs now has reported it."""
        return self.progress[run_id].offset if run_id in self._current else Offset(0)

    def forget(self, run_id: RunId) -> None:
        """Take it that there is no such run."""
        self.progress.pop(run_id, None)
        self._current.discard(run_id)
        self.unseen.discard(run_id)

    async def drain(self, timeout_s: float) -> bool:
        self.supervisor.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        return self._drained.is_set() and not self.supervisor.error

    def _begin(self) -> None:
        self._current.clear()

    def _take_in(self, message: dict[str, Any]) -> None:
        if "run_id" in message:
            run_id = RunId(message["run_id"])
            self.supervisor.works()
            self.progress[run_id] = Progress(
                *(Offset(message["offset"]), message["row_count"]),
                *(message["error"], message["reason"]),
            )
            self._current.add(run_id)
            self.unseen.add(run_id)
        elif "through" in message:
            self.supervisor.works()
            self.through = Offset(message["through"])
        elif "news" in message:
            news = message["news"]
            self._on_news(RunId(news["run_id"]), news["url"], news["should_stop"])
        elif "found" in message:
            found = message["found"]
            self._on_found(RunId(found["run_id"]), found["finding"])
        elif "deleted" in message:
            deleted = message["deleted"]
            self._on_deleted(RunId(deleted["run_id"]), Offset(deleted["cursor"]))
        elif "damaged" in message:
            self._on_damaged(Offset(message["damaged"]))
        elif "corrupt" in message:
            self._on_corrupt(message["corrupt"])
        elif "drained" in message:
            self._drained.set()
        elif "failed" in message:
            self.supervisor.cannot(message["failed"])
            self._drained.set()
        self.moved.set()
        self.moved = asyncio.Event()
