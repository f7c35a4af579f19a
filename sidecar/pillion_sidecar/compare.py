"""The comparison of runs: figures per metric, the best run, differences of config. Pure functions.

What is better. A metric's name says it: of the words in its last two parts (split at `/`; words at
everything that is neither letter nor digit) the last one known here decides. `eval/loss` and
`loss/train` are losses, `eval_accuracy` and `f1-macro` accuracies, anything `per_second` a
throughput; `lossless_ratio` holds no such word, `loss_scale` and `reward/std` end in one that says
nothing. Where the direction is not known, no run is best.

Figures. NaN is counted and left out of every figure; the infinities take part. First and last go by
ordinal. The mean is taken in float64; of both infinities there is none. The best value is the least
or the largest, and its step the first, by ordinal, at which it was reached. Integers and booleans
are compared exactly, then given as doubles.

The best run has the best of the runs' best values; between equal ones, and so between steps too,
the run asked for earlier wins. The metric that decides over all is the one asked for, or else the
first of `eval/loss`, `train/loss`, `loss` and then all others by name that every run has and whose
direction is known. If it leaves no run best, there is none: no other metric takes its place.

Config. Nested keys are joined by `.` (of two that then read the same the later stands), lists are
compared as a whole. As in what trainers do with it, 1 equals 1.0, and NaN equals NaN; True is
not 1, the text "1" is not 1, and a missing key is not None.
"""

import itertools
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pillion.v1 import run_pb2
from pillion.values import Value
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import RunId
from pillion_sidecar.store import Series, StoredRun

RUNS_MIN, RUNS_MAX = 2, 10
"""How many runs can be compared at once; fewer and more are refused."""

DIFFERENCES_MAX = 1000
"""So many differences of config are given; the rest is counted."""

NAMES_SHOWN = 8
"""So many metrics an error names when one is asked for that does not exist."""

METRICS_PREFERRED = ("eval/loss", "train/loss", "loss")
"""These decide over all before any other."""

_PARTS_READ = 2


class Direction(IntEnum):
    """What better means for a metric."""

    UNKNOWN = run_pb2.DIRECTION_UNSPECIFIED
    LOWER = run_pb2.DIRECTION_LOWER
    HIGHER = run_pb2.DIRECTION_HIGHER


_WORDS = {
    Direction.LOWER: "bpb bpc brier cer cost err error errors fid latency loss losses mae mape mse "
    "nll perplexity ppl regret rmse wer",
    Direction.HIGHER: "acc accuracies accuracy auc auroc bleu chrf dice f1 iou map mcc meteor mfu "
    "mrr ndcg precision psnr r2 recall return returns reward rewards rouge rougel rougelsum score "
    "scores ssim success throughput tps win",
    Direction.UNKNOWN: "coef coefficient count entropy epoch epochs grad gradient gradients kl "
    "length lr margin margins memory norm ratio rejected runtime scale scaler size std step steps "
    "temperature threshold time var variance weight weights",
}
_DIRECTIONS = {word: direction for direction, words in _WORDS.items() for word in words.split()}


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
class MetricComparison:
    """One metric across the runs; `statistics` in the order asked for."""

    key: str
    direction: Direction
    statistics: tuple[MetricStatistics, ...]
    best_run_id: RunId | None


