"""F13: a connection that is dead without anybody having said so is found by its silence.

The other end has lost its power, or something between has forgotten the connection: TCP itself
notices nothing for hours. Pings every 20 s, answered within 10 s, do; see `docs/contract.md`.
"""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from re import findall

import pytest
from faults.proxy import Proxy
from faults.scene import Scene, wait_until

FOUND_S_MAX = 200.0
"""Generous: 20 s until the ping, 10 s for its answer, and the pause before the next try."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a sidecar on TCP that shows its metrics."""
    scene = Scene(tmp_path, "--wandb-mode", "disabled", "--metrics-port", "0", listen="127.0.0.1:0")
    scene.start()
    yield scene
    scene.close()


def open_streams(scene: Scene) -> int:
    """Return how many streams the sidecar takes for open."""
    (url,) = findall(r"http://\S+", scene.sidecar.output())
    with urllib.request.urlopen(url, timeout=30) as answer:
        (count,) = findall(r"(?m)^pillion_open_streams ([\d.]+)$", answer.read().decode())
    return int(float(count))


def test_both_ends_find_a_connection_that_is_half_open(scene: Scene) -> None:
    """The client goes on over a new one, and the sidecar lets go of the old one's stream."""
    proxy = Proxy(scene.sidecar.address)
    trainer = scene.add_trainer(address=proxy.address)
    trainer.wait_acked(20)
    assert open_streams(scene) == 1
    proxy.silence()
    since_s = trainer.account.end_s
    wait_until(
        lambda: trainer.account.fresh_ack_s(since_s) is not None,
        "a fresh row is acked",
        FOUND_S_MAX,
    )
    wait_until(lambda: open_streams(scene) == 1, "the dead stream is gone", FOUND_S_MAX)
    scene.finish()
    verdict = scene.settle()
    verdict.check()
    assert verdict.missing == verdict.refused == verdict.declared == 0
    proxy.close()
