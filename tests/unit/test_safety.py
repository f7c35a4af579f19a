"""Is my data safe? The sentence is true in every state, and the sums are sums."""

import itertools

import pytest

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.journal_reader import JournaledRun
from pillion_sidecar.records import Offset, RunId, RunState
from pillion_sidecar.safety import Place, Standing, bytes_text, is_safe, sentence, totals

FINE = "All 12,000 rows of 3 runs are on disk; the store has all; W&B has all."


def status(**fields: int) -> pb2.GetStatusResponse:
    """Make a status of 12,000 rows of 3 runs; fields are of its totals."""
    response = pb2.GetStatusResponse()
    response.totals.run_count, response.totals.journaled_row_count = 3, 12_000
    for sink in ("store", "wandb"):
        response.totals.sinks.add(sink=sink, delivered_row_count=12_000)
        response.workers.add(sink=sink, pid=1)
    for name, value in fields.items():
        setattr(response.totals, name, value)
    return response


def test_all_is_well() -> None:
    """The state that everybody hopes for is said in one line."""
    assert sentence(status()) == FINE
    assert is_safe(status())


@pytest.mark.parametrize(
    ("run_count", "row_count", "start"),
    [
        (0, 0, "Nothing was logged yet."),
        (1, 0, "1 run has started, without rows yet; the store"),
        (2, 0, "2 runs have started, without rows yet; the store"),
        (1, 1, "1 row of 1 run is on disk; the store"),
        (1, 2, "All 2 rows of 1 run are on disk; the store"),
    ],
)
def test_few_are_counted_in_words_that_fit(run_count: int, row_count: int, start: str) -> None:
    """One is no many, and nothing is not all."""
    response = status(run_count=run_count, journaled_row_count=row_count)
    assert sentence(response).startswith(start)


def test_lag_is_told_by_sink() -> None:
    """By the names that people have for them."""
    response = status()
    response.totals.sinks[1].lag_row_count = 40
    response.totals.sinks[1].undelivered_run_count = 1
    assert sentence(response) == FINE.replace("W&B has all", "W&B is 40 rows behind")
    assert is_safe(response)


@pytest.mark.parametrize(
    ("place", "name"),
    [(Place.FILES, "W&B's offline files"), (Place.BOTH, "W&B and its offline files")],
)
def test_files_are_not_called_wandb(place: Place, name: str) -> None:
    """What waits to be uploaded is not there."""
    response = status()
    assert sentence(response, {"wandb": place}) == FINE.replace("W&B has", f"{name} have")
    response.totals.sinks[1].lag_row_count = 40
    assert sentence(response, {"wandb": place}).endswith(f"; {name} are 40 rows behind.")


def test_a_worker_that_is_down_is_told_before_anything_was_logged() -> None:
    """Else nothing is said of sinks that have nothing to do."""
    response = status(run_count=0, journaled_row_count=0)
    assert sentence(response) == "Nothing was logged yet."
    response.workers[1].last_error = "its worker ended with code 1"
    assert sentence(response).endswith("yet; W&B has all, and its worker is down.")


def test_an_end_that_is_not_delivered_is_no_row() -> None:
    """All rows are there, and still not everything."""
    response = status()
    response.totals.sinks[1].undelivered_run_count = 2
    assert sentence(response).endswith("; W&B has all rows, not yet the rest of 2 runs.")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_worker_that_is_down_is_told(lag: int) -> None:
    """Also while it has nothing to do."""
    response = status()
    response.totals.sinks[1].lag_row_count = lag
    response.totals.sinks[1].failing_run_count = 3
    response.workers[1].last_error = "its worker ended with code 1"
    said = "is 1 row behind" if lag else "has all"
    assert sentence(response).endswith(f"; W&B {said}, and its worker is down.")
    assert is_safe(response)


def test_runs_that_a_sink_cannot_take_are_told() -> None:
    """The worker runs, but something is wrong with a run."""
    response = status()
    response.totals.sinks[0].lag_row_count = 7
    response.totals.sinks[0].failing_run_count = 1
    assert "the store is 7 rows behind, and cannot take 1 run now;" in sentence(response)


TAKEN = "12,000 rows of 3 runs that were taken are on disk; "
JOURNALED = "12,000 rows of 3 runs were journaled, and what was not dropped is on disk; "


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"refused_row_count": 1}, "1 row was refused; " + TAKEN),
        ({"refused_row_count": 2000}, "2,000 rows were refused; " + TAKEN),
        ({"refused_value_count": 3}, "3 values were refused; " + TAKEN),
        ({"dropped_row_count": 9}, "9 rows were dropped; " + JOURNALED),
        (
            {"dropped_row_count": 1, "refused_row_count": 2, "refused_value_count": 1},
            "1 row was dropped and 2 rows were refused and 1 value was refused; " + JOURNALED,
        ),
        (
            {"refused_row_count": 5, "journaled_row_count": 0, "run_count": 1},
            "5 rows were refused; 1 run has started, without rows yet; ",
        ),
        (
            {"refused_row_count": 5, "journaled_row_count": 1, "run_count": 1},
            "5 rows were refused; 1 row of 1 run is on disk; ",
        ),
    ],
)
def test_what_was_refused_or_dropped_comes_first(fields: dict[str, int], said: str) -> None:
    """And nobody says "all" any more."""
    text = sentence(status(**fields))
    assert text.startswith(said)
    assert "All" not in text
    assert not is_safe(status(**fields))


