"""A run as the training loop sees it, with a link that was never opened."""

import logging
import math
import threading
from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion import Histogram, Html, Image, Table, _file, _run
from pillion._batch import Row, Update
from pillion._counts import Counts
from pillion._directory import make_run_directory
from pillion._encoding import Encoder
from pillion._file import FILE_BYTES_MAX
from pillion._link import Link
from pillion._messages import Finish, Start
from pillion._run import Run, exit_code_of, open_runs
from pillion_sidecar.validation import check_finish, check_log


def make_run() -> Run:
    """Make a run whose threads were not started: what it logs stays in its queue."""
    start = Start("run", "w", "allow", {"name": "a name", "project": "demo"}, {"seed": 1})
    return Run(Link("unix:/nowhere/sidecar.sock", "", start), start, is_quiet=True)


@pytest.fixture
def run() -> Iterator[Run]:
    """Make a run."""
    run = make_run()
    yield run
    run.abandon()


def rows(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """Return the queued rows without their times."""
    return [(step, values) for step, _, values in run._queue]


def values(run: Run) -> dict[str, Any]:
    """Return the values of the only row."""
    ((_, row),) = rows(run)
    return row


class HostileItem:
    """Looks like a number until it is read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def item(self) -> float:
        """Raise."""
        raise self._error


class HostileAttributes:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        """Raise."""
        raise KeyError(name)

    def __str__(self) -> str:
        """Raise."""
        raise RuntimeError

    __repr__ = __str__


class HostileMapping(UserDict[str, float]):
    """A mapping that cannot be read."""

    def keys(self) -> Any:
        """Raise."""
        raise OSError

    __iter__ = keys
    items = keys


class HostileFloat(float):
    """A number that does not want to be one."""

    def __float__(self) -> float:
        """Raise."""
        raise ZeroDivisionError


class HostileKey:
    """A key without a name."""

    def __str__(self) -> str:
        """Raise."""
        raise RuntimeError


def circle() -> dict[str, Any]:
    """Make a mapping that contains itself."""
    values: dict[str, Any] = {}
    values["self"] = values
    return values


ODD_VALUES: list[Any] = [
    *(None, "text", b"bytes", [1.0], (1,), {1}, object(), object, print, 1j, math.nan),
    *(np.arange(3), np.array([]), np.complex64(1), np.datetime64("2026-01-01"), np.str_("1")),
    *(HostileItem(ValueError()), HostileItem(KeyError()), HostileAttributes(), HostileMapping()),
    *(HostileFloat(1.0), circle(), {}, {"a": {}}, threading.Lock(), 10**5000, iter([])),
]


# What a row holds.


def test_plain_numbers_are_kept_as_they_are(run: Run) -> None:
    """Floats, integers and booleans keep type and value."""
    row = {"a": -0.0, "b": 2**70, "c": True, "d": math.inf}
    run.log(row)
    assert values(run) == row
    assert [type(value) for value in values(run).values()] == [float, int, bool, float]
    assert math.copysign(1, values(run)["a"]) == -1


def test_nested_mappings_are_flattened(run: Run) -> None:
    """Names are joined by a slash; the order stays."""
    run.log({"loss": 1.0, "eval": {"acc": 2.0, "by": {"class": {0: 3.0}}}, "lr": 4.0})
    assert list(values(run).items()) == [
        *(("loss", 1.0), ("eval/acc", 2.0), ("eval/by/class/0", 3.0), ("lr", 4.0))
    ]


def test_scalars_of_array_libraries_are_read(run: Run) -> None:
    """Whatever has `.item()` and one element counts as a number, in Python's own type."""
    run.log(
        {
            "f32": np.float32(0.5),
            "f64": np.float64(0.5),
            "i64": np.int64(2**40),
            "u64": np.uint64(2**63),
            "bool": np.bool_(True),
            "array": np.array([[3]]),
        }
    )
    row = values(run)
    assert list(row.values()) == [0.5, 0.5, 2**40, 2**63, True, 3]
    assert [type(value) for value in row.values()] == [float, float, int, int, bool, int]


def test_torch_tensors_are_read(run: Run) -> None:
    """Also those that take part in a gradient, and those of half precision."""
    torch = pytest.importorskip("torch")
    run.log(
        {
            "grad": torch.tensor(0.5, requires_grad=True),
            "half": torch.tensor([0.5], dtype=torch.bfloat16),
            "int": torch.tensor(7),
            "bool": torch.tensor(True),
            "many": torch.ones(2),
            "meta": torch.empty(1, device="meta"),
        }
    )
    assert values(run) == {"grad": 0.5, "half": 0.5, "int": 7, "bool": True}
    assert run._refused.values == 2


def test_tensor_is_read_at_the_call(run: Run) -> None:
    """What happens to it afterwards changes nothing that was logged."""
    array = np.array(1.0)
    run.log({"a": array, "b": {"c": array}})
    array += 1
    assert values(run) == {"a": 1.0, "b/c": 1.0}


def test_tensor_is_read_at_the_call_without_commit(run: Run) -> None:
    """Also of a row that is completed later."""
    array = np.array(1.0)
    run.log({"a": array}, commit=False)
    array += 1
    run.log({"b": 2.0})
    assert values(run) == {"a": 1.0, "b": 2.0}


def test_row_is_copied(run: Run) -> None:
    """The caller may use his dict again."""
    row = {"a": 1.0}
    run.log(row)
    row["a"] = 2.0
    assert values(run) == {"a": 1.0}


def test_value_that_is_no_number_is_left_out_and_counted(run: Run) -> None:
    """The rest of its row is kept; a text is as good as a number."""
    run.log({"a": 1.0, "b": b"bytes", "c": None, "d": np.arange(2), "e": "text"})
    assert values(run) == {"a": 1.0, "e": "text"}
    assert run._refused.values == 3
    assert run.counts == Counts(queued=1, refused_values=3)


# Never raises.


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: type(value).__name__)
def test_odd_value_never_raises_and_never_harms_its_neighbours(run: Run, value: Any) -> None:
    """Whatever is logged, the sender can encode what comes of it."""
    run.log({"a": 1.0})
    run.log({"odd": value})
    run.log({"b": 1.0})
    batches = [check_log(b.message) for b in Encoder("run", "w").encode(map(row_of, run._queue))]
    assert sum(batch.row_count for batch in batches) >= 2
    assert run.counts.queued + run.counts.refused == 3


