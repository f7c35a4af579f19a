"""Judges a fault: what writers logged against what the sinks hold when it is over.

A writer of `load.py` keeps an account: before each `log()` the row, and again and again how many
rows are acked. Here accounts, the store and W&B's files are read and compared; nothing is started,
killed or waited for. Of a file that belongs to a row the bytes are read. A row names its writer and
its place there in the metrics `writer` and `index`, so the rules can be checked whatever a run's
ordinals are:

1. No row is in a sink twice, and none is there that was not logged just so: step, values, order.
2. Each acked row is in every sink, under the same ordinal.
3. A row that is missing although a later one of its writer is there is counted: as refused by the
   client, or as lost in the run.
4. What is missing at a writer's end was never acked; `Verdict.tail_s` tells how old it was.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pillion_sidecar.blobs import Blobs
from pillion_sidecar.columns import Histogram
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

PROBLEMS_MAX = 20
"""More are only counted."""

Values = dict[str, Any]
"""A row's, as `load.py` notes them."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One `log()` call, as its writer noted it before the call. The time is monotonic."""

    time_s: float
    step: int
    values: Values


@dataclass(frozen=True, slots=True)
class Count:
    """What the client said of itself: see `pillion._counts.Counts`. Refused: or dropped."""

    time_s: float
    acked: int
    refused: int
    spooled: int


@dataclass(slots=True)
class Account:
    """All that one writer noted, up to its end."""

    run_id: str = ""
    writer: int = 0
    rows: list[Logged] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        """Take in one line that the writer noted."""
        kind, time_s, *rest = json.loads(line)
        match kind:
            case "row":
                self.rows.append(Logged(time_s, *rest))
            case "counts":
                self.counts.append(Count(time_s, *rest))
            case "start":
                self.run_id, self.writer = rest

    @property
    def acked(self) -> int:
        """Rows that were acked for certain: what the client said last."""
        return self.counts[-1].acked if self.counts else 0

    @property
    def refused(self) -> int:
        """Rows that the client refused."""
        return self.counts[-1].refused if self.counts else 0

    @property
    def end_s(self) -> float:
        """When it last gave a sign of life."""
        return max([each[-1].time_s for each in (self.rows, self.counts) if each], default=0.0)

    def fresh_ack_s(self, since_s: float) -> float | None:
        """Tell how long after a moment the first row was acked that was logged after it."""
        before = sum(row.time_s <= since_s for row in self.rows)
        for count in self.counts:
            if count.time_s > since_s and count.acked + count.refused > before:
                return count.time_s - since_s
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """A row as a sink has it. `step` is None where the sink does not tell."""

    ordinal: int
    step: int | None
    values: Values


