"""The documents are true: the paths, settings, commands, errors and calls they name, and all."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from pillion.v1 import record_pb2, run_pb2, telemetry_service_pb2
from pillion_sidecar import errors
from pillion_sidecar.cli import app
from pillion_sidecar.comparison_json import comparison_json, differences_json
from pillion_sidecar.exposition import families
from pillion_sidecar.metrics import REGISTRY
from pillion_sidecar.rendering_run import whole_run_json
from pillion_sidecar.rendering_status import status_json
from pillion_sidecar.service import _CODES_BY_FAULT, _CODES_BY_REASON
from pillion_sidecar.settings import Settings
from pillion_trainer.config import TrainingConfig
from pillion_trainer.config_file import load_config
from pillion_trainer.samples import read_data

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/adr/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES = [
    path
    for folder in ("client/pillion", "sidecar/pillion_sidecar", "trainer/pillion_trainer")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
ERRORS = {name: kind for name, kind in vars(errors).items() if name.endswith("Error")}
FOLDERS = ("benchmarks", "client", "deploy", "docs", "protos", "sidecar", "tests", "trainer")
FILE_ENDINGS = (".md", ".proto", ".py", ".toml", ".txt", ".yaml")
FORBIDDEN = (r"/root/", r"/home/", r"#\d{2,}")
"""Places of one machine, and things that are no part of the project."""

each_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


@each_doc
def test_every_path_that_a_document_names_exists(doc: Path) -> None:
    """In backticks from the repository's root, in links from the document's own folder."""
    prose = without_blocks(text_of(doc))
    named = [path for path in re.findall(r"`([^`\s]+)`", prose) if is_of_repository(path)]
    linked = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", prose)
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [path for path in linked if not (doc.parent / path).exists()] == []


@each_doc
def test_every_test_that_a_document_names_exists(doc: Path) -> None:
    """A guarantee is worth what shows it."""
    tests = "\n".join(text_of(path) for path in ROOT.glob("tests/**/test_*.py"))
    named = re.findall(r"`(test_\w+)`", text_of(doc))
    assert [name for name in named if f"def {name}(" not in tests] == []


@each_doc
def test_no_document_names_what_only_its_author_has(doc: Path) -> None:
    """No folder of one machine, and nothing that a reader cannot look up."""
    text = text_of(doc)
    assert [pattern for pattern in FORBIDDEN if re.search(pattern, text, re.IGNORECASE)] == []


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_in_its_three_forms(name: str) -> None:
    """Flag, variable and TOML key stand in one row."""
    cells = [f"`--{name.replace('_', '-')}`", f"`PILLION_{name.upper()}`", f"`{name}`"]
    assert any(all(cell in row for cell in cells) for row in read("docs/settings.md").splitlines())


def test_every_variable_that_is_read_is_documented() -> None:
    """The client's too."""
    read_ones = set(re.findall(r"\bPILLION_[A-Z_]*[A-Z]\b", "\n".join(map(text_of, SOURCES))))
    assert read_ones
    assert [name for name in sorted(read_ones) if f"`{name}`" not in read("docs/settings.md")] == []


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_is_documented_with_its_options(name: str) -> None:
    """Each has a section, and each option of it a mention there."""
    sections = re.split(r"^## ", read("docs/cli.md"), flags=re.MULTILINE)
    mine = [section for section in sections if re.match(rf"`pillion {name}[ `]", section)]
    assert len(mine) == 1
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = [text for each in command.params for text in each.opts if text.startswith("--")]
    assert [text for text in options if f"`{text}" not in mine[0] and text != "--help"] == []


def test_every_field_of_the_json_output_is_documented() -> None:
    """What scripts read is part of the interface."""
    status = telemetry_service_pb2.GetStatusResponse(
        runs=[run_pb2.RunStatus(sinks=[run_pb2.SinkStatus(sink="store")])],
        totals=run_pb2.StatusTotals(sinks=[run_pb2.SinkTotals(sink="store")]),
        workers=[run_pb2.WorkerStatus(sink="store")],
    )
    comparison = telemetry_service_pb2.CompareResponse(
        runs=[run_pb2.Run()],
        metrics=[
            run_pb2.MetricComparison(
                statistics=[run_pb2.MetricStatistics()],
                groups=[run_pb2.GroupStatistics()],
                group_differences=[run_pb2.GroupDifference()],
            )
        ],
        config_differences=[run_pb2.ConfigDifference()],
        environment_differences=[run_pb2.ConfigDifference()],
        costs=[run_pb2.RunCost()],
        groups=[run_pb2.RunGroup()],
        aligned=[run_pb2.AlignedMetric(series=[run_pb2.AlignedSeries()])],
    )
    run = run_pb2.Run(
        definitions=[record_pb2.MetricDefinition()], alerts=[record_pb2.Alert(title="x")]
    )
    shapes = [status_json(status), comparison_json(comparison), whole_run_json(run)]
    shapes.append(differences_json(comparison))
    fields = {key for shape in shapes for key in keys_of(shape)} - {"", "store"}
    prose = without_blocks(read("docs/cli.md"))
    documented = re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", prose)))
    assert sorted(fields - set(documented)) == []


