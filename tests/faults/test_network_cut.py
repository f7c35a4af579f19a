"""F12: the network between trainers and sidecar breaks in every way, again and again.

What cannot be sent waits in the spool; afterwards every row is in every sink once and in order.
"""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.proxy import Proxy
from faults.scene import Scene

TRAINERS, FAULTS = 2, 12
PAUSE_S_MAX = 1.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a sidecar on TCP, with W&B."""
    scene = Scene(tmp_path, listen="127.0.0.1:0")
    scene.start()
    yield scene
    scene.close()


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    """Return the network to it."""
    proxy = Proxy(scene.sidecar.address)
    yield proxy
    proxy.close()


def test_rows_survive_a_network_that_breaks_at_random(scene: Scene, proxy: Proxy) -> None:
    """Cut, stalled, reset: none lost, none doubled, in order, and fresh rows flow afterwards."""
    chance = random.Random(12)
    trainers = [scene.add_trainer(address=proxy.address) for _ in range(TRAINERS)]
    breaks: list[Callable[[], None]] = [proxy.cut, proxy.stall, proxy.reset]
    for _ in range(FAULTS):
        chance.choice(breaks)()
        threading.Event().wait(chance.uniform(0, PAUSE_S_MAX))
        proxy.heal()
        threading.Event().wait(chance.uniform(0, PAUSE_S_MAX))
    for trainer in trainers:
        trainer.wait_fresh(trainer.account.end_s)
    scene.finish()
    verdict = scene.settle()
    verdict.check()
    assert verdict.missing == verdict.refused == verdict.declared == 0
    assert verdict.delivered == verdict.logged > 0


def test_a_trainer_may_end_while_the_network_is_cut(scene: Scene, proxy: Proxy) -> None:
    """It ends well; its rows wait in the spool, from which the sidecar of this host takes them."""
    trainer = scene.add_trainer(address=proxy.address)
    trainer.wait_acked(20)
    proxy.cut()
    trainer.wait_logged(len(trainer.account.rows) + 20)
    assert trainer.end("finish") == 0
    assert trainer.account.refused == 0
    verdict = scene.settle()
    verdict.check()
    assert verdict.missing == verdict.refused == verdict.declared == 0
    assert verdict.delivered == verdict.logged > 0
