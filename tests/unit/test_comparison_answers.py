"""The answer to `Compare` from a small real store: what it tells, and what is refused."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from stored_runs import Shelf

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_any_value
from pillion_sidecar import alignment
from pillion_sidecar.comparison_answers import check_question, compare_runs
from pillion_sidecar.environment import Environment, GitState, Gpu, Package
from pillion_sidecar.errors import LimitError, PeerError, StateError
from pillion_sidecar.records import RunId, RunState
from pillion_sidecar.store import Series, Store


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store."""
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


def asked(shelf: Shelf, *run_ids: str, **fields: Any) -> pb2.CompareResponse:
    """Compare runs."""
    return compare_runs(shelf.store, pb2.CompareRequest(run_ids=run_ids, **fields))


def test_number_of_runs_is_checked_before_any_is_read(shelf: Shelf) -> None:
    """A comparison of one run, or of a thousand, reads nothing."""
    for run_ids in (["nowhere"], [f"run-{number}" for number in range(11)]):
        with pytest.raises(PeerError) as refusal:
            compare_runs(shelf.store, pb2.CompareRequest(run_ids=run_ids))
        assert refusal.value.reason == "RUN_COUNT"


def test_comparison_is_told_as_it_is(shelf: Shelf) -> None:
    """Runs in the order asked for, figures per metric, the best run, and what differs."""
    shelf.start("b", config={"lr": 0.1, "seed": 1})
    shelf.start("a", config={"lr": 0.2, "seed": 1, "extra": None})
    shelf.log("b", 0, loss=[0.5, 0.25, 0.75], only_b=[1.0, 1.0, 1.0])
    shelf.log("a", 0, loss=[0.5, float("nan")])
    response = compare_runs(shelf.store, pb2.CompareRequest(run_ids=["b", "a"]))
    assert [run.run_id for run in response.runs] == ["b", "a"]
    assert (response.metric, response.best_run_id) == ("loss", "b")
    loss, only_b = response.metrics
    assert (loss.key, loss.direction, loss.best_run_id) == ("loss", run_pb2.DIRECTION_LOWER, "b")
    assert loss.statistics[0] == run_pb2.MetricStatistics(
        run_id="b",
        point_count=3,
        first=0.5,
        last=0.75,
        min=0.25,
        max=0.75,
        mean=0.5,
        best=0.25,
        best_step=10,
    )
    assert (loss.statistics[1].point_count, loss.statistics[1].nan_count) == (2, 1)
    assert only_b.statistics[1] == run_pb2.MetricStatistics(run_id="a")
    extra, lr = response.config_differences
    assert [(s.run_id, s.HasField("value")) for s in extra.settings] == [("b", False), ("a", True)]
    assert extra.settings[1].value == record_pb2.AnyValue()
    assert [from_any_value(setting.value) for setting in lr.settings] == [0.1, 0.2]


def test_metric_that_no_run_has_is_refused(shelf: Shelf) -> None:
    """A mistyped metric is told, not ignored."""
    shelf.start("a")
    shelf.start("b")
    with pytest.raises(PeerError, match="'los'"):
        compare_runs(shelf.store, pb2.CompareRequest(run_ids=["a", "b"], metric="los"))


def test_unknown_run_is_refused(shelf: Shelf) -> None:
    """It says which, and where to look."""
    shelf.start("run")
    with pytest.raises(StateError, match="no run nowhere") as refusal:
        asked(shelf, "run", "nowhere")
    assert refusal.value.reason == "RUN_UNKNOWN"


def test_what_runs_took_is_told(shelf: Shelf) -> None:
    """Time, GPU time, and throughput by a metric that all have; unset where there is none."""
    shelf.start("a", 1, environment=Environment(gpus=(Gpu("H100", 80, 0, "u"),) * 2))
    shelf.start("b", 1)
    for run_id, tokens in (("a", [100.0, 300.0]), ("b", [50.0, 50.0])):
        shelf.log(run_id, 0, tokens_per_second=tokens)
    shelf.finish("a", RunState.FINISHED, 0)
    response = asked(shelf, "a", "b")
    a, b = response.costs
    assert (a.duration_s, a.is_running, a.gpu_count, a.gpu_s) == (8e-9, False, 2, 16e-9)
    assert (b.is_running, b.gpu_count, b.HasField("gpu_s")) == (True, 0, False)
    assert response.throughput_metric == "tokens_per_second"
    assert (a.throughput, b.throughput) == (200.0, 50.0)
    assert a.rows_per_s == pytest.approx(2 / 8e-9)


def test_what_differs_in_the_environment_is_told(shelf: Shelf) -> None:
    """Typed, and unset where a run does not tell it."""
    one = Environment(cpu_count=4, git=GitState("c" * 40), packages=(Package("torch", "1"),))
    shelf.start("a", environment=one)
    shelf.start("b", environment=Environment(cpu_count=8, packages=(Package("torch", "2"),)))
    response = asked(shelf, "a", "b", differences_only=True)
    found = {
        each.key: [
            from_any_value(one.value) if one.HasField("value") else ... for one in each.settings
        ]
        for each in response.environment_differences
    }
    assert found == {
        "cpu_count": [4, 8],
        "git.commit": ["c" * 40, ...],
        "packages.torch": ["1", "2"],
    }
    assert response.environment_difference_count == 3


