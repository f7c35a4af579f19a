"""Reading what was logged: `pillion.api.Client` asks a sidecar for runs, rows and comparisons.

    from pillion.api import Client

    client = Client()
    for run in client.runs(project="demo"):
        print(run.id, run.name, run.state, run.summary.get("train/loss"))
    frame = client.run("3f2a").history(["train/loss"])

Needs what logging needs, and pandas for `history` alone. It waits for answers and raises
`QueryError`, so it is not for the training loop.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pillion._question import QueryError, Questions, optional
from pillion.plain import Value

if TYPE_CHECKING:
    from pillion._comparison import Comparison, Direction
    from pillion._history import History

__all__ = ["Client", "QueryError", "StoredArtifact", "StoredRun"]

PAGE_SIZE = 200
CANDIDATES_SHOWN = 5
"""Of runs that a text may mean: so many are named."""


class Client:
    """Asks one sidecar. A context manager; safe for threads."""

    def __init__(self, address: str | None = None, token: str | None = None) -> None:
        """Take where the sidecar listens; it is asked when something is wanted of it.

        Args:
            address: `unix:PATH` or `HOST:PORT`. Default: `$PILLION_ADDRESS`, else the user's own
                socket.
            token: What a TCP sidecar asks for. Default: `$PILLION_TOKEN`.

        Raises:
            AddressError: The address is malformed, or its directory is not safe to use.
            QueryError: This is a forked child of a process that has used gRPC.
        """
        self._questions = Questions(address, token)

    def runs(
        self,
        project: str = "",
        filters: str | Sequence[str] = (),
        order_by: str = "",
        limit: int | None = None,
    ) -> Iterator["StoredRun"]:
        """Yield runs, the latest first: a generator, `list(client.runs())` has them all.

        They are asked for page by page as they are taken, so what is refused is raised by the
        first `next`, not by this call.

        Args:
            project: Only of this project; empty: of all.
            filters: Only runs that meet all of these: `state=running`, `tag=baseline`,
                `config.lora.r>=16`, `summary.eval/loss<1.2`; see `docs/contract.md`.
            order_by: A field to sort by, with a `-` in front from the largest to the least.
            limit: At most so many; None: all.

        Raises:
            QueryError: No sidecar answers, or it refuses; the message says what to do.
        """
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        request = pb2.ListRunsRequest(
            project=project,
            filters=[filters] if isinstance(filters, str) else filters,
            order_by=order_by,
            page_size=size,
        )
        while limit is None or limit > 0:
            response = self._questions.ask("ListRuns", request)
            for message in response.runs[:limit]:
                yield _run(self._questions, message)
            if limit is not None:
                limit -= len(response.runs)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def run(self, run: str) -> "StoredRun":
        """Return one run: by its id, else its name, else the beginning of its id.

        Raises:
            QueryError: There is none, or there are several; or as `runs`.
        """
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        if not run:  # else it would mean every run, and so the only one there is
            raise QueryError(
                "A run's name is empty. Name it by its id, its name, or the beginning of its id.",
                "INVALID_ARGUMENT",
            )
        meant = self._questions.ask("ListRuns", pb2.ListRunsRequest(reference=run)).runs
        if len(meant) > 1:
            shown = ", ".join(each.run_id for each in meant[:CANDIDATES_SHOWN])
            raise QueryError(
                f"Several runs may be meant by {run!r}: {shown}"
                f"{' …' if len(meant) > CANDIDATES_SHOWN else ''}. Name one by its id.",
                "INVALID_ARGUMENT",
            )
        run_id = meant[0].run_id if meant else run
        found = self._questions.ask("GetRun", pb2.GetRunRequest(run_id=run_id)).run
        return _run(self._questions, found)

    def compare(
        self,
        runs: Sequence["str | StoredRun"],
        metric: str = "",
        *,
        directions: "Mapping[str, Direction] | None" = None,
        group_by: str = "",
        series: Sequence[str] = (),
        axis: str = "step",
        max_points: int = 0,
    ) -> "Comparison":
        """Compare 2 to 10 runs: figures of every metric, the best run, and what differs.

        Args:
            runs: Runs, or what `run` takes.
            metric: What decides which run is best; empty: `eval/loss` or the like.
            directions: What better means, by metric: `lower` or `higher`; else it follows from
                definitions and names.
            group_by: A config key: runs of equal values are a group. Default: runs share a group by
                its name.
            series: Metrics to align, 20 at most.
            axis: Over what: `step`, `time`, or a metric.
            max_points: Of each aligned metric; 0: 1,000.

        Raises:
            QueryError: A run or metric is unknown, or there are too few or many; or as `runs`.
            ValueError: A direction is none.
        """
        from pillion._comparison import comparison_of, direction_number  # noqa: PLC0415
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        named = [runs] if isinstance(runs, str) else runs
        axes = {"step": pb2.AXIS_STEP, "time": pb2.AXIS_TIME}
        request = pb2.CompareRequest(
            run_ids=[run.id if isinstance(run, StoredRun) else self.run(run).id for run in named],
            metric=metric,
            directions={name: direction_number(each) for name, each in (directions or {}).items()},  # type: ignore[misc]
            group_by=group_by,
            series=series,
            axis=axes.get(axis, pb2.AXIS_METRIC),
            axis_metric="" if axis in axes else axis,
            max_points=max_points,
        )
        return comparison_of(self._questions.ask("Compare", request))

    def close(self) -> None:
        """Let go of the connection."""
        self._questions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class StoredRun:
    """A run as it was when it was asked for. Its rows are read when they are asked for."""

    id: str
    project: str
    name: str
    state: str
    """`RUNNING`, `FINISHED`, `STOPPED`, `FAILED` or `CRASHED`."""
    reason: str
    """Why it ended, for people; empty while it runs."""
    exit_code: int | None
    """None: it runs, or nobody knows."""
    group: str
    job_type: str
    tags: tuple[str, ...]
    notes: str
    model: str
    dataset: str
    use_case: str
    config: dict[str, Value]
    summary: dict[str, Value]
    """Last values of its metrics, or what its definitions say; and what was set explicitly."""
    start_time: datetime
    end_time: datetime | None
    """None: it runs."""
    row_count: int
    last_step: int | None
    lost_row_count: int
    """Rows that its writers had to give up."""
    host: str
    """Where its first writer runs."""
    url: str
    """Its page at W&B; empty offline."""
    _questions: Questions = field(repr=False, compare=False)

    def history(
        self,
        keys: str | Sequence[str] = (),
        *,
        by: Literal["ordinal", "step"] = "ordinal",
        min_step: int | None = None,
        max_step: int | None = None,
    ) -> Any:
        """Return the run's rows as a pandas DataFrame, exactly as they were logged.

        One row per call of `log`, under its ordinal, with `_step` and `_time`; or one per step,
        with the last value of each metric. Integers stay integers (`Int64` where some are missing),
        missing numbers are NaN, texts and the like are objects.

        Args:
            keys: Metrics by name or glob; none: all but `system/*`, which `*` has too.
            by: `ordinal` or `step`.
            min_step: The first step.
            max_step: The last step.

        Raises:
            ImportError: pandas is not installed; `rows` does without.
            QueryError: A metric is unknown, or a glob or the range is none; or as `Client.runs`.
            ValueError: `by` is neither, or a step is no whole number.
        """
        if by not in {"ordinal", "step"}:
            raise ValueError(f"by is {by!r}; take 'ordinal' or 'step'.")
        return self._read(keys, min_step, max_step).to_frame(by)

    def rows(
        self,
        keys: str | Sequence[str] = (),
        *,
        min_step: int | None = None,
        max_step: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return the rows as mappings, with `_ordinal`, `_step` and `_time`; see `history`."""
        return self._read(keys, min_step, max_step).rows()

    @property
    def artifacts(self) -> list["StoredArtifact"]:
        """What the run has made and used, the latest first."""
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        request = pb2.ListArtifactsRequest(run_id=self.id, page_size=PAGE_SIZE)
        found: list[StoredArtifact] = []
        while True:
            response = self._questions.ask("ListArtifacts", request)
            found += map(_artifact, response.artifacts)
            request.page_token = response.next_page_token
            if not request.page_token:
                return found

    def _read(
        self, keys: str | Sequence[str], min_step: int | None, max_step: int | None
    ) -> "History":
        from pillion._history import History  # noqa: PLC0415 - it loads protobuf
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

        for name, step in (("min_step", min_step), ("max_step", max_step)):
            if step is not None and not _is_step(step):
                raise ValueError(f"{name} is {step!r}; take a whole number of 64 bits, or None.")
        request = pb2.ReadMetricsRequest(
            run_id=self.id,
            keys=[keys] if isinstance(keys, str) else keys,
            min_step=min_step,
            max_step=max_step,
        )
        return History(self._questions.stream("ReadMetrics", request))


