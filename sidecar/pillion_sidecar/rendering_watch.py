"""How the CLI shows runs while they go on: a table; of a single one a chart and its lines too."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from pillion.system import is_system
from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.compare import METRICS_PREFERRED
from pillion_sidecar.rendering import (
    alert_json,
    alert_text,
    level_name,
    number_text,
    plain_value,
    run_json,
    sparkline,
    state_name,
    state_text,
    user_text,
)

LINES_SHOWN = 10
ALERTS_SHOWN = 3
CHART_WIDTH, CHART_HEIGHT = 60, 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAD_ENDS = {
    record_pb2.RUN_STATE_FAILED,
    record_pb2.RUN_STATE_CRASHED,
    record_pb2.RUN_STATE_STOPPED,
}


@dataclass
class WatchedRun:
    """A run as it was told last."""

    run: run_pb2.Run
    metric: str = ""
    """What is shown of it; empty: as soon as it has one, the first of those that are preferred."""
    values: dict[str, Any] = field(default_factory=dict)
    row_count: int = 0
    last_step: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_SHOWN))
    alerts: deque[record_pb2.Alert] = field(default_factory=lambda: deque(maxlen=ALERTS_SHOWN))
    points: Sequence[float] = ()
    """Of the metric, few of them."""
    charted_row_count: int = -1
    """The rows there were when they were read."""
    line_before: str = ""
    """What `changed_line` returned of it last."""

    def take_in(self, response: pb2.WatchRunResponse) -> None:
        """Take in what is new."""
        if response.HasField("run"):
            self.run = response.run
        self.values |= from_key_values(response.values)
        self.row_count = response.row_count
        self.last_step = response.last_step if response.HasField("last_step") else None
        for piece in response.console:
            self.lines.extend(piece.lines)
        self.alerts.extend(response.alerts)
        if not self.metric:
            numbers = [
                key
                for key, value in self.values.items()
                if _number(value) is not None and not is_system(key)
            ]
            preferred = [key for key in METRICS_PREFERRED if key in numbers]
            self.metric = next(iter([*preferred, *numbers]), "")

    @property
    def value(self) -> float | None:
        """The metric's latest value."""
        return _number(self.values.get(self.metric))


def watch_view(watched: Sequence[WatchedRun]) -> RenderableType:
    """Show runs as they are now."""
    table = Table("RUN", "NAME", "STATE", box=None, pad_edge=False, header_style="bold")
    for title in ("ROWS", "STEP", "METRIC", "VALUE"):
        table.add_column(title, justify="right")
    table.add_column("")
    for one in watched:
        table.add_row(
            one.run.run_id,
            user_text(one.run.name),
            state_text(one.run),
            f"{one.row_count:,}",
            "-" if one.last_step is None else f"{one.last_step:,}",
            user_text(one.metric or "-"),
            number_text(one.value),
            sparkline(one.points),
        )
    parts: list[RenderableType] = [table]
    for one in watched:
        parts += [
            user_text(f"{one.run.run_id} alert ({level_name(alert)}): ") + alert_text(alert)
            for alert in one.alerts
        ]
    if len(watched) == 1:
        only = watched[0]
        if only.points:
            parts += ["", user_text(only.metric), chart(only.points)]
        if only.lines:
            parts += ["", *map(user_text, only.lines)]
    return Group(*parts)


def chart(values: Sequence[float], width: int = CHART_WIDTH, height: int = CHART_HEIGHT) -> Table:
    """Draw values as columns, the latest at the right, between the least and the largest."""
    finite = [value for value in values if math.isfinite(value)][-width:]
    table = Table(box=None, pad_edge=False, show_header=False)
    if not finite:
        return table
    low, high = min(finite), max(finite)
    half_range = high / 2 - low / 2  # of halves, since the range itself may be no float
    top = height * (len(_BLOCKS) - 1)
    levels = [
        1 + round((value / 2 - low / 2) / half_range * (top - 1)) if half_range else 1
        for value in finite
    ]
    for row in reversed(range(height)):
        base = row * (len(_BLOCKS) - 1)
        blocks = "".join(_BLOCKS[min(max(level - base, 0), len(_BLOCKS) - 1)] for level in levels)
        label = {height - 1: number_text(high), 0: number_text(low)}.get(row, "")
        table.add_row(label, blocks)
    return table


def watch_line(one: WatchedRun) -> str:
    """Return how a run is now, for where no terminal shows tables."""
    value = f" {one.metric} {number_text(one.value)}" if one.metric else ""
    step = "" if one.last_step is None else f" step {one.last_step}"
    rows = "1 row" if one.row_count == 1 else f"{one.row_count} rows"
    why = f": {one.run.reason}" if one.run.state in _BAD_ENDS and one.run.reason else ""
    return user_text(f"{one.run.run_id} {state_name(one.run)} {rows}{step}{value}{why}").plain


def changed_line(one: WatchedRun) -> str:
    """Return the line of `watch_line` if it differs from the one returned last, else nothing."""
    line = watch_line(one)
    if line == one.line_before:
        return ""
    one.line_before = line
    return line


def watch_json(run_id: str, response: pb2.WatchRunResponse) -> dict[str, Any]:
    """Return one message for `--json`."""
    run = None
    if response.HasField("run"):
        run = run_json(response.run)
        for name in ("summary", "row_count", "last_step"):
            del run[name]
    return {
        "run_id": run_id,
        "run": run,
        "values": plain_value(from_key_values(response.values)),
        "row_count": response.row_count,
        "last_step": response.last_step if response.HasField("last_step") else None,
        "console": [
            {
                "stream": stream_name(piece),
                "time_unix_nano": piece.time_unix_nano,
                "lines": list(piece.lines),
            }
            for piece in response.console
        ],
        "alerts": [alert_json(alert) for alert in response.alerts],
    }


def stream_name(piece: record_pb2.ConsoleLines) -> str:
    """Return the name of the stream that lines came from: `stdout`."""
    name = record_pb2.ConsoleLines.Stream.Name(piece.stream)
    return str(name).removeprefix("STREAM_").lower()


def _number(value: Any) -> float | None:
    if isinstance(value, dict):  # as it was defined
        value = value.get("last", next(iter(value.values()), None))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None
