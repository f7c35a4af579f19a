"""`pillion spool`: what trainers without a sidecar have left, listed, sent or deleted by hand."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from pillion_sidecar import spooled_files
from pillion_sidecar.cli_common import (
    DataDir,
    Json,
    Listen,
    asking,
    make_console,
    refusals_told,
    show,
)
from pillion_sidecar.errors import PillionError, SettingsError, StateError
from pillion_sidecar.safety import bytes_text, count_text
from pillion_sidecar.settings import load

app = typer.Typer(
    help="What trainers without a sidecar have left: list, send or delete it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SpoolDir = Annotated[
    Path | None, typer.Option(help="Where the files are. [PILLION_SPOOL_DIR]", show_default=False)
]
Files = Annotated[
    list[Path] | None, typer.Argument(help="Paths, or names in the directory.", metavar="FILE...")
]
Every = Annotated[bool, typer.Option("--all", help="All that wait in the directory.")]


@app.command("ls")
def list_files(spool_dir: SpoolDir = None, as_json: Json = False) -> None:
    """List what waits."""
    with refusals_told():
        directory = load(spool_dir=spool_dir).spool_dir
        files = spooled_files.look(directory)
    shape = {"directory": str(directory), "files": [file.as_json() for file in files]}
    if not files and not as_json:
        print(f"Nothing waits in {directory}.")
        return
    show(spooled_files.files_table(files), shape, as_json=as_json)
    if not as_json:
        print(
            f"\nIn {directory}. A sidecar takes by itself what waits there: `pillion serve`. "
            "`pillion spool send` sends files to another."
        )


@app.command("send")
def send(
    files: Files = None,
    every: Every = False,
    address: Listen = None,
    data_dir: DataDir = None,
    spool_dir: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Send files to a sidecar; each is deleted once it is kept there."""
    sent: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    is_shown = not as_json and sys.stdout.isatty()
    with (
        asking(address, data_dir) as ask,
        ProgressBar(transient=True, disable=not is_shown, console=make_console()) as bar,
    ):
        for path in _chosen(files, spool_dir, every=every):
            task = bar.add_task(escape(path.name), total=path.stat().st_size)
            try:
                run_id = spooled_files.send(path, ask, partial(bar.advance, task))
            except PillionError as error:
                failures.append({"path": str(path), "error": str(error)})
                print(error, file=sys.stderr)
            else:
                sent.append({"path": str(path), "run_id": run_id})
                if not as_json:
                    print(f"Run {run_id}: {path.name} is kept by the sidecar.")
    if as_json:
        show(None, {"sent": sent, "failures": failures}, as_json=True)
    raise typer.Exit(min(len(failures), 1))


@app.command("rm")
def delete(
    files: Files = None,
    every: Every = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    spool_dir: SpoolDir = None,
    as_json: Json = False,
) -> None:
    """Delete files for good."""
    with refusals_told():
        paths = _chosen(files, spool_dir, every=every)
        looks = [spooled_files.look_at(path) for path in paths]
        if alive := [file.path.name for file in looks if file.state == "writing"]:
            raise StateError(f"{alive[0]} is in use: its writer lives, or a sidecar is taking it.")
    size = bytes_text(sum(file.size_bytes for file in looks))
    question = f"Delete {count_text(len(paths), 'file')} ({size})? No sidecar has what is in them."
    is_meant = yes or (bool(paths) and typer.confirm(question, err=as_json))
    for path in paths if is_meant else ():
        spooled_files.delete(path)
        if not as_json:
            print(f"{path.name} is deleted.")
    if as_json:
        deleted = [file.as_json() for file in looks] if is_meant else []
        show(None, {"deleted": deleted}, as_json=True)


def _chosen(files: list[Path] | None, spool_dir: Path | None, *, every: bool) -> list[Path]:
    """Return the files that are meant. Raises SettingsError or StateError if none are."""
    directory = load(spool_dir=spool_dir).spool_dir
    if every:
        return [file.path for file in spooled_files.look(directory) if file.state == "waiting"]
    if not files:
        raise SettingsError("Name the files, or say --all. `pillion spool ls` lists them.")
    return spooled_files.find(files, directory)
