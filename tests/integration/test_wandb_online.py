"""W&B online: real trainers, the real sidecar and SDK, and a stand-in for W&B's server.

Each row, config, summary and exit code arrives once, whatever the server answers and whoever dies.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from online_trainer import CODE, check_arrived
from processes import WAIT_S, SidecarProcess, environment, pids_below
from wandb_server import TEAM, USER, WandbServer

from pillion.v1 import telemetry_service_pb2 as pb2

pytestmark = pytest.mark.timeout(1200)  # uploads that fail are tried again after ever longer pauses

OTHER_KEY = "another0" * 5


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """Return a server; nothing may have come to it that it does not know."""
    with WandbServer() as server:
        yield server
        assert server.unknown == []


@pytest.fixture
def online(server: WandbServer, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Return a sidecar that has a key for the server."""
    sidecar = SidecarProcess(tmp_path, "--wandb-send-interval-s", "1")
    start(sidecar, server)
    yield sidecar
    sidecar.close()


def start(sidecar: SidecarProcess, server: WandbServer) -> None:
    """Start a sidecar that finds address and key in its environment."""
    sidecar.start(WANDB_BASE_URL=server.base_url, WANDB_API_KEY=server.key)


def train(
    run_python: Callable[..., Any], sidecar: SidecarProcess, name: str, count: int, extra: str = "0"
) -> "subprocess.Popen[str]":
    """Start a trainer that logs `count` rows."""
    process: subprocess.Popen[str] = run_python(
        CODE, name, str(count), extra, "0", PILLION_ADDRESS=sidecar.address
    )
    return process


