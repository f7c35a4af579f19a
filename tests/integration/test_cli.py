"""The commands, as text and as JSON, with a sidecar and without one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pillion
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli import app


def pillion_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `pillion`."""
    return subprocess.run(
        [sys.executable, "-m", "pillion_sidecar", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def place(sidecar: Any) -> tuple[str, ...]:
    """Return the flags that find a sidecar with two runs."""
    for run_id, loss in (("first", 0.5), ("second", 0.25)):
        with pillion.init(
            project="p",
            name=f"the {run_id}",
            id=run_id,
            config={"lr": loss},
            address=sidecar.address,
            quiet=True,
        ) as run:
            run.log({"train/loss": 1.0, "train/epoch": 0}, step=0)
            run.log({"train/loss": loss, "train/epoch": 1}, step=7)
    return ("--address", sidecar.address, "--data-dir", str(sidecar.data_dir))


def test_a_run_is_changed_and_shown(sidecar: Any, place: tuple[str, ...]) -> None:
    """Ended or not it takes a name, notes and tags; without a sidecar it can be shown only."""
    changes = ("--name", "renamed", "--notes", "two\nlines", "--tag", "a", "--tag", "b")
    changed = pillion_command("update", "first", *changes, "--untag", "a", "--json", *place)
    run = json.loads(changed.stdout)
    assert (run["name"], run["notes"], run["tags"]) == ("renamed", "two\nlines", ["a", "b"])
    assert run["state"] == "FINISHED"
    tagged = pillion_command("tag", "renamed", "-b", "+c", "d", "--json", *place)
    assert json.loads(tagged.stdout)["tags"] == ["a", "c", "d"]
    assert "a, c, d, e" in pillion_command("tag", "first", "+e", *place).stdout
    noted = pillion_command("note", "fir", "at last", "--json", *place)
    assert json.loads(noted.stdout)["notes"] == "at last"
    noted = pillion_command("note", "fir", "in the end", *place).stdout
    assert ("in the end" in noted, "\x1b" in noted) == (True, False)  # nor colours in a pipe
    refused = pillion_command("update", "first", *place)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nothing to change" in refused.stderr
    refused = pillion_command("update", "third", "--name", "x", *place)
    assert (refused.returncode, "no run third" in refused.stderr) == (1, True)
    sidecar.stop()
    shown = json.loads(pillion_command("show", "first", "--json", *place).stdout)
    assert (shown["name"], shown["summary"]["train/loss"]) == ("renamed", 0.5)
    assert (shown["alerts"], shown["definitions"]) == ([], [])
    assert shown["packages"]["pytest"] == pytest.__version__
    text = pillion_command("show", "first", *place).stdout
    assert "renamed" in text
    assert "config lr" in text


def test_console_prints_what_a_run_printed(sidecar: Any, place: tuple[str, ...]) -> None:
    """As text and as JSON, once the store has it; a run that is not there is named."""
    piece = record_pb2.ConsoleLines(stream="STREAM_STDERR", time_unix_nano=1, lines=["one", "µ"])
    batch = record_pb2.Batch(run_id="first", writer_id="shell", sequence=1)
    batch.records.add(console_lines=piece)
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="first", writer_id="shell"))
    sidecar.log(pb2.LogMetricsRequest(batch=batch))
    sidecar.stop()
    data_dir = place[2:]
    assert pillion_command("console", "first", *data_dir).stdout == "one\nµ\n"
    assert json.loads(pillion_command("console", "first", "--json", *data_dir).stdout) == {
        "run_id": "first",
        "console": [
            {"stream": "stderr", "time": "1970-01-01T00:00:00.000000001Z", "lines": ["one", "µ"]}
        ],
    }
    assert pillion_command("console", "second", *data_dir).stdout == ""
    refused = pillion_command("console", "third", *data_dir)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("There is no run third.")


