"""Delivery: what is trimmed is what every sink's present worker has reported."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pillion_sidecar import delivery
from pillion_sidecar.delivery import Delivery, Progress
from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.settings import Settings

RUN, OTHER_RUN = RunId("run"), RunId("other-run")


class Reports:
    """A delivery without workers, and a hand to report in their place."""

    def __init__(self, directory: Path, *sinks: str) -> None:
        self.damaged: list[Offset] = []
        self.causes: list[str] = []
        self.found: list[tuple[RunId, dict[str, Any]]] = []
        self.deleted: list[tuple[RunId, Offset]] = []
        settings = Settings(data_dir=directory, listen=f"unix:{directory}/s.sock")
        self.delivery = Delivery(
            settings,
            dict.fromkeys(sinks),
            dict.fromkeys((RUN, OTHER_RUN, *map(RunId, "0123456")), "wandb"),
            on_damaged=self.damaged.append,
            on_corrupt=self.causes.append,
            on_found=lambda run_id, fields: self.found.append((run_id, fields)),
            on_deleted=lambda run_id, cursor: self.deleted.append((run_id, cursor)),
        )

    def say(self, sink: str, **message: Any) -> None:
        """Have a sink's worker say something."""
        watcher = self.delivery._watcher
        assert watcher is not None
        (watcher if sink == "anomalies" else self.delivery._sinks[sink])._take_in(message)

    def reach(self, sink: str, offset: int, run_id: RunId = RUN) -> None:
        """Have a sink's worker report a run's position."""
        self.say(sink, run_id=run_id, offset=offset, row_count=1, error="", reason="")

    def restart(self, sink: str) -> None:
        """Have a sink's worker be replaced."""
        self.delivery._sinks[sink]._begin()


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """Return a delivery to the store and to W&B."""
    return Reports(tmp_path, "wandb")


def test_nothing_is_trimmed_that_a_sink_does_not_have(reports: Reports) -> None:
    """The lowest position counts, once every sink has told its own."""
    reports.reach("store", 9)
    assert reports.delivery.trim_points() == {}
    reports.reach("wandb", 0)
    assert reports.delivery.trim_points() == {}
    reports.reach("wandb", 4)
    reports.reach("store", 5, OTHER_RUN)
    assert reports.delivery.trim_points() == {RUN: 4}
    reports.reach("wandb", 12)
    assert reports.delivery.trim_points() == {RUN: 9}


def test_nothing_waits_for_the_worker_that_looks_for_anomalies(reports: Reports) -> None:
    """It is no destination; what it finds is passed on."""
    reports.reach("store", 9)
    reports.reach("wandb", 8)
    reports.reach("anomalies", 2)
    reports.say("anomalies", found={"run_id": RUN, "finding": {"rule": "nan"}})
    assert reports.found == [(RUN, {"rule": "nan"})]
    assert reports.delivery.trim_points() == {RUN: 8}
    assert reports.delivery.sinks == ["store", "wandb"]
    assert [worker.sink for worker in reports.delivery.workers] == ["store", "wandb", "anomalies"]


def test_only_what_moved_is_told_again(reports: Reports) -> None:
    """Asking twice tells nothing new."""
    for sink in ("store", "wandb"):
        reports.reach(sink, 3)
    assert reports.delivery.trim_points() == {RUN: 3}
    assert reports.delivery.trim_points() == {}


def test_many_runs_are_told_a_part_at_a_time(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the journal is not busy with them alone when all report at a start."""
    monkeypatch.setattr(delivery, "TRIM_RUNS_MAX", 3)
    runs = {RunId(str(number)) for number in range(7)}
    for run_id in runs:
        for sink in ("store", "wandb"):
            reports.reach(sink, 3, run_id)
    told = [reports.delivery.trim_points() for _ in range(4)]
    assert [len(points) for points in told] == [3, 3, 1, 0]
    assert {run_id for points in told for run_id in points} == runs


def test_without_wandb_the_store_alone_decides(tmp_path: Path) -> None:
    """A sink that is not there keeps nothing."""
    reports = Reports(tmp_path)
    reports.reach("store", 7)
    assert reports.delivery.trim_points() == {RUN: 7}


def test_a_run_waits_for_its_own_sinks_alone(tmp_path: Path) -> None:
    """Runs of another key, and those that go to none, have the store and what they are bound to."""
    reports = Reports(tmp_path, "wandb", "wandb-crew")
    runs = {RunId("crew"): "wandb-crew", RunId("none"): "", RunId("spooled"): None}
    for run_id, sink in runs.items():
        if sink is not None:
            reports.delivery.bind(run_id, sink)
        reports.reach("store", 7, run_id)
    assert reports.delivery.trim_points() == {"none": 7, "spooled": 7}
    reports.reach("wandb-crew", 3, RunId("crew"))
    reports.reach("wandb", 2, RunId("spooled"))
    assert reports.delivery.trim_points() == {"crew": 3, "spooled": 2}


def test_what_a_former_worker_reported_trims_nothing(reports: Reports) -> None:
    """The position may have fallen back; what it showed of progress stands until then."""
    for sink in ("store", "wandb"):
        reports.reach(sink, 3)
    reports.restart("wandb")
    reports.reach("store", 8)
    assert reports.delivery.trim_points() == {}
    assert reports.delivery.progress("wandb", RUN).offset == 3
    reports.reach("wandb", 6)
    assert reports.delivery.trim_points() == {RUN: 6}


def test_damage_is_passed_on(reports: Reports) -> None:
    """A damaged entry, and a journal that cannot be read."""
    reports.say("wandb", damaged=7)
    reports.say("store", corrupt="malformed")
    assert (reports.damaged, reports.causes) == ([7], ["malformed"])


def test_a_worker_that_cannot_work_says_why(reports: Reports) -> None:
    """Until one does."""
    reports.say("wandb", failed="wandb is not installed")
    assert [worker.error for worker in reports.delivery.workers] == [
        *("", "wandb is not installed", "")
    ]
    assert reports.delivery.trouble("wandb") == "wandb is not installed"
    reports.reach("wandb", 1)
    assert [worker.error for worker in reports.delivery.workers] == [""] * 3


def test_a_run_that_is_deleted_is_forgotten(reports: Reports) -> None:
    """Nothing of it is trimmed or told; only the store's worker tells that it has done its part."""
    for sink in ("store", "wandb", "anomalies"):
        reports.reach(sink, 9)
    deleted = {"run_id": RUN, "cursor": 9}
    reports.delivery.delete(RUN, Offset(9))
    assert reports.delivery.trim_points() == {}
    assert reports.delivery.progress("store", RUN).offset == 0
    reports.say("wandb", deleted=deleted)
    assert reports.deleted == []
    reports.say("store", deleted=deleted)
    assert reports.deleted == [(RUN, 9)]
    reports.delivery.bind(RUN, "")
    assert reports.delivery.sinks_of(RUN) == ["store"]


def test_a_sink_that_was_taken_away_may_still_be_asked_about(reports: Reports) -> None:
    """A status is put together in a thread while W&B's set-up changes."""
    reports.reach("wandb", 9)
    asyncio.run(reports.delivery.configure({}))
    assert reports.delivery.progress("wandb", RUN) == Progress()
    assert reports.delivery.trouble("wandb") == ""