@pytest.mark.parametrize(
    "value",
    [HostileItem(KeyError()), HostileAttributes(), HostileFloat(1.0), HostileMapping(), circle()],
    ids=["item", "attributes", "float", "mapping", "circle"],
)
def test_value_that_cannot_be_read_costs_itself_alone(run: Run, value: Any) -> None:
    """It is no number, whatever it raises; the rest of its row is kept."""
    run.log({"a": 1.0, "odd": value})
    assert values(run) == {"a": 1.0}
    assert run._refused.values == 1


@pytest.mark.parametrize(
    "data",
    [None, 5, "text", [1, 2], object(), HostileMapping(), {}, {"a": {}}, iter([])],
    ids=lambda data: type(data).__name__,
)
def test_data_that_is_no_row_is_refused_and_counted(run: Run, data: Any) -> None:
    """It never raises, and there is no row of it."""
    run.log(data)
    assert run.counts == Counts(refused=1)


@pytest.mark.parametrize("key", [1, None, ("a", 1), "", "\udcff", HostileKey(), 0.5])
def test_odd_key_never_raises_and_never_harms_its_neighbours(run: Run, key: Any) -> None:
    """Alone among numbers, and in a row that has to be read."""
    for row in ({"a": 1.0}, {key: 1.0}, {key: np.float32(1), "a": 1.0}, {"a": 1.0}):
        run.log(row)
    batches = [check_log(b.message) for b in Encoder("run", "w").encode(map(row_of, run._queue))]
    assert sum(batch.row_count for batch in batches) >= 3
    assert run.counts.queued == 4


