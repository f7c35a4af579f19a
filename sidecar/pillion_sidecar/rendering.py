"""How the CLI shows answers: rich tables for people, plain dicts for `--json`.

The JSON shapes are part of the interface and described in `docs/cli.md`.
"""

import math
import re
import time
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from pillion.v1 import record_pb2, run_pb2
from pillion.values import Value, from_key_values
from pillion_sidecar.records import ConsoleLines

_STATE_STYLES = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "STOPPED": "yellow",
    "FAILED": "red",
    "CRASHED": "bold red",
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHOLE_MIN, _WHOLE_MAX = 1e4, 1e9
"""Between these, the digits behind the point tell nobody anything."""
_BLOCKS = "▁▂▃▄▅▆▇█"


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
    """Show what a user named as it is, on one line: no markup, no control of the terminal."""
    line = "⏎".join(str(value).replace("\t", " ").strip("\n").splitlines())
    return Text(_CONTROLS.sub("", line))


def user_lines(text: str) -> Text:
    """Show what a user wrote as `user_text` does, on as many lines as it has."""
    return Text("\n").join(map(user_text, text.splitlines()))


def level_name(alert: record_pb2.Alert) -> str:
    """Return the name of an alert's level: `warn`."""
    return str(record_pb2.Alert.Level.Name(alert.level)).removeprefix("LEVEL_").lower()


def alert_json(alert: record_pb2.Alert) -> dict[str, Any]:
    """Return an alert for `--json`."""
    return {
        "title": alert.title,
        "text": alert.text,
        "level": level_name(alert),
        "time_unix_nano": alert.time_unix_nano,
    }


def alert_text(alert: record_pb2.Alert) -> Text:
    """Show an alert: `Loss is flat: 0.3 for 100 steps`."""
    return user_text(": ".join(filter(None, [alert.title, alert.text])))


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
    end_ns = run.end_time.ToNanoseconds() if run.HasField("end_time") else time.time_ns()
    return seconds_text((end_ns - run.start_time.ToNanoseconds()) / 1e9)


def seconds_text(duration_s: float) -> str:
    """Show a duration, rounded to a second: `40s`, `3m 12s`, `2h 05m`."""
    minutes, seconds = divmod(max(0, round(duration_s)), 60)
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
