"""What a link makes of the sidecar's word when it comes back. Without threads and without gRPC."""

from collections import deque
from typing import Any

import pytest

from pillion._batch import Update
from pillion._encoding import Encoder
from pillion._link import Link, Start
from pillion.v1 import telemetry_service_pb2 as pb2


@pytest.fixture
def link() -> Link:
    """Return a link whose sender has kept three batches of one row, as before any ack."""
    rows: deque[Any] = deque()
    link = Link("unix:/nowhere/s.sock", "", Start("run", "w", "allow", {}, {}), rows)
    link._encoder = Encoder("run", "w")
    for step in range(3):
        rows.append((step, 1, {"a": 1.0}))
        link._encode(link._encoder)
    return link


def started(last_sequence: int, journal_id: str = "j") -> Any:
    """Return the sidecar's answer to StartRun."""
    return pb2.StartRunResponse(last_sequence=last_sequence, journal_id=journal_id)


def sent(outgoing: Any) -> list[Any]:
    """Return what is queued to be sent: a sequence, or the range that was lost and its rows."""
    messages = []
    while not outgoing.empty():
        batch = pb2.LogMetricsRequest.FromString(outgoing.get()).batch
        lost = batch.records[0].lost_range
        is_lost = batch.records[0].WhichOneof("kind") == "lost_range"
        messages.append(
            (lost.first_sequence, lost.last_sequence, lost.row_count) if is_lost else batch.sequence
        )
    return messages


def test_what_the_sidecar_lacks_is_sent_again_and_only_that(link: Link) -> None:
    """Acked batches are let go, the rest is sent in order."""
    assert sent(link._on_started(started(1))) == [2, 3]
    assert link.counts().acked == 1
    assert link.counts().unacked == 2


def test_what_a_lost_journal_had_is_declared_as_lost(link: Link) -> None:
    """The rows that were acked by the former journal, before the batches that are still here."""
    link._on_started(started(2))
    assert sent(link._on_started(started(0, "another"))) == [(1, 2, 2), 3]


def test_a_batch_that_is_just_being_encoded_is_never_declared_lost(link: Link) -> None:
    """The encoder's number runs ahead of what is kept; only what is kept counts."""
    link._on_started(started(3))
    assert link._encoder is not None
    link._encoder.last_sequence = 4  # the sender is between making batch 4 and keeping it
    assert sent(link._on_started(started(3))) == []


def test_a_batch_that_is_refused_for_good_is_replaced_by_its_absence(link: Link) -> None:
    """So that those behind it may go on; its rows are counted as refused."""
    link._on_started(started(1))
    link._give_up_first("no")
    assert sent(link._on_started(started(1))) == [(2, 2, 1), 3]
    assert link.counts().refused == 1


def test_every_row_is_in_one_count(link: Link) -> None:
    """Queued, unacked, acked and refused add up to what was logged; updates are not rows."""
    link._rows.append((9, 1, {"a": 1.0}))
    link.update(Update("config_update", {"x": 1}))
    link._on_started(started(2))
    counts = link.counts()
    assert (counts.queued, counts.unacked, counts.acked, counts.refused) == (1, 1, 2, 0)
