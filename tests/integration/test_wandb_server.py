"""The W&B stand-in: what the real SDK sends arrives in it, and each fault does what it says."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_server import TEAM, USER, Alert, WandbServer

PREAMBLE = """
import json, sys, threading, wandb

def init(id, **more):
    return wandb.init(id=id, project="demo", reinit="create_new", **more, settings=wandb.Settings(
        silent=True, console="wrap", disable_git=True, x_disable_machine_info=True,
        init_timeout=200,
        x_file_stream_transmit_interval=0.05, x_file_stream_retry_wait_min_seconds=1,
        x_file_stream_retry_wait_max_seconds=1, x_graphql_retry_wait_min_seconds=1,
        stop_fn=lambda: (stopped.append(id), is_stopped.set())))

def log(run, numbers):
    for number in numbers:
        run.log({"loss": number / 4}, step=number, commit=True)

def finish(runs):
    threads = [threading.Thread(target=run.finish) for run in runs]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def tell(*values):
    print(json.dumps(values), file=sys.__stdout__, flush=True)

stopped, is_stopped = [], threading.Event()
"""

SdkProcess = subprocess.Popen[str]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """Return a server; nothing may have come to it that it does not know."""
    with WandbServer() as server:
        yield server
        assert server.unknown == []


@pytest.fixture
def run_sdk(server: WandbServer, tmp_path: Path) -> Iterator[Callable[[str], SdkProcess]]:
    """Return a function that runs code with the SDK, in a process of its own."""
    started: list[SdkProcess] = []

    def run(code: str) -> SdkProcess:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PILLION_"))}
        ours = {"WANDB_BASE_URL": server.base_url, "WANDB_API_KEY": server.key}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PREAMBLE + code],
                cwd=tmp_path,
                env=kept | ours | {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: SdkProcess) -> list[list[Any]]:
    """Wait for the end of a process; return what it told."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines() if line.startswith("[")]


def test_what_a_run_logs_arrives_and_a_resumed_run_goes_on(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess], tmp_path: Path
) -> None:
    """Rows, config, summary, console, files, alerts, exit code; then each line once more on."""
    (tmp_path / "notes.txt").write_text("hello")
    code = """
run = init("run-1", name="first", group="g", job_type="j", tags=["a", "b"], notes="n",
           config={"lr": 0.1, "nested": {"x": [1, 2]}}, resume="allow")
start = run.starting_step
log(run, range(start, start + 10))
run.config.update({"late": start}, allow_val_change=True)
run.summary["best"] = start
run.alert("title", "text", level="WARN")
run.save("notes.txt", policy="now")
print("printed")
run.finish(exit_code=start)
"""
    ended(run_sdk(code))
    run = server.run("demo", "run-1")
    assert [(row["_step"], row["loss"]) for row in run.rows] == [(i, i / 4) for i in range(10)]
    assert run.config == {"lr": 0.1, "nested": {"x": [1, 2]}, "late": 0}
    assert (run.summary["loss"], run.summary["best"]) == (2.25, 0)
    assert (run.name, run.group, run.job_type, run.notes) == ("first", "g", "j", "n")
    assert (run.tags, run.state, run.exit_code) == (["a", "b"], "finished", 0)
    assert run.files["notes.txt"] == b"hello"
    assert "printed" in run.console[-1]
    assert server.alerts == [Alert("run-1", "title", "text", "WARN")]
    assert run.keys == {server.key}

    lines = len(run.console)
    ended(run_sdk(code))
    assert [row["_step"] for row in run.rows] == list(range(20))
    assert (run.config["late"], run.summary["best"]) == (10, 10)
    assert (run.state, run.exit_code, run.rewritten) == ("failed", 10, [])
    assert len(run.console) == 2 * lines


def test_faults_that_pass_lose_no_row_and_double_none(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess]
) -> None:
    """One run per fault, all at once; what a lost answer made the SDK send twice is kept once."""
    asked: dict[str, dict[str, Any]] = {
        "busy": {"kind": 429, "retry_after_s": 1, "times": 1},
        "error": {"kind": 500, "times": 1},
        "gateway": {"kind": 502, "times": 1},
        "dropped": {"kind": "drop", "times": 1},
        "answer-lost": {"kind": "drop", "times": 1, "is_done_first": True},
        "hung": {"kind": "hang", "times": 1},
    }
    faults = {
        name: server.fail(**each, operation="file_stream", runs={name})
        for name, each in asked.items()
    }
    init = server.fail(503, operation="UpsertBucket", times=1)
    process = run_sdk(f"""
runs = [init(name) for name in {list(asked)}]
for run in runs: log(run, range(10))
finish(runs)
""")
    faults["hung"].wait()
    faults["hung"].clear()
    ended(process)
    for name, each in asked.items():
        run = server.runs[name]
        assert ([row["_step"] for row in run.rows], run.exit_code) == (list(range(10)), 0), name
        assert (faults[name].hits, run.rewritten) == (each["times"], [])
        assert server.count("file_stream", name) > each["times"]
    assert init.hits == 1


