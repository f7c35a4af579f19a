"""The sidecar as a process: lock → recover → listen → serve → drain → close.

Each is a method here, in that order. `run` goes through them once; SIGTERM or SIGINT begins the
drain, a second one ends it at once.
"""

import asyncio
import fcntl
import hmac
import logging
import os
import secrets
import signal
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pillion.address import AddressError, is_of_one_user
from pillion.v1 import telemetry_service_pb2
from pillion_sidecar.adoption import Adoption
from pillion_sidecar.anomaly_marks import drop_marks, make_marks
from pillion_sidecar.artifact_intake import ArtifactIntake
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.configuration import Configuration
from pillion_sidecar.deletions import Deletions
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import DiskError, PeerError, PillionError, SettingsError, StateError
from pillion_sidecar.exposition import Exposition
from pillion_sidecar.findings import Findings
from pillion_sidecar.idleness import Idleness
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.journal_room import drop_ballast, lay_ballast
from pillion_sidecar.liveness import Liveness
from pillion_sidecar.notices import Notice, Notices
from pillion_sidecar.pages import Pages
from pillion_sidecar.queries import Queries
from pillion_sidecar.records import Offset, RunFinish, RunId, RunState
from pillion_sidecar.sampling import Sampling
from pillion_sidecar.service import MESSAGE_BYTES_MAX, TelemetryService, abort, handlers
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import make_id, owner_of
from pillion_sidecar.sinks.wandb_folders import finished_runs
from pillion_sidecar.staged_adoption import StagedAdoption
from pillion_sidecar.store import Store
from pillion_sidecar.store_artifacts import known_versions
from pillion_sidecar.store_database import open_for_writing
from pillion_sidecar.uploader import Uploader
from pillion_sidecar.wandb_control import WandbControl

EXIT_HELD = 75
"""Another sidecar has the data directory or the socket (EX_TEMPFAIL)."""
EXIT_DISK = 74
"""The journal failed (EX_IOERR): start again, and recovery reads what is on disk."""
STREAMS_MAX = 4096
TOKEN_BYTES = 32
LIVENESS_INTERVAL_S = 1.0
STATUS_TIMEOUT_S = 10.0
"""How long a scrape of the metrics may wait for the figures."""
TRIM_INTERVAL_S = 1.0
"""How often the journal is told what every sink has."""
STREAMS_GRACE_S = 2.0
"""How long open calls may take to end when the sidecar stops."""

_SERVICE = telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"].full_name

log = logging.getLogger(__name__)


class HeldError(SettingsError):
    """Another sidecar has the data directory or the socket."""


