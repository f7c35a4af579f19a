"""`pillion compare` and `pillion diff`, from a store without a sidecar: output and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from stored_runs import Shelf
from typer.testing import CliRunner

from pillion_sidecar.cli import app
from pillion_sidecar.cli_compare import EXIT_DIFFERENT


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with runs `a`, `b` and `c`, of which `a` and `c` are the same."""
    directory = tmp_path_factory.mktemp("data")
    shelf = Shelf(directory)
    for run_id, lr, accuracy in (("a", 0.1, 0.5), ("b", 0.2, 0.75), ("c", 0.1, 0.5)):
        shelf.start(run_id, config={"opt": {"lr": lr}}, group=f"g{lr}")
        shelf.log(run_id, 0, x=[accuracy, accuracy], samples=[8, 16])
        shelf.log(run_id, 2, **{"system/threads": [2, 3]})
    shelf.close()
    return directory


@pytest.fixture
def invoke(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs a command in this process; no sidecar answers."""
    monkeypatch.setenv("PILLION_ADDRESS", f"unix:{data_dir}/none.sock")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--data-dir", str(data_dir)])

    return invoke


def test_diff_says_by_its_exit_code_whether_anything_differs(invoke: Any) -> None:
    """And what does, in text and as JSON."""
    same, other = invoke("diff", "a", "c"), invoke("diff", "a", "b")
    assert (same.exit_code, other.exit_code) == (0, EXIT_DIFFERENT)
    assert same.stdout == "Nothing differs: config and environment are the same.\n"
    assert other.stdout.splitlines()[1].split() == ["opt.lr", "0.1", "0.2"]
    as_json = invoke("diff", "a", "b", "--json")
    assert as_json.exit_code == EXIT_DIFFERENT
    assert json.loads(as_json.stdout)["config_differences"] == {"opt.lr": {"a": 0.1, "b": 0.2}}
    assert json.loads(invoke("diff", "a", "c", "--json").stdout)["config_difference_count"] == 0


def test_compare_takes_directions_groups_and_series(invoke: Any) -> None:
    """As options, which may be repeated."""
    options = ("--direction", "x=higher", "--direction", "samples=none", "--metric", "x")
    series = ("--series", "x", "--axis", "samples", "--points", "2", "--by", "opt.lr")
    text = invoke("compare", "a", "b", "c", *options, *series)
    assert text.exit_code == 0, text.output
    assert text.stdout.splitlines()[-1] == "Best by x: b with 0.75 at step 0."
    assert "SERIES of x by samples: 2 places, 8 … 16" in text.stdout
    found = json.loads(invoke("compare", "a", "b", "c", *options, *series, "--json").stdout)
    assert found["metrics"]["x"]["direction"] == "higher"
    assert found["groups"] == {"opt.lr=0.1": ["a", "c"], "opt.lr=0.2": ["b"]}
    assert found["series"]["x"] == {
        "x": [8.0, 16.0],
        "runs": {"a": [0.5, 0.5], "b": [0.75, 0.75], "c": [0.5, 0.5]},
    }


def test_compare_takes_a_glob_of_metrics(invoke: Any) -> None:
    """Those alone are in the table, the system's too; what decides stays."""
    text = invoke("compare", "a", "b", "--metric", "sys*", "--direction", "x=higher").stdout
    assert "system/threads" in text
    assert "samples" not in text
    assert text.splitlines()[-1] == "Best by x: b with 0.75 at step 0."
    text = invoke("compare", "a", "b", "--metric", "system/threads").stdout
    assert "--direction system/threads=lower" in text.splitlines()[-1]


def test_nothing_is_coloured_in_a_pipe(invoke: Any) -> None:
    """Not even the best."""
    assert "\x1b" not in invoke("compare", "a", "b", "--direction", "x=higher").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "a"), "name 2 to 10"),
        (("compare", *"abcdefghijk"), "11 runs cannot be compared"),
        (("compare", "a", "nobody"), "There is no run nobody"),
        (("compare", "a", "b", "--metric", "y"), "'y'. They have samples, x."),
        (("compare", "a", "b", "--metric", "y*"), "has a metric that 'y*' fits"),
        (("compare", "a", "b", "--direction", "x=up"), "write NAME=lower, NAME=higher"),
        (("compare", "a", "b", "--direction", "x"), "write NAME=lower, NAME=higher"),
        (("compare", "a", "b", "--series", "y"), "'y'. They have samples, x."),
        (("compare", "a", "b", "--series", "x", "--axis", "tiem"), "nor is it `step` or `time`"),
        (("compare", "a", "b", "--series", "x", "--points", "200000"), "max_points: 1 to 100,000"),
        (("compare", "a", "b", "--by", "lr"), "'lr' in its config. They have opt.lr."),
        (("diff", "a", "a"), "named twice"),
        (("diff", "a", "nobody"), "There is no run nobody"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_and_exit_code_1(
    invoke: Any, arguments: tuple[str, ...], words: str
) -> None:
    """It says what to do; nothing is on standard output."""
    refused = invoke(*arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert words in refused.stderr
