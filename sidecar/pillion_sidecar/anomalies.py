"""Looks for anomalies in one run: gives each metric's values to its rules (`anomaly_rules.py`).

Pure: rows in, findings out. Time comes in with the rows; how long a run has been silent is told.
Metrics named `anomaly/...` are not looked at: they are what is found here. Those named `system/...`
are for `idle_gpu` and for rules of the user's own, and are no sign that the training goes on.
"""

import copy
import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from pillion.system import PREFIX as SYSTEM_PREFIX
from pillion.system import is_system
from pillion_sidecar.anomaly_rules import (
    LEVELS,
    RULES_BY_KIND,
    IdleGpu,
    NotANumber,
    Rule,
)
from pillion_sidecar.anomaly_thresholds import Threshold
from pillion_sidecar.columns import NUMBER_KINDS
from pillion_sidecar.columns import kind_of as column_kind
from pillion_sidecar.metric_kinds import Kind, kind_of
from pillion_sidecar.records import AlertLevel, Frame

PREFIX = "anomaly/"
_UTILIZATION = re.compile(re.escape(SYSTEM_PREFIX) + r"gpu/\d+/utilization_percent")
METRICS_MAX = 1_000
"""Metrics of a run that are looked at, in the order in which they come."""
FINDINGS_MAX = 20
"""Of one rule in one run; what follows is not told."""
STALL_INTERVALS, STALL_INTERVALS_MIN = 256, 8
STALL_MIN_S = 900.0
STALL_FACTOR, STALL_LONGEST_FACTOR = 20.0, 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a rule has found."""

    rule: str
    metric: str
    """Empty: it concerns no single one."""
    ordinal: int
    """Of the row in which it showed."""
    step: int
    time_unix_nano: int
    number: int
    """The how manyth of this rule in this run, from 1."""
    evidence: str

    @property
    def level(self) -> AlertLevel:
        """How much it matters."""
        return LEVELS[self.rule]

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        subject = f"{self.metric}: " if self.metric else ""
        return f"{subject}{self.evidence}, at step {self.step}."


@dataclass(slots=True)
class _Metric:
    """What is known of one metric."""

    nan: NotANumber
    rules: dict[str, Rule]
    thresholds: list[Threshold] = field(default_factory=list)


class Anomalies:
    """All rules on one run. One thread."""

    def __init__(
        self, thresholds: Sequence[Threshold] = (), *, stall_min_s: float = STALL_MIN_S
    ) -> None:
        """Begin with a run.

        Args:
            thresholds: The user's rules.
            stall_min_s: A run that is silent for less is not stalled, however fast its steps are.
        """
        self._thresholds, self._stall_min_s = thresholds, stall_min_s
        self._metrics: dict[str, _Metric] = {}
        self._idle_gpu = IdleGpu()
        self._counts: Counter[str] = Counter()
        self._intervals_s: deque[float] = deque(maxlen=STALL_INTERVALS)
        self._last: tuple[int, int, int] | None = None
        """Ordinal, step and time of the last row."""
        self._is_stalled = False

    def take(self, frame: Frame) -> list[Finding]:
        """Take rows; return what was found in them, in their order."""
        columns = {
            key: column.astype(np.float64)
            for key, column in frame.columns.items()
            if len(column) and column_kind(column) in NUMBER_KINDS and self._is_looked_at(key)
        }
        if is_of_trainer(frame):
            self._note_times(frame)
        found = sorted(
            [
                (index, rule, key, evidence)
                for key, values in columns.items()
                for index, rule, evidence in self._judge(key, values)
            ]
            + [(index, "idle_gpu", "", evidence) for index, evidence in self._judge_gpus(frame)]
        )
        return [
            finding
            for index, rule, key, evidence in found
            for finding in self._finding(rule, key, _place(frame, index), evidence)
        ]

    def stalled(self, silent_s: float) -> list[Finding]:
        """Tell, once, that there was no row for much longer than usual.

        That is longer than 20 times the median of the last 256 intervals between rows, than 3 times
        the longest of them, and than `stall_min_s`. After 8 intervals at least.
        """
        if self._is_stalled or self._last is None or len(self._intervals_s) < STALL_INTERVALS_MIN:
            return []
        usual_s = float(np.median(self._intervals_s))
        longest_s = max(self._intervals_s)
        limit_s = max(STALL_FACTOR * usual_s, STALL_LONGEST_FACTOR * longest_s, self._stall_min_s)
        if silent_s <= limit_s:
            return []
        self._is_stalled = True
        evidence = f"nothing came for {silent_s:.0f} s, where rows come every {usual_s:.3g} s"
        return list(self._finding("stalled", "", self._last, evidence))

    def _note_times(self, frame: Frame) -> None:
        times = frame.times_unix_nano
        if self._last is not None:
            times = np.concatenate(([self._last[2]], times))
        intervals_s = np.diff(times[-STALL_INTERVALS - 1 :]) / 1e9
        self._intervals_s.extend(intervals_s[intervals_s > 0].tolist())
        self._last = _place(frame, len(frame) - 1)
        self._is_stalled = False

    def _judge(self, key: str, values: npt.NDArray[np.float64]) -> Iterator[tuple[int, str, str]]:
        """Yield (index, rule, evidence)."""
        metric = self._metrics.get(key)
        if metric is None:
            if len(self._metrics) >= METRICS_MAX:
                return
            metric = self._metrics[key] = self._new(key)
        is_all_finite = bool(np.isfinite(values).all())
        if is_all_finite:
            metric.nan.skip(len(values))
            if not metric.rules and not metric.thresholds:
                return
        for index, value in enumerate(values.tolist()):
            if not is_all_finite and (evidence := metric.nan.feed(value)):
                yield index, "nan", evidence
            if math.isfinite(value):
                for name, rule in metric.rules.items():
                    if evidence := rule.feed(value):
                        yield index, name, evidence
            for threshold in metric.thresholds:
                if evidence := threshold.feed(value):
                    yield index, "threshold", evidence

    def _judge_gpus(self, frame: Frame) -> Iterator[tuple[int, str]]:
        """Yield (index, evidence) where the run's GPUs begin to be idle."""
        gpus = [
            column
            for key, column in frame.columns.items()
            if _UTILIZATION.fullmatch(key) and column_kind(column) in NUMBER_KINDS
        ]
        if gpus:
            busiest = np.max(np.stack(gpus).astype(np.float64), axis=0)
            for index, value in enumerate(busiest.tolist()):
                time_s = int(frame.times_unix_nano[index]) / 1e9
                if evidence := self._idle_gpu.feed(value, time_s):
                    yield index, evidence

    def _is_looked_at(self, key: str) -> bool:
        return not key.startswith(PREFIX) and (not is_system(key) or bool(self._matching(key)))

    def _new(self, key: str) -> _Metric:
        kind = Kind.OTHER if is_system(key) else kind_of(key)
        rules = {name: make() for name, make in RULES_BY_KIND[kind].items()}
        return _Metric(NotANumber(kind), rules, self._matching(key))

    def _matching(self, key: str) -> list[Threshold]:
        """Return the user's rules on a metric, without what they have seen."""
        return [
            copy.copy(threshold)
            for threshold in self._thresholds
            if threshold.metric == key or fnmatchcase(key, threshold.metric)
        ]

    def _finding(
        self, rule: str, key: str, place: tuple[int, int, int], evidence: str
    ) -> Iterator[Finding]:
        self._counts[rule] += 1
        if self._counts[rule] <= FINDINGS_MAX:
            yield Finding(rule, key, *place, self._counts[rule], evidence)


def is_of_trainer(frame: Frame) -> bool:
    """Tell whether rows were logged by a trainer: others are found here, or sampled."""
    return len(frame) > 0 and any(
        not key.startswith(PREFIX) and not is_system(key) for key in frame.columns
    )


def _place(frame: Frame, index: int) -> tuple[int, int, int]:
    """Return ordinal, step and time of a row."""
    step, time_unix_nano = frame.steps[index], frame.times_unix_nano[index]
    return frame.first_ordinal + index, int(step), int(time_unix_nano)