def row_of(item: Any) -> Row | Update:
    """Return a queued item as the sender sees it."""
    return item  # type: ignore[no-any-return]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    calls=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abc"), st.sampled_from([1.0, 2, True, "x"])),
            st.none() | st.integers() | st.just("no step"),
            st.none() | st.booleans(),
        ),
        max_size=20,
    )
)
def test_every_committed_call_is_a_row_or_counted(calls: list[tuple[Any, Any, Any]]) -> None:
    """Nothing is lost in silence: queued and refused make up what was committed."""
    run = make_run()
    run._rows_max = 8
    for data, step, commit in calls:
        run.log(data, step=step, commit=commit)
    # A step that is none is refused at once, whether committed or not.
    committed = sum(commit is not False or step == "no step" for _, step, commit in calls)
    assert run.counts.queued + run.counts.refused == committed
    assert run.counts.queued <= 8
    run.abandon()


# Steps.


def test_step_follows_the_largest_that_was_used_by_default(run: Run) -> None:
    """Whether that was given or not; `step` tells it, and what waits for a commit."""
    for step in (None, None, 10, None, 3, None, 2**63 - 1, None):
        run.log({"a": 1.0}, step=step)
    largest = 2**63 - 1
    assert [step for step, _ in rows(run)] == [0, 1, 10, 11, 3, 12, largest, largest]


def test_next_step_is_told(run: Run) -> None:
    """It is that of the next row without one: what a value that waits for a commit has said."""
    assert run.step == 0
    run.log({"a": 1.0}, step=7)
    assert run.step == 8
    run.log({"a": 1.0}, step=20, commit=False)
    assert run.step == 20
    run.log({"b": 1.0})
    assert [step for step, _ in rows(run)] == [7, run.step - 1] == [7, 20]


def test_step_may_repeat_and_go_back(run: Run) -> None:
    """Rows are kept as they come."""
    for step in (5, 5, -3):
        run.log({"a": 1.0}, step=step)
    assert [step for step, _ in rows(run)] == [5, 5, -3]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (np.int32(7), 7),
        (np.array(7), 7),
        (True, 1),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2**63 - 1),
        (-(2**80), -(2**63)),
    ],
    ids=repr,
)
def test_step_of_any_integer_kind_is_kept(run: Run, step: Any, kept: int) -> None:
    """Beyond 64 bits it is the nearest."""
    run.log({"a": 1.0}, step=step)
    assert [(type(step), step) for step, _ in rows(run)] == [(int, kept)]


@pytest.mark.parametrize("step", [1.0, "1", [1], np.float32(1), HostileAttributes()], ids=type)
def test_step_that_is_no_integer_refuses_its_row(run: Run, step: Any) -> None:
    """It is counted; what the step was meant to be nobody guesses."""
    run.log({"a": 1.0}, step=step)
    assert run.counts == Counts(refused=1)


# Commit.


def test_values_without_commit_wait_for_the_next_row(run: Run) -> None:
    """They make one row together; a later value stands."""
    run.log({"a": 1.0, "b": 1.0}, commit=False)
    run.log({"b": 2.0}, commit=False)
    assert rows(run) == []
    run.log({"c": 3.0})
    run.log({"d": 4.0})
    assert rows(run) == [(0, {"a": 1.0, "b": 2.0, "c": 3.0}), (1, {"d": 4.0})]


def test_step_without_commit_is_the_rows_unless_the_commit_gives_another(run: Run) -> None:
    """The last one that was given stands; a row without one comes behind it."""
    run.log({"a": 1.0}, step=5, commit=False)
    run.log({"b": 1.0}, commit=False)
    run.log({"c": 1.0})
    run.log({"a": 2.0}, step=6, commit=False)
    run.log({"b": 2.0}, step=7, commit=False)
    run.log({"c": 2.0}, step=8)
    run.log({"d": 1.0})
    run.log({}, step=9, commit=False)
    run.log({"e": 1.0})
    assert [(step, [*row]) for step, row in rows(run)] == [
        *((5, ["a", "b", "c"]), (8, ["a", "b", "c"]), (9, ["d"]), (9, ["e"])),
    ]


def test_step_that_is_none_is_refused_at_once(run: Run) -> None:
    """Also without commit: it does not cost the row that it would have been kept for."""
    run.log({"a": 1.0}, step=HostileAttributes(), commit=False)  # type: ignore[arg-type]
    run.log({"b": 1.0})
    assert rows(run) == [(0, {"b": 1.0})]
    assert run.counts.refused == 1


