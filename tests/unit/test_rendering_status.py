"""How the status looks: as text that controls no terminal, and as JSON that is always JSON."""

import io
import json

import pytest
from rich.console import Console

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.rendering_status import status_json, status_view


def shown(response: pb2.GetStatusResponse) -> str:
    """Print as the CLI does into a pipe."""
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    console.print(status_view(response))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def status_of(last_error: str = "") -> pb2.GetStatusResponse:
    """Make a status of one run in two sinks."""
    response = pb2.GetStatusResponse(
        sentence="All is well.", version="1.2", data_dir="/data", wandb={"mode": "offline"}
    )
    for sink in ("store", "wandb"):
        response.totals.sinks.add(sink=sink)
    run = response.runs.add(run_id="r1", state="RUN_STATE_RUNNING", journaled_row_count=1200)
    run.sinks.add(sink="store", delivered_row_count=1200)
    run.sinks.add(
        sink="wandb",
        delivered_row_count=1000,
        lag_row_count=200,
        last_error=last_error,
        oldest_undelivered_age_s=75.5,
    )
    return response


def test_status_tells_each_sink() -> None:
    """Rows on disk and in each sink, how long the oldest waits, and what keeps it."""
    lines = shown(status_of("W&B is away")).splitlines()
    assert lines[:2] == ["All is well.", "Version 1.2, W&B offline, data in /data"]
    assert lines[-2].split(maxsplit=3)[:3] == ["RUN", "STATE", "ON"]
    assert "IN THE STORE" in lines[-2]
    assert "IN W&B" in lines[-2]
    assert "REFUSED" not in lines[-2]
    assert " ".join(lines[-1].split()) == (
        "r1 RUNNING 1,200 1,200 1,000 (waits 1m 16s) W&B: W&B is away"
    )
    assert "RUN" not in shown(pb2.GetStatusResponse())


def test_losses_have_columns_where_there_are_some() -> None:
    """Refused rows and values, and dropped rows, of each run."""
    response = status_of()
    response.runs[0].refused_row_count = 1500
    response.runs[0].refused_value_count = 2
    response.runs[0].dropped_row_count = 7
    *_, titles, row = shown(response).splitlines()
    assert "REFUSED" in titles
    assert row.split()[-5:] == ["1,500", "+", "2", "values", "7"]


def test_disk_spool_and_workers_are_told_where_there_is_something() -> None:
    """A line for each; a worker only if it is down."""
    response = status_of()
    response.disk.free_bytes, response.disk.reserve_bytes = 3 << 30, 256 << 20
    response.spool.directory = "/spool"
    response.spool.file_count, response.spool.size_bytes = 2, 2048
    response.workers.add(sink="store", pid=7)
    response.workers.add(sink="wandb", last_error="it ended with code 1")
    output = shown(response)
    assert "Disk: 3.0 GiB left, 256.0 MiB kept free" in output
    assert "Spool /spool: 2 waiting, 2.0 KiB" in output
    assert "Worker of W&B: down, it ended with code 1" in output
    assert "Worker of the store" not in output


def test_offline_runs_that_are_not_uploaded_are_told_with_the_next_step() -> None:
    """What keeps them, if something was tried."""
    response = status_of()
    response.wandb.waiting_upload_count = 2
    assert "Not at W&B yet: 2 offline runs. `pillion sync` uploads them." in shown(response)
    response.wandb.upload_problem = "The key is refused."
    assert "Not at W&B yet: 2 offline runs. The key is refused." in shown(response)


def test_runs_that_are_not_shown_are_counted() -> None:
    """The table is bounded, the sums are not."""
    response = status_of()
    response.totals.run_count = 12_001
    assert shown(response).splitlines()[-1] == "... and 12,000 more runs, counted above"


@pytest.mark.parametrize("text", ["[/]", "[red]x", "a:smile:", "\x1b[31mred"])
def test_what_others_said_is_shown_as_it_is(text: str) -> None:
    """No markup, and nothing that controls the terminal."""
    response = status_of(f"cannot take {text}")
    response.sentence = response.data_dir = response.spool.last_error = text
    output = shown(response)
    assert output.count(text.replace("\x1b", "")) == 4
    assert "\x1b" not in output


def test_json_of_the_status_is_by_sink() -> None:
    """How far each sink is, and null where nothing keeps it."""
    response = status_of()
    response.is_safe = True
    response.workers.add(sink="wandb", pid=7, restart_count=2)
    shape = json.loads(json.dumps(status_json(response)))
    assert shape["runs"][0]["sinks"]["wandb"] == {
        "delivered_row_count": 1000,
        "lag_row_count": 200,
        "oldest_undelivered_age_s": 75.5,
        "last_error": None,
        "last_error_reason": None,
    }
    assert shape["runs"][0]["dropped_row_count"] == 0
    assert shape["workers"] == {"wandb": {"pid": 7, "restart_count": 2, "last_error": None}}
    assert (shape["sentence"], shape["is_safe"]) == ("All is well.", True)
