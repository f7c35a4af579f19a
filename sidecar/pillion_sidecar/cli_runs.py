"""`pillion runs`, `show`, `console`, `update`, `tag` and `note`: runs, one by one or in a list."""

import sys
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar import rendering
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import DataDir, Json, Listen, Run, asking, show, tell_unless_serving
from pillion_sidecar.columns import decode_column
from pillion_sidecar.errors import PeerError, PillionError, unknown_run
from pillion_sidecar.records import RunId
from pillion_sidecar.rendering import plain_value
from pillion_sidecar.rendering_run import run_view, whole_run_json
from pillion_sidecar.rendering_runs import TREND_POINTS, RunsView
from pillion_sidecar.store import Store


def list_runs(
    project: Annotated[str, typer.Option(help="Only runs of this project.")] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            help="Only runs that meet it, as in state=running, tag=a, config.lr<0.01; may be "
            "repeated.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="A field to sort by; -FIELD: the largest first.")
    ] = "-started",
    metric: Annotated[str, typer.Option(help="Show this metric, and how it went.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List runs, the latest first. Works without a sidecar too."""
    request = pb2.ListRunsRequest(
        project=project, filters=where or [], order_by=sort, page_size=limit
    )
    with asking(address, data_dir) as ask:
        runs, has_more = _collected(ask, request, limit)
        points = {run.run_id: _points(ask, run, metric) for run in runs} if metric else {}
        tell_unless_serving(ask, runs)
    if metric and runs and not any(points.values()):
        print(
            f"None of these runs has values of {metric!r}. `pillion show RUN` lists the metrics of "
            "a run.",
            file=sys.stderr,
        )
    if not runs and not as_json:
        of_project = f" of project {project}" if project else ""
        if where:
            print(f"No runs{of_project} meet that. `pillion runs` lists all.")
        else:
            print(
                f"There are no runs{of_project}. `pillion runs` lists all, `pillion demo` makes "
                "three."
            )
        return
    trends = {run_id: [value for _, value in each] for run_id, each in points.items()}
    shapes = [rendering.run_json(run) for run in runs]
    for shape in shapes if metric else ():
        shape["points"] = [[step, plain_value(value)] for step, value in points[shape["run_id"]]]
    view = RunsView(runs, metric, trends if metric else None)
    show(view, {"runs": shapes}, as_json=as_json)
    if has_more and not as_json:
        print("More runs: --limit NUMBER shows as many, --filter and --project choose.")


def show_run(
    run: Run,
    metric: Annotated[
        str, typer.Option(help="Of the summary only this metric, or those that a glob fits.")
    ] = "",
    is_whole: Annotated[
        bool, typer.Option("--all", help="All of config and summary, and nothing cut.")
    ] = False,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what is known of a run but its rows. Works without a sidecar too."""
    with asking(address, data_dir) as ask:
        found = ask.run(pb2.GetRunRequest(run_id=ask.run_id(run))).run
        has_console = not as_json and _has_console(ask.store_url, RunId(found.run_id))
    view = run_view(found, metric, has_console=has_console, is_whole=is_whole)
    show(view, whole_run_json(found), as_json=as_json)


def _has_console(store_url: str, run_id: RunId) -> bool:
    """Tell whether `print_console` would print anything, as far as the store can be read here."""
    with (
        suppress(PillionError),
        closing(Store(store_url)) as store,
        closing(store.console(run_id)) as pieces,
    ):
        return next(pieces, None) is not None
    return False


def print_console(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print what a run's trainers printed. Reads the store itself, so it needs no sidecar."""
    with asking(None, data_dir) as ask, closing(Store(ask.store_url)) as store:
        run_id = RunId(ask.run_id(run))
        if not store.has_run(run_id):
            raise unknown_run(run_id)
        if as_json:
            pieces = [rendering.console_json(piece) for piece in store.console(run_id)]
            show(None, {"run_id": run_id, "console": pieces}, as_json=True)
        else:
            for piece in store.console(run_id):
                print("\n".join(piece.lines))


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
        name=name, notes=notes, add_tags=tag or [], remove_tags=untag or []
    )
    _change(run, request, "give --name, --notes, --tag or --untag", address, data_dir, as_json)


def tag(
    run: Run,
    tags: Annotated[
        list[str], typer.Argument(help="+TAG adds one, -TAG takes it away.", metavar="+TAG|-TAG...")
    ],
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add tags to a run or take them away, here and at W&B, whether it has ended or not."""
    request = pb2.UpdateRunRequest(
        add_tags=[text.removeprefix("+") for text in tags if not text.startswith("-")],
        remove_tags=[text[1:] for text in tags if text.startswith("-")],
    )
    _change(run, request, "name a tag", address, data_dir, as_json)


def note(
    run: Run,
    text: Annotated[str, typer.Argument(help="The notes, in place of those there are.")],
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a run's notes, here and at W&B, whether it has ended or not."""
    _change(run, pb2.UpdateRunRequest(notes=text), "", address, data_dir, as_json)


def _change(
    run: str,
    request: pb2.UpdateRunRequest,
    hint: str,
    address: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    with asking(address, data_dir) as ask:
        if request == pb2.UpdateRunRequest():
            raise PeerError(f"There is nothing to change: {hint}.")
        request.run_id = ask.run_id(run)
        found: pb2.UpdateRunResponse = ask.call("UpdateRun", request)
    show(run_view(found.run), whole_run_json(found.run), as_json=as_json)


def _collected(
    ask: Asker, request: pb2.ListRunsRequest, limit: int
) -> tuple[list[run_pb2.Run], bool]:
    """Return the first runs, of as many pages as that takes, and whether there are more."""
    runs: list[run_pb2.Run] = []
    while True:
        request.page_size = limit - len(runs)
        page = ask.runs(request)
        runs += page.runs
        request.page_token = page.next_page_token
        if len(runs) >= limit or not page.next_page_token:
            return runs, bool(page.next_page_token)


def _points(ask: Asker, run: run_pb2.Run, metric: str) -> list[tuple[int, Any]]:
    """Return some (step, value) of a run's metric, by step, that show how it went."""
    if metric not in from_key_values(run.summary):
        return []
    request = pb2.ReadMetricsRequest(run_id=run.run_id, keys=[metric], max_points=TREND_POINTS)
    points: list[tuple[int, int, Any]] = []
    for each in ask.metrics(request):
        values = decode_column(each.frame.columns[0]).tolist()
        points += zip(each.ordinals, each.frame.steps, values, strict=True)
    return [(step, value) for _, step, value in sorted(points, key=itemgetter(0))]
