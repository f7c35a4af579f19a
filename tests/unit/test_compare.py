"""The comparison: its choice of the best run, of what decides, and what it refuses."""

import math

import pytest
from stored_runs import Metrics, series_of, stored_run

from pillion_sidecar.compare import (
    Comparison,
    MetricComparison,
    Question,
    check_run_ids,
    compare,
    directions_of,
)
from pillion_sidecar.directions import Direction
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import MetricDefinition, Summarizing
from pillion_sidecar.store_statistics import statistics_of
from pillion_sidecar.stored_run import StoredRun

NAN = float("nan")


def compared(metric: str = "", **metrics_of: Metrics) -> Comparison:
    """Compare runs that have these metrics."""
    return answered(Question(metric), *((stored_run(run), of) for run, of in metrics_of.items()))


def answered(question: Question, *runs: tuple[StoredRun, Metrics]) -> Comparison:
    """Answer a question about runs with metrics."""
    direction_of = directions_of(question, [run for run, _ in runs])
    statistics = {
        run.run_id: {
            key: statistics_of(run.run_id, series_of(values), direction_of(key))
            for key, values in metrics.items()
            if len(values)
        }
        for run, metrics in runs
    }
    return compare([run for run, _ in runs], statistics, question)


def the_metric(comparison: Comparison, key: str) -> MetricComparison:
    """Find a metric."""
    (found,) = (metric for metric in comparison.metrics if metric.key == key)
    return found


def test_metrics_come_by_name_and_those_without_points_not_at_all() -> None:
    """Every metric that at least one run has, one statistic per run in the order asked for."""
    found = compared(b={"z": [1.0], "empty": []}, a={"a": [1.0], "z": [2.0]})
    assert [metric.key for metric in found.metrics] == ["a", "z"]
    for metric in found.metrics:
        assert [each.run_id for each in metric.statistics] == ["b", "a"]


def test_how_the_system_does_takes_part_when_it_is_named() -> None:
    """As what decides, by its direction, or among the series; else no run is best by it."""
    runs = {"a": {"system/ecc_errors": [1.0]}, "b": {"system/ecc_errors": [0.0]}}
    found = compared(**runs)
    assert (found.metrics, found.metric) == ((), None)
    for question in (
        Question("system/ecc_errors"),
        Question("", {"system/ecc_errors": Direction.LOWER}),
        Question(named=frozenset({"system/ecc_errors"})),
    ):
        answer = answered(question, *((stored_run(run), of) for run, of in runs.items()))
        assert [metric.key for metric in answer.metrics] == ["system/ecc_errors"]
        assert answer.best_run_id is None


def test_the_best_run_of_a_metric_has_the_best_value_in_its_direction() -> None:
    """Not the last value, and never a run without a number."""
    found = compared(
        a={"loss": [0.3, 0.9], "acc": [0.5], "x": [1.0]},
        b={"loss": [0.4, 0.4], "acc": [0.9, 0.1], "x": [2.0]},
        c={"loss": [NAN], "acc": [NAN], "x": [0.0]},
    )
    best = {metric.key: metric.best_run_id for metric in found.metrics}
    assert best == {"loss": "a", "acc": "b", "x": None}


def test_between_equal_runs_the_one_asked_for_earlier_wins() -> None:
    """For either direction."""
    metrics: Metrics = {"loss": [0.5], "acc": [0.5]}
    found = compared(z=metrics, a=metrics)
    assert [metric.best_run_id for metric in found.metrics] == ["z", "z"]
    assert found.best_run_id == "z"


@pytest.mark.parametrize(
    ("keys_of_a", "keys_of_b", "decides"),
    [
        ("acc loss train/loss eval/loss", "acc loss train/loss eval/loss", "eval/loss"),
        ("acc loss train/loss eval/loss", "acc loss train/loss", "train/loss"),
        ("acc loss", "acc loss", "loss"),
        ("a/score b/error", "a/score b/error lr", "a/score"),
        ("a lr b/error", "a lr b/error", "b/error"),
        ("lr loss", "lr acc", None),
        ("", "", None),
    ],
)
def test_the_deciding_metric_is_the_first_that_all_runs_share(
    keys_of_a: str, keys_of_b: str, decides: str | None
) -> None:
    """Losses by their usual names first, then by name; the direction must be known."""
    a = {key: [1.0] for key in keys_of_a.split()}
    b = {key: [2.0] for key in keys_of_b.split()}
    found = compared(a=a, b=b)
    assert found.metric == decides
    assert (found.best_run_id is None) == (decides is None)


