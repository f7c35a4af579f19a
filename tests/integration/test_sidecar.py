"""A real sidecar process: how it starts, who it lets in, what it takes, how it ends."""

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values, to_key_values
from pillion_sidecar.journal_reader import JournalReader


def batch(run_id: str, sequence: int, values: list[float], key: str = "loss") -> Any:
    """Return a LogMetrics message with one column of values."""
    frame = record_pb2.MetricFrame(
        steps=range(len(values)),
        times_unix_nano=[1] * len(values),
        columns=[record_pb2.MetricColumn(key=key, doubles=record_pb2.DoubleValues(values=values))],
    )
    return pb2.LogMetricsRequest(
        batch=record_pb2.Batch(
            run_id=run_id,
            writer_id="writer",
            sequence=sequence,
            records=[record_pb2.Record(metric_frame=frame)],
        )
    )


def start(sidecar: Any, run_id: str = "run", **fields: Any) -> Any:
    """Start a run with the writer `writer`."""
    request = pb2.StartRunRequest(run_id=run_id, writer_id="writer", **fields)
    return sidecar.call("StartRun", request)


def journaled(sidecar: Any) -> int:
    """Return where the journal ends: its entries are deleted once they are delivered."""
    with JournalReader(sidecar.data_dir / "journal.db") as journal:
        return max((run.last_offset for run in journal.runs()), default=0)


def test_what_was_acked_is_in_the_next_answer(sidecar: Any) -> None:
    """A question is answered with everything that was acked before it."""
    start(sidecar, config=to_key_values({"lr": 0.1, "lora": {"r": 8}}))
    for sequence in range(1, 21):
        acks = sidecar.log(batch("run", sequence, [float(sequence)] * 3))
        assert [ack.acked_sequence for ack in acks] == [sequence]
        assert sidecar.call("GetRun", pb2.GetRunRequest(run_id="run")).run.row_count == 3 * sequence
    run = sidecar.call("ListRuns", pb2.ListRunsRequest()).runs[0]
    assert from_key_values(run.summary) == {"loss": 20.0}
    assert from_key_values(run.config) == {"lr": 0.1, "lora": {"r": 8}}


def test_finish_never_overtakes_data(sidecar: Any) -> None:
    """FinishRun is refused until the writer's last batch is on disk."""
    start(sidecar)
    finish = pb2.FinishRunRequest(run_id="run", writer_id="writer", last_sequence=2)
    sidecar.log(batch("run", 1, [1.0]))
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.call("FinishRun", finish)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    sidecar.log(batch("run", 2, [1.0]))
    assert sidecar.call("FinishRun", finish).state == record_pb2.RUN_STATE_FINISHED
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="run")).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    assert run.exit_code == 0


def test_a_gap_is_refused_with_the_number_that_is_next(sidecar: Any) -> None:
    """What was acked before stays; a duplicate is acked again; a gap names what is expected."""
    start(sidecar)
    sidecar.log(batch("run", 1, [1.0]), batch("run", 2, [2.0]))
    assert sidecar.log(batch("run", 1, [1.0]))[0].acked_sequence == 2
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.log(batch("run", 4, [4.0]))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "3 is next" in refused.value.details()
    assert start(sidecar).last_sequence == 2


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (batch("nobody", 1, [1.0]), "NOT_FOUND", "Call StartRun first"),
        (batch("run", 1, [1.0], key=""), "INVALID_ARGUMENT", "a key is empty"),
        (batch("run", 1, []), "INVALID_ARGUMENT", "at least one row"),
        (batch("../run", 1, [1.0]), "INVALID_ARGUMENT", "run_id"),
        (batch("run", 0, [1.0]), "INVALID_ARGUMENT", "numbered from 1"),
        (batch("run", 1, [1.0] * 200_000), "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_bad_input_is_refused_with_a_sentence_and_leaves_nothing(
    sidecar: Any, message: Any, code: str, words: str
) -> None:
    """The call alone fails, with a clear code and message; nothing is written."""
    start(sidecar)
    before = journaled(sidecar)
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.log(message)
    assert refused.value.code() is grpc.StatusCode[code]
    assert words in refused.value.details()
    assert journaled(sidecar) == before
    assert sidecar.log(batch("run", 1, [1.0]))[0].acked_sequence == 1


