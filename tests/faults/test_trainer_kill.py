"""A trainer killed at random moments: what is kept is a prefix, and the run has crashed."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.scene import Scene

KILL_COUNT = 8
TAIL_S = 10.0
"""How old a missing row may be: the flush window is 0.25 s, and machines may be busy."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a scene with a sidecar, closed in the end."""
    scene = Scene(tmp_path, "--wandb-mode", "disabled")
    scene.start()
    yield scene
    scene.close()


def test_a_trainer_killed_at_any_moment_leaves_a_prefix_and_a_crashed_run(scene: Scene) -> None:
    """All that was acked is there, and nothing in between is missing."""
    moments = random.Random(7)
    for _ in range(KILL_COUNT):
        trainer = scene.add_trainer(rows_per_s=500.0)
        trainer.wait_logged(moments.randrange(1, 200))
        trainer.kill()
        scene.wait_ended(trainer, "CRASHED")
    verdict = scene.settle()
    verdict.check()
    assert verdict.logged >= KILL_COUNT
    assert verdict.tail_s < TAIL_S, str(verdict)
