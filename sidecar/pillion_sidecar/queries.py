"""The service's questions: what was acked before a question is in its answer.

The store is filled by another process, a little later. So each question first waits, within the
setting `store_wait_s`, until the store has the runs it is about; then it is answered in a thread.
The store's threads are their own, few, and none of them is asyncio's: a database that hangs keeps
neither the start of a run nor the status waiting. What reads for long has one, with a bound and
rests; see `reading_places.py`.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from pillion._version import __version__
from pillion.v1 import record_pb2, run_pb2, telemetry_service_pb2
from pillion_sidecar import answers, artifact_answers, metric_answers, safety
from pillion_sidecar.adoption import Adoption
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.comparison_answers import check_question, compare_runs
from pillion_sidecar.configuration import Configuration
from pillion_sidecar.delivery import STORE, Delivery
from pillion_sidecar.errors import DiskError, SettingsError, StateError, unknown_run
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournaledRun, JournalReader
from pillion_sidecar.pages import Pages
from pillion_sidecar.reading_places import ReadingPlaces
from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.settings import Settings, WandbMode
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.store import Store
from pillion_sidecar.store_database import is_shared
from pillion_sidecar.uploader import Uploader
from pillion_sidecar.validation import check_run_id
from pillion_sidecar.watching import Watch

STORE_THREADS = 4
"""So many short questions are answered from the store at once; the others wait for their turn."""
OWNER_TIMEOUT_S = 2.0
"""How long the start of a run may wait to hear whose it is; then the store's worker finds out."""
WATCH_INTERVAL_S = 0.25
"""Between two looks at a run that is watched."""
WATCH_REST = 9
"""So much longer than a look takes it rests: those at runs of many metrics take a while."""
WATCH_TIMEOUT_S = 10.0
"""After that it looks in any case: another sidecar may write to the same store."""

