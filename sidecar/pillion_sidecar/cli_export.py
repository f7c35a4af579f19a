"""`pillion export`: the rows of runs, for other programs."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from pillion._history import History
from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
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
        found = [ask.run(pb2.GetRunRequest(run_id=ask.run_id(run))).run for run in runs]
        row_count = write([_RunRows(ask, bar, run, key or []) for run in found], form, path)
    if path is not None:
        print(f"{count_text(row_count, 'row')} of {count_text(len(runs), 'run')} in {path}.")


class _RunRows:
    """The rows of one run, read when they are asked for. See `exporting.RunRows`."""

    def __init__(self, ask: Asker, bar: ProgressBar, run: run_pb2.Run, keys: list[str]) -> None:
        self._ask, self._bar, self._run_id = ask, bar, run.run_id
        self._task = bar.add_task(escape(run.name), total=None)
        self._request = pb2.ReadMetricsRequest(run_id=run.run_id, keys=keys)

    def metrics(self) -> list[str]:
        keys = (column.key for answer in self._answers() for column in answer.frame.columns)
        return list(dict.fromkeys(keys))

    def rows(self) -> list[dict[str, Any]]:
        run = {"_run": self._run_id}
        return [
            run | row | run for row in History(self._answers()).rows()
        ]  # of that name: a metric

    def _answers(self) -> Iterable[pb2.ReadMetricsResponse]:
        return self._bar.track(self._ask.metrics(self._request), task_id=self._task)
