"""What a link makes of the sidecar's word when it comes back. Without threads and without calls."""

import random
import threading
from typing import Any

import grpc
import pytest

from pillion import _link
from pillion._batch import Update
from pillion._encoding import Encoder
from pillion._link import Link
from pillion._messages import Start
from pillion.v1 import telemetry_service_pb2 as pb2


@pytest.fixture
def link() -> Link:
    """Return a link whose sender has kept three batches of one row, as before any ack."""
    link = Link("unix:/nowhere/s.sock", "", Start("run", "w", "allow", {}, {}))
    sender = link._sender
    sender.encoder = Encoder("run", "w", link.refused)
    for step in range(3):
        link.rows.append((step, 1, {"a": 1.0}))
        sender._encode(sender.encoder)
    return link


def acked(sequence: int) -> Any:
    """Make the sidecar's answer to a batch."""
    return pb2.LogMetricsResponse(acked_sequence=sequence)


def started(last_sequence: int, journal_id: str = "j") -> Any:
    """Return the sidecar's answer to StartRun."""
    return pb2.StartRunResponse(last_sequence=last_sequence, journal_id=journal_id)


def sent(link: Link, lost: bytes | None) -> list[Any]:
    """Return what goes out on a stream: a sequence, or the range that was lost and its rows."""
    messages = []
    link._sender.is_all_encoded = True
    for message in link._messages(lost, threading.Event()):
        batch = pb2.LogMetricsRequest.FromString(message).batch
        lost_range = batch.records[0].lost_range
        is_lost = batch.records[0].WhichOneof("kind") == "lost_range"
        messages.append(
            (lost_range.first_sequence, lost_range.last_sequence, lost_range.row_count)
            if is_lost
            else batch.sequence
        )
    return messages


def test_what_the_sidecar_lacks_is_sent_again_and_only_that(link: Link) -> None:
    """Acked batches are let go, the rest is sent in order."""
    assert sent(link, link._on_started(started(1))) == [2, 3]
    assert link.counts().acked == 1
    assert link.counts().unacked == 2


def test_what_a_lost_journal_had_is_declared_as_lost(link: Link) -> None:
    """The rows that were acked by the former journal, before the batches that are still here."""
    link._on_started(started(2))
    assert sent(link, link._on_started(started(0, "another"))) == [(1, 2, 2), 3]


def test_a_batch_that_is_just_being_encoded_is_never_declared_lost(link: Link) -> None:
    """The encoder's number runs ahead of what is kept; only what is kept counts."""
    link._on_started(started(3))
    assert link._sender.encoder is not None
    link._sender.encoder.last_sequence = 4  # the sender is between making batch 4 and keeping it
    assert sent(link, link._on_started(started(3))) == []


def test_a_batch_that_is_refused_for_good_is_replaced_by_its_absence(link: Link) -> None:
    """So that those behind it may go on; its rows are counted as dropped."""
    link._on_started(started(1))
    link._give_up_first("no")
    assert sent(link, link._on_started(started(1))) == [(2, 2, 1), 3]
    assert link.counts().dropped == 1
    link._on_response(acked(3))
    assert (link.counts().acked, link.counts().unacked) == (2, 0)


def test_every_row_is_in_one_count(link: Link) -> None:
    """Queued, unacked, acked and refused add up to what was logged; updates are not rows."""
    link.rows.append((9, 1, {"a": 1.0}))
    link.rows.append(Update("config_update", {"x": 1}))
    link._on_started(started(2))
    counts = link.counts()
    assert (counts.queued, counts.unacked, counts.acked, counts.refused) == (1, 1, 2, 0)


def test_what_was_wrong_is_over_when_the_sidecar_acks_and_not_before(link: Link) -> None:
    """One that takes starts but no batches is no reason for a warning, or a try, every moment."""
    link._failure_count, link.problem = 5, "the disk is full"
    link._on_started(started(0))
    assert (link._failure_count, link.problem) == (5, "the disk is full")
    link._on_response(acked(1))
    assert (link._failure_count, link.problem) == (0, "")


@pytest.mark.parametrize(
    ("code", "details", "problem"),
    [
        ("UNAVAILABLE", "failed to connect: FAILED_PRECONDITION: No such file or directory", None),
        ("UNAVAILABLE", "failed to connect: UNKNOWN: ipv4:127.0.0.1:9: Connection refused", None),
        ("UNAVAILABLE", "the sidecar is ending", "the sidecar is ending"),
        ("RESOURCE_EXHAUSTED", "the disk is full", "the disk is full"),
    ],
)
def test_that_nothing_listens_is_said_in_plain_words(
    link: Link, code: str, details: str, problem: str | None
) -> None:
    """Not in those of the library; what a sidecar says is told as it is."""
    error = grpc.aio.AioRpcError(
        grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), details
    )
    link._note_failure(grpc, error)
    assert link.problem == (problem or "nothing listens there")


def test_pauses_grow_are_bounded_and_are_all_random(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand clients that lost one sidecar at the same moment come back one by one."""
    longest: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: longest.append(high) or low)
    for failure_count in (1, 2, 3, 50, 10**6):
        link._failure_count = failure_count
        assert link._pause_s() == 0
    assert longest == [0.2, 0.4, 0.8, _link.RETRY_MAX_S, _link.RETRY_MAX_S]
