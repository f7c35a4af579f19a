"""The kill matrix: what is left of what was logged, fault by fault, beside plain wandb.

    make guarantees                        all faults, under 10 minutes; writes docs/guarantees.md
    make guarantees ARGS='--only SIGKILL'  only faults with this in their name; writes nothing
    make guarantees ARGS=--json            prints JSON instead

The faults are those of `tests/faults/matrix.py`, and the oracle of `tests/faults/oracle.py` judges
each. A fault that breaks a promise stands in the table as it came, and makes this exit with 1.
Needs root, to mount a small disk, and strace.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.matrix import FAULTS, Fault, Outcome, play, play_wandb  # noqa: E402 - found by the above
from faults.scene import ROWS_PER_S  # noqa: E402

DOCUMENT = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- made by `make guarantees` -->\n", "<!-- up to here -->\n"

HEAD = (
    *("fault", "rows logged", "acked", "in both sinks", "lost", "doubled", "counted as lost"),
    *("not acked, missing", "recovered in", "plain wandb: missing"),
)

Result = tuple[Fault, Outcome, Outcome | None]


def main() -> int:
    """Run the matrix; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only faults with this in their name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in fault.name]
    results = run(faults)
    if options.json:
        print(json.dumps(as_json(results), indent=2))
    else:
        print(report(results))
    if faults == list(FAULTS):
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(before + BEGIN + report(results) + END + after, encoding="utf-8")
    return 0 if faults and all(is_kept(outcome) for _, outcome, _ in results) else 1


def run(faults: Sequence[Fault]) -> list[Result]:
    """Do one fault after the other, and show how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    wandb: dict[object, Outcome] = {}
    results: list[Result] = []
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(faults))
        for fault in faults:
            progress.update(task, description=fault.name)
            outcome = play(fault)
            if (act := fault.act_on_wandb) is not None and act not in wandb:
                wandb[act] = play_wandb(fault)
            results.append((fault, outcome, wandb.get(act)))
            progress.advance(task)
    return results


def is_kept(outcome: Outcome) -> bool:
    """Tell whether the promise was kept."""
    verdict = outcome.verdict
    return not (verdict.lost or verdict.doubled or verdict.problems)


def report(results: Sequence[Result]) -> str:
    """Return the table as Markdown, with date and machine, and what was noted below it."""
    rule = ["---", *["---:"] * (len(HEAD) - 1)]
    rows = [HEAD, rule, *(cells(*result) for result in results)]
    notes = [
        *(f"- **{fault.name}: {text}**" for fault, outcome, _ in results for text in told(outcome)),
        *(
            f"- {fault.name}, plain wandb: {remark}."
            for fault, _, peer in results
            if peer is not None
            for remark in peer.remarks
        ),
    ]
    what = f"A trainer logs {ROWS_PER_S:.0f} rows/s; wandb 0.31 is offline."
    return "\n".join(
        [
            "",
            f"`make guarantees`, {time.strftime('%Y-%m-%d')}: {machine()}. {what}",
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            *notes,
            *([""] if notes else []),
        ]
    )


def cells(fault: Fault, outcome: Outcome, peer: Outcome | None) -> list[str]:
    """Return a row of the table."""
    verdict = outcome.verdict
    missing = f"{verdict.missing} ({verdict.tail_s:.2f} s)" if verdict.missing else "0"
    recovered = "never" if outcome.recovery_s is None else f"{outcome.recovery_s:.1f} s"
    return [
        fault.name if is_kept(outcome) else f"**{fault.name}**",
        *map(str, (verdict.logged, verdict.acked, verdict.delivered, verdict.lost)),
        *(str(verdict.doubled), str(verdict.declared + verdict.refused), missing, recovered),
        f"{peer.verdict.missing} of {peer.verdict.logged}" if peer else "",
    ]


def told(outcome: Outcome) -> list[str]:
    """Say in words what broke."""
    verdict = outcome.verdict
    figures = ((verdict.lost, "acked rows are lost"), (verdict.doubled, "rows are doubled"))
    return [*(f"{count} {what}" for count, what in figures if count), *verdict.problems]


def as_json(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return the same for scripts."""
    return [
        {
            "fault": fault.name,
            "is_kept": is_kept(outcome),
            **asdict(outcome),
            "wandb": asdict(peer) if peer else None,
        }
        for fault, outcome, peer in results
    ]


if __name__ == "__main__":
    sys.exit(main())
