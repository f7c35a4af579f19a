"""Figures of every metric of a run, for comparisons.

NaN is counted and left out of every figure; the infinities take part. First and last go by ordinal.
The mean is taken in float64; of both infinities there is none. The best value is the least or the
largest, and its step the first, by ordinal, at which it was reached. Integers and booleans are
compared exactly, then given as doubles.

The points themselves are only read where that cannot be avoided: the running figures of the
signatures (`store_figures.py`) tell all but the best value's step, and for that the least and
largest values of the segments tell the one column to look at. Where these say too little, as when
the last value is NaN, the metric is read as a whole.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from pillion.plain import EXACT_MAX
from pillion_sidecar.columns import NUMBER_KINDS
from pillion_sidecar.directions import Direction
from pillion_sidecar.records import RunId
from pillion_sidecar.store import Series, Store, read_series
from pillion_sidecar.store_figures import COUNT, FIGURES, FIRST, LARGEST, LEAST, TOTAL
from pillion_sidecar.store_tables import (
    POSITIONS_MAX,
    columns,
    from_blob,
    readable,
    segments,
    signatures,
)

WHOLE_METRICS_MAX = 16
"""So many metrics are read as a whole at once."""

_Place: TypeAlias = tuple[int, int]
"""A metric's column: (signature id, position)."""


@dataclass(frozen=True, slots=True)
class MetricStatistics:
    """One metric of one run; a figure is None where there is no number for it."""

    run_id: RunId
    point_count: int
    nan_count: int
    first: float | None = None
    last: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    best: float | None = None
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """What one signature knows of a metric."""

    place: _Place
    kind: str
    row_count: int
    first_ordinal: int
    last_ordinal: int
    last_value: float
    figures: Sequence[float] | None

    @property
    def nan_count(self) -> int:
        return self.row_count - int(self.figures[COUNT]) if self.figures else 0


_Parts: TypeAlias = dict[str, list[_Part]]


def read_statistics(
    store: Store, run_id: RunId, direction_of: Callable[[str], Direction]
) -> dict[str, MetricStatistics]:
    """Return the figures of all metrics of a run that have points."""
    with store.snapshot() as connection:
        parts = _read_parts(connection, run_id)
        directions = {key: direction_of(key) for key in parts}
        found = {
            key: figures
            for key, of_key in parts.items()
            if (figures := _of_parts(run_id, of_key)) is not None
        }
        extremes = _extremes(found, directions)
        steps = _read_best_steps(connection, run_id, parts, directions, extremes)
        for key, best in extremes.items():
            if key in steps:
                found[key] = replace(found[key], best=best, best_step=steps[key])
            else:
                del found[key]
        unsure = iter([key for key in parts if key not in found])
        while some := list(itertools.islice(unsure, WHOLE_METRICS_MAX)):
            for key, series in read_series(connection, run_id, some).items():
                found[key] = statistics_of(run_id, series, directions[key])
    return found


def statistics_of(run_id: RunId, series: Series, direction: Direction) -> MetricStatistics:
    """Make up the figures of a metric from its points."""
    is_number = ~np.isnan(series.values)
    values, steps = series.values[is_number], series.steps[is_number]
    nan_count = len(series) - len(values)
    if not len(values):
        return MetricStatistics(run_id, len(series), nan_count)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(values.mean(dtype=np.float64))
    best: int | None = None
    if direction is not Direction.UNKNOWN:
        best = int(values.argmin() if direction is Direction.LOWER else values.argmax())
    return MetricStatistics(
        run_id=run_id,
        point_count=len(series),
        nan_count=nan_count,
        first=float(values[0]),
        last=float(values[-1]),
        min=float(values.min()),
        max=float(values.max()),
        mean=None if math.isnan(mean) else mean,
        best=None if best is None else float(values[best]),
        best_step=None if best is None else int(steps[best]),
    )


def _read_parts(connection: sa.Connection, run_id: RunId) -> _Parts:
    of_run = signatures.c.run_id == run_id
    counting = sa.select(segments.c.signature_id, sa.func.sum(segments.c.row_count))
    counting = counting.join(signatures).where(of_run).group_by(segments.c.signature_id)
    row_counts = {signature_id: int(count) for signature_id, count in connection.execute(counting)}
    parts: _Parts = {}
    known = sa.select(*readable(connection, signatures)).where(of_run)
    for row in connection.execute(known.order_by(signatures.c.signature_id)).mappings():
        for position, part in enumerate(_parts_of(dict(row), row_counts[row["signature_id"]])):
            if part.kind in NUMBER_KINDS:
                parts.setdefault(row["metrics"][position][0], []).append(part)
    return parts


