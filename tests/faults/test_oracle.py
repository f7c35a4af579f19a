"""The oracle of the fault tests can fail: each way to hurt a row is noticed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults.load import Notebook, row
from faults.oracle import Account, Count, Found, Logged, judge, read_account

ROW_COUNT, ACKED = 20, 15


def account(**changes: int) -> Account:
    """Return the account of a writer that logged 20 rows, 15 of which were acked."""
    rows = [Logged(float(index), *row(1, index)) for index in range(ROW_COUNT)]
    count = replace(Count(float(ROW_COUNT), ACKED, refused=0, spooled=0), **changes)
    return Account("run", 1, rows, [count])


def found(count: int = ROW_COUNT) -> list[Found]:
    """Return the first rows as a sink should hold them."""
    return [Found(index, *row(1, index)) for index in range(count)]


def test_what_is_whole_is_judged_whole() -> None:
    """All that was acked and a part of the rest, in both sinks: nothing is lost."""
    verdict = judge([account()], {"store": found(17), "wandb": found(17)})
    verdict.check()
    assert (verdict.logged, verdict.acked, verdict.delivered, verdict.missing) == (20, 15, 17, 3)
    assert verdict.tail_s == ROW_COUNT - 17


def drop_acked(rows: list[Found]) -> None:
    """Lose the last acked row and all behind it."""
    del rows[ACKED - 1 :]


def drop_middle(rows: list[Found]) -> None:
    """Lose a row that was acked, while later ones are there."""
    del rows[7]


def drop_unacked(rows: list[Found]) -> None:
    """Lose a row that was not acked, while a later one is there: nobody counts it."""
    del rows[ACKED + 1]


def double(rows: list[Found]) -> None:
    """Have a row twice, under its own ordinals."""
    rows.append(replace(rows[3], ordinal=ROW_COUNT))


def double_all(rows: list[Found]) -> None:
    """Have everything twice, as a file that was synced twice."""
    rows.extend(list(rows))


def change_value(rows: list[Found]) -> None:
    """Change a value a little."""
    rows[4].values["loss"] = math.nextafter(rows[4].values["loss"], 10)


def change_nan(rows: list[Found]) -> None:
    """Take NaN for a number."""
    rows[0].values["eval/loss"] = 0.0


def change_type(rows: list[Found]) -> None:
    """Take an integer for a float."""
    rows[1].values["writer"] = float(rows[1].values["writer"])


def change_text(rows: list[Found]) -> None:
    """Change the end of a text."""
    rows[10].values["note"] += "\n"


def change_histogram(rows: list[Found]) -> None:
    """Count otherwise."""
    rows[10].values["shape"] = {**rows[10].values["shape"], "counts": [1.0, 11]}


def change_file(rows: list[Found]) -> None:
    """Have another file's bytes, or none."""
    rows[10].values["page"] = {"sha256": "the file is missing"}


def drop_key(rows: list[Found]) -> None:
    """Leave a metric out."""
    del rows[5].values["is_odd"]


def change_step(rows: list[Found]) -> None:
    """Change a step."""
    rows[9] = replace(rows[9], step=99)


def swap(rows: list[Found]) -> None:
    """Deliver two rows in the wrong order."""
    rows[4], rows[5] = replace(rows[5], ordinal=4), replace(rows[4], ordinal=5)


def invent(rows: list[Found]) -> None:
    """Have a row that nobody logged."""
    rows.append(Found(ROW_COUNT, *row(1, ROW_COUNT)))


def renumber(rows: list[Found]) -> None:
    """Give a row another ordinal than the other sink does."""
    rows[-1] = replace(rows[-1], ordinal=ROW_COUNT + 5)


@pytest.mark.parametrize("sink", ["store", "wandb"])
@pytest.mark.parametrize(
    "hurt",
    [
        *(drop_acked, drop_middle, drop_unacked, double, double_all, change_value, change_nan),
        *(change_text, change_histogram, change_file),
        *(change_type, drop_key, change_step, swap, invent, renumber),
    ],
)
def test_each_way_to_hurt_a_row_is_noticed(hurt: Callable[[list[Found]], None], sink: str) -> None:
    """In either sink; but W&B's JSON cannot tell an integer from a float."""
    rows = found()
    hurt(rows)
    verdict = judge([account()], {"store": found(), "wandb": found(), sink: rows})
    if (hurt, sink) == (change_type, "wandb"):
        verdict.check()
    else:
        with pytest.raises(AssertionError):
            verdict.check()
    if hurt in {drop_acked, drop_middle, drop_unacked}:
        assert verdict.lost == 1
    if hurt in {double, double_all}:
        assert verdict.doubled == len(rows) - ROW_COUNT


def test_what_is_counted_is_not_silently_lost() -> None:
    """Refused by the client, or declared by the sidecar: it is missing, and said to be."""
    rows = found()
    del rows[7]
    judge([account(refused=1)], {"store": rows}).check()
    judge([account()], {"store": rows}, declared=1).check()
    del rows[7]
    assert judge([account(refused=1)], {"store": rows}).lost == 1
    assert judge([account()], {"store": rows}, declared=1).lost == 1


def test_a_writer_s_rows_are_told_from_another_s() -> None:
    """Two writers of one run: the rows of each are in its own order, whatever the mixture."""
    other = account()
    other.writer = 2
    other.rows = [Logged(float(index), *row(2, index)) for index in range(ROW_COUNT)]
    mixed = [
        Found(2 * index + offset, *row(writer, index))
        for index in range(ROW_COUNT)
        for offset, writer in enumerate((1, 2))
    ]
    judge([account(), other], {"store": mixed}).check()
    del mixed[6]
    assert judge([account(), other], {"store": mixed}).lost == 1


def test_an_account_is_read_up_to_a_torn_line(tmp_path: Path) -> None:
    """A writer that is killed leaves half a line; the others stand as they were noted."""
    path = tmp_path / "account"
    notebook = Notebook(path)
    notebook.note("start", "run", 1)
    notebook.note("row", *row(1, 0))
    notebook.note("counts", 1, 0, 0)
    with path.open("ab") as file:
        file.write(b'["row", 12.5, 3')
    read = read_account(path)
    assert (read.run_id, read.writer, read.acked, len(read.rows)) == ("run", 1, 1, 1)
    assert math.isnan(read.rows[0].values["eval/loss"])
    assert read.fresh_ack_s(read.rows[0].time_s - 1) is not None
    assert read.fresh_ack_s(read.end_s) is None