def test_values_without_commit_are_committed_by_an_empty_row(run: Run) -> None:
    """`log({})` says that the row is complete."""
    run.log({"a": 1.0}, commit=False)
    run.log({}, commit=True)
    assert rows(run) == [(0, {"a": 1.0})]


def test_values_without_commit_are_a_row_at_the_end(run: Run) -> None:
    """The end of the run completes what was begun."""
    run._link._sender.ended.set()
    run.log({"a": 1.0}, commit=False)
    run.finish()
    assert rows(run) == [(0, {"a": 1.0})]


# Bounds and the end.


def test_full_queue_refuses_and_counts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits; one warning says it, then the count alone."""
    run._rows_max = 3
    for _ in range(5):
        run.log({"a": 1.0})
    assert run.counts == Counts(queued=3, refused=2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the queue is full" in caplog.text
    run._queue.clear()
    run.log({"a": 1.0})
    assert run.counts.queued == 1


def test_run_that_has_ended_takes_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """What comes after the end is refused and counted, and never raises."""
    run._link._sender.ended.set()
    run.finish()
    run.log({"a": 1.0})
    run.config["a"] = 1
    run.summary["a"] = 1
    assert run.counts == Counts(refused=1, refused_values=2)
    assert "the run has ended" in caplog.text


def test_run_that_was_abandoned_takes_nothing(run: Run) -> None:
    """Nothing is queued that nobody would send."""
    run.abandon()
    run.log({"a": 1.0})
    run.finish()
    assert run.counts == Counts(refused=1)
    assert run._link._sender.finish is None
    assert run not in open_runs


def test_second_finish_does_nothing(run: Run) -> None:
    """What was said first stands."""
    run._link._sender.ended.set()
    run.finish(3, reason="first")
    run.finish(0, reason="second")
    assert run._link._sender.finish == Finish(3, "", "first")


@pytest.mark.parametrize(
    ("error", "finish"),
    [
        (None, Finish(0)),
        (KeyboardInterrupt(), Finish(130, "STOPPED", "Stopped by SIGINT.")),
        (SystemExit(), Finish(0)),
        (SystemExit(0), Finish(0)),
        (SystemExit(3), Finish(3)),
        (SystemExit("a sentence"), Finish(1)),
        (ValueError("bad"), Finish(1, "", "ValueError: bad")),
        (ValueError("\udcff"), Finish(1, "", "ValueError: \\udcff")),
    ],
    ids=repr,
)
def test_block_ends_the_run_as_it_ended(run: Run, error: BaseException, finish: Finish) -> None:
    """A `with` block tells the run what ended it, and lets it pass."""
    run._link._sender.ended.set()
    if error is None:
        with run:
            pass
    else:
        with pytest.raises(type(error)), run:
            raise error
    assert run._link._sender.finish == finish


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"exit_code": 0}, id="plain"),
        pytest.param({"exit_code": -9, "state": "FAILED"}, id="negative"),
        pytest.param({"exit_code": 2**40}, id="exit-code"),
        pytest.param({"exit_code": 1, "reason": "x" * 100_000}, id="reason"),
        pytest.param({"exit_code": 1, "reason": "\udcff"}, id="text"),
        pytest.param({"exit_code": 1, "state": "BAD"}, id="state"),
    ],
)
def test_end_is_one_that_the_sidecar_takes(run: Run, how: dict[str, Any]) -> None:
    """Whatever is given to `finish`, the run is ended by it."""
    run._link._sender.ended.set()
    run.finish(**how)
    check_finish(run._link._sender.finish_message())


@pytest.mark.parametrize(
    ("code", "expected"), [(None, 0), (0, 0), (3, 3), (True, 1), ("sentence", 1), (1.0, 1)]
)
def test_exit_code_is_the_interpreters(code: Any, expected: int) -> None:
    """None is 0, text is 1."""
    assert exit_code_of(code) == expected


# Config and summary go the same way.


def test_changes_are_queued_in_order_with_the_rows(run: Run) -> None:
    """So that nothing overtakes anything."""
    run.log({"a": 1.0})
    run.config["lr"] = 0.1
    run.log({"a": 2.0})
    run.summary.update(best=1)
    kinds = [item.kind if isinstance(item, Update) else "row" for item in run._queue]
    assert kinds == ["row", "config_update", "row", "summary_update"]


def test_changes_are_not_counted_as_rows(run: Run) -> None:
    """The counts are of rows, exactly."""
    run.config["lr"] = 0.1
    run.log({"a": 1.0})
    assert run.counts == Counts(queued=1)


def test_run_tells_what_it_is(run: Run) -> None:
    """Its names, and the config it began with."""
    assert (run.id, run.name, run.project) == ("run", "a name", "demo")
    assert dict(run.config) == {"seed": 1}
    assert repr(run) == "<pillion.Run demo/run 'a name'>"


def test_threads_may_log_at_the_same_time(run: Run) -> None:
    """Every row of every thread is queued or counted."""
    begin = threading.Barrier(4)

    def log_many() -> None:
        begin.wait()
        for number in range(500):
            run.log({"a": 1.0 if number % 5 else b"x"})

    threads = [threading.Thread(target=log_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.counts == Counts(queued=1600, refused=400, refused_values=400)
    assert sorted(step for step, _ in rows(run)) == sorted({step for step, _ in rows(run)})


def test_row_bound_is_named() -> None:
    """A run begins with the module's bound."""
    run = make_run()
    assert run._rows_max == _run.ROWS_MAX
    run.abandon()


