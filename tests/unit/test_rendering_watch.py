"""How runs that go on look where no terminal shows tables."""

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import to_key_values
from pillion_sidecar.rendering_watch import WatchedRun, changed_line


def test_a_line_is_told_once() -> None:
    """What the system does is news, but is not in the line."""
    one = WatchedRun(run_pb2.Run(run_id="r1", state="RUN_STATE_RUNNING"))
    one.take_in(pb2.WatchRunResponse(row_count=2, last_step=0))
    assert changed_line(one) == "r1 RUNNING 2 rows step 0"
    values = to_key_values({"system/cpu_percent": 50.0})
    one.take_in(pb2.WatchRunResponse(row_count=2, last_step=0, values=values))
    assert changed_line(one) == ""
    one.take_in(pb2.WatchRunResponse(row_count=3, last_step=1))
    assert changed_line(one) == "r1 RUNNING 3 rows step 1"


def test_an_end_that_was_not_well_tells_its_reason() -> None:
    """On the same line; one that was well needs none."""
    one = WatchedRun(run_pb2.Run(run_id="r1"))
    for state, line in (
        ("FAILED", "r1 FAILED 3 rows: ValueError: x⏎y"),
        ("FINISHED", "r1 FINISHED 3 rows"),
    ):
        run = run_pb2.Run(run_id="r1", state=f"RUN_STATE_{state}", reason="ValueError: x\ny")
        one.take_in(pb2.WatchRunResponse(row_count=3, run=run))
        assert changed_line(one) == line
