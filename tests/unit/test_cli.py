"""What all commands share: their order, and how wide they print."""

import re

import pytest
from typer.testing import CliRunner

from pillion_sidecar.cli import COMMANDS, app
from pillion_sidecar.cli_common import PIPED_WIDTH, make_console


def test_help_lists_every_command_in_the_order_of_need() -> None:
    """As the README does: first the sidecar and runs, then what is asked of them."""
    text = CliRunner().invoke(app, ["--help"]).stdout
    listed = re.findall(r"(?m)^  ([a-z]+)  ", text.partition("Commands:")[2])
    assert listed == list(COMMANDS)


def test_a_pipe_is_wide_whatever_the_terminal_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no terminal shows is wrapped nowhere."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert make_console().width == PIPED_WIDTH
