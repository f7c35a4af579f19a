"""What ends a training early: somebody asks for it, or the loss is no number any more."""

import math
from typing import Any

from transformers import TrainerCallback

from pillion_trainer.stopping import StopRequest


class TrainingDivergedError(RuntimeError):
    """The loss is no number any more, and nothing after it can be."""


class GuardCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training after the current step when asked to, at once when it has diverged."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """From here on there is something worth saving, so that a signal waits."""
        self._stop.waits_for_step = True

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Stop where a signal came during the step."""
        if self._stop.is_made:
            control.should_training_stop = True

    def on_log(
        self,
        _args: Any,
        state: Any,
        _control: Any,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Raise `TrainingDivergedError` where the logged loss is infinite or no number."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss} at step {state.global_step}: "
                "give a smaller learning_rate or alpha, or more warmup_steps."
            )
