"""Is my data safe? The figures of a `GetStatusResponse`, and the sentence made of them.

The sentence is true in every state, the worst in it first. Nothing is read here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.journal_reader import JournaledRun
from pillion_sidecar.records import RunState

REASONS_STUCK = frozenset(
    {
        *("WANDB_KEY_MISSING", "WANDB_KEY_REFUSED", "WANDB_REFUSED"),
        *("CURSOR_FOREIGN", "HISTORY_MISSING"),
    }
)
"""What keeps a sink until somebody mends it; all else may pass by itself."""

_PEOPLES_NAMES = {"store": "the store", "wandb": "W&B"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Place(Enum):
    """Where a sink puts what it delivers, as it is said behind the sink's name."""

    SERVER = ""
    FILES = "'s offline files"
    BOTH = " and its offline files"


class Standing(NamedTuple):
    """How far one sink has come with one run."""

    sink: str
    delivered_row_count: int
    lag_row_count: int
    oldest_undelivered_age_s: float
    """0: everything is delivered."""
    error: str
    reason: str = ""

    @property
    def is_stuck(self) -> bool:
        """Whether something waits there until somebody mends what keeps it."""
        return self.oldest_undelivered_age_s > 0 and self.reason in REASONS_STUCK


def run_status(run: JournaledRun, standings: Iterable[Standing]) -> run_pb2.RunStatus:
    """Tell how far one run has come."""
    return run_pb2.RunStatus(
        run_id=run.run_id,
        state=run.state.proto_name,
        journaled_row_count=run.row_count,
        refused_row_count=run.refused_row_count,
        refused_value_count=run.refused_value_count,
        dropped_row_count=run.dropped_row_count,
        sinks=[
            run_pb2.SinkStatus(
                sink=one.sink,
                delivered_row_count=one.delivered_row_count,
                lag_row_count=one.lag_row_count,
                last_error=one.error,
                oldest_undelivered_age_s=one.oldest_undelivered_age_s,
                last_error_reason=one.reason,
            )
            for one in standings
        ],
    )


def totals(
    sinks: Sequence[str], runs: Sequence[tuple[JournaledRun, Sequence[Standing]]]
) -> run_pb2.StatusTotals:
    """Add up runs, each with how it stands at its own sinks."""
    columns: dict[str, list[Standing]] = {sink: [] for sink in sinks}
    for _, standings in runs:
        for one in standings:
            if one.sink in columns:  # else it was taken away meanwhile
                columns[one.sink].append(one)
    return run_pb2.StatusTotals(
        run_count=len(runs),
        running_run_count=sum(run.state is RunState.RUNNING for run, _ in runs),
        journaled_row_count=sum(run.row_count for run, _ in runs),
        refused_row_count=sum(run.refused_row_count for run, _ in runs),
        refused_value_count=sum(run.refused_value_count for run, _ in runs),
        dropped_row_count=sum(run.dropped_row_count for run, _ in runs),
        sinks=[
            run_pb2.SinkTotals(
                sink=sink,
                delivered_row_count=sum(one.delivered_row_count for one in column),
                lag_row_count=sum(one.lag_row_count for one in column),
                undelivered_run_count=sum(one.oldest_undelivered_age_s > 0 for one in column),
                failing_run_count=sum(bool(one.error) for one in column),
                oldest_undelivered_age_s=max(
                    (one.oldest_undelivered_age_s for one in column), default=0.0
                ),
                last_error=next((one.error for one in column if one.error), ""),
                stuck_run_count=sum(one.is_stuck for one in column),
            )
            for sink, column in columns.items()
        ],
    )


def is_safe(response: pb2.GetStatusResponse) -> bool:
    """Tell whether nothing of these runs was refused or dropped, and intake goes on."""
    totals = response.totals
    lost = totals.refused_row_count + totals.refused_value_count + totals.dropped_row_count
    return not (lost or response.disk.is_refusing or response.spool.last_error)


