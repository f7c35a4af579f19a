"""The link to the sidecar: keeps batches until they are acked, and never gives up.

Two daemon threads. The *sender* drains the run's queue, encodes, and keeps what is not acked. The
*link* connects, starts the run, has gRPC send the batches and reads the acks; whatever breaks, it
begins again after a random pause, from the first batch that is not on disk. All of gRPC and
protobuf is loaded here, in these threads, never by `import pillion`.
"""

import logging
import os
import queue
import random
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pillion._batch import Batch, Row, Update
from pillion.address import Address

if TYPE_CHECKING:
    from pillion._encoding import Encoder
    from pillion.v1 import telemetry_service_pb2

FLUSH_INTERVAL_S = 0.1
"""How long a row may wait for company."""
UNACKED_BYTES_MAX = 64 * 1024 * 1024
"""Encoded batches that are kept. At the bound nothing more is encoded, and the queue fills."""
MESSAGE_BYTES_MAX = 1024 * 1024
"""What the sidecar takes in one message."""
START_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 10.0
RETRY_MIN_S, RETRY_MAX_S, RETRY_FINISHING_S = 0.1, 5.0, 0.5

_log = logging.getLogger("pillion")


@dataclass(frozen=True, slots=True)
class Start:
    """What `init` was given, in plain Python, for `StartRunRequest`."""

    run_id: str
    writer_id: str
    resume: str
    fields: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """How the writer ends."""

    exit_code: int
    state: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows, exactly: logged = queued + unacked + acked + refused (or lost)."""

    queued: int
    """In memory, not encoded."""
    unacked: int
    """In memory, encoded."""
    acked: int
    """On the sidecar's disk."""
    refused: int
    """Not kept: the queue was full, or they held nothing that can be."""


