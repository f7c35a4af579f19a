"""How a process ends, when nobody called `finish`.

At the interpreter's end every open run is finished with what is known: the code given to
`sys.exit`, an exception that nobody caught, Ctrl-C, or a plain end; `_sigterm.py` adds SIGTERM. A
process that is killed gets no chance; the sidecar sees it vanish. The children of `multiprocessing`
do not come to the interpreter's end, but to that of `multiprocessing`. In a forked child every run
becomes another writer's; see `Run.enter_child`.
"""

import atexit
import builtins
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from pillion import _sigterm
from pillion._run import exit_code_of, open_runs
from pillion.plain import to_text

is_forked = False
"""Whether this process was forked from one that had a run: gRPC does not work here any more."""

_watching_pid = 0
_given_code: int | None = None
"""What the main thread gave to `sys.exit`."""
_FINALIZER_PRIORITY = 100


def watch() -> None:
    """Begin to watch; once per process."""
    global _watching_pid
    former, _watching_pid = _watching_pid, os.getpid()
    if former != _watching_pid:
        _watch_multiprocessing()
    if former:  # what follows outlives a fork
        return
    atexit.register(_finish_open_runs)
    os.register_at_fork(after_in_child=_enter_child)
    _sigterm.watch()
    sys.exit = _noting_code(sys.exit)
    for name in ("exit", "quit"):
        if (builtin := getattr(builtins, name, None)) is not None:  # none under `python -S`
            setattr(builtins, name, _noting_code(builtin))


def _finish_open_runs() -> None:
    ending = _ending()
    runs = list(open_runs)
    for run in runs:
        # Of a parent's run this is one writer, whose own end says nothing of the run.
        run.begin_finish(**({} if run.is_inherited else ending))
    for run in runs:
        run.finish()
    _sigterm.wait_for_signal()


def _ending() -> dict[str, Any]:
    """Return the arguments of `finish`.

    The interpreter leaves an exception that nobody caught in `sys.last_value`, whoever prints it;
    in an interactive session that is an old story. A bare `raise SystemExit(3)` leaves no trace
    that anybody could read: it counts as a plain end.
    """
    error = sys.exception() or getattr(sys, "last_value", None)
    if isinstance(error, SystemExit):
        return {"exit_code": exit_code_of(error.code)}
    if _given_code is not None or error is None or hasattr(sys, "ps1"):
        return {"exit_code": _given_code or 0}
    if isinstance(error, KeyboardInterrupt):
        return {"exit_code": 130, "state": "STOPPED", "reason": "Stopped by SIGINT."}
    return {"exit_code": 1, "reason": f"{type(error).__name__}: {to_text(error)}"}


def _noting_code(former: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
    @functools.wraps(former, updated=())
    def exit_noting_code(code: Any = None, /) -> NoReturn:
        global _given_code
        if threading.current_thread() is threading.main_thread():
            _given_code = exit_code_of(code)
        former(code)

    return exit_noting_code


def _watch_multiprocessing() -> None:
    """Finish before a child of `multiprocessing` ends, which it does by `os._exit`."""
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _finish_open_runs, exitpriority=_FINALIZER_PRIORITY)


def _enter_child() -> None:
    global is_forked, _given_code
    is_forked, _given_code = True, None
    for run in list(open_runs):
        run.enter_child()
