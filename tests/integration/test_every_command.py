"""Every command once as text and once as JSON, beside one sidecar for all."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from artifact_calls import send
from processes import SidecarProcess
from typer.testing import CliRunner
from wandb.proto import wandb_internal_pb2 as wandb_pb

import pillion
from pillion.spool import Kind, Spool
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.cli import app
from pillion_sidecar.cli_compare import EXIT_DIFFERENT
from pillion_sidecar.sinks.wandb_copy import write_record
from pillion_sidecar.sinks.wandb_file import FILE_HEADER

FORMS = ("text", "json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


@dataclass(frozen=True)
class Case:
    """How a command is called, and what comes of it. `{form}` is `text` or `json`."""

    arguments: str
    """`{place}` is a directory with files."""
    shown: str
    """A part of what is printed as text."""
    fields: str
    """The names at the top of the JSON; empty: of those of a run some."""
    exit_codes: tuple[int, ...] = (0,)


RUN_FIELDS = "run_id name project state tags notes config summary"
CASES = {
    "status": Case("first", "the store has all", "sentence is_safe runs"),
    "wait": Case("first", "Everything is delivered.", "is_done sentence lag_row_count"),
    "doctor": Case("", "ok", "findings", exit_codes=(0, 1)),  # the machine's own matter
    "runs": Case("--metric train/loss", "train/loss", "runs"),
    "show": Case("first", "config lr", RUN_FIELDS),
    "watch": Case("first", "first FINISHED 2 rows", "run_id run values row_count last_step"),
    "console": Case("first", "hello", "run_id console"),
    "update": Case("first --notes changed", "changed", RUN_FIELDS),
    "tag": Case("first +tagged", "tagged", RUN_FIELDS),
    "note": Case("first noted", "noted", RUN_FIELDS),
    "rm": Case("doomed-{form} --yes", "doomed-text is deleted.", "deleted refused"),
    "compare": Case("first second", "Best by train/loss", "runs metrics best_run_id costs"),
    "diff": Case("first second", "lr", "run_ids config_differences", (EXIT_DIFFERENT,)),
    "export": Case(
        "first --output {place}/{form}.csv", "2 rows of 1 run in", "path size_bytes runs"
    ),
    "configure": Case("", "New runs do not go to W&B.", "enabled available mode credentials"),
    "sync": Case("", "There are no offline runs", "sentence run_count runs"),
    "import": Case("{place}/old.wandb", "imported", "runs failures"),
    "gc": Case(
        "--dry-run", "versions of artifacts would be removed", "versions blob_count size_bytes"
    ),
    "artifacts ls": Case("", "weights", "artifacts"),
    "artifacts show": Case("weights", "model.bin", "name version files reader_run_ids"),
    "artifacts get": Case(
        "weights --output {place}/got-{form}", "weights:v0: 1 file in", "name files directory"
    ),
    "spool ls": Case("", "left.w.spool", "directory files"),
    "spool send": Case("send-{form}.w.spool", "is kept by the sidecar", "sent failures"),
    "spool rm": Case("rm-{form}.w.spool --yes", "is deleted.", "deleted"),
    "version": Case("", pillion.__version__, "version"),
}
TEXT_ONLY = {"serve", "run", "train", "demo"}
"""These print what others print, and are tested where they are at home."""


def commands(group: Any, *before: str) -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, those of the groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name)), command


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """Return one sidecar with two runs, an artifact, and runs to be deleted."""
    process = SidecarProcess(tmp_path_factory.mktemp("every"), "--wandb-mode", "disabled").start()
    with closing(process):
        for run_id, loss in (("first", 0.5), ("second", 0.25)):
            with pillion.init(
                project="p", id=run_id, config={"lr": loss}, address=process.address, quiet=True
            ) as run:
                run.log({"train/loss": 1.0})
                run.log({"train/loss": loss})
        for form in FORMS:
            pillion.init(id=f"doomed-{form}", address=process.address, quiet=True).finish()
        start = pb2.StartRunRequest(run_id="first", writer_id="shell")
        process.call("StartRun", start)
        batch = record_pb2.Batch(run_id="first", writer_id="shell", sequence=1)
        batch.records.add().console_lines.lines.append("hello")
        process.log(pb2.LogMetricsRequest(batch=batch))
        finish = pb2.FinishRunRequest(run_id="first", writer_id="shell", last_sequence=1)
        process.call("FinishRun", finish)
        send(process, {"model.bin": b"weights"}, run_id="first")
        process.call("ListRuns", pb2.ListRunsRequest())  # waits until the store has all
        yield process


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a file of W&B's, and a spool in which files wait."""
    directory = tmp_path_factory.mktemp("place")
    for name in ("left", *(f"{to_do}-{form}" for to_do in ("send", "rm") for form in FORMS)):
        request = pb2.StartRunRequest(run_id=name, writer_id="w")
        with closing(Spool.create(directory / "spool", name, "w", 2**20)) as file:
            file.append(Kind.START, request.SerializeToString())
    with (directory / "old.wandb").open("wb") as file_of_wandb:
        file_of_wandb.write(FILE_HEADER)
        record = wandb_pb.Record(run=wandb_pb.RunRecord(run_id="old", project="p"))
        write_record(file_of_wandb, record.SerializeToString())
    return directory


@pytest.fixture
def pillion_command(sidecar: SidecarProcess, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command in this process, as a shell's words."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PILLION_ADDRESS", sidecar.address)
    monkeypatch.setenv("PILLION_DATA_DIR", str(sidecar.data_dir))
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(place / "spool"))
    return lambda words: CliRunner().invoke(app, shlex.split(words), catch_exceptions=False)


def test_every_command_has_a_case_and_takes_json_or_is_text_only() -> None:
    """A new command fails here until it is tested in both forms."""
    there = dict(commands(typer.main.get_command(app)))
    takes_json = {
        name for name, command in there.items() if any("--json" in p.opts for p in command.params)
    }
    assert takes_json == set(CASES)
    assert there.keys() - takes_json == TEXT_ONLY


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_the_command_answers(name: str, form: str, pillion_command: Any, place: Path) -> None:
    """As text with what people look for; as JSON with its documented fields, and nothing else."""
    case = CASES[name]
    words = f"{name} {case.arguments.format(form=form, place=place)}"
    done = pillion_command(words if form == "text" else f"{words} --json")
    assert done.exit_code in case.exit_codes, done.output
    if form == "text":
        assert case.shown in done.stdout
        assert done.stdout.strip()
        return
    shape = json.loads(done.stdout)
    assert set(case.fields.split()) <= shape.keys()
    document = DOCUMENT.read_text(encoding="utf-8")
    assert [field for field in shape if not re.search(rf"[`.]{field}\b", document)] == []
