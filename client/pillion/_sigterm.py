"""SIGTERM, as schedulers send it: open runs end as STOPPED, then the process does, by the signal.

Only where the program leaves SIGTERM at its default when `init` is first called, in the main
thread; a handler of the program's own is never replaced. Python runs handlers between two steps of
the main thread: one that is stuck in a call of C ends only when it comes back, or by SIGKILL.
"""

import os
import signal
import threading
from types import FrameType

from pillion._run import FINISH_WAIT_S, open_runs

EXIT_CODE = 128 + signal.SIGTERM
LOCK_WAIT_S = 1.0
"""How long the main thread stands still for the end of its runs. It may have been interrupted while
it held a lock that the end needs, so it then goes on until they have ended."""

_ending: threading.Thread | None = None


def watch() -> None:
    """Begin to watch, if nobody else does."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _end)
        os.register_at_fork(after_in_child=_let_go)


def wait_for_signal() -> None:
    """At the interpreter's end: if SIGTERM was faster, the process ends by that."""
    if _ending is not None:
        _ending.join(FINISH_WAIT_S)


def _end(_number: int, _frame: FrameType | None) -> None:
    global _ending
    if _ending is None:
        _ending = threading.Thread(target=_finish_open_runs, daemon=True)
        _ending.start()
        _ending.join(LOCK_WAIT_S)
        if _ending.is_alive():
            return
    # The runs have ended, or somebody insists.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _finish_open_runs() -> None:
    runs = list(open_runs)
    for run in runs:
        run.begin_finish(EXIT_CODE, state="STOPPED", reason="Stopped by SIGTERM.")
    for run in runs:
        run.finish()
    os.kill(os.getpid(), signal.SIGTERM)  # handlers are the main thread's to set


def _let_go() -> None:
    """Give a forked child the default back: it is not the child's to end its parent's runs."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is _end
    ):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
