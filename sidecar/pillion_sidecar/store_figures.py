"""Running figures of metrics, and what a run's summary says by them.

Five doubles per metric: how many numbers there were, their sum, the least, the largest and the
first, all without NaN. So summaries by `define_metric` need no look at the rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pillion.values import Value
from pillion_sidecar.columns import NUMBER_KINDS, Column
from pillion_sidecar.records import MetricDefinition, Summarizing

FIGURES = 5
COUNT, TOTAL, LEAST, LARGEST, FIRST = range(FIGURES)

Figures: TypeAlias = npt.NDArray[np.float64]
"""Of shape (metrics, 5)."""

_NONE = (0.0, 0.0, np.nan, np.nan, np.nan)


def no_figures(metric_count: int) -> Figures:
    """Return the figures of metrics without any value."""
    return np.tile(np.array(_NONE), (metric_count, 1))


def figures_of(values: Column, kind: str) -> tuple[float, float, float, float, float]:
    """Return one metric's figures."""
    numbers = values[~np.isnan(values)] if kind == "d" else values
    if kind not in NUMBER_KINDS or not len(numbers):
        return _NONE
    with np.errstate(all="ignore"):
        total = float(numbers.sum(dtype=np.float64))
    least, largest = float(numbers.min()), float(numbers.max())
    return float(len(numbers)), total, least, largest, float(numbers[0])


def merged(earlier: Figures, later: Figures) -> Figures:
    """Return the figures of metrics over earlier rows and later ones."""
    both = earlier.copy()
    with np.errstate(all="ignore"):
        both[:, :LEAST] += later[:, :LEAST]
    both[:, LEAST] = np.fmin(earlier[:, LEAST], later[:, LEAST])
    both[:, LARGEST] = np.fmax(earlier[:, LARGEST], later[:, LARGEST])
    both[:, FIRST] = np.where(np.isnan(earlier[:, FIRST]), later[:, FIRST], earlier[:, FIRST])
    return both


def definition_of(definitions: Mapping[str, MetricDefinition], key: str) -> MetricDefinition | None:
    """Return how a metric is to be read: by its name, else by the longest prefix that fits."""
    if key in definitions:
        return definitions[key]
    prefixes = [
        name
        for name in definitions
        if name.endswith("*") and key.startswith(name.removesuffix("*"))
    ]
    return definitions[max(prefixes, key=len)] if prefixes else None


def summary_of(
    definition: MetricDefinition, last: Value, figures: Sequence[float], *, is_integer: bool
) -> dict[str, Value] | None:
    """Return what the summary keeps of a metric under its name; None: nothing."""
    count, total, least, largest, first = figures
    known: dict[Summarizing, Any] = {Summarizing.LAST: last}
    if count:
        whole = int if is_integer else float
        known |= {
            Summarizing.MIN: whole(least),
            Summarizing.MAX: whole(largest),
            Summarizing.MEAN: total / count,
            Summarizing.FIRST: whole(first),
        }
    kept = {each.name.lower(): known[each] for each in definition.summaries if each in known}
    return None if Summarizing.NONE in definition.summaries else kept


def by_name(definitions: Iterable[MetricDefinition]) -> dict[str, MetricDefinition]:
    """Return definitions by their names; the last of a name stands."""
    return {definition.name: definition for definition in definitions}