@pytest.mark.parametrize("is_running", [True, False], ids=["sidecar", "store"])
def test_runs_and_compare_answer_with_and_without_a_sidecar(
    sidecar: Any, place: tuple[str, ...], is_running: bool
) -> None:
    """The same text and the same JSON, from the sidecar or from the store itself."""
    pillion_command("runs", *place)
    if not is_running:
        sidecar.stop()
    table = pillion_command("runs", *place).stdout
    assert table.splitlines()[1].split()[:5] == ["second", "the", "second", "p", "FINISHED"]
    runs = json.loads(pillion_command("runs", "--json", *place).stdout)["runs"]
    assert [run["run_id"] for run in runs] == ["second", "first"]
    assert runs[0]["summary"] == {"train/loss": 0.25, "train/epoch": 1}
    assert runs[0]["config"] == {"lr": 0.25}
    assert (runs[0]["last_step"], runs[0]["row_count"], runs[0]["exit_code"]) == (7, 2, 0)
    text = pillion_command("compare", "first", "second", *place).stdout
    assert "Best by train/loss: the second (second) with 0.25 at step 7." in text
    compared = json.loads(pillion_command("compare", "first", "second", "--json", *place).stdout)
    assert compared["best_run_id"] == "second"
    loss = compared["metrics"]["train/loss"]
    assert loss["direction"] == "lower"
    assert loss["runs"]["first"] == {
        "point_count": 2,
        "nan_count": 0,
        "first": 1.0,
        "last": 0.5,
        "min": 0.5,
        "max": 1.0,
        "mean": 0.75,
        "best": 0.5,
        "best_step": 7,
    }
    assert compared["config_differences"] == {"lr": {"first": 0.5, "second": 0.25}}


def test_status_tells_whether_the_data_is_safe(sidecar: Any, place: tuple[str, ...]) -> None:
    """One sentence first; per run and sink as JSON; without a sidecar a sentence and code 1."""
    sidecar.call("ListRuns", pb2.ListRunsRequest())  # waits until the store has all
    text = pillion_command("status", *place).stdout
    assert text.startswith("All 4 rows of 2 runs are on disk; the store has all.")
    status = json.loads(pillion_command("status", "first", "--json", *place).stdout)
    assert status["runs"] == [
        {
            "run_id": "first",
            "state": "FINISHED",
            "journaled_row_count": 2,
            "refused_row_count": 0,
            "refused_value_count": 0,
            "dropped_row_count": 0,
            "sinks": {
                "store": {
                    "delivered_row_count": 2,
                    "lag_row_count": 0,
                    "oldest_undelivered_age_s": 0.0,
                    "last_error": None,
                    "last_error_reason": None,
                }
            },
        }
    ]
    sidecar.stop()
    refused = pillion_command("status", *place)
    assert refused.returncode == 1
    assert "pillion serve" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "first"), "name 2 to 10"),
        (("compare", "first", "first"), "named twice"),
        (("compare", "first", "nobody"), "There is no run nobody"),
        (("compare", "first", "second", "--metric", "nope"), "'nope'"),
        (("status", "nobody"), "There is no run nobody"),
    ],
)
def test_a_refused_question_is_a_sentence_and_exit_code_1(
    place: tuple[str, ...], arguments: tuple[str, ...], words: str
) -> None:
    """On standard error, without a traceback."""
    refused = pillion_command(*arguments, *place)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_a_directory_without_runs_is_told(tmp_path: Path) -> None:
    """No store yet: what to do, and no traceback."""
    flags = ("--data-dir", str(tmp_path), "--address", f"unix:{tmp_path}/s.sock")
    answer = pillion_command("runs", *flags)
    assert "There is no store" in answer.stderr
    assert answer.returncode == 1


def test_settings_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    """Every mistake at once, from flags, variables and the file."""
    refused = pillion_command(
        "serve", "--listen", "nowhere", "--drain-timeout-s", "-1", "--data-dir", str(tmp_path)
    )
    assert refused.returncode == 1
    assert "listen: 'nowhere' is no address" in refused.stderr
    assert "--drain-timeout-s" in refused.stderr


def test_a_demo_is_not_kept_elsewhere_than_was_asked(
    sidecar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar that answers has its own directory; nothing was started when that is said."""
    monkeypatch.setenv("PILLION_LISTEN", sidecar.address)
    refused = CliRunner().invoke(app, ["demo", "--data-dir", str(tmp_path / "mine")])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"keeps its data in {sidecar.data_dir}, not in {tmp_path / 'mine'}." in refused.stderr


def test_train_is_the_trainers_own_command() -> None:
    """`pillion train` hands everything on, its help and its exit code too."""
    assert "--learning-rate" in pillion_command("train", "--help").stdout
    assert pillion_command("train", "--r", "0").returncode == 2
