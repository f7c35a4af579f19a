"""The rules by which a run's metrics are judged, one value at a time. Pure; no clock, no disk.

Each rule looks at one metric and keeps a bounded state of it. `feed` takes the next value and
returns the evidence, a sentence, where something begins to be wrong, else an empty text; it speaks
again only after `REARM_VALUES` values in a row without a reason. Formulas and defaults stand here;
what they miss and what they raise for nothing is measured by `benchmarks/anomalies.py` and told in
`docs/anomalies.md`.

*Scale* is a robust standard deviation: 1.4826 times the median absolute deviation from the median
(Rousseeuw and Croux, 1993), so that up to half of a window may be outliers.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pillion_sidecar.metric_kinds import Kind
from pillion_sidecar.records import AlertLevel

REARM_VALUES = 200
REFRESH_VALUES = 8
"""A window's median and scale are computed anew after so many values."""
MAD_TO_SCALE = 1.4826
RECENT, RECENT_BAD = 5, 3
"""So many of the last values have to be far out, so that a single odd batch is none."""

SPIKE_WINDOW, SPIKE_WINDOW_MIN = 64, 32
SPIKE_SCALES, SPIKE_RISE = 6.0, 0.5
SPIKE_SCALES_ALONE, SPIKE_RISE_ALONE = 150.0, 1.0
"""One value alone is a spike only if it is further out than heavy tails reach."""
SCALE_FLOOR = 1e-3
"""Of the median: a window whose values are all but equal has no scale of its own."""

DIVERGENCE_WINDOW = 64
DIVERGENCE_RISE, DIVERGENCE_SCALES, DIVERGENCE_LOST = 0.5, 10.0, 0.2

GRADIENT_WINDOW, GRADIENT_WINDOW_MIN = 128, 64
EXPLOSION_SCALES, EXPLOSION_FACTOR = 5.0, 10.0
EXPLOSION_SCALES_ALONE, EXPLOSION_FACTOR_ALONE = 8.0, 1000.0
VANISHING_SHARE, VANISHING_NORM = 1e-4, 1e-8

PLATEAU_VALUES_MIN, PLATEAU_GAIN = 1000, 5e-3
OVERFITTING_VALUES, OVERFITTING_VALUES_MIN = 3, 6
OVERFITTING_RISE, OVERFITTING_SCALES, OVERFITTING_WINDOW = 0.01, 5.0, 32
THROUGHPUT_WINDOW, THROUGHPUT_RECENT, THROUGHPUT_SHARE = 256, 16, 0.5
THROUGHPUT_WINDOW_MIN = 64
IDLE_PERCENT, IDLE_MIN_S, IDLE_SAMPLES_MIN = 5.0, 600.0, 10
NAN_VALUES = 3
"""In a row, but of a loss: mixed precision makes a gradient norm infinite now and then, and some
metrics have no value now and then."""


class Rule(Protocol):
    """One rule on one metric."""

    def feed(self, value: float) -> str:
        """Take the next value; return the evidence where something begins to be wrong."""


@dataclass(slots=True)
class _Episode:
    """Lets a rule speak once, and again after a quiet time."""

    quiet_count: int = REARM_VALUES

    def begins(self, is_bad: bool) -> bool:
        if not is_bad:
            self.quiet_count += 1
            return False
        is_new = self.quiet_count >= REARM_VALUES
        self.quiet_count = 0
        return is_new