def test_mapping_of_any_kind_is_a_row(run: Run) -> None:
    """So is a list of pairs."""
    data: list[Mapping[str, float] | Any] = [UserDict(a=1.0), [("a", 1.0)], {"a": 1.0}.items()]
    for row in data:
        run.log(row)
    assert rows(run) == [(step, {"a": 1.0}) for step in range(3)]


# Texts, histograms and files.


def test_rich_values_are_queued_as_they_are_at_the_call(run: Run) -> None:
    """Beside numbers, alone or in lists, nested, and without commit; a table as it is now."""
    image, histogram, table = Image(b"GIF8"), Histogram([1.0]), Table(["a"])
    run.log({"image": image, "nest": {"text": "µ"}, "table": table}, commit=False)
    table.add_data(1)
    run.log({"images": [image, table], "weights": histogram, "loss": 0.5})
    row = values(run)
    assert row["image"] == (image,)
    assert (row["nest/text"], row["weights"], row["loss"]) == ("µ", histogram, 0.5)
    assert row["images"][0] is image
    encoded = [row["table"][0].encode(), row["images"][1].encode()]
    assert encoded == [b'{"columns": ["a"], "data": []}', b'{"columns": ["a"], "data": [[1]]}']
    assert run._refused.values == 0


def test_rich_values_that_cannot_be_taken_are_counted_and_told_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason, and what to do instead."""
    odd = (Html(bytes(FILE_BYTES_MAX + 1)), Image(object()), [Image(b"GIF8")] * 300, "x" * 70_000)
    for value in odd:
        run.log({"a": 1.0, "odd": value})
    run.log({"odd": [Image(b"GIF8"), 5]})
    assert run.counts == Counts(queued=4, refused=1, refused_values=5)
    (warning, _) = caplog.messages
    assert "run.log_artifact" in warning


def test_files_that_wait_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound they are left out and counted; room that the sender gives back is used."""
    monkeypatch.setattr(_file, "HELD_BYTES_MAX", 10)
    image = Image(b"GIF8")
    for _ in range(3):
        run.log({"image": image, "loss": 1.0})
    run.log({"image": image})
    assert [len(row) for _, row in rows(run)] == [2, 2, 1]
    assert run.counts == Counts(queued=3, refused=1, refused_values=2)
    list(Encoder("run", "w", held=run._link.held).encode(run._queue))
    run.log({"image": image})
    assert len(run._queue) == 4


# A directory, models, and what is shown.