def test_a_disk_that_takes_nothing_in_comes_first_of_all() -> None:
    """With how much there is, and how much is kept."""
    response = status(dropped_row_count=1)
    response.disk.is_refusing = True
    response.disk.free_bytes, response.disk.reserve_bytes = 12 << 20, 256 << 20
    assert sentence(response).startswith(
        "Nothing new is taken in, since the disk has 12.0 MiB left and 256.0 MiB are kept free; "
        "1 row was dropped; "
    )
    assert not is_safe(response)


def test_rows_in_the_spool_are_not_in_all() -> None:
    """They are on disk, but not here yet."""
    response = status()
    response.spool.file_count, response.spool.size_bytes = 2, 3 << 20
    assert sentence(response) == (
        "12,000 rows of 3 runs are on disk; 2 spool files (3.0 MiB) wait to be taken in; "
        "the store has all; W&B has all."
    )
    assert is_safe(response)
    response.spool.last_error = "x.damaged: its checksum is wrong"
    assert "a spool file cannot be taken in; " in sentence(response)
    assert not is_safe(response)


def test_every_combination_is_one_sentence() -> None:
    """Whatever comes together: each trouble is named, "all" is only said where it is true."""
    for refusing, dropped, refused, spooled, down in itertools.product([0, 1], repeat=5):
        response = status(dropped_row_count=dropped, refused_row_count=refused)
        response.disk.is_refusing = bool(refusing)
        response.spool.file_count = spooled
        response.workers[0].last_error = "down" * down
        text = sentence(response)
        assert not text[0].islower()
        assert text[-1] == "."
        assert ("dropped; " in text or "dropped and" in text) == bool(dropped)
        assert ("refused; " in text) == bool(refused)
        assert ("taken in, since" in text) == bool(refusing)
        assert ("spool file" in text) == bool(spooled)
        assert ("worker is down" in text) == bool(down)
        assert ("All 12,000" in text or "; all 12,000" in text) == (
            not (dropped or refused or spooled)
        )
        assert is_safe(response) == (not (dropped or refused or refusing))


def test_totals_are_sums_over_all_runs() -> None:
    """Counts add up, the longest wait counts, and one error is shown."""
    runs = [
        (
            JournaledRun(
                *(RunId(f"r{n}"), state, 100, Offset(9), Offset(0)),
                refused_row_count=n,
                refused_value_count=10 * n,
                dropped_row_count=100 * n,
            ),
            [Standing("store", 100, 0, 0.0, ""), Standing("wandb", 60, 40, 1.0 * n, error)],
        )
        for n, state, error in ((1, RunState.RUNNING, ""), (2, RunState.FINISHED, "away"))
    ]
    total = totals(["store", "wandb"], runs)
    assert (total.run_count, total.running_run_count, total.journaled_row_count) == (2, 1, 200)
    assert (total.refused_row_count, total.refused_value_count) == (3, 30)
    assert total.dropped_row_count == 300
    store, wandb = total.sinks
    assert (store.delivered_row_count, store.undelivered_run_count) == (200, 0)
    assert (wandb.delivered_row_count, wandb.lag_row_count) == (120, 80)
    assert (wandb.undelivered_run_count, wandb.failing_run_count) == (2, 1)
    assert (wandb.oldest_undelivered_age_s, wandb.last_error) == (2.0, "away")


def test_no_runs_have_totals_too() -> None:
    """Each sink is there, with nothing."""
    total = totals(["store"], [])
    assert total.run_count == 0
    assert [sink.sink for sink in total.sinks] == ["store"]


def test_totals_leave_out_a_sink_that_was_taken_away_meanwhile() -> None:
    """W&B may be set up anew while a status is put together."""
    run = JournaledRun(RunId("r"), RunState.RUNNING, 100, Offset(9), Offset(0))
    standings = [Standing(sink, 100, 0, 0.0, "") for sink in ("store", "wandb")]
    assert [sink.sink for sink in totals(["store"], [(run, standings)]).sinks] == ["store"]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        *((0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB")),
        *((1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB"), (1 << 41, "2.0 TiB")),
    ],
)
def test_sizes_are_shown_in_units_that_fit(size_bytes: int, text: str) -> None:
    """One digit behind the point is enough."""
    assert bytes_text(size_bytes) == text