class Sidecar:
    """One sidecar on one data directory."""

    def __init__(self, settings: Settings, *, end_when_idle_s: float | None = None) -> None:
        """Make one.

        Args:
            settings: Where it listens and keeps its data.
            end_when_idle_s: End after so long without a writer; see `idleness.py`. None: never.
        """
        self._settings, self._end_when_idle_s = settings, end_when_idle_s
        self._locks: list[IO[str]] = []
        self._socket_path: Path | None = None
        """Set once the socket is ours alone."""
        self._liveness = Liveness()
        self._notices = Notices()
        self._stopping = asyncio.Event()
        self._fatal: DiskError | None = None
        self._journal: Journal
        self._delivery: Delivery
        self._configuration: Configuration
        self._wandb: WandbControl
        self._uploader: Uploader
        self._pages: Pages
        self._server: grpc.aio.Server
        self._health: health.aio.HealthServicer
        self._adoption: Adoption
        self._blobs: Blobs
        self._queries: Queries
        self._deletions: Deletions
        self._sampling: Sampling
        self._exposition: Exposition | None = None
        self.address = str(settings.address)
        """Where it listens; with port 0, the port that was given, once it does."""

    async def run(self, on_ready: Callable[["Sidecar"], None]) -> int:
        """Serve until a signal comes; return the exit code.

        Args:
            on_ready: Called once when it listens.

        Raises:
            SettingsError: It cannot start as it is told to.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            self.lock()
            self.recover()
            await self.listen()
            on_ready(self)
            await self.serve()
            await self.drain()
        finally:
            await self.close()
        return EXIT_DISK if self._fatal else 0

    def lock(self) -> None:
        """Make sure that nobody else has this data directory or this socket."""
        os.umask(0o077)  # what is made from here on, by workers too, is for its owner alone
        data_dir = self._settings.data_dir
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"The data directory {data_dir} cannot be made: {error.strerror}. "
                "Choose another with --data-dir."
            ) from error
        _check_private(data_dir)
        address = str(self._settings.address)
        what = f"the data directory {data_dir}"
        self._locks.append(_lock(data_dir / "lock", what, address))
        if (path := self._settings.address.path) is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._settings.address.check_directory()
            except AddressError as error:
                raise SettingsError(str(error)) from error
            self._locks.append(_lock(Path(f"{path}.lock"), f"the socket {path}", address))
            if path.exists() and not path.is_socket():
                raise SettingsError(f"{path} is no socket; choose another place with --listen.")
            self._socket_path = path
            path.unlink(missing_ok=True)

    def recover(self) -> None:
        """Open the journal, and look after the writers that had not ended."""
        loop = asyncio.get_running_loop()
        self._configuration = Configuration(self._settings, os.environ)
        self._pages = Pages(self._settings.pages_path)
        drop_ballast(self._settings.journal_path)
        self._journal = Journal(
            self._settings.journal_path,
            on_commit=lambda: loop.call_soon_threadsafe(self._wake),
            on_fatal=lambda error: loop.call_soon_threadsafe(self._on_fatal, error),
            disk_reserve_bytes=self._settings.disk_reserve_bytes,
            keys_max=self._settings.metric_keys_max,
        )
        make_id(self._settings)
        open_for_writing(self._settings.store_url).dispose()  # so that it can be read from now on
        self._catch_up()
        lay_ballast(self._settings.journal_path)
        with JournalReader(self._settings.journal_path) as reader:
            destinations = reader.destinations()
            if self._settings.anomalies:
                make_marks(self._settings.marks_path, reader.runs)
            else:
                drop_marks(self._settings.marks_path)
        self._delivery = Delivery(
            self._settings,
            self._configuration.accounts(),
            destinations,
            on_damaged=self._on_damaged,
            on_corrupt=self._on_corrupt,
            on_news=self._on_news,
            on_found=Findings(
                *(self._journal, self._notices),
                *(self._settings.anomaly_stop, self._liveness.is_live),
            ).take,
            on_deleted=self._on_deleted,
        )
        self._deletions = Deletions(
            *(self._settings, self._journal, self._delivery, self._pages, self._notices)
        )
        self._wandb = WandbControl(self._configuration, self._delivery)
        self._uploader = Uploader(self._settings, self._wandb.upload_environment)
        live_writers = self._journal.live_writers()
        for writer in live_writers:
            self._liveness.add(*writer)
        self._sampling = Sampling(self._settings, self._journal, self._liveness)
        self._sampling.recover(run_id for run_id, *_ in live_writers)
        self._blobs = Blobs(self._settings.blobs_dir, self._settings.disk_reserve_bytes)
        self._blobs.clean()
        self._adoption = Adoption(
            self._settings.spool_dir,
            self._journal,
            lambda *writer: loop.call_soon_threadsafe(self._liveness.remove, *writer),
            StagedAdoption(
                *(self._settings.spool_dir, self._journal, self._blobs),
                lambda start: loop.call_soon_threadsafe(
                    self._liveness.add, start.run_id, start.writer_id, start.environment
                ),
                self._wandb.complete,
            ),
            self._wandb.complete,
        )
        self._queries = Queries(
            *(self._settings, self._journal, self._delivery, self._adoption),
            *(self._configuration, self._pages, self._uploader),
        )

    async def listen(self) -> None:
        """Start the workers and the gRPC server."""
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        if self._settings.address.path is None:  # so that a peer whose host is gone is noticed
            options += [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
        self._server = grpc.aio.server(
            interceptors=self._interceptors(),
            maximum_concurrent_rpcs=STREAMS_MAX,
            options=options,
        )
        service = TelemetryService(
            *(self._journal, self._liveness, self._queries),
            ArtifactIntake(self._journal, self._blobs),
            self._wandb,
            self._notices,
            *(self._deletions, self._sampling),
            self._is_admin,
        )
        self._server.add_generic_rpc_handlers((handlers(service),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        umask = os.umask(0o177)  # nothing is awaited until it is back: it is the whole process's
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise SettingsError(
                f"{self.address} cannot be listened on ({error}). Choose another with --listen."
            ) from error
        finally:
            os.umask(umask)
        await self._server.start()
        if self._settings.address.path is None:
            self.address = f"{self._settings.address.host}:{port}"
        self._delivery.start()
        self._adoption.start()
        if self._settings.metrics_port is not None:
            loop = asyncio.get_running_loop()
            self._exposition = Exposition(
                self._settings.metrics_port,
                lambda: asyncio.run_coroutine_threadsafe(
                    self._queries.status(telemetry_service_pb2.GetStatusRequest()), loop
                ).result(STATUS_TIMEOUT_S),
            )
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    @property
    def wandb_mode(self) -> str:
        """Where new runs go at W&B."""
        return self._configuration.mode.value

    @property
    def metrics_url(self) -> str:
        """Where its metrics are; empty: nowhere."""
        return self._exposition.url if self._exposition else ""

    async def serve(self) -> None:
        """Take in and deliver until told to stop."""
        log.info("listening", extra={"address": self.address, "journal_id": self._journal.id})
        chores = [
            asyncio.create_task(self._watch_liveness()),
            asyncio.create_task(self._trim()),
            asyncio.create_task(self._deletions.run()),
            asyncio.create_task(self._wandb.try_out(self._wandb.credential)),
            asyncio.create_task(self._uploader.run()),
            asyncio.create_task(self._sampling.run()),
        ]
        if self._end_when_idle_s is not None:
            chores.append(asyncio.create_task(self._watch_idleness(self._end_when_idle_s)))
        await self._stopping.wait()
        for chore in chores:
            chore.cancel()

    async def drain(self) -> None:
        """Take nothing more in, and deliver what is there as far as the time allows."""
        log.info("stopping")
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(self._sampling.stop(), self._server.stop(STREAMS_GRACE_S))
        await asyncio.to_thread(self._adoption.stop)
        if not await self._delivery.drain(self._settings.drain_timeout_s):
            log.warning(
                "not everything was delivered in time; it is on disk, and delivery goes on with "
                "the next start",
                extra={"timeout_s": self._settings.drain_timeout_s},
            )

    async def close(self) -> None:
        """Let go of everything; also after a start that failed half-way."""
        if hasattr(self, "_server"):
            await self._server.stop(None)
        if hasattr(self, "_adoption"):
            await asyncio.to_thread(self._adoption.stop)
        if hasattr(self, "_sampling"):
            await self._sampling.stop()
        if hasattr(self, "_delivery"):
            await self._delivery.stop()
        if self._exposition is not None:
            await asyncio.to_thread(self._exposition.close)
        if hasattr(self, "_journal"):
            await asyncio.to_thread(self._journal.close)
            lay_ballast(self._settings.journal_path)  # if there was no room for it till now
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        for lock in self._locks:
            lock.close()

    def _catch_up(self) -> None:
        """Have the journal go on behind what the sinks have, if its end was lost."""
        last = self._journal.last_offset()
        store = Store(self._settings.store_url, owner=owner_of(self._settings))
        stored = store.cursors(beyond=last)
        with store.snapshot() as connection:
            versions = known_versions(connection, store.owner)
        store.close()
        self._journal.know_versions(versions).result()
        self._journal.catch_up(stored, is_store=True).result()
        finished = {
            run_id: (run.offset, run.row_count, directory.name)
            for directory in self._settings.wandb_dirs
            for run_id, run in finished_runs(directory).items()
            if run.offset > max(last, stored.get(run_id, (Offset(0),))[0])
        }
        self._journal.catch_up(finished, is_store=False).result()

    def _interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        if self._settings.address.path is not None:
            return []
        paths = (self._settings.token_path, self._settings.admin_token_path)
        return [_TokenCheck(*map(_token, paths))]

    def _is_admin(self, context: grpc.aio.ServicerContext) -> bool:
        """Tell whether a caller is, or speaks for, the sidecar's owner."""
        if self._settings.address.path is not None:
            return True  # who can reach the socket is its owner
        shown = dict(context.invocation_metadata()).get("authorization", "")
        return _is_shown(_token(self._settings.admin_token_path), shown)

    async def _watch_liveness(self) -> None:
        while True:
            await asyncio.sleep(LIVENESS_INTERVAL_S)
            for run_id, writer_id, reason in self._liveness.gone():
                finish = RunFinish(
                    run_id=run_id,
                    writer_id=writer_id,
                    state=RunState.CRASHED,
                    exit_code=None,
                    reason=reason,
                    summary={},
                    time_unix_nano=time.time_ns(),
                )
                try:
                    done = self._journal.finish(finish, last_sequence=None)
                    ended = await asyncio.wrap_future(done)
                except PillionError as error:
                    log.warning("run not ended", extra={"run_id": run_id, "error": error})
                    if not isinstance(error, StateError):
                        continue  # the disk is full: later
                else:
                    vanished = {"run_id": run_id, "writer_id": writer_id, "reason": reason}
                    log.warning("writer vanished", extra=vanished)
                    if ended.state is not RunState.RUNNING:
                        self._notices.forget(run_id)
                self._liveness.remove(run_id, writer_id)

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(TRIM_INTERVAL_S)
            if points := self._delivery.trim_points():
                self._journal.trim(points)

    def _wake(self) -> None:
        if hasattr(self, "_delivery"):
            self._delivery.wake()

    def _on_news(self, run_id: RunId, url: str, should_stop: bool) -> None:
        reason = "Stop was pressed in W&B's page of the run." if should_stop else ""
        self._notices.note(run_id, Notice(url, reason))
        try:
            self._pages.add(run_id, url)
        except OSError as error:  # the disk is full; it is told again by the next worker
            log.warning("a run's page was not noted", extra={"error": error})

    def _on_damaged(self, offset: Offset) -> None:
        self._journal.quarantine(offset)

    def _on_deleted(self, run_id: RunId, cursor: Offset) -> None:
        self._deletions.note_deleted(run_id, cursor)

    def _on_corrupt(self, cause: str) -> None:
        self._journal.condemn(cause)

    async def _watch_idleness(self, grace_s: float) -> None:
        idleness = Idleness(self._settings, self._liveness, self._delivery, self._adoption)
        await idleness.wait(grace_s)
        log.info("nobody is here any more", extra={"idle_s": grace_s})
        self._stopping.set()

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            os._exit(130)
        self._stopping.set()

    def _on_fatal(self, error: DiskError) -> None:
        log.critical("the journal failed", extra={"error": error})
        self._fatal = error
        self._stopping.set()


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets only those in who show the token. On TCP, where other users can reach us."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        shown = dict(details.invocation_metadata).get("authorization", "")
        if any(_is_shown(token, shown) for token in self._tokens):
            return await continuation(details)

        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
            error = PeerError(
                "This address needs the token that lies in the sidecar's data directory: "
                "send it as `authorization: Bearer TOKEN` (PILLION_TOKEN for our client).",
                "TOKEN_WRONG",
            )
            await abort(context, error)
            yield

        return grpc.stream_stream_rpc_method_handler(refuse)  # refuses before it reads anything


