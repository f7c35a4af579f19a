"""What cannot be answered is a sentence that says what to do, from commands and from `Client`."""

import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgresql import PASSWORD, postgresql_server
from processes import SidecarProcess
from stored_runs import Shelf
from typer.testing import CliRunner, Result

import pillion
from pillion.api import Client, QueryError
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli import app
from pillion_sidecar.store_tables import store_version

NOBODY = "There is no run nobody. `pillion runs` lists those there are."
ELEVEN = " ".join(f"run-{number}" for number in range(11))
UNANSWERED = {
    "show nobody": NOBODY,
    "console nobody": NOBODY,
    "watch nobody": NOBODY,
    "export nobody": NOBODY,
    "diff run-1 nobody": NOBODY,
    "compare run-1 nobody": NOBODY,
    "artifacts ls --run nobody": NOBODY,
    "show run": "Write more of the id of the one that you mean.",
    "export run": "Write more of the id of the one that you mean.",
    "show ''": "A run's name is empty. Name it by its id",
    "compare run-1": "1 run cannot be compared; name 2 to 10.",
    "compare run-1 run-1": "named twice; name each once.",
    f"compare {ELEVEN}": "11 runs cannot be compared; name",
    "compare run-1 run-2 --metric nothing": "They have loss.",
    "compare run-1 run-2 --series loss --points 9999999": "max_points: 1 to 100,000 for 1",
    "compare run-1 run-2 --direction loss": "write NAME=lower",
    "export run-1 --key 'lo['": "Close it, or write [[]",
    "export run-1 --key nothing": "It has loss.",
    "export run-1 --key 'nothing*'": "`pillion show RUN` lists the metrics",
    "export run-1 --output rows.txt": "Name it .parquet, .csv or .jsonl",
    "export run-1 --output /nowhere/rows.csv": "Name a file in a directory that is there.",
    "runs --filter nothing": "write FIELD=VALUE",
    "runs --sort nothing": "There are tag, id, state",
    "artifacts show nothing:v0": "`pillion artifacts ls` lists those there are.",
    "import nothing": "There is no file or directory nothing.",
}
"""Of a command, what standard error says; the exit code is 1."""
NEEDS_SIDECAR = {
    "rm '' --yes": "A run's name is empty.",
    "rm nobody --yes": NOBODY,
    "tag run-1 +": "add_tags: a tag is empty.",
    "note nobody text": NOBODY,
    "status nobody": NOBODY,
    "wait --sink nothing": "only to store",
}
READING = (
    *("runs", "show run-1", "compare run-1 run-2", "diff run-1 run-2", "export run-1"),
    *("watch run-1", "console run-1", "artifacts ls", "runs --json"),
)
"""Commands that read the store."""
MISUSED = (
    "runs --limit 0",
    "compare",
    "export run-1 --format xml",
    "compare run-1 run-2 --points -1",
)


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """Return one sidecar with eleven runs of a row each, all in the store."""
    process = SidecarProcess(tmp_path_factory.mktemp("bad"), "--wandb-mode", "disabled").start()
    with closing(process):
        for number in range(11):
            with pillion.init(id=f"run-{number}", address=process.address, quiet=True) as run:
                run.log({"loss": 0.5})
        process.call("ListRuns", pb2.ListRunsRequest())  # which waits for the store
        yield process