class _Window:
    """The last values, their median and their scale, both up to `REFRESH_VALUES` behind."""

    def __init__(self, size: int, size_min: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._size_min = size_min
        self._since = 0
        self.median = self.scale = math.nan

    @property
    def is_ready(self) -> bool:
        return not math.isnan(self.median)

    def push(self, value: float) -> bool:
        """Take a value; tell whether median and scale are new."""
        self._values.append(value)
        self._since += 1
        if self._since < REFRESH_VALUES or len(self._values) < self._size_min:
            return False
        self._since = 0
        values = np.fromiter(self._values, np.float64, len(self._values))
        self.median = float(np.median(values))
        self.scale = MAD_TO_SCALE * float(np.median(np.abs(values - self.median)))
        return True


class NotANumber:
    """NaN or an infinity: at once in a loss, else `NAN_VALUES` in a row after a number was seen."""

    def __init__(self, kind: Kind) -> None:
        self._is_loss = kind in (Kind.LOSS, Kind.EVAL_LOSS)
        self._has_number = self._is_loss or kind is Kind.GRADIENT_NORM
        self._count = 0
        self._episode = _Episode()

    def skip(self, count: int) -> None:
        """Take so many numbers at once."""
        self._has_number, self._count = True, 0
        self._episode.quiet_count += count

    def feed(self, value: float) -> str:
        """See `Rule`."""
        if math.isfinite(value):
            self.skip(1)
            return ""
        self._count += 1
        is_bad = self._has_number and (self._is_loss or self._count >= NAN_VALUES)
        if not self._episode.begins(is_bad):
            return ""
        return f"it is {value}" + ("" if self._count == 1 else f", for {self._count} values")


class Spike:
    """A loss far above its recent values.

    Over a window of the last 64 values with median m and scale s (at least 0.001 |m|): 3 of the
    last 5 values v have v - m > 6 s and v - m > 0.5 |m|; or one has v - m > 150 s and > |m|.
    """

    def __init__(self) -> None:
        self._window = _Window(SPIKE_WINDOW, SPIKE_WINDOW_MIN)
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        window, evidence = self._window, ""
        if window.is_ready:
            size = abs(window.median)
            excess = value - window.median
            scales = excess / max(window.scale, SCALE_FLOOR * size, 1e-12)
            self._recent.append(scales > SPIKE_SCALES and excess > SPIKE_RISE * size)
            is_alone = scales > SPIKE_SCALES_ALONE and excess > SPIKE_RISE_ALONE * size
            if self._episode.begins(is_alone or sum(self._recent) >= RECENT_BAD):
                evidence = (
                    f"it is {value:.6g}, {scales:.1f} robust deviations above {window.median:.6g}, "
                    f"the median of the last {SPIKE_WINDOW} values"
                )
        window.push(value)
        return evidence


class Divergence:
    """A loss that has gone up and stays there.

    With m the median of the last 64 values, b the least m so far, s its scale then and f the first
    m: m > b + max(0.5 |b|, 10 s, 0.2 (f - b)).
    """

    def __init__(self) -> None:
        self._window = _Window(DIVERGENCE_WINDOW, DIVERGENCE_WINDOW)
        self._first = self._best = self._scale = math.nan
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        window = self._window
        if not window.push(value):
            return ""
        if math.isnan(self._best):
            self._first = window.median
        if not window.median >= self._best:
            self._best, self._scale = window.median, window.scale
        limit = self._best + max(
            DIVERGENCE_RISE * abs(self._best),
            DIVERGENCE_SCALES * self._scale,
            DIVERGENCE_LOST * (self._first - self._best),
        )
        self._episode.quiet_count += REFRESH_VALUES - 1
        if not self._episode.begins(window.median > limit):
            return ""
        return (
            f"the median of its last {DIVERGENCE_WINDOW} values is {window.median:.6g}, "
            f"and was {self._best:.6g} at best"
        )


class Explosion:
    """A gradient norm far above its recent values, by its logarithm.

    Over the last 128 values with median m, and scale s of their logarithms: 3 of the last 5 values
    v have v > 10 m and ln v > ln m + 5 s; or one has v > 1,000 m and ln v > ln m + 8 s.
    """

    def __init__(self) -> None:
        self._window = _Window(GRADIENT_WINDOW, GRADIENT_WINDOW_MIN)
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        if value <= 0:
            return ""
        window, evidence, logarithm = self._window, "", math.log(value)
        if window.is_ready:
            excess = logarithm - window.median
            scales = excess / max(window.scale, SCALE_FLOOR)
            self._recent.append(scales > EXPLOSION_SCALES and excess > math.log(EXPLOSION_FACTOR))
            is_alone = scales > EXPLOSION_SCALES_ALONE and excess > math.log(EXPLOSION_FACTOR_ALONE)
            if self._episode.begins(is_alone or sum(self._recent) >= RECENT_BAD):
                evidence = (
                    f"it is {value:.6g}, {math.exp(min(excess, 700.0)):.3g} times "
                    f"{math.exp(window.median):.6g}, the median of the last "
                    f"{GRADIENT_WINDOW} values"
                )
        window.push(logarithm)
        return evidence


class Vanishing:
    """A gradient norm next to nothing.

    The median of the last 64 values is less than 1e-8, or than 1e-4 of the largest such median.
    """

    def __init__(self) -> None:
        self._window = _Window(SPIKE_WINDOW, SPIKE_WINDOW)
        self._largest = 0.0
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        if not self._window.push(value):
            return ""
        median = self._window.median
        self._largest = max(self._largest, median)
        self._episode.quiet_count += REFRESH_VALUES - 1
        is_bad = median < max(VANISHING_NORM, VANISHING_SHARE * self._largest)
        if not self._episode.begins(is_bad):
            return ""
        return (
            f"the median of its last {SPIKE_WINDOW} values is {median:.3g}, "
            f"and was {self._largest:.6g} at most"
        )


class Plateau:
    """A loss that no longer falls.

    The median of the last 64 values has not fallen by 0.5 % of what it was, for half of all values
    so far and at least 1,000. Not told while that median is less than their scale: such a loss, as
    a policy's is, has no level to fall from.
    """

    def __init__(self) -> None:
        self._window = _Window(DIVERGENCE_WINDOW, DIVERGENCE_WINDOW)
        self._anchor = math.nan
        self._count = self._anchor_count = 0
        self._is_told = False

    def feed(self, value: float) -> str:
        """See `Rule`."""
        self._count += 1
        if not self._window.push(value):
            return ""
        median = self._window.median
        if not median >= self._anchor - PLATEAU_GAIN * abs(self._anchor):
            self._anchor, self._anchor_count, self._is_told = median, self._count, False
        since = self._count - self._anchor_count
        has_level = median > self._window.scale
        if self._is_told or not has_level or since < max(PLATEAU_VALUES_MIN, self._count / 2):
            return ""
        self._is_told = True
        return f"it has been about {self._anchor:.6g} for {since} values"


class Overfitting:
    """An evaluation's loss that turns up.

    Its last 3 values lie above the least one, b, by more than max(0.01 |b|, 5 s), with s the scale
    of its noise: that of the last 32 differences of neighbours, divided by the root of 2. Of 6
    values at least.
    """

    def __init__(self) -> None:
        self._differences: deque[float] = deque(maxlen=OVERFITTING_WINDOW)
        self._recent: deque[float] = deque(maxlen=OVERFITTING_VALUES)
        self._best = math.inf
        self._count = 0
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        if self._recent:
            self._differences.append(value - self._recent[-1])
        self._recent.append(value)
        self._best = min(self._best, value)
        self._count += 1
        if self._count < OVERFITTING_VALUES_MIN:
            return ""
        differences = np.array(self._differences)
        spread = np.median(np.abs(differences - np.median(differences)))
        scale = MAD_TO_SCALE * float(spread) / math.sqrt(2)
        limit = self._best + max(OVERFITTING_RISE * abs(self._best), OVERFITTING_SCALES * scale)
        if not self._episode.begins(min(self._recent) > limit):
            return ""
        return (
            f"its last {OVERFITTING_VALUES} values are {min(self._recent):.6g} and more, "
            f"and the least was {self._best:.6g}"
        )


class ThroughputDrop:
    """A throughput whose median over the last 16 values is below half of that of 256 before."""

    def __init__(self) -> None:
        self._before = _Window(THROUGHPUT_WINDOW, THROUGHPUT_WINDOW_MIN)
        self._recent: deque[float] = deque(maxlen=THROUGHPUT_RECENT)
        self._count = 0
        self._episode = _Episode()

    def feed(self, value: float) -> str:
        """See `Rule`."""
        if len(self._recent) == THROUGHPUT_RECENT:
            self._before.push(self._recent[0])
        self._recent.append(value)
        self._count += 1
        if self._count % REFRESH_VALUES or not self._before.is_ready:
            return ""
        recent = float(np.median(self._recent))
        self._episode.quiet_count += REFRESH_VALUES - 1
        if not self._episode.begins(recent < THROUGHPUT_SHARE * self._before.median):
            return ""
        return (
            f"the median of its last {THROUGHPUT_RECENT} values is {recent:.6g}, "
            f"and was {self._before.median:.6g} before"
        )


class IdleGpu:
    """GPUs that do next to nothing: none was busier than 5 % for 10 minutes, and 10 samples.

    From the start on, or since one was busier. Samples that lie 10 minutes apart say nothing of the
    time between.
    """

    def __init__(self) -> None:
        self._since_s = self._last_s = math.nan
        self._most = 0.0
        self._count = 0
        self._is_told = False

    def feed(self, busiest: float, time_s: float) -> str:
        """Take the next sample; return the evidence where they begin to be idle.

        Args:
            busiest: The utilisation of the busiest GPU, in percent.
            time_s: When it was taken.
        """
        is_idle = busiest < IDLE_PERCENT  # NaN is not
        if not is_idle or not time_s - self._last_s < IDLE_MIN_S:
            self._since_s, self._most, self._count, self._is_told = time_s, 0.0, 0, False
        self._last_s = time_s
        if not is_idle:
            return ""
        self._most = max(self._most, busiest)
        self._count += 1
        idle_s = time_s - self._since_s
        if self._is_told or self._count < IDLE_SAMPLES_MIN or idle_s < IDLE_MIN_S:
            return ""
        self._is_told = True
        return f"no GPU was busier than {self._most:.3g} % for {idle_s / 60:.0f} minutes"


LEVELS = {
    "nan": AlertLevel.ERROR,
    "loss_spike": AlertLevel.WARN,
    "divergence": AlertLevel.ERROR,
    "gradient_explosion": AlertLevel.ERROR,
    "gradient_vanishing": AlertLevel.WARN,
    "plateau": AlertLevel.INFO,
    "overfitting": AlertLevel.WARN,
    "throughput_drop": AlertLevel.WARN,
    "stalled": AlertLevel.ERROR,
    "idle_gpu": AlertLevel.WARN,
    "threshold": AlertLevel.WARN,
}
"""Every rule, and how much what it finds matters."""

RULES_BY_KIND: dict[Kind, dict[str, Callable[[], Rule]]] = {
    Kind.LOSS: {"loss_spike": Spike, "divergence": Divergence, "plateau": Plateau},
    Kind.EVAL_LOSS: {"overfitting": Overfitting},
    Kind.GRADIENT_NORM: {"gradient_explosion": Explosion, "gradient_vanishing": Vanishing},
    Kind.THROUGHPUT: {"throughput_drop": ThroughputDrop},
    Kind.OTHER: {},
}
"""What is looked for in which metrics, beside `nan` and the user's own rules."""
