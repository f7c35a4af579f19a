"""The commands that read runs, as text and as JSON, from a store that no sidecar serves."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pillion._version import __version__
from pillion_sidecar.cli import app
from pillion_sidecar.cli_common import complete_run
from pillion_sidecar.records import (
    ConsoleLines,
    ConsoleStream,
    Environment,
    Frame,
    Offset,
    RunId,
    RunStart,
    WriterId,
)
from pillion_sidecar.sinks.store import StoreSink


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data directory with three runs, of which two share the beginning of their ids."""
    monkeypatch.setenv("PILLION_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PILLION_ADDRESS", f"unix:{tmp_path}/nobody.sock")
    sink = StoreSink(f"sqlite:///{tmp_path}/store.db")
    offset = 0
    for number, (run_id, lr) in enumerate((("aa-1", 0.1), ("aa-2", 0.2), ("bb-1", 0.3))):
        start = RunStart(
            run_id=RunId(run_id),
            writer_id=WriterId("w"),
            time_unix_nano=number * 10**9,
            project="p",
            name=f"run {number}",
            group="",
            job_type="",
            tags=("x",) if number else (),
            notes="",
            config={"lr": lr},
            environment=Environment(),
        )
        sink.start(Offset(offset + 1), start)
        axis = np.arange(4)
        values = np.array([4.0, math.nan, 3.0, lr])
        records = [
            Frame(0, axis, axis, {"train/loss": values}),
            ConsoleLines(ConsoleStream.STDOUT, 0, ("epoch 1", "done")),
        ]
        sink.apply(RunId(run_id), Offset(offset + 2), records)
        offset += 2
    sink.close()
    return tmp_path


@pytest.fixture
def pillion(data_dir: Path) -> Callable[..., Result]:
    """Return a function that runs a command in this process."""
    return lambda *arguments: CliRunner().invoke(app, arguments)


