"""What runs took: time, GPU time, and how much they got done in it. Pure functions.

A run takes from its start to its end, or until now while it has none. Its GPU time is that times
the GPUs that its first writer may use, as it said at the start, whether it kept them busy or not;
without a GPU there is none. Its throughput is rows per second of that time, but for samples of the
system, and the mean of the
first of `THROUGHPUT_METRICS` for which all runs have a number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pillion.system import is_system
from pillion_sidecar.records import RunId
from pillion_sidecar.store_statistics import MetricStatistics
from pillion_sidecar.stored_run import StoredRun

THROUGHPUT_METRICS = (
    "train/tokens_per_second",
    "tokens_per_second",
    "train/samples_per_second",
    "samples_per_second",
)
"""The first that all runs have tells their throughput."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run took; None where there is none, or it is not known."""

    run_id: RunId
    duration_s: float
    is_running: bool
    gpu_count: int
    gpu_s: float | None
    rows_per_s: float | None
    throughput: float | None


def throughput_metric(statistics: Sequence[Mapping[str, MetricStatistics]]) -> str:
    """Return the metric that tells the runs' throughput; empty: none that all have."""
    for key in THROUGHPUT_METRICS:
        if all(key in one and one[key].mean is not None for one in statistics):
            return key
    return ""


def run_cost(
    run: StoredRun,
    statistics: Mapping[str, MetricStatistics],
    throughput: str,
    now: Callable[[], int],
) -> RunCost:
    """Make up what a run took.

    Args:
        run: The run.
        statistics: The figures of its metrics.
        throughput: The metric that tells its throughput; empty: none does.
        now: Tells the time, in ns, for a run that has no end.
    """
    is_running = run.end_time_unix_nano is None
    end_unix_nano = now() if run.end_time_unix_nano is None else run.end_time_unix_nano
    duration_s = max(0, end_unix_nano - run.start_time_unix_nano) / 1e9
    gpu_count = len(run.environment.gpus)
    return RunCost(
        run_id=run.run_id,
        duration_s=duration_s,
        is_running=is_running,
        gpu_count=gpu_count,
        gpu_s=duration_s * gpu_count if gpu_count else None,
        rows_per_s=_logged_count(run, statistics) / duration_s if duration_s else None,
        throughput=statistics[throughput].mean if throughput else None,
    )


def _logged_count(run: StoredRun, statistics: Mapping[str, MetricStatistics]) -> int:
    """Return a run's rows without those that only tell how the system does."""
    samples = [one.point_count for key, one in statistics.items() if is_system(key)]
    return max(0, run.row_count - max(samples, default=0))