def _parts_of(row: Mapping[str, Any], row_count: int) -> Iterator[_Part]:
    """Yield what a signature knows of each of its metrics."""
    blob = row.get("figures")  # none in a store of before format 3
    figures: list[Any] = [None] * len(row["metrics"])
    if blob is not None:
        figures = from_blob("d", blob).reshape(-1, FIGURES).tolist()
    for position, (_, kind) in enumerate(row["metrics"]):
        yield _Part(
            place=(row["signature_id"], position),
            kind=kind,
            row_count=row_count,
            first_ordinal=row.get("first_ordinal") or 0,
            last_ordinal=row["last_ordinal"],
            last_value=float(row["last_values"][position]) if kind in NUMBER_KINDS else math.nan,
            figures=figures[position],
        )


def _of_parts(run_id: RunId, parts: Sequence[_Part]) -> MetricStatistics | None:
    """Make up the figures of a metric, all but the best; None if its points have to be read."""
    figures = [part.figures for part in parts if part.figures is not None]
    if len(figures) < len(parts):
        return None
    point_count, nan_count = (
        sum(part.row_count for part in parts),
        sum(part.nan_count for part in parts),
    )
    if point_count == nan_count:
        return MetricStatistics(run_id, point_count, nan_count)
    earliest = min(parts, key=lambda part: part.first_ordinal)
    latest = max(parts, key=lambda part: part.last_ordinal)
    if (len(parts) > 1 and earliest.nan_count) or math.isnan(latest.last_value):
        return None  # which number is the first, or the last, these do not tell
    assert earliest.figures is not None
    total = sum(each[TOTAL] for each in figures)
    return MetricStatistics(
        run_id=run_id,
        point_count=point_count,
        nan_count=nan_count,
        first=earliest.figures[FIRST],
        last=latest.last_value,
        min=min(each[LEAST] for each in figures if each[COUNT]),
        max=max(each[LARGEST] for each in figures if each[COUNT]),
        mean=None if math.isnan(total) else total / (point_count - nan_count),
    )


def _extremes(
    found: Mapping[str, MetricStatistics], directions: Mapping[str, Direction]
) -> dict[str, float]:
    """Return the best values of the metrics that have one."""
    extremes: dict[str, float] = {}
    for key, figures in found.items():
        best = {Direction.LOWER: figures.min, Direction.HIGHER: figures.max}.get(directions[key])
        if best is not None:
            extremes[key] = best
    return extremes


def _read_best_steps(
    connection: sa.Connection,
    run_id: RunId,
    parts: _Parts,
    directions: Mapping[str, Direction],
    extremes: Mapping[str, float],
) -> dict[str, int]:
    """Return the steps at which metrics first had their extremes, as far as this tells."""
    wanted: dict[_Place, tuple[str, str, float]] = {}
    for key, extreme in extremes.items():
        if abs(extreme) < EXACT_MAX or all(part.kind == "d" for part in parts[key]):
            for part in parts[key]:
                wanted[part.place] = key, part.kind, extreme
    reached: dict[str, tuple[int, int]] = {}
    for segment_id, positions in _read_reaching(connection, run_id, wanted, directions).items():
        for key, ordinal, step in _read_places(connection, segment_id, positions):
            reached[key] = min(reached.get(key, (ordinal, step)), (ordinal, step))
    return {key: step for key, (_, step) in reached.items()}


def _read_reaching(
    connection: sa.Connection,
    run_id: RunId,
    wanted: Mapping[_Place, tuple[str, str, float]],
    directions: Mapping[str, Direction],
) -> dict[int, dict[int, tuple[str, str, float]]]:
    """Return the first segment of each signature that has a wanted extreme, by its positions."""
    reaching: dict[int, dict[int, tuple[str, str, float]]] = {}
    if not wanted:
        return reaching
    query = (
        sa.select(
            segments.c.signature_id,
            columns.c.position,
            columns.c.segment_id,
            columns.c.minimum,
            columns.c.maximum,
        )
        .select_from(columns.join(segments).join(signatures))
        .where(signatures.c.run_id == run_id)
        .order_by(columns.c.segment_id)
    )
    left = dict(wanted)
    for signature_id, position, segment_id, minimum, maximum in connection.execute(query):
        place = signature_id, position
        if place in left:
            key, _, extreme = left[place]
            if extreme == (minimum if directions[key] is Direction.LOWER else maximum):
                reaching.setdefault(segment_id, {})[position] = left.pop(place)
    return reaching


def _read_places(
    connection: sa.Connection, segment_id: int, positions: Mapping[int, tuple[str, str, float]]
) -> Iterator[tuple[str, int, int]]:
    """Yield (key, ordinal, step) of the first of a segment's rows that have certain values."""
    axes = sa.select(segments.c.ordinals, segments.c.steps)
    (blobs,) = connection.execute(axes.where(segments.c.segment_id == segment_id)).all()
    ordinals, steps = (from_blob("q", blob) for blob in blobs)
    query = sa.select(columns.c.position, columns.c.data)
    query = query.where(columns.c.segment_id == segment_id)
    if len(positions) <= POSITIONS_MAX:
        query = query.where(columns.c.position.in_(positions))
    for position, data in connection.execute(query):
        if position in positions:
            key, kind, value = positions[position]
            index = int((from_blob(kind, data) == value).argmax())
            yield key, int(ordinals[index]), int(steps[index])
