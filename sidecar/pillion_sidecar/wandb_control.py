"""Has W&B's sinks follow the configuration: new runs are bound, workers get their accounts.

Used from the event loop only; what asks a server does so in a thread.
"""

import asyncio
import logging
from dataclasses import replace

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.configuration import Configuration
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import RunId, RunStart
from pillion_sidecar.settings import WandbMode
from pillion_sidecar.sinks.wandb_server import WandbServer
from pillion_sidecar.wandb_keys import Account

log = logging.getLogger(__name__)


class WandbControl:
    """See the module."""

    def __init__(self, configuration: Configuration, delivery: Delivery) -> None:
        self._configuration, self._delivery = configuration, delivery
        self._changing = asyncio.Lock()
        """Held by one call of `configure` at a time."""

    def complete(self, start: RunStart) -> RunStart:
        """Put into a start what its writer leaves to the sidecar. A run's first writer's counts."""
        choices, target = self._configuration.choices, self._configuration.target()
        return replace(
            start,
            project=start.project if start.is_project_given else choices.project or start.project,
            tags=tuple(dict.fromkeys([*start.tags, *choices.tags])),
            wandb=replace(target, mode=max(target.mode, start.wandb.mode)),  # the lesser reach
        )

    def bind(self, run_id: RunId, sink: str) -> None:
        """Take it that a run was started that goes to this sink."""
        self._delivery.bind(run_id, sink)

    async def configure(self, request: pb2.ConfigureRequest) -> None:
        """Change the configuration, and try out what it says. Raises PeerError."""
        async with self._changing:
            credential = await asyncio.to_thread(self._configuration.configure, request)
            await self._delivery.configure(self._configuration.accounts())
        log.info("W&B configured", extra={"mode": self._configuration.mode.value})
        await self.try_out(credential)

    async def try_out(self, credential: str) -> None:
        """Find out whether a credential's server takes its key, and the entity."""
        account = self._configuration.account(credential)
        problem = ""
        if account is not None and self._configuration.mode is WandbMode.ONLINE:
            entity = self._configuration.choices.entity
            problem = await asyncio.to_thread(_problem, account, entity)
        if problem:
            log.warning("W&B cannot be used", extra={"problem": problem})
        self._configuration.problems[credential] = problem

    def upload_environment(self) -> dict[str, str] | None:
        """Return what the upload of offline runs is told; None: they stay here.

        The upload reads other keys than the default one where they are kept.
        """
        configuration = self._configuration
        account = configuration.account("")
        if configuration.mode is not WandbMode.ONLINE:
            return None
        if account is None and configuration.account(self.credential) is None:
            return None
        return {
            "WANDB_API_KEY": account.key if account else "",
            "WANDB_BASE_URL": configuration.base_url(""),
            "WANDB_ENTITY": configuration.choices.entity,
        }

    @property
    def credential(self) -> str:
        """The credential that new runs use."""
        return self._configuration.choices.credential


def _problem(account: Account, entity: str) -> str:
    try:
        viewer = WandbServer(account.base_url, account.key).viewer()
    except SinkError as error:
        return str(error)
    if entity and entity not in viewer.entities:
        known = ", ".join(viewer.entities)
        return (
            f"The key of {viewer.name} may not write to the W&B entity {entity}. Take one of "
            f"{known}, with `pillion configure --entity NAME`."
        )
    return ""
