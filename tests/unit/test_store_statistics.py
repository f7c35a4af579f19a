"""Figures of metrics: from points, from the store without its points, and held against pandas."""

import math
import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgresql import PostgresqlServer
from stored_runs import Shelf, series_of

from pillion_sidecar import store_statistics
from pillion_sidecar.directions import Direction
from pillion_sidecar.records import Frame, RunId
from pillion_sidecar.store_statistics import MetricStatistics, read_statistics, statistics_of

NAN, INF = float("nan"), float("inf")
RUN = RunId("run")
LOWER, HIGHER, UNKNOWN = Direction.LOWER, Direction.HIGHER, Direction.UNKNOWN


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store with a run."""
    with closing(Shelf(tmp_path)) as shelf:
        shelf.start(RUN)
        yield shelf


def figures(*values: float, direction: Direction = LOWER) -> MetricStatistics:
    """Make up figures of values."""
    return statistics_of(RUN, series_of(values), direction)


def test_figures_leave_nan_out_and_take_infinities_in() -> None:
    """NaN is counted; first and last are the first and last numbers."""
    assert figures(NAN, 3.0, INF, 1.0, NAN, 1.0, 2.0, NAN) == MetricStatistics(
        run_id=RUN,
        point_count=8,
        nan_count=3,
        first=3.0,
        last=2.0,
        min=1.0,
        max=INF,
        mean=INF,
        best=1.0,
        best_step=130,
    )


def test_a_metric_without_a_number_has_no_figures() -> None:
    """Its points are counted all the same."""
    assert figures(NAN, NAN) == MetricStatistics(RUN, 2, 2)


def test_of_both_infinities_there_is_no_mean() -> None:
    """And no warning either."""
    assert (figures(INF, -INF).mean, figures(INF, -INF).max) == (None, INF)


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
    low, high, x = (figures(*values, direction=each) for each in (LOWER, HIGHER, UNKNOWN))
    assert (x.min, x.max) == (float(min(values)), float(max(values)))
    assert (x.first, x.last, x.point_count) == (float(values[0]), float(values[-1]), len(values))
    assert x.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-7 * abs(max(values)))
    assert (x.best, x.best_step) == (None, None)
    assert (low.best, low.best_step) == (low.min, 100 + 10 * values.index(min(values)))
    assert (high.best, high.best_step) == (high.max, 100 + 10 * values.index(max(values)))


@pytest.mark.parametrize("seed", range(8))
def test_figures_of_random_runs_are_those_that_pandas_finds(shelf: Shelf, seed: int) -> None:
    """Whatever keys, kinds, NaNs, infinities and ties come in rows of whatever order and number."""
    check_random_run(shelf, seed)


def test_figures_are_the_same_in_postgresql(postgresql: PostgresqlServer, tmp_path: Path) -> None:
    """Whatever holds the tables."""
    with closing(Shelf(tmp_path, postgresql.new_url())) as shelf:
        shelf.start(RUN)
        check_random_run(shelf, seed=0)


def check_random_run(shelf: Shelf, seed: int) -> None:
    """Log a random run, and hold its figures against those of pandas."""
    random = np.random.default_rng(seed)
    logged: list[pd.DataFrame] = []
    ordinal = 0
    for _ in range(12):
        count = int(random.choice([1, 3, 40, 700, 1500]))
        keys = random.permutation(["a", "b", "c", "d"])[: random.integers(1, 5)]
        steps = random.integers(0, 5000, count)
        columns = {str(key): column_of(random, count) for key in keys}
        shelf.apply(RUN, Frame(ordinal, steps, steps, columns))
        logged += [
            pd.DataFrame({"key": key, "step": steps, "value": column.astype(np.float64)})
            for key, column in columns.items()
        ]
        ordinal += count
    for direction in Direction:
        found = read_statistics(shelf.store, RUN, lambda _, direction=direction: direction)  # type: ignore[misc]
        expected = by_pandas(pd.concat(logged, ignore_index=True), direction)
        assert {key: rounded(one) for key, one in found.items()} == expected


def column_of(random: np.random.Generator, count: int) -> npt.NDArray[Any]:
    """Make values of any kind, few different ones among them."""
    match random.integers(0, 6):
        case 0:
            return random.integers(-3, 4, count)
        case 1:
            return random.integers(0, 2, count).astype(np.bool_)
        case 2:
            return np.full(count, NAN)
        case 3:
            return random.choice([NAN, 1.5, -1.5, 7.25], count)
        case 4:
            return random.choice([NAN, INF, 0.5], count)
    return np.round(random.normal(size=count), 2)


def by_pandas(points: pd.DataFrame, direction: Direction) -> dict[str, MetricStatistics]:
    """Make up the figures of all metrics, whose points come in the order of time."""
    found = {}
    for key, of_key in points.groupby("key"):
        numbers = of_key.dropna(subset="value")
        values = numbers["value"]
        best = None
        if len(values) and direction is not UNKNOWN:
            best = values.idxmin() if direction is LOWER else values.idxmax()
        with np.errstate(invalid="ignore"):
            mean = values.mean() if len(values) else NAN
        found[str(key)] = rounded(
            MetricStatistics(
                RUN,
                len(of_key),
                int(of_key["value"].isna().sum()),
                *(values.iloc[[0, -1]].tolist() if len(values) else (None, None)),
                *((values.min(), values.max()) if len(values) else (None, None)),
                None if math.isnan(mean) else mean,
                None if best is None else values[best],
                None if best is None else int(numbers["step"][best]),
            )
        )
    return found


def rounded(one: MetricStatistics) -> tuple[Any, ...]:  # type: ignore[misc]
    """Make figures comparable: the mean, alone, depends on the order in which it is summed."""
    mean = (
        None if one.mean is None else f"{one.mean + 0.0:.9f}".replace("-0.000000000", "0.000000000")
    )
    whole = (one.point_count, one.nan_count, one.first, one.last, one.min, one.max)
    return *whole, mean, one.best, one.best_step


def test_points_are_not_read_where_figures_tell(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where NaN is within, as long as it is not last, and first of one of several."""
    monkeypatch.delattr(store_statistics, "read_series")
    shelf.log(RUN, 0, loss=[NAN, 3.0, 1.0], x=[1, 2, 3])
    shelf.log(RUN, 3, loss=[1.0, NAN, 2.0], x=[4, 5, 6])
    found = read_statistics(shelf.store, RUN, lambda key: LOWER if key == "loss" else UNKNOWN)
    assert found["loss"] == MetricStatistics(RUN, 6, 2, 3.0, 2.0, 1.0, 3.0, 1.75, 1.0, 20)
    assert found["x"] == MetricStatistics(RUN, 6, 0, 1.0, 6.0, 1.0, 6.0, 3.5)


