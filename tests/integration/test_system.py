"""System metrics of real trainers by a real sidecar, without a line of code in the trainer."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from faults.oracle import Found, read_store, read_wandb
from processes import WAIT_S, SidecarProcess, environment, pids_below

from pillion.api import Client
from pillion.process import process_identity
from pillion.system import is_system
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.errors import SettingsError

WaitUntil = Callable[[Callable[[], Any]], Any]
MakeSidecar = Callable[..., SidecarProcess]
RunPython = Callable[..., subprocess.Popen[str]]

OFTEN = ("--system-interval-s", "0.2")
BURN_AND_HOLD = "held = b'x' * (100 << 20)\nwhile True: pass"
TRAINING = """
import sys, pillion
run = pillion.init(id=sys.argv[1])
for line in sys.stdin:
    for _ in range(int(line)):
        run.log({"loss": 1.0})
    run.flush()
    print(run.step, flush=True)
run.finish()
"""

ELSEWHERE = """
import dataclasses
import pillion._environment as told
own = told.process_identity
told.process_identity = lambda pid: dataclasses.replace(own(pid), boot_id="elsewhere")
"""
"""Has what follows tell its sidecar that it is on another host."""
FORKING = """
import os, sys, threading, time, pillion
run = pillion.init(id="forks")
def samples():
    return any(each.name == "pillion-system" for each in threading.enumerate())
while not samples() or not run.counts.acked:
    time.sleep(0.05)
if (pid := os.fork()) == 0:
    run.log({"child": 1.0})
    print(samples(), flush=True)
    sys.exit()
os.waitpid(pid, 0)
run.log({"loss": 1.0})
run.finish()
"""

FAKE_NVML = """
import os, time
from types import SimpleNamespace

class NVMLError(Exception):
    pass

def nvmlInit():
    pass

def nvmlShutdown():
    pass

def nvmlDeviceGetCount():
    while os.path.exists(os.environ["FAKE_NVML_HANGS"]):
        time.sleep(0.1)
    return 2

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetComputeRunningProcesses(index):
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [SimpleNamespace(pid=pid) for pid in pids] if index == 1 else []

def nvmlDeviceGetUtilizationRates(index):
    return SimpleNamespace(gpu=97)

def nvmlDeviceGetPowerUsage(index):
    return 351250

def nvmlDeviceGetMemoryInfo(index):
    raise NVMLError("not supported")
"""
"""Two GPUs, on the second of which every process computes; of it only two figures are known."""


class Trainer:
    """A trainer that logs rows when it is told to."""

    def __init__(
        self,
        run_python: RunPython,
        sidecar: SidecarProcess,
        run_id: str,
        code: str = TRAINING,
        **variables: str,
    ) -> None:
        self.process = run_python(code, run_id, PILLION_ADDRESS=sidecar.address, **variables)

    def log(self, row_count: int) -> int:
        """Log rows; return the trainer's next step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{row_count}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """End well."""
        self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0


def run_of(sidecar: SidecarProcess, run_id: str) -> Any:
    """Ask for a run."""
    return sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id)).run


def summary_of(sidecar: SidecarProcess, run_id: str) -> dict[str, Any]:
    """Ask for a run's last values."""
    return from_key_values(run_of(sidecar, run_id).summary)


def rows_of(sidecar: SidecarProcess, run_id: str) -> tuple[list[Found], list[Found]]:
    """Return a run's rows in the store: those of its trainer, and the samples."""
    rows: list[Found] = []
    with suppress(SettingsError):  # there is no store yet
        rows, _ = read_store(f"sqlite:///{sidecar.data_dir}/store.db", run_id)
    samples = [row for row in rows if all(map(is_system, row.values))]
    return [row for row in rows if row not in samples], samples


