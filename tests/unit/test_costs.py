"""What runs took: time, GPU time and throughput."""

from typing import Any

import pytest
from stored_runs import stored_run

from pillion_sidecar.costs import RunCost, run_cost, throughput_metric
from pillion_sidecar.environment import Environment, Gpu
from pillion_sidecar.records import RunId
from pillion_sidecar.store_statistics import MetricStatistics

S = 10**9


def cost(statistics: dict[str, MetricStatistics] | None = None, **fields: Any) -> RunCost:
    """Make up what a run took; it is 50 s past the epoch."""
    return run_cost(stored_run("r", **fields), statistics or {}, "", lambda: 50 * S)


def test_a_run_takes_from_its_start_to_its_end() -> None:
    """And so many rows per second of that."""
    found = cost(start_time_unix_nano=10 * S, end_time_unix_nano=14 * S, row_count=8)
    assert found == RunCost(RunId("r"), 4.0, False, 0, None, 2.0, None)


def test_a_run_without_an_end_takes_until_now() -> None:
    """Which is said."""
    found = cost(start_time_unix_nano=10 * S, end_time_unix_nano=None)
    assert (found.duration_s, found.is_running) == (40.0, True)


def test_samples_of_the_system_are_nothing_that_got_done() -> None:
    """A slow trainer logs fewer rows than there are samples."""
    statistics = {
        key: MetricStatistics(RunId("r"), count, 0)
        for key, count in (("loss", 3), ("system/threads", 9), ("system/cpu_percent", 8))
    }
    assert cost(statistics, end_time_unix_nano=2 * S, row_count=12).rows_per_s == 1.5


def test_gpu_time_is_the_time_of_all_gpus() -> None:
    """Without one there is none, rather than nought."""
    two = Environment(gpus=(Gpu("H100", 80, 0, "u0"), Gpu("H100", 80, 1, "u1")))
    found = cost(end_time_unix_nano=3 * S, environment=two)
    assert (found.gpu_count, found.gpu_s) == (2, 6.0)
    assert (cost().gpu_count, cost().gpu_s) == (0, None)


def test_a_clock_that_goes_back_makes_no_negative_time() -> None:
    """Nor a throughput."""
    found = cost(start_time_unix_nano=10 * S, end_time_unix_nano=9 * S, row_count=5)
    assert (found.duration_s, found.rows_per_s) == (0.0, None)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("tokens_per_second samples_per_second", "tokens_per_second"), "tokens_per_second"),
        (
            ("train/tokens_per_second tokens_per_second", "tokens_per_second"),
            "tokens_per_second",
        ),
        (("tokens_per_second", "samples_per_second"), ""),
        (("loss", "loss"), ""),
    ],
)
def test_throughput_is_told_by_the_first_metric_that_all_runs_have(
    keys: tuple[str, str], expected: str
) -> None:
    """So that the figures can be compared."""
    statistics = [
        {key: MetricStatistics(RunId("r"), 1, 0, mean=1.0) for key in of_run.split()}
        for of_run in keys
    ]
    assert throughput_metric(statistics) == expected


def test_throughput_without_a_number_is_none() -> None:
    """A metric that is NaN throughout tells nothing."""
    nan = {"tokens_per_second": MetricStatistics(RunId("r"), 1, 1)}
    assert throughput_metric([nan, nan]) == ""
