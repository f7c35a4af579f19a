"""Pillion: log a training run through a sidecar that keeps it. `import pillion` loads no gRPC.

    run = pillion.init(project="demo", config={"learning_rate": 3e-4})
    for step in range(100):
        run.log({"train/loss": loss}, step=step)
    run.finish()

The same by module: `pillion.log`, `pillion.config`, `pillion.summary` and `pillion.finish` mean the
run that was started last.
"""

from pillion._configure import ConfigureError, WandbSetup, configure
from pillion._counts import Counts
from pillion._histogram import Histogram
from pillion._init import alert, define_metric, finish, init, log, of_current_run
from pillion._media import Audio, Html, Image, Video
from pillion._run import RefusedError, Run
from pillion._table import Table
from pillion._version import __version__
from pillion.address import AddressError

__all__ = [
    "AddressError",
    "Audio",
    "ConfigureError",
    "Counts",
    "Histogram",
    "Html",
    "Image",
    "RefusedError",
    "Run",
    "Table",
    "Video",
    "WandbSetup",
    "__version__",
    "alert",
    "config",
    "configure",
    "define_metric",
    "finish",
    "init",
    "log",
    "run",
    "summary",
]


def __getattr__(name: str) -> object:
    return of_current_run(name)
