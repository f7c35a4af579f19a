"""A comparison of runs as `pillion.api` gives it."""

from dataclasses import dataclass
from typing import Any, Literal

from pillion._question import optional
from pillion.plain import Value
from pillion.values import from_any_value

Direction = Literal["lower", "higher", ""]
"""What better means for a metric; empty: not known."""
_DIRECTIONS: tuple[Direction, ...] = ("", "lower", "higher")
"""By their numbers in the contract."""


@dataclass(frozen=True)
class Statistics:
    """One metric of one run. A figure is None where there is no number; NaN takes no part."""

    point_count: int
    """NaN included."""
    nan_count: int
    first: float | None
    last: float | None
    min: float | None
    max: float | None
    mean: float | None
    best: float | None
    best_step: int | None


@dataclass(frozen=True)
class GroupDifference:
    """How far a group is from the first one by a metric, by Welch's two-sided t-test."""

    group: str
    baseline: str
    difference: float
    """Its mean less the baseline's."""
    interval: tuple[float, float] | None
    """The 95 % confidence interval; None: there can be none."""
    p_value: float | None
    """Not corrected for how many are tested; None as above."""
    remark: str
    """Why there is no test, or why it says little."""


@dataclass(frozen=True)
class ComparedMetric:
    """One metric across the runs."""

    name: str
    direction: Direction
    best_run_id: str
    """Empty: the direction is not known, or no run has a number."""
    statistics: dict[str, Statistics]
    """By run, of those that have it."""
    group_differences: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    duration_s: float
    """Until now, while it runs."""
    gpu_s: float | None
    """The duration times its GPUs; None: it has none."""
    rows_per_s: float | None
    throughput: float | None
    """The mean of the comparison's `throughput_metric`."""


@dataclass(frozen=True)
class Aligned:
    """One metric of all runs over one axis."""

    x: tuple[float, ...]
    values: dict[str, tuple[float, ...]]
    """By run, one for each x; NaN where the run has none."""


@dataclass(frozen=True)
class Comparison:
    """2 to 10 runs side by side. The rules are those of `docs/contract.md`."""

    run_ids: tuple[str, ...]
    metric: str
    """What decided; empty: nothing could."""
    best_run_id: str
    """The best run by it; empty: there is none."""
    metrics: dict[str, ComparedMetric]
    config_differences: dict[str, dict[str, Value]]
    """What differs, by key and run; a run that does not have a key is not in there."""
    environment_differences: dict[str, dict[str, Value]]
    """The same of where and how they ran: `git.commit`, `packages.torch`, `gpus` …"""
    costs: dict[str, Cost]
    throughput_metric: str
    groups: dict[str, tuple[str, ...]]
    """Runs that stand for one thing, by what they share."""
    aligned: dict[str, Aligned]
    """The series that were asked for."""
    url: str
    """Their page at W&B; empty offline."""

    def to_frame(self) -> Any:
        """Return the figures as a DataFrame, a row per metric and run. Raises ImportError."""
        import pandas as pd  # noqa: PLC0415

        rows = [
            {"metric": name, "run": run_id, "direction": metric.direction, **vars(figures)}
            for name, metric in self.metrics.items()
            for run_id, figures in metric.statistics.items()
        ]
        names = ["metric", "run", "direction", *Statistics.__dataclass_fields__]
        return pd.DataFrame(rows, columns=names).set_index(["metric", "run"])


def comparison_of(response: Any) -> Comparison:
    """Decode a `CompareResponse`."""
    return Comparison(
        run_ids=tuple(run.run_id for run in response.runs),
        metric=response.metric,
        best_run_id=response.best_run_id,
        metrics={metric.key: _metric(metric) for metric in response.metrics},
        config_differences=_differences(response.config_differences),
        environment_differences=_differences(response.environment_differences),
        costs={cost.run_id: _cost(cost) for cost in response.costs},
        throughput_metric=response.throughput_metric,
        groups={group.name: tuple(group.run_ids) for group in response.groups},
        aligned={
            each.key: Aligned(
                tuple(each.x), {series.run_id: tuple(series.values) for series in each.series}
            )
            for each in response.aligned
        },
        url=response.url,
    )


def direction_number(direction: Direction) -> int:
    """Encode a direction. Raises ValueError."""
    if direction not in _DIRECTIONS:
        raise ValueError(f"{direction!r} is no direction; take 'lower', 'higher' or ''.")
    return _DIRECTIONS.index(direction)


def _metric(message: Any) -> ComparedMetric:
    figures = ("first", "last", "min", "max", "mean", "best", "best_step")
    return ComparedMetric(
        name=message.key,
        direction=_DIRECTIONS[message.direction],
        best_run_id=message.best_run_id,
        statistics={
            each.run_id: Statistics(
                each.point_count, each.nan_count, *(optional(each, figure) for figure in figures)
            )
            for each in message.statistics
            if each.point_count
        },
        group_differences=tuple(
            GroupDifference(
                group=each.name,
                baseline=each.baseline,
                difference=each.difference,
                interval=(each.low, each.high) if each.HasField("low") else None,
                p_value=optional(each, "p_value"),
                remark=each.remark,
            )
            for each in message.group_differences
        ),
    )


def _differences(messages: Any) -> dict[str, dict[str, Value]]:
    return {
        each.key: {
            setting.run_id: from_any_value(setting.value)
            for setting in each.settings
            if setting.HasField("value")
        }
        for each in messages
    }


def _cost(message: Any) -> Cost:
    figures = ("gpu_s", "rows_per_s", "throughput")
    return Cost(message.duration_s, *(optional(message, figure) for figure in figures))
