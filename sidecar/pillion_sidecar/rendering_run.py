"""How the CLI shows one run with all that is known of it."""

import json
from typing import Any

from rich.table import Table

from pillion.v1 import record_pb2, run_pb2
from pillion.values import from_key_values
from pillion_sidecar.rendering import run_json, state_text, time_json, user_text


def run_view(run: run_pb2.Run) -> Table:
    """Show a run, a line for each thing that is known."""
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
        "notes": run.notes,
        "started": time_json(run.start_time),
        "rows": f"{run.row_count:,}",
        "host": environment.host,
        "command": command.strip(),
        "python": environment.python_version,
        "git": " ".join(filter(None, [git.commit[:12], git.branch, git.remote_url])),
        "GPUs": ", ".join(gpu.name for gpu in environment.gpus),
        "page": run.url,
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in said.items():
        if value:
            table.add_row(name, value if name == "state" else user_text(value))
    for what, values in (("config", run.config), ("summary", run.summary)):
        for key, value in from_key_values(values).items():
            shown = json.dumps(value, default=str) if isinstance(value, dict | list) else value
            table.add_row(user_text(f"{what} {key}"), user_text(shown))
    for alert in run.alerts:
        level = record_pb2.Alert.Level.Name(alert.level).removeprefix("LEVEL_").lower()
        table.add_row(f"alert ({level})", user_text(f"{alert.title} {alert.text}".strip()))
    return table


def whole_run_json(run: run_pb2.Run) -> dict[str, Any]:
    """Return a run for `--json`, with what a list of runs leaves out."""
    level_of = record_pb2.Alert.Level.Name
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
        "alerts": [
            {
                "title": alert.title,
                "text": alert.text,
                "level": level_of(alert.level).removeprefix("LEVEL_").lower(),
                "time_unix_nano": alert.time_unix_nano,
            }
            for alert in run.alerts
        ],
    }
