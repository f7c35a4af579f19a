"""`pillion export`: the rows of runs, for other programs."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from pillion._history import History
from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    RUN_HELP,
    DataDir,
    Listen,
    asking,
    complete_run,
    make_console,
    show,
)
from pillion_sidecar.errors import PeerError, SettingsError
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Tell as JSON what was written; needs --output.")
    ] = False,
) -> None:
    """Write the rows of runs to a file, exactly as logged. Works without a sidecar too."""
    path = None if output == "-" else Path(output)
    is_shown = path is not None and not as_json and sys.stdout.isatty()
    with (
        asking(address, data_dir) as ask,
        ProgressBar(transient=True, disable=not is_shown, console=make_console()) as bar,
    ):
        if as_json and path is None:
            raise SettingsError(
                "--json tells what was written to a file: name one with --output. For rows as JSON "
                "on standard output say --format jsonl."
            )
        form = form or format_of(path)
        found = [ask.run(pb2.GetRunRequest(run_id=ask.run_id(run))).run for run in runs]
        rows = [_RunRows(ask, bar, run, key or []) for run in found]
        if key and not any(each.are_any() for each in rows):
            raise PeerError(
                f"None of these runs has a row with {' or '.join(map(repr, key))}. `pillion show "
                "RUN` lists the metrics of a run.",
                "METRIC_UNKNOWN",
            )
        row_counts = write(rows, form, path)
    if path is None:
        return
    if as_json:
        show(None, export_json(path, form, found, row_counts), as_json=True)
    else:
        print(f"{count_text(sum(row_counts), 'row')} of {count_text(len(runs), 'run')} in {path}.")


def export_json(
    path: Path, form: Format, runs: Sequence[run_pb2.Run], row_counts: Sequence[int]
) -> dict[str, Any]:
    """Return what was written, as `--json` tells it."""
    return {
        "path": str(path),
        "format": form.value,
        "size_bytes": path.stat().st_size,
        "row_count": sum(row_counts),
        "runs": [
            {"run_id": run.run_id, "name": run.name, "row_count": row_count}
            for run, row_count in zip(runs, row_counts, strict=True)
        ],
    }


class _RunRows:
    """The rows of one run, read when they are asked for. See `exporting.RunRows`."""

    def __init__(self, ask: Asker, bar: ProgressBar, run: run_pb2.Run, keys: list[str]) -> None:
        self._ask, self._bar, self._run_id = ask, bar, run.run_id
        self._task = bar.add_task(escape(run.name), total=None)
        self._request = pb2.ReadMetricsRequest(run_id=run.run_id, keys=keys or ["*"])

    def are_any(self) -> bool:
        return any(True for _ in self._ask.metrics(self._request))

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
