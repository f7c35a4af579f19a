"""Takes runs that other loggers have written: what `pillion import` does.

A source reads one run and says what of it has no place here. Its rows are sent as a trainer would
have sent them, under a run and a writer that follow from the source. So an import that was
interrupted, or a file that has grown, goes on behind the rows that are here, and one that is
repeated adds none. Of what was printed, an interruption may repeat or lose a few lines.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pillion._batch import Row, Update
from pillion._counts import Refused
from pillion._encoding import Encoder
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker, AskError
from pillion_sidecar.errors import StateError


class Source(Protocol):
    """One run, in the files of another logger."""

    path: Path
    """What it is read from."""
    left_out: Counter[str]
    """What of it could not be taken, for people, and how often; whole once the items are read."""

    def start(self) -> pb2.StartRunRequest:
        """Return what the run starts with: its id, and what was said of it at its beginning.

        Raises:
            DiskError: The file cannot be read.
        """

    def items(self) -> Iterator[Row | Update]:
        """Yield its rows and what was said between them, in order, each time the same."""

    def finish(self) -> pb2.FinishRunRequest:
        """Return how it ended, once the items are read; run, writer and sequence are left open."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a source."""

    path: Path
    run_id: str
    row_count: int
    """Its rows."""
    new_row_count: int
    """Of them, those that were not here yet."""
    left_out: dict[str, int]


def import_run(
    source: Source, ask: Asker, project: str, on_rows: Callable[[int, int], None]
) -> Imported:
    """Send a run to the sidecar; all of it is on disk there when this returns.

    Args:
        source: The run.
        ask: The sidecar.
        project: What it is filed under; empty: as the source says.
        on_rows: Called with how many of its rows are on their way, and how many it has.

    Raises:
        AskError: The sidecar refused it or went away; what came before is kept.
        StateError: The sidecar has a run of this id that was logged, not imported.
        DiskError: The source cannot be read.
    """
    start = source.start()
    start.project = project or start.project
    start.writer_id = f"import-{hashlib.sha256(start.run_id.encode()).hexdigest()[:16]}"
    start.resume = pb2.RESUME_POLICY_NEVER  # which the same writer may come back through
    start.wandb_mode = record_pb2.WandbTarget.MODE_DISABLED  # W&B has it, or was never to
    try:
        started = ask.call("StartRun", start)
    except AskError as error:
        if error.reason == "RUN_EXISTS":
            raise StateError(
                f"{source.path}: the sidecar has a run {start.run_id} that was logged to it. It "
                "stays as it is, and nothing is imported."
            ) from error
        raise
    row_count = sum(isinstance(item, Row) for item in _kept(source))
    known_count = min(started.next_ordinal, row_count)
    encoder = Encoder(start.run_id, start.writer_id)
    encoder.last_sequence = started.last_sequence

    def messages() -> Iterator[bytes]:
        items = _behind(_kept(source), known_count)
        for batch in encoder.encode(items):
            on_rows(known_count + encoder.row_count, row_count)
            yield batch.message

    if known_count < row_count or not started.last_sequence:
        for _ in ask.log_metrics(messages()):
            pass
    finish = source.finish()
    finish.run_id, finish.writer_id = start.run_id, start.writer_id
    finish.last_sequence = encoder.last_sequence
    ask.call("FinishRun", finish)
    left_out = dict(sorted(source.left_out.items()))
    return Imported(source.path, start.run_id, row_count, row_count - known_count, left_out)


def _kept(source: Source) -> Iterator[Row | Update]:
    """Yield a source's items without rows of which the encoder takes nothing.

    Those get no ordinal, so whoever counted them would go on at the wrong row the next time.
    """
    trial = Encoder("", "", Refused(is_file_told=True))
    for item in source.items():
        if not isinstance(item, Row) or any(batch.row_count for batch in trial.encode([item])):
            yield item
    for what, count in (
        ("values that are too large, or have names that are", trial.refused_value_count),
        ("rows of which nothing could be kept", trial.refused_row_count),
    ):
        if count:
            source.left_out[what] += count


def _behind(items: Iterator[Row | Update], row_count: int) -> Iterator[Row | Update]:
    """Yield what comes behind the first rows."""
    for item in items:
        if row_count == 0:
            yield item
        elif isinstance(item, Row):
            row_count -= 1
