"""How a process ends, when nobody called `finish`.

At the interpreter's end every open run is finished with what is known: the code given to
`sys.exit`, an exception that nobody caught, Ctrl-C, or a plain end. A process that is killed gets
no chance; the sidecar sees it vanish. In a forked child every run is let go: it is the parent's.
"""

import atexit
import builtins
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from pillion._run import exit_code_of, open_runs
from pillion.plain import to_text

_ending: dict[str, Any] = {"exit_code": 0}
"""Arguments of `finish`."""


def watch() -> None:
    """Begin to watch; once per process."""
    if _is_watching:
        return
    _is_watching.append(True)
    atexit.register(_finish_open_runs)
    os.register_at_fork(after_in_child=_let_go)
    _wrap_exit()
    _wrap_excepthook()


_is_watching: list[bool] = []


def _finish_open_runs() -> None:
    for run in list(open_runs):
        run.finish(**_ending)


def _let_go() -> None:
    for run in list(open_runs):
        run.abandon()


def _wrap_exit() -> None:
    """Learn the code that is given to `sys.exit`, `exit` and `quit`.

    A bare `raise SystemExit(3)` leaves no trace that anybody could read: it counts as a plain end.
    """
    for module, name in ((sys, "exit"), (builtins, "exit"), (builtins, "quit")):
        if (former := getattr(module, name, None)) is not None:
            setattr(module, name, _noting_code(former))


def _noting_code(former: Callable[[Any], NoReturn]) -> Callable[..., NoReturn]:
    def exit_noting_code(code: Any = None) -> NoReturn:
        _ending.update(exit_code=exit_code_of(code))
        former(code)

    return exit_noting_code


def _wrap_excepthook() -> None:
    former = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _ending.update(exit_code=130, state="STOPPED", reason="Stopped by SIGINT.")
        else:
            _ending.update(exit_code=1, reason=f"{kind.__name__}: {to_text(error)}")
        former(kind, error, traceback)

    sys.excepthook = hook
