"""`pillion.api` and `pillion export`: what was logged comes back exactly."""

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from processes import SidecarProcess

import pillion
from pillion.api import Client, QueryError

BIG = 2**62 + 1


@pytest.fixture
def client(sidecar: SidecarProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of a sidecar with two runs; the first has rows of every kind."""
    monkeypatch.setenv("PILLION_ADDRESS", sidecar.address)
    with pillion.init(project="p", name="one", id="run-one", config={"lora": {"r": 8}}) as run:
        run.log({"loss": 1.0, "seed": BIG, "ok": True}, step=0)
        run.log({"loss": math.nan, "mixed": 1}, step=5)
        run.log({"loss": -math.inf, "mixed": 0.5}, step=5)
        run.log({"loss": 0.5, "big": BIG}, step=2)
        run.log({"text": 'he said, "no"', "big": 0.5}, step=9)
        run.log({"h": pillion.Histogram(np_histogram=([1, 2], [0, 1, 2]))}, step=9)
        run.log({"image": pillion.Image(np.zeros((2, 2), np.uint8), caption="dot")}, step=9)
        run.summary["chosen"] = 3
    with pillion.init(project="p", name="two", id="run-two") as run:
        run.log({"loss": 0.25, "_run": 1})
    with Client() as opened:
        yield opened


def test_runs_are_found_with_what_is_known_of_them(client: Client) -> None:
    """All of a project, the latest first, or one; those that do not exist are a sentence."""
    assert [run.id for run in client.runs("p")] == ["run-two", "run-one"]
    assert [run.id for run in client.runs("p", limit=1)] == ["run-two"]
    assert list(client.runs("q")) == []
    run = client.run("run-one")
    assert (run.name, run.state, run.exit_code, run.row_count) == ("one", "FINISHED", 0, 7)
    assert (run.config, run.summary["chosen"], run.last_step) == ({"lora": {"r": 8}}, 3, 9)
    assert run.end_time is not None
    assert run.end_time > run.start_time
    assert run.artifacts == []
    with pytest.raises(QueryError, match="no run nowhere") as refused:
        client.run("nowhere")
    assert refused.value.code == "NOT_FOUND"


def test_runs_are_found_as_people_name_them(client: Client) -> None:
    """By filters, in an order, by name and by the beginning of an id, if one run alone has it."""
    assert [run.id for run in client.runs(filters="config.lora.r>=8")] == ["run-one"]
    assert [run.id for run in client.runs(order_by="rows")] == ["run-two", "run-one"]
    assert [client.run(meant).id for meant in ("two", "run-o")] == ["run-two", "run-one"]
    with pytest.raises(QueryError, match="Several runs"):
        client.run("run-")


def test_runs_are_compared(client: Client) -> None:
    """Figures as logged, the best run by a direction that may be said, and what differs."""
    found = client.compare(["run-one", client.run("two")], series=["loss"])
    assert (found.metric, found.best_run_id) == ("loss", "run-one")
    one = found.metrics["loss"].statistics["run-one"]
    assert (one.point_count, one.nan_count, one.min, one.best_step) == (4, 1, -math.inf, 5)
    assert found.metrics["seed"].statistics.keys() == {"run-one"}
    assert found.config_differences == {"lora.r": {"run-one": 8}}
    assert found.costs["run-two"].duration_s > 0
    assert found.aligned["loss"].x == (0, 2, 5)
    frame = found.to_frame()
    assert frame.loc[("loss", "run-two"), "last"] == 0.25
    other = client.compare(["run-one", "run-two"], "loss", directions={"loss": "higher"})
    assert other.best_run_id == "run-one"
    with pytest.raises(QueryError, match="2 to 10"):
        client.compare(["run-one"])
    with pytest.raises(ValueError, match="no direction"):
        client.compare(["run-one", "run-two"], directions={"loss": "up"})  # type: ignore[dict-item]


def test_history_is_exact_by_ordinal_and_by_step(client: Client) -> None:
    """Types stay as they were logged; by step the last value of each metric stands."""
    run = client.run("run-one")
    frame = run.history()
    assert list(frame.index) == list(range(7))
    assert list(frame["_step"]) == [0, 5, 5, 2, 9, 9, 9]
    assert str(frame["_time"].dtype).startswith("datetime64[ns, UTC")
    loss = frame["loss"].tolist()
    assert (loss[0], loss[2], loss[3]) == (1.0, -math.inf, 0.5)
    assert all(map(math.isnan, [loss[1], *loss[4:]]))
    assert (frame["seed"].dtype.name, frame["seed"][0]) == ("Int64", BIG)
    assert (frame["ok"].dtype.name, frame["ok"].isna().sum()) == ("boolean", 6)
    assert frame["mixed"].dtype == np.float64
    assert [value for value in frame["big"] if value is not None] == [BIG, 0.5]
    assert frame["text"][4] == 'he said, "no"'
    assert frame["h"][5].counts == (1.0, 2.0)
    assert frame["image"][6][0]["caption"] == "dot"
    by_step = run.history(["loss", "mi*"], by="step")
    assert list(by_step.index) == [0, 2, 5]
    assert by_step["loss"].tolist() == [1.0, 0.5, -math.inf]
    assert by_step["mixed"].tolist()[2] == 0.5
    part = run.rows("loss", min_step=2, max_step=4)
    assert [(row["_ordinal"], row["_step"], row["loss"]) for row in part] == [(3, 2, 0.5)]
    with pytest.raises(QueryError, match="no metric 'nothing'"):
        run.history("nothing")
    with pytest.raises(ValueError, match="ordinal"):
        run.history(by="time")  # type: ignore[arg-type]


def test_without_a_sidecar_or_pandas_it_says_what_to_do(
    client: Client, sidecar: SidecarProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain rows need nothing; of a sidecar that has gone it is said how to start one."""
    run = client.run("run-two")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match=r"rows\(\)"):
            run.history()
    assert [row["loss"] for row in run.rows()] == [0.25]
    sidecar.stop()
    with pytest.raises(QueryError, match="pillion serve"):
        run.rows()