@pytest.mark.parametrize("run_id", ["run", "..", "a/b", "x" * 300])
def test_directory_is_the_runs_own_and_is_made_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    """In the spool directory, whatever the id; a temporary one where none can be made."""
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(tmp_path / "spool"))
    directory = make_run_directory(run_id)
    assert directory == make_run_directory(run_id)
    assert (directory.is_dir(), directory.parent) == (True, tmp_path / "spool")
    assert {path.stat().st_mode & 0o777 for path in (directory, directory.parent)} == {0o700}
    (tmp_path / "file").touch()
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert make_run_directory(run_id).parent == tmp_path


def test_directory_stays_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text, as W&B's is: scripts join it."""
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(tmp_path))
    assert run.dir == run.dir == str(tmp_path / "run.files")


@pytest.mark.parametrize("model", [None, 5, HostileAttributes(), [None]], ids=type)
def test_what_is_no_model_is_told_and_not_watched(
    run: Run, caplog: pytest.LogCaptureFixture, model: Any
) -> None:
    """Training goes on."""
    run.watch(model)
    assert "give a torch.nn.Module" in caplog.text
    run.unwatch()


def test_names_do_nothing_to_a_terminal(
    run: Run, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Control characters are shown, in notices and in warnings."""
    run._is_quiet = False
    run._say("pillion: run \x1b[31mred\x07 µ…")
    assert capsys.readouterr().err == "pillion: run \\x1b[31mred\\x07 µ…\n"
    run._start = replace(run._start, run_id="\x1b]0;title\x07")
    run.log({})
    assert "\\x1b]0;title\\x07" in caplog.text


# Definitions and alerts.


@pytest.mark.parametrize(
    ("how", "step_metric", "summaries"),
    [
        ({}, "", []),
        ({"step_metric": "epoch", "summary": "min, max"}, "epoch", ["SUMMARY_MIN", "SUMMARY_MAX"]),
        ({"summary": "best", "goal": "maximize", "hidden": True}, "", ["SUMMARY_MAX"]),
        ({"summary": "median,none"}, "", ["SUMMARY_NONE"]),
    ],
)
def test_definitions_are_queued_in_order(
    run: Run, how: dict[str, Any], step_metric: str, summaries: list[str]
) -> None:
    """What is not known of them is left out with a warning."""
    run.define_metric("loss", **how)
    run.log({"loss": 1.0})
    run.alert("title", "text", "WARN")
    run.alert("title", "text", "WARN")
    definition, _, alert = run._queue
    fields = {"name": "loss", "step_metric": step_metric, "summaries": summaries}
    assert definition == Update("metric_definition", fields)
    assert (alert.kind, alert.values["title"]) == ("alert", "title")
    (batch,) = Encoder("run", "w").encode(run._queue)
    assert [a.text for a in check_log(batch.message).alerts] == ["text"]


def test_definitions_of_one_metric_add_up(run: Run) -> None:
    """Each that is queued is whole; `none` stands alone, and `overwrite` begins anew."""
    run.define_metric("acc", summary="max")
    run.define_metric("acc", step_metric="epoch")
    run.define_metric("acc", summary="min,max")
    run.define_metric("acc", summary="none")
    run.define_metric("acc", summary="last")
    run.define_metric("acc", overwrite=True)
    said = [item.values for item in run._queue]
    assert [(fields["step_metric"], fields["summaries"]) for fields in said] == [
        ("", ["SUMMARY_MAX"]),
        ("epoch", ["SUMMARY_MAX"]),
        ("epoch", ["SUMMARY_MAX", "SUMMARY_MIN"]),
        ("epoch", ["SUMMARY_NONE"]),
        ("epoch", ["SUMMARY_LAST"]),
        ("", []),
    ]


def test_definitions_and_alerts_never_raise(run: Run) -> None:
    """Whatever is handed over, and when the run has ended too."""
    for odd in (None, HostileAttributes(), HostileItem(ValueError()), 5):
        run.define_metric(odd, odd, summary=odd, goal=odd)  # type: ignore[arg-type]
        run.alert(odd, odd, odd, odd)  # type: ignore[arg-type]
    list(Encoder("run", "w").encode(run._queue))
    run.abandon()
    run.define_metric("loss")
    run.alert("title")
