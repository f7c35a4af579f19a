"""Kills at random over trainers, sidecar, workers and wandb-core, judged by the oracle.

12 kills here, always the same ones, though never at the same moments; `PILLION_TEST_KILLS=300` does
more, `PILLION_TEST_SEED` others, and so does `make soak`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.random_faults import RandomFaults
from faults.scene import Scene

KILL_COUNT = int(os.environ.get("PILLION_TEST_KILLS", "12"))
SEED = int(os.environ.get("PILLION_TEST_SEED", "17"))

TAIL_S_MAX = 10.0
"""A killed trainer loses what it logged in the last tenth of a second; more where all is busy."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a scene that is closed in the end."""
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.mark.timeout(900 + 30 * KILL_COUNT)
def test_no_kill_at_any_moment_loses_or_doubles_an_acked_row(scene: Scene) -> None:
    """Four trainers log on through it all; in the end every sink has each acked row once."""
    print(f"PILLION_TEST_SEED={SEED} PILLION_TEST_KILLS={KILL_COUNT}")  # shown when it fails
    faults = RandomFaults(scene, SEED)
    for number in range(KILL_COUNT):
        faults.strike(is_awaited=number % 3 == 0)  # mostly the next one comes into the recovery
    print(*faults.trail, sep="\n")
    scene.finish()
    verdict = scene.settle()
    print(faults.done, f"recovered within {max(faults.recoveries_s):.1f} s", verdict)
    verdict.check()
    assert verdict.logged > KILL_COUNT
    assert verdict.tail_s < TAIL_S_MAX
