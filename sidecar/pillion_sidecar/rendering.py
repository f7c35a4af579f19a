"""How the CLI shows answers: rich tables for people, plain dicts for `--json`.

The JSON shapes are part of the interface and described in `docs/cli.md`.
"""

import math
import re
import time
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, from_any_value, from_key_values
from pillion_sidecar.compare import METRICS_PREFERRED
from pillion_sidecar.records import ConsoleLines

_STATE_STYLES = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "STOPPED": "yellow",
    "FAILED": "red",
    "CRASHED": "bold red",
}
_DIRECTION_NAMES = {run_pb2.DIRECTION_LOWER: "lower", run_pb2.DIRECTION_HIGHER: "higher"}
_DIRECTIONS = {run_pb2.DIRECTION_LOWER: "↓", run_pb2.DIRECTION_HIGHER: "↑"}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHOLE_MIN, _WHOLE_MAX = 1e4, 1e9
"""Between these, the digits behind the point tell nobody anything."""
_BLOCKS = "▁▂▃▄▅▆▇█"


def runs_table(runs: Sequence[run_pb2.Run]) -> Table:
    """Show runs, one per line."""
    table = Table("ID", "NAME", "PROJECT", "STATE", box=None, pad_edge=False, header_style="bold")
    for title in ("ROWS", "STEP", "LOSS", "STARTED", "TOOK"):
        table.add_column(title, justify="right")
    for run in runs:
        summary = from_key_values(run.summary)
        loss = next((summary[key] for key in METRICS_PREFERRED if key in summary), None)
        if isinstance(loss, dict):  # as it was defined
            loss = loss.get("last", next(iter(loss.values()), None))
        table.add_row(
            run.run_id,
            user_text(run.name),
            user_text(run.project),
            state_text(run),
            f"{run.row_count:,}",
            f"{run.last_step:,}" if run.HasField("last_step") else "-",
            number_text(loss),
            time.strftime("%m-%d %H:%M", time.localtime(run.start_time.seconds)),
            duration_text(run),
        )
    return table


def comparison_view(response: pb2.CompareResponse) -> RenderableType:
    """Show a comparison: the metrics, what differs in config, and which run is best."""
    names = _short_names(response.runs)
    metrics = Table("METRIC", "", "", box=None, pad_edge=False, header_style="bold")
    for name in names:
        metrics.add_column(user_text(name), justify="right", overflow="fold")
    for metric in response.metrics:
        metrics.add_row(
            user_text(metric.key),
            _DIRECTIONS.get(metric.direction, ""),
            "last",
            *(_figure_text(one, "last") for one in metric.statistics),
        )
        if metric.direction in _DIRECTIONS:
            best = [
                Text(
                    _figure_text(one, "best"),
                    style="bold green" if one.run_id == metric.best_run_id else "",
                )
                for one in metric.statistics
            ]
            metrics.add_row("", "", "best", *best)
    parts: list[RenderableType] = [metrics]
    if response.config_differences:
        config = Table("CONFIG", box=None, pad_edge=False, header_style="bold")
        for name in names:
            config.add_column(user_text(name), justify="right", overflow="fold")
        for difference in response.config_differences:
            config.add_row(
                user_text(difference.key),
                *(
                    user_text(from_any_value(setting.value) if setting.HasField("value") else "-")
                    for setting in difference.settings
                ),
            )
        parts += ["", config]
        left_out = response.config_difference_count - len(response.config_differences)
        if left_out:
            parts.append(f"... and {left_out:,} more that differ")
    return Group(*parts)


def best_sentence(response: pb2.CompareResponse) -> str:
    """Say which run is best, and by what."""
    if not response.best_run_id:
        return "No run is best: no metric that all of them have says which direction is better."
    best = next(run for run in response.runs if run.run_id == response.best_run_id)
    metric = next(metric for metric in response.metrics if metric.key == response.metric)
    figure = next(one for one in metric.statistics if one.run_id == best.run_id)
    name = best.name if best.name == best.run_id else f"{best.name} ({best.run_id})"
    return _CONTROLS.sub(
        "",
        f"Best by {metric.key}: {name} with {number_text(figure.best)} at step {figure.best_step}.",
    )


