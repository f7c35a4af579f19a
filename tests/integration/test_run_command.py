"""`pillion run`: a command's output, signals, exit code and end, as if nobody were in between."""

import hashlib
import json
import os
import platform
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import WAIT_S, environment

from pillion.process import process_identity
from pillion.spool import Kind, SpoolReader, spool_files
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.liveness import Liveness
from pillion_sidecar.records import Environment, RunId, WriterId
from pillion_sidecar.store import Store

PILLION = (sys.executable, "-m", "pillion_sidecar")
STOPPED, FAILED = record_pb2.RUN_STATE_STOPPED, record_pb2.RUN_STATE_FAILED
FINISHED, CRASHED = record_pb2.RUN_STATE_FINISHED, record_pb2.RUN_STATE_CRASHED
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")

NOTING = """
import signal, sys, time
def note(number, _):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(5)
for number in map(int, sys.argv[1:]):
    signal.signal(number, note)
print("ready", flush=True)
while True:
    signal.pause()
"""
"""Prints what reaches it, and ends at SIGTERM. Its arguments are the signals it takes."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment of a fresh user; end the sidecar that was started for it."""
    runtime = Path(tempfile.mkdtemp(prefix="pillion-test-"))
    variables = environment(
        HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "data"), XDG_RUNTIME_DIR=str(runtime)
    )
    variables["PILLION_DATA_DIR"] = str(tmp_path / "d")
    variables["PILLION_WANDB_MODE"] = "disabled"
    yield variables
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(holder_of(tmp_path / "d"), signal.SIGKILL)