@dataclass(slots=True)
class Verdict:
    """The figures of one or more runs, and every rule that was broken."""

    logged: int = 0
    acked: int = 0
    refused: int = 0
    """Counted by the client: never taken."""
    declared: int = 0
    """Counted by the sidecar: lost after they had been taken."""
    delivered: int = 0
    """In every sink."""
    lost: int = 0
    """Acked, in some sink missing, and counted nowhere."""
    doubled: int = 0
    missing: int = 0
    """Not acked, and missing at the end of their writer."""
    tail_s: float = 0.0
    """How long before their writer's end the oldest of those was logged."""
    problems: list[str] = field(default_factory=list)
    """Broken rules, in words."""

    def add(self, other: "Verdict") -> None:
        """Take in another run."""
        for name in ("logged", "acked", "refused", "declared", "delivered", "lost", "doubled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.missing += other.missing
        self.tail_s = max(self.tail_s, other.tail_s)
        self.problems = (self.problems + other.problems)[:PROBLEMS_MAX]

    def check(self) -> None:
        """Raise AssertionError unless every rule holds."""
        is_good = not (self.lost or self.doubled or self.problems)
        assert is_good, str(self)

    def __str__(self) -> str:
        figures = (
            f"{self.logged} logged, {self.acked} acked, {self.delivered} delivered, "
            f"{self.lost} lost, {self.doubled} doubled, {self.refused} refused, "
            f"{self.declared} declared as lost, {self.missing} not acked and missing "
            f"(the oldest {self.tail_s:.3f} s)"
        )
        return "\n  ".join([figures, *self.problems])


def read_account(path: Path) -> Account:
    """Read what a writer noted; the last line of one that was killed may be torn."""
    account = Account()
    for line in path.read_bytes().split(b"\n")[:-1]:
        account.take(line)
    return account


def read_store(url: str, run_id: str) -> tuple[list[Found], int]:
    """Return a run's rows in the store, and how many of its rows are declared as lost."""
    store = Store(url)
    blobs = Blobs(Path(url.removeprefix("sqlite:///")).parent / "blobs")
    try:
        rows = [
            Found(ordinal, step, {key: _from_store(value, blobs) for key, value in values.items()})
            for ordinal, step, _, values in store.rows(run_id)
        ]
        run = store.run(run_id)
        return rows, run.lost_row_count if run else 0
    finally:
        store.close()


def read_wandb(directory: Path, run_id: str) -> list[Found]:
    """Return a run's rows in W&B's files, in all that are there: `wandb sync` takes all too."""
    rows = []
    for path in sorted(directory.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")):
        for row in read_wandb_file(path).rows:
            ordinal, step = row.pop("_step"), row.pop("global_step", None)
            values = {key: value for key, value in nested(row).items() if not key.startswith("_")}
            files = path.parent / "files"
            values = {key: _from_wandb(value, files) for key, value in values.items()}
            rows.append(Found(ordinal, step, values))
    return rows


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put together again what W&B's file keeps of a value that has parts."""
    wholes: dict[str, Any] = {}
    for key, value in row.items():
        whole, _, part = key.rpartition(".")
        if f"{whole}._type" in row:
            wholes.setdefault(whole, {})[part] = value
        else:
            wholes[key] = value
    return wholes


def judge(
    accounts: Iterable[Account],
    sinks: Mapping[str, Sequence[Found]],
    *,
    declared: int = 0,
    has_acks: bool = True,
) -> Verdict:
    """Judge one run.

    Args:
        accounts: Of all its writers.
        sinks: What each sink holds of it, in the sink's order.
        declared: Rows that the sidecar declares as lost.
        has_acks: False for a library that acks nothing: its rows are missing, never lost.
    """
    writers = {account.writer: account for account in accounts}
    verdict = Verdict(declared=declared)
    for account in writers.values():
        verdict.logged += len(account.rows)
        verdict.acked += account.acked
        verdict.refused += account.refused
    in_sinks = [_compare(name, writers, rows, verdict) for name, rows in sinks.items()]
    for writer, account in writers.items():
        there = set.intersection(*(places[writer] for places in in_sinks))
        verdict.delivered += len(there)
        _count_missing(account, there, verdict, has_acks=has_acks)
    # What is declared is missing, and is not silently so. Who declares too much is not caught.
    verdict.lost = max(0, verdict.lost - declared)
    ordinals = {name: [row.ordinal for row in rows] for name, rows in sinks.items()}
    if not verdict.lost and len({tuple(each) for each in ordinals.values()}) > 1:
        counts = ", ".join(f"{len(each)} in {name}" for name, each in ordinals.items())
        verdict.problems.append(f"the sinks number their rows differently: {counts}")
    del verdict.problems[PROBLEMS_MAX:]
    return verdict


def _compare(
    name: str, writers: Mapping[int, Account], rows: Sequence[Found], verdict: Verdict
) -> dict[int, set[int]]:
    """Check each row of a sink; return which rows of which writer are there."""
    places: dict[int, list[int]] = {writer: [] for writer in writers}
    for row in rows:
        writer, index = row.values.get("writer"), row.values.get("index")
        account = writers.get(int(writer)) if writer is not None else None
        if account is None or index is None or not 0 <= index < len(account.rows):
            verdict.problems.append(f"{name} has a row that nobody logged: {row}")
            continue
        logged = account.rows[int(index)]
        if not _is_same(row, logged, is_typed=name == "store"):
            verdict.problems.append(f"{name} has {row} for {logged}")
        places[account.writer].append(int(index))
    for writer, indexes in places.items():
        doubled = len(indexes) - len(set(indexes))
        verdict.doubled += doubled
        if not doubled and indexes != sorted(indexes):
            verdict.problems.append(f"{name} has rows of writer {writer} in another order")
    if any(later.ordinal <= former.ordinal for former, later in pairwise(rows)):
        verdict.problems.append(f"{name} has ordinals that do not rise")
    return {writer: set(indexes) for writer, indexes in places.items()}


def _count_missing(account: Account, there: set[int], verdict: Verdict, *, has_acks: bool) -> None:
    """Count what is missing of a writer, as lost or as never acked."""
    end = max(there, default=-1) + 1
    holes = end - len(there)
    # Which rows were refused is not known, only how many: of the others the first are acked.
    lost = max(account.acked - len(there), holes - account.refused, 0) if has_acks else 0
    missing = max(0, len(account.rows) - len(there) - lost - account.refused)
    verdict.lost += lost
    verdict.missing += missing
    if end < len(account.rows) and missing:
        first = max(end, account.acked)
        if first < len(account.rows):
            verdict.tail_s = max(verdict.tail_s, account.end_s - account.rows[first].time_s)


def _from_store(value: Any, blobs: Blobs) -> Any:
    if isinstance(value, Histogram):
        return {"counts": [*value.counts], "edges": [*value.edges]}
    if isinstance(value, tuple):
        (file,) = value
        return {"sha256": _digest_of(blobs.path(bytes.fromhex(file.sha256)))}
    return value


def _from_wandb(value: Any, folder: Path) -> Any:
    match value:
        case {"_type": "histogram"}:
            return {"counts": value["values"], "edges": value["bins"]}
        case {"path": path}:
            return {"sha256": _digest_of(folder / path)}
    return value


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "the file is missing"


def _is_same(found: Found, logged: Logged, *, is_typed: bool) -> bool:
    """Compare a row; W&B's JSON does not tell 1.0 from 1, the store does."""
    if found.step not in {None, logged.step} or found.values.keys() != logged.values.keys():
        return False
    for key, value in logged.values.items():
        there = found.values[key]
        both_nan = isinstance(there, float) and math.isnan(there) and math.isnan(value)
        if not both_nan and (there != value or (is_typed and type(there) is not type(value))):
            return False
    return True
