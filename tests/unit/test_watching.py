"""Watching a run: what is told first, what later, and how it looks."""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import Shelf

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values, to_key_values
from pillion_sidecar import rendering_watch, watching
from pillion_sidecar.cli_common import make_console
from pillion_sidecar.errors import PeerError, StateError
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    ConsoleLines,
    ConsoleStream,
    Frame,
    RunId,
    RunState,
    RunUpdate,
)
from pillion_sidecar.rendering_watch import WatchedRun, chart, watch_line, watch_view
from pillion_sidecar.watching import Watch

RUN = RunId("run")


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store with a run."""
    with closing(Shelf(tmp_path)) as shelf:
        shelf.start(RUN, project="p", name="n", config={"lr": 0.1})
        yield shelf


def row(step: int, **values: Any) -> Frame:
    """Make a frame of one row."""
    axis = np.array([step])
    return Frame(step, axis, axis, {key: np.array([value]) for key, value in values.items()})


def printed(*lines: str) -> ConsoleLines:
    """Make console lines."""
    return ConsoleLines(ConsoleStream.STDOUT, 5, lines)


def test_first_the_run_is_told_then_what_is_new(shelf: Shelf) -> None:
    """Of values the latest that changed, lines and alerts once each, the run when it changes."""
    shelf.apply(
        RUN, row(0, loss=2.0, acc=math.nan), printed("a"), Alert("t", "x", AlertLevel.WARN, 7)
    )
    watch = Watch(pb2.WatchRunRequest(run_id=RUN, console_lines=10))
    first = watch.look(shelf.store, "https://page")
    assert first is not None
    assert (first.run.name, first.run.url, first.row_count, first.last_step) == (
        *("n", "https://page"),
        *(1, 0),
    )
    assert from_key_values(first.run.config) == {"lr": 0.1}
    assert from_key_values(first.values) == {
        "loss": 2.0,
        "acc": pytest.approx(math.nan, nan_ok=True),
    }
    assert [list(piece.lines) for piece in first.console] == [["a"]]
    assert [(alert.title, alert.text) for alert in first.alerts] == [("t", "x")]
    assert watch.look(shelf.store, "https://page") is None
    shelf.apply(RUN, row(1, loss=1.0, acc=math.nan))
    shelf.apply(RUN, row(2, loss=1, acc=math.nan), printed("b"), printed("c", "d"))
    second = watch.look(shelf.store, "https://page")
    assert second is not None
    assert not second.HasField("run")
    assert from_key_values(second.values) == {"loss": 1}
    assert (second.row_count, second.last_step, len(second.alerts)) == (3, 2, 0)
    assert [list(piece.lines) for piece in second.console] == [["b"], ["c", "d"]]
    shelf.apply(RUN, RunUpdate(RUN, add_tags=("new",)))
    third = watch.look(shelf.store, "https://page")
    assert third is not None
    assert (list(third.run.tags), watch.is_over) == (["new"], False)
    shelf.finish(RUN, RunState.FAILED, 3)
    last = watch.look(shelf.store, "https://page")
    assert last is not None
    assert (last.run.state, last.run.reason, watch.is_over) == (
        *(record_pb2.RUN_STATE_FAILED, "why"),
        True,
    )


def test_a_run_is_over_when_its_last_line_is_told(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a message holds some of them."""
    monkeypatch.setattr(watching, "RECORDS_AT_ONCE", 2)
    monkeypatch.setattr(watching, "CONSOLE_BYTES_MAX", 10)
    shelf.apply(RUN, *(printed("x" * size) for size in (1, 1, 1, 20, 20)))
    shelf.finish(RUN, RunState.FAILED, 3)
    watch = Watch(pb2.WatchRunRequest(run_id=RUN, console_lines=100))
    told: list[list[int]] = []
    while not watch.is_over:
        response = watch.look(shelf.store, "")
        told.append(
            [len(line) for each in response.console for line in each.lines] if response else []
        )
    assert told == [[1, 1], [1], [20], [20]]