def _check_private(data_dir: Path) -> None:
    """Raise `SettingsError` if another user could put something into the data directory."""
    status = data_dir.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mend = f"Mend it with `chmod 0700 {data_dir}`, or c" if is_of_one_user(data_dir) else "C"
        raise SettingsError(
            f"The data directory {data_dir} belongs to another user, or others can write there. "
            f"{mend}hoose another with --data-dir."
        )


def _lock(path: Path, what: str, address: str) -> IO[str]:
    """Lock a file for the life of the process; it says who holds it, and where that listens."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder, _, place = file.read().strip().partition(" ")
        file.close()
        raise HeldError(
            f"Another sidecar, process {holder or 'unknown'} at {place or 'an unknown address'}, "
            f"has {what}. Use that one, or choose another."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()} {address}\n")
    file.flush()
    return file


def _is_shown(token: str, shown: Any) -> bool:
    return hmac.compare_digest(str(shown).encode(), f"Bearer {token}".encode())


def _token(path: Path) -> str:
    """Return the token, made at the first start: 256 random bits in a file only we can read."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(TOKEN_BYTES) + "\n")
    token = path.read_text(encoding="ascii").strip()
    if len(token) < TOKEN_BYTES:
        raise SettingsError(f"{path} holds no token; delete it, and a new one is made.")
    return token
