"""Pillion: log a training run through a sidecar that keeps it. `import pillion` loads no gRPC.

    run = pillion.init(project="demo", config={"learning_rate": 3e-4})
    for step in range(100):
        run.log({"train/loss": loss}, step=step)
    run.finish()

The same by module: `pillion.log`, `pillion.config`, `pillion.summary` and `pillion.finish` mean the
run that was started last. `import pillion as wandb` serves scripts that were written for W&B.
"""

from pillion._alerts import AlertLevel
from pillion._artifact import Artifact
from pillion._configure import ConfigureError, WandbSetup, configure
from pillion._counts import Counts
from pillion._histogram import Histogram
from pillion._init import (
    agent,
    alert,
    define_metric,
    finish,
    init,
    install_as_wandb,
    log,
    log_artifact,
    login,
    of_current_run,
    save,
    unwatch,
    use_artifact,
    watch,
)
from pillion._logged import DownloadError, LoggedArtifact, UsedArtifact
from pillion._media import Audio, Html, Image, Video
from pillion._run import RefusedError, Run
from pillion._table import Table
from pillion._version import __version__
from pillion.address import AddressError

__all__ = [
    "AddressError",
    "AlertLevel",
    "Artifact",
    "Audio",
    "ConfigureError",
    "Counts",
    "DownloadError",
    "Histogram",
    "Html",
    "Image",
    "LoggedArtifact",
    "RefusedError",
    "Run",
    "Table",
    "UsedArtifact",
    "Video",
    "WandbSetup",
    "__version__",
    "agent",
    "alert",
    "config",
    "configure",
    "define_metric",
    "finish",
    "init",
    "install_as_wandb",
    "log",
    "log_artifact",
    "login",
    "run",
    "save",
    "summary",
    "unwatch",
    "use_artifact",
    "watch",
]


def __getattr__(name: str) -> object:
    return of_current_run(name)