@pytest.fixture
def ask(sidecar: SidecarProcess, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command in this process; without a sidecar if told so."""
    monkeypatch.setenv("PILLION_DATA_DIR", str(sidecar.data_dir))
    monkeypatch.setenv("PILLION_ADDRESS", sidecar.address)

    def ask(words: str, *, is_serving: bool = True) -> Result:
        if not is_serving:
            monkeypatch.setenv("PILLION_ADDRESS", f"unix:{sidecar.data_dir}/nobody.sock")
        return CliRunner().invoke(app, shlex.split(words))

    return ask


def refused(done: Result) -> str:
    """Return what a refused command says: a sentence, and nothing else."""
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("is_serving", [True, False], ids=["sidecar", "store"])
@pytest.mark.parametrize("words", UNANSWERED)
def test_a_command_that_cannot_be_answered_says_what_to_do(
    words: str, is_serving: bool, ask: Callable[..., Result]
) -> None:
    """The same with a sidecar and without one."""
    assert UNANSWERED[words] in refused(ask(words, is_serving=is_serving))


@pytest.mark.parametrize("words", NEEDS_SIDECAR)
def test_a_change_that_cannot_be_made_says_what_to_do(
    words: str, ask: Callable[..., Result]
) -> None:
    """Nothing is changed; without a sidecar it is said how to start one."""
    assert NEEDS_SIDECAR[words] in refused(ask(words))
    assert ask("show run-1").exit_code == 0


@pytest.mark.parametrize("words", MISUSED)
def test_wrong_usage_is_exit_code_2(words: str, ask: Callable[..., Result]) -> None:
    """With the line that shows how it is used."""
    done = ask(words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


def test_a_metric_that_no_run_has_is_told_beside_the_list(ask: Callable[..., Result]) -> None:
    """The runs are shown all the same."""
    done = ask("runs --metric nothing")
    assert (done.exit_code, "run-10" in done.stdout) == (0, True)
    assert done.stderr.startswith("None of these runs has values of 'nothing'.")
    assert ask("runs --metric loss").stderr == ""


@pytest.mark.parametrize(
    ("question", "code", "sentence"),
    [
        (lambda client: client.run("nobody"), "NOT_FOUND", "`pillion runs` lists"),
        (lambda client: client.run("run"), "INVALID_ARGUMENT", "…. Name one by its id."),
        (lambda client: client.run(""), "INVALID_ARGUMENT", "A run's name is empty."),
        (lambda client: client.compare(["run-1"]), "INVALID_ARGUMENT", "name 2 to 10"),
        (lambda client: client.compare("run-1"), "INVALID_ARGUMENT", "name 2 to 10"),
        (lambda client: client.compare([*client.runs()]), "INVALID_ARGUMENT", "name 2 to 10"),
        (lambda client: client.run("run-1").rows("lo["), "INVALID_ARGUMENT", "Close it"),
        (lambda client: client.run("run-1").rows("nothing"), "INVALID_ARGUMENT", "It has loss."),
        (
            lambda client: client.run("run-1").rows(min_step=2, max_step=1),
            "INVALID_ARGUMENT",
            "exchange them, or leave one out",
        ),
        (lambda client: [*client.runs(filters="x")], "INVALID_ARGUMENT", "FIELD=VALUE"),
        (lambda client: [*client.runs(order_by="x")], "INVALID_ARGUMENT", "There are tag, id"),
    ],
)
def test_a_client_that_is_refused_is_told_what_to_do(
    sidecar: SidecarProcess, question: Callable[[Client], Any], code: str, sentence: str
) -> None:
    """With gRPC's word for it in `code`."""
    with Client(sidecar.address) as client, pytest.raises(QueryError) as refusal:
        question(client)
    assert refusal.value.code == code
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("step", [1.5, "1", 2**63])
def test_a_step_that_is_none_is_named(sidecar: SidecarProcess, step: Any) -> None:
    """Before anything is asked."""
    with Client(sidecar.address) as client:
        run = client.run("run-1")
        with pytest.raises(ValueError, match=r"min_step is .*; take a whole number"):
            run.rows(min_step=step)
        assert len(run.rows(max_step=0)) == 1


@pytest.mark.parametrize("token", ["x", "AAAA", "x" * 5000])
@pytest.mark.parametrize("method", ["ListRuns", "ListArtifacts"])
def test_a_page_token_that_is_none_is_refused(
    sidecar: SidecarProcess, method: str, token: str
) -> None:
    """Whatever it holds."""
    request = getattr(pb2, f"{method}Request")(page_token=token)
    with pytest.raises(Exception, match="take it from the page before, as it is"):
        sidecar.call(method, request)


def test_a_store_of_a_newer_version_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that reads it says so, and a sidecar does not start on it."""
    shelf = Shelf(tmp_path)
    shelf.start("run-1")
    shelf.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
        db.execute(f"UPDATE {store_version.name} SET version_num = '0099'")
    monkeypatch.setenv("PILLION_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PILLION_ADDRESS", f"unix:{tmp_path}/nobody.sock")
    for words in READING:
        said = refused(CliRunner().invoke(app, shlex.split(words)))
        assert "is of format 99, and this version knows" in said
        assert "Use the newer Pillion that wrote it, or set another store." in said


def test_gc_removes_nothing_beside_a_journal_that_it_cannot_read(tmp_path: Path) -> None:
    """It cannot know then what is needed."""
    (tmp_path / "journal.db").write_bytes(b"no database" * 1000)
    said = refused(CliRunner().invoke(app, ["gc", "--data-dir", str(tmp_path)]))
    assert "Nothing was removed. Start the sidecar: it salvages what can be read" in said


def test_a_store_whose_postgresql_is_away_is_told(
    make_sidecar: Callable[..., SidecarProcess], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a sidecar, to commands and clients alike; without one by the commands themselves."""
    with postgresql_server() as server:
        url = server.new_url()
        sidecar = make_sidecar("--wandb-mode", "disabled", "--store", url)
        for run_id in ("run-1", "run-2"):
            pillion.init(id=run_id, address=sidecar.address, quiet=True).finish()
        monkeypatch.setenv("PILLION_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("PILLION_STORE", url)
        with Client(sidecar.address) as client:
            run = client.run("run-1")
            server.stop()
            for question in (client.run, lambda _: [*client.runs()], lambda _: run.rows()):
                with pytest.raises(QueryError, match="See whether its PostgreSQL runs") as refusal:
                    question("run-1")
                assert refusal.value.code == "UNAVAILABLE"
        for address in (sidecar.address, f"unix:{tmp_path}/nobody.sock"):
            monkeypatch.setenv("PILLION_ADDRESS", address)
            for words in READING:
                said = refused(CliRunner().invoke(app, shlex.split(words)))
                assert re.search("The store .*cannot be (read|reached).*See whether", said)
                assert PASSWORD not in said
        server.start()
        assert "run-1" in CliRunner().invoke(app, ["runs"]).stdout
