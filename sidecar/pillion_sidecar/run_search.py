"""Finds runs in the store: what filters want, in an order, by pages; and what a name may mean.

Of each run only what the filters need is looked at. What one page may cost is bounded: in the order
of their starts the search stops after `EXAMINED_MAX` runs or `SEARCH_S`, and the next page goes on
there; any other order needs all runs at once, so there may be `SORTED_MAX` of them.
"""

import functools
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pillion_sidecar.errors import LimitError, PeerError
from pillion_sidecar.records import RunId
from pillion_sidecar.run_filter import COLUMNS, Condition, Facts, Order
from pillion_sidecar.store import Store
from pillion_sidecar.store_tables import readable, runs
from pillion_sidecar.stored_run import PageKey, logged_summaries

EXAMINED_MAX = 5_000
SEARCH_S = 2.0
SORTED_MAX = 20_000
RUNS_AT_ONCE = 250
CANDIDATES_SHOWN = 5

_TOKEN = re.compile(r"(?s)([0-9]{1,19}):([^:]{1,64})(?::(.+))?")


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for."""

    project: str
    conditions: Sequence[Condition]
    order: Order
    order_text: str

    @property
    def sources(self) -> set[str]:
        """The facts that are needed of each run."""
        return {each.field.source for each in self.conditions} | {self.order.field.source}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: behind a run, which had this rank."""

    key: PageKey
    rank: tuple[int, Any] = (2, None)


def find_page(
    store: Store, search: Search, limit: int, behind: Place | None
) -> tuple[list[RunId], Place | None]:
    """Return at most so many runs, and where the next page begins; None: there is none.

    Raises:
        LimitError: There are too many runs to sort.
    """
    if not search.order.is_default:
        return _sorted_page(store, search, limit, behind)
    found: list[RunId] = []
    until_s = time.monotonic() + SEARCH_S
    key = behind.key if behind else None
    for examined, (facts, is_wanted) in enumerate(_examined(store, search, key), start=1):
        if is_wanted:
            if len(found) == limit:
                return found, Place(_must(key))
            found.append(facts["run_id"])
        key = facts["start_time_unix_nano"], facts["run_id"]
        if examined >= EXAMINED_MAX or time.monotonic() > until_s:
            return found, Place(key)
    return found, None


def encode_place(search: Search, place: Place) -> str:
    """Return a page token."""
    start_time_unix_nano, run_id = place.key
    token = f"{start_time_unix_nano}:{run_id}"
    if search.order.is_default:
        return token
    return f"{token}:{json.dumps([search.order_text, *place.rank])}"


def decode_place(search: Search, token: str) -> Place | None:
    """Read a page token; None: the first page.

    Raises:
        PeerError: It is none, or that of another order.
    """
    if not token:
        return None
    parts = _TOKEN.fullmatch(token)
    rank: tuple[int, Any] = (2, None)
    try:
        if parts is None or int(parts[1]) >= 2**63 or bool(parts[3]) == search.order.is_default:
            raise ValueError  # noqa: TRY301 - one sentence for all
        if parts[3]:
            order, kind, value = json.loads(parts[3])
            types = {0: (int, float), 1: (str,), 2: (type(None),)}
            if order != search.order_text or not isinstance(value, types[kind]):
                raise ValueError  # noqa: TRY301 - as above
            rank = (kind, value)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise PeerError(
            "page_token: take it from the page before, as it is, and ask for the same order."
        ) from None
    return Place((int(parts[1]), RunId(parts[2])), rank)


def meant_by(store: Store, text: str) -> list[RunId]:
    """Return the runs that a text may mean, the latest first, some more than are ever shown.

    The one with this id; else those with this name; else those whose id begins so.
    """
    # LIKE would not tell case apart. Of the same type, so that texts are escaped alike.
    beginning = sa.func.substr(runs.c.run_id, 1, len(text), type_=runs.c.run_id.type)
    is_meant = (runs.c.run_id == text, runs.c.name == text, beginning == text)
    query = sa.select(runs.c.run_id).order_by(runs.c.start_time_unix_nano.desc(), runs.c.run_id)
    with store.snapshot() as connection:
        for clause in is_meant:
            found = connection.scalars(query.where(clause).limit(CANDIDATES_SHOWN + 1)).all()
            if found:
                return [RunId(run_id) for run_id in found]
    return []


def _sorted_page(
    store: Store, search: Search, limit: int, behind: Place | None
) -> tuple[list[RunId], Place | None]:
    def compare(one: Place, other: Place) -> int:
        by_rank = search.order.precedes(one.rank, other.rank)
        return by_rank or (other.key > one.key) - (other.key < one.key)

    places: list[Place] = []
    for examined, (facts, is_wanted) in enumerate(_examined(store, search, None), start=1):
        if examined > SORTED_MAX:
            raise LimitError(
                f"More than {SORTED_MAX:,} runs are too many to sort. Name a project, or leave "
                "the order out and ask page by page.",
                "RUNS_MANY",
            )
        if is_wanted:
            key = facts["start_time_unix_nano"], facts["run_id"]
            place = Place(key, search.order.rank(facts))
            if behind is None or compare(behind, place) < 0:
                places.append(place)
    places.sort(key=functools.cmp_to_key(compare))
    page = places[:limit]
    return [place.key[1] for place in page], page[-1] if len(places) > limit else None


def _examined(store: Store, search: Search, behind: PageKey | None) -> Iterator[tuple[Facts, bool]]:
    """Yield each run's facts, the latest first, and whether the run is wanted."""
    sources = search.sources | {"run_id", "start_time_unix_nano"}
    needed = sources | ({"definitions"} if "summary" in sources else set())
    start, run_id = runs.c.start_time_unix_nano, runs.c.run_id
    while True:
        with store.snapshot() as connection:
            known = [each for each in readable(connection, runs) if each.name in needed]
            query = sa.select(*known).order_by(start.desc(), run_id.desc()).limit(RUNS_AT_ONCE)
            if search.project:
                query = query.where(runs.c.project == search.project)
            if behind is not None:
                is_behind = (start < behind[0]) | ((start == behind[0]) & (run_id < behind[1]))
                query = query.where(is_behind)
            rows = [dict(row) for row in connection.execute(query).mappings()]
            if "summary" in sources:
                summaries = logged_summaries(connection, rows)
                for row in rows:
                    row["summary"] = summaries[row["run_id"]] | row["summary"]
        for row in rows:
            for name in COLUMNS.values():  # of a store that lacks some yet
                row.setdefault(name, "")
            yield row, all(condition.is_met_by(row) for condition in search.conditions)
        if len(rows) < RUNS_AT_ONCE:
            return
        behind = rows[-1]["start_time_unix_nano"], rows[-1]["run_id"]


def _must(key: PageKey | None) -> PageKey:
    assert key is not None, "a full page has a last run"
    return key
