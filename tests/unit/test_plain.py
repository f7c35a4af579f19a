"""Config and summary values as plain Python: whatever comes in, something plain comes out."""

import enum
import threading
from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.plain import DEPTH_MAX, Value, to_number, to_plain, to_plain_dict, to_text


class Colour(enum.Enum):
    """An enum of its own kind."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum of integers."""

    HIGH = 3


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


@dataclass
class Optimizer:
    """A part of a config, as people write them."""

    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Config:
    """A config, as people write them."""

    seed: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)


class Hostile:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        """Raise."""
        raise KeyError(name)

    def __str__(self) -> str:
        """Raise."""
        raise RuntimeError

    __repr__ = __str__


class HostileMapping(UserDict[str, int]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        """Raise."""
        raise OSError


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3)
    ),
    max_leaves=10,
)


def is_plain(value: Value) -> bool:
    """Tell whether a value is plain through and through."""
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and is_plain(inner) for key, inner in value.items())
    return value is None or type(value) in {bool, int, float, str, bytes}


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_value_comes_out_as_it_is(value: Value) -> None:
    """What is plain already is copied, type by type."""
    assert to_plain(value) == value
    assert is_plain(to_plain(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(2**40), 2**40),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.array([[7]]), 7),
        (Level.HIGH, 3),
        (True, True),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (frozenset({3}), [3]),
        (range(3), [0, 1, 2]),
        (deque([1]), [1]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({1: "one", None: 0}, {"1": "one", "None": 0}),
        (Config(), {"seed": 1, "optimizer": {"name": "adam", "betas": [0.9, 0.999]}}),
        (Path("/tmp/x"), "/tmp/x"),
        (Colour.RED, "red"),
        (Config, str(Config)),
        (1 + 2j, "(1+2j)"),
        (Hostile(), "<Hostile>"),
        (HostileMapping(), "<HostileMapping>"),
        ("\udcff", "\\udcff"),
        ({"\udcff": ["\ud800"]}, {"\\udcff": ["\\ud800"]}),
        (2**70, 2**70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_becomes_plain(value: Any, expected: Value) -> None:
    """Numbers stay numbers, containers containers, and what nothing is known of becomes text."""
    plain = to_plain(value)
    assert plain == expected
    assert type(plain) is type(expected)
    assert is_plain(plain)


def test_array_of_several_elements_becomes_text() -> None:
    """It is no number; what it looks like is kept."""
    assert to_plain(np.arange(3)) == "[0 1 2]"


def test_dataclass_that_cannot_be_copied_costs_nobody_else() -> None:
    """A lock in a config loses that part of the config alone."""

    @dataclass
    class Locked:
        lock: Any

    lock = threading.Lock()
    assert to_plain({"a": 1, "b": Locked(lock)}) == {"a": 1, "b": {"lock": str(lock)}}


def test_nesting_is_bounded() -> None:
    """What lies deeper becomes text; what contains itself comes to an end."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    plain: Any = to_plain(circle)
    depth = 0
    while isinstance(plain, dict):
        plain, depth = plain["self"], depth + 1
    assert isinstance(plain, str)
    assert depth == DEPTH_MAX


def test_copy_is_cut_loose_from_its_source() -> None:
    """A change after the call changes nothing that was said."""
    source = {"a": [1], "b": {"c": 2}}
    plain = to_plain_dict(source)
    source["a"].append(2)  # type: ignore[attr-defined]
    source["b"]["c"] = 3  # type: ignore[call-overload]
    assert plain == {"a": [1], "b": {"c": 2}}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1),
        (True, True),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.array(3), 3),
        (np.array([True]), True),
        (np.arange(2), None),
        (np.array([]), None),
        (np.complex64(1), None),
        (np.str_("1"), None),
        ("1", None),
        (None, None),
        ([1], None),
    ],
    ids=repr,
)
def test_number_is_read_where_there_is_one(value: Any, number: float | None) -> None:
    """A number, or one in an array; text that looks like one is none."""
    assert to_number(value) == number
    assert type(to_number(value)) is type(number)


@settings(max_examples=60)
@given(st.text(st.characters()) | st.integers() | st.binary())
def test_text_can_always_be_encoded(value: object) -> None:
    """Whatever it was made of, UTF-8 takes it."""
    to_text(value).encode()


def test_good_text_stays_as_it_is() -> None:
    """Only what UTF-8 cannot take is escaped."""
    assert to_text("é\n\U0001f600\\") == "é\n\U0001f600\\"


@pytest.mark.parametrize(
    ("key", "kept"), [("", "(empty)"), ("k" * 2000, "k" * 1024), ("µ" * 600, "µ" * 512)]
)
def test_key_is_one_that_the_sidecar_takes(key: str, kept: str) -> None:
    """Neither empty nor longer than 1 KiB, and cut between characters."""
    assert to_plain({key: 1}) == {kept: 1}


def test_what_is_too_large_is_named_instead() -> None:
    """A list of millions and an integer of thousands of digits do not go into a config."""
    assert to_plain(range(10**9)) == "<range of 1000000000 elements>"
    assert to_plain(10**5000) == hex(10**5000)
    assert to_plain(bytearray(b"\x00")) == b"\x00"
