"""Questions side by side: what keeps others waiting, what is refused, and what is told at once."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stored_runs import Shelf

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import artifact_answers, queries
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import LimitError, StateError
from pillion_sidecar.journal import Journal
from pillion_sidecar.pages import Pages
from pillion_sidecar.queries import Queries
from pillion_sidecar.reading_places import READS_MAX
from pillion_sidecar.records import ConsoleLines, ConsoleStream
from pillion_sidecar.settings import load

WAIT_S = 120.0


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store with two runs."""
    with closing(Shelf(tmp_path)) as shelf:
        for run_id in ("a", "b"):
            shelf.start(run_id)
            shelf.log(run_id, 0, loss=[1.0])
        yield shelf


@pytest.fixture
def asked(shelf: Shelf, tmp_path: Path) -> Iterator[Queries]:
    """Make what answers from that store, whose worker is not running and has nothing left."""
    settings = load(data_dir=tmp_path, store=shelf.url)
    path = settings.journal_path
    unused: Any = None
    with closing(Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)) as journal:
        delivery = Delivery(settings, {}, {})
        pages = Pages(tmp_path / "pages.jsonl")
        yield Queries(settings, journal, delivery, unused, unused, pages, unused)


def test_a_store_that_hangs_keeps_no_look_at_the_journal_waiting(
    asked: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts of runs and the status need those: however many questions hang, they go on."""
    let_go = threading.Event()

    def hang(*_: Any) -> pb2.ListArtifactsResponse:
        let_go.wait(WAIT_S)
        return pb2.ListArtifactsResponse()

    monkeypatch.setattr(artifact_answers, "list_artifacts", hang)

    async def ask() -> None:
        hanging = [
            asyncio.create_task(asked.artifacts(pb2.ListArtifactsRequest())) for _ in range(100)
        ]
        await asyncio.sleep(0)  # now each looks at the journal, and hangs then
        try:
            for _ in range(2):  # the first has its look behind all of theirs
                with pytest.raises(StateError, match="no run nowhere"):
                    async with asyncio.timeout(WAIT_S / 2):
                        await anext(asked.metrics(pb2.ReadMetricsRequest(run_id="nowhere")))
        finally:
            let_go.set()
        await asyncio.gather(*hanging)

    asyncio.run(ask())


def test_comparisons_and_searches_have_the_places_of_long_reads(asked: Queries) -> None:
    """One too many is refused; a plain list of runs is not."""

    async def ask() -> None:
        pair = pb2.CompareRequest(run_ids=["a", "b"])
        searches = (
            pb2.ListRunsRequest(filters=["name=a"]),
            pb2.ListRunsRequest(order_by="name"),
        )
        request = pb2.ReadMetricsRequest(run_id="a")
        readers = [asked.metrics(request) for _ in range(READS_MAX)]
        for each in readers:
            await anext(each)
        with pytest.raises(LimitError, match="Take fewer"):
            await asked.compare(pair)
        for search in searches:
            with pytest.raises(LimitError, match="Take fewer"):
                await asked.runs(search)
        assert len((await asked.runs(pb2.ListRunsRequest())).runs) == 2
        for each in readers:
            await each.aclose()
        assert [run.run_id for run in (await asked.compare(pair)).runs] == ["a", "b"]
        assert [len((await asked.runs(search)).runs) for search in searches] == [1, 2]

    asyncio.run(ask())


def test_a_watcher_is_told_what_there_is_without_waiting_for_more(
    shelf: Shelf, asked: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that were printed before come at once, message by message."""
    monkeypatch.setattr(queries, "WATCH_TIMEOUT_S", 2 * WAIT_S)
    monkeypatch.setattr(queries, "WATCH_INTERVAL_S", 2 * WAIT_S)
    shelf.apply("a", *(ConsoleLines(ConsoleStream.STDOUT, 5, (str(n),)) for n in range(100)))

    async def watch() -> list[str]:
        told: list[str] = []
        stream = asked.watch(pb2.WatchRunRequest(run_id="a", console_lines=100))
        async with asyncio.timeout(WAIT_S):
            async for response in stream:
                told += [line for each in response.console for line in each.lines]
                if len(told) == 100:
                    break
        await stream.aclose()
        return told

    assert asyncio.run(watch()) == [str(number) for number in range(100)]
