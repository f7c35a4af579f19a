"""Runs that are looked for: filters, orders, pages, and names."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import answers, run_search
from pillion_sidecar.errors import LimitError, PeerError
from pillion_sidecar.records import (
    Environment,
    Frame,
    MetricDefinition,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    Summarizing,
    WriterId,
)
from pillion_sidecar.run_filter import parse_filters
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

DAY_NS = 24 * 3600 * 10**9
STARTED_NS = 1_763_942_400 * 10**9
"""2025-11-24, midnight in UTC."""


class Shelf:
    """A store and its writer."""

    def __init__(self, directory: Path) -> None:
        url = f"sqlite:///{directory}/store.db"
        self.sink, self.store = StoreSink(url), Store(url)
        self._offset = 0

    def start(self, run_id: str, start_time_unix_nano: int = STARTED_NS, **fields: Any) -> None:
        """Keep a run."""
        known: dict[str, Any] = {"project": "p", "name": f"the {run_id}", "group": ""}
        known |= {"job_type": "", "tags": (), "notes": "", "config": {}}
        known |= {"environment": Environment(), "time_unix_nano": start_time_unix_nano}
        start = RunStart(run_id=RunId(run_id), writer_id=WriterId("w"), **known | fields)
        self.sink.start(self._next(), start)

    def log(self, run_id: str, *more: Any, **values: float) -> None:
        """Keep a row."""
        axis = np.array([7])
        frame = Frame(0, axis, axis, {key: np.array([value]) for key, value in values.items()})
        self.sink.apply(RunId(run_id), self._next(), [*more, frame])

    def finish(self, run_id: str, state: RunState) -> None:
        """End a run."""
        finish = RunFinish(RunId(run_id), WriterId("w"), state, 0, "", {}, STARTED_NS + DAY_NS)
        self.sink.finish(self._next(), finish)

    def find(self, *filters: str, **fields: Any) -> list[str]:
        """Return the ids of all runs that are found, page by page."""
        found: list[str] = []
        token = ""
        while True:
            request = pb2.ListRunsRequest(filters=filters, page_token=token, **fields)
            page = answers.list_runs(self.store, request)
            found += [run.run_id for run in page.runs]
            token = page.next_page_token
            if not token:
                return found

    def close(self) -> None:
        """Close both."""
        self.store.close()
        self.sink.close()

    def _next(self) -> Offset:
        self._offset += 1
        return Offset(self._offset)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store."""
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Make a store of three runs, `c` the latest."""
    shelf = Shelf(tmp_path_factory.mktemp("store"))
    config = {"lr": 0.1, "lora": {"r": 8, "a.b": 1}, "opt": "adam", "bf16": True, "seed": "42"}
    shelf.start("a", tags=("base", "old"), config=config, model="llama", group="g1")
    shelf.start(
        "b", STARTED_NS + DAY_NS, config={"lr": 0.2, "lora": {"r": 16}, "opt": "sgd"}, project="q"
    )
    shelf.start("c", STARTED_NS + 2 * DAY_NS, tags=("base",), dataset="alpaca", job_type="eval")
    shelf.log("a", loss=0.5, acc=1.0)
    definition = MetricDefinition("loss", "", (Summarizing.MIN, Summarizing.LAST))
    shelf.log("b", definition, loss=0.25)
    shelf.log("c", loss=math.nan)
    shelf.finish("a", RunState.FINISHED)
    shelf.finish("b", RunState.FAILED)
    yield shelf
    shelf.close()


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], "cba"),
        (["state=running"], "c"),
        (["state!=running"], "ba"),
        (["state=FAILED"], "b"),
        (["tag=base"], "ca"),
        (["tag=base", "tag=old"], "a"),
        (["tag!=old"], "cb"),
        (["tag~b*"], "ca"),
        (["project=q"], "b"),
        (["group=g1"], "a"),
        (["model~ll*"], "a"),
        (["dataset=alpaca"], "c"),
        (["job_type=eval"], "c"),
        (["name=the a"], "a"),
        (["name~the *"], "cba"),
        (["id=b"], "b"),
        (["config.lr=0.1"], "a"),
        (["config.lr > 0.1"], "b"),
        (["config.lr!=0.1"], "cb"),
        (["config.lora.r>=8"], "ba"),
        (["config.lora.a.b=1"], "a"),
        (["config.opt=adam"], "a"),
        (["config.opt~*d*"], "ba"),
        (["config.bf16=true"], "a"),
        (["config.bf16=1"], ""),
        (["config.seed=42"], "a"),
        (['config.seed="42"'], "a"),
        (["config.none=1"], ""),
        (["summary.loss<0.5"], "b"),
        (["summary.loss<=0.5"], "ba"),
        (["summary.loss.min=0.25"], "b"),
        (["summary.loss=NaN"], "c"),
        (["summary.acc>0", "state=finished"], "a"),
        (["started>=2025-11-25"], "cb"),
        (["started<2025-11-25T00:00:00Z"], "a"),
        (["ended<2025-12-01"], "ba"),
        (["rows=1", "step=7"], "cba"),
        (["rows>1"], ""),
    ],
)
def test_filters_choose_runs(three: Shelf, filters: list[str], found: str) -> None:
    """All have to be met; the latest come first."""
    assert "".join(three.find(*filters)) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("", "cba"),
        ("-started", "cba"),
        ("started", "abc"),
        ("name", "abc"),
        ("-project", "bca"),
        ("config.lr", "abc"),
        ("-config.lr", "bac"),
        ("summary.loss", "bac"),
        ("-summary.loss", "abc"),
        ("ended", "bac"),
        ("config.opt", "abc"),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 9])
def test_runs_are_sorted_over_all_pages(
    three: Shelf, order: str, found: str, page_size: int
) -> None:
    """Those that lack the field are last; of equal ones the latest is first."""
    assert "".join(three.find(order_by=order, page_size=page_size)) == found


def test_an_order_goes_on_where_it_was_whatever_comes_meanwhile(shelf: Shelf) -> None:
    """A run that comes in between moves none of the others."""
    for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        shelf.start(name, config={"lr": lr})
    first = answers.list_runs(shelf.store, pb2.ListRunsRequest(order_by="config.lr", page_size=2))
    shelf.start("d", config={"lr": 0.05})
    rest = shelf.find(order_by="config.lr")
    second = answers.list_runs(
        shelf.store,
        pb2.ListRunsRequest(order_by="config.lr", page_size=2, page_token=first.next_page_token),
    )
    assert [run.run_id for run in (*first.runs, *second.runs)] == ["a", "b", "c"]
    assert rest == ["d", "a", "b", "c"]


def test_a_page_ends_where_its_bound_is_and_the_next_goes_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a filter that fits none of many runs answers often, and finds all in the end."""
    monkeypatch.setattr(run_search, "EXAMINED_MAX", 3)
    monkeypatch.setattr(run_search, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(run_search, "SORTED_MAX", 9)
    for number in range(10):
        shelf.start(f"r{number}", STARTED_NS + number, tags=("x",) if number in (1, 8) else ())
    page = answers.list_runs(shelf.store, pb2.ListRunsRequest(filters=["tag=x"]))
    assert ([run.run_id for run in page.runs], bool(page.next_page_token)) == (["r8"], True)
    assert shelf.find("tag=x") == ["r8", "r1"]
    assert len(shelf.find(page_size=4)) == 10
    with pytest.raises(LimitError, match="too many to sort"):
        shelf.find(order_by="name")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"filters": ["state"]}, "write FIELD=VALUE"),
        ({"filters": ["=x"]}, "write FIELD=VALUE"),
        ({"filters": ["color=red"]}, "'color' is no field of a run. There are tag, id"),
        ({"filters": ["config.=1"]}, "no field"),
        ({"filters": ["state=asleep"]}, "a state is running, finished"),
        ({"filters": ["state~r*"]}, "state is no text"),
        ({"filters": ["config.opt<adam"]}, "'adam' is neither"),
        ({"filters": ["name<b"]}, "is neither"),
        ({"filters": ["started>yesterday"]}, "'yesterday' is no time. Write 2026-11-24"),
        ({"filters": ["tag=a"] * 33}, "32 at most"),
        ({"filters": ["tag=" + "é" * 2_047]}, "of 4,096 bytes each"),
        ({"filters": ["name~[ab"]}, "a [ is never closed"),
        ({"order_by": "loss"}, "'loss' is no field"),
        ({"order_by": "tag"}, "several tags"),
        ({"page_token": "1:a", "order_by": "name"}, "the same order"),
        ({"page_token": '1:a:["name",1,"x"]'}, "the same order"),
        ({"page_token": '1:a:["name",1,"x"]', "order_by": "-name"}, "the same order"),
        ({"page_token": "1:a:[]", "order_by": "name"}, "the same order"),
        ({"page_token": '1:a:["name",0,"x"]', "order_by": "name"}, "the same order"),
    ],
)
def test_what_cannot_be_looked_for_is_refused_with_a_sentence(
    three: Shelf, fields: dict[str, Any], words: str
) -> None:
    """It says what is wrong and what may be written."""
    with pytest.raises(PeerError) as refused:
        answers.list_runs(three.store, pb2.ListRunsRequest(**fields))
    assert words in str(refused.value)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_is_refused(three: Shelf, text: str) -> None:
    """Nothing else happens, whatever is written."""
    try:
        conditions = parse_filters([text])
    except PeerError:
        return
    three.find(text)
    assert len(conditions) == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("abc", ["abc"]),  # though it is the beginning of another
        ("abcd", ["abcd"]),
        ("x", ["xyz"]),
        ("XY", []),
        ("ab", ["abc", "abcd", "abx"]),
        ("my run", ["n1"]),
        ("twice", ["n2", "n3"]),
        ("a%", []),
        ("nothing", []),
    ],
)
def test_a_run_is_meant_by_id_name_or_the_beginning_of_its_id(
    shelf: Shelf, text: str, meant: list[str]
) -> None:
    """In this order; case counts, and nothing else of a request."""
    for run_id in ("abc", "abcd", "abx", "xyz"):
        shelf.start(run_id)
    for run_id, name in (("n1", "my run"), ("n2", "twice"), ("n3", "twice")):
        shelf.start(run_id, name=name)
    assert shelf.find(reference=text, project="other") == meant
