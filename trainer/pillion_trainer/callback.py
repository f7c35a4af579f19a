"""From the Hugging Face Trainer to a Pillion run: `Trainer(callbacks=[PillionCallback(run)])`.

Stands alone: it knows transformers' callback interface and what a run can do, nothing else of the
trainer. Only the first process of a distributed training logs.
"""

import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback


class Section(Protocol):
    """The config or the summary of a run."""

    def update(self, values: dict[str, Any], /) -> None:
        """Set the values given, keep the others."""


class Run(Protocol):
    """What is used of a run, as `pillion.init` returns it."""

    @property
    def id(self) -> str:
        """What tells the run from all others."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def config(self) -> Section:
        """What was decided before the training."""

    @property
    def summary(self) -> Section:
        """What came out of it."""

    @property
    def should_stop(self) -> bool:
        """Whether somebody asks it to stop."""

    def log(self, metrics: dict[str, Any], /, *, step: int) -> None:
        """Send one row; never raises, never blocks."""


class PillionCallback(TrainerCallback):  # type: ignore[misc]
    """Logs what the Trainer logs, and the throughput of each logging interval.

    Rows go out at `state.global_step`: `train/loss`, `train/learning_rate`, `train/grad_norm`,
    `train/epoch`, `train/global_step`, `eval/loss`, … and, measured here with evaluations and
    checkpoints left out, `train/step_time_s` (mean), `train/samples_per_second` (full batches are
    assumed) and, where `include_num_input_tokens_seen` is on, `train/tokens_per_second`. The totals
    (`train_runtime`, `train_loss`, …) and the last checkpoint go to the summary. Values that are no
    numbers are left out.
    """

    def __init__(self, run: Run, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._last_end_s = 0.0
        self._busy_s = 0.0
        self._steps = 0
        self._tokens_before = 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start measuring."""
        self._last_end_s = self._clock()
        self._start_interval(state)

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Count the step and its time, from the end of what came before it; stop if asked to."""
        now_s = self._clock()
        self._busy_s += now_s - self._last_end_s
        self._last_end_s = now_s
        self._steps += 1
        if self._run.should_stop:
            control.should_training_stop = True

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Leave the evaluation out of the next step's time."""
        self._last_end_s = self._clock()

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Note the checkpoint, and leave its writing out of the next step's time."""
        self._last_end_s = self._clock()
        if state.is_world_process_zero:
            folder = Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
            self._run.summary.update(
                {"last_checkpoint": str(folder), "last_checkpoint_step": state.global_step}
            )

    def on_log(
        self,
        args: Any,
        state: Any,
        _control: Any,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Send what the Trainer logs: totals to the summary, all else as a row."""
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, Real)}
        if not state.is_world_process_zero:
            return
        if "train_loss" in numbers:
            self._run.summary.update(
                {key: value for key, value in numbers.items() if key not in ("epoch", "step")}
            )
            return
        row: dict[str, Any] = {
            _key(key): value for key, value in numbers.items() if not key.startswith("train_")
        }
        if "loss" in numbers:
            row |= self._throughput(args, state)
            self._start_interval(state)
        if row:
            self._run.log({**row, "train/global_step": state.global_step}, step=state.global_step)

    def _throughput(self, args: Any, state: Any) -> dict[str, float]:
        """Return the means of the interval; nothing where no time has passed."""
        if not self._steps or self._busy_s <= 0:
            return {}
        samples_per_step = (
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        rates = {
            "train/step_time_s": self._busy_s / self._steps,
            "train/samples_per_second": self._steps * samples_per_step / self._busy_s,
        }
        tokens = state.num_input_tokens_seen - self._tokens_before
        if tokens > 0:
            rates["train/tokens_per_second"] = tokens / self._busy_s
        return rates

    def _start_interval(self, state: Any) -> None:
        self._busy_s = 0.0
        self._steps = 0
        self._tokens_before = state.num_input_tokens_seen


def _key(key: str) -> str:
    """Return the name people know: `loss` is `train/loss`, `eval_loss` is `eval/loss`."""
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key.removeprefix(f'{prefix}_')}"
    return f"train/{key}"
