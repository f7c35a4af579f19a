"""What the README promises is run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


TRAINER = """
import math, sys
import pillion

r, rate = int(sys.argv[1]), float(sys.argv[2])
config = {"learning_rate": rate, "lora": {"r": r, "alpha": 2 * r}}
with pillion.init(config=config, quiet=True) as run:
    run.define_metric("eval/*", summary="min")
    for step in range(300):
        loss = 0.4 + 1.8 * math.exp(-4 * step * rate * r**0.5) + 0.03 * math.sin(step)
        row = {"train/loss": loss}
        if step % 100 == 99:
            row["eval/loss"] = loss + 0.05
            print(f"step {step}: eval/loss {loss + 0.05:.4f}")
        run.log(row, step=step)
    if r == 32:
        run.alert("Loss is flat", "Nothing has moved for 100 steps.", level="WARN")
"""
"""Of what the documents show: the runs lora-r8, lora-r16 and lora-r32."""
SHOWN = {
    *("runs", "status", "show", "watch", "console", "compare", "diff"),
    *("tag", "note", "export", "rm"),
}


def code_blocks(language: str, document: str = README) -> list[str]:
    """Return a document's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


@pytest.mark.timeout(1200)
def test_the_examples_do_what_they_say(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """As they stand, with a sidecar found by the environment: numbers, then all the rest."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.bin").write_bytes(b"\1\2\3")
    for example in code_blocks("python"):
        trainer = run_python(example, PILLION_ADDRESS=sidecar.address)
        is_fine_tune = "TrainingOrchestrator" in example
        output, errors = trainer.communicate(timeout=500)
        assert trainer.returncode == 0, errors
        if is_fine_tune:
            told = [line.split()[:3] for line in output.splitlines()]
            assert told == [["r4", "FINISHED", "20"], ["r16", "FINISHED", "20"]], output
        if "best_loss" in example:
            status = sidecar.call("GetStatus", pb2.GetStatusRequest())
            assert "All 100 rows of 1 run are on disk" in status.sentence
    assert "All 100 rows of 1 run are on disk" in README
    rich, plain = sidecar.call("ListRuns", pb2.ListRunsRequest(project="readme")).runs
    assert plain.state == rich.state == record_pb2.RUN_STATE_FINISHED
    assert plain.row_count == 100
    assert from_key_values(plain.summary)["best_loss"] == 0.01
    assert re.fullmatch(r"tiny-llama_chat_\d{8}-\d{6}", rich.name)
    told = sidecar.call("GetRun", pb2.GetRunRequest(run_id=rich.run_id)).run
    assert [alert.title for alert in told.alerts] == ["Loss is flat"]
    asked = pb2.ListArtifactsRequest(project="readme", name="adapter", version="best")
    (artifact,) = sidecar.call("ListArtifacts", asked).artifacts
    assert (artifact.name, artifact.version, [file.name for file in artifact.files]) == (
        *("adapter", "v0"),
        ["weights.bin"],
    )
    assert {"best", "latest"} <= set(artifact.aliases)


def test_what_commands_are_shown_to_print_is_what_they_print(
    sidecar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line, in `docs/cli.md` and here; but for ids, times and lines that are left out."""
    monkeypatch.setenv("PILLION_ADDRESS", sidecar.address)
    monkeypatch.setenv("PILLION_DATA_DIR", str(sidecar.data_dir))
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAINER, encoding="utf-8")
    for r, learning_rate in (("8", "1e-3"), ("16", "1e-3"), ("32", "2e-3")):
        run = ["run", "--quiet", "--project", "chat", "--name", f"lora-r{r}", "--", sys.executable]
        command = [sys.executable, "-m", "pillion_sidecar", *run, "train.py", r, learning_rate]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    blocks = [*code_blocks("console", CLI), *code_blocks("console")]
    shown = [
        each
        for block in blocks
        if re.search("lora-r32|46b891a2", block)
        for each in re.findall(r"(?m)^\$ pillion (.*)\n((?:(?!\$ ).*\n)*)", block)
    ]
    assert {words.split()[0] for words, _ in shown} >= SHOWN
    for words, output in shown:
        printed = CliRunner().invoke(app, shlex.split(words)).output
        wanted = re.escape(told_alike(output)).replace(re.escape("...\n"), "(?:.*\n)*")
        assert re.fullmatch(wanted, told_alike(printed)), f"pillion {words} printed\n{printed}"


def told_alike(text: str) -> str:
    """Return what was printed without what is of one run of it: ids, times, blanks between."""
    text = re.sub(r"\b[0-9a-f]{8}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d\d-\d\d \d\d:\d\d", "TIME", text)
    text = re.sub(r"\b(\d+m )?\d+s\b", "TOOK", text)
    return "".join(f"{' '.join(line.split())}\n" for line in text.splitlines())


def test_the_two_commands_are_targets_and_ci_calls_what_people_call() -> None:
    """`make demo` and `make test` exist, and CI calls `make check` and `make test`."""
    targets = re.findall(
        r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"demo", "test", "check", "bench"} <= set(targets)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make check\nmake test\n" in ci


def test_every_command_in_the_readme_exists() -> None:
    """Each `pillion COMMAND` that is shown is one."""
    named = {
        command
        for block in code_blocks("console")
        for command in re.findall(r"(?m)^\$ pillion ([a-z]+)", block)
    }
    assert {"serve", "status", "runs", "compare", "train", "configure", "sync"} <= named
    assert named <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_rpc_called_in_the_readme_is_in_the_contract() -> None:
    """The service and methods of the curl lines are those of the contract."""
    service = pb2.DESCRIPTOR.services_by_name["TelemetryService"]
    called = set(re.findall(rf"{service.full_name}/([A-Za-z]+)", README))
    assert called >= {"StartRun", "LogMetrics", "GetStatus", "Compare"}
    assert called <= {method.name for method in service.methods}