def test_a_deciding_metric_without_a_number_is_not_replaced() -> None:
    """Losses that are all NaN leave no best run, whatever the accuracies."""
    diverged: Metrics = {"loss": [NAN], "acc": [0.5]}
    found = compared(a=diverged, b=diverged)
    assert (found.metric, found.best_run_id) == (None, None)


def test_the_metric_asked_for_decides_among_the_runs_that_have_it() -> None:
    """Even if not all do, and before those that decide otherwise."""
    found = compared("acc", a={"loss": [0.1]}, b={"loss": [0.2], "acc": [0.5]}, c={"acc": [NAN]})
    assert (found.metric, found.best_run_id) == ("acc", "b")


def test_a_metric_asked_for_whose_direction_is_not_known_decides_nothing() -> None:
    """It is still among the metrics."""
    found = compared("lr", a={"lr": [0.1], "loss": [1.0]}, b={"lr": [0.2], "loss": [2.0]})
    assert (found.metric, found.best_run_id) == (None, None)


def test_a_metric_that_no_run_has_is_refused_with_those_there_are() -> None:
    """A few of them, and how many more."""
    with pytest.raises(PeerError, match=r"'los'.*have a, b\.") as few:
        compared("los", a={"a": [1.0]}, b={"b": [1.0]})
    assert few.value.reason == "METRIC_UNKNOWN"
    with pytest.raises(PeerError, match=r"m0, .*, m7 and 2 more\."):
        compared("los", a={f"m{number}": [1.0] for number in range(10)}, b={})
    with pytest.raises(PeerError, match="none at all"):
        compared("los", a={}, b={})


@pytest.mark.parametrize("count", [0, 1, 11, 1_000])
def test_too_few_or_too_many_runs_are_refused(count: int) -> None:
    """Two to ten can be compared."""
    with pytest.raises(PeerError, match="2 to 10") as error:
        check_run_ids([f"r{number}" for number in range(count)])
    assert error.value.reason == "RUN_COUNT"


def test_a_run_named_twice_is_refused() -> None:
    """It says which."""
    with pytest.raises(PeerError, match="Run b is named twice") as error:
        check_run_ids(["a", "b", "c", "b"])
    assert error.value.reason == "RUN_REPEATED"


@pytest.mark.parametrize("count", [2, 10])
def test_two_to_ten_different_runs_can_be_compared(count: int) -> None:
    """And all of them are in the answer, in the order asked for."""
    names = [f"r{number}" for number in reversed(range(count))]
    check_run_ids(names)
    found = compared("", **{name: {"loss": [math.pi]} for name in names})
    assert [run.run_id for run in found.runs] == names


def test_a_direction_that_is_asked_for_decides_what_is_best() -> None:
    """Of the metric that it names; UNKNOWN leaves no run best."""
    runs = [
        (stored_run("a"), {"loss": [0.1], "x": [1.0]}),
        (stored_run("b"), {"loss": [0.2], "x": [2.0]}),
    ]
    higher = answered(Question("x", {"x": Direction.HIGHER}), *runs)
    assert (higher.metric, higher.best_run_id) == ("x", "b")
    assert the_metric(higher, "loss").best_run_id == "a"
    none = answered(Question("", {"loss": Direction.UNKNOWN}), *runs)
    assert (none.metric, the_metric(none, "loss").best_run_id) == (None, None)


def test_a_direction_of_a_metric_that_no_run_has_is_refused() -> None:
    """It is a mistyped name, most likely."""
    runs = [(stored_run("a"), {"loss": [0.1]}), (stored_run("b"), {"loss": [0.1]})]
    with pytest.raises(PeerError, match="'lss'") as error:
        answered(Question("", {"lss": Direction.LOWER}), *runs)
    assert error.value.reason == "METRIC_UNKNOWN"


def test_what_a_run_defines_decides_what_is_best() -> None:
    """Before the metric's name does."""
    keeps_most = (MetricDefinition("loss", summaries=(Summarizing.MAX,)),)
    found = answered(
        Question(),
        (stored_run("a", definitions=keeps_most), {"loss": [0.1]}),
        (stored_run("b"), {"loss": [0.2]}),
    )
    assert (the_metric(found, "loss").direction, found.best_run_id) == (Direction.HIGHER, "b")