def test_best_step_is_the_first_of_equal_values_whichever_rows_hold_them(shelf: Shelf) -> None:
    """Rows of other keys in between do not change the order."""
    shelf.log(RUN, 0, loss=[2.0], other=[1.0])
    shelf.log(RUN, 1, loss=[1.0, 3.0])
    shelf.log(RUN, 3, loss=[1.0], other=[1.0])
    assert read_statistics(shelf.store, RUN, lambda _: LOWER)["loss"].best_step == 10
    assert read_statistics(shelf.store, RUN, lambda _: HIGHER)["loss"].best_step == 20


def test_integers_beyond_doubles_are_told_apart(shelf: Shelf) -> None:
    """Their doubles are equal, they are not."""
    shelf.log(RUN, 0, loss=[2**53 + 1, 2**53])
    assert read_statistics(shelf.store, RUN, lambda _: LOWER)["loss"].best_step == 10


def test_a_store_that_keeps_no_figures_is_read_as_a_whole(tmp_path: Path, shelf: Shelf) -> None:
    """One of before format 3, which nobody has written to since."""
    shelf.log(RUN, 0, loss=[3.0, 1.0, 2.0])
    told = read_statistics(shelf.store, RUN, lambda _: LOWER)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("UPDATE signatures SET figures = NULL, first_ordinal = NULL")
    assert read_statistics(shelf.store, RUN, lambda _: LOWER) == told


def test_a_metric_without_numbers_is_not_one(shelf: Shelf) -> None:
    """Texts have no figures; a run without rows has no metrics."""
    assert read_statistics(shelf.store, RUN, lambda _: LOWER) == {}
    text = np.array(["x"], np.object_)
    shelf.apply(RUN, Frame(0, np.arange(1), np.arange(1), {"text": text, "loss": np.array([1.0])}))
    assert list(read_statistics(shelf.store, RUN, lambda _: LOWER)) == ["loss"]
