"""Setting W&B up from Python, while the sidecar runs: `pillion.configure`.

Not for the training loop: it waits for an answer, and raises.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pillion import _exit
from pillion.address import Address, default_address

TIMEOUT_S = 30.0
"""The sidecar tries the key out at W&B's server before it answers."""


class ConfigureError(RuntimeError):
    """The sidecar could not be asked, or refuses what was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class WandbSetup:
    """How W&B is set up at the sidecar."""

    enabled: bool
    """Whether new runs go to W&B, or to its files."""
    available: bool
    """Whether they can be delivered."""
    problem: str
    """Why not, and what to do; empty if they can."""
    mode: str
    """`online`, `offline` or `disabled`."""
    project: str
    """Of runs that name none."""
    entity: str
    """The team or user; empty: the key's own."""
    tags: tuple[str, ...]
    """Of every new run."""
    active_run_ids: tuple[str, ...]
    """Runs that are delivered there and have not ended."""


def configure(
    *,
    enabled: bool | None = None,
    project: str | None = None,
    entity: str | None = None,
    api_key: str | None = None,
    tags: Sequence[str] | None = None,
    mode: str | None = None,
    base_url: str | None = None,
    credential: str | None = None,
    address: str | None = None,
    token: str | None = None,
) -> WandbSetup:
    """Set up W&B for runs that start from now on; without arguments, tell how it is set up.

    What is None stays as it is. The key is kept by the sidecar alone, and never told again.

    Args:
        enabled: Whether new runs go to W&B.
        project: The project of runs that name none.
        entity: The W&B team or user; empty: the key's own.
        api_key: The W&B key; empty: forget the one that was given.
        tags: Tags of every new run, in place of those there were.
        mode: `online`, `offline`, `disabled`, or `auto`: online where there is a key.
        base_url: The server that takes the key; empty: W&B's own.
        credential: A name for the key, and which one new runs use. Each has a worker of its own.
        address: As for `init`.
        token: Of a sidecar on TCP: its admin token. Default: `$PILLION_TOKEN`.

    Raises:
        ConfigureError: No sidecar answers, or it refuses; the message says what to do.
    """
    if _exit.is_forked:
        raise ConfigureError(
            "A forked child must not use gRPC. Call pillion.configure in its parent."
        )
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc  # noqa: PLC0415 - `import pillion` loads no gRPC

    from pillion._channel import open_channel  # noqa: PLC0415
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415
    from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc  # noqa: PLC0415

    place = Address.parse(address or os.environ.get("PILLION_ADDRESS") or str(default_address()))
    request = pb2.ConfigureRequest(
        project=project,
        entity=entity,
        api_key=api_key,
        mode=mode,
        base_url=base_url,
        credential=credential,
        tags=None if tags is None else pb2.TagList(tags=tags),
    )
    if enabled is not None:
        request.enabled = enabled
    shown = token or os.environ.get("PILLION_TOKEN", "").strip()
    metadata = (("authorization", f"Bearer {shown}"),) if shown else ()
    with open_channel(grpc, place) as channel:
        stub = pb2_grpc.TelemetryServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            if request.ListFields():
                wandb = stub.Configure(request, timeout=TIMEOUT_S, metadata=metadata).wandb
            else:
                status = pb2.GetStatusRequest()
                wandb = stub.GetStatus(status, timeout=TIMEOUT_S, metadata=metadata).wandb
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConfigureError(
                    f"No sidecar answers at {place}. Start one with `pillion serve`."
                ) from None
            raise ConfigureError(error.details()) from None
    return WandbSetup(
        enabled=wandb.enabled,
        available=wandb.available,
        problem=wandb.problem,
        mode=wandb.mode,
        project=wandb.project,
        entity=wandb.entity,
        tags=tuple(wandb.tags),
        active_run_ids=tuple(wandb.active_run_ids),
    )