def test_every_reason_of_an_error_is_documented() -> None:
    """What a call is refused with stands with its gRPC code; troubles of a sink refuse none."""
    rows = read("docs/contract.md").splitlines()
    found = {pair for path in SOURCES for pair in reasons_in(path)}
    assert {("StateError", "SEQUENCE_GAP"), ("SinkError", "STORE_BUSY")} <= found
    starts = {
        f"| `{reason}` | " + ("" if error == "SinkError" else f"{code_of(error, reason)} | ")
        for error, reason in found | {("PeerError", "INVALID")}
    }
    assert [start for start in starts if not any(row.startswith(start) for row in rows)] == []


def test_every_metric_of_the_sidecar_is_documented() -> None:
    """Under the name that Prometheus sees."""
    status = telemetry_service_pb2.GetStatusResponse(
        totals=run_pb2.StatusTotals(sinks=[run_pb2.SinkTotals()]), workers=[run_pb2.WorkerStatus()]
    )
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in (*REGISTRY.collect(), *families(status))
    }
    documented = read("docs/cli.md")
    own = sorted(name for name in names if name.startswith("pillion_"))
    assert "pillion_append_seconds" in own
    assert [name for name in own if f"`{name}`" not in documented] == []


def test_every_option_of_a_fine_tune_is_documented() -> None:
    """With its default, in the words of `--help`, and all in one order."""
    rows = [row for row in read("docs/training.md").splitlines() if row.startswith("| `")]
    expected = []
    for each in fields(TrainingConfig):
        word = str(each.default).lower() if isinstance(each.default, bool) else str(each.default)
        default = "" if each.default in (None, ()) else f"`{word}`"
        expected.append(f"| `{each.name}` | {default} | {each.metadata['help']} |")
    assert [row for row in rows if row in expected] == expected


def test_the_examples_of_a_fine_tune_hold(tmp_path: Path) -> None:
    """Its files are read as configurations, and its rows as what they are called."""
    text = read("docs/training.md")
    for kind in ("toml", "yaml"):
        (example,) = re.findall(rf"(?ms)^```{kind}\n(.*?)^```", text)
        file = tmp_path / f"tune.{kind}"
        (tmp_path / "sums.jsonl").touch()
        file.write_text(example.replace("sums.jsonl", str(tmp_path / "sums.jsonl")))
        assert load_config(file, {}).model == "Qwen/Qwen2.5-0.5B"
    found = []
    for index, example in enumerate(re.findall(r"(?ms)^```jsonl\n(.*?)^```", text)):
        file = tmp_path / f"{index}.jsonl"
        file.write_text(example)
        found.append(read_data("data", str(file), "auto").form)
    assert found == ["chat", "completion", "text"]


def test_every_rpc_is_documented() -> None:
    """Those that this version does not have too."""
    service = telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
    contract = read("docs/contract.md")
    assert [each.name for each in service.methods if f"`{each.name}`" not in contract] == []


def test_every_dependency_has_its_reason() -> None:
    """What is installed stands in the ADR about dependencies, and nothing else does."""
    project = re.sub(
        r"(?ms)\A.*?^dependencies = |^\[project\.scripts\].*", "", read("pyproject.toml")
    )
    wanted = set(re.findall(r'"([A-Za-z0-9-]+)[<>=]', project))
    table = re.findall(
        r"(?m)^\| ([a-z0-9, -]+) \| (?:client|sidecar|trainer|dev) \|",
        read("docs/adr/0006-dependencies.md"),
    )
    assert wanted == {name for cell in table for name in cell.split(", ")}


def read(path: str) -> str:
    """Return the text of a file, named from the root."""
    return text_of(ROOT / path)


def text_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    """Leave fenced blocks out: they show commands and files of a reader's own."""
    return re.sub(r"(?ms)^```.*?^```", "", text)


def is_of_repository(path: str) -> bool:
    """Tell whether a text in backticks is meant as a path from the root."""
    folder, slash, _ = path.partition("/")
    if not re.fullmatch(r"\w[\w./-]*", path):
        return False
    return folder in FOLDERS if slash else path in FOLDERS or path.endswith(FILE_ENDINGS)


def keys_of(shape: Any) -> Iterator[str]:
    """Yield the names of all fields, at whatever depth."""
    if isinstance(shape, dict):
        yield from shape
        for value in shape.values():
            yield from keys_of(value)
    elif isinstance(shape, list):
        for value in shape:
            yield from keys_of(value)


def reasons_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (class, reason) for each error that a module makes with a reason of its own."""
    for node in ast.walk(ast.parse(text_of(path))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id not in ERRORS:
            continue
        given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "reason")]
        for value in given:
            assert isinstance(value, ast.Constant), "a reason is written out, so that it is found"
            yield node.func.id, value.value


def code_of(error: str, reason: str) -> str:
    """Return the gRPC code that a call gets; see `service.py`."""
    if reason == "INTERNAL":
        return "INTERNAL"
    code = _CODES_BY_REASON.get(reason) or _CODES_BY_FAULT.get(ERRORS[error])
    return code.name if code else "UNIMPLEMENTED"