@pytest.mark.parametrize("method", ["LogMetrics", "StartRun", "Compare"])
def test_bytes_that_are_no_message_are_refused(sidecar: Any, method: str) -> None:
    """Garbage is INVALID_ARGUMENT with a sentence, not a crash."""
    with grpc.insecure_channel(sidecar.address) as channel:
        call = channel.stream_stream(f"/pillion.v1.TelemetryService/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([b"\xff" * 100])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"no {method}Request" in refused.value.details()


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetRun", pb2.GetRunRequest(run_id="nope"), "NOT_FOUND"),
        ("GetStatus", pb2.GetStatusRequest(run_id="nope"), "NOT_FOUND"),
        ("Compare", pb2.CompareRequest(run_ids=["one"]), "INVALID_ARGUMENT"),
        ("Compare", pb2.CompareRequest(run_ids=["one", "two"]), "NOT_FOUND"),
        ("ListRuns", pb2.ListRunsRequest(page_token="x"), "INVALID_ARGUMENT"),
        ("StartRun", pb2.StartRunRequest(run_id="a/b"), "INVALID_ARGUMENT"),
        ("StartRun", pb2.StartRunRequest(run_id="new", resume="RESUME_POLICY_MUST"), "NOT_FOUND"),
        ("UpdateRun", pb2.UpdateRunRequest(run_id="nope"), "NOT_FOUND"),
    ],
)
def test_a_question_that_has_no_answer_is_refused_with_the_right_code(
    sidecar: Any, method: str, request_: Any, code: str
) -> None:
    """Unknown runs, wrong counts, bad ids, and what is not implemented: a code and a sentence."""
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.call(method, request_)
    assert refused.value.code() is grpc.StatusCode[code]
    assert refused.value.details().endswith((".", "."))
    assert journaled(sidecar) == 0


def test_resume_never_refuses_a_run_that_exists(sidecar: Any) -> None:
    """Two that take the same id are never mixed silently."""
    start(sidecar)
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.call(
            "StartRun",
            pb2.StartRunRequest(run_id="run", writer_id="other", resume="RESUME_POLICY_NEVER"),
        )
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


