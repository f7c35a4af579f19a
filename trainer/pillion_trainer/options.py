"""One option of a configuration: its kind, what its value may be, and how a text is read as it.

Knows nothing of what the options are for; `config.py` lists them.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

NAMES = tuple[str, ...]
"""The kind of an option that is a list of texts."""

_FLOAT_MAX = 1e300
"""Larger ones are mistakes of typing, and no float can be made of the largest integers."""

_INT_BOUND = 2**53
"""What JSON's readers and torch can count to."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must satisfy; `remedy` goes on after "give"."""

    holds: Callable[[Any], bool]
    remedy: str


def option(
    default: Any, meaning: str, rule: Rule | None = None, *, flag: str = "", group: str = ""
) -> Any:
    """Declare a field.

    Args:
        default: its value where none is given.
        meaning: its help.
        rule: what a value of its kind must satisfy.
        flag: a second, shorter flag.
        group: the heading that it and those after it stand under.
    """
    metadata = {"help": meaning, "rule": rule, "flag": flag, "group": group}
    return field(default=default, metadata=metadata)


def at_least(least: int) -> Rule:
    """Return the rule of a whole number with a lower bound."""
    return Rule(lambda value: least <= value < _INT_BOUND, f"a whole number of at least {least}")


def one_of(*words: str) -> Rule:
    """Return the rule of a text that is one of some words."""
    return Rule(words.__contains__, "one of " + ", ".join(words))


NOT_EMPTY = Rule(bool, "a text that is not empty")
ABOVE_ZERO = Rule(lambda value: 0 < value <= _FLOAT_MAX, "a number above 0")
NOT_NEGATIVE = Rule(lambda value: 0 <= value <= _FLOAT_MAX, "0 or a number above it")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "a number from 0 to below 1")
SOME_NAMES = Rule(lambda value: value and all(value), "one or more names, joined by commas")
ANY_NAMES = Rule(all, "names joined by commas, none of them empty")
SOME_PAIRS = Rule(
    lambda value: all(re.fullmatch(r"\w+=[^=,]+", each) for each in value),
    "name=value, more of them joined by commas",
)
A_FILE = Rule(lambda value: Path(value).expanduser().is_file(), "a file that exists")


def kind_of(each: Field[Any]) -> Any:
    """Return what a value must be where it is not None: bool, int, float, str or `NAMES`."""
    kinds = (bool, int, float, str, NAMES)
    return next(kind for kind in kinds if each.type in (kind, kind | None))


def normal(each: Field[Any], value: Any) -> Any:
    """Return a value in the form that the field keeps: a list as a tuple, a path as a text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind_of(each) == NAMES:
        return _names(value) if isinstance(value, str) else _tuple(value)
    return value


def from_text(each: Field[Any], text: str) -> Any:
    """Return what a flag's text says, or the text itself where it is not of the field's kind."""
    kind = kind_of(each)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind == NAMES:
        return _names(text)
    try:
        return kind(text)
    except ValueError:
        return text


def plain_value(text: str) -> Any:
    """Return the number, the boolean or None that a text says, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def mistake_of(each: Field[Any], value: Any) -> str | None:
    """Return what is wrong with one value in a sentence, or None."""
    if value is None and each.default is None and each.type != kind_of(each):
        return None
    rule: Rule | None = each.metadata["rule"]
    if not _is_of_kind(kind_of(each), value):
        remedy = _REMEDIES[kind_of(each)]
    elif rule and not _holds(rule, value):
        remedy = rule.remedy
    else:
        return None
    return f"{each.name} is {value!r}: give {remedy}"


_REMEDIES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NAMES: "a list of texts",
}


def _holds(rule: Rule, value: Any) -> bool:
    try:
        return bool(rule.holds(value))
    except (OSError, RuntimeError, ValueError):  # a path too long, a home of nobody
        return False


def _is_of_kind(kind: Any, value: Any) -> bool:
    if kind == NAMES:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int | float if kind is float else kind)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value