def sampler_of(sidecar: SidecarProcess) -> int:
    """Return the sampler's process; 0: there is none just now."""
    assert sidecar.process is not None
    for pid in pids_below(sidecar.process.pid):
        with suppress(OSError):  # it has just ended
            if b"pillion_sidecar.sampler" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def test_rows_come_beside_the_trainers_own_and_move_nothing_of_it(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """They bear the step of the row before; steps, numbers and the end are as without them."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN)
    trainer = Trainer(run_python, sidecar, "first")
    wait_until(lambda: len(rows_of(sidecar, "first")[1]) >= 2)
    assert {row.step for row in rows_of(sidecar, "first")[1]} == {0}
    assert trainer.log(10) == 10
    wait_until(lambda: {row.step for row in rows_of(sidecar, "first")[1]} >= {0, 9})
    assert trainer.log(10) == 20
    trainer.end()
    wait_until(lambda: run_of(sidecar, "first").state == record_pb2.RUN_STATE_FINISHED)
    rows, samples = rows_of(sidecar, "first")
    assert [row.step for row in rows] == list(range(20))
    assert run_of(sidecar, "first").row_count == 20 + len(samples)
    other = Trainer(run_python, sidecar, "second")
    wait_until(lambda: len(rows_of(sidecar, "second")[1]) >= 3)
    assert rows_of(sidecar, "first") == (rows, samples)
    other.end()
    resumed = Trainer(run_python, sidecar, "first")
    assert resumed.log(1) == 21  # and not behind the samples
    resumed.end()
    assert sidecar.stop()[0] == 0


def test_sampler_that_is_killed_comes_back(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """As does a sidecar, which knows its runs, and their last steps, again."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN)
    assert sampler_of(sidecar) == 0  # nothing is to be sampled yet
    trainer = Trainer(run_python, sidecar, "killed")
    trainer.log(5)
    first = wait_until(lambda: sampler_of(sidecar))
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sampler_of(sidecar) not in (0, first))
    count = len(rows_of(sidecar, "killed")[1])
    wait_until(lambda: len(rows_of(sidecar, "killed")[1]) > count)
    sidecar.kill()
    count = len(rows_of(sidecar, "killed")[1])
    sidecar.start()
    wait_until(lambda: len(rows_of(sidecar, "killed")[1]) > count + 3)
    assert rows_of(sidecar, "killed")[1][-1].step == 4
    trainer.end()


