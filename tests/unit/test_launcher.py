"""How a command's end is told."""

import signal

import pytest

from pillion_sidecar.launcher import Ending, ending_of


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (0, Ending(0, "FINISHED", "")),
        (3, Ending(3, "FAILED", "Exit code 3.")),
        (-signal.SIGKILL, Ending(137, "CRASHED", "Killed by SIGKILL.")),
        (-signal.SIGSEGV, Ending(139, "CRASHED", "Killed by SIGSEGV.")),
        (-40, Ending(168, "CRASHED", "Killed by signal 40.")),
        (-signal.SIGTERM, Ending(143, "STOPPED", "Stopped by SIGTERM.")),
        (130, Ending(130, "STOPPED", "Stopped by SIGINT.")),
        (143, Ending(143, "STOPPED", "Stopped by SIGTERM.")),
    ],
)
def test_end_is_told_by_the_exit_code(code: int, ending: Ending) -> None:
    """The exit code is a shell's; what was asked to end has stopped, what was killed crashed."""
    assert ending_of(code, ran_out_of_memory=False) == ending


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGKILL, "Killed by SIGKILL: memory ran out."),
        (1, "Exit code 1; memory ran out in its control group."),
        (-signal.SIGTERM, "Stopped by SIGTERM."),
        (0, ""),
    ],
)
def test_memory_that_ran_out_is_told_where_it_explains_the_end(code: int, reason: str) -> None:
    """A worker of the command may have been the victim; then the command tells an error."""
    assert ending_of(code, ran_out_of_memory=True).reason == reason