def test_a_trainer_that_is_killed_leaves_a_crashed_run(
    sidecar: Any, run_python: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """A run whose process vanishes is CRASHED, with the reason, and keeps what was logged."""
    code = (
        "import sys, pillion\n"
        "run = pillion.init(id='doomed', quiet=True)\n"
        "run.log({'loss': 1.0}); run.flush(); print('logged', flush=True); sys.stdin.read()\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout.readline() == "logged\n"
    get = pb2.GetRunRequest(run_id="doomed")
    assert sidecar.call("GetRun", get).run.state == record_pb2.RUN_STATE_RUNNING
    trainer.kill()
    run = wait_until(
        lambda: (
            (run := sidecar.call("GetRun", get).run).state != record_pb2.RUN_STATE_RUNNING and run
        )
    )
    assert run.state == record_pb2.RUN_STATE_CRASHED
    assert run.reason == f"Its process {trainer.pid} vanished without finishing."
    assert run.row_count == 1


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_sidecar(sidecar: Any) -> None:
    """0600 in a 0700 directory; removed at the end; SIGTERM ends with exit code 0."""
    path = Path(sidecar.address.removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(sidecar.data_dir.stat().st_mode) == 0o700
    code, output = sidecar.stop()
    assert code == 0
    assert sidecar.address in output
    assert not path.exists()


def test_health_and_reflection_are_on(sidecar: Any) -> None:
    """The standard health check says SERVING for the service."""
    with grpc.insecure_channel(sidecar.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="pillion.v1.TelemetryService"), timeout=30
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_second_sidecar_says_who_has_the_place_and_a_third_follows_a_killed_one(
    sidecar: Any, tmp_path: Path
) -> None:
    """Neither the data directory nor the socket is ever shared; SIGKILL leaves no lock behind."""
    serve = [sys.executable, "-m", "pillion_sidecar", "serve", "--wandb-mode", "disabled"]
    places = [
        ("--data-dir", str(sidecar.data_dir), "--listen", "127.0.0.1:0"),
        ("--data-dir", str(tmp_path / "other"), "--listen", sidecar.address),
    ]
    for place in places:
        second = subprocess.run([*serve, *place], capture_output=True, text=True, check=False)
        assert second.returncode == 75
        assert f"process {sidecar.process.pid} at " in second.stderr
    assert start(sidecar).run_id == "run"
    sidecar.kill()
    sidecar.start()
    assert start(sidecar).is_resumed


def test_tcp_needs_the_token(make_sidecar: Callable[..., Any]) -> None:
    """On loopback TCP every call without the token is refused, and the token file is private."""
    sidecar = make_sidecar("--wandb-mode", "disabled", listen="127.0.0.1:0")
    assert stat.S_IMODE((sidecar.data_dir / "token").stat().st_mode) == 0o600
    assert start(sidecar).run_id == "run"
    assert sidecar.log(batch("run", 1, [1.0]))[0].acked_sequence == 1
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        sidecar.token = lambda metadata=metadata: metadata
        for call in (lambda: start(sidecar), lambda: sidecar.log(batch("run", 2, [1.0]))):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    """Without TLS there is nothing but UNIX sockets and loopback."""
    serve = [sys.executable, "-m", "pillion_sidecar", "serve", "--listen", "0.0.0.0:0"]
    refused = subprocess.run(
        [*serve, "--data-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "TLS" in refused.stderr


def test_a_socket_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """The rights of the directory are the check, so the sidecar looks at them first."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    serve = [sys.executable, "-m", "pillion_sidecar", "serve", "--listen", f"unix:{shared}/s.sock"]
    refused = subprocess.run(
        [*serve, "--data-dir", str(tmp_path / "data")], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "chmod 0700" in refused.stderr


def test_what_is_made_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    """No file of a sidecar with W&B can be read by others, in a directory that was there before."""
    (tmp_path / "data").mkdir(mode=0o755)
    serve = (
        f"import os; os.umask(0); os.execv({sys.executable!r}, [{sys.executable!r}, '-m', "
        f"'pillion_sidecar', 'serve', '--data-dir', {str(tmp_path / 'data')!r}, "
        f"'--listen', '127.0.0.1:0'])"
    )
    process = subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "listens at" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 0
    made = [path for path in (tmp_path / "data").rglob("*") if not path.is_symlink()]
    assert len(made) > 5
    assert [path for path in made if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("spoil", ["shared", "not-a-socket", "empty-token", "odd-name"])
def test_a_place_that_is_not_safe_is_refused_and_left_as_it_is(tmp_path: Path, spoil: str) -> None:
    """A sentence and exit code 1: others can write there, or something else is in the place."""
    data_dir, listen = tmp_path / "data", f"unix:{tmp_path}/s.sock"
    data_dir.mkdir(mode=0o700)
    thesis = tmp_path / "s.sock"
    if spoil == "shared":
        data_dir.chmod(0o777)
    elif spoil == "not-a-socket":
        thesis.write_text("my thesis")
    elif spoil == "empty-token":
        (data_dir / "token").touch()
        listen = "127.0.0.1:0"
    else:
        data_dir = tmp_path / "what?"
    serve = [sys.executable, "-m", "pillion_sidecar", "serve", "--wandb-mode", "disabled"]
    refused = subprocess.run(
        [*serve, "--data-dir", str(data_dir), "--listen", listen],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert not thesis.exists() or thesis.read_text() == "my thesis"


def test_a_worker_that_is_killed_is_replaced(sidecar: Any, wait_until: Callable[..., Any]) -> None:
    """Also without its log folder: what comes later is delivered, and nothing twice."""
    start(sidecar)
    sidecar.log(batch("run", 1, [1.0, 2.0]))
    shutil.rmtree(sidecar.data_dir / "logs")
    subprocess.run(["pkill", "-KILL", "-P", str(sidecar.process.pid)], check=True)
    sidecar.log(batch("run", 2, [3.0]))
    status = pb2.GetStatusRequest(run_id="run")
    wait_until(lambda: sidecar.call("GetStatus", status).runs[0].sinks[0].delivered_row_count == 3)
    assert sidecar.call("GetRun", pb2.GetRunRequest(run_id="run")).run.row_count == 3
    assert sidecar.stop()[0] == 0
