"""When the sampler looks at which run."""

from pillion_sidecar.sampler import FIRST_S, Schedule


def test_a_run_is_looked_at_soon_and_then_with_all_others() -> None:
    """So that what is of the host is read once for all of them."""
    schedule = Schedule(15.0)
    assert schedule.wait_s(100.0) is None
    schedule.have({"a"}, 100.0)
    assert schedule.wait_s(100.0) == FIRST_S
    assert schedule.take_due(100.5) == []
    assert schedule.take_due(101.0) == ["a"]
    assert schedule.wait_s(101.0) == 4.0
    schedule.have({"a", "b"}, 103.0)
    assert schedule.take_due(104.1) == ["b"]
    assert sorted(schedule.take_due(105.0)) == ["a", "b"]
    assert schedule.wait_s(106.0) == 14.0
    schedule.have({"b"}, 106.0)
    assert schedule.take_due(500.0) == ["b"]
    assert schedule.wait_s(500.0) == 10.0


def test_what_was_missed_is_not_made_up_for() -> None:
    """A sampler that was stopped for an hour looks once."""
    schedule = Schedule(15.0)
    schedule.have({"a"}, 0.0)
    assert schedule.take_due(3600.0) == ["a"]
    assert schedule.take_due(3600.1) == []
