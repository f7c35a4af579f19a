"""The comparison of runs: figures per metric, the best run, groups, differences, costs.

Pure functions; what they are given was read from the store.

The best run has the best of the runs' best values; between equal ones, and so between steps too,
the run asked for earlier wins. The metric that decides over all is the one asked for, or else the
first of `eval/loss`, `train/loss`, `loss` and then all others by name that every run has and whose
direction is known. If it leaves no run best, there is none: no other metric takes its place.

The rules of the figures stand in `store_statistics.py`, of what is better in `directions.py`, of
differences in `differences.py`, of groups in `groups.py`, of costs in `costs.py`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pillion.system import is_system
from pillion_sidecar.costs import RunCost, run_cost, throughput_metric
from pillion_sidecar.differences import Differences, config_differences, environment_differences
from pillion_sidecar.directions import Direction, direction_of
from pillion_sidecar.errors import PeerError
from pillion_sidecar.groups import (
    GroupDifference,
    GroupStatistics,
    RunGroup,
    compare_groups,
    group_figure,
    group_runs,
    name_some,
)
from pillion_sidecar.records import RunId
from pillion_sidecar.store_figures import by_name
from pillion_sidecar.store_statistics import MetricStatistics
from pillion_sidecar.stored_run import StoredRun

RUNS_MIN, RUNS_MAX = 2, 10
"""How many runs can be compared at once; fewer and more are refused."""

METRICS_PREFERRED = ("eval/loss", "train/loss", "loss")
"""These decide over all before any other."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of some runs."""

    metric: str = ""
    """The metric that decides over all; empty: chosen as above."""
    directions: Mapping[str, Direction] = field(default_factory=dict)
    """What better means for metrics, whatever else says it."""
    group_by: str = ""
    """A config key; empty: the runs' own group."""
    named: frozenset[str] = frozenset()
    """Metrics that are asked for elsewhere; those of the system are left out unless named."""


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric across the runs; `statistics` in the order asked for."""

    key: str
    direction: Direction
    statistics: tuple[MetricStatistics, ...]
    best_run_id: RunId | None
    group_figure: str = ""
    """By which value runs stand in their groups; empty without groups."""
    groups: tuple[GroupStatistics, ...] = ()
    group_differences: tuple[GroupDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found. `metric` is the one that decided; None if none could."""

    runs: tuple[StoredRun, ...]
    metrics: tuple[MetricComparison, ...]
    metric: str | None
    best_run_id: RunId | None
    config_differences: Differences
    environment_differences: Differences
    costs: tuple[RunCost, ...]
    throughput_metric: str
    groups: tuple[RunGroup, ...]


def check_run_ids(run_ids: Sequence[str]) -> None:
    """Raise PeerError unless these are runs that can be compared; to be called before any read."""
    if not RUNS_MIN <= len(run_ids) <= RUNS_MAX:
        these = "1 run" if len(run_ids) == 1 else f"{len(run_ids)} runs"
        raise PeerError(
            f"{these} cannot be compared; name {RUNS_MIN} to {RUNS_MAX}.",
            reason="RUN_COUNT",
        )
    if len(set(run_ids)) < len(run_ids):
        repeated = next(run_id for run_id in run_ids if run_ids.count(run_id) > 1)
        raise PeerError(f"Run {repeated} is named twice; name each once.", reason="RUN_REPEATED")


def directions_of(question: Question, runs: Sequence[StoredRun]) -> Callable[[str], Direction]:
    """Return what tells the directions of these runs' metrics."""
    definitions = [by_name(run.definitions) for run in runs]
    return lambda key: direction_of(key, question.directions, definitions)


def compare(
    runs: Sequence[StoredRun],
    statistics: Mapping[RunId, Mapping[str, MetricStatistics]],
    question: Question,
    now: Callable[[], int] = time.time_ns,
) -> Comparison:
    """Compare runs by the rules above.

    Args:
        runs: The runs, in the order asked for.
        statistics: The figures of all metrics of each of them, by their directions.
        question: What is asked.
        now: Tells the time, in ns.

    Raises:
        PeerError: No run has a metric that is named, or the config key.
    """
    groups = group_runs(runs, question.group_by)
    named = {question.metric, *question.directions, *question.named}
    direction_of_key = directions_of(question, runs)
    metrics = {
        key: _compare_metric(key, direction_of_key(key), runs, statistics, groups)
        for key in sorted({key for run in runs for key in statistics[run.run_id]})
        if not is_system(key) or key in named
    }
    for key in [question.metric] * bool(question.metric) + list(question.directions):
        check_metric(key, list(metrics))
    deciding = metrics.get(question.metric or _deciding_key(metrics))
    best_run_id = deciding.best_run_id if deciding else None
    throughput = throughput_metric([statistics[run.run_id] for run in runs])
    return Comparison(
        runs=tuple(runs),
        metrics=tuple(metrics.values()),
        metric=deciding.key if deciding and best_run_id else None,
        best_run_id=best_run_id,
        config_differences=config_differences(runs),
        environment_differences=environment_differences(runs),
        costs=tuple(run_cost(run, statistics[run.run_id], throughput, now) for run in runs),
        throughput_metric=throughput,
        groups=groups,
    )


def check_metric(key: str, known: Sequence[str], purpose: str = "") -> None:
    """Raise PeerError unless one of the runs has this metric."""
    if key not in known:
        raise PeerError(
            f"None of these runs has the metric {key!r}{' ' * bool(purpose)}{purpose}. "
            f"{name_some(known)}",
            reason="METRIC_UNKNOWN",
        )


def _compare_metric(
    key: str,
    direction: Direction,
    runs: Sequence[StoredRun],
    statistics: Mapping[RunId, Mapping[str, MetricStatistics]],
    groups: Sequence[RunGroup],
) -> MetricComparison:
    of_runs = {
        run.run_id: statistics[run.run_id].get(key) or MetricStatistics(run.run_id, 0, 0)
        for run in runs
    }
    best = _best([each.best for each in of_runs.values()], direction)
    figure = group_figure(direction) if groups else ""
    return MetricComparison(
        key,
        direction,
        tuple(of_runs.values()),
        None if best is None else runs[best].run_id,
        figure,
        *compare_groups(groups, of_runs, figure),
    )


def _best(values: Sequence[float | None], direction: Direction) -> int | None:
    """Return the index of the best value, the first of equal ones."""
    numbers = [(value, index) for index, value in enumerate(values) if value is not None]
    if not numbers:
        return None
    sign = -1 if direction is Direction.HIGHER else 1
    return min(numbers, key=lambda number: sign * number[0])[1]


def _deciding_key(metrics: Mapping[str, MetricComparison]) -> str:
    keys = [key for key in (*METRICS_PREFERRED, *metrics) if key in metrics and not is_system(key)]
    return next((key for key in keys if _can_decide(metrics[key])), "")


def _can_decide(metric: MetricComparison) -> bool:
    is_shared = all(each.point_count for each in metric.statistics)
    return is_shared and metric.direction is not Direction.UNKNOWN
