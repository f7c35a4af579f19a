"""A logger for Lightning, by either of its names, `lightning` and `pytorch_lightning`.

from pillion.integrations.lightning import PillionLogger

Trainer(logger=PillionLogger(project="demo"))
"""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pillion

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
    from pytorch_lightning.utilities.rank_zero import rank_zero_only
else:
    from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    from lightning.pytorch.utilities.rank_zero import rank_zero_only


class PillionLogger(Logger):  # type: ignore[misc]
    """Logs what `LightningModule.log` is given, at `trainer.global_step`, from rank 0 alone."""

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        project: str | None = None,
        *,
        run: pillion.Run | None = None,
        log_model: Literal["all"] | bool = False,
        **options: Any,
    ) -> None:
        """Choose what is logged to.

        Args:
            project: What the run is filed under. Default: as `pillion.init` has it.
            run: A run that goes on, which is then not ended. Default: one is started when it is
                needed.
            log_model: Whether the checkpoints that a ModelCheckpoint has kept become artifacts at
                the end; `all`: each as it is written.
            options: More arguments of `pillion.init`.
        """
        super().__init__()
        self._run, self._is_given = run, run is not None
        self._options = {"project": project} | options
        self._log_model = log_model
        self._logged: dict[str, float] = {}
        """Checkpoints, and when they were written."""
        self._checkpoints: Any = None

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> pillion.Run:
        """The run, started by whoever asks first."""
        if self._run is None:
            self._run = pillion.init(**self._options)
        return self._run

    @property
    def name(self) -> str | None:
        """The project."""
        return self._run.project if self._run is not None else self._options["project"]

    @property
    def version(self) -> str | None:
        """The run's id."""
        return self._run.id if self._run is not None else None

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Put values into the run's config."""
        self.experiment.config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row."""
        self.experiment.log(metrics, step)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Log checkpoints, at once or at the end."""
        if self._log_model == "all":
            self._log_checkpoints(checkpoint_callback)
        self._checkpoints = checkpoint_callback

    @rank_zero_only  # type: ignore[untyped-decorator]
    def finalize(self, status: str) -> None:
        """End the run; Lightning calls it with `success`, or `failed`."""
        if self._run is None:
            return
        if self._checkpoints is not None and self._log_model:
            self._log_checkpoints(self._checkpoints)
        if not self._is_given:
            self._run.finish(0 if status in {"success", "finished"} else 1)

    def _log_checkpoints(self, callback: Any) -> None:
        """Log what was kept and not logged yet."""
        best, last = callback.best_model_path, callback.last_model_path
        for path in dict.fromkeys([*callback.best_k_models, best, last]):
            file = Path(path)
            if not path or not file.exists() or self._logged.get(path) == file.stat().st_mtime:
                continue
            self._logged[path] = file.stat().st_mtime
            score = callback.best_k_models.get(path)
            self.experiment.log_checkpoint(
                file,
                metrics={callback.monitor or "score": score} if score is not None else None,
                aliases=["best"] if path == best else None,
            )