@pytest.fixture
def export(client: Client, sidecar: SidecarProcess) -> Callable[..., Any]:
    """Return a function that calls `pillion export`."""

    def export(*arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pillion_sidecar", "export", *arguments),
                *("--address", sidecar.address, "--data-dir", str(sidecar.data_dir)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return export


def test_rows_are_exported_exactly(
    export: Callable[..., Any], sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """As Parquet, CSV and lines of JSON, of several runs, with a sidecar and without."""
    path = tmp_path / "rows.parquet"
    assert export("run-one", "run-two", "--output", str(path)) == f"8 rows of 2 runs in {path}.\n"
    table = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["_run"] for row in table] == ["run-one"] * 7 + ["run-two"]
    assert (table[0]["seed"], table[2]["loss"], table[7]["loss"]) == (BIG, -math.inf, 0.25)
    assert [row["mixed"] for row in table][1:3] == [1.0, 0.5]
    assert [row["big"] for row in table][3:5] == [str(BIG), "0.5"]
    told = json.loads(export("two", "run-one", "--json", "--output", str(path)))
    assert told == {
        "path": str(path),
        "format": "parquet",
        "size_bytes": path.stat().st_size,
        "row_count": 8,
        "runs": [
            {"run_id": "run-two", "name": "two", "row_count": 1},
            {"run_id": "run-one", "name": "one", "row_count": 7},
        ],
    }
    sidecar.stop()
    rows = list(csv.DictReader(io.StringIO(export("run-one"))))
    assert (rows[0]["seed"], rows[1]["loss"], rows[4]["text"]) == (str(BIG), "NaN", 'he said, "no"')
    assert json.loads(rows[5]["h"]) == {"edges": [0.0, 1.0, 2.0], "counts": [1.0, 2.0]}
    assert pd.to_datetime(rows[0]["_time"]).tzinfo is not None
    lines = export("run-one", "--key", "loss", "--format", "jsonl").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, "NaN", "-Infinity", 0.5]
    assert {path.name for path in tmp_path.glob("*.parquet*")} == {"rows.parquet"}


def test_what_cannot_be_exported_is_said(export: Callable[..., Any], tmp_path: Path) -> None:
    """An unknown run, a name that does not say what it is to be, a place that is none."""
    assert "no run nowhere" in export("nowhere", code=1)
    assert ".parquet, .csv or .jsonl" in export("run-one", "--output", "rows.txt", code=1)
    missing = str(tmp_path / "missing" / "rows.csv")
    assert "cannot be written" in export("run-one", "--output", missing, code=1)
    assert "name one with --output" in export("run-one", "--json", code=1)
