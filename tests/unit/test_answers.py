"""Answers from a small real store: pages, single runs, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion.process import ProcessIdentity
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar import answers
from pillion_sidecar.errors import PeerError, StateError
from pillion_sidecar.records import (
    Environment,
    Frame,
    LostRange,
    RunState,
    SummaryUpdate,
)
from pillion_sidecar.validation_values import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX


class Shelf(stored_runs.Shelf):
    """One whose runs are listed."""

    def list_runs(self, **fields: Any) -> pb2.ListRunsResponse:
        """Ask for a page."""
        return answers.list_runs(self.store, pb2.ListRunsRequest(**fields))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store."""
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


@pytest.fixture(scope="module")
def full_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Make a store of 23 runs, several of which started in the same nanosecond."""
    shelf = Shelf(tmp_path_factory.mktemp("store"))
    for number in range(23):
        shelf.start(f"run-{number:02}", number // 4, project=f"p{number % 2}")
    yield shelf
    shelf.close()


def frame_of(**values: list[float]) -> Frame:
    """Make a frame whose steps count from 10."""
    count = len(next(iter(values.values())))
    axis = np.arange(10, 10 + count)
    return Frame(0, axis, axis, {key: np.array(column) for key, column in values.items()})


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(page_size=st.integers(1, 30), project=st.sampled_from(["", "p0", "p1", "none"]))
def test_pages_hold_every_run_once(full_shelf: Shelf, page_size: int, project: str) -> None:
    """Page by page comes what one large page has, the latest first."""
    whole = [run.run_id for run in full_shelf.list_runs(project=project).runs]
    assert whole == sorted(whole, key=lambda run_id: (int(run_id[4:]) // 4, run_id), reverse=True)
    paged: list[str] = []
    token, page_count = "", 0
    while page_count == 0 or token:
        page = full_shelf.list_runs(project=project, page_size=page_size, page_token=token)
        assert len(page.runs) <= page_size
        paged += [run.run_id for run in page.runs]
        token, page_count = page.next_page_token, page_count + 1
    assert paged == whole
    assert page_count == max(1, -(-len(whole) // page_size))


def test_run_that_starts_between_two_pages_moves_nothing(shelf: Shelf) -> None:
    """A page goes on where the one before ended, whatever came in front meanwhile."""
    for number in range(3):
        shelf.start(f"run-{number}", time_unix_nano=10 - number)
    first = shelf.list_runs(page_size=2)
    shelf.start("newer", time_unix_nano=100)
    second = shelf.list_runs(page_size=2, page_token=first.next_page_token)
    assert [run.run_id for run in (*first.runs, *second.runs)] == ["run-0", "run-1", "run-2"]


def test_page_has_a_size_of_its_own_if_none_is_said(shelf: Shelf) -> None:
    """0 stands for the default."""
    for number in range(PAGE_SIZE_DEFAULT + 1):
        shelf.start(f"run-{number}", number)
    assert len(shelf.list_runs().runs) == PAGE_SIZE_DEFAULT
    assert len(shelf.list_runs(page_size=PAGE_SIZE_MAX).runs) == PAGE_SIZE_DEFAULT + 1


@pytest.mark.parametrize("page_size", [-1, PAGE_SIZE_MAX + 1])
def test_page_size_is_bounded(shelf: Shelf, page_size: int) -> None:
    """No page is too large for one answer."""
    with pytest.raises(PeerError, match="page_size"):
        shelf.list_runs(page_size=page_size)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        ":run",
        "-:run",
        "1-2:run",
        "1.5:run",
        " 1:run",
        "--1:run",
        f"{2**63}:run",
        "9" * 5000 + ":run",
    ],
)
def test_page_token_that_is_none_is_refused(shelf: Shelf, token: str) -> None:
    """A token that no page gave is the caller's fault."""
    with pytest.raises(PeerError, match="page_token"):
        shelf.list_runs(page_token=token)


def test_run_is_told_as_it_is(shelf: Shelf) -> None:
    """Every field of a run arrives in its message."""
    process = ProcessIdentity("boot", 2**40, 77, 5)
    shelf.start(
        "run",
        1_500_000_000_000_000_001,
        project="p",
        name="n",
        group="g",
        job_type="j",
        tags=("a", "b"),
        notes="text",
        config={"seed": 2**70, "opt": {"lr": 0.1}},
        environment=Environment(host="h", process=process, program="train.py"),
    )
    shelf.apply("run", frame_of(loss=[0.5, 0.25]), SummaryUpdate({"note": "x"}), LostRange(3, 4, 7))
    shelf.finish("run", RunState.FAILED, 3)
    run = answers.get_run(shelf.store, pb2.GetRunRequest(run_id="run")).run
    assert (run.run_id, run.project, run.name, run.group) == ("run", "p", "n", "g")
    assert (run.job_type, run.notes, list(run.tags)) == ("j", "text", ["a", "b"])
    assert from_key_values(run.config) == {"seed": 2**70, "opt": {"lr": 0.1}}
    assert from_key_values(run.summary) == {"loss": 0.25, "note": "x", "best": 1}
    assert run.environment == record_pb2.Environment(
        host="h",
        program="train.py",
        process=record_pb2.ProcessIdentity(
            boot_id="boot", pid_namespace=2**40, pid=77, start_time_ticks=5
        ),
    )
    assert (run.state, run.exit_code, run.reason) == (record_pb2.RUN_STATE_FAILED, 3, "why")
    assert run.start_time.ToNanoseconds() == 1_500_000_000_000_000_001
    assert run.end_time.ToNanoseconds() == 9
    assert (run.row_count, run.last_step, run.lost_row_count) == (2, 11, 7)


def test_what_is_not_known_of_a_run_is_unset(shelf: Shelf) -> None:
    """A run without rows and end has no last step, exit code and end, rather than zeros."""
    shelf.start("run")
    run = answers.get_run(shelf.store, pb2.GetRunRequest(run_id="run")).run
    unset = ("last_step", "exit_code", "end_time")
    assert [run.HasField(name) for name in unset] == [False, False, False]
    assert not run.environment.HasField("process")
    assert run.state == record_pb2.RUN_STATE_RUNNING


def test_unknown_run_is_refused(shelf: Shelf) -> None:
    """A run that is not there is told as such; an id that is none, as the caller's fault."""
    with pytest.raises(StateError) as refusal:
        answers.get_run(shelf.store, pb2.GetRunRequest(run_id="nowhere"))
    assert refusal.value.reason == "RUN_UNKNOWN"
    with pytest.raises(PeerError):
        answers.get_run(shelf.store, pb2.GetRunRequest(run_id="../x"))
