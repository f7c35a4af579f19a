"""Alerts that come too often are not passed on, the same ones each time."""

from pillion_sidecar.alert_gate import PER_MINUTE_MAX, RUNS_MAX, AlertGate
from pillion_sidecar.records import RunId


def admitted(gate: AlertGate, *times_s: float, run_id: str = "run") -> list[bool]:
    """Tell which alerts of these times pass."""
    return [gate.admit(RunId(run_id), int(time_s * 1e9)) for time_s in times_s]


def test_so_many_a_minute_pass_and_runs_do_not_share() -> None:
    """By these times; what is held back takes no other's place."""
    gate = AlertGate()
    times_s = [*range(PER_MINUTE_MAX + 5), 60, 60.5, 61]
    expected = [True] * PER_MINUTE_MAX + [False] * 5 + [True, False, True]
    assert admitted(gate, *times_s) == expected
    assert admitted(gate, 5.0, run_id="other") == [True]
    assert admitted(AlertGate(), *times_s) == expected


def test_runs_are_forgotten_one_by_one() -> None:
    """What is remembered is bounded; of the quietest first."""
    gate = AlertGate()
    for number in range(RUNS_MAX + 10):
        admitted(gate, 1.0, run_id=f"run-{number}")
    assert len(gate._passed) == RUNS_MAX
