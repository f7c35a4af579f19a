"""`pillion export`: the rows of runs, for other programs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from pillion._history import History
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli_common import RUN_HELP, DataDir, Listen, asking, complete_run, make_console
from pillion_sidecar.exporting import Format, format_of, write
from pillion_sidecar.safety import count_text


def export(
    runs: Annotated[
        list[str],
        typer.Argument(help=f"The runs. {RUN_HELP}", metavar="RUN...", autocompletion=complete_run),
    ],
    key: Annotated[
        list[str] | None, typer.Option(help="Only metrics of this name or glob; may be repeated.")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by the name of the file, else csv.")
    ] = None,
    output: Annotated[str, typer.Option(help="The file; `-`: standard output.")] = "-",
    address: Listen = None,
    data_dir: DataDir = None,
) -> None:
    """Write the rows of runs to a file, exactly as logged. Works without a sidecar too."""
    path = None if output == "-" else Path(output)
    console = make_console()
    with (
        asking(address, data_dir) as ask,
        ProgressBar(
            transient=True, disable=path is None or not sys.stdout.isatty(), console=console
        ) as bar,
    ):
        form = form or format_of(path)
        rows: list[dict[str, Any]] = []
        for run in runs:
            found = ask.run(pb2.GetRunRequest(run_id=ask.run_id(run))).run
            task = bar.add_task(escape(found.name), total=None)
            request = pb2.ReadMetricsRequest(run_id=found.run_id, keys=key or [])
            history = History(bar.track(ask.metrics(request), task_id=task))
            rows += [{"_run": found.run_id, **row} for row in history.rows()]
        write(rows, form, path)
    if path is not None:
        print(f"{count_text(len(rows), 'row')} of {count_text(len(runs), 'run')} in {path}.")