@dataclass(frozen=True)
class StoredArtifact:
    """A version of an artifact. `run.use_artifact(…).download()` gets its files."""

    name: str
    version: str
    type: str
    project: str
    aliases: tuple[str, ...]
    metadata: dict[str, Value]
    run_id: str
    """Which made it first."""
    file_count: int
    size_bytes: int


def _is_step(step: Any) -> bool:
    try:
        return -(2**63) <= operator.index(step) < 2**63
    except TypeError:
        return False


def _run(questions: Questions, message: Any) -> StoredRun:
    from pillion.v1 import record_pb2  # noqa: PLC0415
    from pillion.values import from_key_values  # noqa: PLC0415

    end_time = optional(message, "end_time")
    return StoredRun(
        id=message.run_id,
        project=message.project,
        name=message.name,
        state=record_pb2.RunState.Name(message.state).removeprefix("RUN_STATE_"),
        reason=message.reason,
        exit_code=optional(message, "exit_code"),
        group=message.group,
        job_type=message.job_type,
        tags=tuple(message.tags),
        notes=message.notes,
        model=message.model,
        dataset=message.dataset,
        use_case=message.use_case,
        config=from_key_values(message.config),
        summary=from_key_values(message.summary),
        start_time=message.start_time.ToDatetime(UTC),
        end_time=end_time and end_time.ToDatetime(UTC),
        row_count=message.row_count,
        last_step=optional(message, "last_step"),
        lost_row_count=message.lost_row_count,
        host=message.environment.host,
        url=message.url,
        _questions=questions,
    )


def _artifact(message: Any) -> StoredArtifact:
    from pillion.values import from_key_values  # noqa: PLC0415

    return StoredArtifact(
        name=message.name,
        version=message.version,
        type=message.type,
        project=message.project,
        aliases=tuple(message.aliases),
        metadata=from_key_values(message.metadata),
        run_id=message.run_id,
        file_count=message.file_count,
        size_bytes=message.size_bytes,
    )
