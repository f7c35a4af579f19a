"""How a process ends, when nobody called `finish`.

At the interpreter's end every open run is finished with what is known: the code given to
`sys.exit`, an exception that nobody caught, Ctrl-C, or a plain end. A process that is killed gets
no chance; the sidecar sees it vanish. In a forked child every run is let go: it is the parent's.
"""

import atexit
import builtins
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from pillion._run import exit_code_of, open_runs
from pillion.plain import to_text

is_forked = False
"""Whether this process was forked from one that had a run: gRPC does not work here any more."""

_is_watching = False
_given_code: int | None = None
"""What the main thread gave to `sys.exit`."""


def watch() -> None:
    """Begin to watch; once per process."""
    global _is_watching
    if _is_watching:
        return
    _is_watching = True
    atexit.register(_finish_open_runs)
    os.register_at_fork(after_in_child=_let_go)
    sys.exit = _noting_code(sys.exit)
    for name in ("exit", "quit"):
        if (former := getattr(builtins, name, None)) is not None:  # none under `python -S`
            setattr(builtins, name, _noting_code(former))


def _finish_open_runs() -> None:
    ending = _ending()
    runs = list(open_runs)
    for run in runs:
        run.begin_finish(**ending)
    for run in runs:
        run.finish(**ending)


def _ending() -> dict[str, Any]:
    """Return the arguments of `finish`.

    The interpreter leaves an exception that nobody caught in `sys.last_value`, whoever prints it;
    in an interactive session that is an old story. A bare `raise SystemExit(3)` leaves no trace
    that anybody could read: it counts as a plain end.
    """
    error = getattr(sys, "last_value", None)
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


def _let_go() -> None:
    global is_forked
    is_forked = True
    for run in list(open_runs):
        run.abandon()