def pillion(sidecar: SidecarProcess, *arguments: str, key: str = "") -> Any:
    """Run a command that asks the sidecar; return its JSON."""
    result = subprocess.run(
        [sys.executable, "-m", "pillion_sidecar", *arguments, "--json"],
        env=environment(PILLION_ADDRESS=sidecar.address, PILLION_DATA_DIR=str(sidecar.data_dir)),
        input=key,
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def wait(sidecar: SidecarProcess) -> None:
    """Wait until everything is delivered."""
    assert pillion(sidecar, "wait", "--timeout-s", "300")["is_done"]


def status_of(sidecar: SidecarProcess, name: str) -> Any:
    """Return how a run stands at W&B."""
    (run,) = sidecar.call("GetStatus", pb2.GetStatusRequest(run_id=name)).runs
    return next(sink for sink in run.sinks if sink.sink == "wandb")


def test_many_runs_of_several_trainers_arrive(
    online: SidecarProcess, server: WandbServer, run_python: Callable[..., Any]
) -> None:
    """Four at once, one after the other, to the number of twenty; each with its page."""
    names = [f"run-{number}" for number in range(20)]
    for first in range(0, len(names), 4):
        trainers = [train(run_python, online, name, 150) for name in names[first : first + 4]]
        for trainer, name in zip(trainers, names[first:], strict=False):
            assert trainer.wait(WAIT_S) == 0, trainer.stderr
            del name
    wait(online)
    for name in names:
        check_arrived(server, name, 150)
    runs = {run["run_id"]: run["url"] for run in pillion(online, "runs", "--limit", "20")["runs"]}
    assert runs == {name: f"{server.base_url}/{USER}/demo/runs/{name}" for name in names}
    compared = pillion(online, "compare", "run-1", "run-3", "run-2")
    assert compared["url"] == f"{server.base_url}/{USER}/demo/table?runSets=run-1,run-3,run-2"
    assert pillion(online, "compare", *names[:6])["url"] is None


def test_kills_lose_and_double_nothing(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """The worker, wandb-core and the sidecar, each while a run is being sent."""
    for name, kill in (("core", kill_core), ("worker", kill_worker), ("whole", kill_sidecar)):
        held = server.fail("hang", operation="file_stream", runs={name})
        trainer = train(run_python, online, name, 400)
        wait_until(lambda name=name: server.count("file_stream", name))
        kill(online)
        held.clear()
        if kill is kill_sidecar:
            start(online, server)
        assert trainer.wait(WAIT_S) == 0
    wait(online)
    for name in ("core", "worker", "whole"):
        check_arrived(server, name, 400)


def test_samples_of_the_system_arrive_once_among_the_rows(
    server: WandbServer,
    tmp_path: Path,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """They bear the step of the row before, also when the worker dies while they are sent."""
    sidecar = SidecarProcess(tmp_path, "--wandb-send-interval-s", "1", "--system-interval-s", "0.2")
    start(sidecar, server)
    try:
        trainer = run_python(CODE, "sampled", "60", "0", "0.1", PILLION_ADDRESS=sidecar.address)
        wait_until(lambda: server.count("file_stream", "sampled"))
        os.kill(sidecar.worker("wandb"), signal.SIGKILL)
        assert trainer.wait(WAIT_S) == 0
        wait(sidecar)
    finally:
        sidecar.close()
    rows = server.run("demo", "sampled").rows
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    logged = [row for row in rows if "loss" in row]
    assert [row["loss"] for row in logged] == [number / 8 for number in range(60)]
    samples = [row for row in rows if "system/memory_rss_gib" in row]
    assert len(samples) == len(rows) - 60 > 3
    steps = [row["global_step"] for row in rows]
    assert steps == sorted(steps)
    assert set(steps) == {3 * number for number in range(60)}


def check_no_key_is_told(sidecar: SidecarProcess, *keys: str) -> None:
    """Look for keys in what is on disk, what is answered, and what other processes could see."""
    told = {"status": sidecar.call("GetStatus", pb2.GetStatusRequest()).SerializeToString()}
    told["output"] = sidecar.output().encode()
    for directory in (sidecar.data_dir, sidecar.spool_dir):
        for path in directory.rglob("*"):
            if path.is_file() and path.parent != sidecar.data_dir / "keys":
                with suppress(FileNotFoundError):  # gone since it was listed
                    told[str(path)] = path.read_bytes()
    assert sidecar.process is not None
    for pid in (sidecar.process.pid, *pids_below(sidecar.process.pid)):
        for name in ("cmdline", "environ"):
            with suppress(OSError):  # it has just ended
                told[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    assert len(told) > 10
    assert [name for name, text in told.items() if any(key.encode() in text for key in keys)] == []


def wandb_processes(sidecar: SidecarProcess) -> tuple[int, int]:
    """Return the W&B worker and its wandb-core."""
    assert sidecar.process is not None
    worker = sidecar.worker("wandb")
    (core,) = pids_below(worker)
    return worker, core


def kill_core(sidecar: SidecarProcess) -> None:
    """Kill wandb-core."""
    os.kill(wandb_processes(sidecar)[1], signal.SIGKILL)


def kill_worker(sidecar: SidecarProcess) -> None:
    """Kill the worker."""
    os.kill(wandb_processes(sidecar)[0], signal.SIGKILL)


def kill_sidecar(sidecar: SidecarProcess) -> None:
    """Kill the sidecar."""
    sidecar.kill()


def test_server_that_goes_away_delays_nobody(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """At the start, in the middle and at the end: training ends all the same, all arrives after."""
    server.stop_listening()
    assert train(run_python, online, "start", 100).wait(WAIT_S) == 0
    wait_until(lambda: "does not answer" in status_of(online, "start").last_error)
    assert status_of(online, "start").lag_row_count == 100
    server.listen_again()
    wait(online)
    server.fail(503, operation="file_stream", times=3)
    server.fail(429, operation="file_stream", retry_after_s=1, times=3)
    assert train(run_python, online, "middle", 100).wait(WAIT_S) == 0
    wait(online)
    server.fail("drop", runs={"last"}, times=4)
    assert train(run_python, online, "last", 100).wait(WAIT_S) == 0
    wait(online)
    for name in ("start", "middle", "last"):
        check_arrived(server, name, 100)


def test_a_throttled_run_waits_as_it_is_told_and_no_other_does(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """As the server counts: none comes before it may. Others do, also to an oddly named project."""
    until_told = """
import sys, threading, pillion
run, told = pillion.init(id="other", project="de/mo?", quiet=True), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
while not told.wait(0.05): run.log({"loss": 1.0})
run.finish()
"""
    other = run_python(until_told, PILLION_ADDRESS=online.address)
    wait_until(lambda: server.count("file_stream", "other"))
    server.fail(429, operation="file_stream", runs={"throttled"}, retry_after_s=8, times=1)
    throttled = train(run_python, online, "throttled", 100)
    wait_until(lambda: server.count("file_stream", "throttled") > 1)
    other.communicate("")
    assert (throttled.wait(WAIT_S), other.returncode) == (0, 0)
    wait(online)
    check_arrived(server, "throttled", 100)
    posts_s, others_s = (server.times_s("file_stream", name) for name in ("throttled", "other"))
    refused_s, again_s = posts_s[:2]
    assert again_s - refused_s >= 8
    assert any(refused_s < post_s < again_s for post_s in others_s)
    rows = server.run("de-mo-", "other").rows
    assert [row["_step"] for row in rows] == [*range(len(rows))]


def test_refused_key_pauses_its_runs_until_it_is_mended(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """Those of another key never notice; the new key is told by nobody."""
    server.accept_key(OTHER_KEY, USER, TEAM)
    server.refuse_key(server.key)
    assert train(run_python, online, "paused", 100).wait(WAIT_S) == 0
    wait_until(lambda: "does not take the key" in status_of(online, "paused").last_error)
    other = pillion(
        online, "configure", "--credential", "crew", "--api-key-file", "-", key=OTHER_KEY
    )
    assert other["available"]
    assert other["credentials"]["crew"]["has_key"]
    assert train(run_python, online, "other", 100).wait(WAIT_S) == 0
    assert pillion(online, "wait", "other", "--timeout-s", "300")["is_done"]
    check_arrived(server, "other", 100)
    assert "paused" not in server.runs
    refused = pillion(
        online, "configure", "--credential", "", "--api-key-file", "-", key="wrong" * 8
    )
    assert not refused["available"]
    assert "does not take the key" in refused["problem"]
    mended = pillion(online, "configure", "--api-key-file", "-", key=OTHER_KEY)
    assert (mended["available"], mended["problem"]) == (True, None)
    wait(online)
    check_arrived(server, "paused", 100)
    assert online.stop()[0] == 0
    start(online, server)  # what was configured is kept
    assert pillion(online, "configure")["credential"] is None
    assert train(run_python, online, "later", 10).wait(WAIT_S) == 0
    wait(online)
    check_arrived(server, "later", 10)
    check_no_key_is_told(online, OTHER_KEY, server.key)


def test_poison_row_is_set_aside_and_a_refused_run_waits(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """Neither stops the rest; both are told with their reason."""
    server.fail(413, operation="file_stream", containing="6.02214076")
    server.fail(403, operation="UpsertBucket", runs={"refused"})
    assert train(run_python, online, "poisoned", 60, "6.02214076").wait(WAIT_S) == 0
    assert train(run_python, online, "refused", 60).wait(WAIT_S) == 0
    assert train(run_python, online, "healthy", 60).wait(WAIT_S) == 0
    for name in ("healthy", "poisoned"):
        assert pillion(online, "wait", name, "--timeout-s", "300")["is_done"]
    check_arrived(server, "healthy", 60)
    check_arrived(server, "poisoned", 60, without=30)
    poisoned = status_of(online, "poisoned")
    assert "W&B never takes 1 row (the first: number 30)" in poisoned.last_error
    assert "413" in poisoned.last_error
    assert (poisoned.delivered_row_count, poisoned.lag_row_count) == (59, 0)
    wait_until(lambda: "refuses the run: 403" in status_of(online, "refused").last_error)
    refused = status_of(online, "refused")
    assert refused.last_error_reason == "WANDB_REFUSED"
    assert pillion(online, "wait", "refused", "--timeout-s", "0")["stuck_count"] == 1
    assert pillion(online, "wait", "--timeout-s", "0")["stuck_count"] == 1
    server.heal()
    assert pillion(online, "wait", "refused", "--timeout-s", "300")["is_done"]
    check_arrived(server, "refused", 60)


def test_stop_in_wandbs_page_asks_that_run_alone(
    online: SidecarProcess,
    server: WandbServer,
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """Its trainer may look; another one's is not told."""
    code = """
import sys, threading, pillion
run = pillion.init(id=sys.argv[1], project="demo", quiet=True)
number = 0
while not run.should_stop and not sys.stdin.isatty() and number < int(sys.argv[2]):
    run.log({"number": number})
    number += 1
    threading.Event().wait(0.05)
    if number == 1: print("logging", flush=True)
print(run.should_stop, run.stop_reason, run.url, flush=True)
run.finish()
"""
    stopped = run_python(code, "stopped", "100000", PILLION_ADDRESS=online.address)
    assert stopped.stdout.readline() == "logging\n"
    wait_until(lambda: "stopped" in server.runs)
    server.press_stop("stopped")
    output, _ = stopped.communicate(timeout=300)
    url = f"{server.base_url}/{USER}/demo/runs/stopped"
    assert output == f"True Stop was pressed in W&B's page of the run. {url}\n"
    other = run_python(code, "other", "20", PILLION_ADDRESS=online.address)
    assert other.communicate(timeout=300)[0].splitlines()[-1].startswith("False ")
