"""F24: clients, sidecars and journals of different versions go together, or say what to upgrade.

What the client of each release sends is kept as golden frames in `golden/`; see `make_golden.py`.
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.make_golden import CONFIG, FOLDER, ROWS, RUN_ID, SUMMARY
from google.protobuf.message import Message
from processes import SidecarProcess, StartError

from pillion.spool import Kind, Record, SpoolReader
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.store import Store

GOLDEN = sorted(FOLDER.glob("*.spool"), key=lambda path: path.name)
SERVICE = "/pillion.v1.TelemetryService/"
UNKNOWN_FIELD = b"\xc2\xbb\x01\x06future"
"""Field 3000, a text: what a newer client may add to any message."""


class Wire:
    """Calls that send bytes as they are."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def call(self, method: str, raw: bytes, kind: type[Message]) -> Any:
        """Call a unary RPC."""
        call = self._channel.unary_unary(SERVICE + method, response_deserializer=kind.FromString)
        return call(raw, timeout=300)

    def log(self, *raws: bytes) -> list[int]:
        """Send batches on one stream; return what was acked."""
        call = self._channel.stream_stream(
            SERVICE + "LogMetrics", response_deserializer=pb2.LogMetricsResponse.FromString
        )
        return [response.acked_sequence for response in call(iter(raws), timeout=300)]

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


@pytest.fixture
def wire(sidecar: SidecarProcess) -> Iterator[Wire]:
    """Return calls to a sidecar without W&B."""
    wire = Wire(sidecar.address)
    yield wire
    wire.close()


def records_of(path: Path, tmp_path: Path) -> list[Record]:
    """Read what a client left."""
    reader = SpoolReader.adopt(Path(shutil.copy(path, tmp_path)))
    assert reader is not None
    records = list(reader.records())
    reader.close()
    return records


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_each_release_sends_is_taken(
    sidecar: SidecarProcess, wire: Wire, tmp_path: Path, path: Path
) -> None:
    """Every row, type and number as it was logged; config, summary and end too."""
    acked = []
    for record in records_of(path, tmp_path):
        match record.kind:
            case Kind.START:
                wire.call("StartRun", record.payload, pb2.StartRunResponse)
            case Kind.BATCH:
                acked += wire.log(record.payload)
            case Kind.FINISH:
                wire.call("FinishRun", record.payload, pb2.FinishRunResponse)
    assert acked == list(range(1, len(acked) + 1))
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id=RUN_ID)).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    stored = store.run(RunId(RUN_ID))
    rows = [(step, values) for _, step, _, values in store.rows(RunId(RUN_ID))]
    store.close()
    assert [repr(row) for row in rows] == [repr(row) for row in ROWS]
    assert stored is not None
    assert (stored.project, stored.name, stored.tags) == ("versions", "golden frames", ("a", "b"))
    assert repr(stored.config) == repr(CONFIG)
    assert SUMMARY.items() <= stored.summary.items()


def test_fields_of_a_newer_client_are_kept(sidecar: SidecarProcess, wire: Wire) -> None:
    """At every depth: what this version does not know is on disk for one that does.

    The store's worker is stopped meanwhile, so that nothing is delivered and trimmed.
    """
    worker = sidecar.worker("store")
    os.kill(worker, signal.SIGSTOP)
    start = pb2.StartRunRequest(run_id="r", writer_id="w").SerializeToString()
    wire.call("StartRun", start + UNKNOWN_FIELD, pb2.StartRunResponse)
    frame = record_pb2.MetricFrame(steps=[1], times_unix_nano=[1])
    frame.columns.add(key="loss").doubles.values.append(0.5)
    frame.MergeFromString(UNKNOWN_FIELD)
    record = record_pb2.Record(metric_frame=frame)
    record.MergeFromString(UNKNOWN_FIELD)
    batch = record_pb2.Batch(run_id="r", writer_id="w", sequence=1, records=[record])
    batch.MergeFromString(UNKNOWN_FIELD)
    request = pb2.LogMetricsRequest(batch=batch).SerializeToString()
    assert wire.log(request + UNKNOWN_FIELD) == [1]
    with JournalReader(sidecar.data_dir / "journal.db") as journal:
        payloads = [entry.payload for entry in journal.entries(RunId("r"), Offset(0), 2**20)]
    assert payloads[-1] == batch.SerializeToString(deterministic=True)
    assert payloads[-1].count(UNKNOWN_FIELD) == 3
    os.kill(worker, signal.SIGCONT)
    finish = pb2.FinishRunRequest(run_id="r", writer_id="w", last_sequence=1).SerializeToString()
    wire.call("FinishRun", finish + UNKNOWN_FIELD, pb2.FinishRunResponse)
    assert sidecar.call("GetRun", pb2.GetRunRequest(run_id="r")).run.row_count == 1


def test_a_record_of_a_newer_client_is_refused_with_what_to_upgrade(wire: Wire) -> None:
    """It would be lost silently if it were taken; the client counts it and goes on."""
    start = pb2.StartRunRequest(run_id="r", writer_id="w").SerializeToString()
    wire.call("StartRun", start, pb2.StartRunResponse)
    record = record_pb2.Record()
    record.MergeFromString(UNKNOWN_FIELD)
    batch = record_pb2.Batch(run_id="r", writer_id="w", sequence=1, records=[record])
    with pytest.raises(grpc.RpcError) as refusal:
        wire.log(pb2.LogMetricsRequest(batch=batch).SerializeToString())
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    assert "Upgrade the sidecar" in refusal.value.details()  # type: ignore[attr-defined]


def test_a_call_of_a_newer_client_is_unimplemented(wire: Wire) -> None:
    """As gRPC has it, so that a client can do without."""
    with pytest.raises(grpc.RpcError) as refusal:
        wire.call("FutureCall", b"", pb2.StartRunResponse)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_journal_of_a_newer_version_is_not_opened(sidecar: SidecarProcess) -> None:
    """The sidecar does not start, says which version would, and leaves the file as it is."""
    sidecar.stop()
    path = sidecar.data_dir / "journal.db"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match="is of format 99, and this version knows"):
        sidecar.start()
    assert sidecar.process is not None
    assert sidecar.process.returncode == 1
    assert "Start the newer Pillion that wrote it." in sidecar.output()
    assert path.read_bytes() == before
