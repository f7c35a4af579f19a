"""Fewer points of a metric that still show its shape: of each bucket the least and the largest.

Buckets are equal ranges of ordinals, so that points may come in any order and from anywhere, and no
more than the chosen ones are ever in memory. The first and the last point are always kept. NaN is
neither least nor largest; of a bucket that has nothing else its first is kept, so that a gap shows.
Of equal values the first is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import starmap
from operator import attrgetter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pillion_sidecar.columns import Numbers

POINTS_MIN = 4
"""The first, the last, and of one bucket the least and the largest."""

_ordinal = attrgetter("ordinal")

Axis: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Point:
    """One value, exactly as it was logged."""

    ordinal: int
    step: int
    time_unix_nano: int
    value: float | int | bool


@dataclass(frozen=True, slots=True)
class Buckets:
    """Equal ranges of ordinals, from the first to the last point."""

    first_ordinal: int
    last_ordinal: int
    count: int

    @classmethod
    def within(cls, first_ordinal: int, last_ordinal: int, max_points: int) -> "Buckets":
        """Make so many that no more points than asked for are chosen."""
        assert max_points >= POINTS_MIN
        return cls(first_ordinal, last_ordinal, (max_points - 2) // 2)

    def of(self, ordinals: Axis) -> Axis:
        """Return the bucket of each point."""
        span = self.last_ordinal - self.first_ordinal + 1
        return (ordinals - self.first_ordinal) * self.count // span

    def starts(self, ordinals: Axis) -> tuple[Axis, Axis]:
        """Return where in ascending ordinals each bucket begins that has any, and which it is."""
        first, last = self.of(ordinals[[0, -1]])
        buckets = np.arange(first, last + 1)
        span = self.last_ordinal - self.first_ordinal + 1
        edges = self.first_ordinal - (-buckets * span // self.count)
        starts = np.searchsorted(ordinals, edges)
        has_any = np.diff(starts, append=len(ordinals)) > 0
        return starts[has_any], buckets[has_any]


class Extremes:
    """The points of one metric that are kept."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._least: dict[int, Point] = {}
        self._largest: dict[int, Point] = {}
        self._gaps: dict[int, Point] = {}
        self._ends: list[Point] = []

    def add(
        self, ordinals: Axis, values: Numbers, axes_of: Callable[[Axis], tuple[Axis, Axis]]
    ) -> None:
        """Look at more points, which come by ordinal.

        Args:
            ordinals: Of the points.
            values: Of the points.
            axes_of: Returns steps and times of some of them, by their indices, which ascend.
        """
        if not len(ordinals):
            return
        starts, buckets = self._buckets.starts(ordinals)
        least = _where(values, starts, np.fmin.reduceat(values, starts))
        largest = _where(values, starts, np.fmax.reduceat(values, starts))
        chosen = np.unique(np.concatenate([least, largest, [0, len(ordinals) - 1]]))
        axes = (ordinals[chosen], *axes_of(chosen), values[chosen])
        rows = zip(*(axis.tolist() for axis in axes), strict=True)
        points = dict(zip(chosen.tolist(), starmap(Point, rows), strict=True))
        self._ends += (points[0], points[len(ordinals) - 1])
        self._ends = [min(self._ends, key=_ordinal), max(self._ends, key=_ordinal)]
        for bucket, low, high in zip(
            *(buckets.tolist(), least.tolist(), largest.tolist()), strict=True
        ):
            if points[low].value != points[low].value:  # NaN: there is nothing else
                _keep(self._gaps, bucket, points[low], 0)
            else:
                _keep(self._least, bucket, points[low], 1)
                _keep(self._largest, bucket, points[high], -1)

    def points(self) -> list[Point]:
        """Return what is kept, by ordinal."""
        gaps = [point for bucket, point in self._gaps.items() if bucket not in self._least]
        kept = [*self._least.values(), *self._largest.values(), *gaps, *self._ends]
        by_ordinal = {point.ordinal: point for point in kept}
        return [by_ordinal[ordinal] for ordinal in sorted(by_ordinal)]


def _where(values: Numbers, starts: Axis, reduced: Numbers) -> Axis:
    """Return where each bucket's value is first; its first point if it is NaN."""
    hits = np.flatnonzero(values == np.repeat(reduced, np.diff(starts, append=len(values))))
    if not len(hits):
        return starts
    first = hits[np.minimum(np.searchsorted(hits, starts), len(hits) - 1)]
    return np.where(reduced == reduced, first, starts)  # noqa: PLR0124 - not where it is NaN


def _keep(kept: dict[int, Point], bucket: int, new: Point, sign: int) -> None:
    """Keep the lesser of two points, or the larger, or the earlier."""
    known = kept.get(bucket)
    if (
        known is None
        or (sign and sign * new.value < sign * known.value)
        or ((not sign or new.value == known.value) and new.ordinal < known.ordinal)
    ):
        kept[bucket] = new


def worth_reading(
    buckets: Buckets,
    first_ordinals: Axis,
    last_ordinals: Axis,
    minima: npt.NDArray[np.float64],
    maxima: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Tell which segments may hold a point that is kept, by what is known of each.

    Of segments that lie in one bucket whole, those with the least minimum and the largest maximum;
    and all others.

    Args:
        buckets: Those of the metric.
        first_ordinals: Of each segment; they ascend, as the next, and no two segments overlap.
        last_ordinals: Of each segment.
        minima: Of each segment; NaN if it has no number.
        maxima: Of each segment.
    """
    first, last = buckets.of(first_ordinals), buckets.of(last_ordinals)
    wanted: npt.NDArray[np.bool_] = first != last
    wanted[[0, -1]] = True
    whole = np.flatnonzero(~wanted)
    if len(whole):
        starts = np.flatnonzero(np.diff(first[whole], prepend=first[whole[0]] - 1))
        for figures, reduce in ((minima[whole], np.fmin), (maxima[whole], np.fmax)):
            wanted[whole[_where(figures, starts, reduce.reduceat(figures, starts))]] = True
    return wanted