@dataclass(frozen=True, slots=True)
class ConfigSetting:
    """A config key in one run; where `is_set` is false, the run does not have it."""

    run_id: RunId
    is_set: bool
    value: Value


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """A config key that is not the same in all runs; `settings` in the order asked for."""

    key: str
    settings: tuple[ConfigSetting, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found. `metric` is the one that decided; None if none could."""

    runs: tuple[StoredRun, ...]
    metrics: tuple[MetricComparison, ...]
    metric: str | None
    best_run_id: RunId | None
    config_differences: tuple[ConfigDifference, ...]
    """The first `DIFFERENCES_MAX` by key."""
    config_difference_count: int


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


def compare(
    runs: Sequence[StoredRun], series: Mapping[RunId, Mapping[str, Series]], metric: str = ""
) -> Comparison:
    """Compare runs by the rules above.

    Args:
        runs: The runs, in the order asked for.
        series: All metrics of each of them.
        metric: The metric that decides over all; empty: chosen as above.

    Raises:
        PeerError: No run has this metric.
    """
    keys = {key for run in runs for key, points in series[run.run_id].items() if len(points)}
    metrics = {key: _compare_metric(key, runs, series) for key in sorted(keys)}
    if metric and metric not in metrics:
        raise PeerError(
            f"None of these runs has the metric {metric!r}. {_name_some(list(metrics))}",
            reason="METRIC_UNKNOWN",
        )
    deciding = metrics.get(metric or _deciding_key(metrics))
    best_run_id = deciding.best_run_id if deciding else None
    differing = _config_differences(runs)
    differences = tuple(itertools.islice(differing, DIFFERENCES_MAX))
    return Comparison(
        runs=tuple(runs),
        metrics=tuple(metrics.values()),
        metric=deciding.key if deciding and best_run_id else None,
        best_run_id=best_run_id,
        config_differences=differences,
        config_difference_count=len(differences) + sum(1 for _ in differing),
    )


def direction_of(key: str) -> Direction:
    """Tell from a metric's name what better means for it."""
    words = re.findall(r"[^\W_]+", " ".join(key.lower().split("/")[-_PARTS_READ:]))
    if words[-2:] in (["per", "second"], ["per", "sec"], ["per", "s"]):
        return Direction.HIGHER
    for word in reversed(words):
        for form in (word, word.rstrip("0123456789")):  # `f1` as it is, `bleu4` as `bleu`
            if form in _DIRECTIONS:
                return _DIRECTIONS[form]
    return Direction.UNKNOWN


def _compare_metric(
    key: str, runs: Sequence[StoredRun], series: Mapping[RunId, Mapping[str, Series]]
) -> MetricComparison:
    direction = direction_of(key)
    statistics = tuple(
        _statistics(run.run_id, series[run.run_id].get(key), direction) for run in runs
    )
    best = _best([each.best for each in statistics], direction)
    best_run_id = None if best is None else runs[best].run_id
    return MetricComparison(key, direction, statistics, best_run_id)


def _statistics(run_id: RunId, series: Series | None, direction: Direction) -> MetricStatistics:
    if series is None or not len(series):
        return MetricStatistics(run_id, 0, 0)
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


def _best(values: Sequence[float | None], direction: Direction) -> int | None:
    """Return the index of the best value, the first of equal ones."""
    numbers = [(value, index) for index, value in enumerate(values) if value is not None]
    if not numbers:
        return None
    sign = -1 if direction is Direction.HIGHER else 1
    return min(numbers, key=lambda number: sign * number[0])[1]


def _deciding_key(metrics: Mapping[str, MetricComparison]) -> str:
    keys = [key for key in (*METRICS_PREFERRED, *metrics) if key in metrics]
    return next((key for key in keys if _can_decide(metrics[key])), "")


def _can_decide(metric: MetricComparison) -> bool:
    is_shared = all(each.point_count for each in metric.statistics)
    return is_shared and metric.direction is not Direction.UNKNOWN


def _name_some(names: Sequence[str]) -> str:
    if not names:
        return "They have none at all yet."
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"They have {', '.join(names[:NAMES_SHOWN])}{more}."


def _config_differences(runs: Sequence[StoredRun]) -> Iterator[ConfigDifference]:
    configs = [dict(_flat(run.config)) for run in runs]
    for key in sorted({key for config in configs for key in config}):
        if len({_comparable(config[key]) if key in config else () for config in configs}) > 1:
            yield ConfigDifference(
                key,
                tuple(
                    ConfigSetting(run.run_id, key in config, config.get(key))
                    for run, config in zip(runs, configs, strict=True)
                ),
            )


def _flat(config: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _comparable(value: Value) -> Hashable:
    """Return something that is equal for equal values and tells unlike types apart."""
    match value:
        case bool():
            return "bool", value
        case int() | float():
            return "number", "nan" if value != value else value  # noqa: PLR0124 - only NaN is so
        case list():
            return "list", tuple(_comparable(element) for element in value)
        case dict():
            return "dict", frozenset((key, _comparable(each)) for key, each in value.items())
    return type(value), value
