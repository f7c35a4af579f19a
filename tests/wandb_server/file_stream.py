"""The file stream: lines of history, system metrics and console, the summary, and the run's end."""

import json
from typing import Any

from wandb_server.kept import ServerRun

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


def take(run: ServerRun, body: bytes) -> dict[str, Any]:
    """Keep what a post brings; return its answer. An offset is the number of the first line."""
    post = json.loads(body)
    for file, chunk in post.get("files", {}).items():
        if file == SUMMARY:
            run.summary = json.loads(chunk["content"][-1])
            continue
        lines = run.lines.setdefault(file, {})
        for number, line in enumerate(chunk["content"], start=chunk["offset"]):
            if file == HISTORY and json.loads(lines.get(number, line)) != json.loads(line):
                run.rewritten.append(number)
            lines[number] = line
    if post.get("complete"):
        run.exit_code = post["exitcode"]
        run.state = "finished" if run.exit_code == 0 else "failed"
    return {"exitcode": run.exit_code, "limits": {}, "stopped": run.is_stop_pressed}