def test_groups_are_compared_by_every_metric(shelf: Shelf) -> None:
    """By the best value where that is known, else by the last one."""
    for number, loss in enumerate([1.0, 1.2, 1.1, 3.0, 3.5, 3.1]):
        run_id = f"r{number}"
        shelf.start(run_id, config={"lr": number // 3})
        shelf.log(run_id, 0, loss=[loss, loss + 1], x=[0.0, loss])
    response = asked(shelf, *(f"r{number}" for number in range(6)), group_by="lr")
    assert [(group.name, list(group.run_ids)) for group in response.groups] == [
        ("lr=0", ["r0", "r1", "r2"]),
        ("lr=1", ["r3", "r4", "r5"]),
    ]
    for metric, figure in zip(response.metrics, ("best", "last"), strict=True):
        assert metric.group_figure == figure
        assert [group.run_count for group in metric.groups] == [3, 3]
        (difference,) = metric.group_differences
        assert (difference.name, difference.baseline) == ("lr=1", "lr=0")
        assert difference.difference == pytest.approx(2.1)
        assert difference.low < 2.1 < difference.high
        assert 0 < difference.p_value < 0.01


def test_series_are_aligned_as_asked_for(shelf: Shelf) -> None:
    """Over steps, times and a metric; NaN where a run has no value."""
    shelf.start("a", 0)
    shelf.start("b", 0)
    shelf.log("a", 0, loss=[3.0, 2.0], n=[4, 8])
    shelf.log("b", 0, loss=[5.0], n=[8])
    by_step = asked(shelf, "a", "b", series=["loss"])
    by_time = asked(shelf, "a", "b", series=["loss", "n"], axis="AXIS_TIME")
    by_n = asked(shelf, "a", "b", series=["loss"], axis="AXIS_METRIC", axis_metric="n")
    (loss,) = by_step.aligned
    assert (loss.key, list(loss.x)) == ("loss", [0, 10])
    assert [one.run_id for one in loss.series] == ["a", "b"]
    assert list(loss.series[0].values) == [3.0, 2.0]
    assert loss.series[1].values[0] == 5.0
    assert math.isnan(loss.series[1].values[1])
    assert [(one.key, list(one.x)) for one in by_time.aligned] == [
        ("loss", [0, 10]),
        ("n", [0, 10]),
    ]
    assert list(by_n.aligned[0].x) == [4, 8]
    assert by_n.aligned[0].series[1].values[1] == 5.0


def test_an_axis_is_read_once_of_each_run(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many series are aligned over it; and one of them may be the axis itself."""
    for run_id in ("a", "b"):
        shelf.start(run_id)
        shelf.log(run_id, 0, n=[4, 8], loss=[3.0, 2.0], acc=[0.0, 1.0])
    read: list[tuple[str, str]] = []
    read_series = Store.read_series

    def noting(store: Store, run_id: RunId, keys: Collection[str]) -> dict[str, Series]:
        read.extend((run_id, key) for key in keys)
        return read_series(store, run_id, keys)

    monkeypatch.setattr(Store, "read_series", noting)
    keys = ["loss", "acc", "n"]
    response = asked(shelf, "a", "b", series=keys, axis="AXIS_METRIC", axis_metric="n")
    assert sorted(read) == sorted((run_id, key) for run_id in ("a", "b") for key in keys)
    assert [list(each.series[1].values) for each in response.aligned] == [[3, 2], [0, 1], [4, 8]]


@pytest.mark.parametrize(
    "fields", [{"series": ["x"]}, {"series": ["y"], "axis": "AXIS_METRIC", "axis_metric": "x"}]
)
def test_series_that_are_too_long_are_not_aligned(
    fields: dict[str, Any], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all runs together, NaN included; their figures are told all the same."""
    monkeypatch.setattr(alignment, "POINTS_READ_MAX", 4)
    for run_id in ("a", "b"):
        shelf.start(run_id)
        shelf.log(run_id, 0, x=[1.0, math.nan])
        shelf.log(run_id, 2, y=[1.0])
    assert asked(shelf, "a", "b", **fields).aligned
    shelf.log("b", 3, x=[1.0])
    with pytest.raises(LimitError, match="x has 5 points in these runs; 4 can be aligned"):
        asked(shelf, "a", "b", **fields)
    assert asked(shelf, "a", "b").metrics


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"series": ["nope"]}, "'nope'.*They have loss"),
        ({"directions": {"nope": "DIRECTION_LOWER"}}, "'nope'.*They have loss"),
        (
            {"series": ["loss"], "axis": "AXIS_METRIC", "axis_metric": "nope"},
            "'nope' to align over, nor is it `step` or `time`",
        ),
        ({"group_by": "nope"}, "'nope' in its config"),
    ],
)
def test_what_no_run_has_is_refused(shelf: Shelf, fields: dict[str, Any], words: str) -> None:
    """A mistyped name is told with those there are."""
    for run_id in ("a", "b"):
        shelf.start(run_id, config={"lr": 1})
        shelf.log(run_id, 0, loss=[1.0])
    with pytest.raises(PeerError, match=words):
        asked(shelf, "a", "b", **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"directions": {"loss": 7}}, "directions: loss has 7; say DIRECTION_LOWER"),
        ({"axis": 9}, "axis: 9 is none; say AXIS_STEP"),
        ({"series": ["loss"], "axis": "AXIS_METRIC"}, "axis_metric"),
        ({"series": ["loss"], "max_points": 1_000_000}, "max_points: 1 to 100,000"),
    ],
)
def test_a_question_that_is_none_is_refused_before_any_read(
    fields: dict[str, Any], words: str
) -> None:
    """Whatever the runs."""
    with pytest.raises(PeerError, match=words):
        check_question(pb2.CompareRequest(run_ids=["a", "b"], **fields))
