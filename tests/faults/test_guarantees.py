"""The command that makes `docs/guarantees.md`, on a few of its rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

COMMAND = Path(__file__).parents[2] / "benchmarks" / "guarantees.py"


@pytest.mark.parametrize("fault", ["trainer: SIGKILL", "network: cut for 5 s"])
def test_guarantees_are_made_by_doing_the_faults(fault: str) -> None:
    """Exit code 0 says that every promise was kept; the figures say what happened."""
    made = subprocess.run(
        [sys.executable, str(COMMAND), "--json", "--only", fault],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    for row in json.loads(made.stdout):
        assert row["verdict"]["logged"] >= row["verdict"]["acked"] > 0
        assert row["wandb"] is None or row["wandb"]["verdict"]["logged"] > 0
        assert row["recovery_s"] > 0
