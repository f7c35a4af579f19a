"""How the CLI shows one run with all that is known of it."""

import json
from fnmatch import fnmatchcase
from typing import Any

from rich.table import Table
from rich.text import Text

from pillion.system import PREFIX, is_system
from pillion.v1 import record_pb2, run_pb2
from pillion.values import Value, from_key_values
from pillion_sidecar.differences import flat
from pillion_sidecar.rendering import (
    alert_json,
    alert_text,
    duration_text,
    level_name,
    number_text,
    run_json,
    state_text,
    time_json,
    user_lines,
    user_text,
)
from pillion_sidecar.safety import count_text

CONFIG_SHOWN = 30
"""Keys of the config that are shown unless all are asked for."""
VALUE_CHARACTERS_MAX = 60
"""Of a value that was configured or logged, unless all is asked for."""


def run_view(
    run: run_pb2.Run, metric: str = "", *, has_console: bool = False, is_whole: bool = False
) -> Table:
    """Show a run, a line for each thing that is known.

    Args:
        run: The run.
        metric: A name or glob: which of its summary is shown; empty: all but how the system does.
        has_console: Whether its trainers printed anything.
        is_whole: Whether to show all of config and summary, and nothing cut.
    """
    environment = run.environment
    git = environment.git
    command = " ".join([environment.program, *environment.arguments])
    said: dict[str, Any] = {
        "run": run.run_id,
        "name": run.name,
        "project": run.project,
        "state": state_text(run),
        "reason": run.reason,
        "model": run.model,
        "dataset": run.dataset,
        "use case": run.use_case,
        "group": run.group,
        "tags": ", ".join(run.tags),
        "notes": user_lines(run.notes),
        "started": time_json(run.start_time),
        "ended": time_json(run.end_time) if run.HasField("end_time") else "",
        "took": duration_text(run),
        "exit code": str(run.exit_code) if run.HasField("exit_code") else "",
        "rows": f"{run.row_count:,}",
        "rows lost": f"{run.lost_row_count:,}" if run.lost_row_count else "",
        "host": environment.host,
        "command": command.strip(),
        "python": environment.python_version,
        "git": " ".join(filter(None, [git.commit[:12], git.branch, git.remote_url])),
        "GPUs": ", ".join(gpu.name for gpu in environment.gpus),
        "page": run.url,
        "console": f"pillion console {run.run_id}" if has_console else "",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in said.items():
        if value:
            table.add_row(name, value if isinstance(value, Text) else user_text(value))
    cut = str if is_whole else _cut
    summary = from_key_values(run.summary)
    shown = {
        key: value
        for key, value in summary.items()
        if (fnmatchcase(key, metric) or key == metric if metric else is_whole or not is_system(key))
    }
    for key, value in flat(shown):
        table.add_row(user_text(f"summary {key}"), user_text(cut(_figure_text(value))))
    if not metric and (left_out := len(summary) - len(shown)):
        system = f"and {count_text(left_out, 'system metric')} (--metric '{PREFIX}*')"
        table.add_row("summary", system)
    for alert in run.alerts:
        table.add_row(f"alert ({level_name(alert)})", alert_text(alert))
    config: list[tuple[str, Value]] = list(flat(from_key_values(run.config)))
    config_shown = config
    if not is_whole and len(config) > CONFIG_SHOWN:  # many trainers tell all that they might take
        config_shown = [pair for pair in config if pair[1] is not None][:CONFIG_SHOWN]
    for key, value in config_shown:
        table.add_row(user_text(f"config {key}"), user_text(cut(_setting_text(value))))
    if left_out := len(config) - len(config_shown):
        table.add_row("config", f"and {left_out:,} more (--all)")
    return table


def whole_run_json(run: run_pb2.Run) -> dict[str, Any]:
    """Return a run for `--json`, with what a list of runs leaves out."""
    summary_of = record_pb2.MetricDefinition.Summary.Name
    return run_json(run) | {
        "packages": {each.name: each.version for each in run.environment.packages},
        "definitions": [
            {
                "name": definition.name,
                "step_metric": definition.step_metric,
                "summaries": [
                    summary_of(each).removeprefix("SUMMARY_").lower()
                    for each in definition.summaries
                ],
            }
            for definition in run.definitions
        ],
        "alerts": [alert_json(alert) for alert in run.alerts],
    }


def _cut(text: str) -> str:
    is_long = len(text) > VALUE_CHARACTERS_MAX
    return f"{text[: VALUE_CHARACTERS_MAX - 9]}… (--all)" if is_long else text


def _setting_text(value: Value) -> str:
    """Show what was configured, in the digits that comparisons show."""
    return f"{value:.6g}" if isinstance(value, float) else _value_text(value)


def _figure_text(value: Value) -> str:
    return number_text(value) if isinstance(value, float) else _value_text(value)


def _value_text(value: Value) -> str:
    """Show a text as it is, what is no number as JSON has it: `true`, `null`, `[1, 2]`."""
    if isinstance(value, str | bytes):
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=False)
