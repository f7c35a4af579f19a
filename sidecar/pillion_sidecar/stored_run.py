"""A run as the store has it, and how it is read: what stands in its row, and its summary."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa

from pillion.process import ProcessIdentity
from pillion.values import Value
from pillion_sidecar.columns import NUMBER_KINDS
from pillion_sidecar.environment import Environment, GitState, Gpu, Package
from pillion_sidecar.records import (
    MetricDefinition,
    Offset,
    RunId,
    RunState,
    Summarizing,
    TargetMode,
    WandbTarget,
)
from pillion_sidecar.store_figures import (
    FIGURES,
    Figures,
    by_name,
    definition_of,
    merged,
    summary_of,
)
from pillion_sidecar.store_tables import (
    from_blob,
    readable,
    runs,
    signatures,
)

PageKey: TypeAlias = tuple[int, RunId]


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the store has it. `environment` is its first writer's."""

    run_id: RunId
    project: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    notes: str
    config: dict[str, Value]
    summary: dict[str, Value]
    """What its definitions say of each metric, else the last logged value; overlaid with what was
    set explicitly."""
    environment: Environment
    state: RunState
    reason: str
    exit_code: int | None
    start_time_unix_nano: int
    end_time_unix_nano: int | None
    row_count: int
    last_step: int | None
    """The largest step; None before the first row."""
    lost_row_count: int
    cursor: Offset
    """All entries of the run in its owner's journal up to here are in the figures above."""
    explicit_summary: dict[str, Value] = field(default_factory=dict)
    """What was set explicitly, nothing else."""
    next_ordinal: int = 0
    """The ordinal behind its last row."""
    model: str = ""
    dataset: str = ""
    use_case: str = ""
    definitions: tuple[MetricDefinition, ...] = ()
    wandb: WandbTarget = field(default_factory=WandbTarget)
    owner: str = ""
    """Which sidecar has written it, where several share the store; see `sidecar_id.py`."""

    @property
    def page_key(self) -> PageKey:
        """Where `Store.runs` goes on behind this run. It never changes."""
        return self.start_time_unix_nano, self.run_id


def read_runs(connection: sa.Connection, query: sa.Select[Any]) -> list[StoredRun]:
    """Return the runs that a query of their table finds, in its order."""
    known = query.with_only_columns(*readable(connection, runs))
    rows = {row["run_id"]: dict(row) for row in connection.execute(known).mappings()}
    for row in rows.values():
        row["tags"] = tuple(row["tags"])
        row["explicit_summary"] = row["summary"]
        row["next_ordinal"] = 0
        row["environment"] = _environment(row["environment"])
        row["state"] = RunState(row["state"])
        row["definitions"] = tuple(map(_definition, row.get("definitions", ())))
        row["wandb"] = target_of(row.get("wandb"))
    for run_id, last_rows in _last_rows(connection, [*rows]).items():
        row = rows[run_id]
        row["summary"] = _summary(last_rows, row["definitions"]) | row["summary"]
        if last_rows:
            row["next_ordinal"] = last_rows[-1].last_ordinal + 1
    return [StoredRun(**row) for row in rows.values()]


def logged_summaries(
    connection: sa.Connection, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Value]]:
    """Return what the summaries of some runs say by themselves.

    Args:
        connection: Within a snapshot.
        rows: Of each run its `run_id`, and its `definitions` if the store has any.
    """
    logged = _last_rows(connection, [row["run_id"] for row in rows])
    return {
        row["run_id"]: _summary(
            logged[row["run_id"]], [*map(_definition, row.get("definitions", ()))]
        )
        for row in rows
    }


def target_of(fields: dict[str, Any] | None) -> WandbTarget:
    """Return where a run goes at W&B; before format 3 that was to a folder."""
    if not fields:
        return WandbTarget()
    return WandbTarget(**fields | {"mode": TargetMode(fields["mode"])})


def _last_rows(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, list[sa.Row[Any]]]:
    """Return the signatures of each of some runs, which have their last rows, by these ordinals."""
    found: dict[str, list[sa.Row[Any]]] = {run_id: [] for run_id in run_ids}
    query = sa.select(*readable(connection, signatures)).order_by(signatures.c.last_ordinal)
    for last in connection.execute(query.where(signatures.c.run_id.in_(run_ids))):
        found[last.run_id].append(last)
    return found


def _summary(
    last_rows: Sequence[sa.Row[Any]], definitions: Sequence[MetricDefinition]
) -> dict[str, Value]:
    """Return what a run's summary says by itself; the signatures come by their last ordinals."""
    summary: dict[str, Value] = {}
    for last in last_rows:
        for (key, kind), value in zip(last.metrics, last.last_values, strict=True):
            if kind in NUMBER_KINDS or kind == "s":
                summary[key] = value
    known = by_name(definitions)
    figures = _figures(last_rows) if known else {}
    for key, parts in figures.items():
        definition = definition_of(known, key)
        if definition is not None and definition.summaries and key in summary:
            is_integer = all(kind == "q" for kind, _ in parts)
            whole = functools.reduce(merged, (part for _, part in parts))[0].tolist()
            kept = summary_of(definition, summary.pop(key), whole, is_integer=is_integer)
            if kept is not None:
                summary[key] = kept
    return summary


def _figures(last_rows: Sequence[sa.Row[Any]]) -> dict[str, list[tuple[str, Figures]]]:
    """Return each metric's figures, one for each signature that has it, in the order of time."""
    parts: dict[str, list[tuple[str, Figures]]] = {}
    known = [row for row in last_rows if row.figures is not None]
    for row in sorted(known, key=lambda row: row.first_ordinal):
        figures = from_blob("d", row.figures).reshape(-1, 1, FIGURES)
        for (key, kind), of_key in zip(row.metrics, figures, strict=True):
            parts.setdefault(key, []).append((kind, of_key))
    return parts


def _definition(fields: dict[str, Any]) -> MetricDefinition:
    summaries = tuple(map(Summarizing, fields["summaries"]))
    return MetricDefinition(fields["name"], fields["step_metric"], summaries)


def _environment(fields: dict[str, Any]) -> Environment:
    process, git = fields.pop("process"), fields.pop("git", None)
    packages = tuple(Package(**each) for each in fields.pop("packages", ()))
    gpus = tuple(Gpu(**each) for each in fields.pop("gpus", ()))
    return Environment(
        **fields | {"arguments": tuple(fields.get("arguments", ()))},
        process=ProcessIdentity(**process) if process else None,
        git=GitState(**git) if git else None,
        packages=packages,
        gpus=gpus,
    )
