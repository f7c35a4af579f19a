"""How a row that W&B's server never takes is found, and when it is none."""

from pathlib import Path

import pytest

from pillion_sidecar.errors import SinkError
from pillion_sidecar.sinks.wandb_care import PAUSE_MAX_S, STRIKES_MAX, WINDOW_MAX, Care


def upload(care: Care, rows: list[int], poison: set[int]) -> tuple[list[int], int]:
    """Upload rows as the sink does, to a server that refuses some; return what has arrived."""
    arrived: list[int] = []
    death_count = 0
    waiting = [row for row in rows if row not in care.aside]
    while waiting:
        under_way = waiting[: care.window]
        if poison & set(under_way):
            death_count += 1
            care.died(413, "refused", under_way)
            waiting = [row for row in waiting if row not in care.aside]
        else:
            care.arrived()
            arrived += under_way
            waiting = waiting[len(under_way) :]
    return arrived, death_count


@pytest.mark.parametrize("poison", [{0}, {999}, {500}, {3, 4}, {10, 500, 990}])
def test_only_what_is_refused_is_set_aside(tmp_path: Path, poison: set[int]) -> None:
    """In about as many tries as halving takes."""
    care = Care(tmp_path / "aside" / "run.json")
    arrived, death_count = upload(care, list(range(1000)), poison)
    assert arrived == [row for row in range(1000) if row not in poison]
    assert set(care.aside) == poison
    assert death_count <= 12 * len(poison)
    assert Care.load(care.path).aside == care.aside


def test_rows_that_are_all_refused_are_not_set_aside_one_by_one(tmp_path: Path) -> None:
    """Then it is no row's fault: the run waits, ever longer."""
    care = Care(tmp_path / "run.json")
    for _ in range(STRIKES_MAX):
        care.died(413, "refused", [len(care.aside)])
    assert care.retry_at_s == 0
    care.died(413, "refused", [9])
    assert len(care.aside) == STRIKES_MAX
    assert care.retry_at_s > 0


@pytest.mark.parametrize("status", [None, 401, 403, 404, 409])
def test_a_refused_run_waits_ever_longer(
    tmp_path: Path, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not about what was sent; until something arrives."""
    monkeypatch.setattr("pillion_sidecar.sinks.wandb_care.time.monotonic", lambda: 0.0)
    care = Care(tmp_path / "run.json")
    pauses = []
    for _ in range(12):
        care.died(status, "said no", [1, 2, 3])
        pauses.append(care.retry_at_s)
    assert not care.aside
    assert care.window == WINDOW_MAX
    assert pauses[0] <= 2
    assert PAUSE_MAX_S / 2 <= pauses[-1] <= PAUSE_MAX_S
    assert care.note == "said no"
    care.arrived()
    assert care.note == ""


def test_what_keeps_a_run_from_being_opened_is_told_until_it_is(tmp_path: Path) -> None:
    """Also while it is tried again; what was refused after an opening stays told."""
    care = Care(tmp_path / "run.json")
    care.not_opened(SinkError("no such team", "WANDB_REFUSED"))
    assert (care.note, care.reason) == ("no such team", "WANDB_REFUSED")
    assert care.retry_at_s > 0
    care.opened()
    assert (care.note, care.reason) == ("", "")
    care.died(404, "gone", [1])
    care.opened()
    assert care.note == "gone"


def test_artifacts_that_are_left_out_stay_told(tmp_path: Path) -> None:
    """Beside rows that were set aside, by the next worker too."""
    care = Care(tmp_path / "run.json")
    care.leave_out("12:v0", "W&B never takes 12:v0.")
    care.died(413, "too large", [7])
    again = Care.load(tmp_path / "run.json")
    assert (again.aside, again.left_out) == ({7: "too large"}, {"12:v0": "W&B never takes 12:v0."})
    assert "W&B never takes 1 row (the first: number 7): too large W&B never takes 12:v0." in (
        again.note
    )
