"""`pillion artifacts` and `pillion gc`: look at artifacts, get files, remove what is unneeded."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, Progress

from pillion.safe_files import MismatchError, UnsafeNameError, has_file, write_file
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    DataDir,
    Json,
    Listen,
    asking,
    complete_run,
    make_console,
    refusals_told,
    show,
)
from pillion_sidecar.errors import DiskError
from pillion_sidecar.garbage import collect
from pillion_sidecar.rendering_artifacts import (
    artifact_json,
    artifact_view,
    artifacts_table,
    garbage_json,
    garbage_view,
)
from pillion_sidecar.safety import count_text
from pillion_sidecar.settings import load
from pillion_sidecar.validation_values import check_reference

app = typer.Typer(
    help="Artifacts: list them, look at one, get its files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Project = Annotated[str, typer.Option(help="The project; needed if several have such a name.")]
Reference = Annotated[str, typer.Argument(help="NAME:VERSION or NAME:ALIAS.", metavar="ARTIFACT")]


@app.command("ls")
def list_artifacts(
    project: Annotated[str, typer.Option(help="Only of this project.")] = "",
    name: Annotated[str, typer.Option(help="Only versions of this one.")] = "",
    run: Annotated[
        str,
        typer.Option(help="Only what this run has made or read.", autocompletion=complete_run),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List versions of artifacts, the latest first. Works without a sidecar too."""
    request = pb2.ListArtifactsRequest(project=project, name=name, page_size=limit)
    with asking(address, data_dir) as ask:
        if run:
            request.run_id = ask.run(pb2.GetRunRequest(run_id=ask.run_id(run))).run.run_id
        found = ask.artifacts(request).artifacts
    if not found and not as_json:
        print("There are no such artifacts. `run.log_artifact` makes some.")
        return
    shape = {"artifacts": [artifact_json(artifact) for artifact in found]}
    show(artifacts_table(found), shape, as_json=as_json)


@app.command("show")
def show_artifact(
    artifact: Reference,
    project: Project = "",
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one version: its files, and which runs made and read it."""
    with asking(address, data_dir) as ask:
        found, readers = _one(ask, artifact, project)
    shape = artifact_json(found) | {"reader_run_ids": readers}
    show(artifact_view(found, readers), shape, as_json=as_json)


@app.command("get")
def get(
    artifact: Reference,
    output: Annotated[
        Path | None, typer.Option(help="Where to. [./NAME-VERSION]", show_default=False)
    ] = None,
    project: Project = "",
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write the files of a version below a directory, each compared with its digest.

    Files that are there already, whole, are not read again.
    """
    with asking(address, data_dir) as ask:
        found, _ = _one(ask, artifact, project)
        root = output or Path(f"{found.name}-{found.version}")
        elsewhere = [file for file in found.files if file.reference_uri]
        with _disk_told(root), _bar(found, is_shown=not as_json and sys.stdout.isatty()) as bar:
            for file in found.files:
                if not file.reference_uri:
                    _get_file(ask, found, file, root, bar)
    kept = len(found.files) - len(elsewhere)
    if as_json:
        show(None, artifact_json(found) | {"directory": str(root)}, as_json=True)
    else:
        print(f"{found.name}:{found.version}: {count_text(kept, 'file')} in {root}")
    for file in elsewhere:
        print(f"{file.name} is only referred to: {file.reference_uri}", file=sys.stderr)


def gc(
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    artifact_keep_last: Annotated[
        int | None, typer.Option(min=0, help="Keep so many versions of each artifact; 0: all.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove files that nothing needs: of artifacts, of rows, and what W&B's SDK has cached."""
    with refusals_told():
        settings = load(data_dir=data_dir, artifact_keep_last=artifact_keep_last)
        garbage = collect(settings, settings.artifact_keep_last, is_dry=is_dry)
    show(garbage_view(garbage, is_dry=is_dry), garbage_json(garbage), as_json=as_json)


def _one(ask: Asker, reference: str, project: str) -> tuple[record_pb2.Artifact, list[str]]:
    name, version = check_reference(reference)
    response = ask.artifacts(pb2.ListArtifactsRequest(project=project, name=name, version=version))
    return response.artifacts[0], list(response.reader_run_ids)


def _get_file(
    ask: Asker,
    artifact: record_pb2.Artifact,
    file: record_pb2.ArtifactFile,
    root: Path,
    bar: Progress,
) -> None:
    if has_file(root, file.name, file.sha256, file.size_bytes):
        bar.advance(bar.task_ids[0], file.size_bytes)
        return
    request = pb2.ReadArtifactRequest(
        artifact=f"{artifact.name}:{artifact.version}", file=file.name, project=artifact.project
    )

    def pieces() -> Iterator[bytes]:
        for data in ask.artifact_content(request):
            bar.advance(bar.task_ids[0], len(data))
            yield data

    write_file(root, file.name, file.sha256, pieces())


def _bar(artifact: record_pb2.Artifact, *, is_shown: bool) -> Progress:
    """Make a progress bar that people see, and nobody else."""
    bar = Progress(
        *Progress.get_default_columns(),
        DownloadColumn(),
        console=make_console(),
        disable=not is_shown,
        transient=True,
    )
    total: Any = sum(file.size_bytes for file in artifact.files if not file.reference_uri)
    bar.add_task(f"{artifact.name}:{artifact.version}", total=total or None)
    return bar


@contextmanager
def _disk_told(root: Path) -> Iterator[None]:
    """Say what went wrong where the files go."""
    try:
        yield
    except (UnsafeNameError, MismatchError) as error:
        raise DiskError(f"This artifact cannot be written: {error}.") from error
    except OSError as error:
        raise DiskError(
            f"{root} cannot be written: {error.strerror or error} ({error.filename})."
        ) from error
