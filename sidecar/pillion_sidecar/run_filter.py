"""Which runs are wanted, and in which order: the texts that `ListRuns` takes, read and applied.

A filter is `FIELD OP VALUE`: `state=running`, `tag=baseline`, `config.lora.r>=16`,
`summary.eval/loss<1.2`, `started>=2026-11-24`. The grammar stands in `docs/contract.md`.
"""

import fnmatch
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeAlias

from pillion.values import Value
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import RunState
from pillion_sidecar.selection import check_glob

FILTERS_MAX = 32
FILTER_BYTES_MAX = 4 * 1024

COLUMNS = {
    "id": "run_id",
    "state": "state",
    "started": "start_time_unix_nano",
    "ended": "end_time_unix_nano",
    "rows": "row_count",
    "step": "last_step",
    **{name: name for name in ("name", "project", "group", "job_type", "notes")},
    **{name: name for name in ("model", "dataset", "use_case")},
}
"""Fields of one value each, and the column of the store that has it."""
TIMES = ("started", "ended")
ORDER_DEFAULT = "-started"

Facts: TypeAlias = Mapping[str, Any]
"""Of a run: the columns above, `tags`, and `config` and `summary` where a field needs them."""
MISSING = object()

_OPERATION = re.compile(r"<=|>=|!=|=|<|>|~")
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Field:
    """What is told of a run under one name."""

    name: str

    @cached_property
    def source(self) -> str:
        """The fact that it is in."""
        head, dot, _ = self.name.partition(".")
        if dot and head in ("config", "summary"):
            return head
        return "tags" if self.name == "tag" else COLUMNS[self.name]

    def of(self, facts: Facts) -> Any:
        """Return a run's value; `MISSING` if it has none."""
        found = facts[self.source]
        if self.source in ("config", "summary") and self.name != self.source:
            found = value_at(found, self.name.partition(".")[2])
            if self.source == "summary" and isinstance(found, dict):  # as it was defined
                found = found.get("last", next(iter(found.values()), MISSING))
        return MISSING if found is None and self.source in COLUMNS.values() else found


@dataclass(frozen=True)
class Condition:
    """One filter."""

    field: Field
    operation: str
    value: Any
    text: str
    """The value as it was written: what a text is compared with."""

    def is_met_by(self, facts: Facts) -> bool:
        """Tell whether a run is wanted."""
        found = self.field.of(facts)
        if self.field.source == "tags":
            is_equal = any(self._is_like(tag) for tag in found)
        elif self.operation in _ORDERED:
            return _is_number(found) and _ORDERED[self.operation](found, self.value)
        else:
            is_equal = found is not MISSING and self._is_like(found)
        return not is_equal if self.operation == "!=" else is_equal

    def _is_like(self, found: Any) -> bool:
        if isinstance(found, str):
            is_glob = self.operation == "~"
            is_like = is_glob and fnmatch.fnmatchcase(found, self.text)
            return is_like or (not is_glob and found in (self.value, self.text))
        if _is_number(found) and _is_number(self.value):
            both_nan = found != found and self.value != self.value  # noqa: PLR0124 - only NaN is so
            return bool(found == self.value) or both_nan
        return type(found) is type(self.value) and bool(found == self.value)


@dataclass(frozen=True)
class Order:
    """By what runs are sorted. Those that lack it come last; of equal ones the latest first."""

    field: Field
    is_descending: bool

    @property
    def is_default(self) -> bool:
        """Whether the latest are first, and nothing else."""
        return self.field.name == "started" and self.is_descending

    def rank(self, facts: Facts) -> tuple[int, Any]:
        """Return a run's place among others, for `precedes`; JSON has it exactly."""
        value = self.field.of(facts)
        if _is_number(value) and value == value:  # noqa: PLR0124 - NaN has no place
            return 0, value
        return (1, value) if isinstance(value, str) else (2, None)

    def precedes(self, one: tuple[int, Any], other: tuple[int, Any]) -> int:
        """Return -1 if a rank comes before another, 0 if they are equal, else 1."""
        if one[0] != other[0]:
            return -1 if one[0] < other[0] else 1
        if one[1] == other[1]:
            return 0
        return -1 if (one[1] < other[1]) != self.is_descending else 1


