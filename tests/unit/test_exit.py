"""How a process ends: real interpreters, and what each tells its runs at the end.

The children start no threads and reach no sidecar: their run prints what it is told.
"""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

WAIT_S = 120.0

_RUN = """
import atexit, json, os, signal, sys, threading
from pillion import _exit
from pillion._link import Link
from pillion._messages import Start
from pillion._run import Run

class TellingRun(Run):
    def begin_finish(self, *positional, **how):
        print("finish", json.dumps([*positional, how]), flush=True)
    def finish(self, *positional, **how):
        pass
    def enter_child(self):
        super().enter_child()
        print("enter", flush=True)

start = Start("run", "w", "allow", {"name": "name", "project": "demo"}, {})
run = TellingRun(Link("unix:/nowhere/sidecar.sock", "", start), start, is_quiet=True)
_exit.watch()
"""


def end_of(code: str) -> tuple[int, list[str], str]:
    """Run code behind an open run; return exit code, what was told, and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN + code],
        env={**os.environ, "PILLION_SPOOL_DIR": "/dev/null/no/directory"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [
        pytest.param("pass", 0, '{"exit_code": 0}', id="plain-end"),
        pytest.param("sys.exit()", 0, '{"exit_code": 0}', id="exit"),
        pytest.param("sys.exit(0)", 0, '{"exit_code": 0}', id="exit-0"),
        pytest.param("sys.exit(3)", 3, '{"exit_code": 3}', id="exit-3"),
        pytest.param("sys.exit('sorry')", 1, '{"exit_code": 1}', id="exit-text"),
        pytest.param("exit(3)", 3, '{"exit_code": 3}', id="builtin-exit"),
        pytest.param("quit(3)", 3, '{"exit_code": 3}', id="builtin-quit"),
        pytest.param(
            "raise ValueError('bad')",
            1,
            '{"exit_code": 1, "reason": "ValueError: bad"}',
            id="exception",
        ),
        pytest.param(
            "raise KeyboardInterrupt",
            -signal.SIGINT,
            '{"exit_code": 130, "state": "STOPPED", "reason": "Stopped by SIGINT."}',
            id="keyboard-interrupt",
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGINT); signal.pause()",
            -signal.SIGINT,
            '{"exit_code": 130, "state": "STOPPED", "reason": "Stopped by SIGINT."}',
            id="ctrl-c",
        ),
        pytest.param(
            "try:\n  raise ValueError\nexcept ValueError: pass", 0, '{"exit_code": 0}', id="caught"
        ),
        pytest.param("raise SystemExit(3)", 3, '{"exit_code": 0}', id="bare-system-exit"),
    ],
)
def test_open_run_is_finished_as_the_process_ends(code: str, exit_code: int, told: str) -> None:
    """Code, exception and Ctrl-C are told; the process ends as it would without us."""
    returned, lines, _ = end_of(code)
    assert (returned, lines) == (exit_code, [f"finish [{told}]"])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        pytest.param(
            "thread = threading.Thread(target=sys.exit, args=[3])\nthread.start(); thread.join()",
            '{"exit_code": 0}',
            id="exit-of-a-thread",
        ),
        pytest.param(
            "sys.excepthook = lambda *_: None\nraise ValueError('bad')",
            '{"exit_code": 1, "reason": "ValueError: bad"}',
            id="hook-replaced",
        ),
        pytest.param(
            "sys.exit(2**40)",
            '{"exit_code": 0}',
            id="code-as-the-parent-sees-it",
        ),
    ],
)
def test_end_is_told_as_it_is(code: str, told: str) -> None:
    """What the run is told is what the process's parent sees."""
    _, lines, _ = end_of(code)
    assert lines == [f"finish [{told}]"]


def test_sigterm_ends_the_run_as_stopped_and_the_process_by_the_signal() -> None:
    """As the program would have ended without us, but for the word to the run."""
    code = "os.kill(os.getpid(), signal.SIGTERM); signal.pause()"
    returned, lines, _ = end_of(code)
    assert returned == -signal.SIGTERM
    assert lines == ['finish [143, {"state": "STOPPED", "reason": "Stopped by SIGTERM."}]']


