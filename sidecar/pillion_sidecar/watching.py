"""What is new of a run since it was looked at last: for `WatchRun`, and once where no sidecar runs.

A look is a few reads of the store, each in a snapshot of its own. Who looks seldom is told the same
in fewer messages: values that were replaced meanwhile are left out, lines and alerts never.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from pillion.v1 import record_pb2, run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, to_key_values
from pillion_sidecar.answers import run_message
from pillion_sidecar.errors import PeerError, unknown_run
from pillion_sidecar.records import Alert, AlertLevel, RunState, encode_alert
from pillion_sidecar.store import Store
from pillion_sidecar.store_tables import alerts, console, is_there
from pillion_sidecar.stored_run import StoredRun
from pillion_sidecar.validation import check_run_id

LINES_MAX = 10_000
"""Of what was printed before; more are `pillion console`'s."""
RECORDS_AT_ONCE = 16
"""Of console lines, in one message: each may have 1 MiB, so that they are read one by one."""
CONSOLE_BYTES_MAX = 512 * 1024
"""Of lines in one message, as far as one record has not more."""

_RUNNING = RunState.RUNNING


class Watch:
    """One watcher's view of one run. For one thread at a time."""

    def __init__(self, request: pb2.WatchRunRequest) -> None:
        """Begin before the run's first record. Raises `PeerError` if nothing can be asked so."""
        self._run_id = check_run_id(request.run_id)
        if not 0 <= request.console_lines <= LINES_MAX:
            raise PeerError(
                f"console_lines: {request.console_lines} is not possible. Take 0 to {LINES_MAX:,}."
            )
        self._lines_before = request.console_lines
        self._next_line: int | None = None
        self._next_alert = 0
        self._told = run_pb2.Run()
        self._values: Mapping[str, Value] = {}
        self._row_count = -1
        self.has_more = False
        """Whether the last look has left lines untold."""
        self.is_over = False
        """Whether the run has ended and all of it is told."""

    def look(self, store: Store, url: str) -> pb2.WatchRunResponse | None:
        """Return what is new; None: nothing.

        Args:
            store: What is looked at.
            url: The run's page at W&B.

        Raises:
            StateError: The run is unknown, or it was deleted.
            DiskError: The store cannot be read.
        """
        run = store.run(self._run_id)
        if run is None:
            raise unknown_run(self._run_id)
        response = pb2.WatchRunResponse(row_count=run.row_count, last_step=run.last_step)
        self.has_more = self._read_console(store, response)
        self._read_alerts(store, response)
        values = {
            key: value
            for key, value in run.summary.items()
            if key not in self._values or not _is_same(self._values[key], value)
        }
        if values:
            response.values.CopyFrom(to_key_values(values))
        message = _lasting(run, url)
        if message != self._told:
            response.run.CopyFrom(message)
        is_news = (
            *(response.HasField("run"), bool(values), run.row_count != self._row_count),
            *(bool(response.console), bool(response.alerts)),
        )
        self._told, self._values, self._row_count = message, run.summary, run.row_count
        self.is_over = run.state is not _RUNNING and not self.has_more
        return response if any(is_news) else None

    def _read_console(self, store: Store, response: pb2.WatchRunResponse) -> bool:
        """Put new lines into a message; tell whether there are more."""
        with store.snapshot() as connection:
            if not is_there(connection, console):
                return False
            of_run = console.c.run_id == self._run_id
            if self._next_line is None:
                self._next_line = self._first_record(connection)
            query = console.select().where(of_run, console.c.number >= self._next_line)
            rows = connection.execute(query.order_by(console.c.number).limit(RECORDS_AT_ONCE))
            size = 0
            for row in rows:
                lines = row.lines
                size += sum(map(len, lines))
                if response.console and size > CONSOLE_BYTES_MAX:
                    return True
                response.console.append(
                    record_pb2.ConsoleLines(
                        stream=row.stream, time_unix_nano=row.time_unix_nano, lines=lines
                    )
                )
                self._next_line = row.number + 1
        return len(response.console) == RECORDS_AT_ONCE

    def _first_record(self, connection: sa.Connection) -> int:
        """Return the first record that is told: so many lines before the end, about."""
        query = sa.select(console.c.number, console.c.lines)
        query = query.where(console.c.run_id == self._run_id).order_by(console.c.number.desc())
        number, left = None, self._lines_before
        with connection.execution_options(yield_per=RECORDS_AT_ONCE).execute(query) as found:
            for row in found:
                if left <= 0:
                    return int(row.number) + 1
                number, left = row.number, left - len(row.lines)
        return 0 if number is None else int(number)

    def _read_alerts(self, store: Store, response: pb2.WatchRunResponse) -> None:
        with store.snapshot() as connection:
            if not is_there(connection, alerts):
                return
            query = alerts.select().where(
                alerts.c.run_id == self._run_id, alerts.c.number >= self._next_alert
            )
            for row in connection.execute(query.order_by(alerts.c.number)):
                alert = Alert(row.title, row.text, AlertLevel(row.level), row.time_unix_nano)
                response.alerts.append(encode_alert(alert))
                self._next_alert = row.number + 1


def _lasting(run: StoredRun, url: str) -> run_pb2.Run:
    """Return a run without what changes with each row."""
    message = run_message(run)
    message.url = url
    for field in ("summary", "row_count", "last_step"):
        message.ClearField(field)
    return message


def _is_same(one: Value, other: Value) -> bool:
    """Tell whether two values are the same in type too; NaN is itself."""
    return type(one) is type(other) and (one == other or repr(one) == repr(other))