def run_json(run: run_pb2.Run) -> dict[str, Any]:
    """Return a run for `--json`."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "state": state_name(run),
        "reason": run.reason,
        "exit_code": run.exit_code if run.HasField("exit_code") else None,
        "group": run.group,
        "job_type": run.job_type,
        "tags": list(run.tags),
        "notes": run.notes,
        "config": plain_value(from_key_values(run.config)),
        "summary": plain_value(from_key_values(run.summary)),
        "model": run.model,
        "dataset": run.dataset,
        "use_case": run.use_case,
        "host": run.environment.host,
        "program": run.environment.program,
        "arguments": list(run.environment.arguments),
        "python_version": run.environment.python_version,
        "git": {
            "commit": run.environment.git.commit,
            "branch": run.environment.git.branch,
            "remote_url": run.environment.git.remote_url,
        },
        "gpus": [gpu.name for gpu in run.environment.gpus],
        "cpu_count": run.environment.cpu_count,
        "memory_bytes": run.environment.memory_bytes,
        "start_time": time_json(run.start_time),
        "end_time": time_json(run.end_time) if run.HasField("end_time") else None,
        "row_count": run.row_count,
        "last_step": run.last_step if run.HasField("last_step") else None,
        "lost_row_count": run.lost_row_count,
        "url": run.url or None,
    }


def comparison_json(response: pb2.CompareResponse) -> dict[str, Any]:
    """Return a comparison for `--json`."""
    figures = ("first", "last", "min", "max", "mean", "best", "best_step")
    return {
        "runs": [run_json(run) for run in response.runs],
        "metric": response.metric or None,
        "best_run_id": response.best_run_id or None,
        "metrics": {
            metric.key: {
                "direction": _DIRECTION_NAMES.get(metric.direction),
                "best_run_id": metric.best_run_id or None,
                "runs": {
                    one.run_id: {
                        "point_count": one.point_count,
                        "nan_count": one.nan_count,
                        **{
                            name: plain_value(getattr(one, name)) if one.HasField(name) else None
                            for name in figures
                        },
                    }
                    for one in metric.statistics
                },
            }
            for metric in response.metrics
        },
        "config_difference_count": response.config_difference_count,
        "config_differences": {
            difference.key: {
                setting.run_id: plain_value(from_any_value(setting.value))
                for setting in difference.settings
                if setting.HasField("value")
            }
            for difference in response.config_differences
        },
        "url": response.url or None,
    }


def console_json(piece: ConsoleLines) -> dict[str, Any]:
    """Return console lines for `--json`."""
    timestamp = Timestamp()
    timestamp.FromNanoseconds(piece.time_unix_nano)
    return {
        "stream": piece.stream.name.lower(),
        "time": time_json(timestamp),
        "lines": list(piece.lines),
    }


def state_name(run: run_pb2.Run | run_pb2.RunStatus) -> str:
    """Return the name of a run's state: `RUNNING`."""
    return str(record_pb2.RunState.Name(run.state)).removeprefix("RUN_STATE_")


def time_json(timestamp: Timestamp) -> str:
    """Return a time for `--json`."""
    return str(timestamp.ToJsonString())


def state_text(run: run_pb2.Run) -> Text:
    """Show a run's state in its colour."""
    name = state_name(run)
    return Text(name, style=_STATE_STYLES.get(name, ""))


def user_text(value: object) -> Text:
    """Show what a user named as it is: no markup, and nothing that controls the terminal."""
    return Text(_CONTROLS.sub("", str(value)))


def number_text(value: object) -> str:
    """Show a number in five digits or whole; a dash for none."""
    match value:
        case bool():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if _WHOLE_MIN <= abs(value) < _WHOLE_MAX else f"{value:.5g}"
    return "-"


def duration_text(run: run_pb2.Run) -> str:
    """Show how long a run took, or has been running."""
    end_s = run.end_time.seconds if run.HasField("end_time") else time.time()
    return seconds_text(end_s - run.start_time.seconds)


def seconds_text(duration_s: float) -> str:
    """Show a duration: `40s`, `3m 12s`, `2h 05m`."""
    minutes, seconds = divmod(max(0, int(duration_s)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw values as a line of blocks, the latest at the right."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    picked = (
        [finite[len(finite) * i // width] for i in range(width)] if len(finite) > width else finite
    )
    low, high = min(picked), max(picked)
    half_range = high / 2 - low / 2  # of halves, since the range itself may be no float
    if not half_range:
        return "".join(_BLOCKS[-1 if value > low else 0] for value in picked)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value / 2 - low / 2) / half_range * top)] for value in picked)


def _short_names(runs: Sequence[run_pb2.Run]) -> list[str]:
    """Return the runs' names, with their ids where two share one."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} {run.run_id}"
        for name, run in zip(names, runs, strict=True)
    ]


def _figure_text(statistics: run_pb2.MetricStatistics, figure: str) -> str:
    return number_text(getattr(statistics, figure) if statistics.HasField(figure) else None)


def plain_value(value: Value) -> Any:
    """Make a value that JSON can hold: NaN and the infinities as text, bytes as hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [plain_value(element) for element in value]
    if isinstance(value, dict):
        return {key: plain_value(element) for key, element in value.items()}
    return value
