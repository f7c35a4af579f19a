"""A sink's worker: a process that hands journaled entries to one sink, at the sink's own pace.

Started by `supervisor.py` with a socket as its only tie to the sidecar. It reads the journal by
itself; the socket only carries JSON lines:

    sidecar → worker   the setup, first of all; {"wake": true}; {"drain": true}
                       {"delete": {"run_id", "cursor"}}             this run is to be forgotten
    worker → sidecar   {"run_id", "offset", "row_count", "error",
                        "reason"}                                   a run's cursor, as it moves
                       {"through": offset}                          nothing up to here is left
                       {"news": {"run_id", "url", "should_stop"}}   what a run's destination says
                       {"found": {"run_id", "finding"}}             what a rule has found in a run
                       {"deleted": {"run_id", "cursor"}}            it is, or has come back
                       {"damaged": offset}                          this entry is not as written
                       {"corrupt": what}                            the journal cannot be read
                       {"failed": why}                              the sink cannot be opened
                       {"drained": true}
                       {"alive": true}                              nothing else for a while

When the sidecar is gone the socket ends, and so does the worker. A lock per sink keeps a successor
waiting until then, so that no two workers ever drive one run.
"""

import fcntl
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pillion_sidecar import logs
from pillion_sidecar.anomaly_thresholds import Threshold
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.courier import FLUSH_INTERVAL_S, Courier, is_corrupt
from pillion_sidecar.errors import PillionError
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import AlertLevel, Offset, RunId
from pillion_sidecar.sinks import Found, Sink
from pillion_sidecar.store import Store
from pillion_sidecar.wandb_keys import Account
from pillion_sidecar.worker_line import WorkerLine, die_with_parent

log = logging.getLogger(__name__)


def _open_sink(setup: dict[str, Any]) -> Sink:
    """Build the sink that the setup names; each imports what it needs here, in its own process."""
    if setup["sink"] == "store":
        from pillion_sidecar.sinks.store import StoreSink  # noqa: PLC0415

        blobs = Blobs(Path(setup["blobs_dir"]))
        return StoreSink(setup["store_url"], blobs, owner=setup["store_owner"])
    if setup["sink"] == "anomalies":
        return _open_anomalies(setup["watch"])
    from pillion_sidecar.sinks.wandb import WandbSink  # noqa: PLC0415

    return WandbSink(
        Path(setup["wandb_dir"]),
        Account(*setup["account"]) if setup["account"] else None,
        send_interval_s=setup["send_interval_s"],
    )


def _open_anomalies(setup: dict[str, Any]) -> Sink:
    from pillion_sidecar.alert_messenger import Messenger  # noqa: PLC0415
    from pillion_sidecar.sinks.anomalies import AnomalySink  # noqa: PLC0415

    os.nice(5)  # and passing on comes before looking for anomalies
    targets = (setup["webhook"], setup["command"])
    return AnomalySink(
        Path(setup["marks"]),
        thresholds=[Threshold.parse(rule) for rule in setup["rules"]],
        stall_min_s=setup["stall_min_s"],
        messenger=Messenger(*targets) if any(targets) else None,
        level_min=AlertLevel[setup["level_min"]],
    )


def _run(line: WorkerLine) -> None:
    setup, messages = line.receive_setup()
    logs.configure(setup["log_format"], setup["log_level"])
    lock = Path(setup["lock"]).open("w")  # noqa: SIM115 - held for the life of the process
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        sink = _open_sink(setup)
    except PillionError as error:
        line.send({"failed": str(error)})
        raise
    is_store = setup["sink"] == "store"
    url, owner = setup["store_url"], setup["store_owner"]
    store = None if is_store else lambda: Store(url, owner=owner)
    try:
        courier = Courier(
            JournalReader(Path(setup["journal"])),
            sink,
            store=store,
            beat=line.beat,
            destination=setup["sink"] if setup["sink"].startswith("wandb") else None,
        )
        _deliver(line, courier, sink, messages)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sink.close()
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            line.send({"corrupt": str(error)})
        raise


def _deliver(
    line: WorkerLine, courier: Courier, sink: Sink, messages: list[dict[str, Any]]
) -> None:
    """Deliver until the sidecar is gone."""
    is_draining = False
    flushed_s = time.monotonic()
    while True:
        courier.look()
        for run in [message["delete"] for message in messages if "delete" in message]:
            _delete(line, courier, run)
        any_had = courier.deliver()
        if not any_had or time.monotonic() - flushed_s > FLUSH_INTERVAL_S:
            courier.flush()
            flushed_s = time.monotonic()
        for change in courier.changes():
            line.send(change)
        for news in sink.news():
            line.send({"found" if isinstance(news, Found) else "news": asdict(news)})
        is_draining |= any("drain" in message for message in messages)
        if is_draining and courier.is_drained and not any_had:
            line.send({"drained": True})
            is_draining = False
        line.beat()
        wait_s = line.beat_interval_s if courier.wait_s is None else courier.wait_s
        messages = line.receive(0 if any_had else min(wait_s, line.beat_interval_s))


def _delete(line: WorkerLine, courier: Courier, run: dict[str, Any]) -> None:
    try:
        courier.delete(RunId(run["run_id"]), Offset(run["cursor"]))
    except PillionError as error:  # the sidecar says it again, until it is done
        log.warning("run not deleted yet", extra={"run_id": run["run_id"], "error": error})
    else:
        line.send({"deleted": run})


def main() -> None:
    """Run the worker on the socket whose number is the only argument."""
    # Ctrl-C and `kill` reach the sidecar, which tells its workers when to go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    os.nice(5)  # taking in comes before passing on
    logs.configure()  # as the setup says, once it has come
    code = 1
    try:
        _run(WorkerLine(socket.socket(fileno=int(sys.argv[1]))))
        code = 0
    except PillionError as error:
        log.error("worker cannot go on", extra={"error": error})  # noqa: TRY400 - it says all
    except Exception:
        log.exception("worker failed")
    finally:
        logging.shutdown()
        os._exit(code)  # a sink's library may hold threads that would wait for a network


if __name__ == "__main__":
    main()