def test_faults_that_are_final_end_one_runs_upload_and_no_others(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess]
) -> None:
    """These the SDK does not try again; a row may be what the server never takes."""
    statuses = (400, 401, 403, 404, 409, 413)
    for status in statuses:
        server.fail(status, operation="file_stream", runs={f"run-{status}"}, times=1)
    poison = server.fail(413, operation="file_stream", containing="p01s0n")
    ended(
        run_sdk(f"""
runs = [init(f"run-{{status}}") for status in {(*statuses, "poisoned", "well")}]
for run in runs: log(run, range(3))
runs[-2].log({{"text": "p01s0n"}}, step=3, commit=True)
finish(runs)
""")
    )
    for status in statuses:
        run = server.runs[f"run-{status}"]
        assert (run.rows, run.state, run.exit_code) == ([], "running", None), status
    assert poison.hits == 1
    assert server.runs["run-poisoned"].state == "running"
    assert (len(server.runs["run-well"].rows), server.runs["run-well"].exit_code) == (3, 0)


def test_keys_and_entities_are_refused_as_wandb_does(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess]
) -> None:
    """A team of one's own is written to; another's, an unknown one and a key are not."""
    server.accept_key("k" * 40, "somebody")
    process = run_sdk(f"""
def attempt(id, **more):
    try:
        init(id, **more).finish()
    except wandb.errors.CommError as error:
        tell(id, str(error))

attempt("ours", entity="{TEAM}")
attempt("theirs", entity="somebody")
attempt("nobodys", entity="nobody")
tell("ready")
sys.stdin.readline()
attempt("refused")
""")
    assert process.stdin is not None
    assert process.stdout is not None
    told = []
    while not told or told[-1] != ["ready"]:
        told.append(json.loads(process.stdout.readline()))
    server.refuse_key(server.key)
    process.stdin.write("\n")
    told += ended(process)
    messages = {name: "".join(text) for name, *text in told}
    assert list(messages) == ["theirs", "nobodys", "ready", "refused"]
    assert "permission denied" in messages["theirs"]
    assert "entity nobody not found" in messages["nobodys"]
    assert "user is not logged in" in messages["refused"]
    assert [(run.entity, run.exit_code) for run in server.runs.values()] == [(TEAM, 0)]


def test_stop_is_told_to_the_run_whose_button_was_pressed(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess]
) -> None:
    """The SDK learns it from the answers to its posts."""
    process = run_sdk("""
import itertools
from wandb.sdk.lib import run_stopping
run_stopping.RunStopChecker.__init__.__kwdefaults__["poll_interval"] = 0.05
runs = [init("one"), init("two")]
tell("ready")
numbers = itertools.count()
while not is_stopped.wait(0.05):
    number = next(numbers)
    for run in runs: log(run, [number])
finish(runs)
tell(stopped)
""")
    assert process.stdout is not None
    process.stdout.readline()
    server.press_stop("two")
    assert ended(process) == [[["two"]]]


def test_artifacts_arrive_and_bytes_that_are_there_do_not_travel_again(
    server: WandbServer, run_sdk: Callable[[str], SdkProcess], tmp_path: Path
) -> None:
    """Versions, aliases, metadata, references, use, links, and what comes with a row."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_text("w" * 1000)
    (tmp_path / "checkpoint" / "state").write_text("1")
    ended(
        run_sdk("""
import pathlib

def artifact():
    artifact = wandb.Artifact("adapter", "model", metadata={"step": 5})
    artifact.add_dir("checkpoint", policy="immutable", skip_cache=True)
    artifact.add_reference("lustre://data/x", name="base", checksum=False)
    return run.log_artifact(artifact, aliases=["best"]).wait()

run = init("run-1")
artifact()
pathlib.Path("checkpoint/state").write_text("2")
version = artifact()
assert artifact().version == version.version == "v1"
run.link_artifact(version, "wandb-registry-model/adapters", aliases=["prod"])
run.use_artifact("adapter:v0").download("earlier")
run.log({"page": wandb.Html("<b>"), "table": wandb.Table(columns=["a"], data=[[1]])})
run.finish()
""")
    )
    first, second = server.artifacts.named("adapter")
    assert server.artifacts.files(first) == {"weights": b"w" * 1000, "state": b"1"}
    assert server.artifacts.files(second) == {"weights": b"w" * 1000, "state": b"2"}
    assert (first.aliases, second.aliases) == (set(), {"best", "latest"})
    assert (first.used_by, second.run_id, second.metadata) == (["run-1"], "run-1", {"step": 5})
    assert second.references == {"base": "lustre://data/x"}
    assert second.links == [("stable-org/wandb-registry-model/adapters", ("prod",))]
    assert (tmp_path / "earlier" / "state").read_text() == "1"
    (row,) = server.runs["run-1"].rows
    assert b"<b>" in server.runs["run-1"].files[row["page"]["path"]]
    assert json.loads(server.runs["run-1"].files[row["table"]["path"]])["data"] == [[1]]
    assert len(server.artifacts.blobs) == 4


def test_a_server_that_has_gone_is_back_at_the_same_place(server: WandbServer) -> None:
    """Gone: connections are refused. Back: what it has got is still there."""
    post = urllib.request.Request(
        f"{server.base_url}/graphql",
        data=json.dumps({"operationName": "Viewer", "query": "query Viewer {}"}).encode(),
        headers={"Authorization": "Basic YXBpOg=="},
    )
    server.accept_key("", "nobody")
    server.stop_listening()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(post)
    server.listen_again()
    with urllib.request.urlopen(post) as answer:
        assert json.load(answer)["data"]["viewer"]["entity"] == "nobody"
    assert (server.count("Viewer"), server.count("file_stream")) == (1, 0)
    assert USER != "nobody"
