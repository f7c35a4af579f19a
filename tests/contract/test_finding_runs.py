"""Runs are found alike in either database."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from postgresql import PostgresqlServer

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import answers
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.records import (
    Environment,
    Frame,
    Offset,
    RunId,
    RunStart,
    WriterId,
)
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.watching import Watch


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_runs_are_found_sorted_and_watched(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By filters, by pages of an order, by name and by the beginning of an id; case counts."""
    url = f"sqlite:///{tmp_path}/store.db"
    if database == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        url = server.new_url()
    with closing(StoreSink(url, Blobs(tmp_path / "blobs"))) as sink, closing(Store(url)) as store:
        for number, run_id in enumerate(("a-1", "A-2", "b_3", "b%4")):
            fields = ("p", f"name {number}", "", "", (), "", {"lr": number % 3}, Environment())
            start = RunStart(RunId(run_id), WriterId("w"), *fields, number)
            sink.start(Offset(number * 2 + 1), start)
            axis = np.arange(number + 1)
            sink.apply(RunId(run_id), Offset(number * 2 + 2), [Frame(0, axis, axis, {"x": axis})])

        def find(**asked: object) -> list[str]:
            found: list[str] = []
            page = pb2.ListRunsResponse(next_page_token="")
            while not found or page.next_page_token:
                token = page.next_page_token
                page = answers.list_runs(store, pb2.ListRunsRequest(**asked, page_token=token))
                found += [run.run_id for run in page.runs]
            return found

        assert find(page_size=3) == ["b%4", "b_3", "A-2", "a-1"]
        assert find(filters=["config.lr>0", "summary.x>=1"]) == ["b_3", "A-2"]
        assert find(order_by="-config.lr", page_size=1) == ["b_3", "A-2", "b%4", "a-1"]
        assert find(reference="a-") == ["a-1"]
        assert find(reference="b_") == ["b_3"]
        assert find(reference="name 1") == ["A-2"]
        for nobody in ("a-\0", "\0", "b_3\0"):
            assert not answers.list_runs(store, pb2.ListRunsRequest(reference=nobody)).runs
        watch = Watch(pb2.WatchRunRequest(run_id="b_3", console_lines=5))
        told = watch.look(store, "")
        assert told is not None
        assert (told.row_count, told.last_step) == (3, 2)
        assert watch.look(store, "") is None
