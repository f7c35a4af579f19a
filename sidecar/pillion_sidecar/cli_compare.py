"""`pillion compare` and `pillion diff`: how runs did, and what differs between them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from pillion.system import is_system
from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.asking import Asker
from pillion_sidecar.cli_common import (
    RUN_HELP,
    DataDir,
    Json,
    Listen,
    Run,
    asking,
    complete_run,
    show,
)
from pillion_sidecar.comparison_json import comparison_json, differences_json
from pillion_sidecar.errors import PeerError
from pillion_sidecar.rendering_comparison import (
    ComparisonView,
    DifferencesView,
    best_sentence,
    differ_count,
)
from pillion_sidecar.selection import is_glob

EXIT_DIFFERENT = 6
"""Of `diff`: something differs."""

_DIRECTIONS = {
    "lower": run_pb2.DIRECTION_LOWER,
    "higher": run_pb2.DIRECTION_HIGHER,
    "none": run_pb2.DIRECTION_UNSPECIFIED,
}
_AXES = {"step": pb2.AXIS_STEP, "time": pb2.AXIS_TIME}


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help=f"2 to 10 runs. {RUN_HELP}", metavar="RUN...", autocompletion=complete_run
        ),
    ],
    metric: Annotated[
        str, typer.Option(help="Decides which is best; of a glob: show these metrics alone.")
    ] = "",
    direction: Annotated[
        list[str] | None,
        typer.Option(help="What better means: NAME=lower, higher or none; may be repeated."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="A config key: runs of equal values are a group, as seeds are.")
    ] = "",
    series: Annotated[
        list[str] | None, typer.Option(help="A metric to align; may be repeated.")
    ] = None,
    axis: Annotated[
        str, typer.Option(help="Over what series are aligned: step, time, or a metric.")
    ] = "step",
    points: Annotated[
        int, typer.Option(min=0, help="At most so many places of a series; 0: 1,000.")
    ] = 0,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare runs: metrics, the best one, what differs, costs. Works without a sidecar too."""
    with asking(address, data_dir) as ask:
        run_ids = [ask.run_id(name) for name in runs]
        directions = dict(map(_direction, direction or ()))
        shown = _shown(ask, run_ids, metric) if is_glob(metric) else None
        for key in filter(is_system, shown or ()):  # those are only answered if they are named
            directions.setdefault(key, run_pb2.DIRECTION_UNSPECIFIED)
        response = ask.compare(
            pb2.CompareRequest(
                run_ids=run_ids,
                metric="" if shown is not None else metric,
                directions=directions,
                group_by=by,
                series=series or (),
                axis=_AXES.get(axis, pb2.AXIS_METRIC),
                axis_metric="" if axis in _AXES else axis,
                max_points=points,
            )
        )
    show(ComparisonView(response, axis, shown), comparison_json(response), as_json=as_json)
    if not as_json:
        print("\n" + best_sentence(response, metric))
        if response.url:
            print(f"At W&B: {response.url}")


def diff(
    first: Run,
    second: Run,
    address: Listen = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two runs but how they did. Works without a sidecar too."""
    with asking(address, data_dir) as ask:
        request = pb2.CompareRequest(
            run_ids=map(ask.run_id, (first, second)), differences_only=True
        )
        response = ask.compare(request)
    if as_json or differ_count(response):
        show(DifferencesView(response), differences_json(response), as_json=as_json)
    else:
        print("Nothing differs: config and environment are the same.")
    raise typer.Exit(EXIT_DIFFERENT if differ_count(response) else 0)


def _shown(ask: Asker, run_ids: Sequence[str], pattern: str) -> set[str] | None:
    """Return the metrics of these runs that a glob fits; None: it is the name of one.

    Raises:
        PeerError: It fits none.
    """
    keys: set[str] = set()
    for run_id in run_ids:
        run = ask.run(pb2.GetRunRequest(run_id=run_id)).run
        keys.update(from_key_values(run.summary))
    if pattern in keys:
        return None
    fitting = {key for key in keys if fnmatchcase(key, pattern)}
    if not fitting:
        raise PeerError(
            f"None of these runs has a metric that {pattern!r} fits. `pillion show RUN` lists them."
        )
    return fitting


def _direction(text: str) -> tuple[str, run_pb2.Direction]:
    key, equals, name = text.rpartition("=")
    if not equals or not key or name not in _DIRECTIONS:
        raise PeerError(
            f"--direction {text}: write NAME=lower, NAME=higher, or NAME=none if no run is to be "
            "best by it."
        )
    return key, _DIRECTIONS[name]
