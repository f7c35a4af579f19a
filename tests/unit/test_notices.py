"""What trainers are told of their run."""

import asyncio
from typing import Any

from pillion_sidecar.notices import NOTHING, Notice, Notices
from pillion_sidecar.records import RunId

RUN = RunId("run")


def test_advice_stands_beside_what_wandb_says_until_the_run_ends() -> None:
    """The page stays known, the first reason stands, a later run of the id is not stopped."""
    notices, stream = Notices(), asyncio.Queue[Any]()
    notices.join(RUN, stream)
    notices.note(RUN, Notice("https://page"))
    notices.advise(RUN, "loss is NaN")
    notices.advise(RUN, "loss is higher")
    assert notices.of(RUN) == Notice("https://page", "loss is NaN")
    assert stream.qsize() == 2
    notices.note(RUN, Notice("https://page", "Stop was pressed"))
    assert notices.of(RUN) == Notice("https://page", "Stop was pressed")
    notices.forget(RUN)
    assert notices.of(RUN) == NOTHING