def test_sigterm_that_the_program_handles_is_the_programs() -> None:
    """Whether its handler was there before `init` or came later; also one that ignores."""
    former = _RUN.replace("_exit.watch()", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    for code in (
        former + "_exit.watch(); os.kill(os.getpid(), signal.SIGTERM)",
        _RUN + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); "
        "os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode in {0, 9}
        assert done.stdout.splitlines() == [f'finish [{{"exit_code": {done.returncode}}}]']


def test_forked_child_dies_of_sigterm_at_once() -> None:
    """It has the default back: its parent's run is not its own to stop."""
    code = """
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGTERM); signal.pause()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    assert end_of(code)[1] == ["enter", "-15", 'finish [{"exit_code": 0}]']


def test_multiprocessing_child_that_has_a_run_of_its_own_ends_it() -> None:
    """Such a child never comes to the interpreter's end, and its exception is only in flight."""
    code = """
import multiprocessing
def work(how):
    own = TellingRun(Link("unix:/nowhere/s", "", start, is_child=True), start, is_quiet=True)
    _exit.watch()
    exec(how)
for how in ("pass", "raise ValueError('bad')", "sys.exit(3)"):
    process = multiprocessing.get_context("fork").Process(target=work, args=[how])
    process.start(); process.join()
"""
    inherited = {"enter", "finish [{}]"}
    assert [line for line in end_of(code)[1] if line not in inherited] == [
        'finish [{"exit_code": 0}]',
        'finish [{"exit_code": 1, "reason": "ValueError: bad"}]',
        'finish [{"exit_code": 3}]',
        'finish [{"exit_code": 0}]',
    ]


@pytest.mark.parametrize("code", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_process_that_is_killed_tells_nothing(code: str) -> None:
    """The sidecar sees it vanish."""
    returned, lines, _ = end_of(code)
    assert returned != 0
    assert lines == []


def test_traceback_is_printed_as_ever() -> None:
    """The hooks that were there before are called."""
    _, _, error = end_of("raise ValueError('bad')")
    assert error.endswith("ValueError: bad\n")


def test_exception_that_cannot_be_shown_is_told_all_the_same() -> None:
    """Its `str` may raise; the process's end is not the place to find out."""
    code = "class Bad(Exception):\n  def __str__(self): raise RuntimeError\nraise Bad"
    returned, lines, _ = end_of(code)
    assert (returned, lines) == (1, ['finish [{"exit_code": 1, "reason": "Bad: <Bad>"}]'])


def test_every_open_run_is_finished() -> None:
    """Also several in one process; each is told once, however often the watch is begun."""
    code = "other = TellingRun(Link('unix:/n', '', start), start, is_quiet=True); _exit.watch()"
    assert end_of(code)[1] == ['finish [{"exit_code": 0}]'] * 2


def test_what_is_logged_while_the_interpreter_ends_is_in_time() -> None:
    """Functions that were registered after `init` run before the run is finished."""
    code = "atexit.register(lambda: (run.log({'a': 1.0}), print(len(run._queue), flush=True)))"
    assert end_of(code)[1] == ["1", 'finish [{"exit_code": 0}]']


def test_forked_child_is_another_writer_that_ends_nothing() -> None:
    """Its end says nothing of the run, whatever its exit code; the parent's counts stay."""
    code = """
child = os.fork()
if child == 0:
    run.log({"a": 1.0}); run.log({"a": 1.0})
    counts = run.counts
    print("child", counts.queued + counts.unacked, counts.refused, flush=True)
    sys.exit(3)
os.waitpid(child, 0)
run.log({"a": 1.0})
print("parent", run.counts.queued, run.counts.refused, flush=True)
"""
    assert end_of(code)[1] == [
        *("enter", "child 2 0", "finish [{}]", "parent 1 0", 'finish [{"exit_code": 0}]')
    ]


@pytest.mark.parametrize(("method", "told"), [("fork", ["enter"]), ("spawn", [])])
def test_worker_processes_end_nothing(method: str, told: list[Any]) -> None:
    """The workers of a data loader come and go without a word, whatever their exit."""
    code = f"""
import multiprocessing
EXIT = "__import__('sys').exit(3)"
process = multiprocessing.get_context({method!r}).Process(target=eval, args=[EXIT])
process.start(); process.join()
print("worker", process.exitcode, flush=True)
"""
    assert end_of(code)[1] == [*told, "worker 3", 'finish [{"exit_code": 0}]']


def test_exit_is_still_what_users_know() -> None:
    """It can be handed to another process, as any function of a module."""
    code = "import pickle; print(pickle.loads(pickle.dumps(sys.exit)) is sys.exit, flush=True)"
    assert end_of(code)[1] == ["True", 'finish [{"exit_code": 0}]']