STATUS_RUNS_MAX = 1000
AGE_MIN_S = 0.001
"""Of an entry that is not delivered, whatever the clock says: 0 means that there is none."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Queries:
    """Answers the service's questions. Used from the event loop only."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        delivery: Delivery,
        adoption: Adoption,
        configuration: Configuration,
        pages: Pages,
        uploader: Uploader,
    ) -> None:
        self._settings, self._journal, self._uploader = settings, journal, uploader
        self._configuration, self._pages = configuration, pages
        self._delivery, self._adoption = delivery, adoption
        self._places, self._watchers = (ReadingPlaces(lambda: delivery.is_busy) for _ in range(2))
        self._store_threads = ThreadPoolExecutor(STORE_THREADS, "store-reader")
        self._has_news = False
        """Whether each worker has told how far it is, or had time to."""
        self._started = Timestamp()
        self._started.FromNanoseconds(time.time_ns())

    async def check_is_ours(self, run_id: RunId) -> None:
        """Refuse a run that another sidecar has in a store that they share.

        As far as that can be told within `OWNER_TIMEOUT_S`: intake does not wait for a database.
        """
        if not is_shared(self._settings.store_url) or await self._ends([run_id]):
            return
        owner = None
        with suppress(TimeoutError, DiskError, SettingsError):
            async with asyncio.timeout(OWNER_TIMEOUT_S):
                owner = await self._read_store(lambda store: store.owner_of(run_id))
        if owner is not None and owner != owner_of(self._settings):
            raise StateError(
                f"Run {run_id} is another sidecar's, {owner}, with which this one shares a store. "
                "Take another id, or log to that one.",
                "RUN_ELSEWHERE",
            )

    async def runs(
        self, request: telemetry_service_pb2.ListRunsRequest
    ) -> telemetry_service_pb2.ListRunsResponse:
        """Answer `ListRuns`."""
        if request.reference:  # a run that is known already needs no waiting
            known = await self._answer(answers.list_runs, request, ())
            if known.runs:
                return known
        behind = await self._behind()
        is_long = bool(request.filters or request.order_by)
        response = await self._answer(answers.list_runs, request, behind, is_long=is_long)
        self._pages.show(response.runs)
        return response

    async def run(
        self, request: telemetry_service_pb2.GetRunRequest
    ) -> telemetry_service_pb2.GetRunResponse:
        """Answer `GetRun`."""
        response = await self._answer(answers.get_run, request, await self._ends([request.run_id]))
        self._pages.show([response.run])
        return response

    async def compare(
        self, request: telemetry_service_pb2.CompareRequest
    ) -> telemetry_service_pb2.CompareResponse:
        """Answer `Compare`."""
        check_question(request)  # before anything is read
        ends = await self._ends(request.run_ids)
        response = await self._answer(compare_runs, request, ends, is_long=True)
        self._pages.show(response.runs)
        response.url = self._pages.comparison_url(response.runs)
        return response

    async def artifacts(
        self, request: telemetry_service_pb2.ListArtifactsRequest
    ) -> telemetry_service_pb2.ListArtifactsResponse:
        """Answer `ListArtifacts`."""
        behind = await self._behind()
        return await self._answer(artifact_answers.list_artifacts, request, behind)

    async def artifact_content(
        self, request: telemetry_service_pb2.ReadArtifactRequest
    ) -> artifact_answers.Content:
        """Find what `ReadArtifact` asks for."""
        behind = await self._behind()
        blobs = Blobs(self._settings.blobs_dir)
        return await self._answer(
            lambda store, asked: artifact_answers.find_content(store, blobs, asked),
            request,
            behind,
        )

    async def metrics(
        self, request: telemetry_service_pb2.ReadMetricsRequest
    ) -> AsyncGenerator[bytes]:
        """Answer `ReadMetrics`, with messages that are encoded: that is not for the event loop."""
        metric_answers.check_selection(request)  # before anything is read
        ends = await self._ends([request.run_id])
        await self._delivery.wait_for(STORE, ends, self._settings.store_wait_s)
        responses = self._places.items(lambda: self._encoded_metrics(request))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def watch(
        self, request: telemetry_service_pb2.WatchRunRequest
    ) -> AsyncGenerator[telemetry_service_pb2.WatchRunResponse]:
        """Answer `WatchRun`: look whenever the store has something new of the run, or more."""
        watch, run_id = Watch(request), RunId(request.run_id)
        with self._watchers.place():
            ends = await self._ends([run_id])
            await self._delivery.wait_for(STORE, ends, self._settings.store_wait_s)
            while True:
                seen = self._delivery.progress(STORE, run_id).offset
                began_s = time.monotonic()
                url = self._pages.url(run_id)
                response = await self._watchers.run(functools.partial(self._look, watch, url))
                took_s = time.monotonic() - began_s
                if response is not None:
                    yield response
                if watch.is_over:
                    return
                if watch.has_more:
                    continue
                await asyncio.sleep(max(WATCH_INTERVAL_S, WATCH_REST * took_s))
                await self._delivery.wait_beyond(STORE, run_id, seen, WATCH_TIMEOUT_S)

    async def status(
        self, request: telemetry_service_pb2.GetStatusRequest
    ) -> telemetry_service_pb2.GetStatusResponse:
        """Answer `GetStatus`, from the journal and what the workers have reported."""
        read = functools.partial(self._standings, run_id=request.run_id)
        shown, totals, places = await self._read_journal(read)
        if any(sink.undelivered_run_count for sink in totals.sinks) and not self._has_news:
            # Just started: what the workers have not told yet is not undelivered.
            await self._delivery.wait_for_news(self._settings.store_wait_s)
            self._has_news = True
            shown, totals, places = await self._read_journal(read)
        room = await asyncio.wrap_future(self._journal.room())
        active = [
            run.run_id
            for run in shown
            if run.state == record_pb2.RUN_STATE_RUNNING
            and len(self._delivery.sinks_of(RunId(run.run_id))) > 1
        ]
        wandb = self._configuration.status(active)
        wandb.waiting_upload_count = self._uploader.waiting_count
        wandb.upload_problem = self._uploader.last_error
        response = telemetry_service_pb2.GetStatusResponse(
            version=__version__,
            journal_id=self._journal.id,
            data_dir=str(self._settings.data_dir),
            start_time=self._started,
            runs=shown,
            wandb=wandb,
            disk=run_pb2.DiskStatus(**asdict(room)),
            spool=run_pb2.SpoolStatus(**asdict(self._adoption.status())),
            workers=[
                run_pb2.WorkerStatus(
                    sink=worker.sink,
                    pid=worker.pid,
                    restart_count=worker.restart_count,
                    last_error=worker.error,
                )
                for worker in self._delivery.workers
            ],
            totals=totals,
        )
        response.sentence = safety.sentence(response, places)
        response.is_safe = safety.is_safe(response)
        return response

    def _encoded_metrics(
        self, request: telemetry_service_pb2.ReadMetricsRequest
    ) -> Iterator[bytes]:
        for response in metric_answers.read_metrics(self._store, request):
            yield response.SerializeToString()

    def _look(self, watch: Watch, url: str) -> telemetry_service_pb2.WatchRunResponse | None:
        return watch.look(self._store, url)

    @cached_property
    def _store(self) -> Store:
        return Store(self._settings.store_url, owner=owner_of(self._settings))

    async def _answer(
        self,
        answer: Callable[[Store, _Request], _Response],
        request: _Request,
        targets: Sequence[tuple[RunId, Offset]],
        *,
        is_long: bool = False,
    ) -> _Response:
        with self._places.place() if is_long else nullcontext():
            await self._delivery.wait_for(STORE, targets, self._settings.store_wait_s)
            if is_long:
                return await self._places.run(lambda: answer(self._store, request))
            return await self._read_store(lambda store: answer(store, request))

    async def _read_store(self, read: Callable[[Store], _Response]) -> _Response:
        return await asyncio.get_running_loop().run_in_executor(
            self._store_threads, lambda: read(self._store)
        )

    async def _ends(self, run_ids: Sequence[str]) -> list[tuple[RunId, Offset]]:
        """Return the last offset of each of these runs that the journal has."""

        def read(journal: JournalReader) -> list[tuple[RunId, Offset]]:
            runs = [journal.run(RunId(run_id)) for run_id in run_ids]
            return [(run.run_id, run.last_offset) for run in runs if run is not None]

        return await self._read_journal(read)

    async def _behind(self) -> list[tuple[RunId, Offset]]:
        """Return the last offset of each run of which the store does not have all."""
        through = self._delivery.through(STORE)
        return await self._read_journal(lambda journal: journal.runs_behind(through))

    async def _read_journal(self, read: Callable[[JournalReader], _Response]) -> _Response:
        def within_thread() -> _Response:
            with JournalReader(self._settings.journal_path) as journal:
                return read(journal)

        return await asyncio.to_thread(within_thread)

    def _standings(
        self, journal: JournalReader, run_id: str
    ) -> tuple[list[run_pb2.RunStatus], run_pb2.StatusTotals, dict[str, safety.Place]]:
        """Tell how far the latest runs have come, and all together, and where. In a thread."""
        if not run_id:
            runs = journal.runs()
        elif run := journal.run(check_run_id(run_id)):
            runs = [run]
        else:
            raise unknown_run(run_id)
        now_unix_nano = time.time_ns()
        standings = [
            (
                run,
                [
                    self._standing(journal, run, sink, now_unix_nano)
                    for sink in self._delivery.sinks_of(run.run_id)
                ],
            )
            for run in runs
        ]
        shown = [safety.run_status(*each) for each in standings[:STATUS_RUNS_MAX]]
        return shown, safety.totals(self._delivery.sinks, standings), self._places_of(standings)

    def _places_of(
        self, standings: Iterable[tuple[JournaledRun, Sequence[safety.Standing]]]
    ) -> dict[str, safety.Place]:
        """Tell for each W&B sink whether it writes these runs to the server, or to files.

        A run that has no page there is one of files, unless it is only to get there.
        """
        is_online = self._configuration.mode is WandbMode.ONLINE
        places: dict[str, safety.Place] = {}
        for run, its in standings:
            for one in its:
                if one.sink == STORE:
                    continue
                is_to_come = is_online and one.oldest_undelivered_age_s > 0
                is_there = bool(self._pages.url(run.run_id)) or is_to_come
                place = safety.Place.SERVER if is_there else safety.Place.FILES
                if places.setdefault(one.sink, place) is not place:
                    places[one.sink] = safety.Place.BOTH
        return places

    def _standing(
        self, journal: JournalReader, run: JournaledRun, sink: str, now_unix_nano: int
    ) -> safety.Standing:
        progress = self._delivery.progress(sink, run.run_id)
        trouble = progress.error or self._delivery.trouble(sink)
        if progress.offset < run.trimmed_offset:
            # Its position has fallen back, or was not reported yet: it gets the run from the store.
            lag = max(0, run.row_count - progress.row_count)
            return safety.Standing(
                *(sink, progress.row_count, lag, AGE_MIN_S, trouble, progress.reason)
            )
        behind = (
            journal.undelivered(run.run_id, progress.offset)
            if progress.offset < run.last_offset
            else None
        )
        if behind is None:  # a worker that is down does this run no harm
            return safety.Standing(
                *(sink, progress.row_count, 0, 0.0, progress.error, progress.reason)
            )
        first_ordinal, time_unix_nano = behind
        return safety.Standing(
            sink,
            progress.row_count,
            # The worker may have gone on since the run was looked up.
            max(0, run.row_count - first_ordinal),
            max(AGE_MIN_S, (now_unix_nano - time_unix_nano) / 1e9),
            trouble,
            progress.reason,
        )
