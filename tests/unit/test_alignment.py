"""Series over one x-axis: by step, by time, and by another metric; held against pandas."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stored_runs import series_of

from pillion_sidecar.alignment import (
    SERIES_MAX,
    VALUES_MAX,
    Aligned,
    Alignment,
    Axis,
    align,
    check_alignment,
)
from pillion_sidecar.errors import PeerError
from pillion_sidecar.store import Series

NAN = float("nan")
S = 10**9


def aligned(
    *runs: Series | None, axis: Axis = Axis.STEP, max_points: int = 1000, **fields: Any
) -> Aligned:
    """Align one metric of runs that started at 0."""
    series = [{"y": run} if run is not None else {} for run in runs]
    return align(Alignment(("y",), axis, max_points=max_points), "y", series, [0] * len(runs))


def lists(found: Aligned) -> tuple[list[float], list[list[float | None]]]:
    """Return places and values; None for NaN."""
    values = [[None if math.isnan(v) else v for v in one.tolist()] for one in found.y]
    return found.x.tolist(), values


def test_steps_are_joined_and_nothing_is_interpolated() -> None:
    """A run that lacks a step has no value there."""
    a = series_of([1.0, 2.0, 3.0], steps=[0, 10, 20])
    b = series_of([5.0, 6.0], steps=[10, 15])
    x, values = lists(aligned(a, b, None))
    assert x == [0, 10, 15, 20]
    assert values == [[1, 2, None, 3], [None, 5, 6, None], [None] * 4]


def test_of_a_step_that_is_logged_twice_the_last_counts() -> None:
    """Steps may go back, as after a resume from a checkpoint."""
    again = series_of([1.0, 2.0, 3.0, 4.0], steps=[0, 1, 2, 1])
    assert lists(aligned(again)) == ([0, 1, 2], [[1, 4, 3]])


def test_of_too_many_steps_those_that_runs_share_are_kept() -> None:
    """Evenly many, the first and the last among them."""
    often = series_of(np.arange(1000.0).tolist(), steps=range(1000))
    seldom = series_of(np.arange(100.0).tolist(), steps=range(0, 1000, 10))
    found = aligned(often, seldom, max_points=12)
    assert found.x.tolist() == [0, 90, 180, 270, 360, 450, 540, 630, 720, 810, 900, 990]
    assert not any(np.isnan(values).any() for values in found.y)
    wide = aligned(often, seldom, max_points=200)
    assert (len(wide.x), wide.x[0], wide.x[-1]) == (200, 0, 999)


def test_by_time_the_last_value_until_then_counts() -> None:
    """From a run's first point to its last; before and beyond it has none."""
    a = series_of([1.0, 2.0], times=[1 * S, 4 * S])
    b = series_of([5.0, 6.0, 7.0], times=[2 * S, 3 * S, 5 * S])
    x, values = lists(aligned(a, b, axis=Axis.TIME))
    assert x == [1, 2, 3, 4, 5]
    assert values == [[1, 1, 1, 2, None], [None, 5, 6, 6, 7]]


def test_time_counts_from_each_runs_own_start() -> None:
    """So runs of different days lie upon each other."""
    series = [{"y": series_of([1.0], times=[11 * S])}, {"y": series_of([2.0], times=[101 * S])}]
    found = align(Alignment(("y",), Axis.TIME), "y", series, [10 * S, 100 * S])
    assert lists(found) == ([1], [[1], [2]])


def test_too_many_times_are_laid_out_evenly() -> None:
    """Between the least and the largest, both included."""
    a = series_of(range(100), times=[i * S for i in range(100)])
    x, (values,) = lists(aligned(a, axis=Axis.TIME, max_points=4))
    assert x == [0, 33, 66, 99]
    assert values == [0, 33, 66, 99]


def test_by_a_metric_its_last_value_in_the_row_or_before_is_the_place() -> None:
    """Points before the first one, and those at NaN, are left out."""
    y = series_of([1.0, 2.0, 3.0, 4.0, 5.0], ordinals=[0, 2, 3, 5, 7])
    samples = series_of([8.0, 16.0, NAN, 32.0], ordinals=[1, 3, 4, 6])
    run = {"y": y, "n": samples}
    found = align(Alignment(("y",), Axis.METRIC, "n"), "y", [run, {"y": y}], [0, 0])
    assert lists(found) == ([8, 16, 32], [[2, 3, 5], [None] * 3])


@pytest.mark.parametrize("axis", [Axis.STEP, Axis.TIME])
def test_nothing_to_align_is_no_place(axis: Axis) -> None:
    """A metric that no run has any points of."""
    assert lists(aligned(None, series_of([]), axis=axis)) == ([], [[], []])


@pytest.mark.parametrize("seed", range(5))
def test_random_series_are_aligned_as_pandas_does(seed: int) -> None:
    """Steps by an outer join, times by the last value at or before."""
    random = np.random.default_rng(seed)
    runs = []
    for _ in range(3):
        count = int(random.integers(1, 60))
        axis = random.integers(0, 100, count)
        values = random.choice([NAN, 0.5, 1.5, 2.5], count)
        runs.append(series_of(values.tolist(), steps=axis.tolist(), times=(axis * S).tolist()))
    columns = [
        pd.Series(run.values, index=run.steps).groupby(level=0).agg(lambda one: one.iloc[-1])
        for run in runs
    ]
    joined = pd.concat(columns, axis=1).sort_index()
    found = aligned(*runs)
    assert found.x.tolist() == joined.index.tolist()
    np.testing.assert_array_equal(np.array(found.y).T, joined.to_numpy())
    by_time = aligned(*runs, axis=Axis.TIME)
    x = pd.DataFrame({"x": by_time.x})
    for column, values in zip(columns, by_time.y, strict=True):
        points = pd.DataFrame({"x": column.index.astype(float), "y": column.to_numpy()})
        expected = pd.merge_asof(x, points, on="x")["y"].where(x["x"] <= points["x"].max())
        np.testing.assert_array_equal(values, expected.to_numpy())


@pytest.mark.parametrize(
    ("alignment", "words"),
    [
        (Alignment(tuple(map(str, range(SERIES_MAX + 1)))), "at most 20"),
        (Alignment(("a", "a")), "named twice"),
        (Alignment(("a",), Axis.METRIC), "axis_metric"),
        (Alignment(("a",), Axis.TIME, "n"), "axis_metric"),
        (Alignment(("a",), max_points=-1), "max_points: 1 to 100,000"),
        (Alignment(("a", "b"), max_points=VALUES_MAX // 4 + 1), "max_points: 1 to 50,000"),
    ],
)
def test_what_cannot_be_aligned_is_refused(alignment: Alignment, words: str) -> None:
    """With what can be."""
    with pytest.raises(PeerError, match=words):
        check_alignment(alignment, 2)


def test_as_much_as_may_be_asked_for_is_aligned() -> None:
    """The default fits whatever number of series and runs."""
    check_alignment(Alignment(tuple(map(str, range(SERIES_MAX)))), 10)
