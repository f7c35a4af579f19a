"""`pillion configure`: how W&B is set up, at run time."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli_common import DataDir, Json, Listen, asking, show
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.rendering_status import wandb_json, wandb_view
from pillion_sidecar.settings import WandbMode

API_KEY_BYTES_MAX = 4096
"""Of a file that holds a key."""


def configure(
    is_on: Annotated[
        bool | None,
        typer.Option("--on/--off", help="Whether new runs go to W&B.", show_default=False),
    ] = None,
    mode: Annotated[WandbMode | None, typer.Option(help="Where new runs go.")] = None,
    project: Annotated[str | None, typer.Option(help="Of runs that name none.")] = None,
    entity: Annotated[str | None, typer.Option(help="The W&B team or user.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Of every new run; may be repeated. '': none.")
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option(help="Holds the W&B key; `-`: standard input.", metavar="FILE")
    ] = None,
    forget_api_key: Annotated[
        bool, typer.Option("--forget-api-key", help="Have no W&B key any more.")
    ] = False,
    base_url: Annotated[
        str | None, typer.Option(help="The W&B server that takes the key; '': W&B's own.")
    ] = None,
    credential: Annotated[
        str | None, typer.Option(help="Names the key, and which one new runs use.")
    ] = None,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set up W&B for new runs, while the sidecar runs; without options, tell how it is."""
    request = pb2.ConfigureRequest(
        mode=mode,
        project=project,
        entity=entity,
        base_url=base_url,
        credential=credential,
        tags=None if tag is None else pb2.TagList(tags=filter(None, tag)),
    )
    if is_on is not None:
        request.enabled = is_on
    with asking(address, data_dir) as ask:
        if forget_api_key and api_key_file is not None:
            raise SettingsError("Give a key or forget it: --api-key-file or --forget-api-key.")
        if forget_api_key:
            request.api_key = ""
        if api_key_file is not None:
            request.api_key = _key(api_key_file)
        if request.ListFields():
            wandb = ask.configure(request).wandb
        else:
            wandb = ask.status(pb2.GetStatusRequest()).wandb
    show(wandb_view(wandb), wandb_json(wandb), as_json=as_json)
    if wandb.enabled and not wandb.available:
        raise typer.Exit(1)


def _key(name: str) -> str:
    """Read a key: never from the command line, which every user of the host can see."""
    try:
        key = _text(name).strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"The W&B key cannot be read from {name}: {error}.") from error
    if not key:
        place = "Standard input" if name == "-" else name
        raise SettingsError(
            f"{place} holds no W&B key, it is empty. `pillion configure --forget-api-key` forgets "
            "the one there is."
        )
    return key


def _text(name: str) -> str:
    if name != "-":
        with Path(name).open(encoding="ascii") as file:
            return file.read(API_KEY_BYTES_MAX)
    if sys.stdin.isatty():
        return str(typer.prompt("W&B key", hide_input=True, err=True))
    return sys.stdin.read(API_KEY_BYTES_MAX)