def parse_filters(texts: Sequence[str]) -> list[Condition]:
    """Read filters, all of which a run has to meet.

    Raises:
        PeerError: One is none; the sentence says what is wrong.
    """
    if len(texts) > FILTERS_MAX or any(len(text.encode()) > FILTER_BYTES_MAX for text in texts):
        raise PeerError(
            f"filters: {FILTERS_MAX} at most, of {FILTER_BYTES_MAX:,} bytes each.",
            "FILTER_MALFORMED",
        )
    return [_parse(text) for text in texts]


def parse_order(text: str) -> Order:
    """Read by what to sort: a field, with a `-` in front from the largest to the least."""
    text = text or ORDER_DEFAULT
    name = text.removeprefix("-")
    if name == "tag":
        raise PeerError("order_by: a run has several tags. Take another field.", "FIELD_UNKNOWN")
    return Order(_field(name), text.startswith("-"))


def value_at(values: Mapping[str, Value], path: str) -> Any:
    """Return what stands under a key, or under keys of nested values joined by `.`."""
    if path in values:
        return values[path]
    for dot in re.finditer(r"\.", path):
        inner = values.get(path[: dot.start()])
        if isinstance(inner, dict) and (found := value_at(inner, path[dot.end() :])) is not MISSING:
            return found
    return MISSING


def _parse(text: str) -> Condition:
    whole = text.strip()
    found = _OPERATION.search(whole, 1)
    if found is None:
        raise PeerError(
            f"filter {text[:80]!r}: write FIELD=VALUE, as in state=running or config.lr<0.01; "
            "instead of = there are !=, <, <=, >, >= and ~ for a glob.",
            "FILTER_MALFORMED",
        )
    field, operation = _field(whole[: found.start()].rstrip()), found[0]
    raw = whole[found.end() :].lstrip()
    if operation == "~":
        if field.name in (*TIMES, "state", "rows", "step"):
            raise PeerError(f"filter {text[:80]!r}: {field.name} is no text.", "FILTER_MALFORMED")
        check_glob(raw, "filters")
        return Condition(field, operation, raw, raw)
    value = _value(field.name, raw, text)
    if operation in _ORDERED and not _is_number(value):
        raise PeerError(
            f"filter {text[:80]!r}: {operation} compares numbers and times, and "
            f"{raw[:80]!r} is neither. Take = or !=.",
            "FILTER_MALFORMED",
        )
    return Condition(field, operation, value, raw)


def _field(name: str) -> Field:
    head, dot, key = name.partition(".")
    if (
        name not in COLUMNS
        and name != "tag"
        and not (dot and key and head in ("config", "summary"))
    ):
        raise PeerError(
            f"{name[:80]!r} is no field of a run. There are tag, {', '.join(COLUMNS)}, config.KEY "
            "and summary.METRIC.",
            "FIELD_UNKNOWN",
        )
    return Field(name)


def _value(field: str, raw: str, text: str) -> Any:
    if field in TIMES:
        return _time(raw, text)
    if field == "state":
        if raw.upper() not in RunState.__members__:
            states = ", ".join(state.name.lower() for state in RunState)
            raise PeerError(f"filter {text[:80]!r}: a state is {states}.", "FILTER_MALFORMED")
        return RunState[raw.upper()].value
    if field.startswith(("config.", "summary.")) or field in ("rows", "step"):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return raw
    return raw


def _time(raw: str, text: str) -> int:
    try:
        time = datetime.fromisoformat(raw)
    except ValueError:
        raise PeerError(
            f"filter {text[:80]!r}: {raw[:80]!r} is no time. Write 2026-11-24 or "
            "2026-11-24T12:00:00Z.",
            "FILTER_MALFORMED",
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return int(time.timestamp() * 1_000_000) * 1_000


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
