"""The link to the sidecar: sends what the sender keeps, hears acks, and never gives up.

One daemon thread connects, starts the run, has gRPC send the batches and reads the acks; whatever
breaks, it begins again after a random pause, from the first batch that is not acked. The end of
the run is told here too, if a sidecar is there. gRPC is loaded here, in this thread, never by
`import pillion`, and never in a forked child: there the sender works alone, into the spool.
"""

import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from pillion._artifacts import Artifacts
from pillion._channel import open_channel
from pillion._counts import Counts, Refused
from pillion._file import Held
from pillion._logged import UsedArtifact
from pillion._messages import Finish, Start, start_request
from pillion._notice import warn
from pillion._sender import Sender
from pillion._unacked import MESSAGE_BYTES_MAX
from pillion.address import Address

START_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 10.0
RETRY_MIN_S, RETRY_MAX_S, RETRY_FINISHING_S = 0.1, 5.0, 0.5
"""The bounds of the pause before the n-th try: up to twice as long as before, all of it random, so
that a thousand clients of a sidecar that comes back do not come at once."""


class Link:
    """One writer's link. Public methods may be called from any thread and never raise."""

    def __init__(self, address: str, token: str, start: Start, *, is_child: bool = False) -> None:
        self.address, self.is_child = address, is_child
        self.rows: deque[Any] = deque()
        """What is to be encoded: rows, updates, and rows that wait for a device."""
        self.refused = Refused()
        """What never came into the queue."""
        self._token, self._start = token, start
        self.held = Held()
        """What files in the queue take."""
        self._sender = Sender(start, self.rows, self.refused, self.held, is_child=is_child)
        self._unacked = self._sender.unacked
        self._journal_id = ""
        self._failure_count = 0
        self._hurry = threading.Event()
        """Do not wait to try again."""
        self.attempted = threading.Event()
        """Set once the first try to reach the sidecar has gone well or not."""
        self.is_started = False
        self.next_ordinal = 0
        self.project = self.name = ""
        """As the sidecar has them; empty: it has not told."""
        self.url = ""
        """The run's page at W&B; empty: there is none, or it is not known yet."""
        self.stop_reason = ""
        """Who asks this trainer to stop, and why; empty: nobody does."""
        self.problem = ""
        """Why there is no connection, for people."""
        self.refusal = ""
        """Why the sidecar will never take this run, for people."""
        self.final_state = ""
        self.on_system_interval: Callable[[float], None] = lambda _: None
        """Called with how often the sidecar wants to be told how the system does; 0: never."""
        self._thread = threading.Thread(target=self._connect, name="pillion-link", daemon=True)

    def open(self) -> None:
        """Start the threads."""
        self._sender.open()
        if not self.is_child:
            self._thread.start()

    def counts(self) -> Counts:
        """Count the rows."""
        return self._sender.counts()

    @property
    def spool_path(self) -> str:
        """The file that the run's end was left in, if no sidecar took it."""
        return self._sender.spool_path

    @property
    def is_connected(self) -> bool:
        """Whether the sidecar was there just now."""
        return self.is_started and not self._sender.is_away

    def artifacts(self) -> Artifacts:
        """Make the writer's artifacts, which are sent to the same sidecar."""
        return Artifacts(self._start, self.address, self._token, is_child=self.is_child)

    def used_artifact(self, artifact: str, project: str) -> UsedArtifact:
        """Return what reads an artifact from the same sidecar."""
        return UsedArtifact(
            artifact, project, self.address, self._token, may_connect=not self.is_child
        )

    def flush(self, timeout_s: float) -> bool:
        """Wait until all rows logged so far are acked; tell whether they are."""
        self._sender.wake()
        with self._unacked.changed:
            self._unacked.changed.wait_for(
                lambda: self._sender.is_idle or self._sender.ended.is_set(), timeout_s
            )
            return self._sender.is_idle

    def begin_finish(self, finish: Finish) -> None:
        """Send what is left, then end the run; or leave both in the spool."""
        self._sender.begin_finish(finish)
        self._hurry.set()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it is kept, at the sidecar or in the spool."""
        return self._sender.ended.wait(max(0.0, timeout_s)) and not self.refusal

    # The thread.

    def _connect(self) -> None:
        # Measured: with fork support on, every fork of a DataLoader stalls for up to 2 s.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc  # noqa: PLC0415

        while not self._sender.ended.is_set():
            try:
                self._run_connection(grpc)
            except Exception as error:  # noqa: BLE001 - the thread's outermost frame
                self._note_failure(grpc, error)
            self._sender.is_away = not self._sender.ended.is_set()
            self._sender.wake()
            self.attempted.set()
            self._failure_count += 1
            self._hurry.wait(self._pause_s())
            self._hurry.clear()

    def _pause_s(self) -> float:
        retry_s = min(RETRY_MIN_S * 2 ** min(self._failure_count, 10), RETRY_MAX_S)
        if self._sender.finish is not None:  # somebody waits
            retry_s = min(retry_s, RETRY_FINISHING_S)
        return random.uniform(0, retry_s)  # noqa: S311 - not a secret

    def _run_connection(self, grpc: Any) -> None:
        from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415
        from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc  # noqa: PLC0415

        with open_channel(grpc, Address.parse(self.address)) as channel:
            metadata = (("authorization", f"Bearer {self._token}"),) if self._token else ()
            stub: Any = pb2_grpc.TelemetryServiceStub(channel)  # type: ignore[no-untyped-call]
            # What the user wants of an existing run is asked once; coming back is always allowed.
            request = start_request(self._start, "allow" if self.is_started else self._start.resume)
            if request.ByteSize() > MESSAGE_BYTES_MAX:
                self._refuse(
                    f"What is known of the run takes {request.ByteSize():,} bytes, and "
                    f"{MESSAGE_BYTES_MAX:,} are taken. Leave something out of its config."
                )
                return
            started = stub.StartRun(request, timeout=START_TIMEOUT_S, metadata=metadata)
            lost = self._on_started(started)
            log_metrics = channel.stream_stream(
                "/pillion.v1.TelemetryService/LogMetrics",
                response_deserializer=pb2.LogMetricsResponse.FromString,
            )
            writer = (
                ("pillion-run-id", self._start.run_id),
                ("pillion-writer-id", self._start.writer_id),
            )
            is_over = threading.Event()
            try:
                for response in log_metrics(
                    self._messages(lost, is_over), metadata=metadata + writer
                ):
                    self._on_response(response)
            finally:
                is_over.set()
                with self._unacked.changed:
                    self._unacked.changed.notify_all()
            if self._sender.is_all_encoded and not len(self._unacked):
                finished = stub.FinishRun(
                    self._sender.finish_message(), timeout=FINISH_TIMEOUT_S, metadata=metadata
                )
                self.final_state = _state_name(finished.state)
                self._sender.end()

    def _on_started(self, started: Any) -> bytes | None:
        """Compare what the sidecar has with what is here; return what says that some is lost."""
        if not self.is_started:
            self.next_ordinal = started.next_ordinal
            self.project, self.name = started.project, started.name
        acked_rows = self._unacked.counts().acked
        if self._journal_id and started.journal_id != self._journal_id:
            warn(
                "pillion: the sidecar's journal was replaced; the %d rows that the former one "
                "had acked are not in the new one.",
                acked_rows,
            )
        self._journal_id = started.journal_id
        self.is_started = self._sender.is_known = True
        self._sender.is_away = False
        self._sender.hear()
        self.attempted.set()
        self.on_system_interval(started.system_interval_s)
        self._unacked.ack(started.last_sequence)
        if not len(self._unacked):
            self._note_progress()
        first_here = self._unacked.first_sequence
        encoder = self._sender.encoder
        if encoder is None or started.last_sequence + 1 >= first_here:
            return None
        # How many rows a part of them held nobody counts any more.
        rows = 0 if started.last_sequence else acked_rows
        return encoder.lost(started.last_sequence + 1, first_here - 1, rows).message

    def _messages(self, lost: bytes | None, is_over: threading.Event) -> Iterator[bytes]:
        """Yield what is to be sent on one stream; gRPC takes it in a thread of its own."""
        unacked, sender = self._unacked, self._sender
        if lost is not None:
            yield lost
        sequence = unacked.first_sequence
        while not is_over.is_set():
            with unacked.changed:
                sequence = max(sequence, unacked.first_sequence)
                if sequence > unacked.last_sequence:
                    if sender.is_all_encoded or sender.ended.is_set():
                        return
                    unacked.changed.wait()
                    continue
            if (message := unacked.read(sequence)) is not None:
                yield message
                sequence += 1

    def _on_response(self, response: Any) -> None:
        self._sender.hear()
        self._note_progress()
        self.url = response.url or self.url
        self.stop_reason = response.stop_reason if response.should_stop else ""
        self._unacked.ack(response.acked_sequence)

    def _note_progress(self) -> None:
        """The sidecar takes what it is sent: what was wrong before is over."""
        self._failure_count = 0
        self.problem = ""

    def _note_failure(self, grpc: Any, error: Exception) -> None:
        code = error.code() if isinstance(error, grpc.RpcError) else None
        text = error.details() if isinstance(error, grpc.RpcError) else str(error)
        text = text or type(error).__name__
        if code is grpc.StatusCode.UNAVAILABLE and any(each in text for each in _NOBODY_THERE):
            text = "nothing listens there"
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
                    "logged waits on this host's disk until there is one again.",
                    *(self.address, text),
                )

    def _refuse(self, text: str) -> None:
        """Give up for good: the sidecar will never take this run."""
        self.refusal = text
        self._sender.end()
        self.attempted.set()

    def _give_up_first(self, text: str) -> None:
        """Replace the batch that the sidecar will never take, the first that it has not acked."""
        dropped = self._unacked.counts().dropped
        self._unacked.drop(self._unacked.first_sequence)
        dropped = self._unacked.counts().dropped - dropped
        warn("pillion: the sidecar never takes %d rows: %s", dropped, text)


_NOBODY_THERE = ("No such file or directory", "Connection refused")
"""In gRPC's words for a place where no sidecar is."""
_FINAL_CODES = (
    *("INVALID_ARGUMENT", "ALREADY_EXISTS", "UNAUTHENTICATED", "PERMISSION_DENIED"),
    *("UNIMPLEMENTED", "NOT_FOUND"),
)
"""Refusals of a start that trying again does not mend."""


def _state_name(state: int) -> str:
    from pillion.v1 import record_pb2  # noqa: PLC0415

    return str(record_pb2.RunState.Name(state)).removeprefix("RUN_STATE_")
