"""Later upload: `pillion sync` brings offline runs to W&B, each row once, in spite of kills."""

import asyncio
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import SidecarProcess, environment, pids_below
from wandb_server import KEY, TEAM, USER, WandbServer

import pillion
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import SettingsError, StateError
from pillion_sidecar.settings import load
from pillion_sidecar.sinks.wandb_folders import offline_folders
from pillion_sidecar.sync import Outcome, SyncState, sync_folder
from pillion_sidecar.uploader import Uploader
from pillion_sidecar.uploads import Destinations, chosen_folders, upload

OTHER_KEY = "another0" * 5
ROW_COUNT = 400
RUN_IDS = ("run-1", "run-2")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory with offline runs, as the W&B sink leaves them."""
    directory = tmp_path_factory.mktemp("written")
    code = f"""
import wandb
for run_id in {RUN_IDS}:
    settings = wandb.Settings(
        silent=True, console="off", symlink=False, disable_git=True, x_disable_machine_info=True
    )
    run = wandb.init(id=run_id, project="demo", name=f"the {{run_id}}", mode="offline",
                     config={{"lr": 0.1}}, settings=settings)
    for step in range({ROW_COUNT}):
        run.log({{"loss": step / 4}}, step=step, commit=True)
    run.log({{"page": wandb.Html("<b>")}}, step={ROW_COUNT}, commit=True)
    run.write_logs("printed\\n")
    run.alert("title", "text")
    artifact = wandb.Artifact("adapter", "model")
    artifact.add_file("{directory}/data/weights", policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
    run.finish(exit_code=3)
run = wandb.init(id="poisoned", project="demo", mode="offline", settings=settings,
                 dir="{directory}/data/other")
run.log({{"loss": 0.5}}, step=0, commit=True)
run.log({{"text": "p01s0n"}}, step=1, commit=True)
run.finish()
"""
    places = {"WANDB_DIR": str(directory / "data" / "wandb"), "HOME": str(directory)}
    (directory / "data" / "wandb").mkdir(parents=True)
    (directory / "data" / "other").mkdir()
    (directory / "data" / "weights").write_text("w" * 1000)
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=directory, env=environment(**places)
    )
    return directory / "data"


@pytest.fixture
def data_dir(written: Path, tmp_path: Path) -> Path:
    """Return a copy of that data directory."""
    subprocess.run(["cp", "-a", written, tmp_path / "data"], check=True)
    return tmp_path / "data"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """Return a server; nothing may have come to it that it does not know."""
    with WandbServer() as server:
        yield server
        assert server.unknown == []


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_sync(data_dir: Path, server: WandbServer, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `pillion sync --json`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        places = {"WANDB_BASE_URL": server.base_url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "pillion_sidecar", "sync", "--data-dir", str(data_dir)]
        process = subprocess.Popen(
            [*command, "--json", *arguments],
            env=environment(**places | variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Wait for its end; return the exit code and what it told."""
    output, errors = process.communicate()
    return process.returncode, json.loads(output) if output else {"sentence": errors.strip()}


def assert_is_there(server: WandbServer, run_id: str, entity: str = USER) -> None:
    """Check that everything of a run has arrived, and once."""
    run = server.run("demo", run_id, entity)
    assert [row["_step"] for row in run.rows] == list(range(ROW_COUNT + 1))
    assert [row["loss"] for row in run.rows[:-1]] == [step / 4 for step in range(ROW_COUNT)]
    assert run.rewritten == []
    assert (run.name, run.config, run.state, run.exit_code) == (
        *(f"the {run_id}", {"lr": 0.1}),
        *("failed", 3),
    )
    assert run.summary["loss"] == (ROW_COUNT - 1) / 4
    assert b"<b>" in run.files[run.rows[-1]["page"]["path"]]
    assert [line.split(" ", 1)[1] for line in run.console] == ["printed"]
    assert (run.keys, run.program) == ({KEY}, "unknown")  # and not `wandb sync`
    (artifact,) = server.artifacts.named("adapter")
    assert server.artifacts.files(artifact) == {"weights": b"w" * 1000}


def test_offline_runs_are_uploaded_once_however_often_it_is_called(
    server: WandbServer, start_sync: Start, data_dir: Path
) -> None:
    """One by name, then the rest; they are marked as `wandb sync` does it."""
    code, answer = told(start_sync("run-2"))
    assert (code, [run["state"] for run in answer["runs"]]) == (0, ["synced"])
    assert answer["runs"][0]["url"] == f"{server.base_url}/{USER}/demo/runs/run-2"
    assert answer["runs"][0]["row_count"] == ROW_COUNT + 1
    code, answer = told(start_sync())
    assert [run["state"] for run in answer["runs"]] == ["synced", "present"]
    assert answer["sentence"] == "2 of 2 runs are at W&B, 1 of them since before."
    for run_id in RUN_IDS:
        assert_is_there(server, run_id)
    assert len(server.alerts) == 2
    folders = data_dir / "wandb" / "wandb"
    assert len(list(folders.glob("*/run-*.wandb.synced"))) == 2
    assert not list(folders.glob("*/sync"))


def test_rows_arrive_once_though_uploads_are_killed_in_the_middle(
    server: WandbServer, start_sync: Start, data_dir: Path, wait_until: Callable[..., Any]
) -> None:
    """With some rows there, then with all but no end. No child and no file shows the key."""
    for fault in (
        server.fail("hang", operation="CreateArtifact"),
        server.fail("hang", operation="file_stream", containing='"exitcode"', is_done_first=True),
    ):
        process = start_sync("run-1", "--entity", TEAM)
        fault.wait()
        shown = shown_by_uploads(data_dir)  # the second time, it is what the first one has left
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not shown_by_uploads(data_dir))  # it ends with who has started it
        fault.clear()
        assert b"wandb\0sync\0" in shown
        assert KEY.encode() not in shown
    code, answer = told(start_sync("run-1", "--entity", TEAM))
    assert code == 0, answer["runs"][0]["sentence"]
    assert_is_there(server, "run-1", TEAM)
    assert len(server.alerts) == 1
    for path in data_dir.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def shown_by_uploads(data_dir: Path) -> bytes:
    """Return what `wandb sync` and what it has started show: commands and environments."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if b"wandb\0sync\0" + bytes(data_dir) in path.read_bytes():
                for pid in (int(path.parent.name), *pids_below(int(path.parent.name))):
                    for name in ("cmdline", "environ"):
                        found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def test_what_was_refused_is_not_taken_for_synced(server: WandbServer, data_dir: Path) -> None:
    """`wandb sync` passes over refused rows and lost artifacts, with exit code 0."""
    folder = chosen_folders(load(data_dir=data_dir), ["run-1"])[0]
    with server.fail(403, operation="CommitArtifact"):
        outcome = sync_folder(folder, server.base_url, KEY)
    assert (outcome.state, outcome.reason) == (SyncState.FAILED, "WANDB_REFUSED")
    assert "failed to log artifact" in outcome.sentence
    with server.fail(409, operation="file_stream", containing='"exitcode"'):
        outcome = sync_folder(folder, server.base_url, KEY)
    assert outcome.state is SyncState.FAILED
    assert "W&B does not have all of run run-1: 409 Conflict" in outcome.sentence
    progress: list[tuple[int, int]] = []
    outcome = sync_folder(folder, server.base_url, KEY, "", lambda *each: progress.append(each))
    assert outcome.state is SyncState.SYNCED
    assert progress[-1] == (ROW_COUNT + 1, ROW_COUNT + 1)
    assert_is_there(server, "run-1")


def test_a_row_that_is_never_taken_is_left_out_and_told(
    server: WandbServer, data_dir: Path
) -> None:
    """The rest of its run arrives."""
    (folder,) = offline_folders(data_dir / "other").values()
    server.fail(413, operation="file_stream", containing="p01s0n")
    outcome = sync_folder(folder, server.base_url, KEY)
    assert (outcome.state, outcome.row_count) == (SyncState.SYNCED, 1)
    assert "W&B never takes 1 row (the first: number 1): 413 Request Entity" in outcome.sentence
    run = server.runs["poisoned"]
    assert ([row["loss"] for row in run.rows], run.state) == ([0.5], "finished")


def test_what_keeps_an_upload_is_told_in_a_sentence_with_the_next_step(
    server: WandbServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wandb, no key, a wrong one, an unknown entity, a server that is away, an unknown run."""
    settings = load(data_dir=data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(SettingsError, match=r"wandb is not installed here\. Run `pip install"):
            Destinations(settings, {})
    folders = chosen_folders(settings, [])
    with pytest.raises(StateError, match=r"There are no files of run run-9 in .*: it has not"):
        chosen_folders(settings, ["run-9"])

    def outcomes(key: str, entity: str = "") -> list[Outcome]:
        environ = {"HOME": "/", "WANDB_BASE_URL": server.base_url, "WANDB_API_KEY": key}
        to = Destinations(settings, environ, entity=entity)
        return list(upload(folders, to, settings.store_url, lambda *_: None))

    (outcome,) = outcomes("")
    assert outcome.reason == "WANDB_KEY_MISSING"
    assert outcome.sentence.startswith(f"There is no key for W&B at {server.base_url}. Run `wandb")
    (outcome,) = outcomes("x" * 40)
    assert outcome.reason == "WANDB_KEY_REFUSED"
    assert "does not take the key. Run `wandb login" in outcome.sentence
    outcome, _ = outcomes(KEY, "nobody")
    assert "entity nobody not found" in outcome.sentence
    assert "check that there is an entity nobody" in outcome.sentence
    (data_dir / "keys").mkdir()
    (data_dir / "keys" / "crew").write_text(OTHER_KEY)  # as `Configure` keeps it
    to = Destinations(settings, {"HOME": "/", "WANDB_API_KEY": KEY})
    places = ("wandb-crew", "wandb-other", "wandb")
    keys = [to.of(data_dir / place / "wandb" / "offline-run-1-r").key for place in places]
    assert keys == [OTHER_KEY, KEY, KEY]
    server.stop_listening()
    (outcome,) = outcomes(KEY)
    assert outcome.reason == "WANDB_AWAY"
    assert "Sync again when it is back" in outcome.sentence
    server.listen_again()
    assert server.runs == {}


def test_an_upload_that_nobody_asked_for_is_tried_again_and_may_be_ended(
    server: WandbServer, data_dir: Path, wait_until: Callable[[Callable[[], Any]], Any]
) -> None:
    """A refused key is told, another one is used and not shown; an ended upload is gone on with."""
    shutil.rmtree(chosen_folders(load(data_dir=data_dir), ["run-2"])[0])
    keys = ["x" * 40]
    uploader = Uploader(
        load(data_dir=data_dir),
        lambda: {"WANDB_BASE_URL": server.base_url, "WANDB_API_KEY": keys[-1]},
        0.01,
    )

    async def look_until(is_enough: Callable[[], Any]) -> None:
        task = asyncio.create_task(uploader.run())
        await asyncio.to_thread(wait_until, is_enough)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(look_until(lambda: "does not take the key" in uploader.last_error))
    keys.append(KEY)
    fault = server.fail("hang", operation="CreateArtifact")
    shown: list[bytes] = []

    def note_shown() -> bool:
        shown.append(shown_by_uploads(data_dir))
        return True

    asyncio.run(look_until(lambda: fault.hits and note_shown()))
    assert b"wandb\0sync\0" in shown[0]
    assert KEY.encode() not in shown[0]
    fault.clear()
    asyncio.run(look_until(lambda: not uploader.last_error))
    assert_is_there(server, "run-1")


def test_offline_runs_are_uploaded_by_themselves_once_there_is_a_key(
    server: WandbServer, tmp_path: Path, wait_until: Callable[[Callable[[], Any]], Any]
) -> None:
    """A sidecar without a key leaves its runs here; with one it uploads what it finds."""
    sidecar = SidecarProcess(tmp_path)
    home = {"HOME": str(tmp_path), "WANDB_BASE_URL": server.base_url}
    try:
        sidecar.start(**home)
        with pillion.init(project="demo", id="run-1", address=sidecar.address, quiet=True) as run:
            for step in range(100):
                run.log({"loss": step / 4})
        wait_until(lambda: list((sidecar.data_dir / "wandb" / "wandb").glob("*-run-1")))
        sidecar.stop()
        assert server.count() == 0
        fault = server.fail("hang", operation="file_stream", containing='"exitcode"')
        sidecar.start(**home, WANDB_API_KEY=KEY)
        wait_until(lambda: fault.hits)
        status = sidecar.call("GetStatus", pb2.GetStatusRequest()).wandb
        assert (status.mode, status.waiting_upload_count) == ("online", 1)
        fault.clear()
        wait_until(lambda: "run-1" in server.runs and server.runs["run-1"].state == "finished")
    finally:
        sidecar.close()
    assert [row["global_step"] for row in server.runs["run-1"].rows] == list(range(100))
    assert server.runs["run-1"].program not in ("", "unknown")
