"""`pillion.install_as_wandb`: each in a process of its own, since modules are a process's."""

import subprocess
import sys

import pytest
from processes import environment

FOUND = """
import sys, importlib.util, importlib.metadata
sys.modules.pop("wandb", None)
import pillion
pillion.install_as_wandb()
pillion.install_as_wandb()
spec = importlib.util.find_spec("wandb")
assert spec is not None and spec.name == "wandb" and spec.loader is not None
assert importlib.metadata.version("wandb") == "0.31.0"
assert importlib.metadata.metadata("wandb")["Name"] == "wandb"
import wandb, wandb.errors
from wandb import Image, init
from wandb.sdk.lib.config_util import ConfigError
assert wandb is sys.modules["wandb"] and wandb.__spec__ is spec
assert (Image, init, wandb.log) == (pillion.Image, pillion.init, pillion.log)
assert wandb.run is None and wandb.__version__ == "0.31.0"
assert issubclass(ConfigError, Exception)
assert "google.protobuf" not in sys.modules
"""
TOO_LATE = """
import sys, types
sys.modules["wandb"] = types.ModuleType("wandb")
import pillion
pillion.install_as_wandb()
"""


@pytest.mark.parametrize(("code", "error"), [(FOUND, ""), (TOO_LATE, "is imported already")])
def test_what_looks_for_wandb_finds_pillion(code: str, error: str) -> None:
    """By import, by its spec and by its version; but not where wandb was taken before."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(),
    )
    assert done.returncode == bool(error), done.stderr
    assert error in done.stderr
