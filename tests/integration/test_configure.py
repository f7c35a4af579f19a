"""W&B is set up while the sidecar runs: by Python and by RPC, by its owner, for new runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from processes import WAIT_S, SidecarProcess
from wandb_server import TEAM, USER, WandbServer

import pillion
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc
from pillion_sidecar.records import RunId
from pillion_sidecar.store import Store


def run_one(sidecar: SidecarProcess, run_id: str, **fields: Any) -> None:
    """Start a run and end it, without rows."""
    sidecar.call("StartRun", pb2.StartRunRequest(run_id=run_id, writer_id="w", **fields))
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id=run_id, writer_id="w"))


def sinks_of(sidecar: SidecarProcess, run_id: str) -> list[str]:
    """Return where a run goes."""
    (run,) = sidecar.call("GetStatus", pb2.GetStatusRequest(run_id=run_id)).runs
    return [sink.sink for sink in run.sinks]


def test_what_is_configured_holds_for_new_runs(make_sidecar: Callable[..., Any]) -> None:
    """Switched off, nothing of wandb runs; all else works. The sidecar ends by itself after it."""
    sidecar = make_sidecar("--wandb-mode", "offline", "--end-when-idle-s", "4")
    open_run = {"run_id": "open", "writer_id": "w"}  # so that it is not idle until the end
    sidecar.call("StartRun", pb2.StartRunRequest(**open_run))
    run_one(sidecar, "before")
    setup = pillion.configure(
        address=sidecar.address, project="studio", tags=["production"], credential="crew"
    )
    assert (setup.enabled, setup.available, setup.mode) == (True, True, "offline")
    assert (setup.project, setup.tags) == ("studio", ("production",))
    run_one(sidecar, "crew", tags=["own"])
    assert sinks_of(sidecar, "before") == ["store", "wandb"]
    assert sinks_of(sidecar, "crew") == ["store", "wandb-crew"]
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="crew")).run
    assert (run.project, list(run.tags)) == ("studio", ["own", "production"])
    off = pillion.configure(address=sidecar.address, enabled=False)
    assert (off.enabled, off.available, off.mode) == (False, False, "disabled")
    assert "switched off" in off.problem
    status = sidecar.call("GetStatus", pb2.GetStatusRequest())
    assert [worker.sink for worker in status.workers] == ["store"]
    run_one(sidecar, "off", project="given")
    assert sinks_of(sidecar, "off") == ["store"]
    assert pillion.configure(address=sidecar.address, enabled=True).mode == "offline"
    assert sinks_of(sidecar, "off") == ["store"]
    assert sinks_of(sidecar, "crew") == ["store", "wandb-crew"]
    sidecar.call("FinishRun", pb2.FinishRunRequest(**open_run))
    assert sidecar.process.wait(WAIT_S) == 0
    for directory, run_id in (("wandb", "before"), ("wandb-crew", "crew")):
        assert list((sidecar.data_dir / directory / "wandb").glob(f"offline-run-*-{run_id}"))
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    run = store.run(RunId("off"))
    store.close()
    assert run is not None
    assert run.project == "given"


REACH = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    if sys.argv[1].endswith(".sock"):
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    else:
        open(sys.argv[1]).close()
    print("reached")
except PermissionError:
    print("refused")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_reaches_neither_the_socket_nor_the_keys() -> None:
    """Where the directory above is open to all, what is made in it is still its owner's alone."""
    shared = Path(tempfile.mkdtemp(prefix="pillion-test-"))
    shared.chmod(0o755)
    sidecar = SidecarProcess(shared, listen=f"unix:{shared}/made/s.sock")
    try:
        pillion.configure(address=sidecar.start().address, mode="offline", api_key="k" * 40)
        (key,) = (shared / "data" / "keys").iterdir()
        for path in (shared / "made" / "s.sock", shared / "data" / "journal.db", key):
            command = [sys.executable, "-c", REACH, str(path)]
            assert subprocess.check_output(command, text=True) == "refused\n", path
            path.chmod(0o666)  # not the mode of the file alone keeps it
            assert subprocess.check_output(command, text=True) == "refused\n", path
    finally:
        sidecar.close()
        shutil.rmtree(shared)


def test_only_the_owner_configures_over_tcp(make_sidecar: Callable[..., Any]) -> None:
    """The token of trainers does not do; nor does nonsense, which changes nothing."""
    sidecar = make_sidecar("--wandb-mode", "disabled", listen="127.0.0.1:0")
    request = pb2.ConfigureRequest(project="theirs")
    with pytest.raises(grpc.RpcError) as refused:
        sidecar.call("Configure", request)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "admin-token" in refused.value.details()
    token = (sidecar.data_dir / "admin-token").read_text(encoding="ascii").strip()
    with pytest.raises(pillion.ConfigureError, match="mode: 'no' is none of"):
        pillion.configure(address=sidecar.address, token=token, project="x", mode="no")
    assert pillion.configure(address=sidecar.address, token=token).project == "uncategorized"
    setup = pillion.configure(address=sidecar.address, token=token, project="ours")
    assert setup.project == "ours"
    with grpc.insecure_channel(sidecar.address) as channel:
        stub = pb2_grpc.TelemetryServiceStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        assert stub.GetStatus(pb2.GetStatusRequest(), metadata=metadata).version


def test_without_a_sidecar_it_says_so() -> None:
    """And what to do."""
    with pytest.raises(pillion.ConfigureError, match="pillion serve"):
        pillion.configure(address="127.0.0.1:9")


def test_what_keeps_wandb_is_one_sentence_with_the_next_step(
    make_sidecar: Callable[..., Any],
) -> None:
    """The server away, the team unknown, the key refused; and nothing once all is well."""
    with WandbServer() as server:
        sidecar = make_sidecar("--wandb-mode", "online", "--wandb-base-url", server.base_url)
        assert "There is no W&B key" in pillion.configure(address=sidecar.address).problem
        server.stop_listening()
        away = pillion.configure(address=sidecar.address, api_key=server.key)
        assert (away.available, away.enabled) == (False, True)
        assert "does not answer (ConnectionError). Nothing is lost: it is tried again." in (
            away.problem
        )
        server.listen_again()
        unknown = pillion.configure(address=sidecar.address, entity="strangers")
        assert unknown.problem == (
            f"The key of {USER} may not write to the W&B entity strangers. Take one of {USER}, "
            f"{TEAM}, with `pillion configure --entity NAME`."
        )
        server.refuse_key(server.key)
        refused = pillion.configure(address=sidecar.address, entity=TEAM)
        assert "does not take the key. Give another with `pillion configure" in refused.problem
        server.accept_key(server.key, USER, TEAM)
        assert pillion.configure(address=sidecar.address, entity=TEAM).problem == ""
        assert pillion.configure(address=sidecar.address).available