def json_of(result: Result) -> Any:
    """Return what was printed, which has to be JSON."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_runs_are_chosen_and_sorted(pillion: Callable[..., Result]) -> None:
    """By filters and a field; the limit counts what was found."""
    filters = ("--filter", "tag=x", "-f", "config.lr>0.1")
    runs = json_of(pillion("runs", *filters, "--sort", "config.lr", "--json"))["runs"]
    assert [run["run_id"] for run in runs] == ["aa-2", "bb-1"]
    runs = json_of(pillion("runs", *filters, "--limit", "1", "--json"))["runs"]
    assert [run["run_id"] for run in runs] == ["bb-1"]
    assert pillion("runs").stderr.startswith("No sidecar answers at unix:")
    assert "No runs meet that" in pillion("runs", "-f", "tag=y").stdout


def test_lines_of_a_pipe_are_not_filled_up(pillion: Callable[..., Result]) -> None:
    """Else each would take several lines of a terminal behind it, as of `head`."""
    for arguments in (["runs"], ["runs", "--metric", "train/loss"], ["show", "aa-1"], ["doctor"]):
        lines = pillion(*arguments).stdout.splitlines()
        assert lines == [line.rstrip() for line in lines]


def test_runs_that_are_left_out_are_told(pillion: Callable[..., Result]) -> None:
    """A list that the limit has cut says so; a whole one does not."""
    assert pillion("runs", "--limit", "2").stdout.splitlines()[-1].startswith("More runs: --limit")
    assert "More runs" not in pillion("runs", "--limit", "3").stdout
    json_of(pillion("runs", "--limit", "2", "--json"))


def test_a_metric_is_shown_with_how_it_went(pillion: Callable[..., Result]) -> None:
    """A column of its last value, and a line of blocks; in JSON its points."""
    table = pillion("runs", "--metric", "train/loss").stdout
    assert "train/loss" in table
    assert "█▆▁" in table
    run = json_of(pillion("runs", "--metric", "train/loss", "--json"))["runs"][0]
    assert run["points"] == [[0, 4.0], [1, "NaN"], [2, 3.0], [3, 0.3]]
    assert pillion("runs", "--metric", "none").exit_code == 0


@pytest.mark.parametrize("command", ["show", "console"])
@pytest.mark.parametrize("text", ["aa-2", "b", "run 1"])
def test_a_run_is_found_by_its_id_its_beginning_or_its_name(
    pillion: Callable[..., Result], command: str, text: str
) -> None:
    """Every command that takes a run takes these."""
    run = json_of(pillion(command, text, "--json"))
    assert run["run_id"] == {"b": "bb-1"}.get(text, "aa-2")
    assert pillion(command, text).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "aa"], "'aa' may mean aa-2 (run 1), aa-1 (run 0). Write more of the id"),
        (["console", "aa"], "Write more of the id"),
        (["compare", "aa", "bb-1"], "Write more of the id"),
        (["show", "cc"], "There is no run cc. `pillion runs` lists"),
        (["show", "no such run"], "run"),
        (["console", "cc"], "There is no run cc"),
        (["runs", "-f", "color=red"], "'color' is no field"),
        (["runs", "--sort", "color"], "'color' is no field"),
        (["runs", "--address", "bogus"], "--address: 'bogus' is no address. Write unix:PATH"),
        (["doctor", "--address", "bogus"], "--address: 'bogus' is no address. Write unix:PATH"),
        (["runs", "--address", "example.org:1"], "no address of this machine"),
        (["tag", "aa-1", "+y"], "No sidecar answers"),
        (["note", "aa-1", "text"], "No sidecar answers"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    pillion: Callable[..., Result], arguments: list[str], words: str
) -> None:
    """On standard error, with exit code 1."""
    result = pillion(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


def test_an_address_where_nobody_answers_is_told(
    pillion: Callable[..., Result], data_dir: Path
) -> None:
    """If it was given for this very command: what is shown may be of another sidecar."""
    address = f"unix:{data_dir}/other.sock"
    for arguments in (["show", "aa-1"], ["runs", "-f", "tag=y"], ["compare", "aa-1", "aa-2"]):
        assert pillion(*arguments).stderr == ""
        told = pillion(*arguments, "--address", address).stderr
        assert told == f"No sidecar answers at {address}: this is from the store.\n"


def test_the_version_is_printed(pillion: Callable[..., Result]) -> None:
    """By a command and by the option that everybody tries first."""
    assert pillion("--version").stdout == pillion("version").stdout == f"{__version__}\n"
    assert pillion("--version").exit_code == 0


def test_runs_are_completed(data_dir: Path) -> None:
    """By the beginnings of ids and names; without an answer by nothing."""
    context: Any = type("Context", (), {"params": {}})
    assert list(complete_run(context, "a")) == [("aa-2", "run 1"), ("aa-1", "run 0")]
    assert list(complete_run(context, "run 2")) == [("run 2", "bb-1")]
    context.params = {"data_dir": data_dir / "nowhere"}
    assert list(complete_run(context, "")) == []


def test_runs_are_watched_as_text_and_as_json(pillion: Callable[..., Result]) -> None:
    """Without a sidecar nothing changes: each is told once, and that it has not ended."""
    text = pillion("watch", "aa-1", "bb-1")
    assert text.exit_code == 1
    assert text.stderr.startswith("No sidecar answers at unix:")
    assert sorted(text.stdout.splitlines()) == [
        "aa-1 RUNNING 4 rows step 3 train/loss 0.1",
        "bb-1 RUNNING 4 rows step 3 train/loss 0.3",
    ]
    told = json.loads(pillion("watch", "bb-1", "--json").stdout)
    assert (told["run_id"], told["run"]["name"], told["row_count"]) == ("bb-1", "run 2", 4)
    assert told["values"] == {"train/loss": 0.3}
    assert told["console"][0]["lines"] == ["epoch 1", "done"]
    assert len(pillion("watch").stdout.splitlines()) == 3
    assert pillion("watch", "cc").exit_code == 1
