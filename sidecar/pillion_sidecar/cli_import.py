"""`pillion import`: runs that W&B's SDK or TensorBoard has written, taken into the store."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID

from pillion_sidecar import tensorboard_import, wandb_import
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    DataDir,
    Json,
    Listen,
    asked_address,
    make_console,
    refusals_told,
)
from pillion_sidecar.errors import PillionError, SettingsError
from pillion_sidecar.importing import Imported, Source, import_run
from pillion_sidecar.rendering import user_text
from pillion_sidecar.safety import count_text
from pillion_sidecar.settings import load
from pillion_sidecar.sidecar_process import ensure_sidecar


def import_runs(
    paths: Annotated[
        list[Path],
        typer.Argument(help="`.wandb` and event files, or directories of them.", metavar="PATH..."),
    ],
    project: Annotated[
        str, typer.Option(help="What they are filed under; else as they say themselves.")
    ] = "",
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take in runs that W&B or TensorBoard has written; again is harmless. Starts a sidecar."""
    console = make_console()
    imported: list[Imported] = []
    failures: list[tuple[Path, str]] = []
    with refusals_told():
        sources = [source for path in paths for source in _sources(path)]
        settings = load(listen=asked_address(address), data_dir=data_dir)
        listen, _ = ensure_sidecar(settings)
        bar = ProgressBar(
            transient=True, disable=as_json or not sys.stdout.isatty(), console=console
        )
        with Asker(settings.model_copy(update={"listen": listen})) as ask, bar:
            for source in sources:
                task = bar.add_task(escape(source.path.name), total=None)
                try:
                    one = import_run(source, ask, project, partial(_show, bar, task))
                    imported.append(one)
                    line = _told(one)
                except PillionError as error:
                    failures.append((source.path, str(error)))
                    line = str(error)
                bar.remove_task(task)
                if not as_json:
                    console.print(user_text(line), soft_wrap=True)
    if as_json:
        print(json.dumps(_shape(imported, failures), indent=2, ensure_ascii=False))
    else:
        print(f"{count_text(len(imported), 'run')} of {len(sources)} imported.")
    raise typer.Exit(min(len(failures), 1))


def _sources(path: Path) -> Iterator[Source]:
    """Yield the runs that are at a path. Raises SettingsError if there are none."""
    if not path.exists():
        raise SettingsError(f"There is no file or directory {path}.")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    wandb_files = [file for file in files if file.suffix == wandb_import.SUFFIX and file.is_file()]
    directories = {file.parent for file in files if file.match(tensorboard_import.PATTERN)}
    if not wandb_files and not directories:
        raise SettingsError(
            f"Nothing in {path} can be imported: no file ends in `{wandb_import.SUFFIX}`, as W&B's "
            "SDK writes them, and none is named `events.out.tfevents…`, as TensorBoard's are."
        )
    yield from map(wandb_import.WandbRun, wandb_files)
    root = path if path.is_dir() else path.parent
    for directory in sorted(directories):
        yield tensorboard_import.TensorboardRun(directory, root)


def _show(bar: ProgressBar, task: TaskID, sent_count: int, row_count: int) -> None:
    bar.update(task, completed=sent_count, total=row_count)


def _told(one: Imported) -> str:
    rows = count_text(one.row_count, "row")
    if not one.new_row_count and one.row_count:
        rows = f"{rows}, all here already"
    elif one.new_row_count < one.row_count:
        rows = f"{rows}, {one.new_row_count:,} of them new"
    parts = [f"{what} ({count:,})" if count > 1 else what for what, count in one.left_out.items()]
    left_out = f" Not taken: {'; '.join(parts)}." if parts else ""
    return f"{one.run_id}: {rows}.{left_out}"


def _shape(imported: list[Imported], failures: list[tuple[Path, str]]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "run_id": one.run_id,
                "path": str(one.path),
                "row_count": one.row_count,
                "new_row_count": one.new_row_count,
                "left_out": one.left_out,
            }
            for one in imported
        ],
        "failures": [{"path": str(path), "error": error} for path, error in failures],
    }
