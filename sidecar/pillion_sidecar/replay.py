"""Replay: gives a sink from the store what the journal no longer has of a run.

Entries are trimmed once every sink has them, but a sink's position may fall back: W&B's file of a
run that has not ended dies with its worker. Then the run is handed over from its beginning, out of
the store, up to the store's cursor, which never falls back; the journal goes on behind that.

Reads a slice at a time, each in a snapshot of its own, so that neither memory nor the store's log
grows with the run. Rows and console lines keep their places, so slices fit together whatever is
written meanwhile.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby, islice, takewhile

import numpy as np

from pillion_sidecar.artifact_records import ArtifactUse
from pillion_sidecar.columns import to_column
from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import (
    Frame,
    LostRange,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    SummaryUpdate,
    WriterId,
)
from pillion_sidecar.sinks import Sink
from pillion_sidecar.store import CONSOLE_RECORDS, Row, Store
from pillion_sidecar.store_artifacts import links_of, one
from pillion_sidecar.stored_run import StoredRun

SLICE_ROWS = 4_096

_NOBODY = WriterId("")
"""The store does not keep who said what."""


def replay(
    store: Store, sink: Sink, run_id: RunId, *, begin: Offset, trimmed: Offset, target: Offset
) -> Iterator[Offset]:
    """Hand a run over in slices; yields after each up to which offset the sink was given.

    Args:
        store: Where it is read.
        sink: Where it is begun anew.
        run_id: The run.
        begin: What is told to the sink until it has everything: before all entries of the run.
        trimmed: The last entry that the journal does not have any more.
        target: The last entry of the run; if it is in the store, and is an end, the run ends.

    Raises:
        SinkError: By the sink; or the store does not have what the journal has not.
        DiskError: The store cannot be read.
    """
    run = store.run(run_id)
    if run is None or run.owner != store.owner or run.cursor < trimmed:
        raise SinkError(
            f"The beginning of run {run_id} is neither in the journal nor in the store: the store "
            "was replaced. Bring the former one back.",
            reason="HISTORY_MISSING",
        )
    sink.start(begin, _start(run), anew=True)
    yield begin
    for records in _slices(store, run):
        sink.apply(run_id, begin, records)
        yield begin
    if run.state is RunState.RUNNING or run.cursor < target:
        sink.apply(run_id, run.cursor, [SummaryUpdate(run.explicit_summary)])
    else:
        sink.finish(run.cursor, _finish(run))
    yield run.cursor


def _slices(store: Store, run: StoredRun) -> Iterator[list[Record]]:
    if run.definitions:  # W&B takes them before the data only
        yield list(run.definitions)
    if run.lost_row_count:
        yield [LostRange(0, 0, run.lost_row_count)]
    ordinal = 0
    while ordinal < run.next_ordinal:
        with closing(store.rows(run.run_id, ordinal)) as found:
            known = takewhile(lambda row: row[0] < run.next_ordinal, found)
            rows = list(islice(known, SLICE_ROWS))
        yield list(_frames(rows))
        ordinal = rows[-1][0] + 1
    number = 0
    while True:
        with closing(store.console(run.run_id, number, run.cursor)) as printed:
            pieces = list(islice(printed, CONSOLE_RECORDS))
        if not pieces:
            break
        yield list(pieces)
        number += len(pieces)
    if alerts := store.alerts(run.run_id):
        yield list(alerts)
    with closing(store.chunks(run.run_id)) as pieces_of_files:
        for chunk in pieces_of_files:
            yield [chunk]
    yield from _artifacts(store, run)


def _artifacts(store: Store, run: StoredRun) -> Iterator[list[Record]]:
    with store.snapshot() as connection:
        links = links_of(connection, run.run_id, run.cursor)
    for link in links:
        if isinstance(link, ArtifactUse):
            yield [link]
            continue
        with store.snapshot() as connection:
            found = one(connection, link)
        if found is not None:
            yield [found.artifact]


def _frames(rows: Iterable[Row]) -> Iterator[Frame]:
    """Group rows with the same metrics, of the same types, as far as their ordinals adjoin."""

    def kind(numbered: tuple[int, Row]) -> tuple[int, list[tuple[str, type]]]:
        index, (ordinal, _, _, values) = numbered
        return ordinal - index, [(key, type(value)) for key, value in values.items()]

    for _, group in groupby(enumerate(rows), kind):
        ordinals, steps, times, values = zip(*(row for _, row in group), strict=True)
        yield Frame(
            first_ordinal=ordinals[0],
            steps=np.array(steps, np.int64),
            times_unix_nano=np.array(times, np.int64),
            columns={key: to_column([row[key] for row in values]) for key in values[0]},
        )


def _start(run: StoredRun) -> RunStart:
    return RunStart(
        run_id=run.run_id,
        writer_id=_NOBODY,
        project=run.project,
        name=run.name,
        group=run.group,
        job_type=run.job_type,
        tags=run.tags,
        notes=run.notes,
        config=run.config,
        environment=run.environment,
        time_unix_nano=run.start_time_unix_nano,
        model=run.model,
        dataset=run.dataset,
        use_case=run.use_case,
        wandb=run.wandb,
    )


def _finish(run: StoredRun) -> RunFinish:
    return RunFinish(
        run_id=run.run_id,
        writer_id=_NOBODY,
        state=run.state,
        exit_code=run.exit_code,
        reason=run.reason,
        summary=run.explicit_summary,
        time_unix_nano=run.end_time_unix_nano or 0,
    )
