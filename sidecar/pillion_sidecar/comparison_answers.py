"""The answer to `Compare`, as a message: for the service, and for the CLI where no sidecar runs."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import to_any_value
from pillion_sidecar.alignment import (
    POINTS_DEFAULT,
    Aligned,
    Alignment,
    Axis,
    align,
    check_alignment,
    check_point_counts,
)
from pillion_sidecar.answers import find_run, run_message
from pillion_sidecar.compare import (
    Comparison,
    MetricComparison,
    Question,
    check_metric,
    check_run_ids,
    compare,
    directions_of,
)
from pillion_sidecar.differences import Difference
from pillion_sidecar.directions import Direction
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import RunId
from pillion_sidecar.store import Store
from pillion_sidecar.store_statistics import MetricStatistics, read_statistics
from pillion_sidecar.stored_run import StoredRun


def check_question(request: pb2.CompareRequest) -> None:
    """Raise PeerError unless this can be asked; to be called before any read."""
    check_run_ids(list(request.run_ids))
    _question(request)
    _alignment(request)


def compare_runs(store: Store, request: pb2.CompareRequest) -> pb2.CompareResponse:
    """Answer `Compare`."""
    check_question(request)
    runs = [find_run(store, run_id) for run_id in request.run_ids]
    check_run_ids([run.run_id for run in runs])
    question, alignment = _question(request), _alignment(request)
    direction_of_key = functools.cache(directions_of(question, runs))
    statistics: dict[RunId, Mapping[str, MetricStatistics]] = {
        run.run_id: {}
        if request.differences_only
        else read_statistics(store, run.run_id, direction_of_key)
        for run in runs
    }
    response = _message(compare(runs, statistics, question))
    known = [metric.key for metric in response.metrics]
    for key in alignment.keys:
        check_metric(key, known)
    if alignment.axis_metric:
        check_metric(alignment.axis_metric, known, "to align over, nor is it `step` or `time`")
    point_counts = {
        metric.key: sum(one.point_count for one in metric.statistics) for metric in response.metrics
    }
    check_point_counts(alignment, point_counts)
    response.aligned.extend(
        _aligned_message(each, runs) for each in _aligned(store, alignment, runs)
    )
    return response


def _question(request: pb2.CompareRequest) -> Question:
    if request.differences_only:
        return Question()
    directions: dict[str, Direction] = {}
    for key, value in request.directions.items():
        if value not in map(int, Direction):
            raise PeerError(
                f"directions: {key} has {value}; say DIRECTION_LOWER, DIRECTION_HIGHER, or "
                "DIRECTION_UNSPECIFIED if no run is to be best by it."
            )
        directions[key] = Direction(value)
    named = frozenset([*request.series, request.axis_metric])
    return Question(request.metric, directions, request.group_by, named)


def _alignment(request: pb2.CompareRequest) -> Alignment:
    axis = request.axis or pb2.AXIS_STEP
    if axis not in map(int, Axis):
        raise PeerError(f"axis: {axis} is none; say AXIS_STEP, AXIS_TIME or AXIS_METRIC.")
    max_points = request.max_points or POINTS_DEFAULT
    keys = () if request.differences_only else tuple(request.series)
    alignment = Alignment(keys, Axis(axis), request.axis_metric, max_points)
    check_alignment(alignment, len(request.run_ids))
    return alignment


def _aligned(store: Store, alignment: Alignment, runs: Sequence[StoredRun]) -> Iterator[Aligned]:
    """Align metric by metric: of each run the axis is held, and one metric at a time."""
    starts = [run.start_time_unix_nano for run in runs]
    axis_key = alignment.axis_metric
    axes = [store.read_series(run.run_id, {axis_key}) if axis_key else {} for run in runs]
    for key in alignment.keys:
        series = [
            axis if key == axis_key else axis | store.read_series(run.run_id, {key})
            for run, axis in zip(runs, axes, strict=True)
        ]
        yield align(alignment, key, series, starts)


def _message(comparison: Comparison) -> pb2.CompareResponse:
    config, environment = comparison.config_differences, comparison.environment_differences
    return pb2.CompareResponse(
        runs=map(run_message, comparison.runs),
        metrics=map(_metric_message, comparison.metrics),
        metric=comparison.metric or "",
        best_run_id=comparison.best_run_id or "",
        config_differences=map(_difference_message, config.found),
        config_difference_count=config.count,
        environment_differences=map(_difference_message, environment.found),
        environment_difference_count=environment.count,
        costs=[run_pb2.RunCost(**asdict(cost)) for cost in comparison.costs],
        throughput_metric=comparison.throughput_metric,
        groups=[run_pb2.RunGroup(**asdict(group)) for group in comparison.groups],
    )


def _metric_message(metric: MetricComparison) -> run_pb2.MetricComparison:
    return run_pb2.MetricComparison(
        key=metric.key,
        direction=run_pb2.Direction.Name(metric.direction),
        best_run_id=metric.best_run_id or "",
        statistics=[run_pb2.MetricStatistics(**asdict(one)) for one in metric.statistics],
        group_figure=metric.group_figure,
        groups=[run_pb2.GroupStatistics(**asdict(one)) for one in metric.groups],
        group_differences=[
            run_pb2.GroupDifference(**asdict(one)) for one in metric.group_differences
        ],
    )


def _difference_message(difference: Difference) -> run_pb2.ConfigDifference:
    return run_pb2.ConfigDifference(
        key=difference.key,
        settings=[
            run_pb2.ConfigSetting(
                run_id=setting.run_id, value=to_any_value(setting.value) if setting.is_set else None
            )
            for setting in difference.settings
        ],
    )


def _aligned_message(aligned: Aligned, runs: Iterable[StoredRun]) -> run_pb2.AlignedMetric:
    return run_pb2.AlignedMetric(
        key=aligned.key,
        x=aligned.x,
        series=[
            run_pb2.AlignedSeries(run_id=run.run_id, values=values)
            for run, values in zip(runs, aligned.y, strict=True)
        ],
    )
