"""`pillion rm`: deletes runs that have ended."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    RUN_HELP,
    DataDir,
    Json,
    Listen,
    asking,
    complete_run,
    show,
)
from pillion_sidecar.errors import PeerError, PillionError
from pillion_sidecar.safety import count_text

RUNS_SHOWN = 10
"""Of those that the question names."""


def delete_runs(
    names: Annotated[
        list[str],
        typer.Argument(help=RUN_HELP, metavar="RUN...", autocompletion=complete_run),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete runs that have ended, for good. What W&B has of them stays, and so do artifacts."""
    with asking(address, data_dir) as ask:
        ask.check_is_sidecar()
        run_ids = dict.fromkeys(_whole_run_id(ask, name) for name in names)
        runs = [ask.run(pb2.GetRunRequest(run_id=run_id)).run for run_id in run_ids]
        if not yes:
            _confirm(runs)
        deleted: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        for run in runs:
            _delete(ask, run, deleted, refused)
    if as_json:
        show(None, {"deleted": deleted, "refused": refused}, as_json=True)
    else:
        for each in deleted:
            later = (
                "" if each["is_complete"] else " The store follows as soon as it can be written."
            )
            print(f"{each['run_id']} is deleted.{later}")
    for each in refused:
        print(each["sentence"], file=sys.stderr)
    raise typer.Exit(1 if refused else 0)


def _whole_run_id(ask: Asker, text: str) -> str:
    """Return the run of this id or name; the beginning of an id is too little to delete by.

    Else a second `pillion rm r4`, when the run named r4 is gone, would delete the run r4-7.
    """
    run = ask.run(pb2.GetRunRequest(run_id=ask.run_id(text))).run
    if text not in {run.run_id, run.name}:
        raise PeerError(
            f"{text!r} is only the beginning of the id {run.run_id} ({run.name}). Write the whole "
            f"id to delete that run: `pillion rm {run.run_id}`."
        )
    return run.run_id


def _confirm(runs: Sequence[run_pb2.Run]) -> None:
    """Ask on the terminal; end the command unless the answer is yes."""
    if not sys.stdin.isatty():
        raise PeerError("Nobody can be asked here: say --yes to delete runs for good.")
    shown = ", ".join(f"{run.run_id} ({run.name})" for run in runs[:RUNS_SHOWN])
    more = " …" if len(runs) > RUNS_SHOWN else ""
    question = f"Delete {count_text(len(runs), 'run')} for good: {shown}{more}?"
    typer.confirm(question, abort=True, err=True)


def _delete(
    ask: Asker, run: run_pb2.Run, deleted: list[dict[str, Any]], refused: list[dict[str, Any]]
) -> None:
    try:
        response = ask.delete(pb2.DeleteRunRequest(run_id=run.run_id))
    except PillionError as error:
        told = {"reason": error.reason, "sentence": str(error)}
        refused.append({"run_id": run.run_id, "name": run.name} | told)
    else:
        is_complete = response.is_complete
        deleted.append({"run_id": run.run_id, "name": run.name, "is_complete": is_complete})