@pytest.mark.parametrize(
    ("asked", "told"), [(0, []), (1, ["d"]), (2, ["b", "c", "d"]), (9, "abcd")]
)
def test_so_many_lines_as_asked_for_come_first(shelf: Shelf, asked: int, told: list[str]) -> None:
    """About: records are whole. Later ones always come."""
    shelf.apply(RUN, printed("a"), printed("b", "c"), printed("d"))
    watch = Watch(pb2.WatchRunRequest(run_id=RUN, console_lines=asked))
    response = watch.look(shelf.store, "")
    assert response is not None
    assert [line for each in response.console for line in each.lines] == [*told]
    shelf.apply(RUN, printed("e"))
    response = watch.look(shelf.store, "")
    assert response is not None
    assert [list(each.lines) for each in response.console] == [["e"]]


def test_what_cannot_be_watched_is_refused_with_a_sentence(shelf: Shelf) -> None:
    """A run that is none, or is not known; more lines than there may be."""
    for fields in ({"run_id": ""}, {"run_id": RUN, "console_lines": -1}):
        with pytest.raises(PeerError):
            Watch(pb2.WatchRunRequest(**fields))
    with pytest.raises(StateError, match="There is no run nobody"):
        Watch(pb2.WatchRunRequest(run_id="nobody")).look(shelf.store, "")


def shown(view: Any) -> str:
    """Return what the CLI prints, without spaces at line ends."""
    console = make_console()
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_how_the_system_does_is_no_metric_to_begin_with() -> None:
    """Its figures come before the trainer's first; they are shown if they are named."""
    system = pb2.WatchRunResponse(values=to_key_values({"system/threads": 3}), row_count=1)
    one, named = (WatchedRun(run_pb2.Run(run_id="r1"), key) for key in ("", "system/threads"))
    for each in (one, named):
        each.take_in(system)
    assert (one.metric, named.value) == ("", 3)
    one.take_in(pb2.WatchRunResponse(values=to_key_values({"acc": 0.5}), row_count=2))
    assert one.metric == "acc"


def test_a_run_is_shown_with_its_chart_lines_and_alerts() -> None:
    """Of several only the table and the alerts."""
    one = WatchedRun(run_pb2.Run(run_id="r1"))
    response = pb2.WatchRunResponse(
        run=run_pb2.Run(run_id="r1", name="na\x1bme", state="RUN_STATE_RUNNING"),
        values=to_key_values({"acc": 0.5, "train/loss": {"min": 1.0, "last": 2.0}, "text": "x"}),
        row_count=3,
        last_step=7,
        console=[record_pb2.ConsoleLines(lines=["epoch 1"])],
        alerts=[record_pb2.Alert(title="hot", level="LEVEL_WARN")],
    )
    one.take_in(response)
    one.points = [1.0, 3.0, 2.0]
    text = shown(watch_view([one]))
    for words in ("r1", "name", "RUNNING", "train/loss", "r1 alert (warn): hot", "epoch 1", "▁█"):
        assert words in text
    assert watch_line(one) == "r1 RUNNING 3 rows step 7 train/loss 2"
    several = shown(watch_view([one, WatchedRun(run_pb2.Run(run_id="r2"))]))
    assert "epoch 1" not in several
    assert "hot" in several
    assert rendering_watch.watch_json("r1", response)["alerts"][0]["level"] == "warn"


def test_a_chart_reaches_from_the_least_to_the_largest_value() -> None:
    """The ends are labelled; what is not finite is left out; one value is a line at the bottom."""
    lines = shown(chart([0.0, math.nan, 5.0, 10.0], height=4)).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("10")
    assert lines[0].endswith("█")
    assert lines[-1].startswith("0")
    assert lines[-1].endswith("▁██")
    assert shown(chart([3.0], height=2)).splitlines()[-1].endswith("▁")
    assert shown(chart([math.nan])) == ""
    assert shown(chart([-1.7e308, 1.7e308], height=2))