@pytest.fixture
def start(sidecar: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts `pillion run --id r … -- COMMAND` at a running sidecar."""
    stack = ExitStack()

    def run(*command: str, flags: Sequence[str] = (), **keywords: Any) -> Any:
        arguments = ("run", "--id", "r", "--address", sidecar.address, *flags, "--", *command)
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
        process = subprocess.Popen(
            [*PILLION, *arguments], cwd=tmp_path, env=environment(), **keywords
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    with stack:
        yield run


def run_of(sidecar: Any, run_id: str = "r") -> Any:
    """Ask for a run."""
    return sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id)).run


def holder_of(data_dir: Path) -> int:
    """Return the process of the sidecar that has a data directory."""
    return int((data_dir / "lock").read_text(encoding="utf-8").split()[0])


def is_dead(pid: int) -> bool:
    """Tell whether a process has ended, even if nobody has asked how."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True


def console_of(sidecar: Any, run_id: str = "r") -> list[tuple[int, str]]:
    """Return what was printed, by stream."""
    run_of(sidecar, run_id)  # waits until it is there
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    found = [(int(c.stream), line) for c in store.console(RunId(run_id)) for line in c.lines]
    store.close()
    return found


def test_output_exit_code_and_end_are_those_of_the_command(
    sidecar: Any, start: Callable[..., Any]
) -> None:
    """Each stream comes through byte for byte; the run has the lines and the end."""
    script = r"printf 'a\nb\r50%%\r100%%\n\377\000no end'; echo oops >&2; exit 3"
    process = start("sh", "-c", script, flags=["--name", "n", "--tag", "x", "--tag", "y"])
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert output == b"a\nb\r50%\r100%\n\xff\x00no end"
    first, middle, *last = errors.decode().splitlines()
    assert first == "pillion: run n (r) of project uncategorized: sh"
    assert middle == "oops"
    assert last[0] == "pillion: run n (r) failed: Exit code 3."
    run = run_of(sidecar)
    assert (run.state, run.exit_code, run.reason) == (FAILED, 3, "Exit code 3.")
    assert (run.name, list(run.tags)) == ("n", ["x", "y"])
    lines = [(1, "a"), (1, "100%"), (1, "\ufffd\x00no end")]
    assert sorted(console_of(sidecar)) == sorted([*lines, (2, "oops")])


def test_much_output_comes_through_whole(sidecar: Any, start: Callable[..., Any]) -> None:
    """Of a flood the run keeps a part; who reads the output gets all of it."""
    process = start("seq", "1000000", flags=["--quiet"])
    output, errors = process.communicate(timeout=WAIT_S)
    expected = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()
    assert hashlib.sha256(output).digest() == hashlib.sha256(expected).digest()
    assert errors == b""
    lines = [line for _, line in console_of(sidecar)]
    assert lines[:2] == ["1", "2"]
    assert lines[-1].endswith("left out: too many at once") or lines[-1] == "1000000"


def test_streams_that_go_to_one_place_keep_their_order(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """With `2>&1` the lines stand as they were printed."""
    script = "for i in 1 2 3 4 5 6 7 8; do echo o$i; echo e$i >&2; done"
    process = start("sh", "-c", script, flags=["--quiet"], stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert output.decode().split() == [f"{s}{i}" for i in range(1, 9) for s in "oe"]


def test_input_comes_through(start: Callable[..., Any]) -> None:
    """Standard input is the command's."""
    process = start("cat", stdin=subprocess.PIPE)
    assert process.communicate(b"through\x00it", timeout=WAIT_S)[0] == b"through\x00it"


def test_command_joins_its_run(sidecar: Any, start: Callable[..., Any]) -> None:
    """`init` without an id is another writer of the run; its end tells more than an exit code."""
    code = (
        "import pillion\nrun = pillion.init(config={'lr': 1}, resume='never')\n"
        "run.log({'loss': 0.5})\nraise ValueError('diverged')"
    )
    process = start(sys.executable, "-c", code)
    assert process.communicate(timeout=WAIT_S) is not None
    assert process.returncode == 1
    run = run_of(sidecar)
    assert (run.state, run.exit_code, run.row_count) == (FAILED, 1, 1)
    assert run.reason == "ValueError: diverged"
    assert from_key_values(run.config) == {"lr": 1}


def test_a_command_says_what_its_run_is(sidecar: Any, start: Callable[..., Any]) -> None:
    """Name and project that only the trainer gives count, and where it runs, without secrets."""
    code = (
        "import sys, pillion; run = pillion.init('theirs', 'named'); print(run.project, run.name)"
    )
    process = start(sys.executable, "-c", code, "--hf-token", "secret", flags=["--quiet"])
    output, errors = process.communicate(timeout=WAIT_S)
    assert output == b"theirs named\n", errors
    run = run_of(sidecar)
    assert (run.project, run.name) == ("theirs", "named")
    assert run.environment.python_version == platform.python_version()
    assert list(run.environment.arguments) == ["--hf-token", "[redacted]"]
    assert b"secret" not in (sidecar.data_dir / "store.db").read_bytes()
    other = subprocess.run(
        [
            *PILLION,
            "run",
            "--id",
            "s",
            "--address",
            sidecar.address,
            "--project",
            "ours",
            "--",
            sys.executable,
            "-c",
            code,
        ],
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert b"ours named" in other.stdout


def test_command_that_is_killed_has_crashed(sidecar: Any, start: Callable[..., Any]) -> None:
    """It could say nothing; who ran it knows, and tells the signal."""
    code = (
        "import os, pillion\nrun = pillion.init()\nrun.log({'loss': 0.5})\nassert run.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    process = start(sys.executable, "-c", code)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 137
    run = run_until_ended(sidecar)
    assert (run.state, run.row_count) == (CRASHED, 1)
    assert (run.exit_code, run.reason) == (137, "Killed by SIGKILL.")


def run_until_ended(sidecar: Any) -> Any:
    """Ask for the run until all its writers have ended."""
    while (run := run_of(sidecar)).state == record_pb2.RUN_STATE_RUNNING:
        pass  # each question takes its time
    return run


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        ("no-such-command", 127, "no-such-command: it cannot be run: there is no such command."),
        ("/etc/passwd", 126, "/etc/passwd: it cannot be run: Permission denied."),
    ],
)
def test_command_that_cannot_be_started_is_told(
    sidecar: Any, start: Callable[..., Any], command: str, code: int, reason: str
) -> None:
    """With a shell's exit code, a sentence, and a run that failed."""
    process = start(command, flags=["--quiet"])
    _, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, errors.decode()) == (code, f"pillion: {reason}\n")
    run = run_of(sidecar)
    assert (run.state, run.exit_code, run.reason) == (FAILED, code, reason)


def test_signals_are_forwarded(start: Callable[..., Any]) -> None:
    """What is sent to us is the command's, each once and in order."""
    names = ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"]
    numbers = [str(int(signal.Signals[name])) for name in names]
    process = start(sys.executable, "-c", NOTING, *numbers, flags=["--quiet"])
    assert process.stdout.readline() == b"ready\n"
    for name in names:
        process.send_signal(signal.Signals[name])
        assert process.stdout.readline().decode() == f"{name}\n"
    assert process.stdout.read() == b""
    assert process.wait(WAIT_S) == 5


def test_command_that_a_signal_stopped_is_told_so(sidecar: Any, start: Callable[..., Any]) -> None:
    """The exit code is the shell's, the state says that somebody wanted it."""
    process = start("sh", "-c", "echo ready; exec sleep 1000", flags=["--quiet"])
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 143
    run = run_of(sidecar)
    assert (run.state, run.exit_code, run.reason) == (STOPPED, 143, "Stopped by SIGTERM.")


def test_signal_that_is_ignored_stays_ignored(start: Callable[..., Any]) -> None:
    """Under `nohup` the command does not get the hang-up either, though it would take it."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    code = "import signal; print(signal.getsignal(signal.SIGHUP).name, flush=True); input()"
    process = start(
        *(sys.executable, "-c", code), preexec_fn=ignore, stdin=subprocess.PIPE, flags=["--quiet"]
    )
    assert process.stdout.readline() == b"SIG_IGN\n"
    process.send_signal(signal.SIGHUP)
    process.stdin.close()
    assert process.wait(WAIT_S) == 1


def test_terminal_stays_a_terminal_and_interrupts_once(
    sidecar: Any, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """The command sees the terminal's size; Ctrl-C there reaches it exactly once."""
    code = (
        "import os, sys\nassert sys.stdin.isatty() and sys.stdout.isatty()\n"
        f"print(os.get_terminal_size(), flush=True)\n{NOTING}"
    )
    pid, master = pty.fork()
    if pid == 0:
        arguments = ["run", "--quiet", "--id", "r", "--address", sidecar.address, "--"]
        numbers = [str(int(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        command = [*PILLION, *arguments, sys.executable, "-c", code, *numbers]
        os.execve(command[0], command, environment(COLUMNS="", LINES=""))
    printed = b""

    def read_until(end: bytes) -> None:
        nonlocal printed
        while end not in printed:
            printed += os.read(master, 4096)

    read_until(b"ready\r\n")
    assert b"os.terminal_size" in printed
    os.write(master, b"\x03")
    read_until(b"SIGINT\r\n")
    os.kill(pid, signal.SIGTERM)
    read_until(b"SIGTERM\r\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(master)
    assert printed.count(b"SIGINT") == 1
    assert [line for _, line in console_of(sidecar)][-3:] == ["ready", "SIGINT", "SIGTERM"]


def test_child_that_stays_behind_holds_nothing_up(start: Callable[..., Any]) -> None:
    """The command has ended when its own process has, whoever has its output open."""
    process = start("sh", "-c", "sleep 1000 & echo $!", flags=["--quiet"])
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    os.kill(int(output), signal.SIGKILL)


def test_command_learns_that_nobody_reads_on(start: Callable[..., Any]) -> None:
    """As it would without us: `yes | head -1` ends."""
    process = start("yes", flags=["--quiet"])
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(WAIT_S) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("address", ["unix:/proc/no/such.sock", "127.0.0.1:1"])
def test_command_runs_where_no_sidecar_can_be_had(tmp_path: Path, address: str) -> None:
    """Telemetry that is in trouble never stops a command; its console and end are spooled."""
    variables = environment(HOME=str(tmp_path), PILLION_SPOOL_DIR=str(tmp_path / "spool"))
    arguments = ["--data-dir", "/dev/null/x", "--address", address]
    done = subprocess.run(
        [*PILLION, "run", *arguments, "--", "sh", "-c", "echo done; exit 4"],
        capture_output=True,
        env=variables,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, b"done\n")
    assert b"The command is run all the same." in done.stderr
    (path,) = spool_files(tmp_path / "spool")
    reader = SpoolReader.adopt(path)
    assert reader is not None
    records = {record.kind: record.payload for record in reader.records()}
    reader.close()
    (printed,) = pb2.LogMetricsRequest.FromString(records[Kind.BATCH]).batch.records
    assert list(printed.console_lines.lines) == ["done"]
    finish = pb2.FinishRunRequest.FromString(records[Kind.FINISH])
    assert (finish.exit_code, finish.reason) == (4, "Exit code 4.")


def test_sidecar_is_started_once_and_outlives_the_command(
    home: dict[str, str], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """Two that start at the same time get one between them, both work, and SIGTERM ends it."""
    command = [*PILLION, "run", "--quiet", "--", "printenv", "PILLION_RUN_ID"]
    started = [
        subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=WAIT_S) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert [errors for _, errors in outputs] == [b"", b""]
    shown = subprocess.run([*PILLION, "runs", "--json"], env=home, capture_output=True, check=True)
    runs = {run["run_id"]: run["state"] for run in json.loads(shown.stdout)["runs"]}
    assert runs == {output.decode().strip(): "FINISHED" for output, _ in outputs}
    holder = holder_of(tmp_path / "d")
    assert os.getsid(holder) == holder
    log = (tmp_path / "d" / "logs" / "sidecar.log").read_text(encoding="utf-8")
    assert log.count(" listens at ") == 1
    os.kill(holder, signal.SIGTERM)
    wait_until(lambda: is_dead(holder))


def test_token_of_a_sidecar_on_tcp_is_handed_on(make_sidecar: Callable[..., Any]) -> None:
    """By the environment, never as an argument, which every user of the host can read."""
    sidecar = make_sidecar("--wandb-mode", "disabled", listen="127.0.0.1:0")
    done = subprocess.run(
        [
            *(*PILLION, "run", "--quiet", "--id", "r", "--address", sidecar.address),
            *("--data-dir", str(sidecar.data_dir), "--"),
            *("sh", "-c", "printenv PILLION_TOKEN; cat /proc/$PPID/cmdline"),
        ],
        capture_output=True,
        env=environment(),
        timeout=WAIT_S,
        check=True,
    )
    token, arguments = done.stdout.split(b"\n", 1)
    assert token.decode() == (sidecar.data_dir / "token").read_text(encoding="ascii").strip()
    assert token not in arguments
    assert run_of(sidecar).state == FINISHED


def test_sidecar_that_is_idle_and_drained_ends_by_itself(make_sidecar: Callable[..., Any]) -> None:
    """A while after its last writer has ended, with everything in its sinks."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--end-when-idle-s", "8")
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="other", writer_id="w"))
    arguments = ["--id", "r", "--address", sidecar.address, "--data-dir", str(sidecar.data_dir)]
    code = "import pillion; run = pillion.init(); run.log({'loss': 0.5}); run.finish()"
    command = [*PILLION, "run", *arguments, "--", sys.executable, "-c", code]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="other", writer_id="w"))
    assert sidecar.process.wait(WAIT_S) == 0
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    run = store.run(RunId("r"))
    store.close()
    assert run is not None
    assert (run.state, run.row_count) == (FINISHED, 1)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """Make a control group that may have 64 MiB."""
    group = MEMORY_GROUPS / f"pillion-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(64 * 2**20), encoding="ascii")
    yield group
    group.rmdir()


EATING = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
print("ready", flush=True)
input()
eaten = bytearray(256 * 2**20)
"""


def test_process_that_ran_out_of_memory_is_told_so(memory_group: Path) -> None:
    """The kernel's own count of its control group says why it vanished."""
    with subprocess.Popen(
        [sys.executable, "-c", EATING, str(memory_group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        liveness = Liveness()
        identity = process_identity(process.pid)
        liveness.add(RunId("run"), WriterId("w"), Environment(process=identity))
        assert liveness.gone() == []
        process.communicate(b"\n")
    assert process.returncode == -signal.SIGKILL
    ((_, _, reason),) = liveness.gone()
    assert reason == (
        f"Its process {process.pid} vanished without finishing; memory had run out in its control "
        "group."
    )


def test_command_that_ran_out_of_memory_is_told_so(
    sidecar: Any, memory_group: Path, start: Callable[..., Any]
) -> None:
    """The same under `pillion run`, which knows the signal too."""

    def enter() -> None:
        (memory_group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    (memory_group / "memory.limit_in_bytes").write_text(str(512 * 2**20), encoding="ascii")
    process = start(sys.executable, "-c", "x = bytearray(2**30)", preexec_fn=enter)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 137
    run = run_of(sidecar)
    assert (run.state, run.reason) == (CRASHED, "Killed by SIGKILL: memory ran out.")
