"""Waiting for delivery: what is waited for, what it has come to, and when it ends."""

from collections.abc import Callable, Sequence

import pytest

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import waiting
from pillion_sidecar.asking import AskError
from pillion_sidecar.safety import REASONS_STUCK
from pillion_sidecar.waiting import Target, look, wait

Ask = Callable[[pb2.GetStatusRequest], pb2.GetStatusResponse]


def status(*, state: str = "FINISHED", lag: int = 0, age_s: float = 0.0) -> pb2.GetStatusResponse:
    """Make the status of one run of 100 rows, which the store has and W&B may not have."""
    response = pb2.GetStatusResponse()
    run = response.runs.add(
        run_id="r",
        state=f"RUN_STATE_{state}",
        journaled_row_count=100,  # type: ignore[arg-type]
    )
    run.sinks.add(sink="store", delivered_row_count=100)
    run.sinks.add(sink="wandb", lag_row_count=lag, oldest_undelivered_age_s=age_s)
    totals = response.totals
    totals.run_count, totals.journaled_row_count = 1, 100
    totals.running_run_count = int(state == "RUNNING")
    totals.sinks.add(sink="store", delivered_row_count=100)
    totals.sinks.add(sink="wandb", lag_row_count=lag, undelivered_run_count=int(age_s > 0))
    return response


def answering(*responses: pb2.GetStatusResponse) -> Ask:
    """Return one answer after the other."""
    iterator = iter(responses)
    return lambda _request: next(iterator)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(waiting, "POLL_INTERVAL_S", 0.0)


@pytest.mark.parametrize("run_ids", [(), ("r",)], ids=["all", "one"])
def test_it_ends_when_the_run_has_ended_and_everything_is_there(run_ids: Sequence[str]) -> None:
    """First the run goes on, then W&B lacks rows, then its end, then nothing."""
    ask = answering(
        status(state="RUNNING", lag=40, age_s=1.0),
        status(lag=40, age_s=2.0),
        status(age_s=3.0),
        status(),
    )
    told = list(wait(ask, Target(run_ids), None))
    assert [progress.is_done for progress in told] == [False, False, False, True]
    assert [progress.sentence for progress in told] == [
        "1 run has not ended; W&B lacks something of 1 run; 40 rows to deliver.",
        "W&B lacks something of 1 run; 40 rows to deliver.",
        "W&B lacks something of 1 run.",
        "Everything is delivered.",
    ]
    assert told[0].row_count == 200


def test_a_run_need_not_have_ended_if_only_delivery_counts() -> None:
    """What is journaled now is there: that is enough."""
    assert look(answering(status(state="RUNNING")), Target(("r",), delivered_only=True)).is_done
    assert not look(answering(status(state="RUNNING")), Target(("r",))).is_done


def test_one_sink_may_be_waited_for_alone() -> None:
    """The other may lag as it likes; one that is not delivered to is told."""
    behind = status(lag=40, age_s=1.0)
    assert look(answering(behind), Target(sink="store")).is_done
    assert not look(answering(behind), Target(sink="wandb")).is_done
    with pytest.raises(AskError, match="does not deliver to mars, only to store and wandb"):
        look(answering(behind), Target(sink="mars"))


def test_it_gives_up_in_time() -> None:
    """A timeout of 0 looks once."""
    behind = status(lag=40, age_s=1.0)
    assert [progress.is_done for progress in wait(lambda _: behind, Target(), 0.0)] == [False]


def test_what_keeps_a_sink_is_told_once() -> None:
    """For several runs too."""
    behind = status(lag=40, age_s=1.0)
    behind.runs[0].sinks[1].last_error = "away"
    progress = look(lambda _: behind, Target(("r", "s")))
    assert progress.errors == ["W&B: away"]
    assert (progress.undelivered, progress.lag_row_count) == ({"store": 0, "wandb": 2}, 80)


def stuck(reason: str, *, state: str = "FINISHED") -> pb2.GetStatusResponse:
    """Make the status of a run that W&B does not take."""
    response = status(state=state, lag=40, age_s=1.0)
    response.runs[0].sinks[1].last_error_reason = reason
    response.totals.sinks[1].stuck_run_count = int(reason in REASONS_STUCK)
    return response


@pytest.mark.parametrize("run_ids", [(), ("r",)], ids=["all", "one"])
def test_what_waits_for_somebody_is_not_waited_for(
    run_ids: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what may pass, what goes on beside it, and what was tried too lately to tell."""
    refused, target = stuck("WANDB_REFUSED"), Target(run_ids)
    told = list(wait(answering(refused, refused, status()), target, None))
    assert [(progress.is_done, progress.is_stuck) for progress in told][-1] == (True, False)
    monkeypatch.setattr(waiting, "STUCK_S", 0.0)
    others = (stuck("WANDB_AWAY"), stuck("WANDB_REFUSED", state="RUNNING"), stuck(""))
    told = list(wait(answering(*others, refused, refused), target, None))
    assert [progress.is_stuck for progress in told] == [False, False, False, True]
    assert told[-1].sentence == (
        "W&B lacks something of 1 run; 40 rows to deliver; nothing of that comes until somebody "
        "mends what keeps it."
    )
    (told_at_once,) = wait(answering(refused), Target(run_ids, sink="store"), None)
    assert told_at_once.is_done


def test_rows_that_never_come_are_told() -> None:
    """They are not waited for, but nobody calls it all."""
    response = status()
    response.runs[0].refused_row_count, response.runs[0].dropped_row_count = 2, 3
    progress = look(answering(response), Target(("r",)))
    assert progress.is_done
    assert progress.sentence == "Everything is delivered, but 5 rows were refused or dropped."
    assert progress.as_json()["lost_row_count"] == 5