class Link:
    """One writer's link. Public methods may be called from any thread and never raise."""

    def __init__(self, address: str, token: str, start: Start, rows: deque[Row | Update]) -> None:
        self.address = address
        self._token = token
        self._start = start
        self._rows = rows
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._unacked: deque[Batch] = deque()
        self._unacked_bytes = self._kept_sequence = 0
        self._outgoing: queue.SimpleQueue[bytes | None] | None = None
        """What gRPC sends on the open stream; None ends it. Set while there is a stream."""
        self._journal_id = ""
        self._acked_rows = self._lost_rows = self._update_count = 0
        self._finish: Finish | None = None
        self._is_busy = self._is_all_encoded = False
        """Busy: rows are in neither queue, they are being encoded."""
        self._wake, self._hurry = threading.Event(), threading.Event()
        """For the sender: encode now. For the link: do not wait to try again."""
        self._is_reached = False
        self.attempted = threading.Event()
        """Set once the first try to reach the sidecar has gone well or not."""
        self.ended = threading.Event()
        """Set once the run has been finished there, or will never be."""
        self.is_started = False
        self.next_ordinal = 0
        self.problem = ""
        """Why there is no connection, for people."""
        self.refusal = ""
        """Why the sidecar will never take this run, for people."""
        self.final_state = ""
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._send, "pillion-sender"), (self._connect, "pillion-link"))
        ]

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def counts(self) -> Counts:
        """Count the rows."""
        with self._lock:
            unacked = sum(batch.row_count for batch in self._unacked)
            encoder = self._encoder
            refused = self._lost_rows + (encoder.refused_row_count if encoder else 0)
            queued = len(self._rows) - self._update_count
            return Counts(queued, unacked, self._acked_rows, refused)

    def update(self, update: Update) -> None:
        """Queue a change of config or summary, in order with the rows."""
        with self._lock:
            self._update_count += 1
            self._rows.append(update)

    @property
    def refused_value_count(self) -> int:
        """Values left out of rows that were kept."""
        return self._encoder.refused_value_count if self._encoder else 0

    def flush(self, timeout_s: float) -> bool:
        """Wait until all rows logged so far are acked; tell whether they are."""
        deadline_s = time.monotonic() + timeout_s
        self._wake.set()
        with self._changed:
            is_settled = self._changed.wait_for(
                lambda: bool(self.refusal) or not (self._rows or self._unacked or self._is_busy),
                deadline_s - time.monotonic(),
            )
        return is_settled and not self.refusal

    def begin_finish(self, finish: Finish) -> None:
        """Send what is left, then end the run."""
        self._finish = finish
        self._wake.set()
        self._hurry.set()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it is on the sidecar's disk in time."""
        return self.ended.wait(max(0.0, timeout_s)) and not self.refusal

    # The sender thread.

    def _send(self) -> None:
        from pillion._encoding import Encoder  # noqa: PLC0415 - loads protobuf

        self._encoder = Encoder(self._start.run_id, self._start.writer_id)
        while not self.refusal:
            is_finishing = self._finish is not None  # read before the rows, which come before it
            self._wake.clear()
            if self._unacked_bytes < UNACKED_BYTES_MAX:
                self._encode(self._encoder)
            if is_finishing and not self._rows:
                with self._changed:
                    self._is_all_encoded = True
                    if self._outgoing is not None:
                        self._outgoing.put(None)
                return
            is_full = self._unacked_bytes >= UNACKED_BYTES_MAX
            if is_full or not (is_finishing or len(self._rows) >= _ENCODE_ROWS_MAX):
                self._wake.wait(FLUSH_INTERVAL_S)

    def _encode(self, encoder: "Encoder") -> None:
        self._is_busy = True
        rows = self._rows
        with self._lock:
            items = [rows.popleft() for _ in range(min(len(rows), _ENCODE_ROWS_MAX))]
            self._update_count -= sum(type(item) is Update for item in items)
        try:
            for batch in encoder.encode(items):
                self._keep(batch)
        except Exception:  # noqa: BLE001 - the thread's outermost frame
            # Never the trainer's trouble: what could not be encoded is counted.
            _log.exception("rows could not be encoded")
            self._lost_rows += len(items)
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()

    def _keep(self, batch: Batch) -> None:
        with self._lock:
            self._unacked.append(batch)
            self._unacked_bytes += len(batch.message)
            self._kept_sequence = batch.sequence
            if self._outgoing is not None:
                self._outgoing.put(batch.message)

    # The link thread.

    def _connect(self) -> None:
        # Measured: with fork support on, every fork of a DataLoader stalls for up to 2 s.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc  # noqa: PLC0415

        failure_count = 0
        while not self.ended.is_set():
            self._is_reached = False
            try:
                self._run_connection(grpc)
            except Exception as error:  # noqa: BLE001 - the thread's outermost frame
                self._note_failure(grpc, error)
            self.attempted.set()
            failure_count = 1 if self._is_reached else failure_count + 1
            retry_s = min(RETRY_MIN_S * 2 ** min(failure_count, 10), RETRY_MAX_S)
            if self._finish is not None:  # somebody waits
                retry_s = min(retry_s, RETRY_FINISHING_S)
            self._hurry.wait(random.uniform(0, retry_s))  # noqa: S311 - not a secret
            self._hurry.clear()

    def _run_connection(self, grpc: Any) -> None:
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415
        from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc  # noqa: PLC0415

        address = Address.parse(self.address)
        address.check_directory()
        with grpc.insecure_channel(str(address), options=_channel_options(address)) as channel:
            metadata = (("authorization", f"Bearer {self._token}"),) if self._token else ()
            stub: Any = pb2_grpc.TelemetryServiceStub(channel)  # type: ignore[no-untyped-call]
            request = self._start_request(pb2)
            if request.ByteSize() > MESSAGE_BYTES_MAX:
                self._refuse(
                    f"What is known of the run takes {request.ByteSize():,} bytes, and "
                    f"{MESSAGE_BYTES_MAX:,} are taken. Leave something out of its config."
                )
                return
            started = stub.StartRun(request, timeout=START_TIMEOUT_S, metadata=metadata)
            outgoing = self._on_started(started)
            log_metrics = channel.stream_stream(
                "/pillion.v1.TelemetryService/LogMetrics",
                response_deserializer=pb2.LogMetricsResponse.FromString,
            )
            writer = (
                ("pillion-run-id", self._start.run_id),
                ("pillion-writer-id", self._start.writer_id),
            )
            try:
                for response in log_metrics(iter(outgoing.get, None), metadata=metadata + writer):
                    self._on_ack(response.acked_sequence)
            finally:
                with self._lock:
                    self._outgoing = None
                outgoing.put(None)
            if self._is_all_encoded and not self._unacked:
                finished = stub.FinishRun(
                    self._finish_request(pb2), timeout=FINISH_TIMEOUT_S, metadata=metadata
                )
                self.final_state = _state_name(finished.state)
                self.ended.set()

    def _on_started(
        self, started: "telemetry_service_pb2.StartRunResponse"
    ) -> "queue.SimpleQueue[bytes | None]":
        """Compare what the sidecar has with what is here, and queue what it lacks."""
        with self._changed:
            if not self.is_started:
                self.next_ordinal = started.next_ordinal
            if self._journal_id and started.journal_id != self._journal_id:
                warn(
                    "pillion: the sidecar's journal was replaced; the %d rows that the former one "
                    "had acked are not in the new one.",
                    self._acked_rows,
                )
            self._journal_id = started.journal_id
            self.problem = ""
            self.is_started = self._is_reached = True
            self.attempted.set()
            self._drop_acked(started.last_sequence)
            self._changed.notify_all()
            encoder = self._encoder
            outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            # What is being encoded is not here yet: it comes behind what is.
            first_here = self._unacked[0].sequence if self._unacked else self._kept_sequence + 1
            if encoder is not None and started.last_sequence + 1 < first_here:
                # How many rows a part of them held nobody counts any more.
                rows = 0 if started.last_sequence else self._acked_rows
                lost = encoder.lost(started.last_sequence + 1, first_here - 1, rows)
                outgoing.put(lost.message)
            for batch in self._unacked:
                outgoing.put(batch.message)
            if self._is_all_encoded:
                outgoing.put(None)
            self._outgoing = outgoing
            return outgoing

    def _on_ack(self, sequence: int) -> None:
        with self._changed:
            self._drop_acked(sequence)
            self._changed.notify_all()

    def _drop_acked(self, sequence: int) -> None:
        while self._unacked and self._unacked[0].sequence <= sequence:
            batch = self._unacked.popleft()
            self._unacked_bytes -= len(batch.message)
            self._acked_rows += batch.row_count

    def _note_failure(self, grpc: Any, error: Exception) -> None:
        code = error.code() if isinstance(error, grpc.RpcError) else None
        text = error.details() if isinstance(error, grpc.RpcError) else str(error)
        text = text or type(error).__name__
        if code in {getattr(grpc.StatusCode, name) for name in _FINAL_CODES}:
            if not self.is_started:
                self._refuse(text)
                return
            if code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}:
                self._give_up_first(text)
        if not self.problem:
            self.problem = text
            if self.attempted.is_set():
                warn(
                    "pillion: no connection to the sidecar at %s (%s). Training goes on; what is "
                    "logged waits in memory until there is one again.",
                    self.address,
                    text,
                )

    def _refuse(self, text: str) -> None:
        """Give up for good: the sidecar will never take this run."""
        with self._changed:
            self.refusal = text
            self._changed.notify_all()
        self.ended.set()
        self.attempted.set()

    def _give_up_first(self, text: str) -> None:
        """Replace the batch that the sidecar will never take, the first that it has not acked."""
        with self._changed:
            if not self._unacked or self._encoder is None:
                return
            refused = self._unacked.popleft()
            lost = self._encoder.lost(refused.sequence, refused.sequence, refused.row_count)
            self._unacked.appendleft(lost)
            self._unacked_bytes += len(lost.message) - len(refused.message)
            self._lost_rows += refused.row_count
        warn("pillion: %d rows were refused: %s", refused.row_count, text)

    def _start_request(self, pb2: Any) -> Any:
        from pillion.values import to_key_values  # noqa: PLC0415

        fields = dict(self._start.fields)
        time_unix_nano = fields.pop("time_unix_nano")
        # What the user wants of an existing run is asked once; coming back is always allowed.
        resume = "ALLOW" if self.is_started else self._start.resume.upper()
        request = pb2.StartRunRequest(
            run_id=self._start.run_id,
            writer_id=self._start.writer_id,
            config=to_key_values(self._start.config),
            resume=getattr(pb2, f"RESUME_POLICY_{resume}"),
            **fields,
        )
        request.start_time.FromNanoseconds(time_unix_nano)
        return request

    def _finish_request(self, pb2: Any) -> Any:
        from pillion.v1 import record_pb2  # noqa: PLC0415

        assert self._finish is not None
        assert self._encoder is not None
        return pb2.FinishRunRequest(
            run_id=self._start.run_id,
            writer_id=self._start.writer_id,
            last_sequence=self._encoder.last_sequence,
            exit_code=self._finish.exit_code,
            state=(
                getattr(record_pb2, f"RUN_STATE_{self._finish.state}") if self._finish.state else 0
            ),
            reason=self._finish.reason,
        )


_ENCODE_ROWS_MAX = 8192
"""Rows encoded in one go, so that the first are on their way early."""
_FINAL_CODES = (
    *("INVALID_ARGUMENT", "ALREADY_EXISTS", "UNAUTHENTICATED", "PERMISSION_DENIED"),
    *("UNIMPLEMENTED", "NOT_FOUND"),
)
"""Refusals of a start that trying again does not mend."""


def warn(message: str, *values: object) -> None:
    """Tell the user. Never raises, whatever handlers the program has installed."""
    with suppress(Exception):
        _log.warning(message, *values)


def _channel_options(address: Address) -> list[tuple[str, int]]:
    options = [
        ("grpc.enable_http_proxy", 0),  # a proxy would be handed our token
        ("grpc.use_local_subchannel_pool", 1),  # our own pauses, not those of a former channel
    ]
    if address.path is None:
        options += [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
    return options


def _state_name(state: int) -> str:
    from pillion.v1 import record_pb2  # noqa: PLC0415

    return str(record_pb2.RunState.Name(state)).removeprefix("RUN_STATE_")
