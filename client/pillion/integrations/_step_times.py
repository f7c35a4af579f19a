"""What a training step takes, and what of it: data, forward and backward, the optimizer."""

import time
from collections.abc import Callable

PARTS = ("data", "forward_backward", "optimizer")


class StepTimes:
    """Adds up an interval's steps. Evaluations and checkpoints between steps are left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mark_s = 0.0
        """When what was measured last has ended."""
        self._step_begin_s = 0.0
        self.busy_s = 0.0
        self.steps = 0
        self._parts_s = dict.fromkeys(PARTS, 0.0)
        self.is_queued = False
        """Whether work is queued on a device: what it takes is then not seen in between."""

    def begin(self) -> None:
        """Begin an interval."""
        self.busy_s, self.steps = 0.0, 0
        self._parts_s = dict.fromkeys(PARTS, 0.0)

    def skip(self) -> None:
        """Leave out what went on since the last step."""
        self._mark_s = self._step_begin_s = self._clock()

    def end_part(self, part: str) -> None:
        """Say that a part of the step has ended, and the next begins."""
        now_s = self._clock()
        self._parts_s[part] += now_s - self._mark_s
        self._mark_s = now_s

    def end_step(self) -> None:
        """Say that the step has ended."""
        now_s = self._clock()
        self.busy_s += now_s - self._step_begin_s
        self._mark_s = self._step_begin_s = now_s
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Return the interval's means per step, in seconds; nothing where no time has passed."""
        if not self.steps or self.busy_s <= 0:
            return {}
        parts = PARTS[:1] if self.is_queued else PARTS
        return {"train/step_time_s": self.busy_s / self.steps} | {
            f"train/{part}_time_s": self._parts_s[part] / self.steps
            for part in parts
            if self._parts_s[part] > 0
        }
