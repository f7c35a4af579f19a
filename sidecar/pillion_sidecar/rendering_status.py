"""How the CLI shows whether the data is safe: a sentence and a table, or a dict for `--json`."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.rendering import seconds_text, state_name, time_json, user_text
from pillion_sidecar.safety import bytes_text, count_text, people_name


def status_view(response: pb2.GetStatusResponse) -> RenderableType:
    """Show the sentence, where everything is, what is in trouble, and each run."""
    parts: list[RenderableType] = [response.sentence, *_places(response)]
    if response.runs:
        parts += ["", _runs_table(response)]
    left_out = response.totals.run_count - len(response.runs)
    if left_out > 0:
        parts.append(f"... and {left_out:,} more runs, counted above")
    return Group(*(user_text(part) if isinstance(part, str) else part for part in parts))


def status_json(response: pb2.GetStatusResponse) -> dict[str, Any]:
    """Return the status for `--json`."""
    totals, disk, spool = response.totals, response.disk, response.spool
    return {
        "sentence": response.sentence,
        "is_safe": response.is_safe,
        "version": response.version,
        "journal_id": response.journal_id,
        "data_dir": response.data_dir,
        "start_time": time_json(response.start_time),
        "totals": {
            "run_count": totals.run_count,
            "running_run_count": totals.running_run_count,
            **_counts(totals),
            "sinks": {
                sink.sink: {
                    "delivered_row_count": sink.delivered_row_count,
                    "lag_row_count": sink.lag_row_count,
                    "undelivered_run_count": sink.undelivered_run_count,
                    "failing_run_count": sink.failing_run_count,
                    "stuck_run_count": sink.stuck_run_count,
                    "oldest_undelivered_age_s": sink.oldest_undelivered_age_s,
                    "last_error": sink.last_error or None,
                }
                for sink in totals.sinks
            },
        },
        "disk": {
            "free_bytes": disk.free_bytes,
            "journal_bytes": disk.journal_bytes,
            "reusable_bytes": disk.reusable_bytes,
            "reserve_bytes": disk.reserve_bytes,
            "is_refusing": disk.is_refusing,
        },
        "spool": {
            "directory": spool.directory,
            "file_count": spool.file_count,
            "size_bytes": spool.size_bytes,
            "last_error": spool.last_error or None,
        },
        "workers": {
            worker.sink: {
                "pid": worker.pid or None,
                "restart_count": worker.restart_count,
                "last_error": worker.last_error or None,
            }
            for worker in response.workers
        },
        "wandb": wandb_json(response.wandb),
        "runs": [
            {
                "run_id": run.run_id,
                "state": state_name(run),
                **_counts(run),
                "sinks": {
                    sink.sink: {
                        "delivered_row_count": sink.delivered_row_count,
                        "lag_row_count": sink.lag_row_count,
                        "oldest_undelivered_age_s": sink.oldest_undelivered_age_s,
                        "last_error": sink.last_error or None,
                        "last_error_reason": sink.last_error_reason or None,
                    }
                    for sink in run.sinks
                },
            }
            for run in response.runs
        ],
    }


def wandb_json(wandb: run_pb2.WandbStatus) -> dict[str, Any]:
    """Return how W&B is set up in the shape that `docs/cli.md` tells."""
    return {
        "enabled": wandb.enabled,
        "available": wandb.available,
        "mode": wandb.mode,
        "problem": wandb.problem or None,
        "project": wandb.project,
        "entity": wandb.entity or None,
        "tags": list(wandb.tags),
        "credential": wandb.credential or None,
        "credentials": {
            one.name or "default": {
                "base_url": one.base_url,
                "has_key": one.has_key,
                "problem": one.problem or None,
            }
            for one in wandb.credentials
        },
        "active_run_ids": list(wandb.active_run_ids),
        "waiting_upload_count": wandb.waiting_upload_count,
        "upload_problem": wandb.upload_problem or None,
    }


def wandb_view(wandb: run_pb2.WandbStatus) -> RenderableType:
    """Show how W&B is set up: a sentence, then what was chosen."""
    lines = [f"New runs go to W&B {wandb.mode}." if wandb.enabled else "New runs do not go to W&B."]
    if wandb.problem:
        lines.append(wandb.problem)
    entity = wandb.entity or "the key's own"
    lines.append(
        f"Project {wandb.project}, entity {entity}, tags {', '.join(wandb.tags) or 'none'}"
    )
    for one in wandb.credentials:
        used = ", used by new runs" if one.name == wandb.credential else ""
        key = "has a key" if one.has_key else "has no key"
        lines.append(f"Credential {one.name or 'default'}: {key} for {one.base_url}{used}")
        if one.problem and one.problem != wandb.problem:
            lines.append(f"  {one.problem}")
    return Group(*map(user_text, [*lines, *_uploads(wandb)]))


def _uploads(wandb: run_pb2.WandbStatus) -> list[str]:
    """Tell what is left to upload, if anything is."""
    if not wandb.waiting_upload_count:
        return []
    runs = count_text(wandb.waiting_upload_count, "offline run")
    problem = wandb.upload_problem or "`pillion sync` uploads them."
    return [f"Not at W&B yet: {runs}. {problem}"]


def _counts(counts: run_pb2.StatusTotals | run_pb2.RunStatus) -> dict[str, int]:
    return {
        "journaled_row_count": counts.journaled_row_count,
        "refused_row_count": counts.refused_row_count,
        "refused_value_count": counts.refused_value_count,
        "dropped_row_count": counts.dropped_row_count,
    }


def _places(response: pb2.GetStatusResponse) -> list[RenderableType]:
    disk, spool = response.disk, response.spool
    parts: list[RenderableType] = [
        f"Version {response.version}, W&B {response.wandb.mode}, data in {response.data_dir}"
    ]
    if disk.reserve_bytes or disk.free_bytes:
        parts.append(
            f"Disk: {bytes_text(disk.free_bytes)} left, {bytes_text(disk.reserve_bytes)} kept free;"
            f" journal {bytes_text(disk.journal_bytes)}, of which {bytes_text(disk.reusable_bytes)}"
            " can be used again"
        )
    if spool.file_count or spool.last_error:
        files = f"{spool.file_count:,} waiting, {bytes_text(spool.size_bytes)}"
        trouble = f"; {spool.last_error}" if spool.last_error else ""
        parts.append(f"Spool {spool.directory}: {files}{trouble}")
    parts += map(user_text, _uploads(response.wandb))
    parts += [
        f"Worker of {people_name(worker.sink)}: down, {worker.last_error}"
        for worker in response.workers
        if worker.last_error
    ]
    return parts


def _runs_table(response: pb2.GetStatusResponse) -> Table:
    table = Table("RUN", "STATE", box=None, pad_edge=False, header_style="bold")
    sinks = [sink.sink for sink in response.totals.sinks]
    has_losses = any(any(list(_counts(run).values())[1:]) for run in response.runs)
    for title in ("ON DISK", *(f"IN {people_name(sink).upper()}" for sink in sinks)):
        table.add_column(title, justify="right")
    if has_losses:
        table.add_column("REFUSED", justify="right")
        table.add_column("DROPPED", justify="right")
    table.add_column("TROUBLE")
    for run in response.runs:
        troubles = [
            f"{people_name(sink.sink)}: {sink.last_error}" for sink in run.sinks if sink.last_error
        ]
        its = {sink.sink: sink for sink in run.sinks}
        losses = (_refused_text(run), f"{run.dropped_row_count:,}") if has_losses else ()
        table.add_row(
            run.run_id,
            state_name(run),
            f"{run.journaled_row_count:,}",
            *(_sink_text(its[sink]) if sink in its else "" for sink in sinks),
            *losses,
            user_text("; ".join(troubles)),
        )
    return table


def _sink_text(sink: run_pb2.SinkStatus) -> str:
    """Show what is there, and how long the oldest that is not has waited."""
    if not sink.oldest_undelivered_age_s:
        return f"{sink.delivered_row_count:,}"
    waits = seconds_text(sink.oldest_undelivered_age_s)
    return f"{sink.delivered_row_count:,} (waits {waits})"


def _refused_text(run: run_pb2.RunStatus) -> str:
    values = f" + {run.refused_value_count:,} values" if run.refused_value_count else ""
    return f"{run.refused_row_count:,}{values}"
