"""`pillion watch`: runs while they go on, each on a stream of its own."""

import json
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.live import Live

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    RUN_HELP,
    DataDir,
    Json,
    Listen,
    asking,
    complete_run,
    make_console,
    tell_unless_serving,
)
from pillion_sidecar.columns import decode_column
from pillion_sidecar.errors import PillionError, StateError
from pillion_sidecar.rendering import alert_text, level_name
from pillion_sidecar.rendering_watch import (
    CHART_WIDTH,
    LINES_SHOWN,
    WatchedRun,
    changed_line,
    watch_json,
    watch_view,
)

EXIT_ENDED_BADLY = 5
"""A run ended otherwise than FINISHED."""
WATCHED_MAX = 32
REDRAW_S = 0.5

_News = tuple[str, pb2.WatchRunResponse | PillionError | None]
"""A run, and what is told of it; None: that was all."""


def watch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"The runs; none: all that have not ended. {RUN_HELP}",
            metavar="[RUN...]",
            autocompletion=complete_run,
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Show this metric; else eval/loss, train/loss, loss or another.")
    ] = "",
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Watch runs until they have ended: states, latest values, what they print, alerts."""
    with asking(address, data_dir) as ask:
        run_ids = [*dict.fromkeys(map(ask.run_id, runs))] if runs else _running(ask)
        if len(run_ids) > WATCHED_MAX:
            raise StateError(f"{len(run_ids)} runs are too many. Name {WATCHED_MAX} at most.")
        watched = {run_id: WatchedRun(run_pb2.Run(run_id=run_id), metric) for run_id in run_ids}
        is_live = sys.stdout.isatty() and not as_json
        console = make_console()
        with Live(console=console, auto_refresh=False) if is_live else nullcontext() as live:
            drawn_s = 0.0
            for run_id, response in _news(ask, run_ids):
                if response is not None:
                    one = watched[run_id]
                    one.take_in(response)
                    if as_json:
                        print(
                            json.dumps(watch_json(run_id, response), ensure_ascii=False), flush=True
                        )
                    elif not is_live:
                        _print(one, response)
                if live and (now_s := time.monotonic()) >= drawn_s + REDRAW_S:
                    _chart(ask, watched.values())
                    live.update(watch_view([*watched.values()]), refresh=True)
                    drawn_s = now_s
            if live:
                _chart(ask, watched.values())
                live.update(watch_view([*watched.values()]), refresh=True)
        tell_unless_serving(ask, (one.run for one in watched.values()))
    states = {one.run.state for one in watched.values()}
    if states - {record_pb2.RUN_STATE_FINISHED, record_pb2.RUN_STATE_RUNNING}:
        raise typer.Exit(EXIT_ENDED_BADLY)
    if record_pb2.RUN_STATE_RUNNING in states:
        raise typer.Exit(1)


def _running(ask: Asker) -> list[str]:
    """Return the runs that have not ended."""
    request = pb2.ListRunsRequest(filters=["state=running"], page_size=WATCHED_MAX + 1)
    run_ids: list[str] = []
    while True:
        page = ask.runs(request)
        run_ids += [run.run_id for run in page.runs]
        request.page_token = page.next_page_token
        if len(run_ids) > WATCHED_MAX or not page.next_page_token:
            break
    if not run_ids:
        raise StateError("No run goes on. Name one, or list them with `pillion runs`.")
    return run_ids


def _news(ask: Asker, run_ids: list[str]) -> Iterator[tuple[str, pb2.WatchRunResponse | None]]:
    """Yield what is told of runs, as it comes; (empty, None) now and then while nothing does."""
    news: queue.Queue[_News] = queue.Queue(len(run_ids) + 1)

    def follow(run_id: str) -> None:
        request = pb2.WatchRunRequest(run_id=run_id, console_lines=LINES_SHOWN)
        try:
            for response in ask.watch(request):
                news.put((run_id, response))
            news.put((run_id, None))
        except PillionError as error:
            news.put((run_id, error))

    for run_id in run_ids:
        threading.Thread(target=follow, args=[run_id], daemon=True).start()
    left = set(run_ids)
    while left:
        try:
            run_id, told = news.get(timeout=REDRAW_S)
        except queue.Empty:
            yield "", None
            continue
        if isinstance(told, PillionError):
            raise told
        if told is None:
            left.discard(run_id)
        else:
            yield run_id, told


def _print(one: WatchedRun, response: pb2.WatchRunResponse) -> None:
    if line := changed_line(one):  # what is new may not be in it
        print(line)
    for alert in response.alerts:
        print(f"{one.run.run_id} alert ({level_name(alert)}): {alert_text(alert).plain}")
    sys.stdout.flush()


def _chart(ask: Asker, watched: Iterable[WatchedRun]) -> None:
    """Read what is drawn of those runs that have gone on."""
    for one in watched:
        if one.metric in one.values and one.row_count != one.charted_row_count:
            request = pb2.ReadMetricsRequest(
                run_id=one.run.run_id, keys=[one.metric], max_points=CHART_WIDTH
            )
            points: list[tuple[int, float]] = []
            for each in ask.metrics(request):
                values = decode_column(each.frame.columns[0]).tolist()
                points += zip(each.ordinals, values, strict=True)
            one.points = [value for _, value in sorted(points)]
            one.charted_row_count = one.row_count
