"""A stand-in for W&B's server, to which the real SDK speaks over HTTP on loopback.

    with WandbServer() as server:
        ...  # WANDB_BASE_URL=server.base_url WANDB_API_KEY=server.key
        server.run("demo", "run-1").rows

It keeps what it got, refuses what W&B refuses, and does wrong on request: see `WandbServer.fail`.
An operation that it does not know is answered 400 and is in `server.unknown`.
"""

from wandb_server.faults import Fault
from wandb_server.kept import Alert, ServerArtifact, ServerRun
from wandb_server.server import KEY, TEAM, USER, WandbServer

__all__ = ["KEY", "TEAM", "USER", "Alert", "Fault", "ServerArtifact", "ServerRun", "WandbServer"]