def sentence(response: pb2.GetStatusResponse, places: Mapping[str, Place] | None = None) -> str:
    """Say it: "All 12,000 rows of 3 runs are on disk; W&B is 40 rows behind.".

    Args:
        response: Its totals, workers, disk and spool.
        places: What a sink's runs go to, where that is not what the sink is called after.
    """
    places = places or {}
    workers = {worker.sink: worker for worker in response.workers}
    parts = [
        *_intake(response.disk),
        _journaled(response.totals, response.spool),
        *_spooled(response.spool),
        *(
            _sink(sink, workers.get(sink.sink), places.get(sink.sink, Place.SERVER))
            for sink in response.totals.sinks
            if response.totals.run_count or _is_in_trouble(sink, workers.get(sink.sink))
        ),
    ]
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def people_name(sink: str) -> str:
    """Return what people call a sink."""
    if credential := sink.removeprefix("wandb-") if sink.startswith("wandb-") else "":
        return f"W&B ({credential})"
    return _PEOPLES_NAMES.get(sink, sink)


def bytes_text(size_bytes: int) -> str:
    """Show a size: `1.5 MiB`."""
    for unit_bytes, unit in _UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} bytes"


def count_text(count: int, noun: str) -> str:
    """Show a count: `1 row`, `2 rows`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _intake(disk: run_pb2.DiskStatus) -> Iterator[str]:
    if disk.is_refusing:
        yield (
            f"nothing new is taken in, since the disk has {bytes_text(disk.free_bytes)} left and "
            f"{bytes_text(disk.reserve_bytes)} are kept free"
        )


def _journaled(totals: run_pb2.StatusTotals, spool: run_pb2.SpoolStatus) -> str:
    is_one = totals.journaled_row_count == 1
    rows = count_text(totals.journaled_row_count, "row")
    runs = count_text(totals.run_count, "run")
    lost = " and ".join(_lost(totals))
    if totals.dropped_row_count:
        # A dropped row may have been journaled before, or never; both are true of this.
        journaled = f"{rows} of {runs} {'was' if is_one else 'were'} journaled"
        return f"{lost}; {journaled}, and what was not dropped is on disk"
    if not totals.run_count:
        on_disk = "nothing was logged yet"
    elif not totals.journaled_row_count:
        on_disk = f"{runs} {'has' if totals.run_count == 1 else 'have'} started, without rows yet"
    else:
        every = "" if lost or spool.file_count or is_one else "all "
        taken = " that were taken" if lost and not is_one else ""
        on_disk = f"{every}{rows} of {runs}{taken} {'is' if is_one else 'are'} on disk"
    return f"{lost}; {on_disk}" if lost else on_disk


def _lost(totals: run_pb2.StatusTotals) -> Iterator[str]:
    for count, noun, verb in (
        (totals.dropped_row_count, "row", "dropped"),
        (totals.refused_row_count, "row", "refused"),
        (totals.refused_value_count, "value", "refused"),
    ):
        if count:
            yield f"{count_text(count, noun)} {'was' if count == 1 else 'were'} {verb}"


def _spooled(spool: run_pb2.SpoolStatus) -> Iterator[str]:
    if spool.file_count:
        files = count_text(spool.file_count, "spool file")
        wait = "waits" if spool.file_count == 1 else "wait"
        yield f"{files} ({bytes_text(spool.size_bytes)}) {wait} to be taken in"
    if spool.last_error:
        yield "a spool file cannot be taken in"


def _is_in_trouble(sink: run_pb2.SinkTotals, worker: run_pb2.WorkerStatus | None) -> bool:
    return bool(sink.failing_run_count or (worker is not None and worker.last_error))


def _sink(sink: run_pb2.SinkTotals, worker: run_pb2.WorkerStatus | None, place: Place) -> str:
    name = people_name(sink.sink) + place.value
    has, lags = ("has", "is") if place is Place.SERVER else ("have", "are")
    if sink.lag_row_count:
        text = f"{name} {lags} {count_text(sink.lag_row_count, 'row')} behind"
    elif sink.undelivered_run_count:
        text = f"{name} {has} all rows, not yet the rest of "
        text += count_text(sink.undelivered_run_count, "run")
    else:
        text = f"{name} {has} all"
    if worker is not None and worker.last_error:
        return f"{text}, and its worker is down"
    if sink.failing_run_count:
        return f"{text}, and cannot take {count_text(sink.failing_run_count, 'run')} now"
    return text
