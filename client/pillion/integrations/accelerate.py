"""A tracker for accelerate.

    from pillion.integrations.accelerate import PillionTracker

    accelerator = Accelerator(log_with=PillionTracker("project"))
    accelerator.init_trackers("project", config={"learning_rate": 3e-4})
    accelerator.log({"train/loss": loss}, step=step)
    accelerator.end_training()

Only the main process logs, as accelerate has it.
"""

from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

import pillion


class PillionTracker(GeneralTracker):  # type: ignore[misc]
    """Logs to the run that it starts, or to one that it is given."""

    name = "pillion"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, run_name: str = "", run: pillion.Run | None = None, **options: Any) -> None:
        """Choose what is logged to; the run is started by `start`.

        Args:
            run_name: The project, as accelerate calls it. Default: as `pillion.init` has it.
            run: A run that goes on. Default: one is started.
            options: More arguments of `pillion.init`.
        """
        super().__init__()
        self._project, self._run, self._options = run_name, run, options

    @on_main_process  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Start the run; accelerate calls it in `init_trackers`."""
        if self._run is None:
            self._run = pillion.init(**{"project": self._project or None} | self._options)

    @property
    def tracker(self) -> pillion.Run | None:
        """The run."""
        return self._run

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Put values into the run's config."""
        if self._run is not None:
            self._run.config.update(values)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Log a row."""
        if self._run is not None:
            self._run.log(values, step)

    @on_main_process  # type: ignore[untyped-decorator]
    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Log lists of images by their names."""
        if self._run is not None:
            images = {name: [*map(pillion.Image, each)] for name, each in values.items()}
            self._run.log(images, step)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
