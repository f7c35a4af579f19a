"""Series of several runs over one x-axis. Pure functions.

By step, the places are the steps that any run has, and nothing is interpolated: a run that lacks a
step has no value there; of a step that it logged more than once, the last counts. Are there more
than may be given, those that the most runs share are kept, and of these evenly many, the first and
the last among them.

By time since each run's start, or by another metric, the places are those of all points, or, if
there are too many, evenly laid between the least and the largest. A run's value at a place is its
last one there or before; before its first point, and beyond its last, it has none. The x of a point
by a metric is the last one that the run logged in the same row or before; points whose x is NaN or
infinite are left out. Where x goes back, as several writers' times may, points are put in order of
x.

A place without a value is NaN, as is a value that is NaN itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pillion.v1 import telemetry_service_pb2
from pillion_sidecar.errors import LimitError, PeerError
from pillion_sidecar.store import Series

SERIES_MAX = 20
"""So many metrics are aligned at once."""
POINTS_DEFAULT = 1_000
POINTS_READ_MAX = 5_000_000
"""Of one metric in all runs together: they are held at once, 32 bytes each, and sorted."""
VALUES_MAX = 200_000
"""Of all series together: 1.6 MB of an answer, which gRPC takes without being told."""

Floats: TypeAlias = npt.NDArray[np.float64]


class Axis(IntEnum):
    """What series are aligned over."""

    STEP = telemetry_service_pb2.AXIS_STEP
    TIME = telemetry_service_pb2.AXIS_TIME
    METRIC = telemetry_service_pb2.AXIS_METRIC


@dataclass(frozen=True, slots=True)
class Alignment:
    """What is asked for."""

    keys: tuple[str, ...]
    axis: Axis = Axis.STEP
    axis_metric: str = ""
    max_points: int = POINTS_DEFAULT


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """One metric of several runs over one x-axis."""

    key: str
    x: Floats
    """Rising, of shape (places,)."""
    y: Sequence[Floats]
    """One per run, of shape (places,)."""


def check_alignment(alignment: Alignment, run_count: int) -> None:
    """Raise PeerError unless so much can be aligned."""
    if len(alignment.keys) > SERIES_MAX:
        raise PeerError(f"series: {len(alignment.keys)} metrics; name at most {SERIES_MAX}.")
    if len(set(alignment.keys)) < len(alignment.keys):
        raise PeerError("series: a metric is named twice; name each once.")
    if (alignment.axis is Axis.METRIC) != bool(alignment.axis_metric):
        raise PeerError("axis_metric: name the metric to align over with AXIS_METRIC, else none.")
    key_count = max(1, len(alignment.keys))
    points_max = VALUES_MAX // (key_count * run_count)
    if not 1 <= alignment.max_points <= points_max:
        raise PeerError(
            f"max_points: 1 to {points_max:,} for {key_count} metric{'s' * (key_count > 1)} of "
            f"{run_count} runs, or 0 for {POINTS_DEFAULT:,}."
        )


def check_point_counts(alignment: Alignment, point_counts: Mapping[str, int]) -> None:
    """Raise LimitError if some series is too long to be aligned.

    Args:
        alignment: What is asked for.
        point_counts: How many points each metric has in all runs together.
    """
    for key in filter(None, (*alignment.keys, alignment.axis_metric)):
        if point_counts[key] > POINTS_READ_MAX:
            raise LimitError(
                f"series: {key} has {point_counts[key]:,} points in these runs; {POINTS_READ_MAX:,}"
                " can be aligned at once. Compare fewer runs, or read them one by one with "
                "ReadMetrics and max_points. Figures have no such bound.",
                "POINTS_MANY",
            )


def align(
    alignment: Alignment, key: str, runs: Sequence[Mapping[str, Series]], starts: Sequence[int]
) -> Aligned:
    """Align one metric.

    Args:
        alignment: How.
        key: The metric.
        runs: Of each run the series of this metric, and of the one to align over, if it has them.
        starts: When each run started, in ns.
    """
    if alignment.axis is Axis.STEP:
        by_step = [_by_step(series.get(key)) for series in runs]
        steps = _shared(by_step, alignment.max_points)
        return Aligned(key, steps.astype(np.float64), [_exactly(each, steps) for each in by_step])
    points = [
        _by_metric(series.get(key), series.get(alignment.axis_metric))
        if alignment.axis is Axis.METRIC
        else _by_time(series.get(key), start)
        for series, start in zip(runs, starts, strict=True)
    ]
    x = _laid_out(points, alignment.max_points)
    return Aligned(key, x, [_until(each, x) for each in points])


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Points of one run by rising x, each x once."""

    x: npt.NDArray[Any]
    values: Floats


def _points(x: npt.NDArray[Any], values: npt.NDArray[Any]) -> _Points:
    """Put points in order of x, those of one x in the order of time, and keep the last of each."""
    order = np.argsort(x, kind="stable")
    x, values = x[order], values[order].astype(np.float64)
    is_last = np.ones(len(x), np.bool_)
    is_last[:-1] = x[1:] != x[:-1]
    return _Points(x[is_last], values[is_last])


def _by_step(series: Series | None) -> _Points:
    if series is None:
        return _Points(np.empty(0, np.int64), np.empty(0))
    return _points(series.steps, series.values)


def _by_time(series: Series | None, start_unix_nano: int) -> _Points:
    if series is None:
        return _Points(np.empty(0), np.empty(0))
    return _points((series.times_unix_nano - start_unix_nano) / 1e9, series.values)


def _by_metric(series: Series | None, axis: Series | None) -> _Points:
    if series is None or axis is None:
        return _Points(np.empty(0), np.empty(0))
    places = np.searchsorted(axis.ordinals, series.ordinals, side="right") - 1
    x = axis.values[np.maximum(places, 0)].astype(np.float64)
    is_known = (places >= 0) & np.isfinite(x)
    return _points(x[is_known], series.values[is_known])


def _shared(points: Sequence[_Points], max_points: int) -> npt.NDArray[np.int64]:
    """Return the steps to give: all, or evenly many of those that the most runs share."""
    steps, counts = np.unique(np.concatenate([each.x for each in points]), return_counts=True)
    if len(steps) <= max_points:
        return steps
    shared = (steps[counts >= run_count] for run_count in range(len(points), 0, -1))
    steps = next(each for each in shared if len(each) >= max_points)
    return steps[np.linspace(0, len(steps) - 1, max_points).round().astype(np.int64)]


def _laid_out(points: Sequence[_Points], max_points: int) -> Floats:
    x = np.unique(np.concatenate([each.x for each in points]))
    return np.linspace(x[0], x[-1], max_points) if len(x) > max_points else x


def _exactly(points: _Points, x: npt.NDArray[np.int64]) -> Floats:
    """Return the values at exactly these places."""
    values = np.full(len(x), np.nan)
    _, there, here = np.intersect1d(x, points.x, assume_unique=True, return_indices=True)
    values[there] = points.values[here]
    return values


def _until(points: _Points, x: Floats) -> Floats:
    """Return the last values at these places or before, up to the last point."""
    values = np.full(len(x), np.nan)
    if len(points.x):
        places = np.searchsorted(points.x, x, side="right") - 1
        is_within = (places >= 0) & (x <= points.x[-1])
        values[is_within] = points.values[places[is_within]]
    return values
