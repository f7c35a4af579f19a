"""The comparison: its figures, its choice of the best run, and what it calls a difference."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion_sidecar.compare import (
    Comparison,
    ConfigSetting,
    Direction,
    MetricComparison,
    MetricStatistics,
    check_run_ids,
    compare,
    direction_of,
)
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import Environment, Offset, RunId, RunState
from pillion_sidecar.store import Series, StoredRun

NAN, INF = float("nan"), float("inf")

Metrics = Mapping[str, Sequence[float | int | bool]]


def stored_run(run_id: str, config: dict[str, Any] | None = None) -> StoredRun:
    """Make a run of which nothing matters but id and config."""
    return StoredRun(
        run_id=RunId(run_id),
        project="demo",
        name="",
        group="",
        job_type="",
        tags=(),
        notes="",
        config=config or {},
        summary={},
        environment=Environment(),
        state=RunState.FINISHED,
        reason="",
        exit_code=0,
        start_time_unix_nano=0,
        end_time_unix_nano=1,
        row_count=0,
        last_step=None,
        lost_row_count=0,
        cursor=Offset(1),
    )


def series_of(values: Sequence[float | int | bool]) -> Series:
    """Make a series whose steps are 100, 110, 120 and so on."""
    ordinals = np.arange(len(values))
    return Series(ordinals, 100 + 10 * ordinals, ordinals, np.array(values))


def compared(metric: str = "", **metrics_of: Metrics) -> Comparison:
    """Compare runs that have these metrics."""
    series = {
        RunId(run_id): {key: series_of(values) for key, values in metrics.items()}
        for run_id, metrics in metrics_of.items()
    }
    return compare([stored_run(run_id) for run_id in metrics_of], series, metric)


def the_metric(comparison: Comparison, key: str) -> MetricComparison:
    """Find a metric."""
    (found,) = (metric for metric in comparison.metrics if metric.key == key)
    return found


def differences(*configs: dict[str, Any]) -> dict[str, list[Any]]:
    """Compare configs; where a run lacks a key, stands Ellipsis."""
    runs = [stored_run(f"r{number}", config) for number, config in enumerate(configs)]
    found = compare(runs, {run.run_id: {} for run in runs}).config_differences
    assert all([s.run_id for s in each.settings] == [run.run_id for run in runs] for each in found)
    return {each.key: [s.value if s.is_set else ... for s in each.settings] for each in found}


LOWER = (
    "loss eval/loss eval_loss train.loss val-loss loss/train eval/Loss total_loss mlm_losses "
    "val_loss/dataloader_idx_0 perplexity eval/ppl rmse error_rate num_errors wer mse"
)
HIGHER = (
    "accuracy eval/acc top1_acc acc@5 reward/mean rewards/chosen f1 f1-macro val/f1 auc bleu4 "
    "rouge1 rougeL precision recall@10 tokens_per_second eval_samples_per_second "
    "train/steps_per_sec throughput"
)
UNKNOWN = (
    "learning_rate lr grad_norm epoch step global_step train_runtime gpu.0.memory lossless_ratio "
    "glossary loss_scale loss.weight reward/std score_threshold loss/model/layers kl "
    "rewards/rejected eval/ / _ µ"
)


@pytest.mark.parametrize("key", LOWER.split())
def test_less_is_better_for_losses_and_errors(key: str) -> None:
    """By a whole word of the name, whatever else the name holds."""
    assert direction_of(key) is Direction.LOWER


@pytest.mark.parametrize("key", HIGHER.split())
def test_more_is_better_for_scores_and_throughput(key: str) -> None:
    """By a whole word of the name, digits behind it left aside."""
    assert direction_of(key) is Direction.HIGHER


@pytest.mark.parametrize("key", UNKNOWN.split())
def test_nothing_is_better_where_a_name_does_not_say(key: str) -> None:
    """Neither parts of words count, nor words that a last one makes into something else."""
    assert direction_of(key) is Direction.UNKNOWN


def test_figures_leave_nan_out_and_take_infinities_in() -> None:
    """NaN is counted; first and last are the first and last numbers."""
    found = compared(a={"loss": [NAN, 3.0, INF, 1.0, NAN, 1.0, 2.0, NAN]}, b={})
    assert the_metric(found, "loss").statistics == (
        MetricStatistics(
            run_id=RunId("a"),
            point_count=8,
            nan_count=3,
            first=3.0,
            last=2.0,
            min=1.0,
            max=INF,
            mean=INF,
            best=1.0,
            best_step=130,
        ),
        MetricStatistics(RunId("b"), 0, 0),
    )


def test_a_metric_without_a_number_has_no_figures() -> None:
    """Its points are counted all the same, and no run is best."""
    found = compared(a={"loss": [NAN, NAN]}, b={})
    (metric,) = found.metrics
    assert metric.statistics[0] == MetricStatistics(RunId("a"), 2, 2)
    assert metric.best_run_id is None
    assert (found.metric, found.best_run_id) == (None, None)


def test_of_both_infinities_there_is_no_mean() -> None:
    """And no warning either."""
    (metric,) = compared(a={"x": [INF, -INF]}, b={}).metrics
    assert (metric.statistics[0].mean, metric.statistics[0].max) == (None, INF)


@pytest.mark.parametrize("kind", ["floats", "integers", "booleans"])
@given(data=st.data())
def test_figures_are_those_that_plain_python_finds(kind: str, data: st.DataObject) -> None:
    """For doubles, 64-bit integers to the last digit, and booleans."""
    element: st.SearchStrategy[Any] = {
        "floats": st.floats(-1e100, 1e100),
        "integers": st.integers(-(2**63), 2**63 - 1),
        "booleans": st.booleans(),
    }[kind]
    values = data.draw(st.lists(element, min_size=1, max_size=20))
    found = compared(a={"loss": values, "acc": values, "x": values}, b={})
    loss, acc, x = (the_metric(found, key).statistics[0] for key in ("loss", "acc", "x"))
    assert (x.min, x.max) == (float(min(values)), float(max(values)))
    assert (x.first, x.last, x.point_count) == (float(values[0]), float(values[-1]), len(values))
    assert x.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-7 * abs(max(values)))
    assert (x.best, x.best_step) == (None, None)
    assert (loss.best, loss.best_step) == (loss.min, 100 + 10 * values.index(min(values)))
    assert (acc.best, acc.best_step) == (acc.max, 100 + 10 * values.index(max(values)))


def test_metrics_come_by_name_and_those_without_points_not_at_all() -> None:
    """Every metric that at least one run has, one statistic per run in the order asked for."""
    found = compared(b={"z": [1.0], "empty": []}, a={"a": [1.0], "z": [2.0]})
    assert [metric.key for metric in found.metrics] == ["a", "z"]
    for metric in found.metrics:
        assert [each.run_id for each in metric.statistics] == ["b", "a"]


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


def test_only_what_differs_between_configs_is_told() -> None:
    """By key, nested ones joined by a point, in the order asked for."""
    found = differences(
        {"lr": 1e-3, "model": {"depth": 2, "act": {"name": "gelu"}}, "seed": 1},
        {"lr": 1e-4, "model": {"depth": 2, "act": {"name": "relu"}}, "seed": 1},
    )
    assert found == {"lr": [1e-3, 1e-4], "model.act.name": ["gelu", "relu"]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        (NAN, NAN),
        (None, None),
        ([1, [NAN]], [1.0, [NAN]]),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        (2**80, 2**80),
        (b"x", b"x"),
        ({}, {}),
    ],
)
def test_values_that_mean_the_same_do_not_differ(one: object, other: object) -> None:
    """Numbers by their value, NaN as itself, mappings in any order, within lists too."""
    assert differences({"x": one}, {"x": other}) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, "1"),
        ("x", b"x"),
        (None, False),
        (None, ""),
        (None, []),
        ([1, 2], [2, 1]),
        ([1], [True]),
        ([], [[]]),
        ([], {}),
        ("nan", NAN),
        (2**63, 2**63 + 1),
        (2**53, float(2**53) + 2),
    ],
)
def test_values_that_mean_something_else_differ(one: object, other: object) -> None:
    """True is not 1, text is no number, and no two kinds of nothing are the same."""
    assert differences({"x": one}, {"x": other}) == {"x": [one, other]}


def test_a_missing_key_is_not_none() -> None:
    """Nor is a value the same as a mapping in its place."""
    assert differences({"a": None, "b": 1}, {"b": {"c": 1}}, {}) == {
        "a": [None, ..., ...],
        "b": [1, ..., ...],
        "b.c": [..., 1, ...],
    }


def test_a_setting_tells_whether_it_is_set() -> None:
    """So that None and nothing can be told apart."""
    runs = [stored_run("a", {"x": None}), stored_run("b")]
    (difference,) = compare(runs, {run.run_id: {} for run in runs}).config_differences
    assert difference.settings == (
        ConfigSetting(RunId("a"), is_set=True, value=None),
        ConfigSetting(RunId("b"), is_set=False, value=None),
    )


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
