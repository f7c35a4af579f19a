"""What the packages promise as packages: light imports, complete names, one place for wandb."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pillion
from pillion.v1 import telemetry_service_pb2

ROOT = Path(__file__).parents[2]
PACKAGES = {
    name: ROOT / root / name
    for root, name in (
        *(("client", "pillion"), ("sidecar", "pillion_sidecar"), ("trainer", "pillion_trainer")),
    )
}
GENERATED = ROOT / "client" / "pillion" / "v1"
MODULES = sorted(
    path
    for directory in PACKAGES.values()
    for path in directory.rglob("*.py")
    if GENERATED not in path.parents
)


def name_of(path: Path) -> str:
    """Return a module's path for people."""
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
        ):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


@pytest.mark.parametrize("statement", ["import pillion", "import pillion; pillion.log({'a': 1})"])
def test_import_loads_nothing_heavy(statement: str) -> None:
    """A trainer that imports the client pays for no gRPC, no protobuf and no array library."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "pillion" in loaded
    assert loaded.isdisjoint({"grpc", "numpy", "torch", "wandb", "pydantic", "sqlalchemy"})
    assert "google.protobuf" not in done.stdout.split()


def test_import_of_the_trainer_loads_nothing_heavy() -> None:
    """`--help` and mistakes in a configuration come at once."""
    code = "import sys; import pillion_trainer; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"grpc", "torch", "transformers", "peft", "numpy"})


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=name_of
)
def test_names_of_a_package_are_sorted_and_complete(path: Path) -> None:
    """What a package offers stands in `__all__`, and what stands there can be had."""
    package = ".".join(path.parent.relative_to(ROOT).parts[1:])
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))
    assert names == sorted(set(names))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bound = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    offered = {name for name in bound - used if not name.startswith("_")}
    assert offered <= set(names)
    for name in names:
        if name in bound:
            assert hasattr(module, name)
        else:
            assert "__getattr__" in bound, f"{name} is nowhere"


def test_current_run_is_reached_by_module() -> None:
    """Without a run `pillion.run` is None, and the others say what to do; a module is imported."""
    assert pillion.run is None
    for name in ("config", "summary"):
        with pytest.raises(AttributeError, match=r"call pillion\.init\(\) first"):
            getattr(pillion, name)
    with pytest.raises(AttributeError, match=r"import pillion\.spool first"):
        pillion.__getattr__("spool")
    with pytest.raises(AttributeError, match="no attribute '__wrapped__'"):
        _ = pillion.__wrapped__


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_says_what_it_is(path: Path) -> None:
    """Each module begins with a docstring whose first line is a sentence or a title."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed(package: str) -> None:
    """Type checkers read our annotations."""
    assert (PACKAGES[package] / "py.typed").exists()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_wandb_is_imported_by_its_sink_alone(path: Path) -> None:
    """Everything else runs where wandb is not installed."""
    imports_wandb = any(name.split(".")[0] == "wandb" for name in imports_of(path))
    is_its_sink = path.parent.name == "sinks" and path.name.startswith("wandb")
    assert is_its_sink or not imports_wandb


@pytest.mark.parametrize(
    "path", sorted(PACKAGES["pillion"].glob("*.py")), ids=lambda path: path.name
)
def test_client_needs_the_standard_library_grpc_and_protobuf_alone(path: Path) -> None:
    """A trainer's environment gets nothing else from us; who has a framework imports its module."""
    loaded = {name.split(".")[0] for name in imports_of(path)}
    makes_frames = path.name in {"_history.py", "_comparison.py"}
    asked_for = {"numpy", "pandas"} if makes_frames else set()  # by the caller
    if path.name in {"system.py", "_processes.py", "_nvml.py"}:
        asked_for = {"psutil", "pynvml"}  # and done without
    assert loaded <= {*sys.stdlib_module_names, "pillion", "grpc", "google", *asked_for}


@pytest.mark.parametrize(
    ("name", "framework"),
    [("transformers", "transformers"), ("accelerate", "accelerate"), ("lightning", "lightning")],
)
def test_an_integration_needs_its_own_framework_alone(name: str, framework: str) -> None:
    """And torch, which each of them has; it is imported by its users, never by us."""
    path = PACKAGES["pillion"] / "integrations" / f"{name}.py"
    loaded = {each.split(".")[0] for each in imports_of(path)} - {"pytorch_lightning"}
    assert loaded - {*sys.stdlib_module_names, "pillion", "torch"} == {framework}


def test_contract_has_every_rpc_of_the_design() -> None:
    """Clients may rely on the whole contract; what is missing answers UNIMPLEMENTED."""
    service = telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
    shapes = {
        method.name: (method.client_streaming, method.server_streaming)
        for method in service.methods
    }
    unary, server, bidi = (False, False), (False, True), (True, True)
    assert service.full_name == "pillion.v1.TelemetryService"
    assert shapes == {
        **dict.fromkeys(["StartRun", "FinishRun", "Compare", "UpdateRun", "DeleteRun"], unary),
        **dict.fromkeys(["Configure", "GetStatus", "GetRun", "ListRuns", "ListArtifacts"], unary),
        **dict.fromkeys(["ReadMetrics", "WatchRun", "ReadArtifact"], server),
        **dict.fromkeys(["LogMetrics", "LogArtifact"], bidi),
    }


def test_rpcs_share_no_messages() -> None:
    """Each RPC has a request and a response of its own, so that each can grow by itself."""
    service = telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
    for method in service.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
