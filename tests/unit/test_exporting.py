"""`pillion export`: what is written of runs, and how much of them is held."""

import weakref
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from pillion_sidecar.exporting import Format, write


class Rows(list[dict[str, Any]]):
    """Rows of which it can be seen whether they are held."""


class FakeRun:
    """A run whose rows of one metric are made when they are asked for."""

    others: tuple["FakeRun", ...] = ()

    def __init__(self, name: str, *later: dict[str, Any]) -> None:
        self._name, self._later = name, later
        self._made: weakref.ref[Rows] | None = None

    @property
    def is_held(self) -> bool:
        """Whether somebody still has its rows."""
        return self._made is not None and self._made() is not None

    def metrics(self) -> list[str]:
        """Return its metric."""
        return [self._name]

    def rows(self) -> Rows:
        """Make two rows, and what came later."""
        assert not any(other.is_held for other in self.others)
        axes = {"_run": self._name, "_step": 0, "_time": None}
        rows = Rows({**axes, "_ordinal": each, self._name: each} for each in range(2))
        rows.extend({**axes, "_ordinal": 2} | each for each in self._later)
        self._made = weakref.ref(rows)
        return rows


@pytest.mark.parametrize("form", Format)
def test_the_rows_of_one_run_at_a_time_are_held(form: Format, tmp_path: Path) -> None:
    """Each run's are let go of before the next one's are read."""
    runs = [FakeRun("a"), FakeRun("b"), FakeRun("c")]
    for number, run in enumerate(runs):
        run.others = tuple(runs[:number])
    assert write(runs, form, tmp_path / "rows") == [2, 2, 2]
    if form is Format.PARQUET:
        file = pyarrow.parquet.ParquetFile(tmp_path / "rows")
        assert (file.metadata.num_rows, file.num_row_groups) == (6, 3)
    else:
        assert len((tmp_path / "rows").read_text().splitlines()) == 6 + (form is Format.CSV)


def test_rows_with_metrics_that_came_after_the_names_are_left_out(tmp_path: Path) -> None:
    """A run that goes on gives what it had when the columns were named."""
    run = FakeRun("a", {"a": 2, "new": 1}, {"a": 3})
    assert write([run], Format.CSV, tmp_path / "rows") == [2]
    assert (tmp_path / "rows").read_text() == (
        "_run,_ordinal,_step,_time,a\na,0,0,null,0\na,1,0,null,1\n"
    )


def test_a_column_of_parquet_holds_what_all_runs_have_in_it(tmp_path: Path) -> None:
    """Numbers of one run and texts of another are texts; where there are only numbers, doubles."""
    first, second = (
        FakeRun("a", {"x": 1, "y": 1, "z": 2**60}),
        FakeRun("b", {"x": 0.5, "y": "two", "z": 0.5, "only": True}),
    )
    assert write([first, second], Format.PARQUET, tmp_path / "rows") == [3, 3]
    table = pyarrow.parquet.read_table(tmp_path / "rows")
    assert [str(table.schema.field(name).type) for name in ("x", "y", "z", "only", "a")] == [
        *("double", "string", "string", "bool", "int64")
    ]
    last = [row for row in table.to_pylist() if row["_ordinal"] == 2]
    assert [(row["y"], row["z"], row["only"]) for row in last] == [
        ("1", str(2**60), None),
        ("two", "0.5", True),
    ]
