"""Runs that stand for one thing, such as seeds of one configuration, and how far groups differ.

Runs are a group if they share their `group`, or, if that is asked for, the value of a config key;
a run that has none is in no group. Without a key asked for there are groups only if two runs share
one. A run stands in its group by its best value of a metric, or by its last one where nobody knows
what is better; without a finite one it takes no part. Each group is held against the first one by
Welch's t-test (`significance.py`). It takes two runs in both groups, and that they vary; with fewer
than `RUNS_TELLING` in one it is done, and said to tell little.
"""

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pillion.values import Value
from pillion_sidecar.differences import comparable, flat
from pillion_sidecar.directions import Direction
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import RunId
from pillion_sidecar.significance import deviation, mean, welch_test
from pillion_sidecar.store_statistics import MetricStatistics
from pillion_sidecar.stored_run import StoredRun

RUNS_TESTED_MIN = 2
RUNS_TELLING = 3
"""Of two runs the spread is known by a single difference."""

NAMES_SHOWN = 8
"""So many names an error tells when one is asked for that does not exist."""


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that stand for one thing; `run_ids` in the order asked for."""

    name: str
    """No other group of the comparison has it."""
    run_ids: tuple[RunId, ...]


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """One metric over the runs of a group that have a finite number."""

    name: str
    run_count: int
    mean: float
    standard_deviation: float | None
    """With n - 1; None of a single run."""


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """How far a group is from the first one. What is None could not be tested; see `remark`."""

    name: str
    baseline: str
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    degrees_of_freedom: float | None = None
    remark: str = ""


def group_runs(runs: Sequence[StoredRun], key: str = "") -> tuple[RunGroup, ...]:
    """Find the groups, in the order of their first runs.

    Raises:
        PeerError: No run has this key in its config.
    """
    found: dict[Hashable, tuple[Value, list[RunId]]] = {}
    for run in runs:
        value = dict(flat(run.config)).get(key, ...) if key else run.group or ...
        if value is not ...:
            found.setdefault(comparable(value), (value, []))[1].append(run.run_id)
    if key and not found:
        keys = sorted({each for run in runs for each, _ in flat(run.config)})
        raise PeerError(
            f"None of these runs has {key!r} in its config. {name_some(keys)}",
            reason="CONFIG_KEY_UNKNOWN",
        )
    names = _names([value for value, _ in found.values()])
    groups = tuple(
        RunGroup(f"{key}={name}" if key else name, tuple(run_ids))
        for name, (_, run_ids) in zip(names, found.values(), strict=True)
    )
    return groups if key or any(len(group.run_ids) > 1 for group in groups) else ()


def group_figure(direction: Direction) -> str:
    """Name the value by which a run stands in its group."""
    return "last" if direction is Direction.UNKNOWN else "best"


def compare_groups(
    groups: Sequence[RunGroup], statistics: Mapping[RunId, MetricStatistics], figure: str
) -> tuple[tuple[GroupStatistics, ...], tuple[GroupDifference, ...]]:
    """Compare groups by one metric."""
    values: dict[str, list[float]] = {}
    for group in groups:
        figures = (getattr(statistics[run_id], figure) for run_id in group.run_ids)
        finite = [each for each in figures if each is not None and math.isfinite(each)]
        if finite:
            values[group.name] = finite
    found = tuple(
        GroupStatistics(
            name, len(numbers), mean(numbers), deviation(numbers) if len(numbers) > 1 else None
        )
        for name, numbers in values.items()
    )
    baseline = next(iter(values), "")
    later = [name for name in values if name != baseline]
    return found, tuple(_difference(name, baseline, values) for name in later)


def name_some(names: Sequence[str]) -> str:
    """Say which names there are, as a sentence about runs."""
    if not names:
        return "They have none at all yet."
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"They have {', '.join(names[:NAMES_SHOWN])}{more}."


def _names(values: Sequence[Value]) -> list[str]:
    """Write unlike values; texts in quotes if one would read like another value, as "1" like 1."""
    names = [str(value) for value in values]
    if len(set(names)) == len(names):
        return names
    return [
        json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
        for value in values
    ]


def _difference(name: str, baseline: str, values: Mapping[str, Sequence[float]]) -> GroupDifference:
    ours, theirs = values[name], values[baseline]
    difference = mean(ours) - mean(theirs)
    fewest = min(len(ours), len(theirs))
    if fewest < RUNS_TESTED_MIN:
        remark = "a single run tells nothing about chance: log more seeds"
        return GroupDifference(name, baseline, difference, remark=remark)
    test = welch_test(ours, theirs)
    if test is None:
        remark = "the runs within each group do not vary, so there is nothing to judge by"
        return GroupDifference(name, baseline, difference, remark=remark)
    remark = "2 runs in a group say little about chance" if fewest < RUNS_TELLING else ""
    return GroupDifference(
        name,
        baseline,
        difference,
        test.low,
        test.high,
        test.p_value,
        test.degrees_of_freedom,
        remark,
    )
