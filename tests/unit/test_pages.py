"""Where runs are at W&B, and when W&B has a page that compares them."""

from pathlib import Path

from pillion.v1 import run_pb2
from pillion_sidecar.pages import Pages


def runs(*run_ids: str) -> list[run_pb2.Run]:
    """Make runs."""
    return [run_pb2.Run(run_id=run_id) for run_id in run_ids]


def test_pages_outlive_the_process(tmp_path: Path) -> None:
    """The last one counts; a torn line is passed by."""
    pages = Pages(tmp_path / "pages.jsonl")
    pages.add("a", "https://w/e/p/runs/a")
    pages.add("a", "https://w/e/q/runs/a")
    pages.add("a", "https://w/e/q/runs/a")
    with (tmp_path / "pages.jsonl").open("a") as file:
        file.write('{"b": "htt')
    assert len((tmp_path / "pages.jsonl").read_text().splitlines()) == 3
    shown = runs("a", "b")
    Pages(tmp_path / "pages.jsonl").show(shown)
    assert [run.url for run in shown] == ["https://w/e/q/runs/a", ""]
    Pages(tmp_path / "pages.jsonl").add("c", "https://w/e/p/runs/c")
    (run,) = runs("c")
    Pages(tmp_path / "pages.jsonl").show([run])
    assert run.url == "https://w/e/p/runs/c"


def test_a_page_is_forgotten_for_good(tmp_path: Path) -> None:
    """Of a run that has none nothing is written."""
    pages = Pages(tmp_path / "pages.jsonl")
    pages.forget("b")
    assert not (tmp_path / "pages.jsonl").exists()
    pages.add("a", "https://w/e/p/runs/a")
    pages.forget("a")
    assert Pages(tmp_path / "pages.jsonl").url("a") == ""


def test_a_comparison_has_a_page_for_two_to_five_runs_of_one_project(tmp_path: Path) -> None:
    """Else W&B has none."""
    pages = Pages(tmp_path / "pages.jsonl")
    for run_id in "abcdef":
        pages.add(run_id, f"https://w/e/p/runs/{run_id}")
    pages.add("x", "https://w/e/other/runs/x")
    assert pages.comparison_url(runs("c", "a")) == "https://w/e/p/table?runSets=c,a"
    assert pages.comparison_url(runs(*"abcde")) == "https://w/e/p/table?runSets=a,b,c,d,e"
    for run_ids in ("a", "abcdef", "ax", "ay"):
        assert pages.comparison_url(runs(*run_ids)) == ""