def test_rows_reach_w_and_b_once_as_any_others(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """Also those of before its worker was killed, which begins the run's file anew."""
    sidecar = make_sidecar("--wandb-mode", "offline", *OFTEN)
    trainer = Trainer(run_python, sidecar, "both")
    trainer.log(3)
    wait_until(lambda: len(rows_of(sidecar, "both")[1]) >= 2)
    (worker,) = [
        each.pid
        for each in sidecar.call("GetStatus", pb2.GetStatusRequest()).workers
        if each.sink == "wandb"
    ]
    os.kill(worker, signal.SIGKILL)
    count = len(rows_of(sidecar, "both")[1])
    wait_until(lambda: len(rows_of(sidecar, "both")[1]) > count)
    trainer.log(3)
    trainer.end()
    code, output = sidecar.stop()
    assert code == 0, output
    stored, _ = read_store(f"sqlite:///{sidecar.data_dir}/store.db", "both")
    assert read_wandb(sidecar.data_dir / "wandb" / "wandb", "both") == stored
    assert [row.step for row in stored if "loss" in row.values] == list(range(6))
    assert sum("system/memory_rss_gib" in row.values for row in stored) > count


def test_what_nobody_has_named_is_shown_without_them(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """And with them when they are named; an export is every row."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN)
    trainers = [Trainer(run_python, sidecar, run_id) for run_id in ("a", "b")]
    for run_id, trainer in zip(("a", "b"), trainers, strict=True):
        trainer.log(5)
        wait_until(lambda run_id=run_id: len(rows_of(sidecar, run_id)[1]) >= 2)
        trainer.end()
    with Client(sidecar.address) as client:
        run = client.run("a")
        assert [row.keys() - {"_ordinal", "_step", "_time"} for row in run.rows()] == [{"loss"}] * 5
        assert len(run.rows("*")) == run.row_count > 5
        assert all("loss" not in row for row in run.rows("system/*"))
        by_step = run.history("*", by="step")
        assert by_step["system/memory_rss_gib"].max() > 0
        found = client.compare(["a", "b"])
        assert [*found.metrics] == ["loss"]
        assert found.metric == "loss"
        named = client.compare(["a", "b"], series=["system/memory_rss_gib"])
        assert [*named.metrics] == ["loss", "system/memory_rss_gib"]
    command = (sys.executable, "-m", "pillion_sidecar", "export", "a", "--format", "jsonl")
    exported = subprocess.run(
        [*command, "--address", sidecar.address],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert exported.stdout.count("\n") == run.row_count
    assert "system/memory_rss_gib" in exported.stdout


def test_gpus_come_with_the_rest_and_hold_nothing_up_when_they_hang(
    make_sidecar: MakeSidecar,
    run_python: RunPython,
    wait_until: WaitUntil,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fake stands for a driver; what it tells is journaled, and while it hangs the rest is."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pynvml.py").write_text(FAKE_NVML, encoding="utf-8")
    hanging = tmp_path / "hanging"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/fake:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAKE_NVML_HANGS", str(hanging))
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN)
    trainer = Trainer(run_python, sidecar, "gpu")

    def gpus() -> list[dict[str, Any]]:
        return [
            {key: row.values[key] for key in row.values if key.startswith("system/gpu/")}
            for row in rows_of(sidecar, "gpu")[1]
        ]

    expected = {"system/gpu/1/utilization_percent": 97.0, "system/gpu/1/power_w": 351.25}
    wait_until(lambda: expected in gpus())
    hanging.touch()
    wait_until(lambda: gpus()[-1] == {})
    count = len(gpus())
    assert trainer.log(3) == 3
    wait_until(lambda: len(gpus()) > count + 2)
    assert gpus()[-1] == {}
    trainer.end()
    code, output = sidecar.stop()
    assert code == 0, output


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment of a fresh user, whose sidecar samples often and ends by itself."""
    with tempfile.TemporaryDirectory(prefix="pillion-test-") as runtime:
        yield environment(
            HOME=str(tmp_path),
            XDG_RUNTIME_DIR=runtime,
            PILLION_DATA_DIR=str(tmp_path / "d"),
            PILLION_WANDB_MODE="disabled",
            PILLION_SYSTEM_INTERVAL_S="0.2",
        )


def test_any_command_is_sampled_without_a_line_of_code(
    home: dict[str, str], tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Its CPU and memory count, the sidecar's that was started for it does not."""
    command = (sys.executable, "-m", "pillion_sidecar", "run", "--id", "burn", "--")
    burn = (sys.executable, "-c", BURN_AND_HOLD)
    store = tmp_path / "d" / "store.db"

    def last() -> dict[str, Any]:
        rows: list[Found] = []
        with suppress(SettingsError):  # there is no store yet
            rows, _ = read_store(f"sqlite:///{store}", "burn")
        samples = [row.values for row in rows if "system/cpu_percent" in row.values]
        return samples[-1] if samples else {}

    with subprocess.Popen(
        [*command, *burn], cwd=tmp_path, env=home, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: last().get("system/cpu_percent", 0) > 10)
            wait_until(lambda: last()["system/memory_rss_gib"] > 100 / 1024)
            assert last()["system/processes"] == 1  # the command, and not `pillion run`
        finally:
            process.terminate()
            holder = (tmp_path / "d" / "lock").read_text(encoding="utf-8").split()[0]
            assert process.wait(WAIT_S) == 128 + signal.SIGTERM
            os.kill(int(holder), signal.SIGTERM)


def test_sidecar_that_nobody_needs_ends(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """Sampling keeps it no longer than its last writer."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN, "--end-when-idle-s", "15")
    trainer = Trainer(run_python, sidecar, "last")
    wait_until(lambda: rows_of(sidecar, "last")[1])
    trainer.end()
    assert sidecar.process is not None
    assert sidecar.process.wait(WAIT_S) == 0


def test_forked_child_of_a_trainer_that_samples_does_not(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """Its own rows come by the spool, as ever; its parent goes on."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN)
    trainer = run_python(ELSEWHERE + FORKING, PILLION_ADDRESS=sidecar.address)
    output, errors = trainer.communicate(timeout=WAIT_S)
    assert (output, trainer.returncode) == ("False\n", 0), errors
    wait_until(lambda: len(rows_of(sidecar, "forks")[0]) == 2)
    rows, samples = rows_of(sidecar, "forks")
    assert sorted(key for row in rows for key in row.values) == ["child", "loss"]
    assert samples


def test_trainer_on_another_host_samples_itself(
    make_sidecar: MakeSidecar, run_python: RunPython, wait_until: WaitUntil
) -> None:
    """Its sidecar asks for it over TCP; its own steps are as without, also after a resume."""
    sidecar = make_sidecar("--wandb-mode", "disabled", *OFTEN, listen="127.0.0.1:0")
    token = (sidecar.data_dir / "token").read_text(encoding="ascii").strip()
    remote = {"code": ELSEWHERE + TRAINING, "PILLION_TOKEN": token}
    trainer = Trainer(run_python, sidecar, "remote", **remote)
    assert trainer.log(5) == 5
    wait_until(lambda: {row.step for row in rows_of(sidecar, "remote")[1]} >= {4})
    assert trainer.log(3) == 8
    wait_until(lambda: {row.step for row in rows_of(sidecar, "remote")[1]} >= {4, 7})
    assert sampler_of(sidecar) == 0
    trainer.end()
    resumed = Trainer(run_python, sidecar, "remote", **remote)
    assert resumed.log(1) == 9
    resumed.end()
    wait_until(lambda: len(rows_of(sidecar, "remote")[0]) == 9)
    rows, samples = rows_of(sidecar, "remote")
    assert [row.step for row in rows] == list(range(9))
    assert samples[-1].values["system/processes"] == 1
    assert [row.ordinal for row in sorted(rows + samples, key=lambda row: row.ordinal)] == list(
        range(len(rows + samples))
    )


def test_one_place_samples_a_run(make_sidecar: MakeSidecar) -> None:
    """The sidecar, if it sees a writer; else the writer that came first, while it lives."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--system-interval-s", "30")

    def asked(run_id: str, writer_id: str, **process: Any) -> float:
        environment = record_pb2.Environment(process=process) if process else None
        request = pb2.StartRunRequest(run_id=run_id, writer_id=writer_id, environment=environment)
        return float(sidecar.call("StartRun", request).system_interval_s)

    elsewhere = {"boot_id": "elsewhere", "pid_namespace": 1, "pid": 7, "start_time_ticks": 5}
    identity = process_identity(os.getpid())
    assert identity is not None
    assert asked("r", "a", **elsewhere) == asked("r", "a", **elsewhere) == 30
    assert asked("r", "b", **elsewhere) == 0
    assert asked("other", "c", **elsewhere) == 30
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="r", writer_id="a"))
    assert asked("r", "b", **elsewhere) == 30
    assert asked("local", "d", **asdict(identity)) == 0
    assert asked("local", "e", **elsewhere) == 0
    assert asked("unknown", "f") == 0


def test_off_means_off(make_sidecar: MakeSidecar, run_python: RunPython) -> None:
    """0 is never: no process, and no row but the trainer's."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--system-interval-s", "0")
    trainer = Trainer(run_python, sidecar, "off")
    trainer.log(2)
    assert sampler_of(sidecar) == 0
    trainer.end()
    assert run_of(sidecar, "off").row_count == 2
    assert summary_of(sidecar, "off") == {"loss": 1.0}
