"""`pillion show` and `pillion update`: one run, and what is changed of it from outside."""

from typing import Annotated

import typer

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli_common import DataDir, Json, Listen, asking, show
from pillion_sidecar.errors import PeerError
from pillion_sidecar.rendering_run import run_view, whole_run_json

Run = Annotated[str, typer.Argument(help="The run.")]


def show_run(
    run: Run, address: Listen = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show all that is known of a run but its rows. Works without a sidecar too."""
    with asking(address, data_dir) as ask:
        found = ask.run(pb2.GetRunRequest(run_id=run)).run
    show(run_view(found), whole_run_json(found), as_json=as_json)


def update(
    run: Run,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="To add; may be repeated.")] = None,
    untag: Annotated[list[str] | None, typer.Option(help="To take away; may be repeated.")] = None,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change a run's name, notes or tags, here and at W&B, whether it has ended or not."""
    request = pb2.UpdateRunRequest(
        run_id=run, name=name, notes=notes, add_tags=tag or [], remove_tags=untag or []
    )
    with asking(address, data_dir) as ask:
        if request == pb2.UpdateRunRequest(run_id=run):
            raise PeerError("There is nothing to change: give --name, --notes, --tag or --untag.")
        found: pb2.UpdateRunResponse = ask.call("UpdateRun", request)
    show(run_view(found.run), whole_run_json(found.run), as_json=as_json)
